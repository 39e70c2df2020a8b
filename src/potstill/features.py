"""Taking hidden states, attention maps and relations out of a model's forward pass: of chosen layers, and no others.

Hidden states come from hooks. Maps come from an attention function of our own, which sees queries and keys as they are
multiplied, with the mask that is used: so rotary positions, grouped heads, causality and packed examples are right
without a word about them here. It adds to the attention that the model would use anyway, which stays as fast as it is.
Of families that have no such function, such as DeBERTa, maps come from hooks too.

Maps are made of what was seen once the pass is over. A layer whose activations are computed again in the backward pass
must do the same both times, and by then nobody listens to it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from potstill.divergences import at_least_float32
from potstill.errors import ModelError
from potstill.models import (
    OwnAttention,
    Part,
    attention_of,
    beside_first_of,
    family_of,
    final_norm_of,
    layers_of,
    stack_of,
)
from potstill.signals import Batch, Features, Read, Signal

ATTENTION = "potstill_sdpa"
"""The name under which transformers knows the attention function of this module."""

_Vectors = Float[Tensor, "rows heads length size"]
_Map = Float[Tensor, "rows heads queries keys"]
_Sink = Callable[["_Attended"], None]
_sinks: dict[nn.Module, _Sink] = {}
"""Who listens to which attention module, for the time of one forward pass."""


class _Attended:
    """One call of an attention module: what is multiplied, and which keys each query sees."""

    def __init__(
        self,
        vectors: Mapping[Signal, _Vectors],
        mask: Tensor | None,
        bias: Tensor | None,
        scaling: float,
        causal: bool,
    ) -> None:
        self._vectors = vectors
        self._mask = mask
        self._bias = bias
        self._scaling = scaling
        self._causal = causal

    def attention(self) -> _Map:
        """The attention maps as log-probabilities, before dropout."""
        query, key = (at_least_float32(self._vectors[each]) for each in (Signal.QUERY_RELATION, Signal.KEY_RELATION))
        groups = query.shape[1] // key.shape[1]
        with torch.autocast(query.device.type, enabled=False):
            scores = query @ key.repeat_interleave(groups, dim=1).transpose(2, 3) * self._scaling
        return self._softened(scores if self._bias is None else scores + self._bias)

    def relation(self, of: Signal, heads: int) -> _Map:
        """The log of softmax(a a^T / sqrt(d)) for vectors a of width d, cut anew into so many heads.

        Source: Wang et al. 2021, MiniLMv2, arXiv:2012.15828, section 3.

        Raises:
            ModelError: the width of all heads together is no multiple of `heads`.
        """
        vectors = at_least_float32(self._vectors[of])
        rows, own, length, size = vectors.shape
        if own * size % heads:
            raise ModelError(
                f"relations: {of.value} has {own} heads of {size}, {own * size} channels that cannot be cut into "
                f"{heads} relation heads. Choose a number that divides them."
            )
        cut = vectors.transpose(1, 2).reshape(rows, length, heads, -1).transpose(1, 2)
        with torch.autocast(cut.device.type, enabled=False):
            scores = cut @ cut.transpose(2, 3) * cut.shape[3] ** -0.5
        return self._softened(scores)

    def _softened(self, scores: _Map) -> _Map:
        # Not minus infinity: a padded query may see nothing, and NaN times a weight of zero is NaN.
        least = torch.finfo(scores.dtype).min / 2
        if self._mask is not None and self._mask.dtype == torch.bool:
            scores = scores.masked_fill(~self._mask[..., : scores.shape[-1]], least)
        elif self._mask is not None:
            scores = (scores + self._mask[..., : scores.shape[-1]]).clamp(min=least)
        if self._causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, least)
        return torch.log_softmax(scores, dim=-1)


def _by_signal(query: Tensor, key: Tensor, value: Tensor) -> dict[Signal, Tensor]:
    """Each as rows x heads x length x size; keys and values may have fewer heads, and another length, than queries."""
    return {Signal.QUERY_RELATION: query, Signal.KEY_RELATION: key, Signal.VALUE_RELATION: value}


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' scaled dot-product attention; who listens to the module hears what it multiplies."""
    sink = _sinks.get(module)
    if sink is not None:
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        sink(
            _Attended(
                _by_signal(query, key, value),
                attention_mask,
                position_bias,
                query.shape[-1] ** -0.5 if scaling is None else scaling,
                # As in sdpa_attention_forward: a mask that is given says all.
                causal and attention_mask is None and query.shape[2] > 1,
            )
        )
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=position_bias,
        **others,
    )
    return output


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class CapturedFeatures:
    """What was captured in a forward pass, of all tokens."""

    def __init__(self) -> None:
        self._whole: dict[Read, Tensor] = {}
        self._made_at_the_end: dict[Read, Callable[[], Tensor]] = {}

    def put(self, read: Read, feature: Tensor) -> None:
        self._whole[read] = feature

    def put_later(self, read: Read, make: Callable[[], Tensor]) -> None:
        """What a feature is made by once the pass is over."""
        self._made_at_the_end[read] = make

    def finish(self) -> None:
        """Make what is left to make."""
        self._whole |= {read: make() for read, make in self._made_at_the_end.items()}
        self._made_at_the_end.clear()

    def at(self, tokens: Bool[Tensor, "rows length"]) -> Features:
        """The features of these tokens alone, row by row: of maps, the tokens are the queries."""
        return {read: self.of(read, tokens) for read in self._whole}

    def of_batch(self, batch: Batch) -> Features:
        """The features of the tokens that count in a batch."""
        return {read: self.of(read, batch.tokens_of(read.part)) for read in self._whole}

    def of(self, read: Read, tokens: Bool[Tensor, "rows length"]) -> Tensor:
        """One feature of these tokens."""
        feature = self._whole[read]
        tokens = tokens.to(feature.device)
        return feature[tokens] if read.signal is Signal.HIDDEN_STATES else feature.transpose(1, 2)[tokens]


