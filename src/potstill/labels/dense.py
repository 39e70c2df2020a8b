"""The dense encoding: all logits of each row. Right for classification, and valid for every temperature."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from potstill.capabilities import Facts
from potstill.errors import LabelStoreError
from potstill.labels.checks import refused_rows
from potstill.labels.positions import Column, TensorColumns
from potstill.settings import Settings
from potstill.targets import LogitTargets


class Dense(Settings):
    """One row of logits for each row of data."""

    kind: Literal["dense"] = "dense"
    dtype: Literal["float32", "float16"] = "float32"
    """float16 halves the store and rounds a logit by at most 0.05 %."""

    whole: ClassVar[bool] = True

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from refused_rows(self.kind, where, facts)
        if facts.means and self.dtype == "float16":
            yield f"{where}: float16 rounds numbers far from zero to a few; use float32."

    def arrow_schema(self, classes: int) -> pa.Schema:
        value = pa.float32() if self.dtype == "float32" else pa.float16()
        logits = pa.field("logits", pa.list_(value, classes), nullable=False)
        return pa.schema([pa.field("id", pa.string(), nullable=False), logits])

    def bytes_per_row(self, classes: int) -> int:
        return classes * np.dtype(self.dtype).itemsize

    def encode(self, ids: Sequence[str], logits: Float[Tensor, "rows classes"]) -> pa.RecordBatch:
        """A record batch of these rows.

        Raises:
            LabelStoreError: a logit that is NaN or infinite, also after rounding to float16; names the row.
        """
        with np.errstate(over="ignore"):  # an overflow is refused below
            values = logits.detach().cpu().numpy().astype(self.dtype, copy=False)
        finite = np.isfinite(values)
        if not finite.all():
            row, label = (int(axis[0]) for axis in np.nonzero(~finite))
            raise LabelStoreError(
                f"Teacher logits non-finite: id {ids[row]} class {label}. Row not written. "
                "Check the teacher's weights, or its overflow in half precision."
            )
        schema = self.arrow_schema(values.shape[1])
        flat = pa.array(values.reshape(-1), type=schema.field("logits").type.value_type)
        column = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("logits").type)
        return pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), column], schema=schema)

    def decode(self, batch: pa.RecordBatch) -> npt.NDArray[np.floating]:
        """The logits of a record batch, rows x classes, without a copy.

        Raises:
            LabelStoreError: a stored logit is NaN or infinite.
        """
        column = batch.column("logits")
        values: npt.NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=True).reshape(len(batch), -1)
        if not np.isfinite(values).all():
            row = int(np.nonzero(~np.isfinite(values))[0][0])
            raise LabelStoreError(f"Stored logits non-finite: id {batch.column('id')[row].as_py()}.")
        return values


class DensePositions(Settings):
    """All logits at each position of a row that counts: at each word, where words are classified."""

    kind: Literal["dense_positions"] = "dense_positions"
    dtype: Literal["float32", "float16"] = "float32"
    classes: int

    @property
    def columns(self) -> Mapping[str, Column]:
        return {"logits": Column(np.float32 if self.dtype == "float32" else np.float16, self.classes)}

    def encode(self, logits: Float[Tensor, "positions classes"]) -> TensorColumns:
        # An overflow is refused by who writes it, with its row and position.
        values = logits.detach().float()
        return {"logits": values if self.dtype == "float32" else values.half()}

    def decode(self, columns: TensorColumns) -> LogitTargets:
        return LogitTargets(columns["logits"].float())


@dataclass(frozen=True)
class DenseLayout:
    """How dense labels lie in record batches."""

    encoding: Dense
    classes: int

    @property
    def schema(self) -> pa.Schema:
        return self.encoding.arrow_schema(self.classes)

    def reads(self, schema: pa.Schema) -> bool:
        return bool(schema.equals(self.schema))

    def records(self, ids: Sequence[str], answer: Float[Tensor, "rows classes"]) -> pa.RecordBatch:
        return self.encoding.encode(ids, answer)

    def rows(self, batch: pa.RecordBatch) -> list[npt.NDArray[np.floating]]:
        return list(self.encoding.decode(batch))

    def digests(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        for row in self.rows(batch):
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()
