"""What is known of a family of models: where its parts lie, the role of each tensor, its sizes, and what it can.

A family says it; nothing here or there reads a model's weights. All names are whole: what no name covers has no role.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models.roles import Part, Role, Slot


class Kind(StrEnum):
    """How a family reads, in the words of messages."""

    ENCODER = "an encoder"
    DECODER = "a decoder"
    ENCODER_DECODER = "an encoder-decoder"


class Size(StrEnum):
    """Sizes that students have fewer of, or dropout, by the names of a recipe; and the size of a head."""

    LAYERS = "layers"
    """Of encoder-decoders, the encoder's."""
    DECODER_LAYERS = "decoder_layers"
    WIDTH = "width"
    HEADS = "heads"
    KEY_VALUE_HEADS = "key_value_heads"
    HEAD = "head"
    """Channels of a head, where heads times their size need not be the width."""
    INTERMEDIATE = "intermediate"
    """Of models with experts, each expert's."""
    DENSE_INTERMEDIATE = "dense_intermediate"
    """Of models with experts, that of layers which have none."""
    EXPERTS = "experts"
    EMBEDDING = "embedding"
    """Channels of factorised embeddings."""
    DROPOUT = "dropout"


class Positions(StrEnum):
    """How a model knows where a token stands."""

    COMPUTED = "computed"
    LEARNT = "learnt"
    LEARNT_AFTER_PADDING = "learnt after padding"
    """Counted from the id of the padding token, so that the first positions are never used."""
    LEARNT_WHERE_SAID = "learnt where said"
    """Where `position_biased_input` is true; else all that is known of positions is how far they are apart."""
    SINUSOIDAL = "sinusoidal"
    """In a table that follows from the model's width, and is made anew where a model is loaded."""


class Gain(StrEnum):
    """Where a factor of sqrt(teacher / student) makes up for the channels that a narrower stream lacks."""

    READS = "reads"
    """In matrices that read the stream within layers, and in classifiers."""
    NORMS = "norms"
    """In the norms through which the stream is read."""
    NORMS_OF_PRUNED = "norms of pruned"
    """There, but only where the most important channels were kept."""


@dataclass(frozen=True, eq=False)
class OwnAttention:
    """Attention that is computed within its module, and not by a function that transformers could have another for."""

    probabilities: str
    """Within a layer: the module that is given the attention maps, before dropout."""
    vectors: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, Tensor]]
    """Queries, keys and values of each head, of an attention module and the hidden states that it is given."""


@dataclass(frozen=True, eq=False)
class Stack:
    """A stack of layers, or the second attention of one. Names go from the base model (without a head) downwards."""

    layers: str
    attention: str
    """Within a layer: the module that calls the attention function."""
    inside: Mapping[str, Role]
    """Within a layer: modules by their whole names."""
    around: Mapping[str, Role] = field(default_factory=dict)
    """What belongs to the stack and is in no layer, or in one for all: its final norm, T5's bias by position."""
    pre_norm: bool = False
    """Whether layers read the stream through norms; else they norm what they add to it."""
    one_choice_of_heads: bool = False
    """Whether all layers must keep the same heads."""
    beside_first: str | None = None
    """What the first layer's output goes through, together with its input, in those models that have it."""
    own_attention: OwnAttention | None = None
    """None where an attention function computes it."""
    first_is_kept: str | None = None
    """Why a student must have the first layer, as the end of a sentence; None where it need not."""

    @property
    def attention_out(self) -> str:
        """Within a layer: the map from all heads back to the stream."""
        return self._of(Role.ATTENTION_OUT)

    @property
    def feed_forward_out(self) -> str:
        """Within a layer: the map from the feed-forward units back to the stream."""
        return self._of(Role.FEED_FORWARD_OUT)

    @property
    def experts(self) -> str | None:
        """Within a layer that has them: the module whose tensors are the experts."""
        found = next((name for name, role in self.inside.items() if role is Role.EXPERTS_OUT), None)
        return None if found is None else found.rpartition(".")[0]

    @property
    def first_norm(self) -> str | None:
        """Within a layer: what its input goes through before it is read."""
        return self._of(Role.ATTENTION_NORM) if self.pre_norm else None

    @property
    def final_norm(self) -> str | None:
        """What the last layer's output goes through; None where each layer ends with a norm of its own."""
        return next((name for name, role in self.around.items() if role is Role.FINAL_NORM), None)

    def _of(self, role: Role) -> str:
        return next(name for name, each in self.inside.items() if each is role)


