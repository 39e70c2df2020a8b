"""Energy that processors count themselves (RAPL), as Linux shows it below /sys/class/powercap.

A counter is of a whole processor package: of all that runs there and of what it draws while idle, and neither of memory
nor of an accelerator. Source: Documentation/power/powercap of the Linux kernel; Intel SDM, volume 3, 15.10.

CodeCarbon is not asked. Where these counters can be read it reads the same; elsewhere it takes a processor's rated
power from a table, half of it or as much as its load is, which is an estimate as `evaluate.expenses.watts` is one. It
needs thirteen packages, pandas among them. NVIDIA's counters (NVML) are not read: of an accelerator nothing is told.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
EVERY_S = 10.0
"""Seconds between two looks at the counters, within which none comes round: one of 2^32 units of 15.3 microjoules, as
of large servers, does in two minutes at 500 W."""


@dataclass(frozen=True)
class Package:
    """A processor package and its counter."""

    counter: Path
    range_uj: int
    """Where the counter begins anew, in microjoules."""

    def energy_uj(self) -> int:
        return _number(self.counter)


@dataclass(frozen=True)
class Packages:
    """All of a machine, or why their energy cannot be told: that of some of them is no measurement."""

    found: tuple[Package, ...] = ()
    missing: str | None = None


def packages_in(powercap: Path) -> Packages:
    """The packages whose counters can be read. What lies within one, or has another as the whole board, is counted
    already."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):
            continue
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            package = Package(zone / "energy_uj", _number(zone / "max_energy_range_uj"))
            package.energy_uj()
        except (OSError, ValueError) as error:
            return Packages(missing=f"{zone / 'energy_uj'} cannot be read ({_told(error)})")
        found.append(package)
    if not found:
        return Packages(missing="this machine shows no counters of its processors' energy")
    return Packages(tuple(found))


class EnergyMeter:
    """Joules that packages draw from `begin` to `ended`; nothing where there are none, or one cannot be read."""

    def __init__(self, packages: Sequence[Package]) -> None:
        self._packages = packages
        self._before: list[int] | None = None
        self._counted_uj = 0
        self._looked = 0.0

    @classmethod
    def on(cls, device: str) -> "EnergyMeter":
        """Of the processors of this machine, where it is they that answer."""
        return cls(packages_in(POWERCAP).found if device == "cpu" else ())

    def begin(self) -> None:
        self._counted_uj = 0
        self._before = self._read()
        self._looked = time.perf_counter()

    def between(self) -> None:
        """To be called often enough, between queries; looks where it is time."""
        if time.perf_counter() - self._looked >= EVERY_S:
            self._look()

    def ended(self) -> float | None:
        """The joules since `begin`. A counter that stood still has counted nothing."""
        self._look()
        return self._counted_uj / 1e6 if self._before is not None and self._counted_uj else None

    def _look(self) -> None:
        before, now = self._before, self._read()
        self._before, self._looked = now, time.perf_counter()
        if before is None or now is None:
            self._before = None
            return
        for package, one, other in zip(self._packages, before, now, strict=True):
            self._counted_uj += other - one + (package.range_uj if other < one else 0)

    def _read(self) -> list[int] | None:
        try:
            return [package.energy_uj() for package in self._packages] or None
        except (OSError, ValueError):
            return None


def _number(path: Path) -> int:
    return int(path.read_text())


def _told(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
