"""What a parameter does in its model, and so what stands along its axes: all that must be known to cut it."""

from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """Which stack of layers, and of a decoder with an encoder which attention."""

    ONLY = "only"
    """Of models that have one stack."""
    ENCODER = "encoder"
    DECODER = "decoder"
    """With its attention to what was written before."""
    CROSS = "cross"
    """The decoder's attention to the source."""

    @property
    def stack(self) -> "Part":
        """The stack in whose layers it lies."""
        return Part.DECODER if self is Part.CROSS else self


class Axis(StrEnum):
    """What stands along one axis of a parameter. The stream is what layers read, and add to."""

    WHOLE = "whole"
    """What a student has as its teacher does: positions, classes, channels within a head."""
    VOCABULARY = "vocabulary"
    HEADS = "heads"
    """One number for each head."""
    QUERIES = "queries"
    """The channels of all heads."""
    KEYS = "keys"
    """The channels of all heads that have keys and values of their own."""
    QUERIES_KEYS_VALUES = "queries, keys and values"
    """The channels of all heads: of queries, then of keys, then of values."""
    OF_EACH_HEAD = "queries, keys and values of each head"
    """The channels of the first head's queries, of its keys, of its values; then those of the next head."""
    UNITS = "units"
    """Of the feed-forward layer."""
    GATES_AND_UNITS = "gates and units"
    """The gates of all units, then the units."""
    EXPERTS = "experts"
    """A row of the router for each expert, or a matrix."""
    READ = "read"
    """Channels of the stream, as a matrix reads them."""
    STREAM = "stream"
    """Channels of the stream, as they are: of embeddings, of a shift, of a head that has a norm before it."""
    WRITTEN = "written"
    """Channels of the stream, as a matrix writes them."""
    SCALE = "scale"
    """Channels of the stream, each with the factor that a norm gives it."""


class Role(StrEnum):
    """What a module does. A family has one module for each role in a layer, or none."""

    TOKEN_EMBEDDING = "token embedding"
    POSITION_EMBEDDING = "position embedding"
    TYPE_EMBEDDING = "token type embedding"
    EMBEDDING_NORM = "norm of the embeddings"
    EMBEDDING_PROJECTION = "projection of factorised embeddings"
    RELATIVE_EMBEDDING = "embedding of relative positions"
    """Read as the stream is, by all layers."""
    RELATIVE_NORM = "norm of the embeddings of relative positions"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    QUERY_KEY_VALUE = "query, key and value in one"
    QUERY_KEY_VALUE_BY_HEAD = "query, key and value in one, head by head"
    QUERY_BIAS = "bias of the queries"
    """A tensor by itself, without a module, as the next one."""
    VALUE_BIAS = "bias of the values"
    POSITION_QUERY = "query of relative positions"
    POSITION_KEY = "key of relative positions"
    QUERY_NORM = "norm within each head's queries"
    KEY_NORM = "norm within each head's keys"
    QUERIES_NORM = "norm of all heads' queries together"
    KEYS_NORM = "norm of all heads' keys together"
    ATTENTION_OUT = "attention output"
    ATTENTION_NORM = "norm of the attention"
    """Before it, of what it reads; in families that norm the sum of stream and attention, of that sum."""
    ATTENTION_OUT_NORM = "norm of the attention output"
    """Of what attention writes, before it is added to the stream."""
    RELATIVE_BIAS = "bias by relative position"
    FEED_FORWARD_IN = "feed-forward in"
    FEED_FORWARD_GATE = "feed-forward gate"
    FEED_FORWARD_GATE_IN = "feed-forward gate and in, in one"
    FEED_FORWARD_OUT = "feed-forward out"
    FEED_FORWARD_NORM = "norm of the feed-forward layer"
    """As that of the attention."""
    FEED_FORWARD_OUT_NORM = "norm of the feed-forward output"
    CONVOLUTION = "convolution beside the first layer"
    """Over neighbouring tokens: its input is the first layer's, and its output is added to that layer's."""
    CONVOLUTION_NORM = "norm of the first layer with its convolution"
    ROUTER = "router"
    """From what a layer reads to the scores of its experts."""
    EXPERTS_GATE_IN = "gates and ins of the experts"
    """A tensor by itself, as the next one."""
    EXPERTS_OUT = "outs of the experts"
    FINAL_NORM = "final norm"
    POOLER = "pooler"
    """From the first token's state to what the classifier reads."""
    POOLER_NORM = "norm of the pooler"
    CLASSIFIER = "classifier"
    """The last layer of a head for classes."""
    HEAD = "head"
    """From the last hidden states to the logits of the vocabulary."""
    LOGITS_BIAS = "bias of the logits"
    """A tensor by itself, without a module."""

    @property
    def embeds(self) -> bool:
        """Whether it is of the embeddings, which are made anew where they are factorised."""
        return self in _OF_EMBEDDINGS

    @property
    def norms_what_is_read(self) -> bool:
        """Whether it is a norm through which layers or the head read, in families that norm before they read."""
        return self in (Role.ATTENTION_NORM, Role.FEED_FORWARD_NORM, Role.FINAL_NORM)

    def axes(self, leaf: str) -> tuple[Axis, ...]:
        """What stands along the axes of the module's `weight` or `bias`; of a tensor without a module, leaf is empty.

        A tensor that the role has not has no axes.
        """
        return _AXES[self].get(leaf, ())


