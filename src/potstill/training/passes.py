"""How the passes of a model are made while it is trained: what computes its attention, and what is kept of its layers
for the backward pass. Nothing of it is left in the model, or in what is saved of it, afterwards.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from potstill.errors import RecipeError
from potstill.recipe import OptimiserSettings
from potstill.tasks.loading import quiet

_FLASH = "flash_attention_2"


def require_passes(skeleton: PreTrainedModel, settings: OptimiserSettings, where: str) -> None:
    """Ask for what the passes need of a family and of this machine, with a model of it that may be without weights.

    Raises:
        RecipeError: its layers cannot be computed again, it has no such attention, or this machine has not.
    """
    family, asked = skeleton.config.model_type, settings.attention
    if settings.gradient_checkpointing and not _layers(skeleton):
        raise RecipeError(
            f"{where}.gradient_checkpointing: transformers cannot compute the layers of a {family} model again. Leave "
            f"it out, and lower {where}.micro_batch_size."
        )
    if asked == "auto":
        return
    if asked == _FLASH and not torch.cuda.is_available():
        raise RecipeError(f"{where}.attention: {_FLASH} needs a CUDA device, and this machine has none. Use sdpa.")
    if asked == _FLASH and find_spec("flash_attn") is None:
        raise RecipeError(f"{where}.attention: {_FLASH} needs the package flash-attn. Install it, or use sdpa.")
    refused = RecipeError(
        f"{where}.attention: transformers has no {asked} for a {family} model. Set it to auto, which is "
        f"{skeleton.config._attn_implementation} here."
    )
    try:
        _attend_with(skeleton, asked)
    except ImportError as error:
        raise RecipeError(f"{where}.attention: {asked} cannot be used here: {str(error).splitlines()[0]}") from None
    except ValueError:
        raise refused from None
    if any(stack.config._attn_implementation != asked for stack in _stacks(skeleton)):
        raise refused


@contextmanager
def passes_of(model: PreTrainedModel, settings: OptimiserSettings) -> Iterator[None]:
    """Within it, the passes of the model are made as the settings say."""
    configs = [stack.config for stack in _stacks(model)]
    usual = [config._attn_implementation for config in configs]
    if settings.attention != "auto":
        _attend_with(model, settings.attention)
    layers = _layers(model) if settings.gradient_checkpointing else []
    for layer in layers:
        # What transformers sets, without what it does beside for checkpoints of another kind.
        layer._gradient_checkpointing_func = _computed_again
        layer.gradient_checkpointing = True
    try:
        yield
    finally:
        for layer in layers:
            del layer.gradient_checkpointing, layer._gradient_checkpointing_func
        # The attribute behind `set_attn_implementation`.
        for config, name in zip(configs, usual, strict=True):
            config._attn_implementation_internal = name


def _stacks(model: PreTrainedModel) -> list[PreTrainedModel]:
    """The model and the models within it, of which some have a copy of its configuration."""
    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]


def _attend_with(model: PreTrainedModel, attention: str) -> None:
    with quiet():
        for stack in _stacks(model):
            # Not all releases tell the stacks of an encoder-decoder what the whole is told.
            if stack.config._attn_implementation != attention:
                stack.set_attn_implementation(attention)


def _layers(model: PreTrainedModel) -> list[Any]:
    """The layers that can be computed again."""
    layers = (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    return list(layers) if model.supports_gradient_checkpointing else []


def _computed_again(layer: Callable[..., Any], *given: Any) -> Any:
    """A layer of which only the inputs are kept, as `torch.utils.checkpoint` without reentrance does it: a layer whose
    inputs ask for no gradient, as above frozen weights, has its own all the same."""
    named = layer.keywords if isinstance(layer, partial) else {}
    return checkpoint(_applied, layer, given, named, use_reentrant=False)


def _applied(layer: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """The layer's outputs. `named` are in it already; given once more, they show on which device dropout is drawn."""
    return layer(*given)
