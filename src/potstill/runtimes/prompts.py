"""What models that write are shown of rows of JSON: the token ids that evaluation shows them of the same rows."""

import sys
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from potstill.artefacts.manifest import Manifest
from potstill.data.chat_tokens import ChatTokens
from potstill.data.dialogue_rows import read_conversation
from potstill.data.dialogues import Completion, Conversation
from potstill.data.pair_tokens import PairTokens
from potstill.data.places import Place
from potstill.errors import DataError
from potstill.runtimes.answering import Row, text_of


def prompts_of(tokenizer: PreTrainedTokenizerBase, manifest: Manifest) -> Callable[[Row], list[int]]:
    """What gives the prompt of a row, in which no string of the row is a special token.

    Messages go through the chat template, and a text stands as it is.
    """
    # Of folders that do not say what is read at a time, nothing is cut.
    most = manifest.max_length or sys.maxsize
    if manifest.answers == "target":
        pairs = PairTokens(tokenizer, most, most)
        return lambda row: pairs.source_ids(_one_text(row))[0].tolist()
    tokens = ChatTokens(tokenizer, most)
    return lambda row: tokens.prompt_ids(_asked(row)).tolist()


def _asked(row: Row) -> Conversation | Completion:
    messages = row.get("messages")
    if not isinstance(messages, list):
        return Completion("", _one_text(row), None)
    asked = read_conversation(messages, row, Place(Path("the row"), "its"))
    assert isinstance(asked, Conversation)
    return asked


def _one_text(row: Row) -> str:
    text = text_of(row)
    if not isinstance(text, str):
        raise DataError("this model reads one text, and the row has a second, text_pair. Drop it.")
    return text
