"""Resident memory of this process, as Linux counts it."""

import ctypes
import gc
import re
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes(*, peak: bool = False) -> int:
    """What is resident now, or the most that was since the process or `forget_peak` began."""
    return _bytes_of("VmHWM" if peak else "VmRSS")


def own_bytes() -> int:
    """What is resident now and of no file: pages of a mapped file can be dropped at any time."""
    return _bytes_of("RssAnon")


def release_unused() -> None:
    """Give back what was freed and is still held, so that it does not count."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """The peak starts again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _bytes_of(quantity: str) -> int:
    found = re.search(rf"{quantity}:\s+(\d+) kB", _STATUS.read_text())
    assert found
    return int(found[1]) * 1024
