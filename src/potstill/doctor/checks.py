"""Equalities that training promises, tried here on tiny models: each with the largest difference that was found.

They run the modules that a recipe runs: its losses, its label store, its training loop. A machine on which one of them
does not hold computes something else than what a recipe says.
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from potstill.data.encoded import Encoded
from potstill.doctor import tiny
from potstill.errors import PotstillError
from potstill.labels import Dense, Fitted, LabelSource, LabelStore, LowRank, StoredTeacher
from potstill.labels.labelling import label_rows
from potstill.labels.row_encoders import RowEncoder, TokensOfRows, WholeRows
from potstill.losses.chunked import chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.terms import TermLoss
from potstill.progress import Progress, unseen
from potstill.signals import Batch, Signals
from potstill.targets import HiddenTargets
from potstill.tasks.causal_lm import ask_for_hidden_states, head_of
from potstill.teachers import FrozenTeacher
from potstill.training.loop import Job, fit
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess

ROUNDING = 1e-4
"""Share by which float32 may differ when sums are taken in another order: it has seven digits, and a tiny model loses
one or two of them on the way through its layers."""
DRIFT = 1e-3
"""The same after a few steps of AdamW, which divides by the size of the gradient and so makes rounding larger."""
STORED = 1e-2
"""The same for labels of a language model, which are stored in 8 and 16 bits."""
GRID = (1.0, 1.5, 2.0)
_FAMILIES = ("bert", "llama")

Compared = tuple[Tensor, ...]
"""What is compared with another of the same kinds, each kind by itself: a gradient has not the size of a loss."""


@dataclass(frozen=True)
class Check:
    """One equality on one model, and how far it was from holding."""

    name: str
    model: str
    difference: float
    """The largest, as a share of the largest value that was compared."""
    tolerance: float
    error: str = ""
    """Why there is no difference to tell, where something failed."""

    @property
    def holds(self) -> bool:
        # What is no number is no equality.
        return not self.error and self.difference <= self.tolerance

    @property
    def line(self) -> str:
        verdict = "ok    " if self.holds else "FAILED"
        found = self.error or f"differs by {self.difference:.1e}, at most {self.tolerance:.0e} is allowed"
        if not self.error and self.tolerance == 0:
            found = "bitwise equal" if self.difference == 0 else f"differs by {self.difference:.1e}, none is allowed"
        return f"{verdict} {self.name:18} {self.model:6} {found}"


@dataclass(frozen=True)
class Equality:
    """What must be equal, and how it is tried on a device, with a folder to write in."""

    name: str
    model: str
    tolerance: float
    difference: Callable[[torch.device, Path], float]

    def tried(self, device: torch.device) -> Check:
        with tempfile.TemporaryDirectory(prefix="potstill-doctor-") as folder:
            try:
                return Check(self.name, self.model, self.difference(device, Path(folder)), self.tolerance)
            except (PotstillError, RuntimeError) as error:
                # RuntimeError is what torch raises where a device or one of its kernels fails.
                reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
                return Check(self.name, self.model, math.nan, self.tolerance, reason)


def run_checks(device: torch.device) -> Iterator[Check]:
    """All equalities on this device, as they are found."""
    return (equality.tried(device) for equality in EQUALITIES)


def chunked_is_whole(device: torch.device, folder: Path) -> float:
    """The loss through head and loss in chunks of five positions against that of the model's own logits."""
    student, teacher = tiny.llama(0).to(device), tiny.llama(9)
    batch = tiny.dialogues(24, 1).collate(range(6)).to(device)
    loss, progress = tiny.mixed_loss(), 0.5
    frozen = FrozenTeacher(teacher, device, ask_for_hidden_states)
    outputs = ask_for_hidden_states(student, batch)
    assert outputs.hidden is not None and outputs.head is not None
    chunked = chunked_loss(
        outputs.hidden[batch.mask],
        outputs.head,
        batch.labels[batch.mask],
        frozen(batch).target,
        [each.term_at(progress) for each in loss.losses if isinstance(each, TermLoss)],
        kernels=Kernels(compiled=False),
        rows_at_once=5,
    ).total
    with torch.no_grad():
        teacher_logits = teacher(**batch.inputs, use_cache=False).logits
    own = student(**batch.inputs, use_cache=False).logits
    whole = loss(Signals(logits=own), Signals(logits=teacher_logits), batch, progress=progress).total
    return _farthest(_loss_and_gradient(chunked, student), _loss_and_gradient(whole, student))


def packed_is_not(device: torch.device, folder: Path) -> float:
    """The loss of examples that share rows against that of the same examples in rows of their own."""
    student, teacher = tiny.llama(0).to(device), FrozenTeacher(tiny.llama(9), device, ask_for_hidden_states)
    found = []
    for packing in (True, False):
        rows = tiny.dialogues(24, 1, packing=packing)
        batch = rows.collate(range(len(rows.rows))).to(device)
        total = tiny.mixed_loss()(ask_for_hidden_states(student, batch), teacher(batch), batch, progress=0.5).total
        found.append(_loss_and_gradient(total, student))
    return _farthest(*found)


