"""SIGTERM and SIGINT: save what can be saved, then leave with exit code 75."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from potstill.errors import Stopped

_deferred = 0
_arrived: str | None = None


def install() -> None:
    """Make SIGTERM and SIGINT raise `Stopped`, at once or when a deferring block stops or ends.

    Everything that is written is whole or invisible, so an exception may arrive at any point.
    """
    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, _handle)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block a signal is only noted: the block asks `requested()` where it can stop well.

    One that came after the last question stops when the block has ended well.
    """
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
    if requested() and not _deferred:
        raise stop()


def requested() -> bool:
    """Whether a signal has arrived."""
    return _arrived is not None


def stop() -> Stopped:
    """The error to raise once all is saved."""
    return Stopped(f"Stopped by {_arrived or 'a signal'}. Everything is saved; the same command goes on from here.")


def _handle(number: int, frame: FrameType | None) -> None:
    global _arrived
    again = _arrived is not None
    _arrived = signal.Signals(number).name
    if not _deferred:
        raise stop()
    # Who presses Ctrl-C twice does not want to wait. SIGTERM comes twice from supervisors that signal a whole group.
    if again and number == signal.SIGINT:
        raise Stopped("Stopped at once by a second Ctrl-C; the same command goes on from the last checkpoint.")
