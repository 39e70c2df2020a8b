"""Entities in tagged words, and how well they are found: a span counts where its kind and both its ends are right."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from potstill.data.tag_schemes import OUTSIDE, split_tag, stand_alone
from potstill.measure.quality import Weights, drawn_sums

Entity = tuple[str, int, int]
"""Its kind, its first word, and the word after its last."""


def entities_of(tags: Sequence[str], among: Collection[str] | None = None) -> list[Entity]:
    """The entities of a document, in order, read as the CoNLL-2000 evaluation reads them.

    Tags are `B-kind` and `I-kind`, with `E-` and `S-` (or `L-` and `U-`) where the scheme has them, or a prefix alone.
    An entity also begins at an I that continues none of its kind. A tag without a prefix is its kind, as in IO.
    `among` are all tags of the data, of which the document may have few: they say whether a letter is a prefix.
    """
    alone = stand_alone(tags if among is None else among)
    found: list[Entity] = []
    kind, start = OUTSIDE, 0
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, own = split_tag(tag, alone=alone)
        goes_on = own == kind and prefix in {"I", "E", "L"}
        if not goes_on:
            if kind != OUTSIDE:
                found.append((kind, start, place))
            kind, start = own, place
        if prefix in {"E", "L", "S", "U"} and kind != OUTSIDE:
            found.append((kind, start, place + 1))
            kind = OUTSIDE
    return found


def kinds_of(tags: Iterable[str]) -> list[str]:
    """The kinds of entities that these, all tags of the data, can tell, sorted."""
    known = set(tags)
    alone = stand_alone(known)
    return sorted({split_tag(tag, alone=alone)[1] for tag in known} - {OUTSIDE})


@dataclass(frozen=True)
class Found:
    """Of each document: the entities that are there, those that were predicted, and those of them that are right."""

    there: Float[np.ndarray, "documents"]
    predicted: Float[np.ndarray, "documents"]
    right: Float[np.ndarray, "documents"]


def compare(truth: Sequence[Sequence[Entity]], predicted: Sequence[Sequence[Entity]], kind: str | None = None) -> Found:
    """The entities of documents against the true ones, of one kind alone where it is given."""
    there, claimed = ([_of_kind(each, kind) for each in side] for side in (truth, predicted))
    right = [len(one & other) for one, other in zip(there, claimed, strict=True)]
    return Found(
        *(np.array(each, dtype=np.float64) for each in (list(map(len, there)), list(map(len, claimed)), right))
    )


def _of_kind(entities: Sequence[Entity], kind: str | None) -> set[Entity]:
    return {entity for entity in entities if kind is None or entity[0] == kind}


def precision(found: Found, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """Share of the predicted entities that are right, in each resample of documents."""
    return _share(drawn_sums(weights, found.right), drawn_sums(weights, found.predicted))


def recall(found: Found, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """Share of the entities there that are found, in each resample of documents."""
    return _share(drawn_sums(weights, found.right), drawn_sums(weights, found.there))


def f1(found: Found, weights: Weights) -> Float[np.ndarray, "resamples"]:
    """The harmonic mean of both, over all entities together (micro), in each resample of documents."""
    return _share(2 * drawn_sums(weights, found.right), drawn_sums(weights, found.predicted + found.there))


def _share(right: Float[np.ndarray, "resamples"], of: Float[np.ndarray, "resamples"]) -> Float[np.ndarray, "resamples"]:
    """Where there is nothing to find and nothing was predicted, nothing is wrong."""
    return np.where(of > 0, right / np.maximum(of, 1e-12), 1.0)
