"""Pieces that records of several stages are made of."""

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
