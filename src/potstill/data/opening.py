"""Files of rows as streams of bytes and lines, unpacked on the way where they are compressed."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from potstill.errors import DataError

PACKED = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
"""How files are compressed, by their suffix: how Arrow calls it, and with what bytes they begin."""

MOST_TIMES = 1000
"""By no more than this may a file grow when it is unpacked. Text grows 3 to 20 times, and rows that repeat each other a
few hundred times; what was made to fill a disk grows more."""

ALWAYS_UNPACKED_BYTES = 100_000_000
"""So much is unpacked of any file, however small it is."""

MAX_ROW_CHARACTERS = 10_000_000
"""A longer line is taken for a broken file; real documents are far below it."""

LONGEST_LINE_BYTES = 4 * MAX_ROW_CHARACTERS
"""No more of a line is held in memory: a character of UTF-8 has at most four bytes."""

AGAIN = "Copy, download or write it again."


def is_packed(path: Path) -> bool:
    return path.suffix.lower() in PACKED


def form_of(path: Path) -> str:
    """The suffix of a file in lower case, without that of its compression: `.csv` of `rows.csv.gz`."""
    return (Path(path.stem) if is_packed(path) else path).suffix.lower()


def is_table(path: Path) -> bool:
    """Whether its values are texts, of which an empty one is the same as none."""
    return form_of(path) in (".csv", ".tsv")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file as bytes from its beginning, unpacked.

    Raises:
        DataError: it is not compressed as its name says, damaged, cut, or grows too much.
    """
    if not is_packed(path):
        with path.open("rb") as file:
            yield file
        return
    # Here, so that what reads no compressed file does not wait for Arrow.
    import pyarrow as pa

    codec, magic = PACKED[path.suffix.lower()]
    with path.open("rb") as file:
        head = file.read(len(magic))
    if head != magic:
        raise DataError(
            f"{path}: not compressed with {codec}{'' if head else ', but empty'}. Name it {path.stem} if it is not "
            "compressed, or write it again."
        )
    with pa.OSFile(str(path)) as raw, pa.CompressedInputStream(raw, codec) as stream:
        yield io.BufferedReader(_Unpacked(path, stream), buffer_size=1 << 18)


class _Unpacked(io.RawIOBase):
    """A stream of Arrow, with one clear error for all that can be wrong with a compressed file."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path = path
        self._stream = stream
        self._most = max(ALWAYS_UNPACKED_BYTES, MOST_TIMES * path.stat().st_size)
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._stream.read(len(buffer))
        except OSError as error:
            cut = "Truncated" in str(error)
            raise DataError(
                f"{self._path}: after {self._unpacked:,} unpacked bytes, {'its end is missing' if cut else error} "
                f"(file {'truncated' if cut else 'damaged'}?). {AGAIN}"
            ) from None
        self._unpacked += len(piece)
        if self._unpacked > self._most:
            raise DataError(
                f"{self._path}: it grows more than {MOST_TIMES:,} times when it is unpacked, as text does not. If it "
                "is meant so, unpack it first."
            )
        buffer[: len(piece)] = piece
        return len(piece)


def lines_of(path: Path) -> Iterator[str | int]:
    """The lines of a file in UTF-8, with or without a byte-order mark; nothing but a line feed ends one.

    In place of a line that is too long to be held stands how many bytes it has.

    Raises:
        DataError: bytes that are not UTF-8, or the file, as `opened`.
    """
    before, number = 0, 0
    with opened(path) as file:
        while raw := file.readline(LONGEST_LINE_BYTES):
            number += 1
            length = len(raw)
            if length == LONGEST_LINE_BYTES and not raw.endswith(b"\n"):
                while not raw.endswith(b"\n") and (raw := file.readline(LONGEST_LINE_BYTES)):
                    length += len(raw)
                yield length
            else:
                text = raw.removeprefix(codecs.BOM_UTF8) if before == 0 else raw
                try:
                    yield text.decode().removesuffix("\n")
                except UnicodeDecodeError as error:
                    raise not_utf8(path, before + length - len(text) + error.start, error, number) from None
            before += length


def not_utf8(path: Path, byte: int, error: UnicodeDecodeError, line: int | None = None) -> DataError:
    """For bytes within a file of text, and the line that they are in where it is known."""
    where = f"{path}: line {line}" if line else f"{path}"
    if error.reason == "unexpected end of data":
        return DataError(f"{where}: not UTF-8 (byte {byte}: {error.reason}; file truncated?). {AGAIN}")
    return DataError(
        f"{where}: not UTF-8 (byte {byte}: {error.reason}). Convert it from the encoding that it is in, often that "
        "of Windows: iconv -f CP1252 -t UTF-8."
    )


def too_long(path: Path, place: str, length: int, what: str = "characters") -> DataError:
    """For a row that is longer than any row should be."""
    return DataError(f"{path}: {place}: {length:,} {what}; at most {MAX_ROW_CHARACTERS:,} a row.")
