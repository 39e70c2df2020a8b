"""Pieces that records of several stages are made of."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A piece of a record."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A measured value with its 95 % bootstrap interval over the test rows."""

    value: float
    low: float
    high: float
