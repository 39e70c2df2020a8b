"""Teacher and student whose matrices are padded to different numbers of rows: distributions are over the tokens alone,
stored in whatever encoding or asked in each step, and measured over them, too."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.labels.error import as_tensors
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.top_k import TopK
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.measure.language import measure_tokens
from potstill.schedules import Constant
from potstill.signals import IGNORE_INDEX, Batch, Signals
from potstill.targets import HiddenTargets
from potstill.tasks import CausalLM
from potstill.teachers import FrozenTeacher

TOKENS, PADDED = 40, {"teacher": 48, "student": 44}
TEMPERATURE = 2.0
TASK = CausalLM(shared_tokens=TOKENS)


def model(name: str, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=PADDED[name], hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        # Rows of padding with much to say: were they counted, everything would be another distribution.
        made.lm_head.weight.mul_(30)
        made.lm_head.weight[TOKENS:].mul_(3)
    return made


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(5)
    ids = torch.randint(0, TOKENS, (3, 9))
    mask = torch.rand(3, 9) < 0.6
    positions = torch.arange(9).expand(3, 9)
    labels = torch.randint(0, TOKENS, (3, 9)).where(mask, IGNORE_INDEX)
    return Batch(("a", "b", "c"), {"input_ids": ids, "position_ids": positions}, labels, mask)


def naive(of: LlamaForCausalLM, batch: Batch, temperature: float = 1.0) -> Tensor:
    """log-probabilities of the tokens at the positions that count, in float64."""
    with torch.no_grad():
        logits = copy.deepcopy(of).double()(input_ids=batch.inputs["input_ids"]).logits[batch.mask]
    return torch.log_softmax(logits[:, :TOKENS] / temperature, dim=-1)


def online(teacher: LlamaForCausalLM, batch: Batch) -> Signals:
    return FrozenTeacher(teacher, torch.device("cpu"), TASK.ask)(batch)


def stored(encoding: Any) -> Callable[[LlamaForCausalLM, Batch], Signals]:
    def signals(teacher: LlamaForCausalLM, batch: Batch) -> Signals:
        target = online(teacher, batch).target
        assert isinstance(target, HiddenTargets)
        head = TASK.head_of(teacher)
        codec = encoding.fit(torch.cat([target.hidden] * 6).detach(), head, (1.0, TEMPERATURE))
        assert codec.head.vocabulary == TOKENS
        logits = head.logits(target.hidden).detach()
        return Signals(target=codec.target(as_tensors(codec.encode(target.hidden.detach(), logits))))

    return signals


@pytest.mark.parametrize(
    ("signals", "exact"),
    [(online, True), (stored(Hidden(head=8)), False), (stored(LowRank(head=16, rank=16)), False)],
    ids=["online", "hidden", "low_rank"],
)
def test_the_soft_loss_is_over_the_tokens_alone(
    signals: Callable[[LlamaForCausalLM, Batch], Signals], exact: bool, batch: Batch
) -> None:
    teacher, student = model("teacher", 1), model("student", 2)
    settings = SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=TEMPERATURE))
    loss = MixedLoss([settings.build(), HardLabels(weight=Constant(value=1.0)).build()])
    sums = loss(TASK.ask(student, batch), signals(teacher, batch), batch, progress=0.5)
    log_p, log_q = naive(teacher, batch, TEMPERATURE), naive(student, batch, TEMPERATURE)
    kl = (log_p.exp() * (log_p - log_q)).sum() * TEMPERATURE**2
    hard = -naive(student, batch).gather(1, batch.labels[batch.mask][:, None]).sum()
    assert sums.parts["soft_targets"].item() == pytest.approx(kl.item(), rel=1e-4 if exact else 0.05)
    assert sums.parts["hard_labels"].item() == pytest.approx(hard.item(), rel=1e-4)
    sums.total.backward()
    gradient = student.lm_head.weight.grad
    assert gradient is not None
    # Nothing reaches the rows of padding, and much the others.
    assert not gradient[TOKENS:].any() and gradient[:TOKENS].abs().max() > 0.01


def test_top_k_never_names_padding(batch: Batch) -> None:
    teacher = model("teacher", 1)
    target = stored(TopK(k=4))(teacher, batch).target
    assert target is not None
    buckets = target.buckets_at(slice(None), 1.0)  # type: ignore[union-attr]
    log_p = naive(teacher, batch)
    assert buckets.ids.max() < TOKENS
    assert torch.allclose(buckets.log_head.double(), log_p.gather(1, buckets.ids), atol=2e-3)
    tail = torch.log(1 - log_p.gather(1, buckets.ids).exp().sum(dim=1))
    assert torch.allclose(buckets.log_tail.double(), tail, atol=2e-2)


def test_models_are_measured_over_the_tokens_alone(batch: Batch) -> None:
    teacher, student = model("teacher", 1), model("student", 2)
    targets = {"teacher": online(teacher, batch).target, "student": online(student, batch).target}
    labels = batch.labels[batch.mask]
    found = measure_tokens(targets, targets["teacher"], labels, chunk_rows=4)["student"]  # type: ignore[arg-type]
    log_p, log_q = naive(teacher, batch), naive(student, batch)
    expected = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    np.testing.assert_allclose(found.kl, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.loss, -log_q.gather(1, labels[:, None])[:, 0], rtol=1e-4, atol=1e-5)
    assert not math.isclose(float(expected.mean()), 0.0)


def test_a_model_is_at_no_distance_from_itself_under_another_padding(batch: Batch) -> None:
    teacher, student = model("teacher", 1), model("student", 2)
    with torch.no_grad():
        for (name, own), theirs in zip(student.named_parameters(), teacher.parameters(), strict=True):
            own.copy_(theirs[: len(own)] if name in ("lm_head.weight", "model.embed_tokens.weight") else theirs)
    targets = {"teacher": online(teacher, batch).target, "student": online(student, batch).target}
    found = measure_tokens(targets, targets["teacher"], batch.labels[batch.mask], chunk_rows=4)  # type: ignore[arg-type]
    assert np.abs(found["student"].kl).max() < 1e-9
