"""How far stored labels may be from the teacher, and whether a measured error is within that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from potstill.errors import LabelStoreError
from potstill.records import LabelFidelity


@dataclass(frozen=True)
class Bound:
    """The largest KL in nats from the teacher to its stored labels, at each of some temperatures."""

    max_kl: float | None
    """Null accepts any error."""
    temperatures: tuple[float, ...]
    """Ascending; errors outside of them are not judged."""

    def exceeded_by(self, errors: Sequence[LabelFidelity]) -> LabelFidelity | None:
        """The worst of these errors where the bound holds, if it is more than the bound."""
        low, high = self.temperatures[0], self.temperatures[-1]
        judged = [each for each in errors if low <= each.temperature <= high and each.kl is not None]
        if self.max_kl is None or not judged:
            return None

        def far(error: LabelFidelity) -> float:
            # What is no number is no measurement, and passes nothing.
            return error.kl if error.kl is not None and math.isfinite(error.kl) else math.inf

        worst = max(judged, key=far)
        return worst if far(worst) > self.max_kl else None

    def require(self, errors: Sequence[LabelFidelity]) -> None:
        """Compare the measured error of stored labels with the bound.

        Raises:
            LabelStoreError: it is more at a temperature that the losses use.
        """
        over = self.exceeded_by(errors)
        if over is not None:
            raise LabelStoreError(
                f"label: the stored labels are {over.kl:.3f} nats from the teacher at temperature "
                f"{over.temperature:g}, which the losses use; label.max_kl is {self.max_kl:g}. Raise it, choose a "
                "larger label.encoding, or another temperature."
            )


def temperatures_around(used: tuple[float, float], grid: Sequence[float]) -> tuple[float, ...]:
    """The temperatures of the grid that are used, from the lowest to the highest, with the nearest ones around them.

    `grid` is ascending and reaches around what is used.
    """
    low, high = used
    first = max(known for known in grid if known <= low)
    last = min(known for known in grid if known >= high)
    return tuple(known for known in grid if first <= known <= last)
