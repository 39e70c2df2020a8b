"""The next token: chat and code models, which are read by their last hidden states and never by whole logits."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_serializer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from potstill.data.chat_tokens import ChatTokens
from potstill.data.columns import Columns
from potstill.data.dialogue_rows import read_dialogues
from potstill.data.dialogues import Example
from potstill.data.on_disk import OnDisk, row_named
from potstill.data.packing import PackedRows, pack
from potstill.data.reading import Reading
from potstill.errors import DataError, ModelError
from potstill.models import FAMILIES
from potstill.records import AnswerKind
from potstill.signals import Ask, Batch, Signals
from potstill.targets import Head
from potstill.tasks.chat_prompts import ChatPrompts
from potstill.tasks.classes import NO_CLASSES
from potstill.tasks.generative import PROBE_TOKENS, TOLERANCE, require_same_logits
from potstill.tasks.generative_settings import GenerativeSettings
from potstill.tasks.loading import load_config, load_tokenizer
from potstill.tasks.weights import AS_TRAINED, load_weights


class CausalLM(GenerativeSettings):
    """The next token of chats, completions and texts; the model is a decoder with a language-model head."""

    kind: Literal["causal_lm"] = "causal_lm"
    max_length: int = Field(default=512, ge=8)
    """Longest example in tokens, and length of a packed row. What does not fit is counted and reported."""
    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which responses of a conversation are learnt."""
    packing: bool = True
    """Put examples that fit together into one row, where they do not see each other: less padding is computed."""
    date: datetime | None = None
    """What the chat template takes for now, where it writes the date: `2026-11-26`, or with a time of day. Without it,
    the moment at which the run was planned."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without a date where there is none, so that a run from before it could be set goes on."""
        values = handler(self)
        if self.date is None:
            del values["date"]
        return values

    @field_validator("date")
    @classmethod
    def _without_zone(cls, date: datetime | None) -> datetime | None:
        if date is not None and date.tzinfo is not None:
            raise ValueError("a chat template writes the date without a zone; give it as 2026-11-26T09:30:00.")
        return date

    compares_texts: ClassVar[bool] = True
    templated: ClassVar[bool] = True
    """Whether rows go through a chat template, which can refuse them."""

    reads_gguf: ClassVar[bool] = True
    has_head: ClassVar[bool] = False
    """Whether a head for the classes can be drawn anew."""

    @property
    def lengths(self) -> dict[str, int]:
        """The longest texts in tokens, by the setting that says so."""
        return {"max_length": self.max_length}

    @property
    def answers(self) -> AnswerKind:
        """What its models answer with, by which they are judged."""
        return "text"

    @property
    def primary_metric(self) -> str:
        return "token_accuracy"

    @property
    def judges_whole_responses(self) -> bool:
        """No: a chat has many right answers, and none of them word by word."""
        return False

    @property
    def ask(self) -> Ask:
        if self.shared_tokens is None:
            return ask_for_hidden_states
        return partial(ask_for_hidden_states, tokens=self.shared_tokens)

    def head_of(self, model: PreTrainedModel) -> Head:
        return head_of(model).of_first(self.shared_tokens)

    def prompts(self, tokenizer: Tokenizer) -> ChatPrompts:
        return ChatPrompts(tokenizer, self.max_length, self.train_on, self.date)

    def writes_date(self, rows: Iterable[Example], tokenizer: Tokenizer) -> bool:
        """Whether the chat template writes the date into the prompt of one of these rows."""
        return self._tokens(tokenizer).writes_date(rows)

    def refusals_of_rows(self, tokenizer: Tokenizer) -> Callable[[Example], DataError | None]:
        """What tells why the chat template refuses a row, whether it has a response or not; None where it does not."""
        return self._tokens(tokenizer).refusal

    def read(self, path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[Example]:
        return read_dialogues(path, columns, how=how)

    def label_names(self, splits: Mapping[str, Sequence[Example]]) -> list[str]:
        """None.

        Raises:
            DataError: a row without a response.
        """
        for name, rows in splits.items():
            if missing := [number for number, row in enumerate(rows) if not row.labelled]:
                raise DataError(
                    f"data.{name}: {len(missing)} of {len(rows)} rows have no response, first "
                    f"{row_named(rows, missing[0])}. Give each a completion, or a last turn of the assistant; those of "
                    "train the teacher writes with label.responses: {kind: generated}."
                )
        return []

    def load_config(self, location: str, **where: Any) -> PretrainedConfig:
        folder, file = _file(location)
        config = load_config(folder, **file, **where)
        return _as_weights(config) if file else config

    def load_tokenizer(self, location: str, **where: Any) -> Tokenizer:
        folder, file = _file(location)
        return load_tokenizer(folder, **{**file, **where})

    def load_model(
        self,
        location: str,
        labels: Sequence[str] | None = None,
        classes: Mapping[str, str] = NO_CLASSES,
        *,
        how: Mapping[str, Any] = AS_TRAINED,
        **where: Any,
    ) -> PreTrainedModel:
        """The model, in float32 where `how` does not say otherwise. Never reads pickle files.

        Raises:
            ModelError: it cannot be loaded, or makes its logits in a way that is not known here.
        """
        folder, file = _file(location)
        weights = {} if file else {"use_safetensors": True}
        model, _ = load_weights(AutoModelForCausalLM, folder, **{**weights, **file, **where, **how})
        if file:
            # Read from a quantised file, the weights are ordinary ones from here on.
            plain = AutoModelForCausalLM.from_config(_as_weights(model.config), dtype=torch.float32)
            plain.load_state_dict(model.state_dict())
            plain.generation_config = model.generation_config
            model = plain
        require_known_head(model, location)
        if self.packing:
            require_packing(model, location)
        return model

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights, drawn from torch's global generator."""
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    def encode(self, rows: Iterable[Example], tokenizer: Tokenizer, labels: Sequence[str] = ()) -> PackedRows:
        """Answered examples as packed rows, with the counts of what did not fit.

        Raises:
            DataError: a row that the chat template refuses, or no row of which a token is left to learn.
            ModelError: a tokenizer without a chat template or an end token, where rows need it.
        """
        tokenised, counts = self._tokens(tokenizer).tokenise(rows)
        self.require_shared(tokenised, tokenizer)
        if not tokenised and counts.rows_only_shown:
            raise DataError(
                f"data: no row has a turn to learn: {counts.rows_only_shown} have a weight of 0 at "
                f"{'the last turn' if self.train_on == 'last_turn' else 'every turn'} of the assistant, and "
                f"{counts.examples_dropped} are too long. Set a weight to 1, or leave them out with data.ignore."
            )
        if not tokenised:
            raise DataError(
                f"data: no row has a token to learn within {self.max_length} tokens "
                f'({counts.examples_dropped} too long, first "{next(iter(counts.first_dropped), "")}"). '
                "Raise task.max_length."
            )
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        packed = pack(tokenised, max_length=self.max_length, pad_id=pad or 0, packing=self.packing)
        return replace(packed, counts=counts)

    def _tokens(self, tokenizer: Tokenizer) -> ChatTokens:
        return ChatTokens(tokenizer, self.max_length, self.train_on, self.date)


def _file(location: str) -> tuple[str, dict[str, str]]:
    """The folder of a model, and the GGUF file in it where the location is one."""
    path = Path(location)
    if path.suffix != ".gguf":
        return location, {}
    return str(path.parent), {"gguf_file": path.name}


def _as_weights(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration without a word of how a GGUF file had the weights quantised: they are read as ordinary ones."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def ask_for_hidden_states(model: nn.Module, batch: Batch, *, tokens: int | None = None) -> Signals:
    """Last hidden states, after the final norm, and the head, of the first `tokens` alone where they are given; logits
    are left to who needs them, in chunks."""
    assert isinstance(model, PreTrainedModel)
    inputs = dict(batch.inputs)
    if not _takes_positions(model.base_model):
        inputs.pop("position_ids", None)
    # With a cache, positions that restart are ignored and packed examples would see each other.
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    return Signals(hidden=hidden, head=head_of(model).of_first(tokens))


def head_of(model: PreTrainedModel) -> Head:
    """The map from last hidden states to logits, with the scale and the soft cap that the configuration names."""
    output = model.get_output_embeddings()
    config = model.config.get_text_config()
    # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma caps.
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(output.weight, getattr(output, "bias", None), scale, None if cap is None else float(cap))


def _takes_positions(model: nn.Module) -> bool:
    """Whether a model can be told where its tokens stand; BLOOM, for one, sees it from their order alone."""
    return "position_ids" in inspect.signature(model.forward).parameters


def require_packing(model: PreTrainedModel, location: str) -> None:
    """Compare the states of two examples in one row with those of each by itself.

    Models of families that are known here keep packed examples apart; of others some look at all that stands before.

    Raises:
        ModelError: it does not keep them apart.
    """
    if model.config.model_type in FAMILIES:
        return
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size
    half = PROBE_TOKENS // 2
    positions = torch.arange(half, device=model.device).repeat(2)[None]

    def states(tokens: Tensor, places: Tensor) -> Tensor:
        inputs = {"input_ids": tokens, "position_ids": places}
        batch = Batch(("probe",), inputs, tokens, torch.ones_like(tokens, dtype=torch.bool))
        hidden = ask_for_hidden_states(model, batch).hidden
        assert hidden is not None
        return hidden[0, -half:]

    training = model.training
    model.eval()
    with torch.inference_mode():
        packed, alone = states(ids, positions), states(ids[:, half:], positions[:, half:])
    model.train(training)
    # States of half precision are rounded in every layer, and by other kernels in longer rows.
    share = max(TOLERANCE, 8 * torch.finfo(alone.dtype).eps)
    if not (packed - alone).float().abs().max() <= share * alone.float().abs().max().clamp(min=1.0):
        raise ModelError(
            f"{location}: a {model.config.model_type} model looks at examples that share a row with another, for where "
            "positions restart it does not begin anew. Set task.packing: false."
        )


def require_known_head(model: PreTrainedModel, location: str) -> None:
    """Compare the logits that head and hidden states give with the model's own, on a few tokens.

    Raises:
        ModelError: they differ, so that a loss on hidden states would teach another distribution; or it has no part
            that gives its last hidden states.
    """
    if model.base_model is model:
        raise ModelError(
            f"{location}: a {model.config.model_type} model has no part that gives its last hidden states, which are "
            "what is read of language models here. Take one of another family."
        )
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.config.get_text_config().vocab_size

    def probe() -> tuple[Tensor, Tensor]:
        own = model(input_ids=ids, use_cache=False).logits[0]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        return own, head_of(model).logits(hidden)

    require_same_logits(model, location, probe, of="last hidden states")
