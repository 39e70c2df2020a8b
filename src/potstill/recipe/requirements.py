"""What a gate requires of a metric: a bound in either direction, with confidence or as measured."""

import math
import re
from dataclasses import dataclass
from typing import Literal, cast

_FORM = re.compile(r"(>=|<=|>|<)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\(\s*95\s*%\s*\))?")
Sign = Literal[">=", "<=", ">", "<"]


@dataclass(frozen=True)
class Requirement:
    """A threshold of one metric."""

    metric: str
    sign: Sign
    threshold: float
    confident: bool = False
    """Whether the one-sided 95 % bound of the metric must meet it, instead of its value."""
    key: str = ""
    """The key of the gate at which it stands."""

    def __str__(self) -> str:
        return f"{self.sign} {self.threshold:g}" + (" (95%)" if self.confident else "")

    @property
    def from_below(self) -> bool:
        """Whether more is required, and not less."""
        return self.sign in (">", ">=")

    def met_by(self, value: float) -> bool:
        match self.sign:
            case ">=":
                return value >= self.threshold
            case "<=":
                return value <= self.threshold
            case ">":
                return value > self.threshold
            case "<":
                return value < self.threshold


def parse_requirement(metric: str, text: str) -> Requirement:
    """`>= 0.92` or `> 0 (95%)`, as it stands in `require`.

    Raises:
        ValueError: neither of these forms.
    """
    found = _FORM.fullmatch(text.strip())
    number = _number(found[2]) if found else None
    if found is None or number is None:
        raise ValueError(
            f"require.{metric}: {text!r} is no requirement. Write a sign and a number, such as '>= 0.92' or '<= 0.05', "
            "and '> 0 (95%)' where it must hold with 95 % confidence."
        )
    return Requirement(metric, cast(Sign, found[1]), number, found[3] is not None, key=f"require.{metric}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
