"""The last layer of a classifier: where it lies, which classes it has, and where a new one begins."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from potstill.checkpoints import stored_tensors
from potstill.errors import ModelError
from potstill.tasks.classes import head_names, name_outputs, names_of
from potstill.tasks.loading import explained, load_config
from potstill.tasks.weights import AS_TRAINED, load_weights


def load_classifier_config(location: str, **where: Any) -> PretrainedConfig:
    """The configuration of a classifier, in which its outputs have the names that its config.json gives them.

    Raises:
        ModelError: there is none, or one that transformers cannot read.
    """
    config = load_config(location, **where)
    with explained(location):
        name_outputs(config, PretrainedConfig.get_config_dict(location, **where)[0])
    return config


def load_classifier(
    auto: Any,
    location: str,
    config: PretrainedConfig,
    values: Mapping[str, Any] | None,
    classes: Mapping[str, str],
    how: Mapping[str, Any] = AS_TRAINED,
    **where: Any,
) -> PreTrainedModel:
    """The model, in float32 where `how` does not say otherwise.

    Where `values` say which classes its configuration should have, with a head for these.

    Outputs go by the names of their classes: of a head with the same ones they are brought into the order asked for,
    and a head with others is drawn anew, for its weights would mean something else under new names.

    Raises:
        ModelError: it cannot be loaded, or its checkpoint does not fill it.
    """
    if values is None:
        model, _ = load_weights(auto, location, config=config, **where, **how)
        if how:
            answer_in_float32(model)
            _read_last_layer(model, Path(location))
        return model
    assert not how, "what gets a head is trained"
    model, found = load_weights(auto, location, new_head=True, **values, **where)
    name, last = output_layer(model)
    if found.new.isdisjoint(f"{name}.{parameter}" for parameter, _ in last.named_parameters()):
        own, labels = head_names(config, classes), list(values["id2label"].values())
        if values["problem_type"] != "regression" and own != labels:
            _sort_outputs(last, own, labels, model.config)
    return model


def embedding_parameters(model: PreTrainedModel) -> int:
    """Those of the embeddings with all that belongs to them, where a family has a module for them; else of the words
    alone."""
    embeddings = getattr(model.base_model, "embeddings", None)
    module = embeddings if isinstance(embeddings, nn.Module) else model.get_input_embeddings()
    return sum(parameter.numel() for parameter in module.parameters())


def answer_in_float32(model: PreTrainedModel) -> None:
    """Let the last layer of a model in half precision compute in float32, so that its outputs are not rounded.

    Of two bytes an output has 8 or 11 bits: in bfloat16 there is no number between 5.3125 and 5.34375.
    """
    linear = _outside_of_encoder(model)
    if linear and linear[-1][1].weight.is_floating_point():
        linear[-1][1].float().register_forward_pre_hook(_widened)


def _read_last_layer(model: PreTrainedModel, folder: Path) -> None:
    """Fill the last layer from the files once more: it was rounded to the type of the others when it was loaded, and a
    bias of a number such as a year has no digit to spare."""
    linear = _outside_of_encoder(model)
    if not linear or not folder.is_dir() or linear[-1][1].weight.dtype != torch.float32:
        return
    name, last = linear[-1]
    stored = stored_tensors(folder)
    for part, parameter in last.named_parameters():
        if (found := stored.get(f"{name}.{part}")) is not None:
            with safe_open(found.file, "pt") as file, torch.no_grad():
                parameter.copy_(file.get_tensor(f"{name}.{part}"))


def _widened(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in given)


def in_order(model: PreTrainedModel, classes: Mapping[str, str], labels: Sequence[str]) -> None:
    """Bring the outputs of a classifier into the order of `labels`, which are its own under the names of `classes`."""
    _sort_outputs(output_layer(model)[1], head_names(model.config, classes), labels, model.config)
    model.config.update(names_of(labels))


def _sort_outputs(last: nn.Linear, own: Sequence[str], labels: Sequence[str], config: PretrainedConfig) -> None:
    """Bring the outputs of a head with the classes `own` into the order of `labels`, or draw all of it anew."""
    with torch.no_grad():
        if sorted(own) == sorted(labels):
            order = [own.index(label) for label in labels]
            for parameter in last.parameters():
                parameter.copy_(parameter[order].clone())
        else:
            last.weight.normal_(std=config.initializer_range)
            if last.bias is not None:
                last.bias.zero_()


def start_at_shares(model: PreTrainedModel, labels: Int[np.ndarray, "rows labels"]) -> None:
    """Let a new head begin with the share of the labelled rows that have each label, as far as its bias decides.

    Labels are rare. A head that begins at one half for each first drives all of them down together, and at the rates
    that small encoders are trained with, the features of all texts become one on the way (Lin et al. 2017,
    arXiv:1708.02002, section 4.1, begin their detectors so too).

    Raises:
        ModelError: its last layer is not known.
    """
    with_label, rows = (labels == 1).sum(axis=0), (labels >= 0).sum(axis=0)
    # Half a row to each side, for labels that no row has, or all.
    log_odds = np.log(with_label + 0.5) - np.log(rows - with_label + 0.5)
    last = last_layer(model, outputs=labels.shape[1])
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(log_odds))


def last_layer(model: PreTrainedModel, *, outputs: int) -> nn.Linear:
    """The linear layer that gives so many outputs, with its bias.

    Raises:
        ModelError: there is none outside of the encoder, or it gives something else.
    """
    _, last = output_layer(model)
    if last.out_features != outputs or last.bias is None:
        raise ModelError(
            f"{model.config.model_type}: its head does not end with a linear layer of {outputs} outputs with a bias, "
            "which several labels and numbers need. Take a teacher whose head has one, such as BERT's."
        )
    return last


def output_layer(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The last linear layer of a classifier, and its name.

    Raises:
        ModelError: there is none outside of the encoder.
    """
    linear = _outside_of_encoder(model)
    if not linear:
        raise ModelError(
            f"{model.config.model_type}: its head has no linear layer outside of the encoder. Take a teacher whose "
            "head has one, such as BERT's."
        )
    return linear[-1]


def _outside_of_encoder(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """The linear layers behind the base model, by name."""
    inside = f"{model.base_model_prefix}."
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
