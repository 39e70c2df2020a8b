"""Class ids as their names by the features of Hugging Face datasets, which Parquet and Arrow files carry."""

import json
from collections.abc import Callable, Mapping
from typing import Any

Named = Callable[[Any], Any]
"""A value with names in place of class ids.

Raises:
    ValueError: an id without a name; says which.
"""

NO_CLASS = -1
"""The id of a row without a label."""


def features_of(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The features in the metadata of an Arrow schema; empty where there are none."""
    text = (metadata or {}).get(b"huggingface")
    try:
        found = json.loads(text or b"{}")["info"]["features"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def namings(features: Mapping[str, Any]) -> dict[str, Named]:
    """For each column with classes in it, what gives them their names."""
    return {name: named for name, feature in features.items() if (named := _naming(feature)) is not None}


def _naming(feature: Any) -> Named | None:
    if isinstance(feature, list):
        return _of_each(_naming(feature[0])) if len(feature) == 1 else None
    if not isinstance(feature, dict):
        return None
    kind = feature.get("_type")
    if kind == "ClassLabel" and isinstance(feature.get("names"), list):
        return _by_names([str(name) for name in feature["names"]])
    if kind in ("List", "LargeList", "Sequence"):
        inside = feature.get("feature")
        if isinstance(inside, dict) and not isinstance(inside.get("_type"), str):
            # A sequence of objects is stored as an object of lists.
            return _of_either(_of_fields({name: _of_each(_naming(each)) for name, each in inside.items()}), inside)
        return _of_each(_naming(inside))
    if isinstance(kind, str):
        return None
    return _of_fields({name: _naming(each) for name, each in feature.items()})


def _by_names(names: list[str]) -> Named:
    def named(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or value == NO_CLASS:
            return None if value == NO_CLASS else value
        if not 0 <= value < len(names):
            raise ValueError(f"class {value}, and the file names {len(names)} classes, from 0 on")
        return names[value]

    return named


def _of_each(inside: Named | None) -> Named | None:
    if inside is None:
        return None

    def named(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        items = [inside(each) for each in value]
        # As a row without a label is written where labels are lists.
        return None if items and all(item is None for item in items) and None not in value else items

    return named


def _of_either(of_object: Named | None, inside: Any) -> Named | None:
    of_list = _of_each(_naming(inside))
    if of_object is None or of_list is None:
        return None

    def named(value: Any) -> Any:
        return of_object(value) if isinstance(value, dict) else of_list(value)

    return named


def _of_fields(fields: Mapping[str, Named | None]) -> Named | None:
    inside = {name: named for name, named in fields.items() if named is not None}
    if not inside:
        return None

    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: inside[key](each) if key in inside else each for key, each in value.items()}
        return value

    return named
