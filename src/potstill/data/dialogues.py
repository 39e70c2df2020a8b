"""Examples for language models: conversations, prompts with a completion, plain texts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from potstill.data.generated import GeneratedResponse
from potstill.data.turns import Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns. Where the last is not the assistant's, the teacher writes the response."""

    id: str
    messages: tuple[Message, ...]
    domain: str | None = None
    tools: str | None = None
    """As JSON, the list of the tools that the template is given."""
    template_kwargs: str | None = None
    """As JSON, what else the template is given, by name."""

    @property
    def text(self) -> str:
        return _text_of(self.messages)

    @property
    def own_text(self) -> str:
        return _text_of(message for message in self.messages if message.role != "system")

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return self.messages[-1].role == "assistant"

    @property
    def content(self) -> list[Any]:
        turns = [message.values for message in self.messages]
        if self.beside:
            return [self.id, turns, self.domain, self.tools, self.template_kwargs]
        return [self.id, turns, *_given(self.domain)]

    @property
    def beside(self) -> str:
        """What the template is given beside the turns: with other tools, the same turns ask for something else."""
        return (self.tools or "") + (self.template_kwargs or "")

    @classmethod
    def of(cls, content: list[Any]) -> "Conversation":
        identity, messages, *others = content
        return cls(identity, tuple(map(Message.of, messages)), *others)


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and how it goes on; without a completion, the teacher writes it."""

    id: str
    prompt: str
    completion: str | None
    domain: str | None = None

    @property
    def text(self) -> str:
        return self.prompt + (self.completion or "")

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return self.completion is not None

    @property
    def content(self) -> list[Any]:
        return [self.id, self.prompt, self.completion, *_given(self.domain)]

    @classmethod
    def of(cls, content: list[Any]) -> "Completion":
        return cls(*content)


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text of which every token is to be learnt."""

    id: str
    text: str
    domain: str | None = None

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return True

    @property
    def content(self) -> list[Any]:
        return [self.id, self.text, *_given(self.domain)]

    @classmethod
    def of(cls, content: list[Any]) -> "PlainText":
        return cls(*content)


@dataclass(frozen=True, slots=True)
class WrittenResponse:
    """A response that a teacher wrote, as text, for models with other tokens than its own."""

    id: str
    asked: Conversation | Completion
    """Without a response."""
    response: str
    ended: bool
    """Or it was cut at the greatest length."""
    domain: str | None = None

    @property
    def text(self) -> str:
        return self.asked.text + self.response

    @property
    def own_text(self) -> str:
        return self.response

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return True

    @property
    def content(self) -> list[Any]:
        return [self.id, self.asked.content, self.response, self.ended]


def _text_of(messages: Iterable[Message]) -> str:
    return "\n\n".join(part for message in messages for part in (message.reasoning, message.said) if part)


def _given(domain: str | None) -> list[str]:
    # Content without a domain stays as it was before there were any, and so do runs.
    return [] if domain is None else [domain]


Example: TypeAlias = Conversation | Completion | PlainText | GeneratedResponse | WrittenResponse


def prompt_of(example: Example) -> Example:
    """The example without its last response, where it has one."""
    if isinstance(example, Completion):
        return replace(example, completion=None)
    if isinstance(example, Conversation) and example.labelled:
        return replace(example, messages=example.messages[:-1])
    return example
