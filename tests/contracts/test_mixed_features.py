"""The weighted sum of losses on features and on answers, from their parts and their schedules."""

import pytest
import torch

from potstill.losses import Cosine, HardLabels, HiddenStates, MixedLoss
from potstill.schedules import Constant, Linear
from potstill.signals import Signals
from tests.contracts.feature_reference import ALIKE, rows


@pytest.mark.parametrize("answers", [False, True])
def test_each_loss_on_features_has_the_weight_of_its_schedule(answers: bool) -> None:
    states = HiddenStates(projection="none", weight=Linear(start=3.0, end=1.0)).build(ALIKE)
    angle = Cosine(weight=Constant(value=0.25)).build(ALIKE)
    labels = [HardLabels(weight=Constant(value=0.5)).build()] if answers else []
    loss = MixedLoss([states, angle, *labels])
    batch = rows([4, 2, 3])
    generator = torch.Generator().manual_seed(1)

    def drawn() -> dict[object, torch.Tensor]:
        return {read: torch.randn(9, 12, generator=generator) for read in loss.student_reads}

    student = Signals(logits=torch.randn(3, 3, generator=generator), features=drawn())
    found = loss(student, Signals(features=drawn()), batch, progress=0.75)
    parts = {name: part.item() for name, part in found.parts.items()}
    assert all(part > 0.1 for part in parts.values())
    expected = 1.5 * parts["hidden_states"] + 0.25 * parts["cosine"] + (0.5 * parts["hard_labels"] if answers else 0)
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
