"""What models are judged on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.cross_tokenizer import AlignedRows
from potstill.data.encoded import Encoded
from potstill.data.prepare import Split
from potstill.data.splits import stable_order
from potstill.progress import Progress
from potstill.recipe import Recipe


@dataclass(frozen=True)
class Case:
    """The rows on which models are judged, and what is known of them before any model is asked."""

    recipe: Recipe
    splits: Mapping[str, Split]
    class_names: Sequence[str]
    """In the order of the logits."""
    tokenizer: PreTrainedTokenizerBase
    """The teacher's."""
    config: PretrainedConfig
    """The teacher's."""
    progress: Progress
    encode: Callable[[PreTrainedTokenizerBase], Encoded]
    """The test rows as token ids, for models that read with this tokenizer."""
    untrained: Callable[[], PreTrainedModel]
    """The student as training found it."""
    own_config: PretrainedConfig | None = None
    """The student's, where it exists already."""
    own_tokenizer: PreTrainedTokenizerBase | None = None
    """The student's, where it is a language model with other tokens than its teacher."""
    aligned: Callable[[], AlignedRows] | None = None
    """Then also the test rows in the tokens of both."""
    encode_validation: Callable[[PreTrainedTokenizerBase], Encoded] | None = None
    """The labelled validation rows as token ids, where temperatures can be fitted on them."""
    encode_rows: Callable[[PreTrainedTokenizerBase, Sequence[Any]], Encoded] | None = None
    """Any rows of the form of the test rows as token ids, for models that read with this tokenizer."""
    aligned_rows: Callable[[Sequence[Any]], AlignedRows] | None = None
    """Where the student has other tokens, such rows in the tokens of both."""
    out_of_domain: Sequence[Any] = ()
    """Rows of texts of another kind."""
    unanswerable: Sequence[Any] = ()
    """Queries that should be declined or are nonsense, as conversations without a response."""

    @property
    def student_tokenizer(self) -> PreTrainedTokenizerBase:
        """That by whose tokens language models are judged."""
        return self.own_tokenizer or self.tokenizer

    @property
    def test(self) -> Sequence[Any]:
        return self.splits["test"].rows

    @property
    def adapt_rows(self) -> Sequence[Any]:
        """The rows that the teacher can be adapted on."""
        return self.splits.get("adapt", self.splits["train"]).rows

    @property
    def timed_rows(self) -> list[Any]:
        """The test rows that are timed one by one, by stable hash."""
        rows = stable_order(self.test, lambda row: row.id, salt="latency")
        return rows[: self.recipe.evaluate.latency_rows]
