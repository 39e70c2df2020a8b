"""Values that change over training: temperature, loss weights, learning rate.

Progress is the share of optimiser steps already done: 0 at the first step, 1 at the last.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from potstill.settings import Settings


class Constant(Settings):
    """The same value all along; a bare number in a recipe means this."""

    kind: Literal["constant"] = "constant"
    value: float

    def at(self, progress: float) -> float:
        return self.value

    def values(self) -> tuple[float, float]:
        return self.value, self.value


class Linear(Settings):
    """A straight line from `start` to `end`."""

    kind: Literal["linear"] = "linear"
    start: float
    end: float

    def at(self, progress: float) -> float:
        return self.start + (self.end - self.start) * _clip(progress)

    def values(self) -> tuple[float, float]:
        return self.start, self.end


class Cosine(Settings):
    """Half a cosine from `start` to `end`: slow at both ends, fast in the middle."""

    kind: Literal["cosine"] = "cosine"
    start: float
    end: float

    def at(self, progress: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * _clip(progress)))

    def values(self) -> tuple[float, float]:
        return self.start, self.end


def _clip(progress: float) -> float:
    return min(1.0, max(0.0, progress))


def _from_number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kind": "constant", "value": value}
    return value


AnySchedule = Annotated[Constant | Linear | Cosine, Field(discriminator="kind")]
Schedule = Annotated[AnySchedule, BeforeValidator(_from_number, json_schema_input_type=float | AnySchedule)]
"""A schedule, or a number for a constant one. `values()` gives its extremes: all three are monotone."""


def _at_least_zero(schedule: Schedule) -> Schedule:
    if min(schedule.values()) < 0:
        raise ValueError(f"a weight must not be negative, got {min(schedule.values()):g}")
    return schedule


Weight = Annotated[Schedule, AfterValidator(_at_least_zero)]
"""How much a loss counts: a loss of negative weight would drive the student away from what it compares."""


def learning_rate_factor(
    step: int, total_steps: int, *, warmup: float, decay: Literal["linear", "cosine", "constant"]
) -> float:
    """Share of the peak learning rate for optimiser step `step` (0-based) of `total_steps`.

    Rises linearly over the first `warmup` share of the steps, then decays to zero, or stays.
    """
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if decay == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