def accumulated_is_not(family: str, device: torch.device, folder: Path) -> float:
    """Loss and gradient of each step with all of its rows at once against those with one row at a time."""
    runs = []
    for size in (tiny.BATCH, 1):
        fit(tiny.job(family, device, micro_batch_size=size), folder / str(size), OneProcess(device), Progress())
        runs.append(_steps(folder / str(size), "loss", "gradient_norm"))
    return _farthest(*runs)


def stored_is_online(family: str, device: torch.device, folder: Path) -> float:
    """Loss and gradient of each step from the store of a teacher's labels against those from the teacher itself."""
    labels = _store_texts(device, folder) if family == "bert" else _store_dialogues(device, folder)
    online = tiny.job(family, device)
    runs = []
    for name, teacher in (("online", online.teacher), ("stored", StoredTeacher(labels, device))):
        fit(replace(tiny.job(family, device), teacher=teacher), folder / name, OneProcess(device), Progress())
        runs.append(_steps(folder / name, "soft_targets", "gradient_norm"))
    return _farthest(*runs)


def resumed_is_not(family: str, device: torch.device, folder: Path) -> float:
    """The weights after a training that was broken off between two checkpoints against one that was not.

    With dropout, in two micro-batches a step, over more than one epoch. On a CUDA device attention over many tokens
    adds its gradients in any order, so there even two trainings that nobody stopped differ; not over as few as here.
    """

    def made() -> Job:
        return tiny.job(family, device, dropout=0.1, micro_batch_size=5)

    whole, broken, resumed = made(), made(), made()
    fit(whole, folder / "whole", OneProcess(device), Progress())
    with contextlib.suppress(_BrokenOff):
        fit(replace(broken, at_step={3: _break_off}), folder / "broken", OneProcess(device), Progress())
    fit(resumed, folder / "broken", OneProcess(device), Progress())
    return _farthest(
        (_weights(resumed.model), *_steps(folder / "broken", "loss")),
        (_weights(whole.model), *_steps(folder / "whole", "loss")),
    )


class _BrokenOff(Exception):
    """What ends a training in the middle."""


def _break_off() -> None:
    raise _BrokenOff


def _loss_and_gradient(total: Tensor, model: nn.Module) -> Compared:
    gradients = torch.autograd.grad(total, list(model.parameters()))
    return total.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients])


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def _steps(folder: Path, *names: str) -> Compared:
    """These metrics of each step."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]
    return tuple(torch.tensor([line[name] for line in lines], dtype=torch.float64) for name in names)


def _farthest(found: Compared, expected: Compared) -> float:
    """The largest difference, as a share of the largest value of its kind."""
    if [each.shape for each in found] != [each.shape for each in expected]:
        return math.inf
    shares = [(one - other).abs().max() / other.abs().max() for one, other in zip(found, expected, strict=True)]
    # Not max() of numbers, which may pass over what is none.
    return float(torch.stack([share.double().cpu() for share in shares]).max())


def _about(family: str, classes: int) -> LabelSource:
    names = tuple(f"class {number}" for number in range(classes))
    return LabelSource(teacher=family, tokenizer=family, data=family, labels=names, max_length=30, precision="float32")


def _store_texts(device: torch.device, folder: Path) -> LabelStore:
    """Labels of whole rows, asked for in other batches than training has."""
    job = tiny.job("bert", device)

    def logits_of(batch: Batch) -> Tensor:
        logits = job.teacher(batch).logits
        assert logits is not None
        return logits

    return _store_of(folder, tiny.texts(37, 1), logits_of, WholeRows(Dense()), _about("bert", tiny.CLASSES))


def _store_dialogues(device: torch.device, folder: Path) -> LabelStore:
    """Labels of positions in the default encoding, of examples that are in rows of their own."""
    teacher = tiny.llama(9)
    frozen = FrozenTeacher(teacher, device, ask_for_hidden_states)
    rows = tiny.dialogues(48, 1, packing=False)
    head = head_of(teacher)

    def hidden_of(batch: Batch) -> Tensor:
        target = frozen(batch).target
        assert isinstance(target, HiddenTargets)
        return target.hidden

    encoding = LowRank(head=16, rank=16)
    codec = encoding.fit(hidden_of(rows.collate(range(len(rows.rows)))), head, GRID)
    fitted = Fitted(encoding, codec, tiny.VOCABULARY, GRID, ())
    return _store_of(folder, rows, hidden_of, TokensOfRows(fitted, head), _about("llama", 0))


def _store_of(
    folder: Path, rows: Encoded, forward: Callable[[Batch], Tensor], encoder: RowEncoder[Tensor], about: LabelSource
) -> LabelStore:
    store = folder / "labels"
    store.mkdir()
    label_rows(store, rows, forward, encoder, about, batch_size=5, batches_per_shard=2, advance=unseen)
    return LabelStore(store)


EQUALITIES = (
    Equality("chunked = whole", "llama", ROUNDING, chunked_is_whole),
    Equality("packed = not", "llama", ROUNDING, packed_is_not),
    *(Equality("accumulated = not", family, DRIFT, partial(accumulated_is_not, family)) for family in _FAMILIES),
    Equality("stored = online", "bert", DRIFT, partial(stored_is_online, "bert")),
    Equality("stored = online", "llama", STORED, partial(stored_is_online, "llama")),
    *(Equality("resumed = not", family, 0.0, partial(resumed_is_not, family)) for family in _FAMILIES),
)