_OF_EMBEDDINGS = frozenset(
    {
        Role.TOKEN_EMBEDDING,
        Role.POSITION_EMBEDDING,
        Role.TYPE_EMBEDDING,
        Role.EMBEDDING_NORM,
        Role.EMBEDDING_PROJECTION,
    }
)


def _map(rows: Axis, columns: Axis) -> dict[str, tuple[Axis, ...]]:
    """A linear map, whose bias is added to what it gives."""
    return {"weight": (rows, columns), "bias": (rows,)}


_NORM: dict[str, tuple[Axis, ...]] = {"weight": (Axis.SCALE,), "bias": (Axis.STREAM,)}
_AXES: dict[Role, dict[str, tuple[Axis, ...]]] = {
    Role.TOKEN_EMBEDDING: {"weight": (Axis.VOCABULARY, Axis.STREAM)},
    Role.POSITION_EMBEDDING: {"weight": (Axis.WHOLE, Axis.STREAM)},
    Role.TYPE_EMBEDDING: {"weight": (Axis.WHOLE, Axis.STREAM)},
    Role.EMBEDDING_NORM: _NORM,
    Role.EMBEDDING_PROJECTION: _map(Axis.WRITTEN, Axis.WHOLE),
    Role.RELATIVE_EMBEDDING: {"weight": (Axis.WHOLE, Axis.STREAM)},
    Role.RELATIVE_NORM: _NORM,
    Role.QUERY: _map(Axis.QUERIES, Axis.READ),
    Role.KEY: _map(Axis.KEYS, Axis.READ),
    Role.VALUE: _map(Axis.KEYS, Axis.READ),
    Role.QUERY_KEY_VALUE: _map(Axis.QUERIES_KEYS_VALUES, Axis.READ),
    Role.QUERY_KEY_VALUE_BY_HEAD: _map(Axis.OF_EACH_HEAD, Axis.READ),
    Role.QUERY_BIAS: {"": (Axis.QUERIES,)},
    Role.VALUE_BIAS: {"": (Axis.KEYS,)},
    Role.POSITION_QUERY: _map(Axis.QUERIES, Axis.READ),
    Role.POSITION_KEY: _map(Axis.KEYS, Axis.READ),
    Role.QUERY_NORM: {"weight": (Axis.WHOLE,)},
    Role.KEY_NORM: {"weight": (Axis.WHOLE,)},
    # Of fewer heads, each channel has the variance that it had: the root mean square is over those alone.
    Role.QUERIES_NORM: {"weight": (Axis.QUERIES,)},
    Role.KEYS_NORM: {"weight": (Axis.KEYS,)},
    Role.ATTENTION_OUT: _map(Axis.WRITTEN, Axis.QUERIES),
    Role.ATTENTION_NORM: _NORM,
    Role.ATTENTION_OUT_NORM: _NORM,
    Role.RELATIVE_BIAS: {"weight": (Axis.WHOLE, Axis.HEADS)},
    Role.FEED_FORWARD_IN: _map(Axis.UNITS, Axis.READ),
    Role.FEED_FORWARD_GATE: _map(Axis.UNITS, Axis.READ),
    Role.FEED_FORWARD_GATE_IN: _map(Axis.GATES_AND_UNITS, Axis.READ),
    Role.FEED_FORWARD_OUT: _map(Axis.WRITTEN, Axis.UNITS),
    Role.FEED_FORWARD_NORM: _NORM,
    Role.FEED_FORWARD_OUT_NORM: _NORM,
    Role.CONVOLUTION: {"weight": (Axis.WRITTEN, Axis.READ, Axis.WHOLE), "bias": (Axis.WRITTEN,)},
    Role.CONVOLUTION_NORM: _NORM,
    Role.ROUTER: {"weight": (Axis.EXPERTS, Axis.READ)},
    Role.EXPERTS_GATE_IN: {"": (Axis.EXPERTS, Axis.GATES_AND_UNITS, Axis.READ)},
    Role.EXPERTS_OUT: {"": (Axis.EXPERTS, Axis.WRITTEN, Axis.UNITS)},
    Role.FINAL_NORM: _NORM,
    Role.POOLER: _map(Axis.WRITTEN, Axis.READ),
    Role.POOLER_NORM: _NORM,
    Role.CLASSIFIER: _map(Axis.WHOLE, Axis.READ),
    Role.HEAD: _map(Axis.VOCABULARY, Axis.STREAM),
    Role.LOGITS_BIAS: {"": (Axis.WHOLE, Axis.VOCABULARY)},
}


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in its model, in words that all families share."""

    role: Role
    part: Part
    layer: int | None
    """Counted from 0; None of what is in no layer, or of one layer for all."""
    leaf: str
    """`weight` or `bias`; empty of a tensor without a module."""
