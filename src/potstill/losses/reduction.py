"""The one masked reduction that every loss goes through."""

from jaxtyping import Bool, Float
from torch import Tensor


def masked_sum(values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"] | None) -> Float[Tensor, ""]:
    """Sum over the positions where `mask` is true; masked positions add nothing, whatever they hold."""
    # where, not a product: NaN * 0 is NaN, in the value and in the gradient.
    return (values if mask is None else values.where(mask, 0.0)).sum()


def masked_mean(values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*batch"] | None) -> Float[Tensor, ""]:
    """Mean over the positions where `mask` is true; 0 where there is none, since nothing can be learnt there."""
    count = values.numel() if mask is None else mask.sum().clamp(min=1)
    return masked_sum(values, mask) / count
