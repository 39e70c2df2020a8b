"""What can be answered about a whole text: one class, several labels that are each a question of its own, a number."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from potstill.data.number_checks import number_in
from potstill.data.on_disk import row_named
from potstill.data.rows import LabelIn, Row, class_in, classes_in
from potstill.errors import DataError
from potstill.records import AnswerKind
from potstill.signals import IGNORE_INDEX, Batch, Signals
from potstill.tasks.classes import ordered

Outputs = Float[Tensor, "*rows outputs"]
"""What the head of a model gives for each row, as it is stored too."""


@runtime_checkable
class ProblemType(Protocol):
    """A form of answer: how rows are labelled with it, and what a head's outputs mean."""

    @property
    def problem_type(self) -> str | None:
        """As the configuration of a model names it, by which transformers chooses its loss and its pipeline."""
        ...

    @property
    def answers(self) -> AnswerKind:
        """How records and metrics call it."""
        ...

    @property
    def primary_metric(self) -> str: ...

    @property
    def label_in(self) -> LabelIn: ...

    def label_names(self, splits: Mapping[str, Sequence[Row]]) -> list[str]:
        """What the outputs of a head are called.

        Raises:
            DataError: the rows do not fit this form of answer.
        """
        ...

    def targets(self, rows: Sequence[Row], labels: Sequence[str]) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        """The labels of the rows as numbers, as a `Batch` has them."""
        ...

    def alike(self, rows: Sequence[Row]) -> str | None:
        """In what the right answers to all rows are the same; None where they differ."""
        ...

    def signals(self, outputs: Outputs) -> Signals:
        """Distributions of the outputs of a head."""
        ...

    def outputs(self, signals: Signals) -> Outputs:
        """The inverse of `signals`."""
        ...


@runtime_checkable
class HeadTask(Protocol):
    """A task whose models answer with a head, for each row or at each word."""

    @property
    def problem(self) -> ProblemType: ...

    def outputs(self, signals: Signals, batch: Batch) -> Outputs:
        """What the head gave for each row, or for each word that counts, row by row."""
        ...


class SingleLabel:
    """One class for each text: the outputs are the logits of one distribution."""

    # Not written down: it is what transformers takes a model without the word for, and models from before have none.
    problem_type = None
    answers: AnswerKind = "single_label"
    primary_metric = "accuracy"
    label_in = staticmethod(class_in)

    def label_names(self, splits: Mapping[str, Sequence[Row]]) -> list[str]:
        return classes_of(splits, least=2)

    def targets(self, rows: Sequence[Row], labels: Sequence[str]) -> npt.NDArray[np.int64]:
        numbers = {label: number for number, label in enumerate(labels)}
        classes = [numbers[row.classes[0]] if row.labelled else IGNORE_INDEX for row in rows]
        return np.array(classes, dtype=np.int64)

    def alike(self, rows: Sequence[Row]) -> str | None:
        return _of_one_label(rows)

    def signals(self, outputs: Outputs) -> Signals:
        return Signals(logits=outputs)

    def outputs(self, signals: Signals) -> Outputs:
        assert signals.logits is not None
        return signals.logits


class MultiLabel:
    """Any number of labels for each text: an output x is the log-odds of its label.

    Whether a label holds is a distribution of two classes, softmax(0, x). So sigmoid(x / T) is that distribution
    softened, and each label of a row is a position as the losses know it.
    """

    problem_type = "multi_label_classification"
    answers: AnswerKind = "multi_label"
    primary_metric = "micro_f1"
    label_in = staticmethod(classes_in)

    def label_names(self, splits: Mapping[str, Sequence[Row]]) -> list[str]:
        return classes_of(splits, least=1)

    def targets(self, rows: Sequence[Row], labels: Sequence[str]) -> npt.NDArray[np.int64]:
        numbers = {label: number for number, label in enumerate(labels)}
        found = np.zeros((len(rows), len(labels)), dtype=np.int64)
        for place, row in enumerate(rows):
            found[place, [numbers[label] for label in row.classes]] = 1
            if not row.labelled:
                found[place] = IGNORE_INDEX
        return found

    def alike(self, rows: Sequence[Row]) -> str | None:
        return _of_one_label(rows)

    def signals(self, outputs: Outputs) -> Signals:
        return Signals(logits=torch.stack([torch.zeros_like(outputs), outputs], dim=-1))

    def outputs(self, signals: Signals) -> Outputs:
        assert signals.logits is not None
        log_odds: Tensor = signals.logits[..., 1] - signals.logits[..., 0]
        return log_odds


class Regression:
    """A number for each text: the output is the mean of a Gaussian of unit variance.

    A saved model's outputs are in the unit of the labels. While it is trained, its outputs and all labels are in
    standard units (`tasks/target_scaler.py`), so that neither the learning rate nor the weights of the losses depend on
    the unit.
    """

    problem_type = "regression"
    answers: AnswerKind = "regression"
    primary_metric = "r2"
    label_in = staticmethod(number_in)

    def label_names(self, splits: Mapping[str, Sequence[Row]]) -> list[str]:
        for name in ("train", "adapt", "test"):
            if len({row.label for row in splits.get(name, ()) if row.labelled} or {0, 1}) < 2:
                raise DataError(
                    f"data.{name}: all labels are the same number, so there is nothing to learn or to judge."
                )
        return ["value"]

    def targets(self, rows: Sequence[Row], labels: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([np.nan if row.label is None else row.label for row in rows], dtype=np.float32)

    def alike(self, rows: Sequence[Row]) -> str | None:
        first = rows[0].label
        return f"all rows have the same number ({first:g})" if all(row.label == first for row in rows) else None

    def signals(self, outputs: Outputs) -> Signals:
        return Signals(mean=outputs[:, 0])

    def outputs(self, signals: Signals) -> Outputs:
        assert signals.mean is not None
        return signals.mean[:, None]


def _of_one_label(rows: Sequence[Row]) -> str | None:
    first = rows[0].classes
    same = all(row.classes == first for row in rows)
    return f"all rows have the same label ({', '.join(first) or 'none'})" if same else None


def classes_of(splits: Mapping[str, Sequence[Row]], least: int) -> list[str]:
    """The classes, in order, from the rows that teach; the held-out rows must add none.

    Raises:
        DataError: fewer than `least` classes, or a held-out class that no training row has.
    """
    taught = {label for name in ("train", "adapt") for row in splits.get(name, ()) for label in row.classes}
    if len(taught) < least:
        raise DataError(
            f"data: {len(taught)} class in the labelled training rows ({sorted(taught)}); expected {least} or more."
        )
    for name in ("validation", "test"):
        rows = splits[name]
        if unknown := sorted({label for row in rows for label in row.classes} - taught):
            first = next(number for number, row in enumerate(rows) if unknown[0] in row.classes)
            raise DataError(
                f"data.{name}: class {unknown[0]!r} (and {len(unknown) - 1} more) occurs in no training row, and in "
                f"{row_named(rows, first)}. Add rows of it to train or adapt, or remove it here."
            )
    return ordered(taught)
