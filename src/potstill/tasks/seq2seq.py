"""Sequence to sequence: encoder-decoder models that read a source and write its target.

They are read by their decoder's last hidden states and their head, as language models are, and never by whole logits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from potstill.data.columns import Columns
from potstill.data.generated import GeneratedResponse
from potstill.data.on_disk import OnDisk, row_named
from potstill.data.pair_tokens import PairRows, PairTokens
from potstill.data.pairs import Pair, read_pairs
from potstill.data.reading import Reading
from potstill.data.tokens import Prompt
from potstill.errors import DataError, ModelError
from potstill.records import AnswerKind
from potstill.signals import Ask, Batch, Signals
from potstill.targets import Head
from potstill.tasks.classes import NO_CLASSES, TEACHER
from potstill.tasks.generative import PROBE_TOKENS, require_same_logits
from potstill.tasks.generative_settings import GenerativeSettings
from potstill.tasks.loading import load_config, load_tokenizer
from potstill.tasks.tensors import has_own_head
from potstill.tasks.weights import AS_TRAINED, load_weights


class Seq2Seq(GenerativeSettings):
    """A target written for each source, such as a translation or a summary; the model is an encoder-decoder."""

    kind: Literal["seq2seq"] = "seq2seq"
    max_length: int = Field(default=512, ge=8)
    """Longest source in tokens; what is cut is counted and reported. Latency grows with it."""
    max_target_length: int = Field(default=128, ge=2)
    """Longest target in tokens, with the one that ends it; what is cut is counted, and its end is not learnt."""

    date: ClassVar[None] = None
    templated: ClassVar[bool] = False
    packing: ClassVar[bool] = False
    """Whether examples share rows."""

    def writes_date(self, rows: Iterable[Pair], tokenizer: Tokenizer) -> bool:
        """No: sources are read as they are."""
        return False

    def refusals_of_rows(self, tokenizer: Tokenizer) -> None:
        """None: every source can be read."""

    @property
    def judges_whole_responses(self) -> bool:
        """A target is right or wrong as a whole, too."""
        return True

    reads_gguf: ClassVar[bool] = False
    has_head: ClassVar[bool] = False
    """Whether a head for the classes can be drawn anew."""

    @property
    def lengths(self) -> dict[str, int]:
        """The longest texts in tokens, by the setting that says so."""
        return {"max_length": self.max_length, "max_target_length": self.max_target_length}

    @property
    def answers(self) -> AnswerKind:
        """What its models answer with, by which they are judged."""
        return "target"

    @property
    def primary_metric(self) -> str:
        return "exact_match"

    @property
    def ask(self) -> Ask:
        if self.shared_tokens is None:
            return ask_for_hidden_states
        return partial(ask_for_hidden_states, tokens=self.shared_tokens)

    def head_of(self, model: PreTrainedModel) -> Head:
        return head_of(model).of_first(self.shared_tokens)

    def prompts(self, tokenizer: Tokenizer) -> "Sources":
        return Sources(self._tokens(tokenizer), self.max_target_length)

    def read(self, path: Path, columns: Columns, *, how: Reading | None = None) -> OnDisk[Pair]:
        return read_pairs(path, columns, how=how)

    def label_names(self, splits: Mapping[str, Sequence[Pair]]) -> list[str]:
        """None.

        Raises:
            DataError: a row without a target.
        """
        for name, rows in splits.items():
            if missing := [number for number, row in enumerate(rows) if not row.labelled]:
                raise DataError(
                    f"data.{name}: {len(missing)} of {len(rows)} rows have no target, first "
                    f"{row_named(rows, missing[0])}. Give each one; those of train the teacher writes with "
                    "label.responses: {kind: generated}."
                )
        return []

    def check_tokenizer(self, tokenizer: Tokenizer, config: PretrainedConfig, *, where: str = TEACHER) -> None:
        """Every token must have a row in the embedding matrix, which is that of sources and targets, and the decoder a
        token to start from.

        Raises:
            ModelError: names what is missing, or says that there are two.
        """
        if not getattr(config, "share_encoder_decoder_embeddings", True):
            raise ModelError(
                f"{where}.model: sources and targets of this {config.model_type} model have a vocabulary each "
                "(share_encoder_decoder_embeddings is false), and here one tokenizer reads both. Take a model that has "
                "one for both."
            )
        super().check_tokenizer(tokenizer, config, where=where)
        start_token(config)

    def load_config(self, location: str, **where: Any) -> PretrainedConfig:
        return load_config(location, **where)

    def load_tokenizer(self, location: str, **where: Any) -> Tokenizer:
        return load_tokenizer(location, **where)

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
        model, _ = load_weights(AutoModelForSeq2SeqLM, location, use_safetensors=True, **where, **how)
        require_known_head(model, location)
        return model

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights, drawn from torch's global generator."""
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
        if has_own_head(config):
            # transformers ties it all the same, and leaves it apart only where a checkpoint has two that differ.
            output = model.get_output_embeddings()
            output.weight = nn.Parameter(torch.empty_like(output.weight).normal_(std=config.initializer_factor))
        return model

    def encode(
        self, rows: Iterable[Pair | GeneratedResponse], tokenizer: Tokenizer, labels: Sequence[str] = ()
    ) -> PairRows:
        """Answered pairs as token ids, with the counts of what did not fit.

        Raises:
            DataError: an id that occurs twice.
            ModelError: a tokenizer without an end token.
        """
        examples, counts = self._tokens(tokenizer).tokenise(rows)
        self.require_shared(examples, tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return PairRows(examples, pad or 0, counts)

    def _tokens(self, tokenizer: Tokenizer) -> PairTokens:
        return PairTokens(tokenizer, self.max_length, self.max_target_length)


class Sources:
    """The sources of pairs as prompts: they go into the encoder, and take no room of the target's."""

    def __init__(self, tokens: PairTokens, max_target: int) -> None:
        self._tokens = tokens
        self._room = max_target

    def asks(self, row: Pair) -> bool:
        return True

    def of(self, row: Pair, *, every: bool) -> Iterator[tuple[str, Prompt]]:
        yield row.id, self.last(row)

    def last(self, row: Pair) -> Prompt:
        ids, _ = self._tokens.source_ids(row.source)
        return ids

    def room(self, prompt: Prompt) -> int:
        return self._room

    def end_of(self, row: Pair) -> int:
        return self._tokens.end

    def shown(self, row: Pair) -> tuple[str, str]:
        return row.source, row.target or ""

    def reference(self, row: Pair) -> list[int]:
        return self._tokens.text_ids(row.target or "")


def ask_for_hidden_states(model: nn.Module, batch: Batch, *, tokens: int | None = None) -> Signals:
    """The decoder's last hidden states, after its final norm, and the head, of the first `tokens` alone where they are
    given; logits are left to who needs them."""
    assert isinstance(model, PreTrainedModel)
    inputs = batch.inputs
    attention = inputs["attention_mask"]
    # The stacks by themselves, for some models make whole logits beside their states.
    memory = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=attention).last_hidden_state
    outputs = model.get_decoder()(
        input_ids=shifted(inputs["target_ids"], start_token(model.config)),
        attention_mask=inputs["decoder_attention_mask"],
        encoder_hidden_states=memory,
        encoder_attention_mask=attention,
        use_cache=False,
    )
    return Signals(hidden=outputs.last_hidden_state, head=head_of(model).of_first(tokens))


