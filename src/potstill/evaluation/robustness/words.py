"""What sections about other texts have in common."""

from potstill.presentation.formats import readable, sentence
from potstill.presentation.tables import Cell

ABOUT = ""
"""The style of what a row is about, and of its head."""
_NAMES = {"ocr": "OCR", "look_alikes": "look-alikes", "white_space": "white space"}


def head(*names: str, about: str) -> list[Cell]:
    return [Cell(about, ABOUT), *(Cell(name) for name in names)]


def perturbation_in_words(name: str, severity: int) -> str:
    return f"{sentence(_NAMES.get(name, readable(name)))}, {severity}"
