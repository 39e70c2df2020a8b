"""How a student is trained for a form in which its numbers are rounded."""

from pydantic import Field

from potstill.settings import Settings


class RoundedTraining(Settings):
    """A few hundred steps more on the stored labels, with the artefact's rounding in the forward pass.

    The KL from the teacher is the only loss, as in the quantisation-aware distillation of torchao and of NVIDIA's Model
    Optimizer: true labels would teach anew what the student knows.
    """

    steps: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    """A fifth of the student's by default, which only has to move weights by less than a step between levels."""