def shifted(targets: Int[Tensor, "rows length"], start: int) -> Int[Tensor, "rows length"]:
    """What the decoder is shown at each position: the start token, then the target up to the token before."""
    return torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], dim=1)


def start_token(config: PretrainedConfig) -> int:
    """The token that a decoder starts from: of T5 the padding, of BART the end of a sequence.

    Raises:
        ModelError: the configuration does not tell.
    """
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise ModelError(
            f"teacher.model: the configuration of this {config.model_type} model has no decoder_start_token_id, so "
            "what its decoder starts from is not known. Set it in config.json as it was in training (T5: pad_token_id)."
        )
    return int(start)


def head_of(model: PreTrainedModel) -> Head:
    """The map from the decoder's last hidden states to logits.

    T5 multiplies by d_model**-0.5 where its configuration says so; BART adds a bias that is no weight.
    """
    output = model.get_output_embeddings()
    bias = getattr(output, "bias", None)
    fixed = getattr(model, "final_logits_bias", None)
    if fixed is not None:
        bias = fixed[0] if bias is None else bias + fixed[0]
    config = model.config
    scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    return Head(output.weight, bias, scale)


def require_known_head(model: PreTrainedModel, location: str) -> None:
    """Compare the logits that head and hidden states give with the model's own, on a few tokens.

    Raises:
        ModelError: no encoder-decoder, or its logits differ, so that a loss would teach another distribution.
    """
    if not model.config.is_encoder_decoder:
        raise ModelError(f"{location}: {model.config.model_type!r} is no encoder-decoder. Use task.kind: causal_lm.")
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.config.vocab_size
    ones = torch.ones_like(ids)
    given = {"input_ids": ids, "attention_mask": ones, "target_ids": ids.flip(1), "decoder_attention_mask": ones}

    def probe() -> tuple[Tensor, Tensor]:
        shown = shifted(given["target_ids"], start_token(model.config))
        own = model(input_ids=ids, decoder_input_ids=shown, use_cache=False).logits[0]
        outputs = ask_for_hidden_states(model, Batch(("probe",), given, given["target_ids"], ones.bool()))
        assert outputs.hidden is not None and outputs.head is not None
        return own, outputs.head.logits(outputs.hidden[0])

    require_same_logits(model, location, probe, of="decoder's last hidden states")
