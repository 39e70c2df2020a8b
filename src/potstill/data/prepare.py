"""From the files of a recipe to clean splits: no duplicates, no test text in training, every loss of rows counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_serializer

from potstill.data.columns import Columns
from potstill.data.copies import Copies, Copy, duplicates, near_copies, some
from potstill.data.ids import Index, Keys
from potstill.data.near_copies import words_alone
from potstill.data.on_disk import OnDisk, place_of, row_named
from potstill.data.reading import FileNotes, OnError, Reading
from potstill.data.rows import DataRow, repeated_id, rows_fingerprint
from potstill.data.sources import is_of_hub, located, source_at
from potstill.data.splits import stable_fraction
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.settings import Settings

Share = Annotated[float, Field(gt=0, lt=0.5)]
LabelName = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
"""YAML makes a number of `-1`, and rows have class ids as numbers too."""


class NearCopies(Settings):
    """What counts as a near-copy of a held-out text.

    Short texts are compared with their signs, long ones by their words alone; case does not count, and neither does
    what most held-out texts share. A conversation must be one with its system turn and without.
    """

    jaccard: float = Field(default=0.8, gt=0, le=1)
    """Share of the union of both texts' shingles that they have in common. 0.8 is the usual bar for
    near-duplicates of web text (Lee et al. 2021, arXiv:2107.06499)."""
    shingle_words: int = Field(default=5, ge=1)
    """Words in a row that are compared as one."""


class DataSettings(Settings):
    """The rows of each split: a file, a pattern such as `train-*.jsonl`, a folder of files of one form, a folder that
    `datasets` saved (`folder:split` where it has several), or `hf:organisation/name[:config[:split]]`. Paths are
    relative to the recipe."""

    train: str
    """What the student learns from: labelled and unlabelled rows."""
    validation: str | Share
    """Labelled rows that choose the checkpoint: a file, or a share taken from train by stable hash."""
    test: str | Share
    """Labelled rows for the verdict alone: a file, or a share taken from train by stable hash."""
    adapt: str | None = None
    """Labelled rows that the teacher is adapted on; best disjoint from train."""
    columns: Columns = Columns()
    deduplicate: bool = True
    """Drop rows whose text occurred before, whatever their label; held-out rows win over training rows. Texts are the
    same if all characters are, but for white space and how accents are encoded."""
    near_copies: NearCopies | None = NearCopies()
    """Drop training rows that nearly copy a held-out text, and validation rows that nearly copy one of test; null to
    keep them."""
    ignore: tuple[str, ...] = ()
    """Fields of rows, and keys of a conversation's turns, that are left out as if they were not there: for one with a
    meaning that this run does without."""
    on_error: OnError = "raise"
    """What is done with rows that cannot be read: raise one error for all of them, or skip and count them. A row that
    is skipped is a row less to learn from, or to judge by."""
    allow_labels: tuple[LabelName, ...] = ()
    """Labels that are meant as they are, though they look like no label (`-1`), like another label in other case, or
    like a tag of another form."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without these where they say nothing, so that a run from before there were any goes on."""
        values = handler(self)
        for name in ("ignore", "on_error", "allow_labels"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del values[name]
        return values


@dataclass(frozen=True)
class Split:
    """The usable rows of one split, and what became of the others."""

    rows: Sequence[Any]
    """Rows of the task, each a `DataRow`; those of files stay on disk."""
    read: int
    blank_dropped: int = 0
    duplicates_dropped: int = 0
    near_copies_dropped: int = 0
    other_label_dropped: int = 0
    """Of the duplicates and near-copies those that are labelled otherwise than the row that they copy."""
    copies: tuple[Copy, ...] = ()
    """Some of the duplicates and near-copies."""
    notes: FileNotes | None = None
    """What else was found in its file, if it has one of its own."""

    @property
    def labelled(self) -> int:
        return sum(row.labelled for row in self.rows)

    @property
    def fingerprint(self) -> str:
        return rows_fingerprint(self.rows)


@runtime_checkable
class Read(Protocol):
    """How a task reads the rows of a file."""

    def __call__(self, path: Path, columns: Columns, *, how: Reading) -> OnDisk[Any]: ...


def prepare(
    settings: DataSettings,
    base: Path,
    read: Read,
    progress: Progress | None = None,
    *,
    prompt_of: Callable[[Any], DataRow] | None = None,
    refusal: Callable[[Any], DataError | None] | None = None,
    keep: tuple[str, ...] = (),
) -> dict[str, Split]:
    """The splits `train`, `validation`, `test` and, where the recipe has one, `adapt`.

    `prompt_of` is given where a teacher writes the labels of train. Then train may be without a single one, and no row
    of it may have the prompt of a held-out row, or nearly. `refusal` tells why a row is left out that was read, and is
    given where bad rows are skipped. The values of the fields `keep` are kept beside the rows.

    Raises:
        DataError: files, rows, fields or labels that cannot be used, all in one error; a held-out row without label,
            or a split left empty.
    """
    splits = {name: _without_blank(split) for name, split in _read(settings, base, read, keep).items()}
    if refusal is not None:
        splits = {name: _without_refused(split, refusal) for name, split in splits.items()}
    if settings.deduplicate:
        found = duplicates({name: split.rows for name, split in splits.items()})
        splits = {
            name: _without_copies(split, found[name], duplicates_dropped=int(found[name].dropped.sum()))
            for name, split in splits.items()
        }
    if near := settings.near_copies:
        found = near_copies(
            {name: split.rows for name, split in splits.items()},
            progress or Progress(),
            jaccard=near.jaccard,
            shingle_words=near.shingle_words,
            prompt_of=prompt_of,
        )
        splits = {
            name: _without_copies(split, found[name], near_copies_dropped=int(found[name].dropped.sum()))
            for name, split in splits.items()
        }
    for name, split in splits.items():
        _check(name, split, all_open=prompt_of is not None)
    _check_unique_ids(splits, settings.columns.id)
    return splits


def _read(settings: DataSettings, base: Path, read: Read, keep: tuple[str, ...]) -> dict[str, Split]:
    how = Reading(frozenset(settings.ignore), settings.on_error, keep)
    found: dict[str, Split] = {}
    problems: dict[str, str] = {}
    paths = {
        name: located(base, source)
        for name in ("train", "test", "validation", "adapt")
        if isinstance(source := getattr(settings, name), str)
    }
    problems.update(_files_of_two(paths))
    for name, path in paths.items():
        if name in problems:
            continue
        try:
            rows = read(path, settings.columns, how=how)
        except DataError as error:
            problems[name] = str(error)
        else:
            notes = how.files[path]
            found[name] = Split(rows, len(rows) + notes.bad, notes=notes)
    tallies = (how.pairs, how.classes, how.tags, how.numbers)
    asked = [problem for tally in tallies for problem in tally.problems(settings.allow_labels)]
    if problems or asked:
        raise DataError("\n".join([*(problems[name] for name in paths if name in problems), *asked]))
    train = found["train"]
    splits: dict[str, Split] = {}
    for name in ("test", "validation"):
        source = getattr(settings, name)
        if isinstance(source, str):
            splits[name] = found[name]
        else:
            # By text, so that copies fall on the same side; by name, so that the two shares are independent.
            taken = _flags(train.rows, partial(_falls, name=name, share=source))
            if not taken.any():
                raise DataError(
                    f"data.{name}: a share of {source:g} takes none of the {train.labelled} labelled rows of train: "
                    "their texts decide which it takes. Give a larger share, more rows, or a file."
                )
            held_out, train = _kept(train, taken), _kept(train, ~taken)
            splits[name] = Split(held_out.rows, len(held_out.rows))
            train = replace(train, read=train.read - len(held_out.rows))
    splits["train"] = train
    return splits | {name: split for name, split in found.items() if name == "adapt"}


def _files_of_two(paths: Mapping[str, Path]) -> dict[str, str]:
    """For each split that has a file of an earlier one, or that stands for no files, the error."""
    split_of: dict[Path, str] = {}
    problems: dict[str, str] = {}
    for name, path in paths.items():
        try:
            files = source_at(path).files
        except DataError as error:
            problems[name] = str(error)
            continue
        for file in files:
            key = file if is_of_hub(str(file)) else file.resolve()
            if (other := split_of.setdefault(key, name)) == name or name in problems:
                continue
            leave = (
                "or leave it out: the teacher is then adapted on train" if name == "adapt" else "or a share of train"
            )
            is_one = "is the file" if file == path and paths[other] == path else "is a file"
            problems[name] = f"data.{name}: {file} {is_one} of data.{other} too. Name another one, {leave}."
    return problems


def _falls(row: DataRow, *, name: str, share: float) -> bool:
    """Whether a labelled row of train is of the share that is held out under this name."""
    return row.labelled and stable_fraction(words_alone(row.text), salt=name) < share


def _flags(rows: Sequence[Any], is_true: Callable[[Any], bool]) -> npt.NDArray[np.bool_]:
    return np.fromiter(map(is_true, rows), dtype=np.bool_, count=len(rows))


def _kept(split: Split, kept: npt.NDArray[np.bool_], **fields: Any) -> Split:
    assert isinstance(split.rows, OnDisk)
    return replace(split, rows=split.rows.where(kept), **fields)


def _without_blank(split: Split) -> Split:
    kept = _flags(split.rows, lambda row: bool(row.text.strip()))
    return _kept(split, kept, blank_dropped=int((~kept).sum()))


def _without_refused(split: Split, refusal: Callable[[Any], DataError | None]) -> Split:
    """The split without rows that are refused, which count as bad ones of its file."""
    notes = FileNotes(Path()) if split.notes is None else replace(split.notes, first_bad=[*split.notes.first_bad])
    kept = np.ones(len(split.rows), dtype=np.bool_)
    for number, row in enumerate(split.rows):
        if (error := refusal(row)) is not None:
            kept[number] = False
            notes.refuse(DataError(f"{place_of(split.rows, number)}: {error}"))
    return split if kept.all() else _kept(split, kept, notes=notes)


def _without_copies(split: Split, copies: Copies, **counts: int) -> Split:
    return _kept(
        split,
        ~copies.dropped,
        other_label_dropped=split.other_label_dropped + copies.other_label,
        copies=some((*split.copies, *copies.examples)),
        **counts,
    )


def _check(name: str, split: Split, *, all_open: bool) -> None:
    if not split.rows:
        dropped = {
            "blank": split.blank_dropped,
            "duplicates": split.duplicates_dropped,
            "near-copies of held-out rows": split.near_copies_dropped,
        }
        if split.notes is not None:
            dropped["that cannot be read"] = split.notes.bad
        why = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
            or "test and validation took all"
        )
        kept = {"near_copies: null": split.near_copies_dropped, "deduplicate: false": split.duplicates_dropped}
        fixes = [f"data.{setting}" for setting, count in kept.items() if count]
        fix = (
            f" Rows that are no copies, such as of one template, are kept with {' and '.join(fixes)}." if fixes else ""
        )
        raise DataError(f"data.{name}: 0 usable rows ({split.read} read: {why}). Nothing written.{fix}")
    missing = np.flatnonzero(_flags(split.rows, lambda row: not row.labelled))
    if len(missing) and name != "train":
        raise DataError(
            f"data.{name}: {len(missing)} of {len(split.rows)} rows have no label, first "
            f"{row_named(split.rows, int(missing[0]))}. "
            f"Every row of {name} needs one; only train may hold unlabelled rows."
        )
    if name == "train" and len(missing) == len(split.rows) and not all_open:
        raise DataError("data.train: no row is labelled. The hard-label loss and the baseline need some labelled rows.")


def _check_unique_ids(splits: Mapping[str, Split], column: str) -> None:
    index = Index(Keys(row.id for split in splits.values() for row in split.rows))
    repeated = index.first_repeated()
    if repeated is None:
        return
    found = [_place(splits, number) for number in (int(index.first_with()[repeated]), repeated)]
    where = " and ".join(_where(name, splits[name], number) for name, number in found)
    name, number = found[1]
    raise DataError(repeated_id(splits[name].rows[number].id, f"in {where}", column))


def _where(name: str, split: Split, number: int) -> str:
    place = place_of(split.rows, number)
    return f"data.{name}" if place is None else f"data.{name} ({place})"


def _place(splits: Mapping[str, Split], number: int) -> tuple[str, int]:
    """The split of a row, counted over all of them, and its number there."""
    for name, split in splits.items():
        if number < len(split.rows):
            return name, number
        number -= len(split.rows)
    raise AssertionError("no such row")
