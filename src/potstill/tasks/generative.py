"""What stages ask of a task whose models write token by token: of decoders and of encoder-decoders alike."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.data.token_rows import TokenRows
from potstill.data.tokens import Prompt
from potstill.errors import ModelError
from potstill.targets import Head
from potstill.tasks.loading import explained

GENERATION_CONFIG = "generation_config.json"


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


def ends_of(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end a response by a model's own generation settings."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def end_tokens(own: Iterable[Collection[int]], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a response, by those of each model that writes it and by the tokenizer.

    Models that are compared stop at the same: those of all of them are given.
    """
    return {tokenizer.eos_token_id}.union(*own) - {None}


PROBE_TOKENS = 8
TOLERANCE = 1e-3
"""Share of the largest logit by which head and model may differ; arithmetic in another order is far below it."""


def require_same_logits(
    model: PreTrainedModel, location: str, probe: Callable[[], tuple[Tensor, Tensor]], *, of: str
) -> None:
    """Compare a model's own logits for a few tokens with those that its head makes of hidden states.

    `probe` gives both, in this order, and `of` names the states.

    Raises:
        ModelError: they differ, so that a loss on hidden states would teach another distribution.
    """
    training = model.training
    model.eval()
    with torch.inference_mode():
        own, made = probe()
    model.train(training)
    # What a model in half precision gives is rounded where it is multiplied, scaled and capped.
    share = max(TOLERANCE, 2 * torch.finfo(own.dtype).eps)
    own = own.float()
    far = (own - made).abs().max().item() if own.shape == made.shape else float("inf")
    if not far <= share * max(1.0, own.abs().max().item()):
        raise ModelError(
            f"{location}: its logits are not those of its output layer on its {of} (they differ by {far:.3g}), so its "
            f"head does something that is not known here. Please report the model family {model.config.model_type!r}."
        )


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
