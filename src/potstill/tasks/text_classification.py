"""Answers about whole texts: one class, several labels, or a number."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_serializer
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from potstill.data.columns import Columns
from potstill.data.encoded import TOKEN_TYPES, EncodedRows
from potstill.data.on_disk import OnDisk
from potstill.data.prepare import Split
from potstill.data.reading import Reading
from potstill.data.rows import Row, labelled_rows, read_rows, texts_fingerprint
from potstill.data.special_tokens import TextIds
from potstill.errors import ModelError
from potstill.models import Kind, is_a
from potstill.records import AnswerKind, ProblemTypeName
from potstill.settings import Settings
from potstill.signals import Ask, Batch, LabelPositions, Signals
from potstill.tasks.classes import NO_CLASSES, TEACHER, classes_in_order, config_of, labels_of, require_no_classes
from potstill.tasks.heads import embedding_parameters, load_classifier, load_classifier_config, start_at_shares
from potstill.tasks.loading import load_tokenizer, require_embedded
from potstill.tasks.loss_defaults import LossDefaults
from potstill.tasks.problem_types import MultiLabel, Outputs, ProblemType, Regression, SingleLabel
from potstill.tasks.target_scaler import TargetScaler
from potstill.tasks.weights import AS_TRAINED

ENCODE_CHUNK = 1024


class TextClassification(Settings):
    """A class for each text, several, or a number; the model is a transformer with a sequence classification head."""

    kind: Literal["text_classification"] = "text_classification"
    problem_type: ProblemTypeName = "single_label_classification"
    """One class for each text, any number of them, or a number; the names are those of transformers."""
    max_length: int = Field(default=128, ge=8)
    """Longest text in tokens; what is cut is counted and reported. Latency grows with it."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without a form of answer where it is one class, so that a run from before there were others goes on."""
        values = handler(self)
        if self.problem_type == "single_label_classification":
            del values["problem_type"]
        return values

    @property
    def generative(self) -> bool:
        return False

    windows: ClassVar[bool] = False
    """Whether rows are read in windows."""
    packing: ClassVar[bool] = False
    """Whether examples share rows."""
    loss_defaults: ClassVar[LossDefaults] = {}
    default_losses: ClassVar[tuple[str, ...]] = ("soft_targets", "hard_labels")
    robustness_defaults: ClassVar[Mapping[str, Any]] = {}
    """What `evaluate.robustness` has in place of its own defaults."""

    date: ClassVar[None] = None
    shared_tokens: ClassVar[None] = None
    templated: ClassVar[bool] = False
    rows_on_disk: ClassVar[bool] = False
    labelled_splits: ClassVar[tuple[str, ...]] = ("train",)
    """Those of which the teacher's labels are stored."""
    compared_by_teacher: ClassVar[bool] = False
    compares_texts: ClassVar[bool] = False
    """Whether checkpoints are compared by how near they are to the teacher, and not to true labels."""
    freezes_layers: ClassVar[bool] = True
    """Whether what lower layers compute can be kept while a teacher is adapted."""
    looks_back: ClassVar[bool] = False
    """Whether each position sees those before it alone, and is followed by a token of the vocabulary."""

    @property
    def named_outputs(self) -> bool:
        """Whether the outputs of a head are classes with names."""
        return not self.means

    def writes_date(self, rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase) -> bool:
        """No: a text is read as it is."""
        return False

    def refusals_of_rows(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """None: every text can be read."""

    def has_form(self, config: PretrainedConfig, labels: Sequence[str]) -> bool:
        """Whether a configuration says of its head that it was trained for this form of answer and so many classes."""
        form = self.config_values(labels).get("problem_type")
        return form is not None and config.problem_type == form and config.num_labels == len(labels)

    def check_folder(self, location: str, config: PretrainedConfig) -> None:
        """A classifier's folder says nothing more."""

    def form_unstated(self, config: PretrainedConfig) -> bool:
        """Whether a configuration leaves open how the outputs, which are read as several labels, were trained."""
        return self.problem_type == "multi_label_classification" and config.problem_type is None

    def begin_head(self, model: PreTrainedModel, rows: Sequence[Row], labels: Sequence[str]) -> None:
        """Let a new head begin where its training is short."""
        if self.problem_type == "multi_label_classification":
            start_at_shares(model, self.problem.targets(rows, labels))

    def scaler_of(self, rows: Sequence[Row]) -> TargetScaler | None:
        """The scale of the labels of these rows, where they are numbers."""
        return TargetScaler.of(labelled_rows(rows)) if self.means else None

    def signals(self, outputs: Outputs) -> Signals:
        """Distributions of the outputs of a head, as they are stored."""
        return self.problem.signals(outputs)

    @property
    def means(self) -> bool:
        """Whether its models answer with numbers, as means of Gaussians."""
        return self.problem_type == "regression"

    reads_gguf: ClassVar[bool] = False
    has_head: ClassVar[bool] = True
    """Whether a head for the classes can be drawn anew."""

    @property
    def lengths(self) -> dict[str, int]:
        """The longest texts in tokens, by the setting that says so."""
        return {"max_length": self.max_length}

    @property
    def answers(self) -> AnswerKind:
        """What its models answer with, by which they are judged."""
        return self.problem.answers

    def outputs(self, signals: Signals, batch: Batch) -> Outputs:
        """What the head gave for each row."""
        return self.problem.outputs(signals)

    @property
    def problem(self) -> ProblemType:
        """The form of the answers."""
        match self.problem_type:
            case "multi_label_classification":
                return MultiLabel()
            case "regression":
                return Regression()
            case _:
                return SingleLabel()

    @property
    def primary_metric(self) -> str:
        return self.problem.primary_metric

    @property
    def ask(self) -> Ask:
        return partial(ask_for_answer, problem=self.problem)

    @property
    def label_positions(self) -> LabelPositions:
        return "rows"

    def labelled_data(self, splits: Mapping[str, Split]) -> str:
        """Fingerprint of all that a teacher's labels depend on in the rows and in how they are encoded."""
        return texts_fingerprint(splits["train"].rows)

    def read(self, path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[Row]:
        return read_rows(path, columns, self.problem.label_in, how=how)

    def label_names(self, splits: Mapping[str, Sequence[Row]]) -> list[str]:
        """The classes, in order, from the rows that teach; the held-out rows must add none.

        Raises:
            DataError: too few classes, a held-out class that no training row has, or numbers that are all the same.
        """
        return self.problem.label_names(splits)

    def classes_in(self, row: Row, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The classes of a row, each with its text."""
        return ((name, row.text) for name in row.classes)

    def classes_among(self, labels: Sequence[str]) -> Sequence[str]:
        """The classes are what the outputs are called."""
        return labels

    def alike(self, rows: Sequence[Row], labels: Sequence[str]) -> str | None:
        """In what the right answers to all rows are the same; None where they differ."""
        return self.problem.alike(rows)

    def check_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, *, where: str = TEACHER
    ) -> None:
        """Every token must have a row in the embedding matrix, and a decoder must know the token that pads its texts:
        it answers at the last token that is another one.

        Raises:
            ModelError: names the first token beyond it, or the two tokens that pad.
        """
        require_embedded(tokenizer, config, where)
        known, pad = config.get_text_config().pad_token_id, tokenizer.pad_token_id or 0
        if is_a(Kind.DECODER, config.model_type) and known != pad:
            raise ModelError(
                f"{where}.model: it answers at the last token that is not pad_token_id, which its config.json gives as "
                f"{known}, and its tokenizer pads with {tokenizer.pad_token} ({pad}). Set pad_token_id in config.json "
                "to the token that pads."
            )

    def teacher_labels(
        self,
        config: PretrainedConfig,
        labels: list[str],
        classes: Mapping[str, str],
        *,
        new_head: bool = False,
        where: str = TEACHER,
    ) -> list[str]:
        """The classes in the order of the outputs of the teacher's head; `new_head` where a misfit is replaced.

        Raises:
            ModelError: its classes are not those of the data, or its answers have another form.
        """
        if config.problem_type not in (None, self.problem_type) and not new_head:
            raise ModelError(
                f"{where}.model: its configuration says {config.problem_type}, and the recipe {self.problem_type}. "
                "Set task.problem_type, or add an adapt section to give it another head."
            )
        if self.problem_type == "regression":
            require_no_classes(classes, "a number has no classes", where)
            if new_head:
                return labels
            if config.num_labels == 1:
                return labels_of(config, where)
        return classes_in_order(config, labels, classes, new_head=new_head, where=where)

    def config_values(self, labels: Sequence[str]) -> dict[str, Any]:
        """What a model's configuration says of the classes."""
        return config_of(labels, self.problem.problem_type)

    def embedding_parameters(self, model: PreTrainedModel) -> int:
        return embedding_parameters(model)

    def load_config(self, location: str, **where: Any) -> PretrainedConfig:
        return load_classifier_config(location, **where)

    def load_tokenizer(self, location: str, **where: Any) -> PreTrainedTokenizerBase:
        return load_tokenizer(location, **where)

    def load_model(
        self,
        location: str,
        labels: Sequence[str] | None = None,
        classes: Mapping[str, str] = NO_CLASSES,
        *,
        how: Mapping[str, Any] = AS_TRAINED,
        **where: Any,
    ) -> PreTrainedModel:
        """The model, where `labels` are given with a head for them, in float32 where `how` does not say otherwise.

        Never reads pickle files.

        Raises:
            ModelError: it cannot be loaded, or its checkpoint does not fill it.
        """
        values = None if labels is None else self.config_values(labels)
        config = load_classifier_config(location, **where)
        where |= {"use_safetensors": True}
        return load_classifier(AutoModelForSequenceClassification, location, config, values, classes, how, **where)

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights, drawn from torch's global generator."""
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)

    def encode(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> EncodedRows:
        """Token ids of the texts, cut to `max_length`; control-token strings in a text stay text."""
        encoded = list(_encodings(rows, tokenizer, self.max_length))
        told = TOKEN_TYPES in tokenizer.model_input_names and any(each.types is not None for each in encoded)
        return EncodedRows(
            ids=tuple(row.id for row in rows),
            tokens=[each.ids for each in encoded],
            labels=self.problem.targets(rows, labels),
            pad_id=tokenizer.pad_token_id or 0,
            truncated=sum(each.cut for each in encoded),
            # Alone, a text has but one type, which models take where they are told none.
            types=[np.zeros(len(each.ids), np.int8) if each.types is None else each.types for each in encoded]
            if told
            else None,
        )


class _Encoding(NamedTuple):
    ids: npt.NDArray[np.int32]
    types: npt.NDArray[np.int8] | None
    """Of a pair, which text each token is of."""
    cut: bool


def _encodings(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[_Encoding]:
    """The tokens of each text, or of each pair, of which the longer text is cut first."""
    if not tokenizer.is_fast:
        # One that runs in Python does not tell what it cut, and may read a string in a text as a control token.
        one_by_one, side = TextIds(tokenizer), tokenizer.truncation_side
        for row in rows:
            if row.second_at is None:
                ids, cut = one_by_one.within(row.text, max_length, side=side)
                yield _Encoding(np.asarray(ids, dtype=np.int32), None, cut)
            else:
                ids, kinds, cut = one_by_one.pair_within(row.texts, max_length, side=side)
                yield _Encoding(np.asarray(ids, dtype=np.int32), np.asarray(kinds, dtype=np.int8), cut)
        return
    for start in range(0, len(rows), ENCODE_CHUNK):
        chunk = rows[start : start + ENCODE_CHUNK]
        # All rows are pairs, or none is.
        columns = map(list, zip(*(row.texts for row in chunk), strict=True))
        encoded = tokenizer(*columns, truncation="longest_first", max_length=max_length, split_special_tokens=True)
        for row, each in zip(chunk, encoded.encodings, strict=True):
            types = None if row.second_at is None else np.asarray(each.type_ids, dtype=np.int8)
            yield _Encoding(np.asarray(each.ids, dtype=np.int32), types, bool(each.overflowing))


def ask_for_answer(model: nn.Module, batch: Batch, *, problem: ProblemType) -> Signals:
    """The outputs of the head for the rows, as distributions."""
    return problem.signals(model(**batch.inputs).logits)


ask_for_logits = partial(ask_for_answer, problem=SingleLabel())
"""The logits of the rows."""
