"""What a recipe names as its rows: a file, a pattern, a folder of files or of `datasets`, or rows of the hub."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.data import formats
from potstill.data.files import read_records
from potstill.data.hub_rows import HUB, hub_rows
from potstill.data.opening import form_of, is_packed
from potstill.data.reading import FileNotes
from potstill.errors import DataError

FORMS = {
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    **dict.fromkeys(formats.TAGGED, "CoNLL"),
}
"""The forms of files that are read, by their suffix."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What files of splits are called, in lower case."""
NO_ROWS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"})
"""Files beside shards that tell of them."""
_PATTERN = re.compile(r"[*?\[]")
_WORD = re.compile(r"[a-z]+")
MOST_NAMED = 4


@dataclass(frozen=True)
class Source:
    """The files of rows that one name stands for, in the order in which they are read."""

    path: Path
    """What the recipe names."""
    files: tuple[Path, ...]
    about: str | None = None
    """What is known of them beside their content."""


def located(base: Path, name: str) -> Path:
    """What a recipe in the folder `base` names as rows."""
    return Path(name) if is_of_hub(name) else base / name


def is_of_hub(name: str) -> bool:
    return name.startswith(HUB)


def source_at(path: Path) -> Source:
    """The files that a path stands for.

    Raises:
        DataError: there are none, or they do not belong together.
    """
    if is_of_hub(str(path)):
        return Source(path, (path,))
    if path.is_file():
        return Source(path, (path,))
    if (saved := _saved_split(path)) is not None:
        return _of_datasets(path, saved)
    if path.is_dir():
        return _of_folder(path)
    # A folder may have a name that looks like a pattern.
    start = next(folder for folder in path.parents if folder.is_dir())
    if _PATTERN.search(str(path.relative_to(start))):
        return _of_pattern(path, start)
    raise formats.not_a_file(path)


def read_source(
    path: Path, notes: FileNotes, *, reads: Collection[str], tagged: tuple[str, str] | None
) -> Iterator[tuple[Path, str, Any]]:
    """All records that a path stands for, each with its file and its place there; `notes` are given where they are
    from, and what cannot be read.

    Raises:
        DataError: as `source_at`, `read_records` and `hub_rows`.
    """
    source = source_at(path)
    notes.source = source.about
    if is_of_hub(str(path)):
        rows = hub_rows(str(path))
        notes.source = rows.about
        yield from ((path, place, record) for place, record in rows.records(notes.refuse))
        return
    for file in source.files:
        for place, record in read_records(file, notes.refuse, reads=reads, tagged=tagged):
            yield file, place, record


def first_record(path: Path, *, tagged: tuple[str, str] | None = None) -> dict[str, Any]:
    """The first object that a path stands for, by which its form is told; nothing where there is none.

    Raises:
        DataError: as `read_source`, but for rows that cannot be read.
    """
    unseen = FileNotes(path)
    records = (record for _, _, record in read_source(path, unseen, reads=frozenset(), tagged=tagged))
    return next((record for record in records if isinstance(record, dict)), {})


def _saved_split(path: Path) -> Path | None:
    """The folder that `save_to_disk` of datasets made of one split, if the path names one.

    Raises:
        DataError: it names a folder of several, or a split that is not there.
    """
    folder, split = path, ""
    if not path.exists() and ":" in path.name:
        name, _, split = path.name.rpartition(":")
        folder = path.with_name(name)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        if split:
            raise DataError(f"{folder}: it holds the rows of one split. Leave :{split} out.")
        return folder
    if not (folder / "dataset_dict.json").is_file():
        return None
    splits = _json(folder / "dataset_dict.json").get("splits")
    names = [str(each) for each in splits] if isinstance(splits, list) else []
    if split not in names:
        wrong = f"there is no split {split!r}" if split else "it holds several splits"
        raise DataError(
            f"{folder}: {wrong}; there are: {', '.join(names)}. Name one, such as "
            f"{folder.name}:{names[0] if names else 'train'}."
        )
    return folder / split


