"""From the files of a recipe to clean splits: no duplicates, no test text in training, every loss of rows counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from potstill.data.near_copies import normalised, without_near_copies
from potstill.data.rows import OWN_ID, Columns, DataRow, rows_fingerprint
from potstill.data.splits import stable_fraction
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.settings import Settings

Share = Annotated[float, Field(gt=0, lt=0.5)]


class NearCopies(Settings):
    """What counts as a near-copy: it is dropped from the training rows."""

    jaccard: float = Field(default=0.8, gt=0, le=1)
    """Share of the union of both texts' shingles that they have in common. 0.8 is the usual bar for
    near-duplicates of web text (Lee et al. 2021, arXiv:2107.06499)."""
    shingle_words: int = Field(default=5, ge=1)


class DataSettings(Settings):
    """The rows. Paths are relative to the recipe."""

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
    """Drop rows whose normalised text occurred before; held-out rows win over training rows."""
    near_copies: NearCopies | None = NearCopies()
    """Drop training rows that nearly copy a held-out text; null to keep them."""


@dataclass(frozen=True)
class Split:
    """The usable rows of one split, and what became of the others."""

    rows: Sequence[Any]
    """Rows of the task, each a `DataRow`."""
    read: int
    blank_dropped: int = 0
    duplicates_dropped: int = 0
    near_copies_dropped: int = 0

    @property
    def labelled(self) -> int:
        return sum(row.labelled for row in self.rows)

    @property
    def fingerprint(self) -> str:
        return rows_fingerprint(self.rows)


Read = Callable[[Path, Columns], Sequence[DataRow]]
"""How a task reads the rows of a file."""


def prepare(
    settings: DataSettings,
    base: Path,
    read: Read,
    progress: Progress | None = None,
    *,
    prompt_of: Callable[[Any], DataRow] | None = None,
) -> dict[str, Split]:
    """The splits `train`, `validation`, `test` and, where the recipe has one, `adapt`.

    `prompt_of` is given where a teacher writes the labels of train. Then train may be without a single one, and no row
    of it may have the prompt of a held-out row, or nearly.

    Raises:
        DataError: a file or row that cannot be used, a held-out row without label, or a split left empty.
    """
    splits = {name: Split(rows, len(rows)) for name, rows in _read(settings, base, read).items()}
    splits = {name: _without_blank(split) for name, split in splits.items()}
    if settings.deduplicate:
        splits = _without_duplicates(splits)
    if settings.near_copies:
        splits = _without_near_copies(splits, settings.near_copies, progress or Progress(), prompt_of)
    for name, split in splits.items():
        _check(name, split, all_open=prompt_of is not None)
    _check_unique_ids(splits)
    return splits


def _read(settings: DataSettings, base: Path, read: Read) -> dict[str, list[DataRow]]:
    train = list(read(base / settings.train, settings.columns))
    splits: dict[str, list[DataRow]] = {}
    for name in ("test", "validation"):
        source = getattr(settings, name)
        if isinstance(source, str):
            splits[name] = list(read(base / source, settings.columns))
        else:
            # By text, so that copies fall on the same side; by name, so that the two shares are independent.
            chosen = [stable_fraction(normalised(row.text), salt=name) < source for row in train]
            splits[name] = [row for row, taken in zip(train, chosen, strict=True) if taken and row.labelled]
            train = [row for row, taken in zip(train, chosen, strict=True) if not taken or not row.labelled]
    splits["train"] = train
    if settings.adapt:
        splits["adapt"] = list(read(base / settings.adapt, settings.columns))
    return splits


def _without_blank(split: Split) -> Split:
    rows = [row for row in split.rows if row.text.strip()]
    return replace(split, rows=rows, blank_dropped=len(split.rows) - len(rows))


def _without_duplicates(splits: dict[str, Split]) -> dict[str, Split]:
    """Splits earlier in the order test, validation, train, adapt keep the text; in a split a labelled row does."""
    seen: set[str] = set()
    result = {}
    for name, split in splits.items():
        first: dict[str, DataRow] = {}
        for row in sorted(split.rows, key=lambda row: not row.labelled):
            key = normalised(row.text) or row.text
            if key not in seen:
                first.setdefault(key, row)
        seen.update(first)
        kept = {id(row) for row in first.values()}
        rows = [row for row in split.rows if id(row) in kept]
        result[name] = replace(split, rows=rows, duplicates_dropped=len(split.rows) - len(rows))
    return result


def _without_near_copies(
    splits: dict[str, Split], settings: NearCopies, progress: Progress, prompt_of: Callable[[Any], DataRow] | None
) -> dict[str, Split]:
    held_out = [row for name in ("test", "validation") for row in splits[name].rows]
    taught = [name for name in ("train", "adapt") if name in splits]
    result = dict(splits)
    without_copies = partial(without_near_copies, jaccard=settings.jaccard, shingle_words=settings.shingle_words)
    with progress.task("near-copies", sum(len(splits[name].rows) for name in taught), "rows") as advance:
        for name in taught:
            rows = splits[name].rows
            kept = without_copies(rows, held_out, advance=advance)
            if prompt_of is not None and name == "train":
                asked = [prompt_of(row) for row in kept]
                new = {row.id for row in without_copies(asked, [prompt_of(row) for row in held_out])}
                kept = [row for row in kept if row.id in new]
            result[name] = replace(splits[name], rows=kept, near_copies_dropped=len(rows) - len(kept))
    return result


def _check(name: str, split: Split, *, all_open: bool) -> None:
    if not split.rows:
        dropped = {
            "blank": split.blank_dropped,
            "duplicates": split.duplicates_dropped,
            "near-copies of held-out rows": split.near_copies_dropped,
        }
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none was labelled"
        raise DataError(f"data.{name}: 0 usable rows ({split.read} read: {why}). Nothing written.")
    missing = [row.id for row in split.rows if not row.labelled]
    if missing and name != "train":
        raise DataError(
            f'data.{name}: {len(missing)} of {len(split.rows)} rows have no label, first "{missing[0]}". '
            f"Every row of {name} needs one; only train may hold unlabelled rows."
        )
    if name == "train" and len(missing) == len(split.rows) and not all_open:
        raise DataError("data.train: no row is labelled. The hard-label loss and the baseline need some labelled rows.")


def _check_unique_ids(splits: Mapping[str, Split]) -> None:
    seen: dict[str, str] = {}
    for name, split in splits.items():
        for row in split.rows:
            if row.id in seen:
                places = f"data.{seen[row.id]} and data.{name}" if seen[row.id] != name else f"data.{name}, twice"
                raise DataError(f'Duplicate id "{row.id}": in {places}. {OWN_ID}')
            seen[row.id] = name
