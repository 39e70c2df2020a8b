"""What stored labels cost: a training step against a hard-label step, and labelling against the bare teacher.

The contenders take turns in one process, step by step and batch by batch, and swap who goes first, so that
a machine that slows down meanwhile slows both. The run is only read; it must have its labels.

On a shared processor start it with OMP_WAIT_POLICY=PASSIVE, as `make bench` does: threads that spin while they
wait take longer than all that is measured here, and hide it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from potstill.cli import errors_as_messages, quiet_libraries
from potstill.data.batches import batches_by_length
from potstill.data.encoded import EncodedRows
from potstill.errors import RecipeError
from potstill.labels import LabelStore, StoredTeacher, StoreWriter
from potstill.losses import AnyLoss, HardLabels, MixedLoss
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RESULT, RunDir, read_record
from potstill.schedules import Constant
from potstill.signals import Teacher
from potstill.stages.criteria import true_labels
from potstill.stages.first_weights import initial_student
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.label import TEACHER, label_source, store_of
from potstill.stages.models import load_teacher
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from potstill.training.batches import ShuffledRows
from potstill.training.engine import Engine, start_engine
from potstill.training.loop import Job, ModelWithLoss, _step, no_teacher
from potstill.training.optimisers import make_optimiser

STEP_TARGET = 1.05
RATE_TARGET = 0.9


@dataclass(frozen=True)
class Bench:
    """A finished run, opened for reading."""

    run: RunDir
    recipe: Recipe
    inputs: Inputs
    adapted: AdaptRecord
    rows: EncodedRows
    engine: Engine

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of `work`, up to the end of what it queued on an accelerator."""
        started = time.perf_counter()
        work()
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize(self.engine.device)
        return time.perf_counter() - started


def step_seconds(bench: Bench, pairs: int, warmup: int) -> tuple[list[float], list[float]]:
    """Seconds of each step from stored labels, and of the hard-label step on the same rows."""
    recipe, engine = bench.recipe, bench.engine
    store = LabelStore(bench.run.path(store_of(TEACHER)))
    store.require(label_source(recipe, bench.inputs, bench.adapted, engine))
    hard = (HardLabels(weight=Constant(value=1.0)),)
    contenders: list[tuple[Sequence[AnyLoss], Teacher]] = [
        (recipe.weighted_losses(), StoredTeacher(store, engine.device)),
        (hard, no_teacher),
    ]
    steppers = [_stepper(bench, losses, teacher, warmup + pairs) for losses, teacher in contenders]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(warmup + pairs):
        for contender in (0, 1) if number % 2 else (1, 0):
            taken = bench.timed(partial(steppers[contender], number))
            if number >= warmup:
                seconds[contender].append(taken)
    return seconds


def _stepper(bench: Bench, losses: Sequence[AnyLoss], teacher: Teacher, total_steps: int) -> Callable[[int], object]:
    """The step of the training loop, for a student of its own."""
    recipe, engine = bench.recipe, bench.engine
    job = Job(
        name="train/bench",
        model=initial_student(recipe, bench.inputs, bench.run, bench.adapted),
        batches=ShuffledRows(bench.rows, recipe.train, recipe.seed),
        validation=bench.rows,
        ask=ask_for_logits,
        loss=MixedLoss([loss.build() for loss in losses]),
        teacher=teacher,
        criterion=true_labels(),
        total_steps=total_steps,
        seed=recipe.seed,
        settings=recipe.train,
    )
    module = engine.wrap(ModelWithLoss(job.model, job.ask, job.loss))
    optimiser = make_optimiser(module, job.settings, job.seed)
    return lambda step: _step(job, module, optimiser, step, engine)


