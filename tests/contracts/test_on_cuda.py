"""The chunked core on a CUDA device against itself on the CPU in float64."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from potstill.cross_tokenizer import RetellingTeacher
from potstill.data.dialogues import PlainText
from potstill.divergences import ForwardKL
from potstill.labels import exact_head
from potstill.labels.host import to_host
from potstill.labels.positions import on_host
from potstill.products import add_product, wide_product
from potstill.runtimes.ensemble import EnsemblePredictor
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.signals import Batch, Signals
from potstill.targets import GroupedTarget, Head, LogitTargets, plain_log_sum_exp
from potstill.tasks import CausalLM
from potstill.teachers import Mixture, Routed
from tests.contracts.device_cases import CPU, ENCODINGS, GRID, STATES, TEACHER_HEAD, agree, drawn, run, terms_for
from tests.contracts.reference import DIVERGENCES
from tests.contracts.test_ensembles import ENSEMBLES
from tests.contracts.test_other_tokens import WHOLE
from tests.two_vocabularies import AtRandom

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _uncompiled_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker of types that these tests run under cannot be traced; `test_compiled.py` compares compiled labels."""
    monkeypatch.setattr(exact_head, "_compiled_tails", lambda: SimpleNamespace(tails=exact_head.log_tails))


@pytest.mark.parametrize("soft_cap", [None, 20.0])
@pytest.mark.parametrize("kind", ["states", "logits", "top_k", "low_rank", "hidden"])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.kind)
def test_the_device_changes_nothing(divergence: Any, kind: str, soft_cap: float | None) -> None:
    terms = terms_for(divergence, 2.0)
    expected = run(kind, terms, CPU, torch.float64, soft_cap=soft_cap)
    agree(
        run(kind, terms, CUDA, torch.float64, soft_cap=soft_cap),
        expected,
        1e-9 if kind in ("states", "logits") else 1e-5,
    )
    # Where p and q are nearly equal, last bits decide the sign of a total variation's gradient.
    digits = 2e-3 if divergence.kind == "total_variation" else 2e-5
    agree(run(kind, terms, CUDA, torch.float32, soft_cap=soft_cap), expected, digits)


@pytest.mark.parametrize("kind", ["states", "low_rank"])
def test_under_autocast_the_sums_of_products_are_not_rounded(kind: str) -> None:
    """The factors are numbers of bfloat16 here, so that nothing but the rounding of sums could change the loss."""
    terms = terms_for(ForwardKL(), 1.0)
    expected, slopes = run(kind, terms, CPU, torch.float64)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found, gradients = run(kind, terms, CUDA, torch.float32)
    # The factor of low_rank is rounded, which moves the tail a little; the states of a teacher are not.
    torch.testing.assert_close(found, expected, rtol=1e-5 if kind == "states" else 1e-3, atol=0)
    for gradient, wanted in zip(gradients, slopes, strict=True):
        assert (gradient - wanted).norm() <= 0.01 * wanted.norm()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_labels_are_the_same_wherever_they_are_made(encoding: str) -> None:
    codec = ENCODINGS[encoding].fit(STATES.float(), Head(TEACHER_HEAD.weight.float()), GRID)
    logits = TEACHER_HEAD.logits(STATES).float()
    here = on_host(codec.encode(STATES.float(), logits.clone()))
    there = on_host(to_host(codec.encode(STATES.float().to(CUDA), logits.to(CUDA)))())
    assert here.keys() == there.keys()
    for name, column in here.items():
        # Ties and last bits are the only differences.
        same = np.isclose(column.astype("float64"), there[name].astype("float64"), rtol=2e-3, atol=1e-6)
        assert same.mean() > 0.995, name


def test_what_is_copied_beside_other_work_arrives_whole() -> None:
    made = drawn(3000, 700, seed=4).float().to(CUDA)
    arrived = to_host(([3, 4], {"codes": made * 2}))
    # It would overwrite what the copy reads, if the copy did not hold it.
    del made
    for _ in range(20):
        torch.full((3000, 700), -1.0, device=CUDA)
    counts, columns = arrived()
    assert counts == [3, 4] and columns["codes"].is_pinned()
    torch.testing.assert_close(columns["codes"], drawn(3000, 700, seed=4).float() * 2)


def test_an_encoding_can_be_fitted_there() -> None:
    for encoding in ENCODINGS.values():
        head = replace(TEACHER_HEAD, weight=TEACHER_HEAD.weight.float().to(CUDA))
        codec = encoding.fit(STATES.float().to(CUDA), head, GRID)
        columns = codec.encode(STATES.float().to(CUDA), head.logits(STATES.float().to(CUDA)))
        assert set(columns) == set(codec.columns)


def test_products_of_half_precision_keep_their_sums() -> None:
    first, second = drawn(70, 900, seed=6), drawn(900, 130, seed=7)
    exact = first @ second
    halves = first.to(CUDA, torch.bfloat16), second.to(CUDA, torch.bfloat16)
    buffer = torch.empty(70, 130, device=CUDA)
    for found in (wide_product(*halves), wide_product(*halves, out=buffer), buffer):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double().cpu(), exact, rtol=1e-4, atol=1e-3)
    add_product(buffer, *halves)
    torch.testing.assert_close(buffer.double().cpu(), 2 * exact, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("settings", ENSEMBLES)
def test_language_models_answer_together_there(settings: Mixture | Routed, chat_teacher_folder: Path) -> None:
    """Their distributions at each token, and what they write."""
    task = CausalLM(max_length=64)
    tokenizer = task.load_tokenizer(str(chat_teacher_folder))
    rows = [PlainText(name, "what colour is the ball ?", domain=name) for name in ("x", "y")]
    encoded = task.encode(rows, tokenizer)

    def answers(device: torch.device) -> tuple[torch.Tensor, list[int]]:
        members: dict[str, Predictor] = {
            name: open_predictor(
                ModelFolder(chat_teacher_folder), task=task, tokenizer=tokenizer, device=device, batch_size=2
            )
            for name in settings.of
        }
        together = EnsemblePredictor(settings, members, task, rows)
        together.answers_rows(encoded)
        batch: Batch = encoded.collate([0])
        logits = together.target(batch).logits_at(slice(None), 1.0, plain_log_sum_exp)
        return torch.log_softmax(logits, dim=-1), together.write(rows[0], [2, 4, 6], 4, ())

    (there, written), (here, expected) = answers(CUDA), answers(CPU)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)
    assert len(written) == len(expected) == 4


def test_a_teacher_of_other_tokens_says_the_same_there() -> None:
    pair = WHOLE["words, longer for the teacher"]
    rows = pair.aligned
    batch = rows.student.collate(range(len(rows.student.lengths)))
    logits = drawn(int(batch.mask.sum()), len(pair.student), seed=2)

    def told(device: torch.device) -> torch.Tensor:
        teacher = AtRandom(rows, 1)

        def there(own: Batch) -> Signals:
            target = teacher(own).target
            assert isinstance(target, LogitTargets)
            return Signals(target=LogitTargets(target.logits.to(device)))

        target = RetellingTeacher(there, rows, device)(batch).target
        assert isinstance(target, GroupedTarget)
        beside = target.logits_beside(logits.to(device), slice(None), 2.0, plain_log_sum_exp)
        assert beside.device.type == device.type
        return beside.cpu()

    torch.testing.assert_close(told(CUDA), told(CPU), rtol=1e-9, atol=1e-9)
