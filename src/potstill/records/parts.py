"""Pieces that records of several stages are made of."""

import math

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A piece of a record."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A measured value with its 95 % bootstrap interval over the test rows."""

    value: float
    low: float
    high: float
    at_least: float | None = Field(default=None, exclude_if=lambda bound: bound is None)
    """This and the next: the one-sided 95 % bounds, beyond which 5 % of the resamples lie. None in records from before
    there were any."""
    at_most: float | None = Field(default=None, exclude_if=lambda bound: bound is None)

    @classmethod
    def alone(cls, value: float) -> "Estimate":
        """A value of which no interval is known."""
        return cls(value=value, low=-math.inf, high=math.inf)

    @property
    def known(self) -> bool:
        """Whether it has an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def negative(self) -> "Estimate":
        """The same the other way round, as of a difference whose sides change places."""
        return Estimate(
            value=-self.value,
            low=-self.high,
            high=-self.low,
            at_least=None if self.at_most is None else -self.at_most,
            at_most=None if self.at_least is None else -self.at_least,
        )
