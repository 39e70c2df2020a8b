"""The state of a training: weights, moments of the optimiser, random generators. Tensors by name, and back.

Names are those of parameters and not positions, so that the tensors are the same whatever engine wrapped or sharded
the module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

from potstill.errors import CheckpointError

_OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)
# A parameter that no loss reaches, as a classifier beside losses on features alone, has no moments to restore.
_OF_MOMENTS = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


@runtime_checkable
class HasStill(Protocol):
    """A module of which some parameters stay as they are all through its training."""

    @property
    def still(self) -> frozenset[str]:
        """Their names."""
        ...


@dataclass(frozen=True)
class TrainingState:
    """Whole tensors of a module and its optimiser, in the memory of the processor."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Without those that stay as they are: who trains on has them from where they came from."""
    moments: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Of each parameter, what the optimiser holds of it, by name."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """The optimiser's groups of parameters, with their settings."""


def state_of(module: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
    """The state of a module and its optimiser."""
    still = _still(module)
    frozen = {name for name, parameter in _inner(module).named_parameters() if not parameter.requires_grad}
    # Where nothing else is frozen, what is still need not even be copied.
    options = replace(_OPTIONS, ignore_frozen_params=bool(still) and frozen <= still)
    found: dict[str, Any] = get_model_state_dict(module, options=options)
    weights = {name: tensor for name, tensor in found.items() if name not in still}
    if not isinstance(optimiser, torch.optim.AdamW):
        return TrainingState(weights, *_of_optimiser(module, optimiser))
    of_optimiser: dict[str, Any] = get_optimizer_state_dict(module, optimiser, options=_OPTIONS)
    return TrainingState(weights, of_optimiser["state"], of_optimiser["param_groups"])


def load_state(module: nn.Module, optimiser: torch.optim.Optimizer, state: TrainingState) -> None:
    """Restore module and optimiser in place."""
    load_weights(module, state.weights)
    if not isinstance(optimiser, torch.optim.AdamW):
        _fill(module, optimiser, state.moments)
        return
    restored: dict[str, Any] = {"state": dict(state.moments), "param_groups": state.groups}
    set_optimizer_state_dict(module, optimiser, restored, options=_OF_MOMENTS)


def _of_optimiser(
    module: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Any]]]:
    """What an optimiser holds of each parameter, as it is, and its groups.

    torch's way would make moments of any type those of their parameter, and knows no numbers beside tensors.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in _inner(module).named_parameters()}
    moments = {
        names[parameter]: {name: torch.as_tensor(value).detach().cpu() for name, value in held.items()}
        for parameter, held in optimiser.state.items()
    }
    groups = [group | {"params": [names[each] for each in group["params"]]} for group in optimiser.param_groups]
    return moments, groups


def _fill(module: nn.Module, optimiser: torch.optim.Optimizer, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give an optimiser what `_of_optimiser` found. Its groups follow from settings, and its rates from the step."""
    optimiser.state.clear()
    for name, parameter in _inner(module).named_parameters():
        if name in moments:
            optimiser.state[parameter] = {
                key: int(value) if key == "step" else value.to(parameter.device) for key, value in moments[name].items()
            }


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Restore the module alone, in place.

    Raises:
        CheckpointError: weights of the module that do not stay as they are, are not among these.
    """
    still = _still(module)
    if not still:
        set_model_state_dict(module, dict(weights), options=_OPTIONS)
        return
    if missing := _inner(module).state_dict().keys() - still - weights.keys():
        raise CheckpointError(f"a checkpoint has no {min(missing)}, so it is one of another training.")
    set_model_state_dict(module, dict(weights), options=replace(_OPTIONS, strict=False))


def _inner(module: nn.Module) -> nn.Module:
    """The module that was wrapped, whose names are those of a state."""
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    assert isinstance(inner, nn.Module)
    return inner


def _still(module: nn.Module) -> frozenset[str]:
    inner = _inner(module)
    return inner.still if isinstance(inner, HasStill) else frozenset()


def random_states_of(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's generators, by the kind of device that they draw for."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Tensor], *, rank: int, device: torch.device) -> None:
    """Restore the generators of the process of this rank, from states named `kind.rank`.

    A process that the states do not know, as one of more processes than there were, goes on with its own.
    """
    key = f"cpu.{rank}"
    if key in states:
        torch.set_rng_state(states[key])
    if device.type == "cuda" and f"cuda.{rank}" in states:
        torch.cuda.set_rng_state(states[f"cuda.{rank}"], device)
