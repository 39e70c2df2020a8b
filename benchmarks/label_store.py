"""Size and truth of stored labels: each encoding, and the published formats, on a real teacher.

    python benchmarks/label_store.py --model FOLDER --data data/train.jsonl

For students that are the teacher's own first layers under its last norm and head, the gradient of the KL by the
logits is computed from the stored labels and from the full distribution. Shown is the angle between the two at a
position in degrees, the mean over positions, for a student that is far from the teacher, between, and near; and
KL(p || stored), which no student enters. The bias is how far the mean over many drawings of what is stored at T = 1 is
from the distribution, as a share of its norm; its variance is taken out, so chance shows as 0 or near it. The fit of an
encoding sees other positions than the measurement.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.data.chat_tokens import ChatTokens
from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.packing import pack
from potstill.divergences import ForwardKL
from potstill.labels.error import as_tensors, measure_error, stored_distribution
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.positions import Codec, bytes_per_position
from potstill.labels.sampled import Sampled
from potstill.labels.top_k import TopK
from potstill.losses.chunked import logit_terms
from potstill.losses.kernels import Kernels
from potstill.losses.terms import SoftTerm
from potstill.targets import Head, LogitTargets, Target

CHUNK = 64
DRAWINGS = 64
PLAIN = Kernels(compiled=False)


@dataclass(frozen=True)
class States:
    """Last hidden states at the trained positions: the teacher's, and those of students made of its first layers."""

    teacher: Tensor
    students: list[Tensor]
    head: Head


def states(folder: str, data: Path, layers: Sequence[int], positions: int) -> States:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = ChatTokens(tokenizer, max_length=512)
    examples, _ = tokens.tokenise(read_dialogues(data, Columns()))
    rows = pack(examples, max_length=512, pad_id=tokenizer.pad_token_id or 0)
    teacher: list[Tensor] = []
    students: list[list[Tensor]] = [[] for _ in layers]
    count = 0
    for index in range(len(rows.rows)):
        batch = rows.collate([index])
        with torch.inference_mode():
            out = model.model(**batch.inputs, use_cache=False, output_hidden_states=True)
            for kept, layer in zip(students, layers, strict=True):
                kept.append(model.model.norm(out.hidden_states[layer][batch.mask]))
        teacher.append(out.last_hidden_state[batch.mask])
        count += len(teacher[-1])
        if count >= positions:
            break
    head = Head(model.get_output_embeddings().weight.detach())
    return States(torch.cat(teacher)[:positions], [torch.cat(each)[:positions] for each in students], head)


def gradient(logits: Tensor, target: Target, temperature: float) -> Tensor:
    terms = (SoftTerm("soft_targets", ForwardKL(), 1.0, temperature),)
    labels = torch.full((len(logits),), -100)
    made = logits.clone()
    logit_terms(made, labels, target, slice(None), terms, kernels=PLAIN)
    return made


class TopKRenormalised:
    """Top-k probabilities that are made to sum to one, with no word of the rest: what most toolkits store."""

    def __init__(self, k: int) -> None:
        self.k = k

    def target(self, logits: Tensor, temperature: float) -> Target:
        top = logits.topk(self.k, dim=1)
        whole = torch.full_like(logits, -1e4).scatter(1, top.indices, top.values)
        return LogitTargets(whole)


