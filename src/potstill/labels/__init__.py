"""Soft labels: a store of the teacher's answers that verifies itself, and how they are encoded."""

from potstill.labels.dense import Dense
from potstill.labels.encodings import AnyEncoding, PositionEncoding
from potstill.labels.reader import StoredTeacher
from potstill.labels.store import LabelSource, LabelStore
from potstill.labels.writer import Fitted, StoreWriter

__all__ = [
    "AnyEncoding",
    "Dense",
    "Fitted",
    "LabelSource",
    "LabelStore",
    "PositionEncoding",
    "StoreWriter",
    "StoredTeacher",
]