def _of_datasets(path: Path, folder: Path) -> Source:
    state = _json(folder / "state.json")
    listed = state.get("_data_files")
    names = [each.get("filename") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    if state.get("_indices_data_files"):
        raise DataError(f"{path}: only some of its rows count. Save it again with datasets: flatten_indices().")
    files = tuple(folder / Path(str(name)).name for name in names)
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(
            f"{path}: {missing[0].name if missing else 'every file of rows'} is missing. Copy the whole folder, or "
            "save it again with save_to_disk of datasets."
        )
    return Source(path, files, f"{_count(files)}, fingerprint {state.get('_fingerprint')}")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}). Copy the folder again.") from None
    return value if isinstance(value, dict) else {}


def _of_folder(path: Path) -> Source:
    files = sorted(file for file in path.iterdir() if file.is_file() and not _is_aside(file))
    usable = [file for file in files if _form(file)]
    others = [file for file in files if not _form(file) and file.suffix.lower() in formats.CONVERT]
    if not usable:
        below = next((file for file in sorted(path.rglob("*")) if file.is_file() and _form(file)), None)
        raise DataError(
            f"{path}: a folder without files of rows; expected {formats.READ}."
            + (f" {_named(others)} is none of them. {formats.how_to_convert(others[0])}" if others else "")
            + (f" Those in folders within it are named by a pattern: {path.name}/*/*{below.suffix}." if below else "")
        )
    if others:
        raise DataError(
            f"{path}: {_named(others)} beside {_named(usable)} cannot be read. {formats.how_to_convert(others[0])} Or "
            f"name the others by a pattern: {path.name}/*{_suffix(usable[0])}."
        )
    return _of_files(path, usable)


def _of_pattern(path: Path, start: Path) -> Source:
    found = sorted({file for file in start.glob(str(path.relative_to(start))) if file.is_file()})
    if not found:
        raise DataError(f"{path}: no file has such a name. Paths and patterns are relative to the recipe.")
    return _of_files(path, found)


def _of_files(path: Path, files: Sequence[Path]) -> Source:
    """Files of one form and one split, none of them twice.

    Raises:
        DataError: they are not.
    """
    forms = {form: file for file in reversed(files) if (form := _form(file))}
    if len(forms) > 1:
        both = " and ".join(f"{form} ({file.name})" for form, file in sorted(forms.items(), key=lambda each: each[1]))
        raise DataError(
            f"{path}: files of several forms, {both}; expected one. Name those of one by a pattern, such as "
            f"*{_suffix(files[0])}."
        )
    splits = {split: file for file in reversed(files) if (split := _split(file))}
    if len(splits) > 1:
        both = ", ".join(file.name for file in sorted(splits.values()))
        raise DataError(
            f"{path}: files of several splits, {both}; expected those of one. Name each split by a pattern of its own, "
            f"such as {_word_of(sorted(splits.values())[0])}*{_suffix(files[0])}."
        )
    plain: dict[Path, Path] = {}
    for file in files:
        name = file.with_suffix("") if is_packed(file) else file
        if (other := plain.setdefault(name, file)) != file:
            raise DataError(
                f"{path}: {other.name} and {file.name} are one file, once of them compressed, by their names. Name one "
                "of the two, or a pattern that has only one of them."
            )
    return Source(path, tuple(files), _count(files) if len(files) > 1 or path != files[0] else None)


def _is_aside(file: Path) -> bool:
    """Whether a file beside shards is no shard by its name, such as `_SUCCESS` or `.part-0.crc`."""
    return file.name.startswith((".", "_")) or file.name in NO_ROWS


def _form(file: Path) -> str | None:
    suffix = form_of(file)
    if suffix == ".txt":
        return "CoNLL" if formats.looks_tagged(file) else None
    return FORMS.get(suffix)


def _suffix(file: Path) -> str:
    return "".join(file.suffixes[-2:]) if form_of(file) != file.suffix.lower() else file.suffix


def _split(file: Path) -> str | None:
    """Of which split a file is by its name: `train` of `train-00000-of-00002.parquet`."""
    return SPLITS.get(_word_of(file).lower())


def _word_of(file: Path) -> str:
    found = _WORD.match(file.name.lower())
    return file.name[: found.end()] if found else ""


def _named(files: Sequence[Path]) -> str:
    names = ", ".join(file.name for file in files[:MOST_NAMED])
    return f"{names} and {len(files) - MOST_NAMED:,} more" if len(files) > MOST_NAMED else names


def _count(files: Sequence[Path]) -> str:
    return f"{len(files):,} file{'s' if len(files) > 1 else ''}"
