"""What a person must know of a model that no measurement tells: licences, and what it is for."""

from potstill.settings import Settings


class CardSettings(Settings):
    """Goes into the card of each artefact, as it stands here. What is not given is said to be unknown."""

    license: str | None = None
    """Of the student, as Hugging Face calls it: apache-2.0, mit, cc-by-4.0 and so on."""
    teacher_license: str | None = None
    """A student can be bound by that of its teacher."""
    data_license: str | None = None
    intended_use: str | None = None
    limits: str | None = None
    """What it must not be used for, or is known to do badly."""
