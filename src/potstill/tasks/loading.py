"""What every task needs to load a model: one clear error for a bad one, and a fingerprint of its tokenizer."""

import copy
import hashlib
import json
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from potstill.errors import ModelError

TOKEN_TYPES = "token_type_ids"


class explained:
    """Turns what transformers raises for a missing or unreadable model into a ModelError."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ValueError | ImportError | SafetensorError):
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(f"{self._location}: cannot be loaded: {reason}") from error


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over what decides the token ids of a text or a chat: vocabulary, rules, special tokens, template."""
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
    content: list[Any] = [sorted(tokenizer.get_vocab().items()), json.loads(rules) if rules else None]
    # Padding and truncation are set call by call and change no id.
    if content[1]:
        content[1] |= {"padding": None, "truncation": None}
    content += [tokenizer.chat_template, {name: str(token) for name, token in tokenizer.special_tokens_map.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def without_token_types(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer for a model that takes no token types, also when it is saved and loaded again."""
    other = copy.deepcopy(tokenizer)
    names = [name for name in tokenizer.model_input_names if name != TOKEN_TYPES]
    other.model_input_names = names
    other.init_kwargs["model_input_names"] = names
    return other