class RandomSampling:
    """n draws with replacement from p, counted (Sparse Logit Sampling, arXiv:2503.16870)."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.generator = torch.Generator().manual_seed(0)

    def target(self, logits: Tensor, temperature: float) -> Target:
        drawn = torch.multinomial(torch.softmax(logits, dim=1), self.n, True, generator=self.generator)
        weights = torch.zeros_like(logits).scatter_add(1, drawn, torch.full(drawn.shape, 1 / self.n))
        # At another temperature than 1 there is nothing better to do with counts than to temper them.
        return LogitTargets(temperature * (weights.clamp(min=1e-30).log() / temperature))


Published = TopKRenormalised | RandomSampling


def angles(
    known: States, rows: slice, make: Callable[[Tensor, Tensor, float], Target], temperature: float
) -> list[float]:
    """Degrees between stored and full gradients at a position, the mean over positions, for each student."""
    sums = np.zeros(len(known.students))
    for start in range(rows.start, rows.stop, CHUNK):
        chunk = slice(start, min(start + CHUNK, rows.stop))
        hidden = known.teacher[chunk]
        logits = known.head.logits(hidden)
        target = make(hidden, logits, temperature)
        for number, student in enumerate(known.students):
            said = known.head.logits(student[chunk])
            stored = gradient(said, target, temperature).double()
            full = gradient(said, LogitTargets(logits), temperature).double()
            cosine = torch.nn.functional.cosine_similarity(stored, full, dim=1).clamp(-1, 1)
            sums[number] += torch.rad2deg(cosine.acos()).sum().item()
    return [float(each) / (rows.stop - rows.start) for each in sums]


def bias(known: States, rows: slice, makes: Sequence[Callable[[Tensor, Tensor, float], Target]]) -> float:
    """From one way to make a target for each drawing: what is left of the distance when its variance is taken out."""
    hidden = known.teacher[rows][:CHUNK]
    logits = known.head.logits(hidden)
    p = torch.softmax(logits, dim=1)
    draws = torch.zeros_like(p), torch.zeros_like(p)
    for make in makes:
        stored = stored_distribution(make(hidden, logits, 1.0), 1.0, logits.shape[1])[0].exp()
        for total, power in zip(draws, (1, 2), strict=True):
            total += stored**power / len(makes)
    mean, square = draws
    several = max(1, len(makes) - 1)
    noise = (square - mean**2).sum(dim=1) / several if len(makes) > 1 else torch.zeros(len(p))
    off = ((mean - p) ** 2).sum(dim=1) - noise
    return (off.mean().clamp(min=0).sqrt() / (p**2).sum(dim=1).mean().sqrt()).item()


def codec_target(codec: Codec) -> Callable[[Tensor, Tensor, float], Target]:
    return lambda hidden, logits, temperature: codec.target(as_tensors(codec.encode(hidden, logits.clone())))


def published_target(published: Published) -> Callable[[Tensor, Tensor, float], Target]:
    return lambda hidden, logits, temperature: published.target(logits, temperature)


def rates(codec: Codec, known: States, rows: slice) -> tuple[float, float]:
    """Positions a second: from hidden states and logits to columns, and from columns to what a loss reads."""
    hidden = known.teacher[rows][:CHUNK]
    logits = known.head.logits(hidden)
    start = time.perf_counter()
    columns = codec.encode(hidden, logits.clone())
    written = time.perf_counter()
    codec.target(as_tensors(columns))
    read = time.perf_counter()
    return len(hidden) / (written - start), len(hidden) / (read - written)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the teacher")
    parser.add_argument("--data", type=Path, required=True, help="rows with messages")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 27, 29], help="layers of the students")
    parser.add_argument("--fit", type=int, default=3000, help="positions that encodings are fitted on")
    parser.add_argument("--test", type=int, default=1000, help="positions that are measured")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    args = parser.parse_args()
    torch.manual_seed(0)
    known = states(args.model, args.data, args.layers, args.fit + args.test)
    count = len(known.teacher)
    assert count > args.fit, f"only {count} positions in the data; --fit takes {args.fit} of them"
    fit, test = known.teacher[: args.fit], slice(args.fit, count)
    grid = tuple(args.temperatures)
    table = Table(title=f"{count - args.fit} positions, V = {len(known.head.weight):,}; far / between / near")
    angle_columns, kl_columns = [f"T={t:g}" for t in grid], [f"KL T={t:g}" for t in grid]
    for column in ("", "bytes", *angle_columns, *kl_columns, "bias", "write/s", "read/s"):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    encodings = (TopK(k=32), TopK(k=128), Sampled(k=16), Sampled(k=24), LowRank(head=16, rank=32), LowRank(), Hidden())
    for encoding in encodings:
        codec = encoding.fit(fit, known.head, grid)
        served = (1.0,) if isinstance(encoding, Sampled) else grid
        errors = {each.temperature: each for each in measure_error(codec, known.teacher[test], known.head, served)}
        shown = [_angles(angles(known, test, codec_target(codec), t)) if t in served else "-" for t in grid]
        kls = [f"{errors[t].kl:.4f}" if t in errors and errors[t].kl is not None else "-" for t in grid]
        speed = [f"{rate:,.0f}" for rate in rates(codec, known, test)]
        codecs = [codec]
        if isinstance(encoding, Sampled):
            codecs = [Sampled(k=encoding.k, seed=seed).fit(fit, known.head, grid) for seed in range(DRAWINGS)]
        off = bias(known, test, [codec_target(each) for each in codecs])
        name = " ".join(f"{value}" for key, value in encoding.model_dump().items() if key != "seed")
        table.add_row(name, f"{bytes_per_position(codec.columns)}", *shown, *kls, f"{off:.1e}", *speed)
    for name, size, published in (
        ("top-50 renormalised", "121 (DistillKit)", TopKRenormalised(50)),
        ("random sampling, n=50", "about 40", RandomSampling(50)),
    ):
        shown = [_angles(angles(known, test, published_target(published), t)) for t in grid]
        drawings = DRAWINGS if isinstance(published, RandomSampling) else 1
        off = bias(known, test, [published_target(published)] * drawings)
        table.add_row(name, size, *shown, *("-" for _ in grid), f"{off:.1e}", "-", "-")
    console = Console()
    console.width = max(console.width, 180)
    console.print(table)


def _angles(found: list[float]) -> str:
    return " / ".join(f"{each:.1f}" for each in found)


if __name__ == "__main__":
    main()
