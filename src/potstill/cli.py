"""The command line: thin, with heavy imports inside the commands."""

import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Annotated, Any

import typer

from potstill.cli_report import add_report
from potstill.cli_shipping import add_commands
from potstill.errors import PotstillError, RecipeError
from potstill.quiet import quiet_libraries

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=metadata("potstill")["Summary"]
)
labels_app = typer.Typer(no_args_is_help=True, help="Inspect, verify or repair a label store.")
app.add_typer(labels_app, name="labels")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Out = Annotated[Path, typer.Option("--out", help="The run directory; the same one resumes.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a value: --set train.epochs=3.")]
Rehash = Annotated[
    bool, typer.Option("--rehash", help="Hash the teacher's weights anew, whatever this machine remembers of them.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
StoreFolder = Annotated[Path, typer.Argument(help="The folder of a label store.")]

# Threads that spin while they wait make a busy machine many times slower; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

GATE_FAILED = 3
_debug = False


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"potstill {version('potstill')}")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version_: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def init(
    name: Annotated[str | None, typer.Argument(help="The project to start from.")] = None,
    folder: Annotated[Path | None, typer.Argument(help="Where to write it.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the projects.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep a recipe and data that are already there.")] = False,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="For my-data: the rows that the recipe is for, as data.train names them."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a commented recipe and its data."""
    from potstill.progress import for_console
    from potstill.projects import PROJECTS, my_data

    if list_:
        for project in PROJECTS.values():
            typer.echo(f"{project.name:20} {project.summary}")
        typer.echo(f"{my_data.NAME:20} {my_data.SUMMARY}")
        return
    if name is None or folder is None:
        raise typer.BadParameter("expected NAME and DIR, as in: potstill init license-notices demo/")
    if (name == my_data.NAME) != (from_ is not None):
        raise typer.BadParameter("expected both, as in: potstill init my-data DIR --from rows.csv")
    if from_ is not None:
        for line in my_data.write(folder, from_):
            typer.echo(line)
        recipe = folder / my_data.RECIPE
        typer.echo(f"next: name your teacher in {recipe}, then potstill check {shlex.quote(str(recipe))}")
        return
    if name not in PROJECTS:
        raise RecipeError(f"no project {name!r}; there are: {', '.join(PROJECTS)}.")
    project = PROJECTS[name]
    there = [folder / recipe for recipe in project.recipes if (folder / recipe).exists()]
    if there and not keep:
        raise RecipeError(f"{there[0]} is there already. Give another folder, or --keep.")
    if there:
        typer.echo(f"{there[0]} is there already: kept.")
    else:
        project.require_packages()
        quiet_libraries()
        for line in project.write(folder, for_console(quiet=quiet)):
            typer.echo(line)
    typer.echo(f"next: {project.next_step(folder)}")


@app.command()
def check(recipe: RecipePath, set_: Overrides = None, rehash: Rehash = False) -> None:
    """Validate a recipe and show its plan; writes nothing."""
    from potstill.evaluation.harness_gate import require_harness
    from potstill.evaluation.queries import require_measurable, thresholds_upside_down
    from potstill.presentation.next_steps import after_check
    from potstill.presentation.terminal import plan_lines
    from potstill.progress import Progress, for_console
    from potstill.recipe.yaml_file import load_recipe
    from potstill.remembered_digests import rehashed
    from potstill.stages.exportable import require_exportable
    from potstill.stages.inputs import read_inputs
    from potstill.stages.judged_rows import case_of
    from potstill.stages.own_student import with_shared_tokens
    from potstill.stages.plan import example_lines, make_plan
    from potstill.stages.rendering import at_one_date

    quiet_libraries()
    loaded = load_recipe(recipe, set_ or [])
    with rehashed(rehash):
        inputs = read_inputs(loaded, recipe.parent, for_console(quiet=False))
    loaded = at_one_date(with_shared_tokens(loaded, inputs.own), inputs, str)
    require_measurable(case_of(loaded, inputs, Progress()))
    require_harness(loaded, inputs.harness)
    require_exportable(loaded, inputs)
    for line in plan_lines(make_plan(loaded, inputs, Path())):
        typer.echo(line)
    for warning in thresholds_upside_down(loaded.gate, loaded.task.answers):
        typer.echo(f"warning: {warning}")
    for line in example_lines(loaded, inputs):
        typer.echo(line)
    typer.echo(f"next: {after_check(recipe, set_ or [])}")


def _stage_command(name: str, summary: str) -> None:
    def command(
        recipe: RecipePath, out: Out, set_: Overrides = None, quiet: Quiet = False, rehash: Rehash = False
    ) -> None:
        _run(recipe, out, set_ or [], quiet, until="report" if name == "run" else name, rehash=rehash)

    command.__doc__ = summary
    app.command(name)(command)


for _name, _summary in {
    "run": "Run all stages; called again, it resumes.",
    "plan": "Record what will happen.",
    "adapt": "Adapt the teacher, with the stages before it.",
    "label": "Make the soft labels, with the stages before it.",
    "train": "Train student and baseline, with the stages before it.",
    "evaluate": "Measure all models, with the stages before it.",
    "gate": "Judge the student, with the stages before it.",
    "export": "Export a student that passed, with the stages before it.",
}.items():
    _stage_command(_name, _summary)
add_report(app, lambda *given, **more: _run(*given, **more))


@app.command()
def students(
    recipe: RecipePath,
    parameters: Annotated[str | None, typer.Option(help="At most so many parameters, such as 30M.")] = None,
    flops_ratio: Annotated[float | None, typer.Option(help="At least so many times fewer operations a token.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Lines of the table.")] = 12,
    measure: Annotated[bool, typer.Option(help="Measure latencies on this machine.")] = True,
    set_: Overrides = None,
    quiet: Quiet = False,
    rehash: Rehash = False,
) -> None:
    """List the students that there are under a budget, with what each costs; writes nothing."""
    from potstill.presentation.terminal import students_table
    from potstill.progress import for_console
    from potstill.recipe.yaml_file import load_recipe
    from potstill.remembered_digests import rehashed
    from potstill.stages.candidates import costs_of_students
    from potstill.stages.inputs import read_inputs

    quiet_libraries()
    limit = None if parameters is None else parameters_of(parameters)
    loaded = load_recipe(recipe, set_ or [])
    progress = for_console(quiet=quiet)
    with rehashed(rehash):
        inputs = read_inputs(loaded, recipe.parent, progress)
    teacher, found = costs_of_students(
        loaded, inputs, progress, parameters=limit, flops_ratio=flops_ratio, most=most, measured=measure
    )
    if not found:
        raise RecipeError("students: nothing is within the budget. Raise --parameters, or lower --flops-ratio.")
    students_table(teacher, found)


def parameters_of(text: str) -> int:
    """A number of parameters as people write it: 30M, 1.5B or 7300000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMB]?)", text.strip(), re.IGNORECASE)
    if not found:
        raise typer.BadParameter(f"--parameters: expected a number such as 30M, got {text!r}")
    return int(float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[found[2].upper()])


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Show the machine alone, without the checks.")] = False,
) -> None:
    """Show this machine, and try what training promises on tiny models; exit code 1 if something fails."""
    quiet_libraries()
    from potstill.doctor import environment_lines, run_checks, unmet_requirements

    for line in environment_lines():
        typer.echo(line)
    failed = len(unmet_requirements())
    if not quick:
        import torch

        for device in (torch.device(name) for name in ("cpu", "cuda")[: 1 + torch.cuda.is_available()]):
            typer.echo(f"checks on {device}")
            for check in run_checks(device):
                typer.echo(f"  {check.line}")
                failed += not check.holds
    if failed:
        typer.echo(f"{failed} failed", err=True)
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from potstill.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="tasks, teachers, students, vocabularies, losses, divergences, schedules, encodings, exporters, "
            "judges or metrics."
        ),
    ],
) -> None:
    """List what a recipe can name."""
    from potstill.catalogue import LISTED, describe

    if what not in LISTED:
        raise RecipeError(f"nothing is listed as {what!r}; there are: {', '.join(LISTED)}.")
    named = list(describe(what))
    wide = max(24, *(len(name) for name, _ in named))
    for name, summary in named:
        typer.echo(f"{name:{wide}} {summary}")


