"""How labelling and training grow with the rows: seconds a token, and memory, at 1, 4 and 16 times as many.

The rows are real, repeated under other ids. The model is random and tiny, with the real tokenizer: what grows with the
data is what surrounds a model, and a large one would hide it. Memory is what a process holds of its own (RssAnon):
pages of a mapped file can be dropped at any time and are not counted.
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


def write_project(folder: Path, data: Path, teacher: Path, times: int) -> None:
    """The rows `times` times, and a recipe without anything whose cost does not depend on them."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    (folder / "train.jsonl").write_text(
        "".join(
            json.dumps(row | {"id": f"{number}/{copy}"}) + "\n"
            for copy in range(times)
            for number, row in enumerate(rows)
        )
    )
    for name in ("validation", "test"):
        lines = [json.dumps(row | {"id": f"{name}/{number}"}) for number, row in enumerate(rows[:8])]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = {
        "task": {"kind": "causal_lm"},
        "data": {
            "train": "train.jsonl",
            "validation": "validation.jsonl",
            "test": "test.jsonl",
            "deduplicate": False,
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


def measure(folder: Path) -> dict[str, Any]:
    """Runs in the fresh process: tokens, and for each stage its seconds and the most memory that was held in it."""
    from potstill.pipeline import stages
    from potstill.recipe.yaml_file import load_recipe
    from potstill.run_dir import open_run
    from potstill.training.engine import start_engine

    found = {}
    with _Memory() as memory, start_engine() as engine, open_run(folder / "run", Progress(), engine) as run:
        for name, record in stages(run, load_recipe(folder / "recipe.yaml"), folder, engine):
            found[name] = {"seconds": record.seconds, "bytes": memory.reset(), "record": record.model_dump(mode="json")}
            if name == "train":
                break
    labels, splits = found["label"]["record"], found["plan"]["record"]["splits"]
    return {
        "rows": splits["train"]["rows"],
        "positions": labels["positions"],
        "store_bytes": labels["size_bytes"],
        **{
            name: {"seconds": found[name]["seconds"], "bytes": found[name]["bytes"]}
            for name in ("plan", "label", "train")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="folder or hub id of a model whose tokenizer is taken")
    parser.add_argument("--data", type=Path, help="rows with messages")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    if not args.tokenizer or not args.data:
        parser.error("--tokenizer and --data are needed")
    table = Table(title="seconds of each thousand labelled positions, and MiB that the process holds")
    for name in ("rows", "positions", "store, MiB", "label, s", "train, s", "plan, MiB", "label, MiB", "train, MiB"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as scratch:
        teacher = Path(scratch) / "teacher"
        make_teacher(args.tokenizer, teacher)
        for times in args.times:
            folder = Path(scratch) / f"times-{times}"
            folder.mkdir()
            write_project(folder, args.data, teacher, times)
            command = [sys.executable, __file__, "--measure", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | GIVES_BACK)
            found = json.loads(done.stdout.splitlines()[-1])
            thousands = found["positions"] / 1000
            table.add_row(
                f"{found['rows']:,}",
                f"{found['positions']:,}",
                f"{found['store_bytes'] / 2**20:,.0f}",
                *(f"{found[name]['seconds'] / thousands:.2f}" for name in ("label", "train")),
                *(f"{found[name]['bytes'] / 2**20:,.0f}" for name in ("plan", "label", "train")),
            )
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)


if __name__ == "__main__":
    main()
