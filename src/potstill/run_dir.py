"""The run directory: paths, fingerprints, the lock, and `once()`.

A stage's record `<stage>/result.json` is written last and atomically. It carries the fingerprint of what went
in, so that calling the stage again with the same inputs returns the record and works on nothing.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from potstill.atomic_files import atomic_file as atomic_file
from potstill.atomic_files import atomic_folder as atomic_folder
from potstill.atomic_files import file_digest as file_digest
from potstill.atomic_files import folder_files as folder_files
from potstill.atomic_files import write_json as write_json
from potstill.atomic_files import write_text as write_text
from potstill.errors import LockedError, RunDirError
from potstill.progress import Progress
from potstill.stage_inputs import differences, resolved, without

LOCK = "lock"
"""The first file of a run directory, by which it is known for one."""
RESULT = "result.json"
INPUTS = "inputs.json"
OWN_DIGEST = "digest_of_record"
SCRATCH = "scratch"
"""What a stage needs only while it works, such as checkpoints."""


def inside(name: str) -> str:
    """The name of a file below a folder; what is read from a file never leads out of it.

    Raises:
        ValueError: it is absolute, or goes up.
    """
    path = PurePosixPath(name)
    if not path.parts or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not the name of a file below this folder")
    return name


class Record(BaseModel):
    """What a stage leaves behind. `files` are its outputs with their sha256, relative to its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest_of_record: str = ""
    """Of all the rest, as JSON has it; empty in records of earlier versions."""
    fingerprint: str = ""
    seconds: float = 0.0
    files: dict[Annotated[str, AfterValidator(inside)], str] = {}


R = TypeVar("R", bound=Record)


@runtime_checkable
class Processes(Protocol):
    """The processes that work on a run together. They see one file system, and only the main one writes."""

    @property
    def is_main(self) -> bool: ...

    def barrier(self) -> None:
        """Return when all processes have called it."""


class Alone:
    """A process without others."""

    is_main = True

    def barrier(self) -> None: ...


class RunDir:
    """A run directory that nobody else writes to; made by `open_run`."""

    def __init__(self, root: Path, progress: Progress, processes: Processes | None = None) -> None:
        self.root = root
        self.progress = progress
        self._processes = processes or Alone()
        self.seconds: dict[str, float] = {}  # How long each stage took, of those that there is a record of.

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def once(
        self,
        name: str,
        inputs: Mapping[str, Any],
        record: type[R],
        work: Callable[[Path], R],
        *,
        together: bool = False,
        last_bits: Collection[str] = (),
        auto: Mapping[str, str] | None = None,
    ) -> R:
        """The record of stage `name` for these inputs: the stored one where it matches, else that of `work`.

        Work that was broken off under the same inputs finds what it left in its folder and goes on from there;
        what other inputs left is removed first. `work` gets the folder and returns the record to commit. It is
        done by the main process while the others wait, or `together` by all of them.

        Inputs that differ only in what `last_bits` names, as `train.micro_batch_size`, are the same: such values
        decide into which pieces work is cut, and work that is paid for is not done again for that. `auto` says what
        the word stands for on this machine in the inputs that it names; earlier versions recorded it unresolved.
        """
        folder = self.path(name)
        wanted = fingerprint(inputs)
        begun = _begun(folder, _jsonable(inputs), last_bits, auto or {})
        stored = _stored(folder, record, {wanted} | ({begun.fingerprint} if begun else set()))
        if stored is None and self._processes.is_main:
            self._begin(name, folder, wanted, inputs, begun)
        # All have looked before one of them writes a record, so all take the same turn.
        self._processes.barrier()
        if stored is not None:
            self.progress.line(f"{name}: kept{begun.note if begun else ''}")
            if self._processes.is_main:
                # A process that was killed once the record was on disk left it.
                shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            self.seconds[name] = stored.seconds
            return stored
        made = None
        if self._processes.is_main:
            made = self._commit(name, folder, wanted, work)
        elif together:
            work(folder)
        self._processes.barrier()
        made = made or _stored(folder, record, {wanted})
        assert made is not None, f"{name}: the main process left no record"
        self.seconds[name] = made.seconds
        return made

    def known(self, name: str) -> str | None:
        """The text that the run has settled on under this name; None where it has not."""
        path = self.path(name)
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    def settled(self, name: str, value: str) -> str:
        """The text that the run has under this name: `value`, where it had none; the same in all processes."""
        if self._processes.is_main and self.known(name) is None:
            write_text(self.path(name), value + "\n")
        self._processes.barrier()
        found = self.known(name)
        assert found is not None, f"{name}: the main process wrote nothing"
        return found

    def has_begun(
        self, name: str, inputs: Mapping[str, Any], *, last_bits: Collection[str], auto: Mapping[str, str] | None
    ) -> bool:
        """Whether `once` with these arguments would go on from what is there; the same in all processes."""
        begun = _begun(self.path(name), _jsonable(inputs), last_bits, auto or {})
        # Nobody may begin it anew before all have looked.
        self._processes.barrier()
        return begun is not None

    def _begin(self, name: str, folder: Path, wanted: str, inputs: Mapping[str, Any], begun: "_Begun | None") -> None:
        """Make the folder ready for work on these inputs."""
        if begun is None:
            known = _read_json(folder / INPUTS)
            if known is not None:
                changes = ", ".join(differences(known.get("inputs", {}), _jsonable(inputs)))
                self.progress.line(f"{name}: runs again, since these changed: {changes}")
            _discard(folder)
            folder.mkdir(parents=True)
        elif begun.note:
            self.progress.line(f"{name}: goes on from what is there{begun.note}")
        # An old record must not make what the new work leaves half done look complete.
        (folder / RESULT).unlink(missing_ok=True)
        if begun is None or begun.fingerprint != wanted:
            write_json(folder / INPUTS, {"fingerprint": wanted, "inputs": _jsonable(inputs)})
        _remove_leftovers(folder)

    def _commit(self, name: str, folder: Path, wanted: str, work: Callable[[Path], R]) -> R:
        """Do the work and write its record, last."""
        self.progress.line(f"{name}: started")
        started = time.monotonic()
        try:
            made = work(folder)
        except (MemoryError, RuntimeError) as error:
            # What it takes to go on after memory ran out depends on the stage.
            error.add_note(name)
            raise
        seconds = time.monotonic() - started
        made = made.model_copy(update={"fingerprint": wanted, "seconds": round(seconds, 3)})
        made = made.model_copy(update={OWN_DIGEST: _digest_of(json.loads(made.model_dump_json()))})
        write_text(folder / RESULT, made.model_dump_json(indent=2) + "\n")
        # Only now, for until the record is on disk the work may have to go on from its checkpoints.
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        self.progress.line(f"{name}: done in {seconds:.0f} s")
        return made