@labels_app.command("inspect")
def labels_inspect(folder: StoreFolder) -> None:
    """Show what a store holds and what it was made of."""
    from potstill.labels.writer import describe

    for name, value in describe(folder):
        typer.echo(f"{name:16} {value}")


@labels_app.command("verify")
def labels_verify(folder: StoreFolder) -> None:
    """Compare every file of a store with its digest; exit code 1 if one is damaged or is no part of the store."""
    from potstill.labels.store import read_manifest
    from potstill.labels.verify import faults

    bad = list(faults(folder))
    for file, reason in bad:
        typer.echo(f"{folder / file}: {reason}", err=True)
    if bad:
        raise typer.Exit(1)
    typer.echo(f"{folder}: {len(read_manifest(folder).shards)} shards whole")


@labels_app.command("repair")
def labels_repair(folder: StoreFolder) -> None:
    """Remove damaged shards, so that `potstill label` makes just these anew."""
    from potstill.labels.writer import repair

    bad = repair(folder)
    typer.echo(f"removed {', '.join(bad)}; now run potstill label" if bad else f"{folder}: nothing to repair")


add_commands(app)


def _run(recipe: Path, out: Path, overrides: list[str], quiet: bool, until: str, *, rehash: bool) -> None:
    from potstill import stopping

    stopping.install()
    quiet_libraries()
    from potstill.evaluation.artefact_sections import artefact_lines
    from potstill.evaluation.tables import floor_lines, quantities
    from potstill.pipeline import run_recipe
    from potstill.presentation.next_steps import after_run
    from potstill.presentation.terminal import artefact_verdicts, plan_lines, result_table, verdict_lines
    from potstill.progress import for_console
    from potstill.recipe.yaml_file import load_recipe
    from potstill.remembered_digests import rehashed
    from potstill.training.engine import is_main_process

    loaded = load_recipe(recipe, overrides)
    with rehashed(rehash):
        records: dict[str, Any] = run_recipe(loaded, recipe.parent, out, for_console(quiet=quiet), until)
    if not is_main_process():
        return
    if until in ("plan", "adapt", "label", "train"):
        for line in plan_lines(records["plan"]):
            typer.echo(line)
        return
    gate, evaluation = records.get("gate"), records["evaluate"]
    result_table(evaluation, quantities(evaluation), floor_lines(evaluation))
    if gate is not None:
        verdict_lines(gate)
    export = records.get("export")
    if export is not None:
        artefact_verdicts(artefact_lines(export, evaluation))
    if "report" in records:
        typer.echo(f"report: {out / 'report' / records['report'].html}")
        typer.echo(f"next: {after_run(out, records['gate'], records['export'])}")
    if gate is not None and not gate.passed:
        raise typer.Exit(GATE_FAILED)
    if export is not None and export.none_passed:
        raise typer.Exit(GATE_FAILED)


