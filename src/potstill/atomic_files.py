"""Files and folders that are on disk whole or not at all, and their digests."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_files(folder: Path, *, relative_to: Path, digest: Callable[[Path], str] = file_digest) -> dict[str, str]:
    """The sha256 of every file below `folder`, by path relative to `relative_to`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(relative_to).as_posix(): digest(path) for path in files}


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends well: fsync, rename, fsync.

    A `private` file is for its owner's eyes; any other gets the permissions that new files get here.
    """
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666))
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place, whole, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for inside in sorted(temporary.rglob("*"), reverse=True):
            sync(inside)
        sync(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def share_file(path: Path, place: Path) -> None:
    """The file at another place too: a link to the same bytes where the file system has that, else a copy.

    Who writes a file anew, as everything here does, takes nothing from the other.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        os.link(path, place)
    except OSError:
        shutil.copy(path, place)


def share_files(folder: Path, target: Path) -> None:
    """The same of all files below a folder."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        share_file(path, target / path.relative_to(folder))


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
