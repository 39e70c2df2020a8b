"""Which layer of the teacher guides which layer of the student."""

from typing import Annotated, Literal

from pydantic import Field

from potstill.errors import RecipeError
from potstill.models import spread

Pair = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
LayerMap = Literal["uniform", "distilbert", "first", "last"] | Annotated[tuple[Pair, ...], Field(min_length=1)]
"""A pattern, or pairs of a student's and a teacher's layer. Layer 0 is the output of the embeddings, layer i that of
the i-th layer, and no pattern takes layer 0.

uniform: student's layer i of S follows i * T / S of T (TinyBERT, arXiv:1909.10351), so the last follows the last.
distilbert: the layers that a student starts from, spread evenly with the first and the last (arXiv:1910.01108).
first, last: the teacher's lowest or highest S layers, one after the other.
"""


def layer_pairs(layers: LayerMap, student: int, teacher: int, *, lowest: int, loss: str) -> list[tuple[int, int]]:
    """Pairs of a student's and a teacher's layer, for models of so many layers.

    Raises:
        RecipeError: a pair names a layer that is not there.
    """
    if isinstance(layers, str):
        own = range(1, student + 1)
        match layers:
            case "uniform":
                followed = [round(layer * teacher / student) for layer in own]
            case "distilbert":
                followed = [layer + 1 for layer in spread(student, teacher)]
            case "first":
                followed = list(own)
            case "last":
                followed = [teacher - student + layer for layer in own]
        return list(zip(own, followed, strict=True))
    for pair in layers:
        for layer, count, whose in zip(pair, (student, teacher), ("student", "teacher"), strict=True):
            if not lowest <= layer <= count:
                raise RecipeError(
                    f"losses: {loss}.layers pairs {list(pair)}, and the {whose} has layers {lowest} to {count} "
                    f"{'(0 is the output of the embeddings)' if lowest == 0 else ''}. Write [student, teacher]."
                )
    return list(layers)
