"""Splitting by stable hash: a row's place depends on its key and the salt, not on the rows around it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def stable_order(items: Sequence[T], key: Callable[[T], str], *, salt: str) -> list[T]:
    """The items in the order of the hash of their keys: shuffled, and the same on every machine."""
    return sorted(items, key=lambda item: (stable_fraction(key(item), salt=salt), key(item)))


def stable_fraction(key: str, *, salt: str) -> float:
    """A number in [0, 1) that depends on `key` and `salt` alone: below 0.1 for a tenth of all keys."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
