"""START HERE. The straight line from a recipe to a verdict; each stage works once for the same inputs."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import dump_recipe
from potstill.records import FinishedRun
from potstill.run_dir import Record, RunDir, open_run, write_json, write_text
from potstill.stages.adapt import adapt
from potstill.stages.as_it_came import as_it_came
from potstill.stages.evaluate import evaluate
from potstill.stages.export import export
from potstill.stages.gate import gate
from potstill.stages.generate import generate
from potstill.stages.inputs import read_inputs
from potstill.stages.label import TEACHER, label, label_features
from potstill.stages.opened_teachers import Lessons
from potstill.stages.own_student import with_shared_tokens
from potstill.stages.plan import plan
from potstill.stages.rendering import DATE, at_one_date
from potstill.stages.report import environment, report
from potstill.stages.rounded_student import train_rounded
from potstill.stages.rounds import generations
from potstill.stages.settled_types import in_settled_types, settle_types
from potstill.stages.train import train_baseline, train_student
from potstill.training.engine import Engine, start_engine

STAGES = ("plan", "adapt", "label", "train", "evaluate", "gate", "export", "report")


def stages(run: RunDir, recipe: Recipe, base: Path, engine: Engine) -> Iterator[tuple[str, Record]]:
    """Every stage with its record, in order; each takes only what it reads."""
    run.progress.line("reading data")
    inputs = read_inputs(recipe, base, run.progress)
    recipe = with_shared_tokens(recipe, inputs.own)
    inputs = in_settled_types(recipe, inputs, run.known)
    # What a chat template writes of today is that of the plan from here on.
    recipe = at_one_date(recipe, inputs, partial(run.settled, DATE))
    yield "plan", (planned := plan(run, recipe, inputs))
    yield "adapt", (teacher := adapt(run, recipe, inputs, engine))
    settle_types(recipe, inputs, run.settled)
    # The rows to learn from here on are those that the teacher wrote, where it does.
    inputs, responses = generate(run, recipe, inputs, teacher, engine)
    labels = label(run, recipe, inputs, teacher, engine)
    features = label_features(run, recipe, inputs, teacher, engine)
    yield "label", labels
    lessons, earlier = generations(run, recipe, inputs, teacher, Lessons(TEACHER, teacher, labels, features), engine)
    student = train_student(run, recipe, inputs, teacher, lessons, engine)
    baseline = train_baseline(run, recipe, inputs, teacher, engine)
    came = as_it_came(run, recipe, inputs, teacher, engine)
    yield "train", student
    yield "evaluate", (measured := evaluate(run, recipe, inputs, teacher, student, baseline, earlier, came, engine))
    yield "gate", (verdict := gate(run, recipe, measured))
    rounded = train_rounded(run, recipe, inputs, teacher, student, lessons, verdict, engine)
    exported = export(run, recipe, inputs, planned, teacher, student, baseline, rounded, measured, verdict, engine)
    yield "export", exported
    finished = FinishedRun(planned, teacher, labels, student, baseline, measured, verdict, exported, responses, earlier)
    yield "report", report(run, recipe, finished)


def run_recipe(
    recipe: Recipe, base: Path, out: Path, progress: Progress | None = None, until: str = "report"
) -> dict[str, Record]:
    """The records of the stages up to `until`, by name; what is in the run directory for the same inputs is kept.

    `base` is the folder that the recipe's paths are relative to. Under torchrun every process calls this; they
    train together, the main one does the rest, and all of them return the same.
    """
    return run_prepared(lambda run: None, recipe, base, out, progress, until)


def run_prepared(
    prepare: Callable[[RunDir], None],
    recipe: Recipe,
    base: Path,
    out: Path,
    progress: Progress | None = None,
    until: str = "report",
) -> dict[str, Record]:
    """As `run_recipe`, once the main process has put files into the run directory that the recipe names."""
    if until not in STAGES:
        raise ValueError(f"until: expected one of {', '.join(STAGES)}, got {until!r}")
    done: dict[str, Record] = {}
    with (
        start_engine() as engine,
        open_run(out, progress if progress and engine.is_main else Progress(), engine) as run,
    ):
        if engine.is_main:
            prepare(run)
            write_text(run.path("recipe.yaml"), dump_recipe(recipe))
            write_json(run.path("environment.json"), {**environment(), "seed": str(recipe.seed)})
        engine.barrier()
        for name, record in stages(run, recipe, base, engine):
            done[name] = record
            if name == until:
                break
    return done
