"""An encoder-decoder as two graphs.

The encoder's reads sources, and gives the keys and values of them that each layer of the decoder looks at, so that they
are computed once. The decoder's reads any number of tokens after those whose keys and values it is given: a whole
target at once, or one token after the other. It gives the logits of the next tokens, and the keys and values of all.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from potstill.exporters.exporter import Source, ends_of
from potstill.exporters.tracing import opened, traced, write_beside

Named = dict[str, Tensor]
KINDS = ("key", "value")
ROWS, SOURCE, PAST, NEW = 2, 13, 7, 3
"""Of what is traced. Sizes that are one, or equal another, are taken to be so always."""

Save = Callable[[Mapping[str, Any], Path], tuple[str, str]]
"""Writes the graphs called `encoder` and `decoder` into a folder, and gives the names of their files."""


def write_graphs(
    exporter: Any, config: Any, source: Source, target: Path, *, save: Save, own_head: bool = False, **about: Any
) -> None:
    """Both graphs, and all that lies beside them.

    With `own_head` a head that is also the table of embeddings is traced as a matrix of its own.

    Raises:
        ModelError: the model cannot be traced.
    """
    # Whose scores can have numbers added, as masks and the biases of T5 are.
    model = opened(source, "eager")
    with traced(source, model, about["kind"]), _apart(model) if own_head else nullcontext():
        encoder, decoder = _Encoder(model), _Decoder(model)
        sources = _sources(model)
        tokens = _tokens_after(encoder, sources, model)
        written = {
            name: exporter.export_program(
                graph, dict(inputs), config=dataclasses.replace(config, dynamic_shapes=_shapes(inputs))
            )[0]
            for name, graph, inputs in (("encoder", encoder, sources), ("decoder", decoder, tokens))
        }
        encoder_file, decoder_file = save(written, target)
    described = source.described(
        model,
        inputs=tuple(sources),
        model_file=decoder_file,
        encoder_file=encoder_file,
        start_token=int(model.config.decoder_start_token_id),
        end_tokens=tuple(ends_of(model, source.tokenizer)),
        # Sources are cut there, whatever the tokenizer does.
        truncation_side="right",
        **about,
    )
    write_beside(source, described, target)


@contextmanager
def _apart(model: PreTrainedModel) -> Iterator[None]:
    """Within, the head has a weight of its own."""
    head = model.get_output_embeddings()
    tied = head.weight
    head.weight = nn.Parameter(tied.detach().clone(), requires_grad=False)
    try:
        yield
    finally:
        head.weight = tied


class _Encoder(nn.Module):
    """From sources to `cross_key_<layer>` and `cross_value_<layer>`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "rows source"], attention_mask: Int[Tensor, "rows source"]
    ) -> dict[str, Float[Tensor, "rows heads source size"]]:
        seen = _added(attention_mask[:, None, None, :].bool())
        memory = self.model.get_encoder()(input_ids=input_ids, attention_mask=seen).last_hidden_state
        kept = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for cache in (kept.self_attention_cache, kept.cross_attention_cache):
            cache.layer_class_to_replicate = _Kept
        # Of what the decoder computes beside them nothing is left in the graph.
        self.model.get_decoder()(
            input_ids=input_ids[:, :1],
            attention_mask=seen[:, :, :, :1],
            encoder_hidden_states=memory,
            encoder_attention_mask=seen,
            past_key_values=kept,
            use_cache=True,
        )
        return _named("cross", kept.cross_attention_cache)


class _Decoder(nn.Module):
    """From tokens, `cross_*` of their sources and `past_*` of the tokens before to `logits` and `present_*`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "rows new"], attention_mask: Int[Tensor, "rows source"], **states: Tensor
    ) -> Named:
        cross, past = _cache("cross", states), _cache("past", states)
        kept = EncoderDecoderCache(past, cross)
        kept.is_updated = dict.fromkeys(range(len(cross.layers)), True)
        before = states["past_key_0"].shape[2]
        places = torch.arange(before + input_ids.shape[1], device=input_ids.device)
        told = self.model(
            # Not read, for the keys and values of sources are known; that it is there says that they are looked at.
            encoder_outputs=BaseModelOutput(last_hidden_state=states["cross_key_0"]),
            attention_mask=_added(attention_mask[:, None, None, :].bool()),
            decoder_input_ids=input_ids,
            decoder_attention_mask=_added((places[None, :] <= places[before:, None])[None, None]),
            past_key_values=kept,
            use_cache=True,
        )
        return {"logits": told.logits, **_named("present", kept.self_attention_cache)}


class _Kept(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer that has none before: joined to nothing, they would not be traced as they are."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states


def _added(seen: Bool[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """What is added to scores of attention, so that only what is seen counts."""
    return (~seen).to(torch.float32) * torch.finfo(torch.float32).min


def _cache(name: str, states: Mapping[str, Tensor]) -> DynamicCache:
    cache = DynamicCache()
    for number in range(len(states) // 4):
        layer = DynamicLayer()
        layer.keys, layer.values = (states[f"{name}_{kind}_{number}"] for kind in KINDS)
        layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
        cache.layers.append(layer)
    return cache


def _named(name: str, cache: DynamicCache) -> Named:
    return {
        f"{name}_{kind}_{number}": states
        for number, layer in enumerate(cache.layers)
        for kind, states in zip(KINDS, (layer.keys, layer.values), strict=True)
    }


def _sources(model: PreTrainedModel) -> Named:
    """Two of them, the second shorter."""
    mask = torch.ones((ROWS, SOURCE), dtype=torch.int64)
    mask[1, SOURCE // 2 :] = 0
    return {"input_ids": _ids(model, SOURCE), "attention_mask": mask}


def _tokens_after(encoder: nn.Module, sources: Named, model: PreTrainedModel) -> Named:
    """Some tokens of targets after others, whatever these were."""
    with torch.no_grad():
        cross: Named = encoder(**sources)
    past = {
        name.replace("cross", "past"): torch.zeros((*states.shape[:2], PAST, states.shape[3]))
        for name, states in cross.items()
    }
    return {"input_ids": _ids(model, NEW), "attention_mask": sources["attention_mask"], **cross, **past}


def _ids(model: PreTrainedModel, length: int) -> Int[Tensor, "rows length"]:
    vocabulary: int = model.config.vocab_size
    return torch.arange(ROWS * length).reshape(ROWS, length) % vocabulary


def _shapes(inputs: Named) -> dict[str, dict[int, Any]]:
    """The axes that differ from one question to the next: rows and tokens."""
    tokens = {2: 1, 4: 2}
    return {name: {0: Dim.AUTO, tokens[each.ndim]: Dim.AUTO} for name, each in inputs.items()}
