"""Speed and memory on one GPU, with random weights of real shapes, beside what is to be reached.

    pip install -e '.[bench]' && python benchmarks/gpu.py [--toy]

No model is fetched: teachers and students have the shapes of Qwen2 models and random weights, rows are random tokens.
Labels are made by the function of the label stage, steps by the loop of the train stage. Figures are shares of what
the same machine does in the same run without potstill: the backbone of the teacher alone in bfloat16, plain fine-tuning
of the student, and the GKD trainer of TRL, which is left out where TRL is not installed. Contenders take turns, and of
each the fastest round counts, since other work only adds time. Memory is the most that tensors held at once.

All takes ten minutes at most on one GPU with 80 GB, most of it the first command, which reads a teacher of 15 GB;
`--only` measures some parts. `--toy` runs the same code with tiny shapes, also on a CPU: its figures mean nothing.
"""

import argparse
import gc
import importlib.util
import json
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gpu_models import REAL, TOY, RandomSetup, Shape, Sizes, random_rows, step_setup, write_tokenizer
from potstill import chunk_sizes
from potstill.cli import quiet_libraries
from potstill.data.batches import batches_by_length
from potstill.data.packing import PackedRows
from potstill.labels import LabelSource, PositionEncoding
from potstill.labels.fidelity import Bound
from potstill.labels.fitting import FitSettings, fit_encoding
from potstill.labels.labelling import label_rows
from potstill.labels.low_rank import LowRank
from potstill.labels.row_encoders import TokensOfRows
from potstill.labels.top_k import TopK
from potstill.progress import Progress, unseen
from potstill.signals import Batch
from potstill.targets import HiddenTargets
from potstill.tasks.causal_lm import ask_for_hidden_states, head_of
from potstill.teachers import FrozenTeacher
from potstill.training.one_process import OneProcess
from vs_trl import KL, fine_tuning, hard_labels, online, stored, trl_gkd

GRID = (1.0, 1.5, 2.0, 3.0, 4.0)
ENCODINGS: dict[str, PositionEncoding] = {"low_rank": LowRank(), "top_k": TopK()}
ABOUT = LabelSource(teacher="t", tokenizer="k", data="d", labels=(), max_length=1, precision="bfloat16")
COMPARE = {">=": operator.ge, "<=": operator.le}
ROUNDS = 2
GB = 1e9


@dataclass(frozen=True)
class Figure:
    """A measured quantity, and what is to be reached."""

    name: str
    value: float | None
    """None where it could not be measured."""
    unit: str = ""
    bar: str = ""
    """A comparison and a number, such as `>= 0.85`; empty for what is shown beside."""
    note: str = ""

    @property
    def verdict(self) -> str:
        if not self.bar:
            return ""
        if self.value is None:
            return "not measured"
        sign, limit = self.bar.split()
        return "met" if COMPARE[sign](self.value, float(limit)) else "missed"


