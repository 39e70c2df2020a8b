"""A model compared with the checkpoint that should fill it: no weight may be drawn that nobody asked for."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from potstill.checkpoints import check_files, gguf_tensors, tensor_shapes
from potstill.errors import ModelError
from potstill.families import DECODER_FAMILIES
from potstill.tasks.loading import explained, place_of

HEADS = ("SequenceClassification", "TokenClassification")
"""How the names of classes end whose heads have weights of the same names and shapes, and mean something else."""
SHOWN = 3
"""Names that an error lists."""
_WRAPPERS = (
    "_orig_mod.",
    "module.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_model.model.",
    "model.",
)
"""What torch.compile, DataParallel, FSDP, checkpointing, PEFT, and classes with an attribute `model` put into names."""


@dataclass(frozen=True)
class Filled:
    """How a checkpoint filled a model: all of it, but for what was to be new."""

    new: frozenset[str]
    """Weights that are drawn: of the head, and of a pooler that the checkpoint has not."""
    without_head: bool = False
    """Whether the checkpoint has nothing of the head."""


def load_weights(auto: Any, location: str, *, new_head: bool = False, **given: Any) -> tuple[PreTrainedModel, Filled]:
    """A model in float32, of which every weight comes from the checkpoint; with `new_head`, all but its head.

    Raises:
        ModelError: it cannot be loaded, or the checkpoint is not that of such a model.
    """
    place = place_of(location, given)
    check_files(place, tokenizer=False)
    given = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True} | given
    with explained(place), _quiet():
        model, info = auto.from_pretrained(location, **given)
    if not new_head:
        _require_same_head(model.config, model, place)
    return model, filled(model, info, place, new_head=new_head)


def check_weights(
    make: Callable[[PretrainedConfig], PreTrainedModel], config: PretrainedConfig, location: str, *, new_head: bool
) -> Filled | None:
    """The same comparison, with the model that `make` gives for its configuration, and without reading weights.

    None where there are no headers to compare with: in the hub, in a GGUF file, or where code is the model's.

    Raises:
        ModelError: the checkpoint is not that of such a model, or its weights are quantised.
    """
    _require_plain_weights(config, location)
    path = Path(location)
    if not path.exists() or hasattr(config, "auto_map"):
        return None
    # On the meta device a model has shapes and no weights.
    with explained(location), torch.device("meta"):
        skeleton = make(config)
    if not new_head:
        _require_same_head(config, skeleton, location)
    if path.is_file():
        _count_tensors(skeleton, path)
        return None
    shapes = tensor_shapes(path)
    expected = set(skeleton.state_dict())
    wrapper = _wrapper(expected, shapes, skeleton.base_model_prefix)
    # The model's own prefix twice over is nothing to transformers.
    if wrapper is not None and wrapper != f"{skeleton.base_model_prefix}.":
        missing = {name for name in expected if name not in shapes}
        raise _misfit(skeleton, location, missing, {}, set(shapes) - expected, wrapper, new_head=new_head)
    # One number in memory, seen in every place of the tensor.
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    with explained(location), _quiet(), torch.random.fork_rng(devices=[]):
        model, info = _without_drawing(type(skeleton)).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return filled(model, info, location, new_head=new_head)


def _without_drawing(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class of models whose missing weights stay on the meta device when it is loaded: a checkpoint that lacks most
    of a large model must not fill the memory with weights that are drawn only to be refused."""

    def nothing(self: PreTrainedModel, *args: object, **given: object) -> None: ...

    # The name is in errors, and where transformers looks for how the names of weights have changed.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    steps = dict.fromkeys(("_move_missing_keys_from_meta_to_device", "_initialize_missing_keys"), nothing)
    return type(kind.__name__, (kind,), {**names, **steps})


