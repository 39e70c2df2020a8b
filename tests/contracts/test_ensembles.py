"""What several teachers say together: mixed in probability space at each temperature, or routed."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from potstill.data.chat_tokens import ChatTokens
from potstill.data.dialogues import PlainText
from potstill.data.packing import pack
from potstill.divergences import ForwardKL
from potstill.errors import DataError
from potstill.losses import MixedLoss, SoftTargets
from potstill.losses.chunked import logit_terms
from potstill.losses.kernels import Kernels
from potstill.losses.terms import SoftTerm
from potstill.schedules import Constant
from potstill.signals import Batch, Signals
from potstill.targets import LogitTargets, MixedTargets, MostConfidentTargets, plain_log_sum_exp
from potstill.teachers import EnsembleTeacher, Mixture, Routed, combined, routes_of
from tests.contracts.reference import FAST
from tests.unit.chat_shapes import byte_level

Floats = npt.NDArray[np.float64]
TWO = {"a": {"model": "x"}, "b": {"model": "y"}}


def softmax(row: Floats, temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def naive_mixture(members: list[Floats], weights: list[float], row: int, temperature: float) -> list[float]:
    shares = [softmax(member[row], temperature) for member in members]
    return [sum(w * share[c] for w, share in zip(weights, shares, strict=True)) for c in range(len(shares[0]))]


def said(target: Any, temperature: float) -> Tensor:
    logits = target.logits_at(slice(None), temperature, Kernels(compiled=False).log_sum_exp)
    return torch.softmax(logits / temperature, dim=-1)


def logits(count: int, positions: int, classes: int, seed: int, scale: float = 3.0) -> list[Floats]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(positions, classes)) * scale for _ in range(count)]


def targets(members: list[Floats]) -> list[LogitTargets]:
    return [LogitTargets(torch.tensor(member)) for member in members]


class TestMixture:
    @FAST
    @given(seed=st.integers(0, 999), temperature=st.floats(0.3, 8), count=st.integers(2, 4))
    def test_it_is_the_weighted_mean_of_the_probabilities_at_each_temperature(
        self, seed: int, temperature: float, count: int
    ) -> None:
        members = logits(count, 4, 5, seed)
        weights = np.random.default_rng(seed).random(count) + 0.1
        settings = Mixture.model_validate(
            {
                "of": {f"t{number}": {"model": "m"} for number in range(count)},
                "weights": {f"t{number}": float(weight) for number, weight in enumerate(weights)},
            }
        )
        found = said(combined(settings, targets(members)), temperature)
        normalised = (weights / weights.sum()).tolist()
        for row in range(4):
            assert found[row].tolist() == pytest.approx(
                naive_mixture(members, normalised, row, temperature), rel=1e-6, abs=1e-9
            )

    def test_it_is_not_the_softmax_of_averaged_logits(self) -> None:
        # Two teachers that are sure of different classes: the mixture doubts between the two, the average hides both.
        members = [np.array([[9.0, 0.0, 4.0]]), np.array([[0.0, 9.0, 4.0]])]
        found = said(combined(Mixture.model_validate({"of": TWO}), targets(members)), 1.0)[0]
        assert found[:2].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
        averaged = softmax(np.mean(members, axis=0)[0], 1.0)
        assert averaged[2] > 0.2 and found[2] < 0.01

    @FAST
    @given(seed=st.integers(0, 999), temperature=st.floats(0.3, 8))
    def test_teachers_that_say_the_same_are_one_teacher(self, seed: int, temperature: float) -> None:
        (member,) = logits(1, 3, 4, seed)
        mixed = said(combined(Mixture.model_validate({"of": TWO}), targets([member, member + 7])), temperature)
        np.testing.assert_allclose(mixed, said(targets([member])[0], temperature), rtol=1e-6)

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_a_student_that_says_what_the_mixture_says_has_nothing_to_learn(self, temperature: float) -> None:
        target = combined(Mixture.model_validate({"of": TWO, "weights": {"a": 3}}), targets(logits(2, 5, 4, 1)))
        student = target.logits_at(slice(None), temperature, Kernels(compiled=False).log_sum_exp)
        loss = MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=temperature)).build()])
        batch = Batch(("x",) * 5, {}, torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))
        for offset, least in ((0.0, 0), (1.0, 1e-3)):
            own = (student + offset * torch.arange(4)).requires_grad_()
            total = loss(Signals(logits=own), Signals(target=target), batch, progress=0.0).total
            (gradient,) = torch.autograd.grad(total, own)
            assert total.item() >= least and (offset or total.item() == pytest.approx(0, abs=1e-12))
            assert offset or gradient.abs().max() < 1e-7

    def test_masked_rows_are_not_asked_and_have_no_gradient(self) -> None:
        mask = torch.tensor([True, False, True])
        members = logits(2, 3, 4, 2)
        teachers = {
            name: lambda batch, member=member: Signals(logits=torch.tensor(member))
            for name, member in zip("ab", members, strict=True)
        }
        batch = Batch(("x", "y", "z"), {}, torch.zeros(3, dtype=torch.int64), mask)
        target = EnsembleTeacher(Mixture.model_validate({"of": TWO}), teachers, {})(batch)
        assert isinstance(target.target, MixedTargets) and len(target.target) == 2
        student = torch.tensor(members[0] * 0.3, requires_grad=True)
        loss = MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=2.0)).build()])
        total = loss(Signals(logits=student), target, batch, progress=0.0).total
        (gradient,) = torch.autograd.grad(total, student)
        assert not gradient[1].any() and gradient[0].any() and gradient[2].any()
        expected = 0.0
        for row in (0, 2):
            p, q = naive_mixture(members, [0.5, 0.5], row, 2.0), softmax(members[0][row] * 0.3, 2.0)
            expected += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert total.item() == pytest.approx(expected, rel=1e-6)

    def test_the_chunked_loss_of_language_models_hears_the_mixture_too(self) -> None:
        members, student = logits(2, 6, 9, 3), torch.tensor(logits(1, 6, 9, 4)[0])
        target = combined(Mixture.model_validate({"of": TWO}), targets(members))
        term = SoftTerm("soft", ForwardKL(), weight=1.0, temperature=1.5)
        total = 0.0
        for start in (0, 4):
            rows = slice(start, min(start + 4, 6))
            nothing = torch.zeros(rows.stop - rows.start, dtype=torch.int64)
            kernels = Kernels(compiled=False)
            total += logit_terms(student[rows].clone(), nothing, target, rows, (term,), kernels=kernels).item()
        expected = 0.0
        for row in range(6):
            p, q = naive_mixture(members, [0.5, 0.5], row, 1.5), softmax(student[row].numpy(), 1.5)
            expected += 1.5**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert total == pytest.approx(expected, rel=1e-6)


class TestRouted:
    def test_by_domain_each_row_hears_its_own_teacher_alone(self) -> None:
        members = logits(2, 4, 3, 5)
        settings = Routed.model_validate({"of": TWO, "by": "domain", "domains": {"a": ["x"], "b": ["y", "z"]}})
        routes = [settings.member_for(domain, "row") for domain in ("y", "x", "z", "x")]
        found = said(combined(settings, targets(members), routes), 2.0)
        for row, member in enumerate((1, 0, 1, 0)):
            assert found[row].tolist() == pytest.approx(softmax(members[member][row], 2.0), rel=1e-6)

    def test_packed_rows_are_routed_example_by_example(self) -> None:
        members = logits(2, 6, 3, 6)
        settings = Routed.model_validate({"of": TWO, "by": "domain", "domains": {"a": ["x"], "b": ["y"]}})
        teachers = {
            name: lambda batch, member=member: Signals(target=LogitTargets(torch.tensor(member)))
            for name, member in zip("ab", members, strict=True)
        }
        # Two rows, the first of which holds the examples p and q.
        mask = torch.tensor([[True, True, False, True], [True, False, True, True]])
        batch = Batch(("p", "q", "r"), {}, torch.zeros(2, 4, dtype=torch.int64), mask)
        several = EnsembleTeacher(settings, teachers, {"r": (0, 3), "q": (1, 1), "p": (0, 2)})
        found = said(several(batch).target, 1.5)
        for position, member in enumerate((0, 0, 1, 0, 0, 0)):
            assert found[position].tolist() == pytest.approx(softmax(members[member][position], 1.5), rel=1e-6)
        empty = EnsembleTeacher(settings, {name: lambda batch: Signals() for name in "ab"}, several.routes)
        assert empty(Batch(batch.ids, {}, batch.labels, torch.zeros_like(mask))).target is None

    def test_all_examples_of_a_long_row_are_routed_as_the_row_is(self) -> None:
        settings = Routed.model_validate({"of": TWO, "by": "domain", "domains": {"a": ["x"], "b": ["y"]}})
        rows = [PlainText("one", "Hello there. " * 8, domain="y"), PlainText("two#0", "Hi", domain="x")]
        examples, _ = ChatTokens(byte_level(None), 32).tokenise(rows)
        routes = routes_of(settings, pack(examples, max_length=32, pad_id=0), rows)
        assert len(examples) == 3
        trained = dict(zip(examples.names, examples.trained_counts.tolist(), strict=True))
        assert routes == {name: (int(name != "two#0"), count) for name, count in trained.items()}

    def test_by_confidence_the_one_with_the_surest_answer_speaks_at_every_temperature(self) -> None:
        sure, unsure = np.array([[5.0, 0.0, 0.0], [1.0, 0.9, 0.8]]), np.array([[1.0, 0.5, 0.9], [0.0, 0.0, 3.0]])
        settings = Routed.model_validate({"of": TWO, "by": "confidence"})
        target = combined(settings, targets([sure, unsure]))
        assert isinstance(target, MostConfidentTargets)
        for temperature in (1.0, 4.0):
            found = said(target, temperature)
            assert found[0].tolist() == pytest.approx(softmax(sure[0], temperature))
            assert found[1].tolist() == pytest.approx(softmax(unsure[1], temperature))

    def test_a_domain_that_nobody_knows_is_named(self) -> None:
        settings = Routed.model_validate({"of": TWO, "by": "domain", "domains": {"a": ["x"], "b": ["y"]}})
        with pytest.raises(DataError, match=r"row 'r7': its domain is 'q', which no teacher .* known: x, y"):
            settings.member_for("q", "r7")


ENSEMBLES = [
    pytest.param(Mixture.model_validate({"of": TWO, "weights": {"a": 3}}), id="mixture"),
    pytest.param(
        Routed.model_validate({"of": TWO, "by": "domain", "domains": {"a": ["x"], "b": ["y"]}}), id="by domain"
    ),
    pytest.param(Routed.model_validate({"of": TWO, "by": "confidence"}), id="by confidence"),
]
"""One of each kind, of the teachers a and b."""


@pytest.mark.parametrize("settings", ENSEMBLES)
def test_distributions_are_mixed_on_the_device_of_their_logits(settings: Mixture | Routed) -> None:
    """The device `meta` has no numbers, and refuses tensors of another as an accelerator does."""
    elsewhere = [LogitTargets(torch.empty(4, 5, device="meta", dtype=torch.bfloat16)) for _ in range(2)]
    target = combined(settings, elsewhere, [0, 1, 1, 0])
    found = target.logits_at(slice(1, 3), 2.0, plain_log_sum_exp)
    assert found.device.type == "meta" and found.dtype == torch.float32 and found.shape == (2, 5)


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        (Mixture, {"of": {"a": {"model": "x"}}}, "at least 2"),
        (Mixture, {"of": TWO, "weights": {"c": 1}}, "weights: no teacher 'c'; there are: a, b"),
        (Mixture, {"of": TWO, "weights": {"a": 0}}, "greater than 0"),
        (Mixture, {"of": TWO, "lead": "c"}, "lead: no teacher 'c'"),
        (Mixture, {"of": {"a": {"model": "x"}, "student": {"model": "y"}}}, "'student' cannot name a teacher"),
        (Mixture, {"of": {"a": {"model": "x"}, "../b": {"model": "y"}}}, "cannot name a teacher"),
        (Routed, {"of": TWO, "by": "domain", "domains": {"a": ["x"]}}, "'b' has none"),
        (Routed, {"of": TWO, "by": "domain", "domains": {"a": ["x"], "b": ["x"]}}, "'x' has two teachers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        kind.model_validate(values)
