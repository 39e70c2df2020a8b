"""A whole training step of a chat student: from stored labels, from an online teacher, in TRL, and plain fine-tuning.

    pip install -e '.[bench]' && python benchmarks/vs_trl.py --model FOLDER --data data/train.jsonl

All train the same student (the teacher's layers, evenly spread) on the same rows in the same batches with AdamW, on a
CPU in float32, on a CUDA device under autocast to bfloat16 with weights in float32: TRL's GKD trainer (lambda 0,
beta 0: forward KL, teacher online), transformers' own cross-entropy, and the loop of potstill with forward KL at
temperature 1. Each contender runs in a process of its own, in turn, several rounds; shown are medians, and ratios
within a round. Tokens are trained tokens. Memory is the peak above what there was before the models were loaded:
allocated on a CUDA device, else that of the process (Linux). The cost of labelling is counted for 1, 3 and 10 epochs.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from potstill.data.batches import RowOrder
from potstill.data.chat_tokens import ChatTokens
from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.packing import PackedRows, pack
from potstill.labels import Fitted, LabelSource, LabelStore, PositionEncoding, StoredTeacher, StoreWriter
from potstill.labels.low_rank import LowRank
from potstill.labels.row_encoders import TokensOfRows
from potstill.labels.top_k import TopK
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.progress import unseen
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant
from potstill.signals import Batch, Teacher
from potstill.students.copying import layer_map
from potstill.targets import HiddenTargets
from potstill.tasks.causal_lm import ask_for_hidden_states, head_of
from potstill.teachers import FrozenTeacher
from potstill.training.batches import ShuffledRows
from potstill.training.loop import Job, ModelWithLoss, _step, batches_of, no_teacher
from potstill.training.one_process import OneProcess
from potstill.training.optimisers import make_optimiser
from potstill.training.passes import passes_of
from resident import release_unused, resident_bytes

ENCODINGS: dict[str, PositionEncoding] = {"top_k": TopK(), "low_rank": LowRank()}
RATE = 1e-4


@dataclass(frozen=True)
class Setup:
    """What all contenders share."""

    model: Path
    data: Path
    work: Path
    layers: int
    batch: int
    length: int
    rows: int
    steps: int
    warmup: int
    device: torch.device
    compiled: bool = True
    """Whether the passes of the loss are compiled."""

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """For what the device still works on."""
        if self.on_cuda:
            torch.cuda.synchronize()

    def tokens(self) -> PackedRows:
        """Rows near the full length, one example each, so that padding is nobody's advantage."""
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        examples, _ = ChatTokens(tokenizer, self.length).tokenise(read_dialogues(self.data, Columns()))
        longest = sorted(examples, key=lambda example: (-len(example.ids), example.id))[: self.rows]
        return pack(longest, max_length=self.length, pad_id=tokenizer.pad_token_id or 0, packing=False)

    def teacher(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)

    def student(self) -> PreTrainedModel:
        teacher = self.teacher()
        chosen = layer_map(self.layers, teacher.config.num_hidden_layers, "spread")
        student = AutoModelForCausalLM.from_config(with_layers(teacher.config, chosen), dtype=torch.float32)
        weights = teacher.state_dict()
        student.load_state_dict(
            {
                name: weights[re.sub(r"layers\.(\d+)\.", lambda m: f"layers.{chosen[int(m[1])]}.", name)]
                for name in student.state_dict()
            }
        )
        return student

    def batches(self, rows: PackedRows) -> Iterator[list[int]]:
        order = RowOrder(rows.lengths, self.batch, 0)
        return map(order.at, range(self.warmup + self.steps))


def with_layers(config: PretrainedConfig, chosen: Sequence[int]) -> PretrainedConfig:
    """The configuration of a model that has these layers of the given one alone."""
    values = config.to_dict() | {"num_hidden_layers": len(chosen)}
    # Some families list the kind of each layer.
    for name, kinds in values.items():
        if name.endswith("layer_types") and isinstance(kinds, list):
            values[name] = [kinds[layer] for layer in chosen]
    return type(config).from_dict(values)