@contextmanager
def capture_features(model: PreTrainedModel, reads: frozenset[Read]) -> Iterator[CapturedFeatures]:
    """Within it, a forward pass of the model leaves what is read; nothing stays on the model afterwards.

    Raises:
        ModelError: a family whose layers are not known, or whose attention cannot be listened to.
    """
    captured = CapturedFeatures()
    with ExitStack() as stack:
        maps: dict[tuple[Part, int], list[Read]] = {}
        for read in sorted(reads):
            if read.signal is Signal.HIDDEN_STATES:
                stack.callback(_hook(model, read, captured).remove)
            elif (own := stack_of(model, read.part).own_attention) is not None:
                stack.callback(_hook_within(model, read, own, captured).remove)
            else:
                maps.setdefault((read.part, read.layer), []).append(read)
        if maps:
            stack.enter_context(_listening(model, maps, captured))
        yield captured
    captured.finish()


def _hook(model: PreTrainedModel, read: Read, captured: CapturedFeatures) -> torch.utils.hooks.RemovableHandle:
    layers, beside_first = layers_of(model, read.part), beside_first_of(model, read.part)
    if not 0 <= read.layer <= len(layers):
        raise ModelError(f"hidden state {read.layer} of a model of {len(layers)} layers; expected 0 to {len(layers)}.")
    norm = final_norm_of(model, read.part) if read.normed and read.layer == len(layers) else None

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        captured.put(read, given[0] if given else named["hidden_states"])

    def after(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        captured.put(read, output[0] if isinstance(output, tuple) else output)

    if norm is not None:
        return norm.register_forward_hook(after)
    if read.layer == 0:
        return layers[0].register_forward_pre_hook(before, with_kwargs=True)
    if read.layer == 1 and beside_first is not None:
        return beside_first.register_forward_hook(after)
    return layers[read.layer - 1].register_forward_hook(after)


def _hook_within(
    model: PreTrainedModel, read: Read, own: OwnAttention, captured: CapturedFeatures
) -> torch.utils.hooks.RemovableHandle:
    """A map of attention that no attention function computes, or a relation of what it multiplies."""

    def maps(module: nn.Module, given: tuple[Any, ...]) -> None:
        captured.put_later(read, partial(_logs, given[0]))

    def relation(module: nn.Module, given: tuple[Any, ...]) -> None:
        states, mask = given[:2]

        def made() -> _Map:
            attended = _Attended(_by_signal(*own.vectors(module, states)), mask.bool(), None, 1.0, causal=False)
            return attended.relation(read.signal, read.heads)

        captured.put_later(read, made)

    if read.signal is not Signal.ATTENTION:
        return attention_of(model, read.layer - 1, read.part).register_forward_pre_hook(relation)
    layer = layers_of(model, read.part)[read.layer - 1]
    return layer.get_submodule(own.probabilities).register_forward_pre_hook(maps)


def _logs(probabilities: _Map) -> _Map:
    probabilities = at_least_float32(probabilities)
    least = torch.finfo(probabilities.dtype)
    # Where nothing is seen, as in what other attention leaves.
    logs = probabilities.clamp(min=least.tiny).log()
    return logs.masked_fill(probabilities == 0, least.min / 2)


@contextmanager
def _listening(
    model: PreTrainedModel, maps: Mapping[tuple[Part, int], list[Read]], captured: CapturedFeatures
) -> Iterator[None]:
    """Attention of the layers `maps`, counted from 1, leaves their maps."""
    config = model.config
    if (reason := family_of(config).without_maps) is not None:
        raise ModelError(
            f"attention maps and relations of {config.model_type} models cannot be read: {reason}. Leave these losses "
            "out."
        )
    usual = config._attn_implementation
    if usual != "sdpa":
        raise ModelError(
            f"attention maps and relations are read beside scaled dot-product attention, and this {config.model_type} "
            f"model uses {usual!r}. Load it with attn_implementation='sdpa', or leave these losses out."
        )

    def sink_of(reads: list[Read]) -> _Sink:
        def sink(attended: _Attended) -> None:
            for read in reads:
                if read.signal is Signal.ATTENTION:
                    captured.put_later(read, attended.attention)
                else:
                    captured.put_later(read, partial(attended.relation, read.signal, read.heads))

        return sink

    modules = {attention_of(model, layer - 1, part): sink_of(reads) for (part, layer), reads in maps.items()}
    configs = [config, *(_stack_config(model, part) for part in {part for part, _ in maps} - {Part.ONLY})]
    _sinks.update(modules)
    # The attribute behind `set_attn_implementation`, which walks the whole model: this is done in every step.
    for each in configs:
        each._attn_implementation_internal = ATTENTION
    try:
        yield
    finally:
        for each in configs:
            each._attn_implementation_internal = usual
        for module in modules:
            del _sinks[module]


def _stack_config(model: PreTrainedModel, part: Part) -> Any:
    """The configuration that a stack reads: of some models a copy of the whole model's."""
    return model.base_model.get_submodule(stack_of(model, part).layers.rpartition(".")[0]).config


def features_at(captured: CapturedFeatures, batch: Batch) -> Features:
    """The features of the tokens that count in a batch, in float32 at least."""
    return {read: at_least_float32(feature) for read, feature in captured.of_batch(batch).items()}
