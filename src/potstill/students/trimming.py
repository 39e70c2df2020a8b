"""The student's own tokenizer and ids, where it has only some of its teacher's pieces."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from potstill.errors import ModelError
from potstill.models import Positions, family_of
from potstill.students.pieces import Rules, kept_ids, with_pieces
from potstill.students.vocabulary import TrimmedVocabulary

KEPT_FILES = {"tokenizer_config.json", "chat_template.jinja"}
"""Of a tokenizer's folder, beside its rules: what names no pieces."""


@dataclass(frozen=True)
class Trimmed:
    """A vocabulary of some of the teacher's pieces."""

    tokenizer: PreTrainedTokenizerBase
    kept: Int64[Tensor, "pieces"]
    """The teacher's id of each piece, in the order of the student's own ids."""

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """The student's id of each of the teacher's that is kept."""
        return {old: new for new, old in enumerate(self.kept.tolist())}

    def config(self, whole: PretrainedConfig) -> PretrainedConfig:
        """A configuration of the teacher's vocabulary, in this one."""
        values = whole.to_dict()
        values["vocab_size"] = len(self.kept)
        for field, number in _named_tokens(whole).items():
            ids = number if isinstance(number, list) else [number]
            if missing := [each for each in ids if each not in self.numbers]:
                raise ModelError(
                    f"student.vocabulary: the configuration names {missing[0]} as its {field}, and the tokenizer has "
                    "no such token. Correct it in the teacher's config.json, or use full."
                )
            values[field] = (
                [self.numbers[each] for each in number] if isinstance(number, list) else self.numbers[number]
            )
        return type(whole).from_dict(values)


def trim(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    counts: Int64[Tensor, "vocabulary"],
    settings: TrimmedVocabulary,
) -> Trimmed:
    """The vocabulary of the pieces that occur, by how often each of the teacher's does.

    Raises:
        ModelError: a tokenizer that cannot be trimmed, or would read otherwise once it is saved.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"student.vocabulary: the teacher's tokenizer ({type(tokenizer).__name__}) runs in Python, and only those "
            "of the tokenizers library can be trimmed. Convert it, or use full."
        )
    rules: Rules = json.loads(tokenizer.backend_tokenizer.to_str())
    wanted = set(torch.nonzero(counts >= settings.min_count).flatten().tolist())
    wanted |= set(tokenizer.all_special_ids)
    for number in _named_tokens(config).values():
        wanted |= set(number) if isinstance(number, list) else {number}
    if family_of(config).positions is Positions.LEARNT_AFTER_PADDING:
        # The padding token's id is where positions begin, and some classes of tokenizers expect "unknown" at its id.
        fixed = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        wanted |= set(range(1 + max(number for number in fixed if number is not None)))
    kept = kept_ids(rules, wanted)
    return Trimmed(_saved_and_loaded(tokenizer, with_pieces(rules, kept)), torch.tensor(kept))


def _named_tokens(config: PretrainedConfig) -> dict[str, Any]:
    """The ids of tokens that a configuration names, such as `pad_token_id`."""
    return {
        field: number
        for field, number in config.to_dict().items()
        if field.endswith("_token_id") and number is not None and number != -1
    }


def _saved_and_loaded(tokenizer: PreTrainedTokenizerBase, rules: Rules) -> PreTrainedTokenizerBase:
    """A tokenizer of these rules, as it comes out of the folder in which it will be saved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for path in folder.iterdir():
            if path.name not in KEPT_FILES:
                path.unlink()
        (folder / "tokenizer.json").write_text(json.dumps(rules, ensure_ascii=False), encoding="utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)  # by their old ids; the rules have them too
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        loaded = type(tokenizer).from_pretrained(folder)
    if _without_lengths(json.loads(loaded.backend_tokenizer.to_str())) != _without_lengths(rules):
        raise ModelError(
            f"student.vocabulary: {type(tokenizer).__name__} does not load the rules of a smaller vocabulary as they "
            "are written, so that it would read other pieces. Use full."
        )
    return loaded


def _without_lengths(rules: Rules) -> Rules:
    """Padding and truncation are set call by call."""
    return rules | {"padding": None, "truncation": None}
