"""A training through LoRA: exact after a kill, the same in pieces and processes; checkpoints of what is trained."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from potstill.errors import CheckpointError
from potstill.lora import Adapter, LoraSettings, add_adapter, choose_modules
from potstill.progress import Progress
from potstill.signals import MovingTeacher
from potstill.stages.criteria import true_labels
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import MovingAverage
from potstill.training.engine import start_engine
from potstill.training.frozen_layers import FrozenLayers
from potstill.training.loop import Job, ModelWithLoss, fit, no_teacher
from potstill.training.one_process import OneProcess
from potstill.training.states import load_weights, state_of
from tests.invariants.test_training import CPU, StopsAt, encoded, job, losses, over, tiny, weights

LORA = LoraSettings(rank=3, alpha=6, dropout=0.1)


def with_lora(of: Job, settings: LoraSettings = LORA, frozen_layers: int = 0) -> tuple[Job, Adapter]:
    modules = choose_modules(of.model, settings, where="train.lora", head_in_full=True, frozen_layers=frozen_layers)
    return of, add_adapter(of.model, settings, modules, seed=3)


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def taught_by_its_average(of: Job) -> Job:
    return replace(of, teacher=MovingAverage(of.model, CPU, ask_for_logits, decay=0.9, every=1))


@pytest.mark.parametrize("calls", [8, *(pytest.param(calls, marks=pytest.mark.long) for calls in (1, 17, 41))])
def test_broken_anywhere_it_resumes_to_bitwise_the_same_weights_and_losses(tmp_path: Path, calls: int) -> None:
    """With dropout, in the model and beside it, and two micro-batches a step."""
    whole, _ = with_lora(job(micro_batch_size=4))
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        broken, _ = with_lora(job(micro_batch_size=4, teacher=StopsAt(calls)))
        fit(broken, tmp_path / "broken", OneProcess(CPU), Progress())
    resumed, _ = with_lora(job(micro_batch_size=4))
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert torch.equal(weights(whole.model), weights(resumed.model))


def test_only_what_is_trained_moves_and_only_that_is_in_optimiser_and_checkpoints(tmp_path: Path) -> None:
    each, _ = with_lora(job(steps=8, keep_checkpoints=9))
    trained = trained_names(each.model)
    assert len(trained) == 2 * 13 + 2
    before = {name: tensor.clone() for name, tensor in each.model.state_dict().items()}
    fit(each, tmp_path, OneProcess(CPU), Progress())
    moved = {name for name, tensor in each.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == trained
    for checkpoint in (tmp_path / "scratch/checkpoints").iterdir():
        assert set(load_file(checkpoint / "model.safetensors")) == {f"model.{name}" for name in trained}
        moments = {key.partition("|")[0] for key in load_file(checkpoint / "optimiser.safetensors")}
        assert moments == {f"model.{name}" for name in trained}


def test_weights_of_another_training_are_refused() -> None:
    each, _ = with_lora(job())
    module = ModelWithLoss(each.model, each.ask, each.loss)
    state = state_of(module, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad]))
    name = next(iter(state.weights))
    load_weights(module, state.weights)
    with pytest.raises(CheckpointError, match=f"a checkpoint has no {name}"):
        load_weights(module, {key: tensor for key, tensor in state.weights.items() if key != name})


def test_one_batch_of_8_equals_8_batches_of_1(tmp_path: Path) -> None:
    runs = []
    for size in (8, 1):
        each, _ = with_lora(job(dropout=0.0, micro_batch_size=size), LoraSettings(rank=3))
        fit(each, tmp_path / str(size), OneProcess(CPU), Progress())
        runs.append(losses(tmp_path / str(size)))
    np.testing.assert_allclose(runs[0], runs[1], rtol=2e-4)


@pytest.mark.long
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    one = two_jobs()
    fit(one, tmp_path / "one", OneProcess(CPU), Progress())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, str(tmp_path / "two")]
    # As a script it does not know the other tests.
    found = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": found}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=2e-4)
    checkpoint = sorted((tmp_path / "two/scratch/checkpoints").iterdir())[-1]
    assert set(load_file(checkpoint / "model.safetensors")) == {f"model.{name}" for name in trained_names(one.model)}


def two_jobs() -> Job:
    return with_lora(job(dropout=0.0), LoraSettings(rank=3))[0]


def test_a_model_saved_on_the_way_changes_nothing_of_what_follows(tmp_path: Path) -> None:
    plain, _ = with_lora(job())
    fit(plain, tmp_path / "plain", OneProcess(CPU), Progress())
    saved, adapter = with_lora(job())

    def snapshot() -> None:
        with adapter.merged():
            saved.model.save_pretrained(tmp_path / "snapshot")

    fit(replace(saved, at_step={5: snapshot}), tmp_path / "saved", OneProcess(CPU), Progress())
    assert losses(tmp_path / "plain") == losses(tmp_path / "saved")
    assert torch.equal(weights(plain.model), weights(saved.model))
    assert not any("lora" in name for name in load_file(tmp_path / "snapshot/model.safetensors"))


def test_its_moving_average_is_of_what_is_trained_and_survives_a_kill(tmp_path: Path) -> None:
    whole = taught_by_its_average(with_lora(job())[0])
    average, student = whole.teacher, whole.model
    assert isinstance(average, MovingAverage) and isinstance(average, MovingTeacher)
    trained = trained_names(student)
    own = dict(average.model.named_parameters())
    shared = {name for name, parameter in student.named_parameters() if own[name] is parameter}
    assert shared == set(own) - trained
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    assert not torch.equal(weights(average.model), weights(student))
    checkpoint = sorted((tmp_path / "whole/scratch/checkpoints").iterdir())[-1]
    kept = {f"{where}{name}" for name in trained for where in ("model.", "moving.model.")} | {"moving.steps"}
    assert set(load_file(checkpoint / "model.safetensors")) == kept
    broken = taught_by_its_average(with_lora(job())[0])
    with pytest.raises(KeyboardInterrupt):
        fit(replace(broken, at_step={11: interrupt}), tmp_path / "broken", OneProcess(CPU), Progress())
    resumed = taught_by_its_average(with_lora(job())[0])
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert isinstance(resumed.teacher, MovingAverage)
    assert torch.equal(weights(average.model), weights(resumed.teacher.model))


def interrupt() -> None:
    raise KeyboardInterrupt


def test_above_frozen_layers_it_trains_what_it_would_train_there(tmp_path: Path) -> None:
    """As the whole model does whose lower layers have no adapter."""
    rows, validation = encoded(37, 1), encoded(16, 2)
    alone = replace(job(dropout=0.0), loss=true_labels(), teacher=no_teacher)
    other = replace(alone, model=tiny(0, dropout=0.0))
    whole, _ = with_lora(alone, LoraSettings(rank=3), frozen_layers=1)
    assert not any(".layer.0." in name or "embeddings" in name for name in trained_names(whole.model))
    fit(over(rows, whole), tmp_path / "whole", OneProcess(CPU), Progress())
    split, adapter = with_lora(other, LoraSettings(rank=3), frozen_layers=1)
    frozen = FrozenLayers(split.model, 1)
    kept = [frozen.keep(each, CPU, 4, lambda amount=1, note="": None) for each in (rows, validation)]
    frozen.detach()
    fit(over(kept[0], replace(split, validation=kept[1])), tmp_path / "split", OneProcess(CPU), Progress())
    frozen.restore()
    np.testing.assert_allclose(losses(tmp_path / "whole"), losses(tmp_path / "split"), rtol=2e-4)
    torch.testing.assert_close(weights(whole.model), weights(split.model), rtol=1e-3, atol=1e-3)
    with adapter.merged():
        assert not any("lora" in name for name, _ in split.model.named_parameters())


if __name__ == "__main__":
    with start_engine() as engine:
        fit(two_jobs(), Path(sys.argv[1]), engine, Progress())
