"""`checksums.sha256`: whether a shipped folder is as it was judged, in the form that `sha256sum -c` reads."""

from pathlib import Path

from potstill.errors import ModelError
from potstill.run_dir import file_digest, folder_files, inside, write_text

CHECKSUMS = "checksums.sha256"
_DIGEST = 64
"""Characters of a sha256; two spaces stand before the name."""


def write_checksums(folder: Path) -> None:
    """Of all files but itself."""
    digests = folder_files(folder, relative_to=folder, digest=file_digest)
    digests.pop(CHECKSUMS, None)
    write_text(folder / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def require_whole(folder: Path) -> None:
    """Read all files and compare them with their checksums.

    Raises:
        ModelError: names the first file that is missing or another than it was.
    """
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise ModelError(
            f"{folder}: no {CHECKSUMS} that can be read, so nobody can tell whether it is as it was judged. Copy the "
            "whole folder, or export it anew."
        ) from None
    for line in lines:
        digest, name = line[:_DIGEST], line[_DIGEST:].removeprefix("  ")
        path = folder / _inside(folder, name)
        if not path.is_file() or file_digest(path) != digest:
            raise ModelError(
                f"{path}: {'another file than' if path.is_file() else 'not there, and it was'} when it was judged. "
                "Copy the folder again, or export it anew."
            )


def _inside(folder: Path, name: str) -> str:
    try:
        return inside(name)
    except ValueError:
        raise ModelError(f"{folder / CHECKSUMS}: {name!r} is no file of this folder. Export it anew.") from None
