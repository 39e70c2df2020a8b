"""What of a teacher matters on a sample of its data: layers, channels, heads and feed-forward units, in one pass.

Layers by block influence, 1 - E[cos(x_i, x_i+1)]: how far a layer turns what it is given (ShortGPT, Men et al. 2024,
arXiv:2403.03853). All others by the size of their activations, the root mean square over tokens (Minitron, Muralidharan
et al. 2024, arXiv:2407.14679, which takes the mean over a sequence and the L2 norm over the batch).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.families import family_of, layers_of
from potstill.features import features_at, taking
from potstill.signals import Ask, Batch, Read, Signal


@dataclass(frozen=True)
class Importance:
    """Larger is more important; heads and units are those of each layer by itself."""

    layers: Float[Tensor, "layers"]
    channels: Float[Tensor, "width"]
    heads: Float[Tensor, "layers heads"]
    units: Float[Tensor, "layers units"]


def measure_importance(model: PreTrainedModel, batches: Iterable[Batch], ask: Ask) -> Importance:
    """The importance of a model's parts on these batches; of each token that counts."""
    family, layers = family_of(model), layers_of(model)
    reads = [Read(Signal.HIDDEN_STATES, number) for number in range(len(layers) + 1)]
    sums = _Sums(model.config.num_attention_heads)
    model.eval()
    for batch in batches:
        sums.tokens = batch.tokens
        handles = [
            layer.get_submodule(path).register_forward_pre_hook(sums.listener(what, number))
            for number, layer in enumerate(layers)
            for what, path in (("heads", family.attention_out), ("units", family.feed_forward_out))
        ]
        try:
            with torch.no_grad(), taking(model, frozenset(reads)) as taken:
                ask(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        features = features_at(taken, batch)
        for number, layer in enumerate(layers):
            given, made = features[reads[number]], features[reads[number + 1]]
            sums.add("layers", number, 1 - torch.cosine_similarity(given, made, dim=-1)[:, None])
            # As the layer reads it: after its norm, where that comes first.
            norm = layer.get_submodule(family.first_norm) if family.first_norm else None
            with torch.no_grad():
                sums.add("channels", number, (given if norm is None else norm(given)).square())
    size = range(len(layers))
    return Importance(
        layers=torch.cat([sums.mean("layers", number) for number in size]),
        channels=torch.stack([sums.mean("channels", number).sqrt() for number in size]).sum(dim=0),
        heads=torch.stack([sums.mean("heads", number).sqrt() for number in size]),
        units=torch.stack([sums.mean("units", number).sqrt() for number in size]),
    )


class _Sums:
    """Sums over tokens, by what is summed and its layer."""

    def __init__(self, heads: int) -> None:
        self.tokens: Tensor | None = None
        self._heads = heads
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, what: str, layer: int, values: Float[Tensor, "tokens size"]) -> None:
        key = (what, layer)
        self._sums[key] = self._sums.get(key, 0) + values.double().sum(dim=0)
        self._counts[key] = self._counts.get(key, 0) + len(values)

    def mean(self, what: str, layer: int) -> Float[Tensor, "size"]:
        return (self._sums[what, layer] / max(1, self._counts[what, layer])).float()

    def listener(self, what: str, layer: int) -> Any:
        def listen(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert self.tokens is not None
            squares = given[0][self.tokens].square()
            if what == "heads":
                squares = squares.reshape(len(squares), self._heads, -1).mean(dim=-1)
            self.add(what, layer, squares)

        return listen
