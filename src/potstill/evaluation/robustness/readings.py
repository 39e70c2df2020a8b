"""What the outputs of a head say, of one class for each text or of several labels."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy.special import expit, log_expit, logsumexp

from potstill.measure.quality import log_softmax
from potstill.records import AnswerKind
from potstill.runtimes.predictor import Outputs

Truth = npt.NDArray[np.int64] | npt.NDArray[np.float32]
"""A class for each row, or rows x labels in {0, 1}."""
Numbers = npt.NDArray[np.float64]
"""One for each row."""
Flags = npt.NDArray[np.bool_]
Output = Float[np.ndarray, "outputs"]
"""Of one row."""
TruthOfRow = np.int64 | npt.NDArray[np.int64] | npt.NDArray[np.float32] | np.float32
"""Of one row."""


@runtime_checkable
class OutputReading(Protocol):
    """What outputs, rows x classes, say of each row."""

    def right(self, outputs: Outputs, truth: Truth) -> Flags: ...

    def same(self, outputs: Outputs, others: Outputs) -> Numbers:
        """The share of the decisions about a row that are the same."""
        ...

    def probability(self, outputs: Outputs, truth: Truth) -> Numbers:
        """Of what is true of the row."""
        ...

    def max_probability(self, outputs: Outputs) -> Numbers: ...

    def energy(self, outputs: Outputs) -> Numbers: ...

    def named(self, output: Output, names: Sequence[str]) -> str:
        """What one row's output says, in words."""
        ...

    def truth_named(self, truth: TruthOfRow, names: Sequence[str]) -> str: ...


class OneClass:
    """The outputs are the logits of one distribution."""

    def right(self, outputs: Outputs, truth: Truth) -> Flags:
        return np.asarray(outputs.argmax(axis=1) == truth)

    def same(self, outputs: Outputs, others: Outputs) -> Numbers:
        return np.asarray(outputs.argmax(axis=1) == others.argmax(axis=1), dtype=np.float64)

    def probability(self, outputs: Outputs, truth: Truth) -> Numbers:
        return np.asarray(np.exp(log_softmax(outputs)[np.arange(len(truth)), truth.astype(np.int64)]))

    def max_probability(self, outputs: Outputs) -> Numbers:
        return np.asarray(np.exp(log_softmax(outputs).max(axis=1)))

    def energy(self, outputs: Outputs) -> Numbers:
        return np.asarray(logsumexp(outputs.astype(np.float64), axis=1))

    def named(self, output: Output, names: Sequence[str]) -> str:
        return names[int(output.argmax())]

    def truth_named(self, truth: TruthOfRow, names: Sequence[str]) -> str:
        return names[int(truth)]


class SeveralLabels:
    """Each output is the log-odds of a label, which is given where they are above zero."""

    def right(self, outputs: Outputs, truth: Truth) -> Flags:
        """Of rows that have exactly the right labels."""
        return np.asarray(((outputs > 0) == (truth == 1)).all(axis=1))

    def same(self, outputs: Outputs, others: Outputs) -> Numbers:
        return np.asarray(((outputs > 0) == (others > 0)).mean(axis=1))

    def probability(self, outputs: Outputs, truth: Truth) -> Numbers:
        """That all labels are right."""
        return np.asarray(np.exp(log_expit(np.where(truth == 1, outputs, -outputs).astype(np.float64)).sum(axis=1)))

    def max_probability(self, outputs: Outputs) -> Numbers:
        return np.asarray(expit(outputs.astype(np.float64)).max(axis=1))

    def energy(self, outputs: Outputs) -> Numbers:
        return np.asarray(np.logaddexp(0, outputs.astype(np.float64)).sum(axis=1))

    def named(self, output: Output, names: Sequence[str]) -> str:
        return self.truth_named(np.asarray(output > 0, dtype=np.int64), names)

    def truth_named(self, truth: TruthOfRow, names: Sequence[str]) -> str:
        return ", ".join(names[number] for number in np.nonzero(truth == 1)[0].tolist()) or "(none)"


READINGS: Mapping[AnswerKind, OutputReading] = {"single_label": OneClass(), "multi_label": SeveralLabels()}