def ours(setup: Setup, losses: list[Any], teacher: Callable[[], Teacher], **asked: Any) -> list[float]:
    rows = setup.tokens()
    engine = OneProcess(setup.device)
    settings = OptimiserSettings(batch_size=setup.batch, learning_rate=RATE, precision="auto", **asked)
    job = Job(
        name="train/bench",
        model=setup.student(),
        batches=ShuffledRows(rows, settings, 0),
        validation=rows,
        ask=ask_for_hidden_states,
        loss=MixedLoss([loss.build() for loss in losses], compiled=setup.compiled),
        teacher=teacher(),
        criterion=MixedLoss([]),
        total_steps=setup.warmup + setup.steps,
        seed=0,
        settings=settings,
    )
    module = engine.wrap(ModelWithLoss(job.model, job.ask, job.loss))
    optimiser = make_optimiser(module, job.settings, job.seed)
    taken = []
    with passes_of(job.model, settings), batches_of(job, engine) as batches:
        job = replace(job, batches=batches)
        for number in range(setup.warmup + setup.steps):
            start = time.perf_counter()
            _step(job, module, optimiser, number, engine)
            setup.wait()
            taken.append(time.perf_counter() - start)
    return taken


KL = SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0))
CE = HardLabels(weight=Constant(value=1.0))


def stored(encoding: str, *losses: Any) -> Callable[[Setup], list[float]]:
    def contender(setup: Setup) -> list[float]:
        return ours(setup, list(losses), lambda: StoredTeacher(LabelStore(setup.work / encoding), setup.device))

    return contender


def online(setup: Setup) -> list[float]:
    return ours(setup, [KL], lambda: FrozenTeacher(setup.teacher(), setup.device, ask_for_hidden_states))


def hard_labels(setup: Setup, **asked: Any) -> list[float]:
    return ours(setup, [CE], lambda: no_teacher, **asked)


