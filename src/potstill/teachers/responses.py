"""Where the responses come from that a student of a language model learns: the data, or the teacher itself."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from potstill.capabilities import Capability, Facts
from potstill.data.tokens import Prompt
from potstill.settings import Settings


class Given(Settings):
    """The responses of the data, each token of which the teacher scores."""

    kind: Literal["given"] = "given"
    writes: ClassVar[bool] = False


class Generated(Settings):
    """The teacher writes the responses, then scores each token of them without any of the limits on sampling.

    The text teaches what the teacher writes (sequence-level distillation, Kim and Rush 2016, arXiv:1606.07947), and its
    distributions at each token what else it gives mass to.
    """

    kind: Literal["generated"] = "generated"
    writes: ClassVar[bool] = True
    rows: Literal["all", "unanswered"] = "all"
    """Whose responses are written: of all rows of train, or only of those that the data leave open. `task.train_on`
    says whether those of all turns or of the last, each after the conversation as it is given up to there. Rows
    without a prompt stay as they are."""
    per_prompt: int = Field(default=1, ge=1)
    """Responses to each prompt."""
    max_new_tokens: int = Field(default=256, ge=1)
    """A response that is longer is cut, and its end is not learnt."""
    temperature: float = Field(default=1.0, ge=0)
    """1 draws from the teacher's distribution as it is. Less keeps to the likely: a reasoning model's makers may ask
    for 0.6 (DeepSeek-R1, arXiv:2501.12948). 0 takes the likeliest token, always."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that have this much of the mass together (arXiv:1904.09751)."""
    top_k: int | None = Field(default=None, ge=1)
    """Draw among so many of the likeliest tokens."""
    batch_size: int = Field(default=16, ge=1)
    """Responses written at a time. A job that is broken off loses at most one batch."""

    @model_validator(mode="after")
    def _several_need_a_draw(self) -> "Generated":
        if self.temperature == 0 and self.per_prompt > 1:
            raise ValueError("per_prompt: at temperature 0 all responses to a prompt are the same; use 1.")
        return self

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if not facts.generative:
            yield f"{where}: generated does not fit {facts.task}; use given."
        elif Capability.TEXT not in facts.gives:
            yield f"{where}: generated needs one teacher that writes, and teacher is {facts.teacher}."


AnyResponses = Annotated[Given | Generated, Field(discriminator="kind")]


def write_responses(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    settings: Generated,
    *,
    new_tokens: int,
    ends: Collection[int],
    seed: int,
    tokens: int | None = None,
) -> list[list[int]]:
    """For each prompt the token ids that the model draws after it, at most `new_tokens`, the one that ends it included;
    where `tokens` are given, of the first so many alone.

    Draws by `settings` alone: what the model's own files say of sampling is ignored.
    """
    # A decoder goes on after its prompt: padded on the left, so that every response starts in the same column. An
    # encoder reads it from the first position on. What the padding is does not matter.
    apart = bool(model.config.is_encoder_decoder)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
    shown = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        start = 0 if apart else longest - len(prompt)
        ids[place, start : start + len(prompt)] = torch.from_numpy(prompt)
        shown[place, start : start + len(prompt)] = 1
    drawn = settings.temperature > 0
    # Values that are not given would be the model's own.
    model.generation_config = GenerationConfig(
        max_new_tokens=new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        decoder_start_token_id=model.config.decoder_start_token_id if apart else None,
        do_sample=drawn,
        num_beams=1,
        **(
            {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k or 0}
            if drawn
            else {}
        ),
    )
    with torch.inference_mode(), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        generated = model.generate(
            ids.to(model.device),
            attention_mask=shown.to(model.device),
            logits_processor=LogitsProcessorList([] if tokens is None else [partial(_of_first, tokens)]),
        ).tolist()
    # Before the response stands what the decoder began with.
    before = 1 if apart else longest
    return [_up_to_the_end(response[before:], ends) for response in generated]


def _of_first(tokens: int, ids: Tensor, scores: Tensor) -> Tensor:
    """Scores by which the first tokens alone can be drawn: no other is one of the student's."""
    scores = scores.clone()
    scores[:, tokens:] = -torch.inf
    return scores


def _up_to_the_end(generated: list[int], ends: Collection[int]) -> list[int]:
    end = next((place for place, token in enumerate(generated) if token in ends), len(generated) - 1)
    return generated[: end + 1]
