"""Trainings that save memory: exact after a kill, alike in all processes, and gone on with in another way."""

import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from potstill.progress import Progress
from potstill.training import loop, saving
from potstill.training.batches import ShuffledRows
from potstill.training.checkpoints import save_checkpoint
from potstill.training.engine import start_engine
from potstill.training.frozen_layers import FrozenLayers
from potstill.training.loop import fit
from potstill.training.one_process import OneProcess
from tests.invariants.test_training import CPU, StopsAt, encoded, job, losses, tiny, weights

STATES = ("bfloat16", "8bit")


def in_few_bits(states: str, **settings: Any) -> dict[str, Any]:
    return {"micro_batch_size": 4, "gradient_checkpointing": True, "optimizer": {"states": states}, **settings}


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("calls", [17, 41])
def test_broken_anywhere_it_resumes_to_bitwise_the_same_weights_and_losses(
    tmp_path: Path, states: str, calls: int
) -> None:
    """With dropout, in layers that are computed again, and two micro-batches a step."""
    whole = job(**in_few_bits(states))
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(calls), **in_few_bits(states)), tmp_path / "broken", OneProcess(CPU), Progress())
    resumed = job(**in_few_bits(states))
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert torch.equal(weights(whole.model), weights(resumed.model))


def test_moments_in_bfloat16_take_half_of_their_place_on_disk(tmp_path: Path) -> None:
    sizes = {}
    for states in ("float32", "bfloat16"):
        fit(job(steps=4, **in_few_bits(states)), tmp_path / states, OneProcess(CPU), Progress())
        held = load_file(tmp_path / states / "scratch/checkpoints/step-00000004/optimiser.safetensors")
        sizes[states] = sum(tensor.nbytes for name, tensor in held.items() if not name.endswith("|step"))
    assert sizes["bfloat16"] * 2 == sizes["float32"]


@pytest.mark.parametrize("first", [False, True])
def test_a_training_goes_on_with_and_without_layers_that_are_computed_again(tmp_path: Path, first: bool) -> None:
    whole = job()
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        broken = job(teacher=StopsAt(10), gradient_checkpointing=first)
        fit(broken, tmp_path / "broken", OneProcess(CPU), Progress())
    resumed = job(gradient_checkpointing=not first)
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    np.testing.assert_allclose(losses(tmp_path / "broken"), losses(tmp_path / "whole"), rtol=1e-5)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=1e-3, atol=1e-5)


def test_above_frozen_layers_it_trains_what_it_would(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        each = job(gradient_checkpointing=again)
        model = tiny(4, layers=4)
        frozen = FrozenLayers(model, 2)
        kept = [frozen.keep(encoded(count, seed), CPU, 8, lambda *_, **__: None) for count, seed in ((37, 1), (16, 2))]
        frozen.detach()
        batches = ShuffledRows(kept[0], each.settings, each.seed)
        each = replace(each, model=model, batches=batches, validation=kept[1], teacher=lambda batch: answers(batch))
        fit(each, tmp_path / str(again), OneProcess(CPU), Progress())
        frozen.restore()
        found.append(weights(model))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
    assert not torch.equal(found[0], weights(tiny(4, layers=4)))


def answers(batch: Any) -> Any:
    """A teacher's, for rows that are hidden states already."""
    from potstill.signals import Signals

    sums = batch.inputs["inputs_embeds"].sum(dim=1)[:, :5]
    return Signals(logits=sums)


@pytest.mark.long
@pytest.mark.parametrize("states", STATES)
def test_two_processes_hold_the_same_weights_and_resume_exactly(tmp_path: Path, states: str) -> None:
    """What each draws to round is the same: otherwise their weights would drift apart, of which no loss tells. Their
    checkpoints are written while they go on, as on accelerators."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", __name__, states, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = [load_file(tmp_path / f"{name}-{rank}")["weights"] for name in ("whole", "broken") for rank in (0, 1)]
    assert all(torch.equal(ends[0], end) for end in ends)
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken") and len(losses(tmp_path / "whole")) == 21
    alone = job(dropout=0.0, **in_few_bits(states))
    fit(alone, tmp_path / "alone", OneProcess(CPU), Progress())
    np.testing.assert_allclose(losses(tmp_path / "alone"), losses(tmp_path / "whole"), rtol=0.02)


def in_a_process(states: str, folder: Path) -> None:
    """A training from end to end, and one that is broken off after ten steps and goes on; each with what it ends at."""

    def broken_off() -> None:
        raise KeyboardInterrupt

    def slowly(*given: Any) -> None:
        time.sleep(0.3)
        save_checkpoint(*given)

    saving.writes_beside, saving.save_checkpoint = lambda device: True, slowly
    # So that the last checkpoint is the best, which all processes read as soon as one has written it.
    numbers = itertools.count()
    loop.validate = lambda *_: loop.Validation(1 / (1 + next(numbers)), None)
    with start_engine() as engine:
        for name, breaks in (("whole", False), ("broken", True), ("broken", False)):
            each = job(dropout=0.0, **in_few_bits(states))

            def left(of: Any = each, name: str = name) -> None:
                save_file({"weights": weights(of.model)}, folder / f"{name}-{engine.rank}")

            each = replace(each, at_step={10: broken_off} if breaks else {21: left})
            try:
                fit(each, folder / name, engine, Progress())
            except KeyboardInterrupt:
                assert breaks
            engine.barrier()


if __name__ == "__main__":
    in_a_process(sys.argv[1], Path(sys.argv[2]))