def _require_plain_weights(config: PretrainedConfig, location: str) -> None:
    """Quantised weights are of other types and shapes, which nobody can train, or cut a student from."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    settings = settings if isinstance(settings, Mapping) else settings.to_dict()
    method = settings.get("quant_method") or "a method that its config.json does not name"
    raise ModelError(
        f"{location}: its weights are quantised ({method}), and such weights are not read. Take the checkpoint that it "
        "was made from, or load it in transformers and save it after model.dequantize(), where its method has that."
    )


def _require_same_head(config: PretrainedConfig, skeleton: PreTrainedModel, location: str) -> None:
    """Refuse a head for texts where one for tokens is read, and the reverse, by the ends of the names of classes: the
    rest differs also between a class and one that is made from it, or one of a like family."""
    saved, own = next(iter(config.architectures or []), ""), type(skeleton).__name__
    ends = [next((end for end in HEADS if name.endswith(end)), None) for name in (saved, own)]
    if None not in ends and ends[0] != ends[1]:
        raise ModelError(
            f"{location}: it was saved as {saved}, and the task reads a {own}, whose head means something else. Set "
            "task.kind, or add an adapt section to give it another head."
        )


def _count_tensors(skeleton: PreTrainedModel, file: Path) -> None:
    """A GGUF file has names of its own, which transformers passes over where it knows no place for them."""
    found, weights = gguf_tensors(file), sum(1 for _ in skeleton.parameters())
    if skeleton.config.model_type in DECODER_FAMILIES and len(found) != weights:
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
    drawn = {name for name in {*missing, *mismatched} if new_head and _begins_anew(model, name)}
    inside = {name for name in unexpected if _in_base(model, name)}
    wrong = {name: shapes for name, shapes in mismatched.items() if name not in drawn}
    if missing - drawn or wrong or inside:
        wrapper = _wrapper(missing, unexpected, model.base_model_prefix)
        of_no_place = unexpected if wrapper else inside
        raise _misfit(model, location, missing - drawn, wrong, of_no_place, wrapper, new_head=new_head)
    return Filled(frozenset(drawn), without_head=new_head and _of_head(model) <= missing)


def _of_head(model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}


def _begins_anew(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight is drawn where a head is trained: outside of the base model, or in a pooler, which a checkpoint
    of a masked language model has not."""
    base = model.base_model_prefix
    return hasattr(model, base) and (not name.startswith(f"{base}.") or name.startswith(f"{base}.pooler."))


def _in_base(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight that has no place is of a part that the base model has: a layer too many, a bias."""
    first, _, rest = name.removeprefix(f"{model.base_model_prefix}.").partition(".")
    parts = {part for part, _ in model.base_model.named_children()}
    return bool(rest) and first in parts


def _wrapper(expected: Collection[str], found: Collection[str], base: str) -> str | None:
    """What has to be taken out of the names of most weights to make them those of the model."""
    if not expected:
        return None
    wanted = {*expected, *(name.removeprefix(f"{base}.") for name in expected)}
    matching = len(wanted.intersection(found))
    for wrapper in _WRAPPERS:
        stripped = {name.replace(wrapper, "") for name in found if wrapper in name}
        doubled = {name.removeprefix(wrapper) for name in found if name.startswith(wrapper)}
        now = max(len(wanted & stripped), len(wanted & doubled))
        if now > matching and now * 2 > len(expected):
            return wrapper
    return None


def _misfit(
    model: PreTrainedModel,
    location: str,
    missing: set[str],
    mismatched: Mapping[str, tuple[list[int], list[int]]],
    unexpected: set[str],
    wrapper: str | None,
    *,
    new_head: bool,
) -> ModelError:
    """The error, with counts, the first names, and what to do."""
    told = []
    if missing:
        told.append(f"{len(missing)} of {len(model.state_dict())} weights are missing ({_first(missing)})")
    if mismatched:
        name, (theirs, ours) = sorted(mismatched.items())[0]
        told.append(f"{len(mismatched)} have another shape (first {name}: {theirs} instead of {ours})")
    if unexpected:
        told.append(f"{len(unexpected)} have no place in it ({_first(unexpected)})")
    advice = _advice(model, missing, mismatched, unexpected, wrapper, new_head=new_head)
    return ModelError(
        f"{location}: its weights are not those of the {type(model).__name__} that its configuration describes: "
        f"{', '.join(told)}. {advice}"
    )


def _advice(
    model: PreTrainedModel,
    missing: set[str],
    mismatched: Mapping[str, object],
    unexpected: set[str],
    wrapper: str | None,
    *,
    new_head: bool,
) -> str:
    if any("lora_" in name for name in unexpected) or wrapper == "base_model.model.":
        return "They are those of a model with an adapter: save it again after model.merge_and_unload() of PEFT."
    if wrapper:
        return (
            f"Their names have {wrapper!r} in them, as a wrapper of the model puts it there (torch.compile, "
            "DataParallel, FSDP, or a class of your own). Save the model that it wraps, or rename them with "
            f"safetensors: save_file({{name.replace({wrapper!r}, '', 1): tensor for name, tensor in "
            "load_file(path).items()}, path)."
        )
    output = model.get_output_embeddings()
    if output is not None and missing and all(model.get_submodule(_owner(name)) is output for name in missing):
        return (
            "The model has an output layer of its own, since tie_word_embeddings is false. Set it to true in "
            "config.json if the model was trained so, or take the complete checkpoint."
        )
    if (
        not new_head
        and missing
        and not mismatched
        and not unexpected
        and all(_begins_anew(model, name) for name in missing)
    ):
        return "So it has no head for this task: add an adapt section to train one, or take a checkpoint that has it."
    return "Take a complete checkpoint, and the config.json that was saved with it."


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _first(names: Collection[str]) -> str:
    shown = sorted(names)[:SHOWN]
    return f"{'first ' if len(names) > SHOWN else ''}{', '.join(shown)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the table of transformers: what matters of it is an error here, or a warning of the plan."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
