"""Classes by name, as a model's configuration carries them."""

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from potstill.errors import ModelError


def config_of(labels: Sequence[str], problem_type: str | None = None) -> dict[str, Any]:
    """The classes, and the form of the answer, as a model configuration carries them."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": problem_type,
    }


def labels_of(config: PretrainedConfig) -> list[str]:
    return [config.id2label[number] for number in range(config.num_labels)]


def own_labels(config: PretrainedConfig, labels: Sequence[str]) -> list[str]:
    """The classes in the order of the logits of a teacher that brings its own head.

    Raises:
        ModelError: its classes are not those of the data.
    """
    own = labels_of(config)
    if sorted(own) != sorted(labels):
        missing = sorted(set(labels) - set(own))[:3]
        extra = sorted(set(own) - set(labels))[:3]
        raise ModelError(
            f"teacher.model: its head has {len(own)} classes, the data {len(labels)} "
            f"(only in the data: {missing}, only in the head: {extra}). "
            "Add an adapt section to give it a head for these classes, or rename the labels."
        )
    return own
