"""What an engine promises, of each engine: wrapping, accumulating, clipping, gathering and restoring."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from potstill.training.checkpoints import Progressed, read_checkpoint, read_weights, save_checkpoint
from potstill.training.data_parallel import DataParallel
from potstill.training.engine import Engine, start_engine
from potstill.training.one_process import OneProcess

CPU = torch.device("cpu")
ENGINES: dict[str, Callable[[], Engine]] = {
    "one process": lambda: OneProcess(CPU),
    "data parallel": lambda: DataParallel(CPU, 0, 1),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine, in a process group of this process alone."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield ENGINES[request.param]()
    dist.destroy_process_group()


class Two(nn.Module):
    """Two layers, of which the second shares its weights with the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.lower, self.upper = nn.Linear(3, 3), nn.Linear(3, 3)
        self.upper.weight = self.lower.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upper(self.lower(x).tanh())


def trained(engine: Engine, steps: int, module: nn.Module | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    wrapped = engine.wrap(module or Two())
    optimiser = torch.optim.AdamW(wrapped.parameters(), lr=0.1)
    for _ in range(steps):
        step(engine, wrapped, optimiser)
    return wrapped, optimiser


def step(engine: Engine, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    for number in range(2):
        with engine.accumulating(module, last=number == 1):
            module(torch.full((1, 3), 1.0 + number)).square().sum().backward()
    optimiser.step()


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def test_gradients_of_micro_batches_are_summed(engine: Engine) -> None:
    wrapped, plain = engine.wrap(Two()), Two()
    for number in range(2):
        with engine.accumulating(wrapped, last=number == 1):
            wrapped(torch.full((1, 3), 1.0 + number)).square().sum().backward()
    plain(torch.tensor([[1.0] * 3, [2.0] * 3])).square().sum().backward()
    for found, expected in zip(wrapped.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_gradients_are_exchanged_with_the_last_micro_batch_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = engine.wrap(Two())
    exchanged: list[bool] = []
    if isinstance(engine, DataParallel):
        wrapped.register_comm_hook(None, lambda _, bucket: exchanged.append(True) or done(bucket.buffer()))
    for number, expected in enumerate(([], [True])):
        with engine.accumulating(wrapped, last=number == 1):
            wrapped(torch.ones(1, 3)).sum().backward()
        assert exchanged == (expected if isinstance(engine, DataParallel) else [])


def done(tensor: torch.Tensor) -> "torch.futures.Future[torch.Tensor]":
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(tensor)
    return future


def test_clipping_returns_the_norm_before(engine: Engine) -> None:
    wrapped = engine.wrap(nn.Linear(2, 1, bias=False))
    wrapped(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert engine.clip(wrapped, 1.0) == pytest.approx(5.0)
    (parameter,) = wrapped.parameters()
    assert parameter.grad is not None and float(parameter.grad.norm()) == pytest.approx(1.0, rel=1e-4)


def test_a_module_that_is_restored_goes_on_as_the_one_that_was_saved(engine: Engine, tmp_path: Path) -> None:
    """Through files that have the names of the module that was wrapped, so that each engine reads those of all."""
    wrapped, optimiser = trained(engine, 3)
    save_checkpoint(tmp_path, engine.state(wrapped, optimiser), Progressed(step=3), engine.random_states())
    state, _ = read_checkpoint(tmp_path / "step-00000003")
    assert set(state.weights) == set(Two().state_dict())
    assert set(state.moments["lower.weight"]) == {"exp_avg", "exp_avg_sq", "step"}
    step(engine, wrapped, optimiser)
    for other in ENGINES.values():
        # Read anew, for the optimiser goes on in the tensors that it is given.
        state, _ = read_checkpoint(tmp_path / "step-00000003")
        restored, its_optimiser = trained(other(), 1)
        other().load_state(restored, its_optimiser, state)
        step(other(), restored, its_optimiser)
        assert torch.equal(flat(restored), flat(wrapped))


def test_weights_are_restored_without_the_optimiser(engine: Engine, tmp_path: Path) -> None:
    inner = Two()
    wrapped, optimiser = trained(engine, 2, inner)
    save_checkpoint(tmp_path, engine.state(wrapped, optimiser), Progressed(step=2), engine.random_states())
    before = flat(wrapped).clone()
    step(engine, wrapped, optimiser)
    assert not torch.equal(flat(inner), before)
    engine.load_weights(wrapped, read_weights(tmp_path, 2))
    # In the module that was wrapped, for that is what is saved.
    assert torch.equal(flat(inner), before)


def test_generators_are_restored(engine: Engine) -> None:
    states = engine.random_states()
    assert set(states) == {"cpu.0"}
    drawn = torch.rand(4)
    engine.set_random_states({})
    assert not torch.equal(torch.rand(4), drawn)
    engine.set_random_states(states)
    assert torch.equal(torch.rand(4), drawn)


def test_what_is_exchanged_between_processes_is_that_of_all(engine: Engine) -> None:
    assert engine.sum(torch.tensor([2.0, 3.0])).tolist() == [2.0, 3.0]
    assert engine.any(True) and not engine.any(False)
    engine.barrier()
    assert (engine.rank, engine.world_size, engine.is_main) == (0, 1, True)


def test_a_process_that_is_alone_starts_without_a_group() -> None:
    with start_engine() as engine:
        assert isinstance(engine, OneProcess)
        assert not dist.is_initialized()


def test_only_the_main_process_gathers_a_state(engine: Engine) -> None:
    wrapped, optimiser = trained(engine, 1)
    assert engine.state(wrapped, optimiser).weights
    assert not DataParallel(CPU, 1, 2).state(wrapped, optimiser).weights
