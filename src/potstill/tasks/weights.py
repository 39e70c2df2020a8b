"""A model compared with the checkpoint that should fill it: no weight may be drawn that nobody asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from potstill.checkpoints import check_files, gguf_tensors, stored_tensors
from potstill.errors import ModelError
from potstill.models import Kind, family_of, is_a
from potstill.tasks.loading import explained, load_config, place_of, quiet
from potstill.tasks.misfits import OF_ADAPTERS, begins_anew, misfit, wrapper_of
from potstill.tasks.other_heads import require_no_other_head, require_same_head
from potstill.tasks.tensors import (
    require_finite,
    require_plain,
    require_plain_types,
    require_tied,
    require_tied_files,
    require_whole_blocks,
)

AS_TRAINED: Mapping[str, Any] = MappingProxyType({})
"""How a model is loaded to be trained, or compared: in float32."""


@dataclass(frozen=True)
class Filled:
    """How a checkpoint filled a model: all of it, but for what was to be new."""

    new: frozenset[str]
    """Weights that are drawn: of the head, and of a pooler that the checkpoint has not."""
    without_head: bool = False
    """Whether the checkpoint has nothing of the head."""
    unread: frozenset[str] = frozenset()
    """Weights of a pooler that the class has not, where the configuration does not say which class was saved."""


def load_weights(auto: Any, location: str, *, new_head: bool = False, **given: Any) -> tuple[PreTrainedModel, Filled]:
    """A model of which every weight comes from the checkpoint; with `new_head`, all but its head.

    In float32, where nothing else is `given`.

    Raises:
        ModelError: it cannot be loaded, or the checkpoint is not that of such a model.
    """
    place = place_of(location, given)
    check_files(place, tokenizer=False)
    given = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True} | given
    with explained(place), quiet():
        quantised: Any = given.get("quantization_config")
        if quantised is not None:
            quantised.llm_int8_skip_modules = _behind_the_base(auto, location, given)
        model, info = auto.from_pretrained(location, **given)
    if not new_head:
        require_same_head(model.config, model, place)
    if Path(place).is_dir():
        require_plain_types(model, stored_tensors(Path(place)), place)
    found = filled(model, info, place, new_head=new_head)
    require_tied(model, place)
    require_finite(model, place)
    require_whole_blocks(model, place)
    return model, found


def _behind_the_base(auto: Any, location: str, given: Mapping[str, Any]) -> list[str]:
    """The modules of a model that make its outputs, which keep all of their bits."""
    where = {name: given[name] for name in ("revision", "trust_remote_code") if name in given}
    config = given.get("config") or load_config(location, **where)
    with torch.device("meta"):
        skeleton = auto.from_config(config, trust_remote_code=given.get("trust_remote_code", False))
    prefix = skeleton.base_model_prefix
    children = {name for name, _ in skeleton.named_children()}
    if prefix in children:
        return sorted(children - {prefix})
    output = skeleton.get_output_embeddings()
    return [name for name, module in skeleton.named_modules() if module is output]


def check_weights(
    make: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig, location: str, *, new_head: bool
) -> Filled | None:
    """The same comparison, with the model that `make` gives for its configuration, and without reading weights.

    None where there are no headers to compare with: in the hub, in a GGUF file, or where code is the model's.

    Raises:
        ModelError: the checkpoint is not that of such a model, or its weights are quantised.
    """
    require_plain(config, location)
    path = Path(location)
    if not path.exists() or hasattr(config, "auto_map"):
        return None
    # On the meta device a model has shapes and no weights.
    with explained(location), torch.device("meta"):
        skeleton = make(config)
    if not new_head:
        require_same_head(config, skeleton, location)
    if path.is_file():
        _count_tensors(skeleton, path)
        return None
    stored = stored_tensors(path)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    require_plain_types(skeleton, stored, location)
    expected = set(skeleton.state_dict())
    wrapper = wrapper_of(expected, shapes, skeleton.base_model_prefix)
    # The model's own prefix twice over is nothing to transformers.
    if wrapper is not None and wrapper != f"{skeleton.base_model_prefix}.":
        missing = {name for name in expected if name not in shapes}
        raise misfit(skeleton, location, missing, {}, set(shapes) - expected, wrapper, new_head=new_head)
    # One number in memory, seen in every place of the tensor.
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    with explained(location), quiet(), torch.random.fork_rng(devices=[]):
        model, info = _without_drawing(type(skeleton)).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    found = filled(model, info, location, new_head=new_head)
    require_tied_files(skeleton, stored, location)
    return found


def _without_drawing(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class of models whose missing weights stay on the meta device when it is loaded: a checkpoint that lacks most
    of a large model must not fill the memory with weights that are drawn only to be refused."""

    def nothing(self: PreTrainedModel, *args: object, **given: object) -> None: ...

    # The name is in errors, and where transformers looks for how the names of weights have changed.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    steps = dict.fromkeys(("_move_missing_keys_from_meta_to_device", "_initialize_missing_keys"), nothing)
    return type(kind.__name__, (kind,), {**names, **steps})


