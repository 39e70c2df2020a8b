"""Which flavours of distillation help a chat model: layers of SmolLM2, one pass over real dialogues, equal steps.

    potstill init support-chat chat/
    python benchmarks/flavours_chat.py --project chat --out flavours-chat

The teacher labels once; a cell then trains one student and compares it with the teacher at every token of the test
rows. A cell that is done is kept in OUT/cells, and one that was broken off goes on from its last checkpoint.
"""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from potstill import stopping
from potstill.cli import errors_as_messages, quiet_libraries
from potstill.data.packing import PackedRows
from potstill.measure.language import TokenMeasures, joined, measure_tokens
from potstill.progress import Progress, for_console
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.run_dir import open_run, write_json
from potstill.runtimes.folder import ModelFolder
from potstill.stages.adapt import adapt
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.label import TEACHER, label, label_features
from potstill.stages.models import teacher_folder
from potstill.stages.opened_teachers import Lessons
from potstill.stages.train import train_baseline, train_student
from potstill.targets import HiddenTargets
from potstill.teachers import FrozenTeacher
from potstill.training.engine import Engine, start_engine

SOFT = "{kind: soft_targets, temperature: 1, weight: 1}"
HIDDEN = "{kind: hidden_states, distance: normalised_mse, weight: 0.1}"
INFLUENCE = "student.init={kind: copy, layers: block_influence}"
BASELINE = "hard labels alone (CE)"
CELLS: dict[str, list[str]] = {
    BASELINE: [],
    "response": [f"losses=[{SOFT}]"],
    "+ hidden states": [f"losses=[{SOFT}, {HIDDEN}]"],
    "response, random start": [f"losses=[{SOFT}]", "student.init={kind: random}"],
    "response, layers by influence": [f"losses=[{SOFT}]", INFLUENCE],
    "+ hidden states, layers by influence": [f"losses=[{SOFT}, {HIDDEN}]", INFLUENCE],
    # As many parameters as the others without embeddings, with more layers that are narrower.
    "response, 20 layers pruned to 2/3 of the width": [
        f"losses=[{SOFT}]",
        "student={kind: shrunk, layers: 20, width: 2/3, init: {kind: copy, layers: block_influence, width: pruned}}",
    ],
}


def from_teacher(recipe: Recipe, inputs: Inputs, folders: list[ModelFolder], engine: Engine) -> list[TokenMeasures]:
    """Each model, the teacher first, at every learnt token of the test rows."""
    rows = recipe.task.encode(inputs.splits["test"].rows, inputs.tokenizer, inputs.labels)
    assert isinstance(rows, PackedRows)
    models = [FrozenTeacher(folder.load(recipe.task), engine.device, recipe.task.ask) for folder in folders]
    parts: list[list[TokenMeasures]] = [[] for _ in models]
    for index in range(len(rows.rows)):
        batch = rows.collate([index])
        said: dict[str, HiddenTargets] = {}
        for number, model in enumerate(models):
            target = model(batch).target
            assert isinstance(target, HiddenTargets)
            said[str(number)] = target
        size = said["0"].head.chunk_rows // 4
        found = measure_tokens(said, said["0"], batch.labels[batch.mask].to(engine.device), chunk_rows=size)
        for number, part in enumerate(parts):
            part.append(found[str(number)])
    return [joined(part) for part in parts]


def run_cells(args: argparse.Namespace, engine: Engine, progress: Progress) -> None:
    """All cells that are not done."""
    common = [f"seed={args.seed}", f"train.epochs={args.epochs}", *args.set]
    (args.out / "cells").mkdir(parents=True, exist_ok=True)
    with open_run(args.out / "run", progress, engine) as run:
        for name, changes in CELLS.items():
            result = args.out / "cells" / f"{name.replace('/', ' of ')}.json"
            if result.exists() or (args.cells and name not in args.cells):
                continue
            progress.line(name)
            recipe = load_recipe(args.project / "recipe.yaml", [*common, *changes])
            inputs = read_inputs(recipe, args.project, progress)
            teacher = adapt(run, recipe, inputs, engine)
            if name == BASELINE:
                record, where = train_baseline(run, recipe, inputs, teacher, engine), "train/baseline/model"
            else:
                labels = label(run, recipe, inputs, teacher, engine)
                features = label_features(run, recipe, inputs, teacher, engine)
                lessons = Lessons(TEACHER, teacher, labels, features)
                record, where = train_student(run, recipe, inputs, teacher, lessons, engine), "train/student/model"
            assert record is not None
            folders = [teacher_folder(recipe, run, teacher), ModelFolder(run.path(where))]
            _, student = from_teacher(recipe, inputs, folders, engine)
            write_json(
                result,
                {
                    "kl": float(student.kl.mean()),
                    "agreement": 100 * float(student.agrees.mean()),
                    "loss": float(student.loss.mean()),
                    "parameters": sum(p.numel() for p in folders[1].load(recipe.task).parameters()),
                    "steps": record.planned_steps,
                    "seconds": record.seconds,
                },
            )


def print_table(out: Path) -> None:
    table = Table(title="on the tokens of the test rows")
    for name in ("", "KL from teacher", "agreement, %", "perplexity", "parameters, M", "steps", "seconds"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name in CELLS:
        path = out / "cells" / f"{name.replace('/', ' of ')}.json"
        if path.exists():
            found = json.loads(path.read_text())
            table.add_row(
                name,
                f"{found['kl']:.3f}",
                f"{found['agreement']:.1f}",
                f"{torch.tensor(found['loss']).exp():.1f}",
                f"{found['parameters'] / 1e6:.1f}",
                f"{found['steps']:,}",
                f"{found['seconds']:,.0f}",
            )
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True, help="folder of the dialogues")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--cells", nargs="+", help=f"only these of: {', '.join(CELLS)}")
    parser.add_argument("--set", action="append", default=[], help="change the recipe of all cells")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args()
    stopping.install()
    quiet_libraries()
    with errors_as_messages():
        with start_engine() as engine:
            run_cells(args, engine, for_console(quiet=args.quiet))
        print_table(args.out)


if __name__ == "__main__":
    main()
