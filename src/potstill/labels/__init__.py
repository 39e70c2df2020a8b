"""Soft labels: a store of the teacher's answers that verifies itself, and how they are encoded."""

from potstill.labels.dense import Dense
from potstill.labels.reader import StoredTeacher
from potstill.labels.store import LabelSource, LabelStore
from potstill.labels.writer import StoreWriter

# One member so far; a union with `kind` as its discriminator when there are two.
AnyEncoding = Dense

__all__ = ["AnyEncoding", "Dense", "LabelSource", "LabelStore", "StoreWriter", "StoredTeacher"]