@dataclass(frozen=True)
class Machine:
    """Where all is measured, and with which weights."""

    device: torch.device
    sizes: Sizes
    work: Path

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """That of a teacher's weights."""
        return torch.bfloat16 if self.on_cuda else torch.float32

    def seconds(self, work: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give back what earlier contenders held, and let the peak begin here."""
        if self.on_cuda:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        return float(torch.cuda.max_memory_allocated()) if self.on_cuda else None


@dataclass(frozen=True)
class Labelling:
    """A teacher that labels random rows, and the same teacher bare."""

    machine: Machine
    rows: PackedRows
    model: torch.nn.Module

    @property
    def tokens(self) -> int:
        return int(sum(self.rows.lengths))

    def hidden_of(self, teacher: FrozenTeacher) -> Callable[[Batch], Tensor]:
        def forward(batch: Batch) -> Tensor:
            with OneProcess(self.machine.device).autocast("auto"):
                target = teacher(batch).target
            assert isinstance(target, HiddenTargets)
            return target.hidden.to(self.machine.dtype)

        return forward

    @torch.inference_mode()
    def bare(self) -> None:
        """All rows through the backbone, and nothing else."""
        for indices in batches_by_length(self.rows.lengths, self.machine.sizes.label_batch):
            ids = self.rows.collate(indices).inputs["input_ids"].to(self.machine.device)
            self.model.base_model(input_ids=ids, use_cache=False)

    def labels(self, encoding: PositionEncoding) -> Callable[[], None]:
        """What labels all rows anew each time, as the label stage does once an encoding is fitted."""
        teacher = FrozenTeacher(self.model, self.machine.device, ask_for_hidden_states)
        forward, head, size = self.hidden_of(teacher), head_of(self.model), self.machine.sizes.label_batch
        settings = FitSettings(encoding, GRID, Bound(None, GRID), positions=3000, batch_size=size, splits=("train",))
        with tempfile.TemporaryDirectory(dir=self.machine.work) as folder:
            fitted = fit_encoding(Path(folder), self.rows, forward, head, settings, Progress())
        encoder = TokensOfRows(fitted, head)

        def work() -> None:
            with tempfile.TemporaryDirectory(dir=self.machine.work) as folder:
                how = {"batch_size": size, "batches_per_shard": 16, "advance": unseen}
                label_rows(Path(folder), self.rows, forward, encoder, ABOUT, **how)

        return work


def labelling(machine: Machine) -> Iterator[Figure]:
    """Shares of the rate of the bare backbone, and memory by the weights."""
    sizes = machine.sizes
    for name, shape, bars in (
        ("7.6 B teacher", sizes.large, {"low_rank": ">= 0.85", "top_k": ""}),
        ("1.5 B teacher", sizes.small, {"low_rank": ">= 0.7", "top_k": ""}),
    ):
        machine.forget()
        count = sizes.labelled_rows["large" if shape is sizes.large else "small"]
        rows = random_rows(shape, count=count, length=sizes.length)
        at_work = Labelling(machine, rows, shape.model(machine.device, machine.dtype))
        weights = sum(each.numel() * each.element_size() for each in at_work.model.parameters())
        works = {"bare": at_work.bare} | {each: at_work.labels(ENCODINGS[each]) for each in bars}
        peaks: dict[str, float | None] = {}
        taken: dict[str, list[float]] = {each: [] for each in works}
        for turn in range(ROUNDS + 1):
            for each in list(works) if turn % 2 else reversed(works):
                machine.forget()
                spent = machine.seconds(works[each])
                peaks[each] = machine.peak()
                # The first turn compiles and finds its memory.
                taken[each] += [spent] if turn else []
        rates = {each: at_work.tokens / min(spent) for each, spent in taken.items()}
        yield Figure(f"{name}: bare backbone", rates["bare"], "tokens/s")
        for each, bar in bars.items():
            yield Figure(f"{name}: labels {each} / bare", rates[each] / rates["bare"], "", bar, f"{rates[each]:,.0f}/s")
        bar = "<= 1.3" if shape is sizes.large else ""
        for each in ("bare", "low_rank"):
            held = peaks[each]
            value = None if held is None else held / weights
            yield Figure(f"{name}: memory, {each} / weights", value, "", bar if each != "bare" else "", _gb(held))
        del at_work, works


def steps(machine: Machine) -> Iterator[Figure]:
    """Steps of a student of the small teacher from stored labels, against plain fine-tuning and TRL's GKD."""
    sizes = machine.sizes
    setup = step_setup(sizes.small, sizes.student, sizes, machine.work, machine.device, machine.dtype)
    label_for_steps(machine, setup, sizes.small)
    contenders: dict[str, Callable[[RandomSetup], list[float]]] = {
        "plain fine-tuning": fine_tuning,
        "hard labels": hard_labels,
        "top_k": stored("top_k", KL),
        "low_rank": stored("low_rank", KL),
        "teacher online": online,
    }
    if importlib.util.find_spec("trl"):
        contenders["TRL GKD"] = trl_gkd
    taken: dict[str, list[float]] = {each: [] for each in contenders}
    peaks: dict[str, float | None] = {}
    for turn in range(ROUNDS):
        for each in list(contenders) if turn % 2 else reversed(contenders):
            machine.forget()
            taken[each] += contenders[each](setup)[setup.warmup :]
            peaks[each] = machine.peak()
    best = {each: min(spent) for each, spent in taken.items()}
    plain, trl = best["plain fine-tuning"], best.get("TRL GKD")
    bars = {"low_rank": ("<= 1.1", ">= 2.5"), "top_k": ("<= 1.05", ">= 2.7")}
    for each, spent in best.items():
        note = f"{1000 * spent:.1f} ms{', ' if peaks[each] else ''}{_gb(peaks[each])}"
        to_plain, to_trl = bars.get(each, ("", ""))
        if each != "plain fine-tuning":
            yield Figure(f"step: {each} / plain fine-tuning", spent / plain, "", to_plain, note)
        else:
            yield Figure(f"step: {each}", 1000 * spent, "ms", "", _gb(peaks[each]))
        if to_trl:
            note = "" if trl else "trl is not installed"
            yield Figure(f"step: TRL GKD / {each}", trl / spent if trl else None, "", to_trl, note)


def label_for_steps(machine: Machine, setup: RandomSetup, shape: Shape) -> None:
    """Stores of the rows of all steps, one for each encoding, beside each other in the setup's folder."""
    at_work = Labelling(machine, setup.random, shape.model(machine.device, machine.dtype))
    teacher = FrozenTeacher(at_work.model, machine.device, ask_for_hidden_states)
    head, size = head_of(at_work.model), machine.sizes.label_batch
    for name, encoding in ENCODINGS.items():
        folder = setup.work / name
        folder.mkdir()
        settings = FitSettings(encoding, GRID, Bound(None, GRID), positions=3000, batch_size=size, splits=("train",))
        forward = at_work.hidden_of(teacher)
        fitted = fit_encoding(folder, setup.random, forward, head, settings, Progress())
        how = {"batch_size": size, "batches_per_shard": 16, "advance": unseen}
        label_rows(folder, setup.random, forward, TokensOfRows(fitted, head), ABOUT, **how)


SAVING: dict[str, tuple[dict[str, Any], str]] = {
    "": ({}, "<= 20"),
    ", layers computed again": ({"gradient_checkpointing": True}, ""),
    ", and states in bfloat16": ({"gradient_checkpointing": True, "optimizer": {"states": "bfloat16"}}, "<= 12"),
    ", and states in 8 bits": ({"gradient_checkpointing": True, "optimizer": {"states": "8bit"}}, ""),
}
"""Settings of a training by what they change, with what is to be reached."""


def training_memory(machine: Machine) -> Iterator[Figure]:
    """The peak of a student of 0.95 billion parameters: weights, gradients, moments of Adam, and 8 x 512 tokens."""
    sizes = machine.sizes
    folder = machine.work / "memory"
    folder.mkdir()
    setup = step_setup(sizes.large, sizes.trained, sizes, folder, machine.device, machine.dtype)
    for saved, (asked, bar) in SAVING.items():
        name = f"training memory of a 0.95 B student{saved}"
        if asked.get("optimizer") == {"states": "8bit"} and not importlib.util.find_spec("bitsandbytes"):
            yield Figure(name, None, "GB", bar, "bitsandbytes is not installed")
            continue
        machine.forget()
        with chunks_of_a_small_card() if bar == "<= 12" else nullcontext():
            spent = min(hard_labels(setup, **asked)[setup.warmup :])
        held = machine.peak()
        value = None if held is None else held / GB
        yield Figure(name, value, "GB", bar, f"weights, Adam, 8 x 512 tokens; {1000 * spent:.1f} ms a step")


@contextmanager
def chunks_of_a_small_card() -> Iterator[None]:
    """Logits in as large chunks as a device of 12 GB would take."""
    most = chunk_sizes.CHUNK_BYTES["cuda"]
    chunk_sizes.CHUNK_BYTES["cuda"] = chunk_sizes.LEAST_CHUNK_BYTES
    yield
    chunk_sizes.CHUNK_BYTES["cuda"] = most


RECIPE = """\
task: {{kind: causal_lm, max_length: 64}}
data: {{train: train.jsonl, validation: validation.jsonl, test: test.jsonl, near_copies: null}}
teacher: {{kind: pretrained, model: "{teacher}"}}
label: {{max_kl: null, batch_size: 16}}
student: {{kind: shrunk, layers: {layers}, width: {width}}}
train: {{epochs: 1, batch_size: 8, baseline: false}}
"""


def first_command(machine: Machine) -> Iterator[Figure]:
    """Seconds of a command until its first step, without those in which the teacher answers."""
    sizes, project = machine.sizes, machine.work / "project"
    teacher = project / "teacher"
    machine.forget()
    sizes.large.model(machine.device, machine.dtype).save_pretrained(teacher)
    write_tokenizer(teacher)
    machine.forget()
    for number, (name, count) in enumerate({"train": 64, "validation": 16, "test": 16}.items()):
        lines = [
            {"id": f"{name}-{row}", "prompt": _words(row, number, 4), "completion": _words(row, number + 7, 8)}
            for row in range(count)
        ]
        (project / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shape = sizes.trained
    (project / "recipe.yaml").write_text(RECIPE.format(teacher=teacher, layers=shape.layers, width=shape.width))
    seconds, labelled = until_the_first_step(project, cuda=machine.on_cuda)
    note = f"{seconds:.1f} s in all, {labelled:.1f} s of them labelling {weights_gb(teacher):.1f} GB"
    yield Figure("seconds outside steps, first command to first step", seconds - labelled, "s", "<= 20", note)


def until_the_first_step(project: Path, *, cuda: bool) -> tuple[float, float]:
    """Seconds from the start of `potstill train` until its first step, and those in which rows were labelled."""
    run = project / "run"
    command = [sys.executable, "-m", "potstill", "train", str(project / "recipe.yaml"), "--out", str(run), "--quiet"]
    environment = os.environ | ({} if cuda else {"CUDA_VISIBLE_DEVICES": ""})
    with (project / "output").open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        # It is opened when the first step is about to be made.
        while not (run / "train/student/metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.wait()
    if process.returncode:
        raise SystemExit((project / "output").read_text()[-2000:])
    record = json.loads((run / "label/teacher/logits/result.json").read_text())
    return seconds, record["rows"] / record["rows_per_s"]


def weights_gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / GB


def _words(row: int, salt: int, count: int) -> str:
    return " ".join(chr(97 + (row * 31 + salt * 17 + place * (row + 5)) % 26) * 2 for place in range(count))


def _gb(amount: float | None) -> str:
    return "" if amount is None else f"{amount / GB:.1f} GB"


PARTS: dict[str, Callable[[Machine], Iterator[Figure]]] = {
    "labelling": labelling,
    "steps": steps,
    "memory": training_memory,
    "first-step": first_command,
}


def table_of(figures: list[Figure], title: str) -> Table:
    table = Table(title=title)
    for column in ("", "measured", "to reach", "", "beside"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for each in figures:
        shown = "–" if each.value is None else f"{each.value:,.2f} {each.unit}".rstrip()
        table.add_row(each.name, shown, each.bar, each.verdict, each.note)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="tiny shapes, which also run on a CPU")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="the parts to measure")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.device == "cpu" and not args.toy:
        parser.error("real shapes need a GPU; --toy runs on a CPU")
    quiet_libraries()
    start, figures = time.perf_counter(), []
    for part in args.only:
        with tempfile.TemporaryDirectory() as folder:
            machine = Machine(torch.device(args.device), TOY if args.toy else REAL, Path(folder))
            figures += list(PARTS[part](machine))
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    console = Console()
    console.width = max(console.width, 150)
    taken = time.perf_counter() - start
    console.print(table_of(figures, f"{name}, {'toy shapes' if args.toy else 'real shapes'}, {taken:.0f} s"))


if __name__ == "__main__":
    main()
