"""What a stage was begun with and what it is asked for now, compared as JSON has them."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two nested values differ, as `train.epochs 8 -> 10`; fingerprints are named without their digits."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        shown = [json.dumps(value, ensure_ascii=False) for value in (old, new)]
        short = all(len(text) <= 40 for text in shown)
        yield f"{where} {shown[0]} -> {shown[1]}" if short else where


def resolved(inputs: Any, auto: Mapping[str, str], where: str = "") -> Any:
    """The inputs with `auto` replaced by what it stands for."""
    if isinstance(inputs, dict):
        return {key: resolved(value, auto, f"{where}.{key}" if where else key) for key, value in inputs.items()}
    return auto.get(where, inputs) if inputs == "auto" else inputs


def without(inputs: Any, names: Collection[str], where: str = "") -> Any:
    """The inputs without the values of these names."""
    if not isinstance(inputs, dict):
        return inputs
    inner = {key: f"{where}.{key}" if where else key for key in inputs}
    return {key: without(value, names, inner[key]) for key, value in inputs.items() if inner[key] not in names}
