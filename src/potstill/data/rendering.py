"""A chat template at work: what it makes of turns and of what goes with them, at a moment that is given."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from potstill.data.tool_calls import FORMS, CallForm
from potstill.data.turns import Message
from potstill.errors import DataError, ModelError

CLOCK = "strftime_now"
"""The function by which a template reads the date."""
MOMENTS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2032, 11, 29, 21, 47, 58))
"""Two that no format writes alike."""
_FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What the expressions of a template can raise, which are Python's."""
_EXAMPLE = (Message("user", "x"), Message("assistant", "x"), Message("user", "x"))


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
        call_form: CallForm = FORMS[0],
    ) -> str:
        """The text of the turns; `row` is named in errors.

        Raises:
            DataError: turns that the template refuses.
            ModelError: a date that cannot be set.
        """
        turns = [_turn(message, reasoning_key, call_form) for message in messages]

        def written(tools: list[Any] | None, values: dict[str, Any]) -> str:
            with self._clock():
                return str(
                    self.tokenizer.apply_chat_template(
                        turns, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt, **values
                    )
                )

        try:
            return written(tools, values)
        except _FAILURES as error:
            if tools and _works(lambda: written(None, values)):
                fix = "Correct its tools, or leave them out with data.ignore: [tools]"
            elif values and _works(lambda: written(tools, {})):
                fix = "Correct its chat_template_kwargs, or leave them out with data.ignore: [chat_template_kwargs]"
            else:
                fix = "Change its turns, or drop it"
            problem = str(error).removesuffix(".")
            if not isinstance(error, TemplateError):
                problem = f"{type(error).__name__}: {problem}"
            raise DataError(f'row "{row}": the chat template refuses the conversation: {problem}. {fix}.') from error

    def arguments(self, *, tools: list[Any] | None = None) -> frozenset[str]:
        """The names that the template reads from what it is given.

        Raises:
            ModelError: it is no Jinja, or is one of several of which none is the default.
        """
        return _names_read_by(self._text(tools))

    def _text(self, tools: list[Any] | None) -> str:
        named = self.tokenizer.chat_template
        if isinstance(named, dict) and "default" not in named and not (tools and "tool_use" in named):
            raise ModelError(
                f"the tokenizer has chat templates for {', '.join(sorted(named))} and none that is the default. Save "
                "the one to use as chat_template.jinja in the folder of the model."
            )
        return str(self.tokenizer.get_chat_template(tools=tools))

    @cached_property
    def frame(self) -> str:
        """What the template writes of turns that say next to nothing; nothing where it refuses them."""
        if not self.tokenizer.chat_template:
            return ""
        try:
            return self.rendered("", _EXAMPLE, tools=None, values={}, reasoning_key="", add_generation_prompt=True)
        except DataError:
            return ""

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


def _turn(message: Message, reasoning_key: str, form: CallForm) -> dict[str, Any]:
    """A turn as templates take it."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        turn[reasoning_key] = message.reasoning
    if message.calls:
        turn["content"] = message.content or form.empty
        turn["tool_calls"] = [call.given(as_text=form.arguments_as_text) for call in message.calls]
    for key, value in (("tool_call_id", message.call_id), ("name", message.name)):
        if value is not None:
            turn[key] = value
    return turn


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


def _works(render: Callable[[], str]) -> bool:
    try:
        render()
    except _FAILURES:
        return False
    return True


@lru_cache(maxsize=8)
def _names_read_by(text: str) -> frozenset[str]:
    """The names that a template looks up and does not have from Jinja or transformers."""
    try:
        environment = chat_template_utils._compile_jinja_template(text).environment
        return frozenset(meta.find_undeclared_variables(environment.parse(text)))
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template of the tokenizer is no valid Jinja: line {error.lineno}: {error.message}. Correct it, "
            "or take another tokenizer."
        ) from error
