"""Numbers in standard units while a model is trained, and in their own on disk.

With the mean m and the standard deviation s of the labelled rows, a value y is (y - m) / s in standard units. A model
whose last layer gives W h + b in one unit gives (W / s) h + (b - m) / s in the other, so the change is exact up to
rounding and is made in the weights: whoever loads a saved model needs to know nothing of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data.encoded import EncodedRows
from potstill.data.rows import Row
from potstill.signals import Batch, Signals, Teacher
from potstill.tasks.heads import last_layer


@dataclass(frozen=True)
class TargetScaler:
    """The mean and the standard deviation of labels."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "TargetScaler":
        """Those of the labelled rows."""
        values = np.array([row.label for row in rows if isinstance(row.label, float)])
        # Equal labels have no spread to go by.
        return cls(float(values.mean()), float(values.std()) or 1.0)

    def standard(self, values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return (values - self.mean) / self.deviation

    def unscaled(self, values: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Values in standard units in the unit of the labels: the inverse of `standard`."""
        return values * self.deviation + self.mean

    def of_rows(self, rows: EncodedRows) -> EncodedRows:
        """The rows with their labels in standard units."""
        return replace(rows, labels=self.standard(torch.from_numpy(rows.labels)).numpy())

    def of_teacher(self, teacher: Teacher) -> Teacher:
        """The teacher, whose outputs are in the unit of the labels, with outputs in standard units."""
        return _InStandardUnits(teacher, self)

    def standardise(self, model: PreTrainedModel) -> None:
        """Change the last layer of a model whose outputs are in the unit of the labels to standard units.

        Raises:
            ModelError: its last layer is not known.
        """
        last = last_layer(model, outputs=1)
        with torch.no_grad():
            last.weight /= self.deviation
            last.bias.copy_((last.bias - self.mean) / self.deviation)

    @contextmanager
    def unscaled_outputs(self, model: PreTrainedModel) -> Iterator[None]:
        """Within it, the outputs of a model in standard units are in the unit of the labels; then all is as before.

        Raises:
            ModelError: its last layer is not known.
        """
        last = last_layer(model, outputs=1)
        before = [each.detach().clone() for each in (last.weight, last.bias)]
        with torch.no_grad():
            last.weight *= self.deviation
            last.bias.copy_(last.bias * self.deviation + self.mean)
        try:
            yield
        finally:
            with torch.no_grad():
                last.weight.copy_(before[0])
                last.bias.copy_(before[1])


@dataclass(frozen=True)
class _InStandardUnits:
    teacher: Teacher
    scaler: TargetScaler

    def __call__(self, batch: Batch) -> Signals:
        signals = self.teacher(batch)
        assert signals.mean is not None
        return replace(signals, mean=self.scaler.standard(signals.mean.float()))
