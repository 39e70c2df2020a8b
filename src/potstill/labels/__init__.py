"""Soft labels: a store of the teacher's answers that verifies itself, and how they are encoded."""

from potstill.labels.dense import Dense, DensePositions
from potstill.labels.encodings import AnyEncoding, AskedEncoding, Auto, PositionEncoding
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.positions import bytes_per_position
from potstill.labels.reader import StoredFeatures, StoredTeacher
from potstill.labels.sampled import Sampled
from potstill.labels.states import States
from potstill.labels.store import LabelSource, LabelStore
from potstill.labels.writer import Fitted, StoreWriter

__all__ = [
    "AnyEncoding",
    "AskedEncoding",
    "Auto",
    "Dense",
    "DensePositions",
    "Fitted",
    "Hidden",
    "LabelSource",
    "LabelStore",
    "LowRank",
    "PositionEncoding",
    "Sampled",
    "States",
    "StoreWriter",
    "StoredFeatures",
    "StoredTeacher",
    "bytes_per_position",
]
