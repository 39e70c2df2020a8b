"""What is measured of a model's speed at other batch sizes and lengths than those by which all are compared."""

from pydantic import Field

from potstill.records.parts import Part


class SpeedPoint(Part):
    """A model at one batch size and length, in float32."""

    batch_size: int
    length: int | None
    """Tokens of each query; None where they are as long as the test rows."""
    latency_p50_ms: float
    """Of a batch; of a language model of each token after the first."""
    latency_p95_ms: float | None
    """None where too few batches or prompts stand behind it."""
    latency_p50_range_ms: tuple[float, float]
    """The lowest and the highest median of a round."""
    throughput_per_s: float
    """Rows, or tokens of a language model."""
    time_to_first_token_ms: float | None = Field(default=None, exclude_if=lambda first: first is None)
