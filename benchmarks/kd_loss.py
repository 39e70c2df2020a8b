"""Time and memory of a distillation loss through head and softmax, against plain autograd and other packages.

    pip install -e '.[bench]' && python benchmarks/kd_loss.py

Each contender does the same work: logits of student and teacher from their last hidden states, forward KL at
temperature 1, and the gradients by the student's hidden states and head; in float32 on a CPU, with everything in
bfloat16 on a CUDA device. Those that read a stored teacher have no teacher head to multiply with. Contenders are
alternated in one process, and times are ratios to plain autograd in the same round; the median is shown. Memory is the
peak above the inputs in a process of its own (Linux). The floor is the matrix products of the dense contenders alone,
in chunks of the rows that the chunked loss takes. The error is what is left of the gradients, whatever their scale,
when the direction of those in float64 is taken out, as a share of them.
"""

import argparse
import importlib.util
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from potstill.divergences import ForwardKL, kl_divergence
from potstill.losses.chunked import chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.terms import HardTerm, SoftTerm, Term
from potstill.targets import Head, HiddenTargets, Mass, Target, TopKTargets
from resident import forget_peak, release_unused, resident_bytes

HEAD, RANK = 32, 96
KL = SoftTerm("soft_targets", ForwardKL(), 1.0, 1.0)
HARD = HardTerm("hard_labels", 0.5)


