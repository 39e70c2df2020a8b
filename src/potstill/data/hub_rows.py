"""Rows of the Hugging Face hub, through the library `datasets`, which keeps them on disk."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.errors import DataError

HUB = "hf:"
"""With what the name of rows of the hub begins."""
FORM = "hf:organisation/name[:config[:split]]"
HUB_ROWS = 1024
"""Rows that are Python's at a time; the files of `datasets` are mapped."""
_NAME = re.compile(r"hf:(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@\s]+))?(:(?P<config>[^:]*))?(:(?P<split>.+))?")


@dataclass(frozen=True)
class HubName:
    """What a recipe says of rows of the hub."""

    name: str
    id: str
    revision: str | None
    config: str | None
    split: str | None

    @classmethod
    def of(cls, name: str) -> "HubName":
        """Raises DataError: it is no such name."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise DataError(
                f"{name}: not rows of the hub; expected {FORM}, and perhaps @revision after the name. The config may "
                "be left empty: hf:organisation/name::train."
            )
        parts = found.groupdict()
        return cls(name, str(parts["id"]), parts["revision"], parts["config"] or None, parts["split"])


@dataclass(frozen=True)
class HubRows:
    """A split that is on disk."""

    name: str
    dataset: Any
    about: str
    """Which revision it is of."""

    def records(self, refuse: Callable[[DataError], None]) -> Iterator[tuple[str, Any]]:
        """The rows, each with its place: `row 2`; with names of classes in place of their ids."""
        from potstill.data.arrow_values import records_in
        from potstill.data.class_names import namings

        named = namings(self.dataset.features.to_dict())
        number = 0
        for table in self.dataset.with_format("arrow").iter(HUB_ROWS):
            for batch in table.to_batches():
                yield from records_in(Path(self.name), number, batch, named, refuse)
                number += len(batch)


def hub_rows(name: str) -> HubRows:
    """Fetch rows of the hub, or find them where `datasets` has them on disk.

    Raises:
        DataError: no such rows, no network, no single split, or `datasets` is not installed.
    """
    wanted = HubName.of(name)
    try:
        import datasets
    except ImportError:
        raise DataError(f"{name}: rows of the hub need an extra: pip install 'potstill[datasets]'.") from None
    if Path(wanted.id).exists():
        raise DataError(
            f"{name}: {wanted.id} lies in the working directory too, and datasets would read that. Name it by its path "
            "in place of hf:, or work in another directory."
        )
    bars = not datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        found = datasets.load_dataset(wanted.id, wanted.config, split=wanted.split, revision=wanted.revision)
    except (datasets.exceptions.DatasetsError, OSError, RuntimeError, ValueError) as error:
        raise _not_loaded(wanted, error) from None
    finally:
        if bars:
            datasets.utils.enable_progress_bars()
    if isinstance(found, dict):
        if len(found) != 1:
            splits = ", ".join(map(str, found))
            raise DataError(
                f"{name}: it has several splits: {splits}. Name one, such as "
                f"hf:{wanted.id}:{wanted.config or ''}:{next(iter(found))}."
            )
        found = next(iter(found.values()))
    return HubRows(name, found, _about(found))


def _not_loaded(wanted: HubName, error: Exception) -> DataError:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    offline = isinstance(error, ConnectionError) or "offline" in reason.lower() or "connect" in reason.lower()
    if offline:
        fix = "Rows of the hub need the network once; without it, fetch them elsewhere and copy the cache (HF_HOME)."
    elif "BuilderConfig" in reason and wanted.split is None:
        fix = f"After the name stands the config; a split alone is named hf:{wanted.id}::{wanted.config}."
    else:
        fix = f"Expected {FORM}."
    return DataError(f"{wanted.name}: cannot be loaded: {reason.rstrip('.')}. {fix}")


def _about(found: Any) -> str:
    """The commit that its files are of, where it is known, and the fingerprint that `datasets` gives the rows."""
    files = " ".join(map(str, getattr(found.info, "download_checksums", None) or {}))
    commit = re.search(r"@([0-9a-f]{40})/", files)
    revision = f"revision {commit[1]}, " if commit else ""
    return f"{revision}fingerprint {found._fingerprint}"
