"""The one masked reduction that every loss goes through."""

from jaxtyping import Bool, Float
from torch import Tensor


def blank_masked(
    logits: Float[Tensor, "*batch classes"], mask: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch classes"]:
    """The logits with zeros at masked positions.

    Before a loss, not after it: the gradient of a softmax over NaN is NaN, even where zero flows into it.
    """
    return logits.masked_fill(~mask.unsqueeze(-1), 0.0)


def masked_sum(values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"] | None) -> Float[Tensor, ""]:
    """Sum over the positions where `mask` is true; masked positions add nothing, whatever they hold."""
    # where, not a product: NaN * 0 is NaN.
    return (values if mask is None else values.where(mask, 0.0)).sum()


def masked_mean(values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"] | None) -> Float[Tensor, ""]:
    """Mean over the positions where `mask` is true; 0 where there is none, since nothing can be learnt there."""
    count = values.numel() if mask is None else mask.sum().clamp(min=1)
    return masked_sum(values, mask) / count
