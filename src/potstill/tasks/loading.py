"""What every task needs to load a model: one clear error for a bad one, and a fingerprint of its tokenizer."""

import copy
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from potstill.data.encoded import TOKEN_TYPES
from potstill.errors import ModelError
from potstill.locations import is_hub_id

_UNREADABLE = (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError, RuntimeError)
_MALFORMED = (KeyError, TypeError, AttributeError)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers writes, and the hub's library each time that it tries again: what matters of it is an
    error here, or a warning of the plan."""
    before, of_hub = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
        hub_logging.set_verbosity(of_hub)


class explained:
    """Turns what transformers raises for a missing or unreadable model into a ModelError."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and is_hub_id(self._location) and not Path(self._location).exists():
            raise ModelError(
                f"{self._location}: there is no such folder, and as a hub id it cannot be fetched: {_reason(error)} "
                "Name a folder that is there, beside the recipe or by its whole path, or a model of the hub."
            ) from error
        if isinstance(error, _UNREADABLE):
            raise ModelError(f"{self._location}: cannot be loaded: {_reason(error)}") from error
        if isinstance(error, _MALFORMED):
            # What transformers runs into when a file has values of another form than it takes for granted.
            name = type(error).__name__
            raise ModelError(
                f"{self._location}: cannot be loaded, a file of it is malformed: {name} {error}"
            ) from error


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if any("trust_remote_code" in line for line in lines):
        return (
            "it brings code of its own, which is run only where the recipe says so. Read that code, then set "
            "teacher.trust_remote_code: true."
        )
    if unread := re.search(
        r"Unrecognized configuration class .*\.(\w+)Config'> for this kind of AutoModel: (\w+)",
        lines[0] if lines else "",
    ):
        return f"a {unread[1]} model is none that {unread[2]} reads. Take one of another family, or set task.kind."
    if isinstance(error, StrictDataclassError):
        return " ".join(lines)
    return next(iter(lines), type(error).__name__)


def place_of(location: str, given: Mapping[str, Any]) -> str:
    """What an error names: the GGUF file, where one of the folder is read."""
    return str(Path(location, given["gguf_file"])) if "gguf_file" in given else location


def load_config(location: str, **where: Any) -> PretrainedConfig:
    """The configuration of a model.

    Raises:
        ModelError: there is none, or one that transformers cannot read.
    """
    with explained(place_of(location, where)), quiet():
        return AutoConfig.from_pretrained(location, **where)


def load_tokenizer(
    location: str, load: Callable[..., PreTrainedTokenizerBase] = AutoTokenizer.from_pretrained, **where: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ModelError: there is none, or one without a vocabulary, which reads every text as the same token.
    """
    place = place_of(location, where)
    with explained(place):
        tokenizer = load(location, **where)
    pieces = set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens)
    if not pieces:
        raise ModelError(
            f"{place}: its tokenizer has no vocabulary: all of its {len(tokenizer.get_vocab())} tokens are special "
            "or added ones, and every text reads as unknown. Copy the tokenizer's files (tokenizer.json, or vocab.txt "
            "and the like) from the model that it was trained from."
        )
    return tokenizer


def require_embedded(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, where: str) -> None:
    """Every token of a tokenizer must have a row in the embedding matrix.

    Raises:
        ModelError: names the first token beyond it.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is None:
        raise ModelError(f"{where}.model: a {config.model_type} model has no vocabulary, so it reads no text.")
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        raise ModelError(
            f"{where}.model: token {token!r} has the id {number}, and the model has {rows} tokens. "
            "Resize its embeddings, or take the tokenizer that it was trained with."
        )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over what decides the token ids of a text or a chat: vocabulary, rules, special tokens, template.

    Without the rules of one that runs in Python, so that runs from before these were looked at go on: `reads_alike`
    compares them, and a teacher's digest is over all of its files.
    """
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
    content: list[Any] = [sorted(tokenizer.get_vocab().items()), json.loads(rules) if rules else None]
    # Padding and truncation are set call by call and change no id.
    if content[1]:
        content[1] |= {"padding": None, "truncation": None}
    content += [tokenizer.chat_template, {name: str(token) for name, token in tokenizer.special_tokens_map.items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def reads_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers make the same token ids of texts and chats, by their fingerprints and their rules."""
    return tokenizer_fingerprint(one) == tokenizer_fingerprint(other) and (
        (one.is_fast and other.is_fast) or _rules_in_python(one) == _rules_in_python(other)
    )


def _rules_in_python(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, Any]:
    """What a tokenizer is saved as, which is all that its class is made from again: by the names of its files."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        saved: dict[str, Any] = {path.name: path.read_bytes() for path in Path(name).iterdir() if path.is_file()}
    settings = json.loads(saved.pop("tokenizer_config.json"))
    return saved | {key: value for key, value in settings.items() if key not in _NO_RULES}


_NO_RULES = frozenset(
    {"model_max_length", "model_input_names", "name_or_path", "padding_side", "truncation_side", "processor_class"}
)
"""Settings of a tokenizer that change no id of a text: lengths and sides are set call by call."""


def without_token_types(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer for a model that takes no token types, also when it is saved and loaded again."""
    other = copy.deepcopy(tokenizer)
    names = [name for name in tokenizer.model_input_names if name != TOKEN_TYPES]
    other.model_input_names = names
    other.init_kwargs["model_input_names"] = names
    return other
