"""From the files of a recipe to clean splits: no duplicates, no test text in training, every loss of rows counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_serializer

from potstill.data.dialogues import Conversation
from potstill.data.ids import Index, Keys
from potstill.data.near_copies import near_copies, normalised
from potstill.data.on_disk import OnDisk
from potstill.data.rows import OWN_ID, Columns, DataRow, rows_fingerprint
from potstill.data.splits import stable_fraction
from potstill.errors import DataError
from potstill.progress import Advance, Progress, unseen
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
    ignore: tuple[str, ...] = ()
    """Names of columns, and of keys of a conversation's turns, that are not read and may go."""
    deduplicate: bool = True
    """Drop rows whose normalised text occurred before; held-out rows win over training rows."""
    near_copies: NearCopies | None = NearCopies()
    """Drop training rows that nearly copy a held-out text; null to keep them."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without what may go where nothing may, so that a run from before this could be said goes on."""
        values = handler(self)
        if not self.ignore:
            del values["ignore"]
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

    @property
    def labelled(self) -> int:
        return sum(row.labelled for row in self.rows)

    @property
    def fingerprint(self) -> str:
        return rows_fingerprint(self.rows)


Read = Callable[..., OnDisk[Any]]
"""How a task reads the rows of a file: from its path, `Columns` and, where there are some, `ignore`."""


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
    if settings.ignore:
        read = partial(read, ignore=settings.ignore)
    splits = {name: _without_blank(Split(rows, len(rows))) for name, rows in _read(settings, base, read).items()}
    if settings.deduplicate:
        splits = _without_duplicates(splits)
    if settings.near_copies:
        splits = _without_near_copies(splits, settings.near_copies, progress or Progress(), prompt_of)
    for name, split in splits.items():
        _check(name, split, all_open=prompt_of is not None)
    _check_unique_ids(splits)
    return splits


def _read(settings: DataSettings, base: Path, read: Read) -> dict[str, OnDisk[Any]]:
    train = read(base / settings.train, settings.columns)
    splits: dict[str, OnDisk[Any]] = {}
    for name in ("test", "validation"):
        source = getattr(settings, name)
        if isinstance(source, str):
            splits[name] = read(base / source, settings.columns)
        else:
            # By text, so that copies fall on the same side; by name, so that the two shares are independent.
            taken = _flags(train, partial(_falls, name=name, share=source))
            splits[name], train = train.where(taken), train.where(~taken)
    splits["train"] = train
    if settings.adapt:
        splits["adapt"] = read(base / settings.adapt, settings.columns)
    return splits


def _falls(row: DataRow, *, name: str, share: float) -> bool:
    """Whether a labelled row of train is of the share that is held out under this name."""
    return row.labelled and stable_fraction(normalised(row.text), salt=name) < share


def _flags(rows: Sequence[Any], is_true: Callable[[Any], bool]) -> npt.NDArray[np.bool_]:
    return np.fromiter(map(is_true, rows), dtype=np.bool_, count=len(rows))


def _kept(split: Split, kept: npt.NDArray[np.bool_], **counts: int) -> Split:
    assert isinstance(split.rows, OnDisk)
    return replace(split, rows=split.rows.where(kept), **counts)


def _without_blank(split: Split) -> Split:
    kept = _flags(split.rows, lambda row: bool(row.text.strip()))
    return _kept(split, kept, blank_dropped=int((~kept).sum()))


def _without_duplicates(splits: dict[str, Split]) -> dict[str, Split]:
    """Splits earlier in the order test, validation, train, adapt keep the text; in a split a labelled row does."""
    keys = Keys()
    orders: dict[str, npt.NDArray[np.int64]] = {}
    for name, split in splits.items():
        own, labelled = Keys(), []
        for row in split.rows:
            own.add((normalised(row.text) or row.text) + (row.beside if isinstance(row, Conversation) else ""))
            labelled.append(row.labelled)
        flags = np.array(labelled, dtype=np.bool_)
        orders[name] = np.concatenate([np.flatnonzero(flags), np.flatnonzero(~flags)])
        keys += own.where(orders[name])
    first = Index(keys).first_with() == np.arange(sum(map(len, orders.values())))
    result, start = {}, 0
    for name, order in orders.items():
        kept = np.empty(len(order), dtype=np.bool_)
        kept[order] = first[start : start + len(order)]
        result[name] = _kept(splits[name], kept, duplicates_dropped=int((~kept).sum()))
        start += len(order)
    return result


def _without_near_copies(
    splits: dict[str, Split], settings: NearCopies, progress: Progress, prompt_of: Callable[[Any], DataRow] | None
) -> dict[str, Split]:
    held_out = [row for name in ("test", "validation") for row in splits[name].rows]
    taught = [name for name in ("train", "adapt") if name in splits]
    result = dict(splits)

    def new(rows: Sequence[Any], text_of: Callable[[Any], str], advance: Advance = unseen) -> npt.NDArray[np.bool_]:
        copies = near_copies(
            map(text_of, rows),
            map(text_of, held_out),
            jaccard=settings.jaccard,
            shingle_words=settings.shingle_words,
            advance=advance,
        )
        kept = np.ones(len(rows), dtype=np.bool_)
        kept[list(copies)] = False
        return kept

    with progress.task("near-copies", sum(len(splits[name].rows) for name in taught), "rows") as advance:
        for name in taught:
            before = splits[name]
            split = _kept(before, new(before.rows, lambda row: row.text, advance))
            if prompt_of is not None and name == "train":
                split = _kept(split, new(split.rows, lambda row: prompt_of(row).text))
            result[name] = replace(split, near_copies_dropped=len(before.rows) - len(split.rows))
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
    missing = np.flatnonzero(_flags(split.rows, lambda row: not row.labelled))
    if len(missing) and name != "train":
        raise DataError(
            f"data.{name}: {len(missing)} of {len(split.rows)} rows have no label, first "
            f'"{split.rows[int(missing[0])].id}". '
            f"Every row of {name} needs one; only train may hold unlabelled rows."
        )
    if name == "train" and len(missing) == len(split.rows) and not all_open:
        raise DataError("data.train: no row is labelled. The hard-label loss and the baseline need some labelled rows.")


def _check_unique_ids(splits: Mapping[str, Split]) -> None:
    index = Index(Keys(row.id for split in splits.values() for row in split.rows))
    repeated = index.first_repeated()
    if repeated is None:
        return
    one, _ = _place(splits, int(index.first_with()[repeated]))
    other, number = _place(splits, repeated)
    where = f"data.{one} and data.{other}" if one != other else f"data.{other}, twice"
    raise DataError(f'Duplicate id "{splits[other].rows[number].id}": in {where}. {OWN_ID}')


def _place(splits: Mapping[str, Split], number: int) -> tuple[str, int]:
    """The split of a row, counted over all of them, and its number there."""
    for name, split in splits.items():
        if number < len(split.rows):
            return name, number
        number -= len(split.rows)
    raise AssertionError("no such row")
