"""A chat template at work: what it makes of turns and of what goes with them, at a moment that is given."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from potstill.data.turns import Message
from potstill.errors import DataError, ModelError

CLOCK = "strftime_now"
"""The function by which a template reads the date."""
MOMENTS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2032, 11, 29, 21, 47, 58))
"""Two that no format writes alike."""


@dataclass(frozen=True)
class Template:
    """The chat template of a tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    moment: datetime | None = None
    """What the template takes for now; None for the time of each rendering."""

    def rendered(
        self,
        row: str,
        messages: Sequence[Message],
        *,
        tools: list[Any] | None,
        values: dict[str, Any],
        reasoning_key: str,
        add_generation_prompt: bool,
    ) -> str:
        """The text of the turns; `row` is named in errors.

        Raises:
            DataError: turns that the template refuses.
            ModelError: a date that cannot be set.
        """
        turns = [
            {"role": message.role, "content": message.content}
            | ({} if message.reasoning is None else {reasoning_key: message.reasoning})
            for message in messages
        ]
        try:
            with self._clock():
                return str(
                    self.tokenizer.apply_chat_template(
                        turns, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt, **values
                    )
                )
        except TemplateError as error:
            raise DataError(
                f'row "{row}": the chat template refuses the conversation: {error}. Change its turns, or drop it.'
            ) from error

    def names(self, variable: str, *, tools: list[Any] | None = None) -> bool:
        """Whether the text of the template has this name anywhere."""
        text = self.tokenizer.get_chat_template(tools=tools)
        return re.search(rf"(?<!\w){re.escape(variable)}(?!\w)", text) is not None

    @cached_property
    def reads_clock(self) -> bool:
        """Whether it can write the date; whether it does depends on the conversation."""
        template = self.tokenizer.chat_template
        texts = template.values() if isinstance(template, dict) else [template or ""]
        return any(CLOCK in text for text in texts)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        if self.moment is None or not self.reads_clock:
            yield
            return
        if not self._clock_stops:
            raise ModelError(
                "the chat template writes the date, and this version of transformers reads it in a way that is not "
                "known here, so that it cannot be set. Use transformers 5.23, or a template without it."
            )
        with stopped_clock(self.moment):
            yield

    @cached_property
    def _clock_stops(self) -> bool:
        """Whether a template is given a moment instead of the present."""
        probe = "{{ " + CLOCK + "('%Y-%m-%d %H:%M:%S') }}"
        with stopped_clock(MOMENTS[0]):
            turns = [{"role": "user", "content": "x"}]
            shown = self.tokenizer.apply_chat_template(turns, chat_template=probe, tokenize=False)
        return bool(shown == str(MOMENTS[0]))


@contextmanager
def stopped_clock(moment: datetime) -> Iterator[None]:
    """Templates of transformers that ask for the date get this one.

    They read it through one name of one module, and a function among the values of a template is not let through.
    """

    running = chat_template_utils.datetime
    chat_template_utils.datetime = _Stopped(moment)
    try:
        yield
    finally:
        chat_template_utils.datetime = running


@dataclass(frozen=True)
class _Stopped:
    moment: datetime

    def now(self) -> datetime:
        return self.moment
