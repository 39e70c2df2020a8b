"""What the tensors of a checkpoint are: numbers that can be trained, finite, and the same where they should be one."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.checkpoints import Stored, same_rows
from potstill.errors import ModelError
from potstill.models import FAMILIES

_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of weights that are read as they are. Numbers of any other need scales, which a configuration would explain."""
_PACKED = (
    ".qweight",
    ".qzeros",
    ".scales",
    ".SCB",
    ".absmax",
    ".g_idx",
    ".quant_map",
    ".weight_packed",
    ".weight_scale",
)
"""How the names of what belongs to quantised weights end: of GPTQ, AWQ, bitsandbytes and compressed-tensors."""


def require_plain(config: PretrainedConfig, location: str) -> None:
    """Quantised weights are of other types and shapes, which nobody can train, or cut a student from.

    Raises:
        ModelError: the configuration says that they are.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    settings = settings if isinstance(settings, Mapping) else settings.to_dict()
    method = settings.get("quant_method") or "a method that its config.json does not name"
    raise _quantised(location, method)


def require_plain_types(model: PreTrainedModel, stored: Mapping[str, Stored], location: str) -> None:
    """Weights of types that hold quantised ones would be read as if each number were the weight itself.

    Raises:
        ModelError: names the first.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name.removeprefix(f"{model.base_model_prefix}.") for name in names}
    odd = sorted(
        name
        for name, tensor in stored.items()
        if (tensor.kind not in _PLAIN and name in names) or name.endswith(_PACKED)
    )
    if odd:
        kind = stored[odd[0]].kind
        raise _quantised(location, f"{odd[0]} is {kind}, and its config.json does not name the method")


def _quantised(location: str, method: str) -> ModelError:
    return ModelError(
        f"{location}: its weights are quantised ({method}), and such weights are not read. Take the checkpoint that it "
        "was made from, or load it in transformers and save it after model.dequantize(), where its method has that."
    )


def require_tied_files(model: PreTrainedModel, stored: Mapping[str, Stored], location: str) -> None:
    """Compare the matrices of a folder that its configuration says are one.

    Raises:
        ModelError: two of them differ.
    """
    for target, source in _tied(model).items():
        found = [
            next(((name, stored[name]) for name in _names(model, each) if name in stored), None)
            for each in (target, source)
        ]
        if found[0] is not None and found[1] is not None and not same_rows(found[0], found[1]):
            raise _apart(model, location, target, source)


def require_tied(model: PreTrainedModel, location: str) -> None:
    """The same of a model that was loaded: transformers leaves two that differ apart.

    Raises:
        ModelError: two matrices differ.
    """
    for target, source in _tied(model).items():
        if model.get_parameter(target) is not model.get_parameter(source):
            raise _apart(model, location, target, source)


def _tied(model: PreTrainedModel) -> dict[str, str]:
    """Which weights the configuration says are others. T5 says so of all, and mT5 too."""
    if has_own_head(model.config):
        return {}
    tied: dict[str, str] = model.get_expanded_tied_weights_keys(all_submodels=True)
    return tied


def has_own_head(config: PretrainedConfig) -> bool:
    """Whether the output layer is a matrix of its own though transformers says that it is tied."""
    return config.model_type in FAMILIES and FAMILIES[config.model_type].own_head(config)


def _names(model: PreTrainedModel, name: str) -> tuple[str, str]:
    """A weight's name, and as checkpoints of the base model have it."""
    return name, name.removeprefix(f"{model.base_model_prefix}.")


def _apart(model: PreTrainedModel, location: str, target: str, source: str) -> ModelError:
    # T5 writes the second of them beside the first, and goes by it where both are there.
    fields = [
        "tie_word_embeddings",
        *(["scale_decoder_outputs"] if hasattr(model.config, "scale_decoder_outputs") else []),
    ]
    return ModelError(
        f"{location}: its config.json says that {target} is {source} (tie_word_embeddings), and it holds two that "
        f"differ. If each was trained by itself, set {': false and '.join(fields)}: false in config.json; if not, "
        f"save the {type(model).__name__} anew from the checkpoint that it was made from."
    )


def require_finite(model: PreTrainedModel, location: str) -> None:
    """Weights that are not finite make all that is computed with them so, and nothing can be learnt from that.

    Raises:
        ModelError: counts them, and names the first.
    """
    bad = [name for name, weight in model.named_parameters() if not _finite(weight)]
    if not bad:
        return
    first = model.get_parameter(bad[0])
    count = int((~torch.isfinite(first)).sum())
    raise ModelError(
        f"{location}: {len(bad)} of its weights hold values that are not finite, first {bad[0]} ({count:,} of "
        f"{first.numel():,}), even if no text of yours should need them. The training that it is of diverged, or a "
        "type of fewer bits could not hold them: take an earlier checkpoint, or one in float32."
    )


BLOCK = 64
"""Weights that share a scale in 4 bits (arXiv:2305.14314)."""


def require_whole_blocks(model: PreTrainedModel, location: str) -> None:
    """On a processor bitsandbytes multiplies rows of whole blocks alone.

    Raises:
        ModelError: names the first layer in 4 bits with other rows.
    """
    if not getattr(model, "is_loaded_in_4bit", False) or model.device.type != "cpu":
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point() and module.in_features % BLOCK:
            raise ModelError(
                f"{location}: {name} has {module.in_features} inputs, and weights in 4 bits are multiplied on a "
                f"processor in blocks of {BLOCK}. Set teacher.quantization: 8bit, or use a GPU."
            )


def _finite(weight: torch.Tensor) -> bool:
    """Of the least and the greatest, for they need no memory and are not finite where any value is not."""
    return weight.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(weight.detach()))).all())