@contextmanager
def open_run(root: Path, progress: Progress, processes: Processes | None = None) -> Iterator[RunDir]:
    """Make or open a run directory; the main process holds its lock.

    The lock belongs to the open file, so the system frees it however the process ends.

    Raises:
        LockedError: another process holds it; names its pid, host and start.
        RunDirError: the folder holds other things, which a run would write over and remove.
    """
    processes = processes or Alone()
    if not processes.is_main:
        processes.barrier()
        yield RunDir(root, progress, processes)
        return
    if root.is_dir() and not (root / LOCK).is_file() and (others := _visible(root)):
        raise RunDirError(
            f"{root}: no run directory, and not empty ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}). "
            "A run writes over what is there: give --out a folder that is new or empty, or one of an earlier run."
        )
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "an unknown process"
            raise LockedError(f"{root}: in use by {holder}. Wait for it to end, or give another --out.") from None
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)
        processes.barrier()
        yield RunDir(root, progress, processes)
    finally:
        os.close(descriptor)


def read_record(path: Path, record: type[R]) -> R | None:
    """The stored record, or None where there is none that this version understands.

    Raises:
        RunDirError: it was changed since it was written.
    """
    try:
        content = path.read_bytes()
        found = record.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None
    if found.digest_of_record and found.digest_of_record != _digest_of(json.loads(content)):
        raise RunDirError(
            f"{path}: was changed since it was written, so it tells of other work than was done. Restore it, or remove "
            "it, and the stage runs again."
        )
    return found


def _digest_of(record: dict[str, Any]) -> str:
    """Of a record as it is stored, but for this digest."""
    return fingerprint({name: value for name, value in record.items() if name != OWN_DIGEST})


def _visible(folder: Path) -> list[str]:
    """What lies in a folder, without hidden files and what a file system puts there."""
    return sorted(path.name for path in folder.iterdir() if path.name != "lost+found" and path.name[0] != ".")


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON of `value`: settings by content, never by path or order of keys."""
    canonical = json.dumps(_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _discard(folder: Path) -> None:
    """Remove a folder, its record first, so that a broken removal leaves nothing that looks complete."""
    (folder / RESULT).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed; the lock says that nobody writes them now."""
    for path in folder.rglob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Begun:
    """Work that was begun, or done, on inputs that count as the present ones."""

    fingerprint: str
    note: str
    """What differs in pieces alone, for people; empty where nothing does."""


def _begun(folder: Path, inputs: Any, last_bits: Collection[str], auto: Mapping[str, str]) -> _Begun | None:
    known = _read_json(folder / INPUTS)
    # Not what the file says of itself, but what it holds.
    if known is None or known.get("fingerprint") != fingerprint(known.get("inputs")):
        return None
    before = resolved(known["inputs"], auto)
    if without(before, last_bits) != without(inputs, last_bits):
        return None
    changes = ", ".join(differences(before, inputs))
    note = f", though {changes}: the same work in other pieces, so last bits and random draws can differ"
    return _Begun(known["fingerprint"], note if changes else "")


def _stored(folder: Path, record: type[R], wanted: Collection[str]) -> R | None:
    """The record of a finished stage, if it is of these inputs and its files are there."""
    found = read_record(folder / RESULT, record)
    return found if found is not None and found.fingerprint in wanted and _has_files(folder, found) else None


def _has_files(folder: Path, record: Record) -> bool:
    return all((folder / name).is_file() for name in record.files)


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    return value


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
