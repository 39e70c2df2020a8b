"""Answers as HTML, in which whatever a person typed or a class is called stays text."""

from collections.abc import Sequence

from potstill.playground.answers import ModelAnswer
from potstill.presentation.page import templates_of

_TEMPLATES = templates_of("potstill.playground")


def as_cards(answers: Sequence[ModelAnswer]) -> str:
    """A card for each model, side by side."""
    return _rendered(answers=answers, notes=(), message="")


def as_notes(notes: Sequence[str]) -> str:
    """What must be known before anything is asked."""
    return _rendered(answers=(), notes=notes, message="")


def as_message(message: str) -> str:
    """Why there is no answer."""
    return _rendered(answers=(), notes=(), message=message)


def _rendered(**values: object) -> str:
    return _TEMPLATES.get_template("cards.html.j2").render(values)
