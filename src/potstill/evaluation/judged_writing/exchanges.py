"""What was asked, what is right, and what each model wrote."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """One prompt of a test row, and what all models wrote after it."""

    id: str
    """Of the row."""
    asked: str
    """All that models were shown."""
    truth: str
    """The last response of the row as it stands in the data; empty where it has none."""
    truth_as_read: str
    """The same as the teacher's tokenizer reads it: what it has no tokens for, no model could write."""
    said: Mapping[str, str]
    """By model, without special tokens."""


NO_REFERENCE = "no right answer in the row"
UNREADABLE_REFERENCE = "nothing to compare with in the right answer"
CONTRADICTED = "said otherwise in the other order"


class NotJudged(Exception):
    """An answer that is neither good nor bad, for nothing could be found out about it. Its text says why."""
