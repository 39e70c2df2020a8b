"""Files that stand in for others: git-lfs pointers, and pages that were saved in place of a download."""

import re
from pathlib import Path

from potstill.errors import ModelError

_POINTER = b"version https://git-lfs"
_LONGEST_POINTER = 1024
"""Bytes; the specification of git-lfs allows no more."""


def stands_in(file: Path) -> str | None:
    """Why the file only names the one that should be in its place, and how to come to that; None where it does not."""
    with file.open("rb") as opened:
        start = opened.read(_LONGEST_POINTER)
    if start.startswith(_POINTER):
        size = re.search(rb"^size (\d+)", start, re.MULTILINE)
        of = f" of {int(size[1]) / 1e6:,.1f} MB" if size else ""
        return (
            f"this is a git-lfs pointer of {file.stat().st_size} bytes, not the file{of} that it stands for. "
            f"Run `git lfs install` and `git lfs pull` in {file.parent}, or download the file itself."
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page that was saved under the name of the file. Download the file itself."
    return None


def require_no_pointer(file: Path) -> None:
    """Refuse a file that only names the one that should be in its place.

    Raises:
        ModelError: a git-lfs pointer, or a web page.
    """
    if reason := stands_in(file):
        raise ModelError(f"{file}: {reason}")
