"""Steps of the loop against what they should be, worked out by other means: rates, decay, dropout, patience, ranks."""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from potstill.losses import HardLabels, HiddenStates, MixedLoss, Shapes
from potstill.progress import Progress
from potstill.schedules import Constant
from potstill.signals import Batch, Signals
from potstill.students import model_shape
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from potstill.training import loop
from potstill.training.data_parallel import DataParallel
from potstill.training.loop import Job, fit, no_teacher
from potstill.training.one_process import OneProcess
from tests.invariants.test_training import CPU, encoded, job, over, tiny, weights

ROWS = 12
RATES = [0.25, 0.5, 0.75, 1.0, 2 / 3, 1 / 3]
"""Six steps, of which three warm up and three decay in a line to zero, as shares of the peak."""


def on_labels_alone(**settings: Any) -> Job:
    """Whole batches of labelled rows, so that their order means nothing."""
    return replace(
        over(encoded(ROWS, 1), job(dropout=0.0, steps=len(RATES), batch_size=ROWS, **settings)),
        loss=MixedLoss([HardLabels(weight=Constant(value=1.0)).build()]),
        teacher=no_teacher,
    )


def by_hand(start: nn.Module, rows: Batch, *, peak: float, decay: float, clip: float) -> torch.Tensor:
    """The weights after AdamW's steps as its paper writes them (arXiv:1711.05101, algorithm 2), in float64."""
    model = copy.deepcopy(start).double()
    named = list(model.named_parameters())
    first = [torch.zeros_like(parameter) for _, parameter in named]
    second = [torch.zeros_like(parameter) for _, parameter in named]
    for step, share in enumerate(RATES, start=1):
        loss = nn.functional.cross_entropy(model(**rows.inputs).logits, rows.labels)
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named])
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
        with torch.no_grad():
            for number, (name, parameter) in enumerate(named):
                gradient = gradients[number] * min(1.0, clip / (float(norm) + 1e-6))
                first[number] = 0.9 * first[number] + 0.1 * gradient
                second[number] = 0.999 * second[number] + 0.001 * gradient**2
                direction = first[number] / (1 - 0.9**step)
                direction /= (second[number] / (1 - 0.999**step)).sqrt() + 1e-8
                kept = name.endswith("bias") or "LayerNorm" in name
                parameter -= peak * share * (direction + (0.0 if kept else decay) * parameter)
    return weights(model)


def test_steps_are_those_of_adamw_with_its_rates_and_no_decay_of_biases_and_norms(tmp_path: Path) -> None:
    peak, decay, clip = 1e-2, 2.0, 0.5
    whole = on_labels_alone(learning_rate=peak, weight_decay=decay, clip_norm=clip, warmup=0.5, evaluate_every=6)
    with torch.no_grad():
        for name, parameter in whole.model.named_parameters():
            if name.endswith("bias"):
                # A bias of zero would not show that it decays.
                parameter.fill_(0.3)
    batch = whole.batches.rows.collate(range(ROWS))
    expected = by_hand(whole.model.train(), batch, peak=peak, decay=decay, clip=clip)
    fit(whole, tmp_path, OneProcess(CPU), Progress())
    torch.testing.assert_close(weights(whole.model).double(), expected, rtol=0, atol=2e-4)


def test_dropout_is_on_in_every_step_and_off_in_every_validation(tmp_path: Path) -> None:
    """Also for a model that comes in eval mode, as those that are loaded do."""
    trained = job(steps=9)
    trained.model.eval()
    modes: list[tuple[bool, bool]] = []
    trained.model.register_forward_pre_hook(
        lambda module, _: modes.append((not torch.is_inference_mode_enabled(), module.bert.embeddings.dropout.training))
    )
    fit(trained, tmp_path, OneProcess(CPU), Progress())
    steps = [training for stepping, training in modes if stepping]
    validations = [training for stepping, training in modes if not stepping]
    assert len(steps) == 9 and all(steps)
    assert len(validations) >= 3 and not any(validations)


def test_patience_counts_from_the_last_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([1.0, 1.1, 0.9, 1.0, 0.8, 0.9, 1.0, 0.7])
    monkeypatch.setattr(loop, "validate", lambda *_: loop.Validation(next(script), 0.5))
    done = fit(job(patience=2, evaluate_every=1, steps=8), tmp_path, OneProcess(CPU), Progress())
    # Never two in a row without a gain, but for the sixth and the seventh.
    assert (done.step, done.best_step, done.stopped_early) == (7, 5, True)


@dataclass(frozen=True)
class OfRank(OneProcess):
    """An engine that says that it is one of several processes, and waits for none of them."""

    rank: int = 0


def draws_of(rank: int, folder: Path) -> torch.Tensor:
    """What a process draws at random as its first step begins."""
    drawn: list[torch.Tensor] = []

    def teacher(batch: Batch) -> Signals:
        drawn.append(torch.rand(8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=teacher), folder, OfRank(CPU, rank), Progress())
    return drawn[0]


def test_processes_drop_other_units_and_the_same_process_the_same(tmp_path: Path) -> None:
    first, second, again = (draws_of(rank, tmp_path / str(number)) for number, rank in enumerate((0, 1, 0)))
    assert torch.equal(first, again)
    assert not torch.isclose(first, second).any()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_job_of_several_processes_goes_on_where_losses_reach_no_head(tmp_path: Path) -> None:
    """Engines that wait for the gradient of each parameter must be told that some get none."""
    trained = on_labels_alone()
    shapes = Shapes(*(model_shape(tiny(seed).config, 1, 1, 5) for seed in (0, 9)))
    loss = MixedLoss([HiddenStates(projection="none").build(shapes)])
    teacher = FrozenTeacher(tiny(9), CPU, ask_for_logits, loss.teacher_reads)
    alone, wrapped = (replace(trained, model=tiny(0, dropout=0.0), loss=loss, teacher=teacher) for _ in range(2))
    fit(alone, tmp_path / "alone", OneProcess(CPU), Progress())
    fit(wrapped, tmp_path / "wrapped", DataParallel(CPU, 0, 1), Progress())
    torch.testing.assert_close(weights(alone.model), weights(wrapped.model), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("all_reached", [True, False])
def test_parameters_without_a_gradient_are_looked_for_only_where_there_are_some(all_reached: bool) -> None:
    """Looking costs a walk over the graph in each step."""
    wrapped = DataParallel(CPU, 0, 2).wrap(nn.Linear(2, 2), all_reached=all_reached)
    assert isinstance(wrapped, DistributedDataParallel)
    assert wrapped.find_unused_parameters is not all_reached


def test_the_weights_that_are_left_are_those_of_the_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([1.0, 0.5, 0.9, 0.8])
    monkeypatch.setattr(loop, "validate", lambda *_: loop.Validation(next(script), 0.5))
    trained = job(evaluate_every=2, steps=8)
    there: dict[int, torch.Tensor] = {}
    at_step = {step: lambda step=step: there.update({step: weights(trained.model).clone()}) for step in (4, 8)}
    fit(replace(trained, at_step=at_step), tmp_path, OneProcess(CPU), Progress())
    assert torch.equal(weights(trained.model), there[4])
    assert not torch.equal(there[4], there[8])