@dataclass(frozen=True)
class Problem:
    """Hidden states and heads of student and teacher, as after a forward pass."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.weight]


Gradients = tuple[Tensor, ...]
Contender = Callable[[Problem], Callable[[], Gradients]]


@dataclass(frozen=True)
class Setup:
    """Sizes, and where and in which type the inputs lie."""

    vocabulary: int
    positions: int
    student: int
    teacher: int
    device: str
    dtype: torch.dtype

    def problem(self) -> Problem:
        generator = torch.Generator().manual_seed(0)

        def normal(rows: int, columns: int, scale: float) -> Tensor:
            drawn = torch.randn(rows, columns, generator=generator) * scale
            return drawn.to(self.device, self.dtype)

        return Problem(
            normal(self.positions, self.student, 1.0).requires_grad_(),
            normal(self.vocabulary, self.student, self.student**-0.5).requires_grad_(),
            normal(self.positions, self.teacher, 1.0),
            normal(self.vocabulary, self.teacher, 2 * self.teacher**-0.5),
            torch.randint(0, self.vocabulary, (self.positions,), generator=generator).to(self.device),
        )


def plain(given: Problem) -> Callable[[], Gradients]:
    def step() -> Gradients:
        with torch.no_grad():
            teacher = given.teacher_hidden @ given.teacher_weight.T
        value = kl_divergence(teacher, given.hidden @ given.weight.T, temperature=1.0).sum()
        return torch.autograd.grad(value, given.leaves)

    return step


def floor(given: Problem) -> Callable[[], Gradients]:
    rows = Head(given.weight).chunk_rows

    @torch.no_grad()
    def step() -> Gradients:
        by_weight, by_hidden = torch.zeros_like(given.weight), torch.zeros_like(given.hidden)
        for start in range(0, len(given.hidden), rows):
            chunk = slice(start, start + rows)
            logits = given.hidden[chunk] @ given.weight.T
            _ = given.teacher_hidden[chunk] @ given.teacher_weight.T
            by_hidden[chunk] = logits @ given.weight
            by_weight.addmm_(logits.T, given.hidden[chunk])
        return by_hidden, by_weight

    return step


def chunked(teacher: Callable[[Problem], Target | None], *terms: Term, compiled: bool, share: float = 1.0) -> Contender:
    def contender(given: Problem) -> Callable[[], Gradients]:
        kernels = Kernels(compiled=compiled)
        target = teacher(given)
        kept = torch.arange(len(given.labels), device=given.labels.device) < round(share * len(given.labels))

        def step() -> Gradients:
            with torch.no_grad():
                said = target if target is not None else HiddenTargets(given.teacher_hidden[kept], dense_head(given))
            hidden = given.hidden if share == 1 else given.hidden[kept]
            labels = given.labels[kept]
            total = chunked_loss(hidden, Head(given.weight), labels, said, terms, kernels=kernels).total
            return torch.autograd.grad(total, given.leaves)

        return step

    return contender


def dense_head(given: Problem) -> Head:
    return Head(given.teacher_weight)


def online(given: Problem) -> Target | None:
    return None


def mass(given: Problem) -> Mass:
    generator = torch.Generator().manual_seed(1)
    positions, vocabulary = len(given.labels), len(given.weight)
    # Distinct tokens all over the vocabulary.
    first = torch.randint(0, vocabulary, (positions, 1), generator=generator)
    ids = (first + torch.arange(HEAD) * (vocabulary // HEAD)) % vocabulary
    logits = torch.randn(positions, HEAD, generator=generator)
    there = given.labels.device
    return Mass(ids.to(there), logits.to(there), torch.full((positions, 1), -2.0, device=there), (1.0,), vocabulary)


def top_k(given: Problem) -> Target:
    return TopKTargets(mass(given))


def low_rank(given: Problem) -> Target:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(-127, 128, (len(given.labels), RANK), generator=generator, dtype=torch.int8)
    factor = torch.randn(len(given.weight), RANK, generator=generator) / (127 * RANK**0.5)
    there = given.labels.device
    offset = torch.zeros(len(given.weight), device=there)
    return HiddenTargets(codes.to(there), Head(factor.to(there), offset), mass(given))


def trl_gkd(given: Problem) -> Callable[[], Gradients]:
    from trl.experimental.gkd import GKDTrainer

    def step() -> Gradients:
        with torch.no_grad():
            teacher = given.teacher_hidden @ given.teacher_weight.T
        student = given.hidden @ given.weight.T
        labels = given.labels[None]
        value = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], labels, beta=0)
        return torch.autograd.grad(value, given.leaves)

    return step


def trl_chunked(given: Problem) -> Callable[[], Gradients]:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def step() -> Gradients:
        value, *_ = _chunked_divergence_loss(
            given.hidden[None],
            given.teacher_hidden[None],
            given.weight,
            given.teacher_weight,
            torch.ones_like(given.labels)[None],
            beta=0.0,
        )
        return torch.autograd.grad(value, given.leaves)

    return step


def torchtune(given: Problem) -> Callable[[], Gradients]:
    # From its file, which needs torch alone: the package as a whole cannot be imported beside a recent torch.
    package = importlib.util.find_spec("torchtune")
    assert package is not None and package.submodule_search_locations
    source = Path(package.submodule_search_locations[0]) / "modules/loss/kd_losses.py"
    spec = importlib.util.spec_from_file_location("torchtune_kd_losses", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss = module.ForwardKLWithChunkedOutputLoss()

    def step() -> Gradients:
        pieces = loss.num_output_chunks
        with torch.no_grad():
            teacher = [each[None] @ given.teacher_weight.T for each in given.teacher_hidden.chunk(pieces)]
        student = [each[None] @ given.weight.T for each in given.hidden.chunk(pieces)]
        return torch.autograd.grad(loss(student, teacher, given.labels[None]), given.leaves)

    return step


def liger(*, compiled: bool) -> Contender:
    def contender(given: Problem) -> Callable[[], Gradients]:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled)

        def step() -> Gradients:
            value = loss(given.hidden, given.weight, given.teacher_hidden, given.teacher_weight, given.labels)
            return torch.autograd.grad(value, given.leaves)

        return step

    return contender


CONTENDERS: dict[str, Contender] = {
    "plain autograd": plain,
    "floor: matrix products": floor,
    "potstill, teacher online": chunked(online, KL, compiled=False),
    "potstill, teacher online, compiled": chunked(online, KL, compiled=True),
    "the same + hard labels": chunked(online, KL, HARD, compiled=True),
    "the same, half of it masked": chunked(online, KL, compiled=True, share=0.5),
    "potstill, top_k": chunked(top_k, KL, compiled=False),
    "potstill, top_k, compiled": chunked(top_k, KL, compiled=True),
    "potstill, low_rank, compiled": chunked(low_rank, KL, compiled=True),
    "TRL GKD": trl_gkd,
    "TRL chunked": trl_chunked,
    "torchtune chunked": torchtune,
    "Liger chunked": liger(compiled=False),
    "Liger chunked, compiled": liger(compiled=True),
}
PACKAGES = {"TRL": "trl", "torchtune": "torchtune", "Liger": "liger_kernel"}


def present(name: str) -> bool:
    package = PACKAGES.get(name.split()[0])
    return package is None or importlib.util.find_spec(package) is not None


DIFFERENT = re.compile("floor|hard labels|masked|top_k|low_rank")
"""Contenders that compute something else than the gradients of the dense loss."""


def error(wanted: Tensor, found: Gradients) -> float:
    """Share of the gradients that is not along those wanted."""
    direction = torch.cat([each.flatten().double() for each in found])
    along = wanted * (direction @ wanted / (wanted @ wanted))
    return ((direction - along).norm() / along.norm()).item()


@torch.no_grad()
def exact_gradients(inputs: Problem) -> Tensor:
    """Those of the forward KL in float64: softmax(student) - softmax(teacher), multiplied out, few rows at a time."""
    given = Problem(*(each.double() if each.is_floating_point() else each for each in vars(inputs).values()))
    by_hidden, by_weight = torch.zeros_like(given.hidden), torch.zeros_like(given.weight)
    for rows in torch.arange(len(given.hidden), device=given.hidden.device).split(128):
        student = (given.hidden[rows] @ given.weight.T).softmax(dim=1)
        gradient = student - (given.teacher_hidden[rows] @ given.teacher_weight.T).softmax(dim=1)
        by_hidden[rows] = gradient @ given.weight
        by_weight += gradient.T @ given.hidden[rows]
    return torch.cat([by_hidden.flatten(), by_weight.flatten()])


def peak_above_inputs(step: Callable[[], object], device: str) -> int:
    """Peak bytes of one step above those before it: allocated on a CUDA device, resident on a CPU."""
    step()  # compiles, and fills what is kept between steps
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    release_unused()
    forget_peak()
    before = resident_bytes()
    step()
    return resident_bytes(peak=True) - before


def memory_of(name: str, setup: Setup) -> int:
    sizes = [setup.vocabulary, setup.positions, setup.student, setup.teacher]
    arguments = [sys.executable, __file__, "--memory-of", name, "--sizes", *map(str, sizes), "--device", setup.device]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def times(names: list[str], given: Problem, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of each step, and the errors of those that compute the same."""
    wait = torch.cuda.synchronize if given.labels.is_cuda else lambda: None
    steps = {name: CONTENDERS[name](given) for name in names}
    wanted, errors = exact_gradients(given), {}
    for name, step in steps.items():
        found = step()
        if not DIFFERENT.search(name):
            errors[name] = error(wanted, found)
        del found
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            wait()
            start = time.perf_counter()
            steps[name]()
            wait()
            taken[name].append(1000 * (time.perf_counter() - start))
    return taken, errors


