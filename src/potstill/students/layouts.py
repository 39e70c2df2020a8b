"""Families in place of each other: weights that are the same in other words, and a configuration in another family."""

from collections.abc import Collection
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Kind, Size, family_named, family_of, teaching

_NAMED = ("pad_token_id", "bos_token_id", "eos_token_id", "id2label", "label2id")


def laid_out_alike(one: str, other: str) -> bool:
    """Whether weights of one family can be copied into the other."""
    return family_named(one).layout == family_named(other).layout


def families_beside(model_type: str) -> list[str]:
    """The families that a student of a teacher of this one can have."""
    family = family_named(model_type)
    if family.kind is Kind.ENCODER_DECODER:
        return [family.name]
    return [name for name in teaching(family.kind) if name == model_type or family_named(name).of_others]


def in_family(config: PretrainedConfig, family: str) -> PretrainedConfig:
    """A model of the same sizes, of another family.

    Raises:
        ModelError: one is an encoder and the other a decoder, or the other is not known here.
    """
    if family not in (known_families := families_beside(config.model_type)):
        raise ModelError(
            f"student.family: {family!r} does not fit a teacher of the family {config.model_type!r}; use one of "
            f"{', '.join(known_families)}."
        )
    source, target = family_of(config), family_named(family)
    # Qwen2's configuration declares no size of a head, though its attention reads one where it is there.
    known = {*CONFIG_MAPPING[family]().to_dict(), *target.sizes.get(Size.HEAD, ())}
    shared = source.config_fields.keys() & target.config_fields.keys()
    names = {target.config_fields[field]: source.config_fields[field] for field in sorted(shared)}
    values: dict[str, Any] = {}
    for own, name in names.items():
        if (value := getattr(config, name, None)) is not None and own in known:
            values[own] = value
    # A token that the teacher does not name is not the other family's usual one either.
    values |= {name: getattr(config, name, None) for name in _NAMED}
    # What the other family would have of its own where this one does not say it.
    for size, value in ((Size.HEAD, source.head_size(config)), (Size.KEY_VALUE_HEADS, source.key_value_heads(config))):
        for name in target.sizes.get(size, ()):
            values.setdefault(name, value)
    values |= target.not_taken_over
    if target.said_by_sizes is not None:
        values |= target.said_by_sizes(values)
    if (dropout := target.config_fields.get("classifier_dropout")) is not None:
        # Where it is not set, a head has the dropout of the layers.
        values.setdefault(dropout, values[target.config_fields["hidden_dropout_prob"]])
    # There the first positions are never used.
    positions = target.config_fields["max_position_embeddings"]
    values[positions] += target.unused_positions(config) - source.unused_positions(config)
    if (window := lost_window(config, known)) is not None:
        # It looks back to the first token: the same as a window that none of its texts is longer than.
        values[positions] = min(window, values[positions])
    return CONFIG_MAPPING[family].from_dict(values)


def lost_window(config: PretrainedConfig, values: Collection[str]) -> int | None:
    """The window through which a decoder looks back, where a configuration of such values has none."""
    if family_of(config).kind is not Kind.DECODER:
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window if "sliding_window" not in values else None
