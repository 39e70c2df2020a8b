"""How labelling and training grow with the rows: seconds a token, and memory, at 1, 4 and 16 times as many.

    python benchmarks/scaling.py --tokenizer FOLDER --data data/train.jsonl
    python benchmarks/scaling.py --tokenizer FOLDER --data data/train.jsonl --until plan --times 10 40 160

The rows are real, repeated with a number in their first turn. The model is random and tiny, with the real tokenizer:
what grows with the data is what surrounds a model, and a large one would hide it. Memory is what a process holds of
its own (RssAnon): pages of a mapped file can be dropped at any time and are not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from potstill.progress import Progress
from resident import own_bytes

EVERY_SECONDS = 0.02
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""glibc else keeps large blocks that were freed, more and more of them, which would look like growth."""


def make_teacher(tokenizer_of: str, folder: Path) -> None:
    """A random decoder of 2 x 64 with a real vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder)


def numbered(row: dict[str, Any], copy: int) -> dict[str, Any]:
    """The row as another one: with a number at the end of its first turn."""
    first, *others = row["messages"]
    return row | {"messages": [first | {"content": f"{first['content']} ({copy})"}, *others]}


def write_project(folder: Path, data: Path, teacher: Path, times: int) -> None:
    """The rows `times` times, and a recipe without anything whose cost does not depend on them."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    (folder / "train.jsonl").write_text(
        "".join(
            json.dumps(numbered(row, copy) | {"id": f"{number}/{copy}"}) + "\n"
            for copy in range(times)
            for number, row in enumerate(rows)
        )
    )
    for place, name in enumerate(("validation", "test"), start=1):
        lines = [json.dumps(numbered(row, -place) | {"id": f"{name}/{number}"}) for number, row in enumerate(rows[:8])]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = {
        "task": {"kind": "causal_lm"},
        "data": {
            "train": "train.jsonl",
            "validation": "validation.jsonl",
            "test": "test.jsonl",
            "near_copies": None,
        },
        "teacher": {"kind": "pretrained", "model": str(teacher)},
        "label": {"encoding": {"kind": "low_rank", "head": 32, "rank": 64}, "batch_size": 8, "max_kl": None},
        "student": {"kind": "shrunk", "layers": 1, "width": 64},
        "train": {"epochs": 1, "batch_size": 4, "baseline": False},
    }
    with (folder / "recipe.yaml").open("w") as file:
        YAML(typ="safe").dump(recipe, file)


class _Memory:
    """The most that this process held of its own since the last `reset`, by looking often: Linux keeps no such peak."""

    def __init__(self) -> None:
        self._most = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> "_Memory":
        self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._watcher.join()

    def reset(self) -> int:
        most, self._most = self._most, 0
        return most

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            self._most = max(self._most, own_bytes())


STAGES = ("plan", "label", "train")


def measure(folder: Path, until: str) -> dict[str, Any]:
    """Runs in the fresh process: tokens, and for each stage its seconds and the most memory that was held in it."""
    from potstill.pipeline import stages
    from potstill.recipe.yaml_file import load_recipe
    from potstill.run_dir import open_run
    from potstill.training.engine import start_engine

    found = {}
    with _Memory() as memory, start_engine() as engine, open_run(folder / "run", Progress(), engine) as run:
        for name, record in stages(run, load_recipe(folder / "recipe.yaml"), folder, engine):
            found[name] = {"seconds": record.seconds, "bytes": memory.reset(), "record": record.model_dump(mode="json")}
            if name == until:
                break
    train = found["plan"]["record"]["splits"]["train"]
    return {
        "rows": train["rows"],
        "positions": train["tokens"]["trained_tokens"],
        "store_bytes": found["label"]["record"]["size_bytes"] if "label" in found else 0,
        **{name: {key: found[name][key] for key in ("seconds", "bytes")} for name in STAGES if name in found},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder or hub id of a model whose tokenizer is taken")
    parser.add_argument("--data", type=Path, help="rows with messages")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--until", choices=STAGES, default="train", help="the last stage that is run")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.until)))
        return
    if not args.tokenizer or not args.data:
        parser.error("--tokenizer and --data are needed")
    run = STAGES[: STAGES.index(args.until) + 1]
    table = Table(title="seconds of each thousand trained positions, and MiB that the process holds")
    columns = ["rows", "positions", "store, MiB", *(f"{name}, s" for name in run), *(f"{name}, MiB" for name in run)]
    for name in columns:
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as scratch:
        teacher = Path(scratch) / "teacher"
        make_teacher(args.tokenizer, teacher)
        for times in args.times:
            folder = Path(scratch) / f"times-{times}"
            folder.mkdir()
            write_project(folder, args.data, teacher, times)
            command = [sys.executable, __file__, "--measure", str(folder), "--until", args.until]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | GIVES_BACK)
            found = json.loads(done.stdout.splitlines()[-1])
            thousands = found["positions"] / 1000
            table.add_row(
                f"{found['rows']:,}",
                f"{found['positions']:,}",
                f"{found['store_bytes'] / 2**20:,.0f}",
                *(f"{found[name]['seconds'] / thousands:.2f}" for name in run),
                *(f"{found[name]['bytes'] / 2**20:,.0f}" for name in run),
            )
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)


if __name__ == "__main__":
    main()
