"""How well a score tells rows of a domain from others, over resamples of both.

The higher the score, the more a row is taken for one of the domain.
"""

import numpy as np
from jaxtyping import Float, UInt8

Inside = Float[np.ndarray, "inside"]
"""The scores of the rows of the domain."""
Outside = Float[np.ndarray, "outside"]
InsideWeights = UInt8[np.ndarray, "resamples inside"]
"""How often each of them is drawn in each resample."""
OutsideWeights = UInt8[np.ndarray, "resamples outside"]
ACCEPTED = 0.95
"""Share of the rows of the domain that a detector must let pass (Liang et al. 2018, arXiv:1706.02690)."""


def aurocs(
    inside: Inside, outside: Outside, weights_inside: InsideWeights, weights_outside: OutsideWeights
) -> Float[np.ndarray, "resamples"]:
    """The area under the ROC curve in each resample: the chance that a row inside has the higher score, ties half."""
    order = np.argsort(inside, kind="stable")
    ranked = inside[order]
    below, up_to = (np.searchsorted(ranked, outside, side=side) for side in ("left", "right"))
    areas = np.empty(len(weights_inside))
    for number, (within, without) in enumerate(zip(weights_inside, weights_outside, strict=True)):
        lower = np.concatenate([[0.0], np.cumsum(within[order], dtype=np.float64)])
        higher = lower[-1] - (lower[below] + lower[up_to]) / 2
        areas[number] = without.astype(np.float64) @ higher / (lower[-1] * without.sum())
    return areas


def false_positive_rates(
    inside: Inside, outside: Outside, weights_inside: InsideWeights, weights_outside: OutsideWeights
) -> Float[np.ndarray, "resamples"]:
    """The share of rows outside that are accepted at the highest threshold that accepts 95 % of those inside."""
    order = np.argsort(-inside, kind="stable")
    rates = np.empty(len(weights_inside))
    for number, (within, without) in enumerate(zip(weights_inside, weights_outside, strict=True)):
        accepted = np.cumsum(within[order], dtype=np.float64)
        # In whole rows, so that rounding does not ask for one more.
        needed = np.ceil(ACCEPTED * accepted[-1] - 1e-9)
        threshold = inside[order[np.searchsorted(accepted, needed)]]
        rates[number] = without[outside >= threshold].sum() / without.sum()
    return rates
