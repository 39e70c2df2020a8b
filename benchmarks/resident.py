"""Resident memory of this process, as Linux counts it."""

import ctypes
import gc
import re
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes(*, peak: bool = False) -> int:
    """What is resident now, or the most that was since the process or `forget_peak` began."""
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", _STATUS.read_text())
    assert found
    return int(found[1]) * 1024


def release_unused() -> None:
    """Give back what was freed and is still held, so that it does not count."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """The peak starts again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
