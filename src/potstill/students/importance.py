"""What of a teacher matters on a sample of its data: layers, channels, heads and feed-forward units, in one pass.

Layers by block influence, 1 - E[cos(x_i, x_i+1)]: how far a layer turns what it is given (ShortGPT, Men et al. 2024,
arXiv:2403.03853). All others by the size of their activations, the root mean square over tokens (Minitron, Muralidharan
et al. 2024, arXiv:2407.14679, which takes the mean over a sequence and the L2 norm over the batch).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.features import capture_features, features_at
from potstill.models import Part, Size, family_of, layers_of
from potstill.signals import Ask, Batch, Read, Signal


@dataclass(frozen=True)
class OfExperts:
    """What matters of the experts of a layer."""

    tokens: Float[Tensor, "experts"]
    """How many were sent to each."""
    units: Float[Tensor, "experts units"]
    """Of the tokens that were; zero in an expert that had none."""


@dataclass(frozen=True)
class Importance:
    """Larger is more important; heads and units are those of each layer by itself."""

    layers: Mapping[Part, Float[Tensor, "layers"]]
    """Of each stack."""
    channels: Float[Tensor, "width"]
    """Of the stream, which all stacks share."""
    heads: Mapping[Part, Float[Tensor, "layers heads"]]
    """Of each attention: a decoder with an encoder has two."""
    units: Mapping[Part, Float[Tensor, "layers units"]]
    """Zero in layers of experts."""
    experts: Mapping[int, OfExperts] = field(default_factory=dict)
    """Of each layer that has them."""


def measure_importance(model: PreTrainedModel, batches: Iterable[Batch], ask: Ask) -> Importance:
    """The importance of a model's parts on these batches; of each token that counts."""
    family = family_of(model.config)
    stacks, attentions = family.layer_stacks, tuple(family.stacks)
    states = {part: _states_of(model, part) for part in stacks}
    sums = _Sums(family.size(model.config, Size.HEADS))
    watched = [(part, "heads", family.stack(part).attention_out) for part in attentions]
    watched += [(part, "units", family.stack(part).feed_forward_out) for part in stacks]
    routed = _layers_with_experts(model)
    model.eval()
    for batch in batches:
        sums.batch = batch
        handles = [
            layer.get_submodule(path).register_forward_pre_hook(sums.listener(what, part, number))
            for part, what, path in watched
            for number, layer in enumerate(layers_of(model, part))
            if not (what == "units" and number in routed)
        ]
        handles += [
            module.register_forward_pre_hook(sums.listener_of_experts(layer)) for layer, module in routed.items()
        ]
        try:
            with torch.no_grad(), capture_features(model, frozenset(chain(*states.values()))) as taken:
                ask(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        features = features_at(taken, batch)
        for part, reads in states.items():
            first_norm = family.stack(part).first_norm
            for number, (layer, (before, after)) in enumerate(
                zip(layers_of(model, part), pairwise(reads), strict=True)
            ):
                given, made = features[before], features[after]
                sums.add("layers", part, number, 1 - torch.cosine_similarity(given, made, dim=-1)[:, None])
                # As the layer reads it: after its norm, where that comes first.
                norm = layer.get_submodule(first_norm) if first_norm else None
                with torch.no_grad():
                    sums.add("channels", part, number, (given if norm is None else norm(given)).square())
    return Importance(
        layers={part: torch.cat(sums.means("layers", part)) for part in stacks},
        channels=torch.stack([mean.sqrt() for part in stacks for mean in sums.means("channels", part)]).sum(dim=0),
        heads={part: torch.stack(sums.means("heads", part)).sqrt() for part in attentions},
        units={part: _units(sums.means("units", part), len(layers_of(model, part)), routed) for part in stacks},
        experts={layer: sums.of_experts(layer, len(module.gate_up_proj)) for layer, module in routed.items()},
    )


def _states_of(model: PreTrainedModel, part: Part) -> list[Read]:
    """What goes into each layer of a stack, and what comes out of the last one."""
    return [Read(Signal.HIDDEN_STATES, number, part=part) for number in range(len(layers_of(model, part)) + 1)]


def _layers_with_experts(model: PreTrainedModel) -> dict[int, Any]:
    """The experts of each layer that has them."""
    family = family_of(model.config)
    if (path := family.stack(family.layer_stacks[0]).experts) is None:
        return {}
    dense = set(family.dense_layers(model.config))
    layers = enumerate(layers_of(model, family.layer_stacks[0]))
    return {number: layer.get_submodule(path) for number, layer in layers if number not in dense}


def _units(means: list[Float[Tensor, "units"]], layers: int, routed: Collection[int]) -> Float[Tensor, "layers units"]:
    """Of each layer the roots of its means, which are those of the layers without experts in their order."""
    given = iter(means)
    nothing = means[0].new_zeros(len(means[0])) if means else torch.zeros(0)
    return torch.stack([nothing if layer in routed else next(given) for layer in range(layers)]).sqrt()


class _Sums:
    """Sums over tokens, by what is summed, its stack and its layer."""

    def __init__(self, heads: int) -> None:
        self.batch: Batch | None = None
        self._heads = heads
        self._sums: dict[tuple[str, Part, int], Tensor] = {}
        self._counts: dict[tuple[str, Part, int], int] = {}

    def add(self, what: str, part: Part, layer: int, values: Float[Tensor, "tokens size"]) -> None:
        key = (what, part, layer)
        self._sums[key] = self._sums.get(key, 0) + values.double().sum(dim=0)
        self._counts[key] = self._counts.get(key, 0) + len(values)

    def means(self, what: str, part: Part) -> list[Float[Tensor, "size"]]:
        """Of each layer, the lowest first."""
        keys = sorted(key for key in self._sums if key[:2] == (what, part))
        return [(self._sums[key] / max(1, self._counts[key])).float() for key in keys]

    def listener(self, what: str, part: Part, layer: int) -> Any:
        def listen(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert self.batch is not None
            squares = given[0][self.batch.tokens_of(part)].square()
            if what == "heads":
                squares = squares.reshape(len(squares), self._heads, -1).mean(dim=-1)
            self.add(what, part, layer, squares)

        return listen

    def listener_of_experts(self, layer: int) -> Any:
        """Hears what goes into the last matrix of each expert, of the tokens that are sent to it."""

        def listen(module: Any, given: tuple[Tensor, ...]) -> None:
            assert self.batch is not None
            hidden, chosen = given[:2]
            counted = self.batch.tokens_of(Part.ONLY).reshape(-1)
            for expert, matrix in enumerate(module.gate_up_proj):
                sent = hidden[counted & (chosen == expert).any(dim=-1)]
                gates, units = nn.functional.linear(sent, matrix).chunk(2, dim=-1)
                self.add(_expert(expert), Part.ONLY, layer, (module.act_fn(gates) * units).square())

        return listen

    def of_experts(self, layer: int, count: int) -> OfExperts:
        keys = [(_expert(number), Part.ONLY, layer) for number in range(count)]
        tokens = torch.tensor([self._counts[key] for key in keys], dtype=torch.float32)
        means = [self._sums[key] / max(1, self._counts[key]) for key in keys]
        return OfExperts(tokens, torch.stack(means).float().sqrt())


def _expert(number: int) -> str:
    return f"units of expert {number}"
