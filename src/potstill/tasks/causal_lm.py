"""The next token: chat and code models, which are read by their last hidden states and never by whole logits."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from potstill.data.chat_tokens import ChatTokens, TokenCounts
from potstill.data.dialogues import Example
from potstill.data.packing import PackedRows, pack
from potstill.errors import ModelError
from potstill.settings import Settings
from potstill.signals import Batch, Signals
from potstill.targets import Head
from potstill.tasks.loading import explained

PROBE_TOKENS = 8
TOLERANCE = 1e-3
"""Share of the largest logit by which head and model may differ; arithmetic in another order is far below it."""


class CausalLM(Settings):
    """The next token of chats, completions and texts; the model is a decoder with a language-model head."""

    kind: Literal["causal_lm"] = "causal_lm"
    max_length: int = Field(default=512, ge=8)
    """Longest example in tokens, and length of a packed row. What does not fit is counted and reported."""
    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which responses of a conversation are learnt."""
    packing: bool = True
    """Put examples that fit together into one row, where they do not see each other: less padding is computed."""

    def load_config(self, location: str, **where: Any) -> PretrainedConfig:
        with explained(location):
            return AutoConfig.from_pretrained(location, **where)

    def load_tokenizer(self, location: str, **where: Any) -> Tokenizer:
        with explained(location):
            return AutoTokenizer.from_pretrained(location, **where)

    def load_model(self, location: str, **where: Any) -> PreTrainedModel:
        """The model in float32. Never reads pickle files."""
        with explained(location):
            return AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, use_safetensors=True, **where)

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights, drawn from torch's global generator."""
        return AutoModelForCausalLM.from_config(config)

    def encode(self, examples: list[Example], tokenizer: Tokenizer) -> tuple[PackedRows, TokenCounts]:
        """Answered examples as packed rows, and what did not fit.

        Raises:
            DataError: a row that the chat template refuses, or no row of which a token is left to learn.
            ModelError: a tokenizer without a chat template or an end token, where rows need it.
        """
        tokens = ChatTokens(tokenizer, self.max_length, self.train_on)
        tokenised, counts = tokens.tokenise(examples)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return pack(tokenised, max_length=self.max_length, pad_id=pad or 0, packing=self.packing), counts


def ask_for_hidden_states(model: nn.Module, batch: Batch) -> Signals:
    """Last hidden states, after the final norm, and the head; logits are left to who needs them, in chunks."""
    assert isinstance(model, PreTrainedModel)
    # With a cache, positions that restart are ignored and packed examples would see each other.
    hidden = model.base_model(**batch.inputs, use_cache=False).last_hidden_state
    return Signals(hidden=hidden, head=head_of(model))


def head_of(model: PreTrainedModel) -> Head:
    """The map from last hidden states to logits, with the scale and the soft cap that the configuration names."""
    output = model.get_output_embeddings()
    config = model.config.get_text_config()
    # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma caps.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(output.weight, getattr(output, "bias", None), scale, None if cap is None else float(cap))


def require_known_head(model: PreTrainedModel, location: str) -> None:
    """Compare the logits that head and hidden states give with the model's own, on a few tokens.

    Raises:
        ModelError: they differ, so that a loss on hidden states would teach another distribution.
    """
    device = next(model.parameters()).device
    ids = torch.arange(PROBE_TOKENS, device=device)[None] % model.config.get_text_config().vocab_size
    training = model.training
    model.eval()
    with torch.inference_mode():
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        made = head_of(model).logits(hidden)
    model.train(training)
    far = (own - made).abs().max().item() if own.shape == made.shape else float("inf")
    if not far <= TOLERANCE * max(1.0, own.abs().max().item()):
        raise ModelError(
            f"{location}: its logits are not those of its output layer on its last hidden states (they differ by "
            f"{far:.3g}), so its head does something that is not known here. Please report the model family "
            f"{model.config.model_type!r}."
        )