def table(setup: Setup, names: list[str], rounds: int) -> Table:
    if setup.device == "cuda":
        # The allocator knows what each step took, whatever ran before it.
        given = setup.problem()
        peaks = {name: peak_above_inputs(CONTENDERS[name](given), "cuda") for name in names}
        del given
    else:
        peaks = {name: memory_of(name, setup) for name in names}
    taken, errors = times(names, setup.problem(), rounds)
    sizes = f"V = {setup.vocabulary:,}, N = {setup.positions:,}, hidden {setup.student} / {setup.teacher}"
    shown = Table(title=f"{sizes}, {str(setup.dtype).removeprefix('torch.')} on {setup.device}, {rounds} rounds")
    for column in ("", "ms", "time / plain", "range", "time / floor", "peak MiB", "peak / plain", "error"):
        shown.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for name in names:
        ratios = [a / b for a, b in zip(taken[name], taken["plain autograd"], strict=True)]
        floors = [a / b for a, b in zip(taken[name], taken["floor: matrix products"], strict=True)]
        shown.add_row(
            name,
            f"{statistics.median(taken[name]):,.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{statistics.median(floors):.2f}",
            f"{peaks[name] / 2**20:,.0f}",
            f"{peaks[name] / peaks['plain autograd']:.2f}",
            f"{errors[name]:.1e}" if name in errors else "",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 129_280])
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--widths", type=int, nargs=2, default=[576, 1024], help="hidden size of student and teacher")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help="a regular expression; plain autograd and the floor always run")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    if args.memory_of:
        setup = Setup(*args.sizes, args.device, dtype)
        print(peak_above_inputs(CONTENDERS[args.memory_of](setup.problem()), args.device))
        return
    wanted = re.compile(args.only or "")
    names = [name for number, name in enumerate(CONTENDERS) if number < 2 or (present(name) and wanted.search(name))]
    console = Console()
    console.width = max(console.width, 140)
    for vocabulary in args.vocabularies:
        console.print(table(Setup(vocabulary, args.positions, *args.widths, args.device, dtype), names, args.rounds))
    for package in PACKAGES.values():
        if importlib.util.find_spec(package) is None:
            console.print(f"{package} is not installed: pip install -e '.[bench]'", markup=False)


if __name__ == "__main__":
    main()
