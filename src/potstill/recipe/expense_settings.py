"""What a process that answers costs while it runs."""

from pydantic import model_validator

from potstill.settings import Settings


class ExpenseSettings(Settings):
    """Of one process with the threads of `evaluate.threads`. Both are what its owner knows: of a machine with several
    such processes, its share."""

    price_per_hour: float | None = None
    """In any currency."""
    currency: str = "USD"
    watts: float | None = None
    """Drawn while it answers, such as the share of the processor's. What a processor counts itself takes its place."""

    @model_validator(mode="after")
    def _something_is_known(self) -> "ExpenseSettings":
        if self.price_per_hour is None and self.watts is None:
            raise ValueError("give price_per_hour, watts, or both; without them there is nothing to estimate from.")
        for name, value in (("price_per_hour", self.price_per_hour), ("watts", self.watts)):
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value:g}; expected 0 or more.")
        return self
