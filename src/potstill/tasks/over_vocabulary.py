"""What the tasks share whose models write: what can be said is the vocabulary of the tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from potstill.errors import ModelError
from potstill.settings import Settings
from potstill.tasks.classes import require_no_classes


class OverVocabulary(Settings):
    """A task whose answers are tokens of a vocabulary, which the tokenizer's fingerprint pins."""

    @property
    def writes(self) -> bool:
        """Whether its models write token by token: labels are distributions over a vocabulary at each position."""
        return True

    def check_tokenizer(self, tokenizer: Tokenizer, config: PretrainedConfig) -> None:
        """Every token must have a row in the embedding matrix.

        Raises:
            ModelError: names the first token beyond it.
        """
        rows = config.get_text_config().vocab_size
        beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
        if beyond:
            number, token = beyond[0]
            raise ModelError(
                f"teacher.model: token {token!r} has the id {number}, and the model has {rows} tokens. "
                "Resize its embeddings, or take the tokenizer that it was trained with."
            )

    def teacher_labels(
        self, config: PretrainedConfig, labels: list[str], classes: Mapping[str, str], *, new_head: bool = False
    ) -> list[str]:
        """None.

        Raises:
            ModelError: the recipe names some.
        """
        require_no_classes(classes, "what such a model says are tokens, not classes")
        return labels

    def config_values(self, labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def embedding_parameters(self, model: PreTrainedModel) -> int:
        """Those of the input and, where it is another matrix, of the output."""
        matrices = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        return sum({id(matrix): matrix.numel() for matrix in matrices}.values())