@dataclass(frozen=True, eq=False)
class Experts:
    """Of families in whose feed-forward layers a router chooses a few of several experts for each token."""

    used: str
    """The configuration's name for how many it chooses."""
    dense_layers: Callable[[PretrainedConfig], Collection[int]]
    """The layers that have one feed-forward layer for all tokens, as those of other families."""
    with_dense_layers: Callable[[Collection[int]], Mapping[str, Any]]
    """How a configuration says which those are."""


@dataclass(frozen=True, eq=False)
class Family:
    """A family, by the name that configurations have for it."""

    name: str
    kind: Kind
    stacks: Mapping[Part, Stack]
    base: str
    """The attribute of the base model in one with a head, with which names of its tensors begin; empty of none."""
    outside: Mapping[str, Role]
    """Modules outside of the base model by their whole names: heads. Of a tensor without a module, its name."""
    sizes: Mapping[Size, tuple[str, ...]]
    """The configuration's names for each size; where there are two, their values must agree."""
    config_fields: Mapping[str, str]
    """What a configuration of another family of this kind takes over, by a name that these share."""
    base_modules: Mapping[str, Role] = field(default_factory=dict)
    """Modules of the base model that are of no stack, such as embeddings that two share."""
    gain: Gain = Gain.READS
    laid_out_as: str = ""
    """The family whose weights are the same in other words; by default none but its own."""
    positions: Positions = Positions.COMPUTED
    teaches: bool = True
    """Whether students are cut from it; not of a family that only a student can have."""
    factorised_as: str | None = None
    """The family of students whose embeddings are factorised."""
    takes_token_types: bool = True
    """False where a model refuses the `token_type_ids` that the tokenizers of its teachers give."""
    not_taken_over: Mapping[str, Any] = field(default_factory=dict)
    """What a configuration that is made from another family's must say beside what it takes over."""
    not_cut: Callable[[PretrainedConfig], str | None] = lambda config: None
    """Why no student can be cut of a model of this configuration; None where one can."""
    own_head: Callable[[PretrainedConfig], bool] = lambda config: False
    """Whether the head is a matrix of its own, though transformers says of all such models that it is tied."""
    said_by_sizes: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """The same, of what depends on its sizes, which are given in its own words."""
    of_others: bool = True
    """Whether students of other families' teachers can be of it."""
    usual_sizes: Mapping[Size, Callable[[PretrainedConfig], int]] = field(default_factory=dict)
    """Sizes that a configuration may leave out, as the model then has them."""
    inputs_first: bool = False
    """Whether the matrices of layers have what they read along their first axis, as `Conv1D` has."""
    experts: Experts | None = None
    norms_around_one: bool = False
    """Whether norms multiply by `1 + weight`."""
    embedding_scale: Callable[[PretrainedConfig], float] | None = None
    """What the model multiplies its embeddings by, where that depends on its sizes."""
    without_maps: str | None = None
    """Why attention maps and relations cannot be read; None where they can."""

    @property
    def layout(self) -> str:
        return self.laid_out_as or self.name

    @property
    def layer_stacks(self) -> tuple[Part, ...]:
        """The stacks that have layers of their own."""
        return tuple(part for part in self.stacks if part is not Part.CROSS)

    def stack(self, part: Part) -> Stack:
        """Raises ModelError: the family has no such stack."""
        if part not in self.stacks:
            known = ", ".join(self.stacks)
            raise ModelError(f"model family {self.name!r}: it has no stack {part.value!r}; those that it has: {known}.")
        return self.stacks[part]

    def has(self, role: Role) -> bool:
        """Whether its models have a module of this role outside of their layers."""
        return any(each is role for each, _ in self._outside_layers.values())

    def slot(self, name: str) -> Slot | None:
        """The place of a parameter or buffer of a model with a head; None of one that no name here covers."""
        module, _, leaf = name.rpartition(".")
        for whole, of_tensor in ((module, leaf), (name, "")):
            if (found := self._outside_layers.get(whole)) is not None and found[0].axes(of_tensor):
                return Slot(*found, None, of_tensor)
        if (place := self.layer_of(name)) is None:
            return None
        stack, layer, inner = place
        module, _, leaf = inner.rpartition(".")
        for part in self._attentions(stack):
            for whole, of_tensor in ((module, leaf), (inner, "")):
                role = self.stacks[part].inside.get(whole)
                if role is not None and role.axes(of_tensor):
                    return Slot(role, part, layer, of_tensor)
        return None

    def name_of(self, slot: Slot) -> str:
        """The name of a tensor in this family's models; of a role that it has not, the role's."""
        modules = self.stacks[slot.part].inside if slot.part in self.stacks and slot.layer is not None else {}
        for module, role in modules.items():
            if role is slot.role:
                return f"{self._in_base(self.stacks[slot.part].layers)}.{slot.layer}.{module}.{slot.leaf}".rstrip(".")
        for module, place in self._outside_layers.items():
            if place == (slot.role, slot.part):
                return f"{module}.{slot.leaf}".rstrip(".")
        return slot.role.value

    def layer_of(self, name: str) -> tuple[Part, int, str] | None:
        """The stack and layer in which a tensor lies, and its name within that layer."""
        for part in self.layer_stacks:
            beginning = f"{self._in_base(self.stacks[part].layers)}."
            number, _, inner = name.removeprefix(beginning).partition(".")
            if name.startswith(beginning) and number.isdecimal():
                return part, int(number), inner
        return None

    @cached_property
    def _outside_layers(self) -> Mapping[str, tuple[Role, Part]]:
        found = {name: (role, Part.ONLY) for name, role in self.outside.items()}
        found |= {self._in_base(name): (role, Part.ONLY) for name, role in self.base_modules.items()}
        for part, stack in self.stacks.items():
            found |= {self._in_base(name): (role, part) for name, role in stack.around.items()}
        return found

    def _attentions(self, stack: Part) -> tuple[Part, ...]:
        """The parts whose modules lie in the layers of a stack."""
        return (stack, Part.CROSS) if stack is Part.DECODER and Part.CROSS in self.stacks else (stack,)

    def _in_base(self, name: str) -> str:
        return f"{self.base}.{name}" if self.base else name

    def size(self, config: PretrainedConfig, size: Size) -> int:
        """One of a configuration's sizes."""
        if (stated := getattr(config, self.sizes[size][0])) is None and size in self.usual_sizes:
            return self.usual_sizes[size](config)
        return int(stated)

    def dense_layers(self, config: PretrainedConfig) -> Collection[int]:
        """The layers without experts."""
        return range(self.size(config, Size.LAYERS)) if self.experts is None else self.experts.dense_layers(config)

    def idle_parameters(self, config: PretrainedConfig) -> int | None:
        """The weights of experts that a token does not use; None of models without experts."""
        if self.experts is None:
            return None
        layers = self.size(config, Size.LAYERS) - len(self.experts.dense_layers(config))
        idle = self.size(config, Size.EXPERTS) - getattr(config, self.experts.used)
        # Three matrices each: gates, units, and what they write.
        return int(layers * idle * 3 * self.size(config, Size.WIDTH) * self.size(config, Size.INTERMEDIATE))

    def layer_kinds(self, config: PretrainedConfig) -> list[str]:
        """Of each layer, in what it differs from others by the configuration; empty where all are alike."""
        seen = getattr(config, "layer_types", None)
        kinds: list[str] = list(seen) if isinstance(seen, list) else []
        dense = set(self.dense_layers(config))
        if self.experts is None or not dense:
            return kinds
        layers = range(self.size(config, Size.LAYERS))
        kinds = kinds or [""] * len(layers)
        return [f"{kinds[layer]} {'dense' if layer in dense else 'experts'}".strip() for layer in layers]

    def layer_counts(self, config: PretrainedConfig) -> Mapping[Part, int]:
        """How many layers each stack has."""
        sizes = (Size.LAYERS, Size.DECODER_LAYERS)[: len(self.layer_stacks)]
        return {part: self.size(config, size) for part, size in zip(self.layer_stacks, sizes, strict=True)}

    def head_size(self, config: PretrainedConfig) -> int:
        """Channels of a head."""
        own = getattr(config, self.sizes[Size.HEAD][0], None) if Size.HEAD in self.sizes else None
        return int(own or self.size(config, Size.WIDTH) // self.size(config, Size.HEADS))

    def key_value_heads(self, config: PretrainedConfig) -> int:
        """Heads that have keys and values of their own."""
        own = getattr(config, self.sizes[Size.KEY_VALUE_HEADS][0], None) if Size.KEY_VALUE_HEADS in self.sizes else None
        return int(own or self.size(config, Size.HEADS))

    def values(self, sizes: Mapping[Size, Any]) -> dict[str, Any]:
        """Sizes in the words of the family's configuration."""
        return {name: value for size, value in sizes.items() for name in self.sizes[size]}

    def unused_positions(self, config: PretrainedConfig) -> int:
        """The learnt positions before the first that a token can have."""
        return 1 + (config.pad_token_id or 0) if self.positions is Positions.LEARNT_AFTER_PADDING else 0

    def most_tokens(self, config: PretrainedConfig) -> int | None:
        """The tokens of the longest text that a model has positions for; None where positions are computed."""
        if self.positions is Positions.COMPUTED:
            return None
        if self.positions is Positions.LEARNT_WHERE_SAID and not config.position_biased_input:
            return None
        return int(config.max_position_embeddings - self.unused_positions(config))
