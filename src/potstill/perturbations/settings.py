"""How robust models are is measured, as a recipe says it."""

from typing import Annotated

from pydantic import AfterValidator, Field

from potstill.perturbations import NAMES, SEVERITIES, PerturbationName, Severity
from potstill.settings import Settings

Count = Annotated[int, Field(ge=1)]


def _once(values: tuple[object, ...]) -> tuple[object, ...]:
    if twice := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"{twice[0]} is listed twice; name each once.")
    return values


class RobustnessSettings(Settings):
    """How models answer where texts are changed, at random and on purpose."""

    rows: Count = 300
    """Test rows, by stable hash, that are changed. An accuracy of so many rows is known to about 5 points, and its mean
    over all changes better."""
    perturbations: Annotated[tuple[PerturbationName, ...], Field(min_length=1), AfterValidator(_once)] = NAMES
    """The changes at random."""
    severities: Annotated[tuple[Severity, ...], Field(min_length=1), AfterValidator(_once)] = SEVERITIES
    """How strong each is. Each model answers rows x perturbations x severities texts, equal ones once."""
    attacks: int = Field(default=50, ge=0)
    """Of these rows those that are attacked, letter by letter; 0 leaves it out."""
    queries: int = Field(default=200, ge=10)
    """Most texts that an attack may ask a model about, for each row."""
    max_changed_words: float = Field(default=0.2, gt=0, le=1)
    """Most of a text's words that an attack may change, as a share, and one at least: with more changed, people read
    another text too."""
