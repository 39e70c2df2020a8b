"""What stages ask of a task whose models write token by token: of decoders and of encoder-decoders alike."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.data.token_rows import TokenRows
from potstill.errors import ModelError
from potstill.targets import Head
from potstill.tasks.loading import explained

GENERATION_CONFIG = "generation_config.json"
Prompt = Int32[np.ndarray, "_"]


@runtime_checkable
class Prompts(Protocol):
    """What models are shown before they write, by the rules of one tokenizer."""

    def asks(self, row: Any) -> bool:
        """Whether the row has a prompt; a plain text has none."""
        ...

    def of(self, row: Any, *, every: bool) -> Iterator[tuple[str, Prompt]]:
        """For each response to be written its name and its prompt: of every turn that is learnt, or of the last.

        Raises:
            DataError: a row that the chat template refuses.
            ModelError: a tokenizer without a chat template, where rows need it.
        """
        ...

    def last(self, row: Any) -> Prompt:
        """What is shown before the last response, or the only one; raises as `of`."""
        ...

    def room(self, prompt: Prompt) -> int:
        """How many tokens a response can have; none where the prompt cannot be used."""
        ...

    def end_of(self, row: Any) -> int:
        """The token that ends responses to such rows."""
        ...

    def shown(self, row: Any) -> tuple[str, str]:
        """For people: what is asked, and what is right."""
        ...

    def reference(self, row: Any) -> list[int]:
        """What is right as tokens, however long, without what stands around it."""
        ...


@runtime_checkable
class GenerativeTask(Protocol):
    """A task whose rows become `TokenRows` and whose models are asked for hidden states and a head."""

    @property
    def judges_whole_responses(self) -> bool:
        """Whether a response that is written greedily can be right or wrong as a whole."""
        ...

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> Prompts: ...

    def encode(
        self, rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str] = ()
    ) -> TokenRows: ...

    def head_of(self, model: PreTrainedModel) -> Head: ...


def generative(task: object) -> GenerativeTask:
    """The task, of which the recipe knows that its models write."""
    assert isinstance(task, GenerativeTask)
    return task


def end_tokens(models: Iterable[PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a response, by the generation settings of the models that write it and the tokenizer.

    Models that are compared stop at the same: all of them are given.
    """
    found = {tokenizer.eos_token_id}
    for model in models:
        ends = getattr(model.generation_config, "eos_token_id", None)
        found |= set(ends) if isinstance(ends, list) else {ends}
    return found - {None}


def check_generation_config(location: str, vocab_size: int) -> None:
    """Read what a folder says of how its model writes, for a student is given the same.

    Raises:
        ModelError: the file cannot be read, or ends responses with a token that the model does not have.
    """
    known = generation_config_in(Path(location))
    ends = [] if known is None or known.eos_token_id is None else known.eos_token_id
    for end in ends if isinstance(ends, list) else [ends]:
        if not 0 <= end < vocab_size:
            raise ModelError(
                f"{Path(location) / GENERATION_CONFIG}: eos_token_id {end}, and the model has {vocab_size:,} tokens, "
                "so nothing that it writes would end there. Name the token that ends its responses."
            )


def generation_config_in(folder: Path) -> GenerationConfig | None:
    """What a model's folder says of how it writes, such as the tokens that end a response; None where it has no word
    of it, and what `config.json` says is all.

    Raises:
        ModelError: the file cannot be read.
    """
    if not (folder / GENERATION_CONFIG).is_file():
        return None
    with explained(str(folder)):
        return GenerationConfig.from_pretrained(folder)
