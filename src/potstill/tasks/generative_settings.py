"""What the tasks share whose models write: their outputs are tokens of the vocabulary."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from potstill.data.prepare import Split
from potstill.run_dir import fingerprint
from potstill.settings import Settings
from potstill.signals import Batch, LabelPositions, Signals
from potstill.targets import HiddenTargets
from potstill.tasks.classes import TEACHER, require_no_classes
from potstill.tasks.loading import require_embedded


class GenerativeSettings(Settings):
    """A task whose answers are tokens of a vocabulary, which the tokenizer's fingerprint pins."""

    @property
    def generative(self) -> bool:
        """Whether its models write token by token: labels are distributions over a vocabulary at each position."""
        return True

    @property
    def label_positions(self) -> LabelPositions:
        return "tokens"

    @property
    def labelled_splits(self) -> tuple[str, ...]:
        """The validation rows too: checkpoints are compared by the KL from the teacher."""
        return ("train", "validation")

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
        require_no_classes(classes, "what such a model says are tokens, not classes", where)
        return labels

    def config_values(self, labels: Sequence[str]) -> dict[str, Any]:
        return {}

    def embedding_parameters(self, model: PreTrainedModel) -> int:
        """Those of the input and, where it is another matrix, of the output."""
        matrices = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        return sum({id(matrix): matrix.numel() for matrix in matrices}.values())
