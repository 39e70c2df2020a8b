"""One class for each word: entities, clauses and other spans, in documents of any length."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_serializer, model_validator
from transformers import (
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from potstill.data.columns import Columns
from potstill.data.on_disk import OnDisk, row_named
from potstill.data.prepare import Split
from potstill.data.reading import Reading
from potstill.data.rows import texts_fingerprint
from potstill.data.spans import Scheme
from potstill.data.tagged import TaggedRow, read_tagged
from potstill.data.words import EncodedWords, encode_words, load_word_tokenizer
from potstill.errors import DataError, ModelError
from potstill.measure.entities import entities_of, kinds_of
from potstill.perturbations.settings import OF_TAGS
from potstill.records import AnswerKind
from potstill.run_dir import fingerprint
from potstill.settings import Settings
from potstill.signals import Ask, Batch, LabelPositions, Signals
from potstill.tasks.classes import NO_CLASSES, TEACHER, classes_in_order, config_of, ordered
from potstill.tasks.heads import embedding_parameters, load_classifier, load_classifier_config
from potstill.tasks.loading import load_tokenizer, require_embedded
from potstill.tasks.loss_defaults import LossDefaults
from potstill.tasks.problem_types import Outputs, ProblemType, SingleLabel
from potstill.tasks.text_classification import ask_for_logits
from potstill.tasks.weights import AS_TRAINED


class TokenClassification(Settings):
    """One tag for each word of a document; the model is an encoder with a head on each of its tokens."""

    kind: Literal["token_classification"] = "token_classification"
    max_length: int = Field(default=128, ge=8)
    """Tokens that are read at a time. Longer documents are read in several windows, and nothing is cut."""
    overlap: int = Field(default=32, ge=0)
    """Pieces that neighbouring windows share: each word is answered in the window that shows more around it. A quarter
    of the window; the question answering examples of transformers share a third (128 of 384)."""

    scheme: Scheme = "iob2"
    """In which tags spans of characters are written; a teacher that has classes has those of its own. IOB2 is the most
    common one. Rows that have tags keep them as they are."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without a scheme where it is the usual one, so that a run from before it could be set goes on."""
        values = handler(self)
        if self.scheme == "iob2":
            del values["scheme"]
        return values

    @model_validator(mode="after")
    def _windows_go_on(self) -> "TokenClassification":
        # Four: more tokens than any encoder puts around a text.
        if self.overlap > self.max_length - 5:
            raise ValueError(f"overlap {self.overlap} leaves nothing new in a window of {self.max_length}. Lower it.")
        return self

    @property
    def generative(self) -> bool:
        return False

    date: ClassVar[None] = None
    shared_tokens: ClassVar[None] = None
    templated: ClassVar[bool] = False
    rows_on_disk: ClassVar[bool] = False
    labelled_splits: ClassVar[tuple[str, ...]] = ("train",)
    """Those of which the teacher's labels are stored."""
    compared_by_teacher: ClassVar[bool] = False
    compares_texts: ClassVar[bool] = False
    freezes_layers: ClassVar[bool] = True
    looks_back: ClassVar[bool] = False
    named_outputs: ClassVar[bool] = True
    """Whether the outputs of a head are classes with names."""
    windows: ClassVar[bool] = True
    """Whether rows are read in windows."""
    packing: ClassVar[bool] = False
    """Whether examples share rows."""
    means: ClassVar[bool] = False
    loss_defaults: ClassVar[LossDefaults] = {}
    default_losses: ClassVar[tuple[str, ...]] = ("soft_targets", "hard_labels")
    robustness_defaults: ClassVar[Mapping[str, Any]] = OF_TAGS
    """What `evaluate.robustness` has in place of its own defaults."""

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
        return "tags"

    def writes_date(self, rows: Iterable[TaggedRow], tokenizer: PreTrainedTokenizerBase) -> bool:
        """No: words are read as they are."""
        return False

    def refusals_of_rows(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """None: every document can be read."""

    def has_form(self, config: PretrainedConfig, labels: Sequence[str]) -> bool:
        """No: a configuration does not say it of tags."""
        return False

    def check_folder(self, location: str, config: PretrainedConfig) -> None:
        """A classifier's folder says nothing more."""

    def form_unstated(self, config: PretrainedConfig) -> bool:
        """No: a tag is one class."""
        return False

    def begin_head(self, model: PreTrainedModel, rows: Sequence[TaggedRow], labels: Sequence[str]) -> None:
        """A new head begins as transformers draws it."""

    def scaler_of(self, rows: Sequence[TaggedRow]) -> None:
        """None: tags are no numbers."""

    def signals(self, outputs: Outputs) -> Signals:
        """Distributions of the outputs of a head, as they are stored."""
        return self.problem.signals(outputs)

    @property
    def problem(self) -> ProblemType:
        """The form of the answer at each word."""
        return SingleLabel()

    def outputs(self, signals: Signals, batch: Batch) -> Outputs:
        """The logits at each word that counts, row by row."""
        assert signals.logits is not None
        return signals.logits[batch.mask.to(signals.logits.device)]

    @property
    def primary_metric(self) -> str:
        return "entity_f1"

    @property
    def ask(self) -> Ask:
        return ask_for_logits

    @property
    def label_positions(self) -> LabelPositions:
        return "words"

    def labelled_data(self, splits: Mapping[str, Split]) -> str:
        """Fingerprint of all that a teacher's labels depend on in the rows and in how they are encoded."""
        # Where windows begin decides in which of them a word is classified.
        return fingerprint({"overlap": self.overlap, "rows": texts_fingerprint(splits["train"].rows)})

    def read(self, path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[TaggedRow]:
        return read_tagged(path, columns, how=how, scheme=self.scheme)

    def label_names(self, splits: Mapping[str, Sequence[TaggedRow]]) -> list[str]:
        """The tags, in order, from the rows that teach; the held-out rows must add none.

        Raises:
            DataError: fewer than two tags, or a held-out tag that no training row has.
        """
        taught = {tag for name in ("train", "adapt") for row in splits.get(name, ()) for tag in row.tags or ()}
        if len(taught) < 2:
            raise DataError(
                f"data: {len(taught)} tag in the tagged training rows ({sorted(taught)}); expected 2 or more."
            )
        for name in ("validation", "test"):
            rows = splits[name]
            if unknown := sorted({tag for row in rows for tag in row.tags or ()} - taught):
                first = next(number for number, row in enumerate(rows) if unknown[0] in (row.tags or ()))
                raise DataError(
                    f"data.{name}: tag {unknown[0]!r} (and {len(unknown) - 1} more) occurs in no training row, and in "
                    f"{row_named(rows, first)}. Add rows with it to train or adapt, or remove it here."
                )
        return ordered(taught)

    def classes_in(self, row: TaggedRow, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The entities of a document: the kind of each, and its words."""
        for kind, first, after in entities_of(row.tags or (), labels):
            yield kind, " ".join(row.tokens[first:after])

    def classes_among(self, labels: Sequence[str]) -> Sequence[str]:
        """The kinds of entities that these tags can tell."""
        return kinds_of(labels)

    def alike(self, rows: Sequence[TaggedRow], labels: Sequence[str]) -> str | None:
        """In what the right answers to all rows are the same; None where they differ."""
        return None if any(entities_of(row.tags or (), labels) for row in rows) else "no document has an entity"

    def check_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, *, where: str = TEACHER
    ) -> None:
        """Words are matched with their pieces, which only fast tokenizers tell, and every piece must have a row in the
        embedding matrix.

        Raises:
            ModelError: a tokenizer that does not tell, or the first token beyond the matrix.
        """
        if not tokenizer.is_fast:
            raise ModelError(
                f"{where}.model: its tokenizer ({type(tokenizer).__name__}) cannot tell which pieces are of which "
                "word. Take a model with a tokenizer.json."
            )
        require_embedded(tokenizer, config, where)

    def teacher_labels(
        self,
        config: PretrainedConfig,
        labels: list[str],
        classes: Mapping[str, str],
        *,
        new_head: bool = False,
        where: str = TEACHER,
    ) -> list[str]:
        """The tags in the order of the outputs of the teacher's head; `new_head` where a misfit is replaced.

        Raises:
            ModelError: its tags are not those of the data.
        """
        return classes_in_order(config, labels, classes, new_head=new_head, where=where)

    def config_values(self, labels: Sequence[str]) -> dict[str, Any]:
        """What a model's configuration says of the tags."""
        return config_of(labels)

    def embedding_parameters(self, model: PreTrainedModel) -> int:
        return embedding_parameters(model)

    def load_config(self, location: str, **where: Any) -> PretrainedConfig:
        return load_classifier_config(location, **where)

    def load_tokenizer(self, location: str, **where: Any) -> PreTrainedTokenizerBase:
        return load_tokenizer(location, load_word_tokenizer, **where)

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
        values = None if labels is None else config_of(labels)
        config = load_classifier_config(location, **where)
        where |= {"use_safetensors": True}
        return load_classifier(AutoModelForTokenClassification, location, config, values, classes, how, **where)

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights, drawn from torch's global generator."""
        return AutoModelForTokenClassification.from_config(config, dtype=torch.float32)

    def encode(
        self, rows: Sequence[TaggedRow], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]
    ) -> EncodedWords:
        """The windows of the documents."""
        numbers = {label: number for number, label in enumerate(labels)}
        return encode_words(rows, tokenizer, numbers, max_length=self.max_length, overlap=self.overlap)
