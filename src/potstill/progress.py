"""Progress on a terminal, plain lines elsewhere, or nothing: whoever works only says how far it is."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars


@runtime_checkable
class Advance(Protocol):
    """Called with the number of units done since the last call, and optionally a word on how it goes.

    What an `earlier` process did is none of the rate: what is left will take as long as it takes now.
    """

    def __call__(self, amount: int = 1, note: str = "", *, earlier: bool = False) -> None: ...


def unseen(amount: int = 1, note: str = "", *, earlier: bool = False) -> None:
    """An `Advance` that nobody watches."""


class Progress:
    """Where a run speaks to the person who started it. This base class says nothing (`--quiet`)."""

    def line(self, text: str) -> None:
        """One line of news."""

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        """A piece of work of `total` units; yields what to call as it advances."""
        yield unseen


class PlainProgress(Progress):
    """Lines for a log file: one now and then for each task, with rate and estimate."""

    def __init__(self, seconds_between: float = 15.0) -> None:
        self._between = seconds_between

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        started = shown_at = time.monotonic()
        done = before = 0

        def advance(amount: int = 1, note: str = "", *, earlier: bool = False) -> None:
            nonlocal done, before, shown_at
            done += amount
            before += amount if earlier else 0
            now = time.monotonic()
            if now - shown_at >= self._between:
                shown_at = now
                rate = (done - before) / (now - started)
                left = f", {_clock((total - done) / rate)} left" if rate > 0 and total > done else ""
                self.line(f"  {description}: {done}/{total} {unit}, {rate:,.1f}/s{left} {note}".rstrip())

        yield advance
        seconds = time.monotonic() - started
        if seconds >= 1:
            self.line(f"  {description}: {done - before} {unit} in {_clock(seconds)}")


class TerminalProgress(Progress):
    """Live bars with rate and estimate."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def task(self, description: str, total: int, unit: str) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        started = time.monotonic()
        with RichBars(*columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(description, total=total, rate="", note="")
            before = 0

            def advance(amount: int = 1, note: str = "", *, earlier: bool = False) -> None:
                nonlocal before
                if earlier:
                    before += amount
                    bars.reset(bar, completed=int(bars.tasks[0].completed) + amount)
                    return
                bars.advance(bar, amount)
                rate = (bars.tasks[0].completed - before) / max(1e-9, time.monotonic() - started)
                bars.update(bar, rate=f"{rate:,.1f} {unit}/s", note=note or bars.tasks[0].fields["note"])

            yield advance
        seconds = time.monotonic() - started
        if seconds >= 1:
            self.line(f"  {description}: {total - before} {unit} in {_clock(seconds)}")


def for_console(*, quiet: bool) -> Progress:
    """Bars where a person is watching, lines where the output is kept, nothing if asked."""
    if quiet:
        return Progress()
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
