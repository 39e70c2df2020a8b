"""What a recipe says of LoRA, and the learning rate that it is used to."""

from typing import Annotated, Literal

from pydantic import Field

from potstill.settings import Settings

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class LoraSettings(Settings):
    """Train `scale * B A` beside the weights of linear layers (Hu et al. 2021, arXiv:2106.09685); B begins at zero.

    What is trained at the end is merged into the weights, so that nothing is slower for it.
    """

    rank: int = Field(default=16, ge=1)
    """Rows of A and columns of B. 8 to 64 are usual: where every linear layer is adapted, a larger one changed nothing
    in QLoRA's instruction tuning (Dettmers et al. 2023, arXiv:2305.14314, section 4). More rows ask for more."""
    alpha: int = Field(default=32, ge=1)
    """scale = alpha / rank. With 32 the best learning rate hardly depends on the rank (Schulman et al. 2025, "LoRA
    Without Regret")."""
    rank_stabilised: bool = False
    """scale = alpha / sqrt(rank), with which high ranks learn as fast as low ones (rsLoRA, arXiv:2312.03732)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what A reads, in training. It does little in short trainings ("LoRA Without Regret")."""
    target_modules: Literal["all-linear"] | Names = "all-linear"
    """Linear layers by the ends of their names, such as [q_proj, v_proj]. all-linear: all but the output layer.
    Attention alone learns less at as many parameters (QLoRA, figure 2; "LoRA Without Regret")."""
    modules_to_save: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Modules that are trained in full beside, by the ends of their names, such as [embed_tokens]. The head of a task
    with classes or numbers always is, and so is what is drawn anew."""

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank**0.5 if self.rank_stabilised else self.alpha / self.rank


TIMES_FULL = 10.0
"""The best learning rate of LoRA over that of training all weights (Schulman et al. 2025, "LoRA Without Regret")."""


def usual_rate(width: int) -> float:
    """The learning rate at which a model of this width is usually trained with LoRA.

    Source: "LoRA Without Regret": ten times 5e-5 at 2,000 channels, and more for narrower models, with the exponent
    that was found for Llama.
    """
    return TIMES_FULL * 5e-5 * float((2000 / width) ** 0.781)