def fine_tuning(setup: Setup) -> list[float]:
    """Cross-entropy as transformers computes it from labels, in the shortest loop."""
    rows, model = setup.tokens(), setup.student().train().to(setup.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    taken = []
    for indices in setup.batches(rows):
        batch = as_transformers(rows, list(indices))
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with OneProcess(setup.device).autocast("auto"):
            loss = model(**{name: each.to(setup.device) for name, each in batch.items()}, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        setup.wait()
        taken.append(time.perf_counter() - start)
    return taken


def trl_gkd(setup: Setup) -> list[float]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    rows = setup.tokens()
    order = [list(indices) for indices in setup.batches(rows)]
    taken: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            setup.wait()
            taken.append(time.perf_counter() - self.start)

    flat = [index for indices in order for index in indices]
    with tempfile.TemporaryDirectory() as folder:
        settings = GKDConfig(
            output_dir=folder,
            lmbda=0.0,
            beta=0.0,
            temperature=1.0,
            max_length=setup.length,
            per_device_train_batch_size=setup.batch,
            max_steps=len(order),
            learning_rate=RATE,
            logging_steps=10**6,
            save_strategy="no",
            report_to=[],
            use_cpu=not setup.on_cuda,
            bf16=setup.on_cuda,
            gradient_checkpointing=False,
            optim="adamw_torch_fused",
        )
        GKDTrainer(
            model=setup.student(),
            teacher_model=setup.teacher(),
            args=settings,
            data_collator=lambda items: as_transformers(rows, [item["index"] for item in items]),
            train_dataset=Dataset.from_list([{"index": index} for index in flat]),
            processing_class=AutoTokenizer.from_pretrained(setup.model),
            callbacks=[Clock()],
        ).train()
    return taken


def as_transformers(rows: PackedRows, indices: list[int]) -> dict[str, torch.Tensor]:
    """A batch with an attention mask and labels that the model shifts itself."""
    examples = [rows.examples[number] for index in indices for number in rows.rows[index]]
    shape = (len(examples), max(len(example.ids) for example in examples))
    ids, mask = torch.full(shape, rows.pad_id), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    for place, example in enumerate(examples):
        tokens, count = torch.from_numpy(example.ids).long(), len(example.ids)
        ids[place, :count], mask[place, :count] = tokens, 1
        labels[place, :count] = tokens.where(torch.from_numpy(example.trained), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def label(setup: Setup, encoding: PositionEncoding, folder: Path) -> float:
    """Seconds to label all rows, with the pass over a part of them that the encoding is fitted on."""
    rows, model = setup.tokens(), setup.teacher()
    teacher, head = FrozenTeacher(model, setup.device, ask_for_hidden_states), head_of(model)

    def hidden_of(batch: Batch) -> torch.Tensor:
        with OneProcess(setup.device).autocast("auto"):
            target = teacher(batch).target
        assert isinstance(target, HiddenTargets)
        return target.hidden.float()

    size = 32 if setup.on_cuda else 4
    plan = [list(range(start, min(start + size, len(rows.rows)))) for start in range(0, len(rows.rows), size)]
    start = time.perf_counter()
    with torch.inference_mode():
        sample = torch.cat([hidden_of(rows.collate(batch)) for batch in plan[: 16 // size or 1]])
        grid = (1.0, 1.5, 2.0, 3.0, 4.0)
        fitted = Fitted(encoding, encoding.fit(sample, head, grid), len(head.weight), grid, ())
        encoder = TokensOfRows(fitted, head)

        def ask(indices: Sequence[int]) -> Any:
            batch = rows.collate(indices)
            return encoder.encode(hidden_of(batch), batch)

        about = LabelSource(teacher="t", tokenizer="k", data="d", labels=(), max_length=1, precision="float32")
        folder.mkdir()
        StoreWriter(folder, fitted, about).write([e.id for e in rows.examples], plan, 16, ask, unseen)
    return time.perf_counter() - start


CONTENDERS: dict[str, Callable[[Setup], list[float]]] = {
    "plain fine-tuning (transformers)": fine_tuning,
    "potstill, hard labels": hard_labels,
    "potstill, top_k store": stored("top_k", KL),
    "potstill, low_rank store": stored("low_rank", KL),
    "potstill, low_rank store + hard labels": stored("low_rank", KL, CE),
    "potstill, teacher online": online,
    "TRL GKD, teacher online": trl_gkd,
}


def measured(setup: Setup, name: str) -> dict[str, Any]:
    """Step times and peak memory of a contender, in this process."""
    release_unused()
    before = resident_bytes()
    taken = CONTENDERS[name](setup)[setup.warmup :]
    peak = torch.cuda.max_memory_allocated() if setup.on_cuda else resident_bytes(peak=True) - before
    return {"seconds": taken, "peak": peak}


def in_a_process(arguments: list[str], name: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", __file__, *arguments, "--contender", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(setup: Setup, found: dict[str, list[dict[str, Any]]], label_seconds: dict[str, float]) -> None:
    rows = setup.tokens()
    batches = list(setup.batches(rows))[setup.warmup :]
    tokens = sum(int(rows.collate(list(indices)).mask.sum()) for indices in batches)
    every = int(rows.examples.trained_counts.sum())
    rates = {name: [tokens / sum(run["seconds"]) for run in runs] for name, runs in found.items()}
    peaks = {name: statistics.median(run["peak"] for run in runs) for name, runs in found.items()}
    trl, plain = rates["TRL GKD, teacher online"], rates["plain fine-tuning (transformers)"]
    table = Table(title=f"{tokens / len(batches):,.0f} trained tokens a step, {setup.steps} steps, {len(trl)} rounds")
    for column in ("", "tokens/s", "x TRL", "step / plain", "peak MiB", "/ TRL", "1 epoch", "3", "10, x TRL"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name, rate in rates.items():
        encoding = next((each for each in label_seconds if each in name), None)
        once = label_seconds[encoding] if encoding else 0.0
        per_epoch = every / statistics.median(rate)
        whole = [n * every / statistics.median(trl) / (once + n * per_epoch) for n in (1, 3, 10)]
        table.add_row(
            name,
            f"{statistics.median(rate):,.0f}",
            f"{statistics.median(a / b for a, b in zip(rate, trl, strict=True)):.2f}",
            f"{statistics.median(b / a for a, b in zip(rate, plain, strict=True)):.2f}",
            f"{peaks[name] / 2**20:,.0f}",
            f"{peaks[name] / peaks['TRL GKD, teacher online']:.2f}",
            *(f"{each:.2f}" for each in whole),
        )
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)
    if setup.on_cuda:
        console.print(torch.cuda.get_device_name())
    for encoding, seconds in label_seconds.items():
        console.print(f"labelling {every:,} tokens, {encoding}: {every / seconds:,.0f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the teacher")
    parser.add_argument("--data", type=Path, required=True, help="rows of dialogues or completions")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, default=8, help="layers of the student")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=248)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        sizes = (args.layers, args.batch, args.length, args.rows, args.steps, args.warmup)
        setup = Setup(args.model, args.data, work, *sizes, torch.device(args.device))
        if args.contender:
            print(json.dumps(measured(setup, args.contender)))
            return
        arguments = [*sys.argv[1:], "--work", str(work)]
        label_seconds = {name: label(setup, encoding, work / name) for name, encoding in ENCODINGS.items()}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for turn in range(args.rounds):
            for name in list(CONTENDERS) if turn % 2 else reversed(CONTENDERS):
                found[name].append(in_a_process(arguments, name))
        report(setup, found, label_seconds)


if __name__ == "__main__":
    main()