def _count_tensors(skeleton: PreTrainedModel, file: Path) -> None:
    """A GGUF file has names of its own, which transformers passes over where it knows no place for them."""
    found, weights = gguf_tensors(file), sum(1 for _ in skeleton.parameters())
    # Of experts, it has gates and units apart.
    plain = is_a(Kind.DECODER, skeleton.config.model_type) and family_of(skeleton.config).experts is None
    if plain and len(found) != weights:
        biases = sorted(name for name in found if name.endswith(".bias"))
        of_them = f", {len(biases)} of them biases such as {biases[0]}" if biases else ""
        raise ModelError(
            f"{file}: it holds {len(found)} tensors{of_them}, and the {type(skeleton).__name__} that its header "
            f"describes has {weights} weights. Take a complete file, or the model as safetensors."
        )


def filled(model: PreTrainedModel, info: Mapping[str, Any], location: str, *, new_head: bool) -> Filled:
    """Judge what transformers says of a loading.

    Weights that are tied, buffers, and names that the class itself says are of no matter are not in it or not counted.

    Raises:
        ModelError: weights are missing, have another shape, or have no place in the base model.
    """
    buffers = {name for name, _ in model.named_buffers()}
    missing = set(info["missing_keys"]) - buffers
    mismatched = {name: (list(theirs), list(ours)) for name, theirs, ours in info["mismatched_keys"]}
    # A buffer that models once saved, such as the numbers of the positions, is computed now.
    unexpected = {name for name in info["unexpected_keys"] if not any(name.endswith(each) for each in buffers)}
    drawn = {name for name in {*missing, *mismatched} if new_head and begins_anew(model, name)}
    require_no_other_head(model, unexpected, location)
    inside = {name for name in unexpected if _in_base(model, name) or any(part in name for part in OF_ADAPTERS)}
    wrong = {name: shapes for name, shapes in mismatched.items() if name not in drawn}
    if missing - drawn or wrong or inside:
        wrapper = wrapper_of(missing, unexpected, model.base_model_prefix)
        of_no_place = unexpected if wrapper else inside
        raise misfit(model, location, missing - drawn, wrong, of_no_place, wrapper, new_head=new_head)
    # Older releases saved a pooler beside a head for words; where the class is named, that is what it is.
    unread = {name for name in unexpected if ".pooler." in name and not new_head and not model.config.architectures}
    return Filled(frozenset(drawn), new_head and _of_head(model) <= missing, frozenset(unread))


def _of_head(model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def _in_base(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight that has no place is of a part that the base model has: a layer too many, a bias."""
    first, _, rest = name.removeprefix(f"{model.base_model_prefix}.").partition(".")
    parts = {part for part, _ in model.base_model.named_children()}
    return bool(rest) and first in parts
