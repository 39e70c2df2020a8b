"""Ways in which texts of the field differ from those of a test: typing errors, scans, cut ends, other signs."""

from random import Random
from typing import Literal, Protocol, get_args, runtime_checkable

from potstill.perturbations.characters import CASE, KEYBOARD, LOOK_ALIKES, OCR, PUNCTUATION, WHITE_SPACE
from potstill.perturbations.length import BoilerplateAfter, BoilerplateBefore, Truncation

__all__ = ["NAMES", "PERTURBATIONS", "SEVERITIES", "Perturbation", "PerturbationName", "Severity", "perturbed"]

PerturbationName = Literal[
    "keyboard",
    "ocr",
    "case",
    "white_space",
    "punctuation",
    "look_alikes",
    "truncation",
    "boilerplate_before",
    "boilerplate_after",
]
Severity = Literal[1, 2, 3]
SEVERITIES: tuple[Severity, ...] = (1, 2, 3)


@runtime_checkable
class Perturbation(Protocol):
    """A way to change a text so that a person still reads the same, or the part of it that is left."""

    @property
    def name(self) -> str: ...

    def apply(self, text: str, severity: Severity, random: Random) -> str:
        """The changed text: another one wherever there is something to change, and never an empty or blank one."""
        ...


PERTURBATIONS: tuple[Perturbation, ...] = (
    KEYBOARD,
    OCR,
    CASE,
    WHITE_SPACE,
    PUNCTUATION,
    LOOK_ALIKES,
    Truncation(),
    BoilerplateBefore(),
    BoilerplateAfter(),
)
NAMES: tuple[PerturbationName, ...] = get_args(PerturbationName)
_BY_NAME = {each.name: each for each in PERTURBATIONS}


def perturbed(text: str, name: str, severity: Severity, key: str) -> str:
    """The text as this perturbation changes it; what is drawn depends on `key`, name and severity alone."""
    return _BY_NAME[name].apply(text, severity, Random(f"{key}\0{name}\0{severity}"))
