"""Digests of large files that this machine has hashed before, known again by what the file system says of them.

A file is taken for the one that was hashed where its place, size, inode, device and both of its times are the same: of
the last writing, and of the last change to its inode, which nobody can set. As in git's index, a file that was changed
so shortly before it was hashed that another change could have the same times is not remembered.

Only what a recipe names is looked up here. What a run wrote itself is always read whole.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from potstill.run_dir import atomic_file, file_digest

LEAST_BYTES = 16 * 2**20
"""Of a file that is remembered: a smaller one is hashed in hundredths of a second."""
SETTLED_NS = 2 * 10**9
"""How long before it is hashed a file must have been changed last: FAT, the coarsest, tells times to two seconds."""
MOST_FILES = 1000
"""That are remembered, the latest ones: about 300 kB."""
CACHE = "digests.json"

_rehash: ContextVar[bool] = ContextVar("rehash", default=False)


class _Hashed(BaseModel):
    """What the file system said of a file when it was hashed, and its digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    written_ns: int
    changed_ns: int
    inode: int
    device: int
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64

    @classmethod
    def of(cls, descriptor: int) -> "_Hashed":
        """An open file, of which the digest is not known yet."""
        found = os.fstat(descriptor)
        return cls(
            size=found.st_size,
            written_ns=found.st_mtime_ns,
            changed_ns=found.st_ctime_ns,
            inode=found.st_ino,
            device=found.st_dev,
        )

    def with_digest(self, sha256: str) -> "_Hashed":
        return self.model_copy(update={"sha256": sha256})


class _Cache(BaseModel):
    """The files by their places, the latest last."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    files: dict[str, _Hashed] = {}


@contextmanager
def rehashed(asked: bool = True) -> Iterator[None]:
    """Within it, every file is hashed anew where `asked`, and remembered again."""
    token = _rehash.set(asked)
    try:
        yield
    finally:
        _rehash.reset(token)


def remembered_digest(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal: as it was found before, where the file is still the same."""
    place = str(path.resolve())
    with path.open("rb") as file:
        about = _Hashed.of(file.fileno())
        if about.size < LEAST_BYTES:
            return file_digest(path)
        known = None if _rehash.get() else _read(_folder() / CACHE).files.get(place)
        if known is not None and known == about.with_digest(known.sha256):
            return known.sha256
        now = time.time_ns()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        still = _Hashed.of(file.fileno()) == about
    if still and max(about.written_ns, about.changed_ns) < now - SETTLED_NS:
        _remember(place, about.with_digest(digest))
    return digest


def _folder() -> Path:
    """The user's folder for caches, as the XDG specification has it: a relative one is passed over."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path("~/.cache").expanduser()) / "potstill"


def _read(path: Path) -> _Cache:
    """What is remembered; nothing where there is no cache, a damaged one, or one that others could have written."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_uid != os.geteuid() or about.st_mode & 0o022:
                return _Cache()
            return _Cache.model_validate_json(file.read())
    except (OSError, ValidationError):
        return _Cache()


def _remember(place: str, hashed: _Hashed) -> None:
    """Add a file. Where the cache cannot be written, files are hashed each time, which costs time alone."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        with _alone(folder):
            for left in folder.glob(f".{CACHE}.*.tmp"):
                left.unlink()
            others = _read(folder / CACHE).files
            others.pop(place, None)
            latest = [*others.items(), (place, hashed)][-MOST_FILES:]
            with atomic_file(folder / CACHE, private=True) as temporary:
                temporary.write_text(_Cache(files=dict(latest)).model_dump_json(), encoding="utf-8")
    except OSError:
        return


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: what another adds is not lost. The lock goes with the process that holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
