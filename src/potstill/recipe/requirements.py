"""What a gate requires of a metric: a bound in either direction, with confidence or as measured, in the units of what
is to be shipped."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

_FORM = re.compile(
    r"(>=|<=|>|<)\s*([-+]?[0-9.,_]+(?:[eE][-+]?[0-9]+)?)(\s*)([^\s()0-9.,_]*)\s*(\(\s*95\s*%\s*\))?",
)
Sign = Literal[">=", "<=", ">", "<"]


@dataclass(frozen=True)
class Unit:
    """A unit in which a threshold can be written."""

    measures: str
    """What it is a unit of, as the registry of metrics calls it."""
    size: Decimal
    """How many of the metric's own unit it is."""


_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS: Mapping[str, Unit] = {
    **{name: Unit("bytes", Decimal(size)) for name, size in _BYTES.items()},
    "ms": Unit("ms", Decimal(1)),
    "s": Unit("ms", Decimal(1000)),
    "%": Unit("share", Decimal("0.01")),
    "x": Unit("ratio", Decimal(1)),
    "points": Unit("points", Decimal(1)),
    "nats": Unit("nats", Decimal(1)),
    "/s": Unit("per_s", Decimal(1)),
}
"""Bytes in powers of ten, as disks are sold, and in those of two where the name says so (IEC 80000-13)."""


@dataclass(frozen=True)
class Requirement:
    """A threshold of one metric."""

    metric: str
    sign: Sign
    threshold: float
    """In the metric's own unit."""
    confident: bool = False
    """Whether the one-sided 95 % bound of the metric must meet it, instead of its value."""
    key: str = ""
    """The key of the gate at which it stands."""
    unit: str | None = None
    """The unit in which it is written."""
    written: str | None = None
    """The number as it is written, with its unit."""

    def __str__(self) -> str:
        return f"{self.sign} {self.amount}" + (" (95%)" if self.confident else "")

    @property
    def amount(self) -> str:
        """The threshold as it is written."""
        return self.written or f"{self.threshold:g}"

    @property
    def bare(self) -> str:
        """The number as it is written, without its unit."""
        return self.amount.removesuffix(self.unit or "").strip()

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


def parse_requirement(metric: str, text: str, key: str = "") -> Requirement:
    """`>= 0.92`, `<= 40 MB` or `> 0 (95%)`, as it stands at `key`.

    Raises:
        ValueError: none of these forms, or a unit that there is not.
    """
    found = _FORM.fullmatch(text.strip())
    if found is not None and re.search("[,_]", found[2]):
        raise ValueError(
            f"{found[2]!r} is no number here. Write its digits alone, with a point before decimals, or a larger unit, "
            "as in '<= 40 MB'."
        )
    unit = found[4] if found else ""
    number = _number(found[2], UNITS[unit].size if unit in UNITS else Decimal(1)) if found else None
    if found is None or number is None:
        raise ValueError(
            f"{text!r} is no requirement. Write a sign and a number, such as '>= 0.92' or '<= 40 MB', "
            "and '> 0 (95%)' where it must hold with 95 % confidence."
        )
    if unit and unit not in UNITS:
        alike = [name for name in UNITS if name.lower() == unit.lower()]
        meant = f"; did you mean {' or '.join(alike)}?" if alike else "."
        raise ValueError(f"{unit!r} is no unit of a requirement: there are {', '.join(UNITS)}{meant}")
    return Requirement(
        metric,
        cast(Sign, found[1]),
        number,
        found[5] is not None,
        key=key or f"require.{metric}",
        unit=unit or None,
        written=f"{found[2]}{' ' if found[3] and unit else ''}{unit}",
    )


def in_unit(value: float, unit: str | None) -> float:
    """A value in a metric's own unit as so many of another."""
    return value if unit is None else value / float(UNITS[unit].size)


def with_unit(number: str, unit: str | None) -> str:
    """A number with its unit behind it."""
    if unit is None:
        return number
    return f"{number}{unit}" if unit in ("x", "/s") else f"{number} {unit}"


def units_of(measures: str) -> list[str]:
    """The units in which such a quantity can be written."""
    return [name for name, unit in UNITS.items() if unit.measures == measures]


def _number(text: str, size: Decimal) -> float | None:
    """So many of a unit in the metric's own; exact, so that 57 % are the number 0.57."""
    try:
        value = float(Decimal(text) * size)
    except ArithmeticError:
        return None
    return value if math.isfinite(value) else None
