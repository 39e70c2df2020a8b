"""What each model answers to each test row, as a file of the run by which runs can be compared row by row."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.errors import RunDirError
from potstill.evaluation.case import Case
from potstill.records import AnswerKind
from potstill.run_dir import atomic_file

ANSWERS = "answers.parquet"
FORM = 1
"""Raised where the file, or what it holds of an answer, changes."""
KEPT_CHARACTERS = 600
"""As much as is kept of a text that is only shown."""
_ABOUT = b"potstill"
_SAID, _RIGHT = "said", "right"

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelRows:
    """The answers of one model, one for each test row."""

    said: Sequence[str] | None = None
    """In words, where an answer has some."""
    right: npt.NDArray[np.bool_] | None = None
    """None where no row is right or wrong as a whole."""
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    """What its metrics are sums of, by names that its kind of answer has."""

    def of(self, places: npt.NDArray[np.int64]) -> "ModelRows":
        """The answers at these places."""
        return ModelRows(
            said=None if self.said is None else [self.said[place] for place in places.tolist()],
            right=None if self.right is None else self.right[places],
            numbers={name: values[places] for name, values in self.numbers.items()},
        )


@dataclass(frozen=True)
class KeptRows:
    """The test rows, and the answers of models to them."""

    kind: AnswerKind
    ids: Sequence[str]
    digests: Sequence[str]
    """Of the whole content of each row: two rows are the same where theirs are."""
    models: Mapping[str, ModelRows]
    texts: Sequence[str] | None = None
    """Their beginnings."""
    truth: Sequence[str] | None = None
    """In words, where it is none of the text."""

    def of(self, places: npt.NDArray[np.int64]) -> "KeptRows":
        """The rows at these places."""

        def chosen(values: Sequence[str]) -> list[str]:
            return [values[place] for place in places.tolist()]

        return replace(
            self,
            ids=chosen(self.ids),
            digests=chosen(self.digests),
            texts=None if self.texts is None else chosen(self.texts),
            truth=None if self.truth is None else chosen(self.truth),
            models={name: each.of(places) for name, each in self.models.items()},
        )


def kept_rows(
    case: Case, models: Mapping[str, ModelRows], truth: Sequence[str] | None = None, *, with_texts: bool = True
) -> KeptRows:
    """The test rows of a case with these answers."""
    rows = case.test
    return KeptRows(
        kind=case.recipe.task.answers,
        ids=[row.id for row in rows],
        digests=[_digest(row.content) for row in rows],
        models=models,
        texts=[row.text[:KEPT_CHARACTERS] for row in rows] if with_texts else None,
        truth=None if truth is None else [each[:KEPT_CHARACTERS] for each in truth],
    )


def _digest(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_rows(path: Path, rows: KeptRows) -> None:
    """Write them so that a reader sees all or nothing, and the owner alone."""
    columns: dict[str, Any] = {"id": pa.array(rows.ids, pa.string()), "digest": pa.array(rows.digests, pa.string())}
    for name, texts in (("text", rows.texts), ("truth", rows.truth)):
        if texts is not None:
            columns[name] = pa.array(texts, pa.string())
    # Within one column, since a model can be called as any of the others is.
    each = [_struct(model) for model in rows.models.values()]
    columns["models"] = pa.StructArray.from_arrays(each, names=list(rows.models))
    about = {_ABOUT: json.dumps({"form": FORM, "answers": rows.kind}).encode()}
    # It holds texts of the data, and is as private as labels.
    with atomic_file(path, private=True) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(about), temporary, compression="zstd")


def _struct(model: ModelRows) -> pa.StructArray:
    fields: dict[str, Any] = {name: pa.array(values, pa.float64()) for name, values in model.numbers.items()}
    if model.said is not None:
        fields[_SAID] = pa.array([each[:KEPT_CHARACTERS] for each in model.said], pa.string())
    if model.right is not None:
        fields[_RIGHT] = pa.array(model.right, pa.bool_())
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields))


def read_rows(path: Path) -> KeptRows:
    """The rows of a file.

    Raises:
        RunDirError: it is none that this version wrote.
    """
    unknown = RunDirError(
        f"{path}: not in the form in which this version keeps answers. Remove {path.parent} and run its stage again "
        "with this version, or read it with the version that wrote it."
    )
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        about = json.loads((table.schema.metadata or {})[_ABOUT])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        raise unknown from None
    if not isinstance(about, dict) or about.get("form") != FORM or about.get("answers") not in get_args(AnswerKind):
        raise unknown

    def texts(name: str) -> list[str] | None:
        return table[name].to_pylist() if name in table.column_names else None

    models = table["models"].combine_chunks()
    return KeptRows(
        kind=about["answers"],
        ids=table["id"].to_pylist(),
        digests=table["digest"].to_pylist(),
        models={each.name: _model(models.field(each.name)) for each in models.type},
        texts=texts("text"),
        truth=texts("truth"),
    )


def _model(struct: pa.StructArray) -> ModelRows:
    fields = {each.name: struct.field(each.name) for each in struct.type}
    said, right = fields.pop(_SAID, None), fields.pop(_RIGHT, None)
    return ModelRows(
        said=None if said is None else said.to_pylist(),
        right=None if right is None else right.to_numpy(zero_copy_only=False),
        numbers={name: values.to_numpy(zero_copy_only=False) for name, values in fields.items()},
    )