def labelling_seconds(bench: Bench, rows: EncodedRows, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round of writing a whole store, and of the bare forward passes on the same batches.

    The bare passes run between the writer's own batches; their time is taken off the writer's.
    """
    bare, whole = zip(*islice(_rounds(bench, rows), 1, rounds + 1), strict=True)  # the first is warm-up
    return [each - less for each, less in zip(whole, bare, strict=True)], list(bare)


def _rounds(bench: Bench, rows: EncodedRows) -> Iterator[tuple[float, float]]:
    """Endless rounds: seconds of the bare passes, and of writing and bare passes together."""
    settings, engine = bench.recipe.label, bench.engine
    model = load_teacher(bench.recipe, bench.run, bench.adapted)
    teacher = FrozenTeacher(model, engine.device, ask_for_logits)
    source = label_source(bench.recipe, bench.inputs, bench.adapted, engine)
    plan = batches_by_length(rows.lengths, settings.batch_size)
    ready = [rows.collate(batch).to(engine.device) for batch in plan]
    turn, bare = 0, 0.0

    def forward() -> Tensor:
        with torch.inference_mode(), engine.autocast(settings.precision):
            logits: Tensor = model(**ready[turn % len(ready)].inputs).logits
        return logits

    def bare_first() -> bool:
        # Swaps from batch to batch, and for each batch from round to round.
        return (turn % len(ready) + turn // len(ready)) % 2 == 0

    def ask(batch: Sequence[int]) -> Tensor:
        nonlocal bare
        if bare_first():
            bare += bench.timed(forward)
        with engine.autocast(settings.precision):
            logits = teacher(rows.collate(batch)).logits
        assert logits is not None
        return logits.float()

    def advance(amount: int = 1, note: str = "", *, earlier: bool = False) -> None:
        nonlocal bare, turn
        if not bare_first():
            bare += bench.timed(forward)
        turn += 1

    while True:
        bare = 0.0
        # Beside the run, to write to the same disk.
        with tempfile.TemporaryDirectory(prefix=".step_cost.", dir=bench.run.root.parent) as folder:
            writer = StoreWriter(Path(folder), bench.recipe.encoding, source)
            write = partial(writer.write, rows.ids, plan, settings.batches_per_shard, ask, advance)
            whole = bench.timed(write)
        yield bare, whole


def ratio_row(
    name: str, seconds: tuple[list[float], list[float]], ratios: Sequence[float], unit: str, amount: float, target: str
) -> list[str]:
    """A line of the table. `amount / seconds` is shown as a rate, or the milliseconds where `amount` is 0."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    medians = [statistics.median(each) for each in seconds]
    shown = [f"{amount / each if amount else 1000 * each:,.1f} {unit}" for each in medians]
    limit = float(target.split()[-1])
    met = middle <= limit if target.startswith("<=") else middle >= limit
    return [
        name,
        *shown,
        f"{middle:.3f}",
        f"{low:.3f} to {high:.3f}",
        str(len(ratios)),
        f"{target}: {'met' if met else 'missed'}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("demo/run"), help="a run directory with labels")
    parser.add_argument("--recipe", type=Path, default=Path("demo/recipe.yaml"), help="the recipe of that run")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of steps")
    parser.add_argument("--warmup", type=int, default=10, help="pairs of steps before the first that counts")
    parser.add_argument("--rows", type=int, default=400, help="rows to label in each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of labelling")
    args = parser.parse_args()
    if min(args.pairs, args.rounds) < 2:
        parser.error("--pairs and --rounds must be 2 or more")
    quiet_libraries()
    recipe = load_recipe(args.recipe)
    adapted = read_record(args.run / "adapt" / RESULT, AdaptRecord)
    if adapted is None:
        raise RecipeError(f"{args.run}: no adapted teacher. First: potstill label {args.recipe} --out {args.run}")
    inputs = read_inputs(recipe, args.recipe.parent)
    rows = recipe.task.encode(inputs.splits["train"].rows, inputs.tokenizer, inputs.labels)
    spread = range(0, len(rows.ids), max(1, len(rows.ids) // args.rows))[: args.rows]
    with start_engine() as engine:
        bench = Bench(RunDir(args.run, Progress()), recipe, inputs, adapted, rows, engine)
        stored, hard = steps = step_seconds(bench, args.pairs, args.warmup)
        labelled, bare = rates = labelling_seconds(bench, rows.select(spread), args.rounds)
    table = Table(title=f"{engine.device.type}, {torch.get_num_threads()} thread(s), {len(spread)} rows labelled")
    for column in ("", "potstill", "reference", "ratio, median", "quartiles", "pairs", "target"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    slower = [a / b for a, b in zip(stored, hard, strict=True)]
    faster = [b / a for a, b in zip(labelled, bare, strict=True)]
    table.add_row(*ratio_row("step: stored / hard labels", steps, slower, "ms", 0, f"<= {STEP_TARGET}"))
    table.add_row(
        *ratio_row("rate: labelling / bare teacher", rates, faster, "rows/s", len(spread), f">= {RATE_TARGET}")
    )
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)


if __name__ == "__main__":
    with errors_as_messages():
        main()
