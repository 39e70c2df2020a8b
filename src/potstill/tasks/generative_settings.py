"""What the tasks share whose models write: their outputs are tokens of the vocabulary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from potstill.data.prepare import Split
from potstill.data.tokens import TokenFile
from potstill.errors import DataError
from potstill.perturbations.settings import OF_LANGUAGE_MODELS
from potstill.run_dir import fingerprint
from potstill.settings import Settings
from potstill.signals import Batch, LabelPositions, Signals
from potstill.targets import HiddenTargets
from potstill.tasks.classes import TEACHER, require_no_classes
from potstill.tasks.generative import check_generation_config
from potstill.tasks.loading import require_embedded
from potstill.tasks.loss_defaults import LossDefaults


class GenerativeSettings(Settings):
    """A task whose answers are tokens of a vocabulary, which the tokenizer's fingerprint pins."""

    shared_tokens: int | None = Field(default=None, ge=1, exclude_if=lambda count: count is None)
    """Distributions are over the ids below this number alone: all others are left out before the softmax. By default
    over all rows of the head; of a student that exists already, over the tokens that it has in common with its
    teacher."""

    rows_on_disk: ClassVar[bool] = True
    """Whether encoded rows lie in files, so that they can be kept for as long as the process lives."""
    labelled_splits: ClassVar[tuple[str, ...]] = ("train", "validation")
    """Those of which the teacher's labels are stored: checkpoints are compared by them."""
    compared_by_teacher: ClassVar[bool] = True
    compares_texts: ClassVar[bool] = False
    """Whether a student may have other tokens than its teacher, in which the teacher's distributions are told."""
    """Whether checkpoints are compared by how near they are to the teacher, and not to true labels."""
    freezes_layers: ClassVar[bool] = False
    """Whether what lower layers compute can be kept while a teacher is adapted."""
    looks_back: ClassVar[bool] = True
    """Whether each position sees those before it alone, and is followed by a token of the vocabulary."""
    named_outputs: ClassVar[bool] = False
    windows: ClassVar[bool] = False
    means: ClassVar[bool] = False
    loss_defaults: ClassVar[LossDefaults] = {"soft_targets": {"temperature": 1.0}}
    """Softening loses more than it teaches where the tail is nearly all."""
    default_losses: ClassVar[tuple[str, ...]] = ("soft_targets",)
    robustness_defaults: ClassVar[Mapping[str, Any]] = OF_LANGUAGE_MODELS
    """What `evaluate.robustness` has in place of its own defaults."""

    @property
    def generative(self) -> bool:
        """Whether its models write token by token: labels are distributions over a vocabulary at each position."""
        return True

    def has_form(self, config: PretrainedConfig, labels: Sequence[str]) -> bool:
        """No: there is no head for classes."""
        return False

    def check_folder(self, location: str, config: PretrainedConfig) -> None:
        """Read what a folder says of how its model writes.

        Raises:
            ModelError: the file cannot be read, or ends responses with a token that the model does not have.
        """
        check_generation_config(location, config.get_text_config().vocab_size)

    def form_unstated(self, config: PretrainedConfig) -> bool:
        """No: the outputs are tokens."""
        return False

    def begin_head(self, model: PreTrainedModel, rows: Sequence[Any], labels: Sequence[str]) -> None:
        """The head is the model's own."""

    def scaler_of(self, rows: Sequence[Any]) -> None:
        """None: tokens are no numbers."""

    def classes_in(self, row: Any, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
        """None: the outputs are tokens."""
        return iter(())

    def classes_among(self, labels: Sequence[str]) -> Sequence[str]:
        """None: the outputs are tokens."""
        return ()

    def alike(self, rows: Sequence[Any], labels: Sequence[str]) -> str | None:
        """What is written is not compared."""
        return None

    def signals(self, outputs: Tensor) -> Signals:
        """Distributions of logits."""
        return Signals(logits=outputs)

    def require_shared(self, examples: TokenFile, tokenizer: Tokenizer) -> None:
        """Every token of the rows must be one of those that teacher and student have in common.

        Raises:
            DataError: names the first row with another one.
        """
        if self.shared_tokens is None or examples.largest < self.shared_tokens:
            return
        row = next(each for each in examples if each.ids.max() >= self.shared_tokens)
        number = int(row.ids[row.ids >= self.shared_tokens][0])
        raise DataError(
            f'data: row "{row.id}" has the token {tokenizer.convert_ids_to_tokens(number)!r} (id {number}), which is '
            f"not among the {self.shared_tokens:,} that teacher and student have in common. Set student.adopt_tokens: "
            "true, so that the student learns such tokens, where its embedding matrix has rows for them; or leave the "
            "row out."
        )

    @property
    def label_positions(self) -> LabelPositions:
        return "tokens"

    def labelled_data(self, splits: Mapping[str, Split]) -> str:
        """Fingerprint of all that a teacher's labels depend on in the rows and in how they are encoded."""
        # Each example is labelled by itself, however they are packed.
        task = self.model_dump(mode="json", exclude={"packing"})
        return fingerprint({"task": task, "rows": [splits[name].fingerprint for name in self.labelled_splits]})

    def outputs(self, signals: Signals, batch: Batch) -> Tensor:
        """The last hidden state before each token that is learnt, row by row."""
        assert isinstance(signals.target, HiddenTargets)
        return signals.target.hidden

    def check_tokenizer(self, tokenizer: Tokenizer, config: PretrainedConfig, *, where: str = TEACHER) -> None:
        """Every token must have a row in the embedding matrix.

        Raises:
            ModelError: names the first token beyond it.
        """
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
        """None.

        Raises:
            ModelError: the recipe names some.
        """
        require_no_classes(classes, "what such a model writes are tokens, not classes", where)
        return labels

    def config_values(self, labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def embedding_parameters(self, model: PreTrainedModel) -> int:
        """Those of the input and, where it is another matrix, of the output."""
        matrices = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        return sum({id(matrix): matrix.numel() for matrix in matrices}.values())
