"""A student taught by the average of itself: the average is what its formula says, and survives a kill."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from potstill import stopping
from potstill.errors import Stopped
from potstill.losses import HardLabels, HiddenStates, MixedLoss, Shapes, SoftTargets
from potstill.progress import Progress
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant
from potstill.signals import Batch, MovingTeacher
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import MovingAverage
from potstill.training.batches import ShuffledRows
from potstill.training.loop import Job, fit
from potstill.training.one_process import OneProcess
from tests.contracts.feature_reference import encoder, rows, shape

CPU = torch.device("cpu")
SIZE = shape(2, 8, 2)


class Source:
    """Three rows of fixed tokens."""

    lengths = (5, 3, 4)

    def collate(self, indices: list[int]) -> Batch:
        batch = rows([self.lengths[index] for index in indices])
        return replace(batch, labels=torch.tensor([index % 3 for index in indices]))


def job(*, features: bool = False, answers: bool = True) -> Job:
    model = encoder(SIZE, 1).float()
    torch.manual_seed(4)
    on_answers = [
        SoftTargets(weight=Constant(value=0.5), temperature=Constant(value=1.0)).build(),
        HardLabels(weight=Constant(value=0.5)).build(),
    ]
    losses = [
        *(on_answers if answers else []),
        *([HiddenStates().build(Shapes(SIZE, SIZE))] if features else []),
    ]
    loss = MixedLoss(losses)
    teacher = MovingAverage(model, CPU, ask_for_logits, loss.teacher_reads, decay=0.9, every=1)
    settings = OptimiserSettings(
        batch_size=2, learning_rate=1e-2, evaluate_every=4, precision="float32", keep_checkpoints=9
    )
    return Job(
        name="train/student",
        model=model,
        batches=ShuffledRows(Source(), settings, 3),
        validation=Source(),
        ask=ask_for_logits,
        loss=loss,
        teacher=teacher,
        criterion=MixedLoss([HardLabels(weight=Constant(value=1.0)).build()]),
        total_steps=12,
        seed=3,
        settings=settings,
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_it_is_a_teacher_that_moves_and_never_trains() -> None:
    teacher = job().teacher
    assert isinstance(teacher, MovingTeacher) and isinstance(teacher, MovingAverage)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_average_is_what_the_formula_says() -> None:
    student = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(student.weight)
    average = MovingAverage.__new__(MovingAverage)
    nn.Module.__init__(average)
    average.model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(average.model.weight)
    average._decay, average._every = 0.5, 1
    average.register_buffer("steps", torch.zeros((), dtype=torch.int64))
    expected = 0.0
    for step in range(1, 30):
        nn.init.constant_(student.weight, float(step))
        average.after_step(student)
        # The first steps weigh more, until the decay is reached.
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.model.weight[0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_without_decay_it_is_the_student_as_it_was_at_the_last_update() -> None:
    model = encoder(SIZE, 1)
    teacher = MovingAverage(model, CPU, ask_for_logits, decay=0.0, every=3)
    start, seen = state(model), {}
    for step in range(1, 8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 / step
        teacher.after_step(model)
        seen[step] = state(model)
        expected = start if step < 3 else seen[step - step % 3]
        for name, tensor in teacher.model.state_dict().items():
            if tensor.is_floating_point():
                assert torch.allclose(tensor, expected[name]), (step, name)


# With features alone nothing reaches the head, so it has no moments in the checkpoints.
@pytest.mark.parametrize(("features", "answers"), [(False, True), (True, True), (True, False)])
def test_a_job_that_is_broken_off_goes_on_with_the_same_teacher(
    features: bool, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job(features=features, answers=answers)
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    broken = job(features=features, answers=answers)
    steps = iter(range(100))
    # From its fifth step on, a signal has arrived.
    monkeypatch.setattr(stopping, "requested", lambda: next(steps) >= 4)
    with pytest.raises(Stopped):
        fit(broken, tmp_path / "parts", OneProcess(CPU), Progress())
    monkeypatch.undo()
    resumed = job(features=features, answers=answers)
    fit(resumed, tmp_path / "parts", OneProcess(CPU), Progress())
    for name, tensor in state(whole.model).items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert isinstance(whole.teacher, MovingAverage) and isinstance(resumed.teacher, MovingAverage)
    for name, tensor in state(whole.teacher).items():
        assert torch.equal(tensor, resumed.teacher.state_dict()[name]), name
    for name, tensor in state(whole.loss).items():
        assert torch.equal(tensor, resumed.loss.state_dict()[name]), name
