"""One class for each text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from potstill.data.encoded import EncodedRows
from potstill.data.on_disk import OnDisk
from potstill.data.rows import Columns, Row, read_rows
from potstill.errors import DataError
from potstill.settings import Settings
from potstill.signals import IGNORE_INDEX, Ask, Batch, Signals
from potstill.tasks.classes import label_maps, own_labels
from potstill.tasks.loading import explained

ENCODE_CHUNK = 1024


class TextClassification(Settings):
    """One class for each text; the model is a transformer with a sequence classification head."""

    kind: Literal["text_classification"] = "text_classification"
    max_length: int = Field(default=128, ge=8)
    """Longest text in tokens; what is cut is counted and reported. Latency grows with it."""

    @property
    def writes(self) -> bool:
        return False

    @property
    def primary_metric(self) -> str:
        return "accuracy"

    @property
    def ask(self) -> Ask:
        return ask_for_logits

    def read(self, path: Path, columns: Columns) -> OnDisk[Row]:
        return read_rows(path, columns)

    def label_names(self, splits: Mapping[str, Sequence[Row]]) -> list[str]:
        """The classes, sorted, from the rows that teach; the held-out rows must add none.

        Raises:
            DataError: fewer than two classes, or a held-out class that no training row has.
        """
        taught = {row.label for name in ("train", "adapt") for row in splits.get(name, ()) if row.label}
        if len(taught) < 2:
            raise DataError(
                f"data: {len(taught)} class in the labelled training rows ({sorted(taught)}); expected 2 or more."
            )
        for name in ("validation", "test"):
            unknown = sorted({row.label for row in splits[name] if row.label} - taught)
            if unknown:
                raise DataError(
                    f"data.{name}: class {unknown[0]!r} (and {len(unknown) - 1} more) occurs in no training row. "
                    "Add rows of it to train or adapt, or remove it here."
                )
        return sorted(taught)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
        """Nothing to check: encoders are read by the tokenizer that lies beside them."""

    def teacher_labels(self, config: PretrainedConfig, labels: list[str]) -> list[str]:
        return own_labels(config, labels)

    def config_values(self, labels: Sequence[str]) -> dict[str, Any]:
        """What a model's configuration says of the classes."""
        return label_maps(labels)

    def embedding_parameters(self, model: PreTrainedModel) -> int:
        return sum(parameter.numel() for parameter in model.base_model.embeddings.parameters())

    def load_config(self, location: str, **where: Any) -> PretrainedConfig:
        with explained(location):
            return AutoConfig.from_pretrained(location, **where)

    def load_tokenizer(self, location: str, **where: Any) -> PreTrainedTokenizerBase:
        with explained(location):
            return AutoTokenizer.from_pretrained(location, **where)

    def load_model(self, location: str, labels: Sequence[str] | None = None, **where: Any) -> PreTrainedModel:
        """The model in float32, with a new head for `labels` where they are given. Never reads pickle files."""
        head = {} if labels is None else label_maps(labels) | {"ignore_mismatched_sizes": True}
        with explained(location):
            return AutoModelForSequenceClassification.from_pretrained(
                location, dtype=torch.float32, use_safetensors=True, **head, **where
            )

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights, drawn from torch's global generator."""
        return AutoModelForSequenceClassification.from_config(config)

    def encode(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> EncodedRows:
        """Token ids of the texts, cut to `max_length`; control-token strings in a text stay text."""
        numbers = {label: number for number, label in enumerate(labels)}
        tokens: list[np.ndarray[Any, np.dtype[np.int32]]] = []
        truncated = 0
        for start in range(0, len(rows), ENCODE_CHUNK):
            texts = [row.text for row in rows[start : start + ENCODE_CHUNK]]
            encoded = tokenizer(texts, truncation=True, max_length=self.max_length, split_special_tokens=True)
            for encoding in encoded.encodings:
                truncated += bool(encoding.overflowing)
                tokens.append(np.asarray(encoding.ids, dtype=np.int32))
        return EncodedRows(
            ids=tuple(row.id for row in rows),
            tokens=tokens,
            labels=np.array(
                [IGNORE_INDEX if row.label is None else numbers[row.label] for row in rows], dtype=np.int64
            ),
            pad_id=tokenizer.pad_token_id or 0,
            truncated=truncated,
        )


def ask_for_logits(model: nn.Module, batch: Batch) -> Signals:
    """The logits of the rows."""
    return Signals(logits=model(**batch.inputs).logits)