@contextmanager
def errors_as_messages() -> Iterator[None]:
    try:
        yield
    except PotstillError as error:
        if _debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        message = _of_memory(error) or _of_the_system(error)
        if _debug or message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(PotstillError.exit_code)


def _of_memory(error: Exception) -> str | None:
    """What to do where memory ran out, of the machine or of the device; None for any other error."""
    # torch is imported by then, or it was not torch that asked for memory.
    kinds = (MemoryError, getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError))
    cause = getattr(error, "inner_exception", error)  # where a compiler wraps it
    cause_text = str(cause)
    if not isinstance(cause, kinds) and not re.search("Allocator: (can't allocate|not enough) memory", cause_text):
        return None
    # What follows is for who works on an allocator.
    what = re.split(r" GPU |Error code|\n", cause_text.rpartition("Allocator: ")[2])[0].strip(" .")
    stage = next(iter(getattr(error, "__notes__", [])), "")
    settings = next((keys for name, keys in _MEMORY.items() if stage.startswith(name)), "the batch sizes of the recipe")
    return (
        f"{stage or 'potstill'}: out of memory{f' ({what})' if what else ''}. Lower {settings}; the same command goes "
        "on from what was saved."
    )


_MEMORY = {
    "adapt": "adapt.micro_batch_size, which is adapt.batch_size where it is not set (with frozen_layers also "
    "label.batch_size), or set adapt.gradient_checkpointing: true",
    "label/responses": "label.responses.batch_size",
    "label": "label.batch_size",
    "train": "train.micro_batch_size, which is train.batch_size where it is not set, or set "
    "train.gradient_checkpointing: true",
    "evaluate": "label.batch_size",
}
"""What decides how much memory a stage needs, and of its result last bits alone."""


def _of_the_system(error: Exception) -> str | None:
    """What a disk or file system that refuses is to the user; None for an error of the program."""
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    # safetensors writes from Rust, and has the system's error in the text of its own.
    wrapped = re.search(r"\(os error (\d+)\)", str(error))
    code = error.errno if isinstance(error, OSError) else int(wrapped[1]) if wrapped else None
    if code == errno.ENOSPC:
        return f"{where}the disk is full. Free some space; the same command goes on from what was saved."
    if isinstance(error, OSError) or wrapped:
        reason = os.strerror(code) if code else str(error)
        return f"{where}{reason}. (potstill --debug COMMAND shows where.)"
    return None


def main() -> None:
    """The entry point: a user's mistake is one message, not a traceback."""
    with errors_as_messages():
        app()
