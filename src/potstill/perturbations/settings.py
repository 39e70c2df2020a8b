"""How robust models are is measured, as a recipe says it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from potstill.perturbations import NAMES, SEVERITIES, PerturbationName, Severity
from potstill.perturbations.words import OF_WORDS
from potstill.settings import Settings

Count = Annotated[int, Field(ge=1)]


def _once(values: tuple[object, ...]) -> tuple[object, ...]:
    if twice := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"{twice[0]} is listed twice; name each once.")
    return values


BUILT_IN = "built_in"
OF_LANGUAGE_MODELS: Mapping[str, Any] = {"rows": 32, "attacks": 0}
"""What language models have in place of the defaults: each row costs every model the reading of all its tokens in each
of 27 changes. Over 32 rows, a mean whose spread over the rows is as large as itself is known to about a third, and how
much it changes better, for that is of the same rows."""

OF_TAGS: Mapping[str, Any] = {"attacks": 0, "perturbations": OF_WORDS}
"""What tags have in place of the defaults: they are not attacked, and no change is made between words."""


class RobustnessSettings(Settings):
    """How models answer where texts are changed, at random and on purpose."""

    rows: Count = 300
    """Test rows, by stable hash, that are changed. An accuracy of so many rows is known to about 5 points, and its mean
    over all changes better. Of language models 32: each of their rows costs the reading of all its tokens."""
    perturbations: Annotated[tuple[PerturbationName, ...], Field(min_length=1), AfterValidator(_once)] = NAMES
    """The changes at random. Of tagged words all but `white_space`, which would change what stands between them."""
    severities: Annotated[tuple[Severity, ...], Field(min_length=1), AfterValidator(_once)] = SEVERITIES
    """How strong each is. Each model answers rows x perturbations x severities texts, equal ones once."""
    attacks: int = Field(default=50, ge=0)
    """Of these rows those that are attacked, letter by letter; 0 leaves it out. Of classes alone: elsewhere it is 0."""
    queries: int = Field(default=200, ge=10)
    """Most texts that an attack may ask a model about, for each row."""
    max_changed_words: float = Field(default=0.2, gt=0, le=1)
    """Most of a text's words that an attack may change, as a share, and one at least: with more changed, people read
    another text too."""
    unanswerable: str | None = BUILT_IN
    """Of chat models alone: queries that should be declined or are nonsense, as `data.test` names its rows; their last
    response is not read, and their domain tells the kind. `built_in`: 24 of each, which come with potstill; of 48, a
    difference of 0.2 in a share leaves out zero, whatever the share. null: none."""
