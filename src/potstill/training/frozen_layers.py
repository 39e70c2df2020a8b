"""The lower layers of an encoder frozen, and what they compute kept: a pass costs only the layers above."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.data.batches import batches_by_length
from potstill.data.encoded import Encoded
from potstill.models import layers_of, stack_of
from potstill.progress import Advance
from potstill.signals import Batch


@dataclass(frozen=True)
class KeptActivations:
    """Rows as the hidden states beneath the trained layers, in float32: a `BatchSource`."""

    rows: Encoded
    hidden: list[Tensor]

    @property
    def lengths(self) -> Sequence[int]:
        return self.rows.lengths

    def collate(self, indices: Sequence[int]) -> Batch:
        batch = self.rows.collate(indices)
        hidden = nn.utils.rnn.pad_sequence([self.hidden[index] for index in indices], batch_first=True)
        inputs = {"inputs_embeds": hidden, "attention_mask": batch.inputs["attention_mask"]}
        return replace(batch, inputs=inputs)


class _GivenEmbeddings(nn.Module):
    """Stands in for the embeddings of a model that is fed with hidden states."""

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, *_: object, **others: object
    ) -> Tensor:
        assert inputs_embeds is not None
        return inputs_embeds


@dataclass
class FrozenLayers:
    """Splits an encoder for the time of its training; `restore` makes it whole again."""

    model: PreTrainedModel
    count: int

    def __post_init__(self) -> None:
        self._layers = layers_of(self.model)
        assert self.count < len(self._layers), "checked with the teacher's files"
        self._embeddings = self.model.base_model.embeddings

    def keep(self, rows: Encoded, device: torch.device, batch_size: int, advance: Advance) -> KeptActivations:
        """Compute the frozen layers once for all rows, without dropout."""
        base = self.model.base_model.to(device)
        training = base.training
        base.eval()
        self._put(self._layers[: self.count])
        hidden: dict[int, Tensor] = {}
        with torch.inference_mode():
            for indices in batches_by_length(rows.lengths, batch_size):
                batch = rows.collate(indices).to(device)
                states = base(**batch.inputs).last_hidden_state.cpu()
                for place, index in enumerate(indices):
                    hidden[index] = states[place, : rows.lengths[index]].clone()
                advance(len(indices))
        self._put(self._layers)
        base.train(training)
        # Copies made outside inference mode, since tensors from inside it cannot enter autograd.
        return KeptActivations(rows, [hidden[index].clone() for index in range(len(rows.ids))])

    def detach(self) -> None:
        """Leave only the trained layers in the model."""
        self._put(self._layers[self.count :])
        self.model.base_model.embeddings = _GivenEmbeddings()

    def restore(self) -> None:
        self._put(self._layers)
        self.model.base_model.embeddings = self._embeddings

    def _put(self, layers: nn.Module) -> None:
        """Make these the layers of the model."""
        self.model.base_model.set_submodule(stack_of(self.model).layers, layers)
