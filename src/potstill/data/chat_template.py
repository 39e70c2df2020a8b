"""A conversation in the words of a chat template: for each response, what inference shows before it, and what to say.

Nothing is searched for in a rendered conversation. A template is asked for the prompt before a response, and, with a
placeholder for the response, for what it writes after one.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from potstill.data.dialogues import Conversation
from potstill.data.guarded import Shown, strings_of
from potstill.data.reasoning_blocks import (
    END,
    after_prompt,
    after_reasoning,
    lead_of,
    lead_without_reasoning,
    problem_of_block,
    said_after,
    without_empty_block,
)
from potstill.data.rendering import Template
from potstill.data.shown_turns import FIX_OF_CALLS, problem_of_shown
from potstill.data.special_tokens import SpecialTokens, any_of, ids_after, token_ids
from potstill.data.tool_calls import FORMS, CallForm, problem_of_calls
from potstill.data.turns import REASONING, Message
from potstill.errors import DataError, ModelError

_SWITCHES = ("enable_thinking", "thinking")
"""The arguments by which most templates are told whether there is reasoning: Qwen's and DeepSeek's."""
_SPELLED = frozenset({"true", "false", "null"})


@dataclass(frozen=True)
class Turn:
    """Token ids of what a model is shown, as far as it is new, and of what it must then say."""

    shown: list[int]
    response: list[int]


class Chat:
    """One conversation and the template of a tokenizer.

    Where contents, tools or arguments hold strings of special tokens, the template is given placeholders for these,
    and `ids` reads each placeholder as the text that it stands for: special tokens come from the template alone.
    """

    def __init__(self, conversation: Conversation, template: Template, special_tokens: SpecialTokens) -> None:
        self._row = conversation.id
        self._template = template
        self._tokenizer = template.tokenizer
        if not self._tokenizer.chat_template:
            raise ModelError(
                f'row "{conversation.id}" has messages, but the tokenizer has no chat template. Take the tokenizer of '
                "an instruction-tuned model, or give rows with prompt and completion."
            )
        self._special = special_tokens
        tools = json.loads(conversation.tools) if conversation.tools else None
        values = json.loads(conversation.template_kwargs) if conversation.template_kwargs else {}
        self._plain = Shown(conversation.messages, tools, values)
        # No content holds its own hash, so these strings occur nowhere else.
        whole = repr(conversation.messages) + conversation.beside
        digest = hashlib.sha256(whole.encode()).hexdigest()[:32]
        self._content, self._reasoning = f"{digest}content", f"{digest}reasoning"
        arguments = [json.loads(call.arguments) for message in conversation.messages for call in message.calls]
        texts = [conversation.text, *strings_of([tools, values, arguments])]
        strings = sorted({string for text in texts for string in special_tokens.strings.findall(text)})
        self._texts = {f"{digest}text{number:04}": string for number, string in enumerate(strings)}
        self._placeholders = any_of(self._texts)
        names = {string: name for name, string in self._texts.items()}

        def guarded(text: str) -> str:
            return special_tokens.strings.sub(lambda match: names[match.group()], text)

        self._guarded = self._plain.changed(guarded)
        self._messages = self._guarded.messages
        answers = [number for number, message in enumerate(conversation.messages) if message.role == "assistant"]
        self._learnt = [(number, conversation.messages[number].learnt) for number in answers]
        self.rewritten = False
        """Whether the template writes something else around a content or its reasoning than the data have there."""
        read = template.arguments(tools=tools)
        self._switches = [name for name in _SWITCHES if name in read]
        for name, value in values.items():
            # Parquet gives every object every key, and so do data sets that were in it.
            if value not in (None, "", [], {}) and name not in read:
                raise DataError(
                    f'row "{self._row}": the chat template does not read {name!r} of chat_template_kwargs. Drop it, or '
                    "leave all of them out with data.ignore: [chat_template_kwargs]."
                )
            if isinstance(value, str) and value.strip().lower() in _SPELLED:
                raise DataError(
                    f'row "{self._row}": {name} of chat_template_kwargs is the text {value!r}, and templates take any '
                    f"text for true. Write {value.strip().lower()} without quotes."
                )

    def examples(self, *, last_only: bool) -> list[list[Turn]]:
        """The conversation as one example, or as more where the template does not repeat earlier turns as they were
        written; as none where nothing of it is to be learnt.

        Raises:
            DataError: a conversation that the template refuses, rewrites or does not show whole, or its tools.
            ModelError: a template that rewrites every response, ends none with a token, or is no Jinja.
        """
        answers = [number for number, learnt in (self._learnt[-1:] if last_only else self._learnt) if learnt]
        examples: list[list[Turn]] = []
        before: str | None = None
        end = ""
        for number in answers:
            prompt = self._prompt(number)
            goes_on = before is not None and prompt.startswith(before)
            # The end of the last turn stands before the new part, for it can take in the white space behind it.
            new = end + prompt[len(before) :] if before is not None and goes_on else prompt
            response, end = self._response(number, prompt)
            self._refuse(problem_of_shown(prompt, self._messages[:number]))
            shown = self._ids(new)
            ids = ids_after(shown, self._ids(new + response))
            if goes_on:
                examples[-1].append(Turn(shown[1:], ids or self._ids(response)))
            else:
                examples.append([Turn(shown, ids or self._ids(response))])
            # Where the response melts into the prompt, a later prompt would not have the tokens that were learnt.
            before = prompt + response if ids else None
        return examples

    def prompt_ids(self) -> list[int]:
        """What a model is shown before it writes the last response.

        Raises:
            DataError: a conversation that the template refuses, rewrites or does not show whole, or its tools.
        """
        return self._ids(self._whole_prompt())

    def written_after(self, text: str) -> Turn:
        """What is shown, and what a model wrote then, read as it stands there and not alone. Raises as `prompt_ids`."""
        prompt = self._whole_prompt()
        shown = self._ids(prompt)
        ids = [] if self._special.strings.search(text) else ids_after(shown, self._ids(prompt + text))
        return Turn(shown, ids or token_ids(self._tokenizer, text, split_special_tokens=True))

    def end_id(self) -> int:
        """The token that ends a response.

        Raises:
            DataError, ModelError: as `examples`.
        """
        _, end = self._around(self._turns_shown, Message("assistant", self._content))
        return int(self._tokenizer.convert_tokens_to_ids(end.group()))

    def prompt_text(self) -> str:
        """The text of `prompt_ids`; raises as that."""
        return self._whole_prompt()

    @property
    def _turns_shown(self) -> int:
        return len(self._messages) - (self._messages[-1].role == "assistant")

    def _prompt(self, turns: int) -> str:
        """What inference shows after the first `turns` messages."""
        shown = self._rendered(self._messages[:turns], add_generation_prompt=True)
        if self._texts:
            plain = self._of(self._plain, self._plain.messages[:turns], add_generation_prompt=True)
            self._require_written(shown, plain)
        if self._guarded.tools:
            # With none at all, a tokenizer that has a template of its own for tools would take another.
            none: list[Any] | None = [] if isinstance(self._tokenizer.chat_template, dict) else None
            without = Shown(self._messages, none, self._guarded.values)
            if shown == self._of(without, self._messages[:turns], add_generation_prompt=True):
                raise DataError(
                    f'row "{self._row}": the chat template does not write the tools, so no model would be shown them. '
                    "Use a template that does, or leave them out with data.ignore: [tools]."
                )
        return shown

    def _require_written(self, shown: str, plain: str) -> None:
        """Raises DataError: a text with placeholders is not as the plain one has it."""
        if self._placeholders.sub(lambda match: self._texts[match.group()], shown) != plain:
            strings = ", ".join(map(repr, self._texts.values()))
            raise DataError(
                f'row "{self._row}": the chat template rewrites a content that holds {strings}, which it must '
                "not, for the string to stay text. Drop the string or the row."
            )

    def _whole_prompt(self) -> str:
        prompt = self._prompt(self._turns_shown)
        self._refuse(problem_of_shown(prompt, self._messages[: self._turns_shown]))
        return prompt

    def _refuse(self, problem: str | None) -> None:
        if problem is not None:
            raise DataError(f'row "{self._row}": the chat template {problem}')

    def _response(self, number: int, prompt: str) -> tuple[str, str]:
        """What the assistant must say as message `number`, up to its end-of-turn token, and that token."""
        message = self._messages[number]
        if message.calls:
            return self._calling(number, prompt)
        asked, reasoning = self._asked_reasoning(message)
        whole, end = self._around(number, Message("assistant", self._content, asked))
        if asked is not None and self._reasoning in whole:
            self.rewritten |= asked not in whole or self._reasoning_key != REASONING[0]
        content = self._content_within(number, whole.replace(self._reasoning, reasoning), end.string)
        # What the template itself writes between prompt and content is the model's to say, but for an empty
        # reasoning block, which later prompts do not show.
        lead = lead_of(prompt, whole)
        if message.reasoning is None:
            lead = lead_without_reasoning(prompt, lead, content)
        elif self._reasoning in lead:
            lead = lead.replace(self._reasoning, reasoning)
        else:
            lead = f"<think>\n{message.reasoning}\n</think>\n\n"
        response = after_prompt(prompt, lead + content + end.string[: end.end()])
        self._refuse(problem_of_block(prompt, response, turn=number, switches=self._switches))
        return response, end.group()

    def _asked_reasoning(self, message: Message) -> tuple[str | None, str]:
        """The reasoning of a message as a placeholder in its own white space, of which the template may leave out some,
        and what the placeholder stands for."""
        if message.reasoning is None:
            return None, ""
        reasoning = message.reasoning.strip()
        start = len(message.reasoning) - len(message.reasoning.lstrip())
        return message.reasoning[:start] + self._reasoning + message.reasoning[start + len(reasoning) :], reasoning

    def _calling(self, number: int, prompt: str) -> tuple[str, str]:
        """As `_response`, of a message that calls tools: all that the template writes after the prompt.

        No placeholder is given for the content, for many templates write calls otherwise where there is one.
        """
        message = self._messages[number]
        asked, reasoning = self._asked_reasoning(message)
        shown = (*self._messages[:number], replace(message, reasoning=asked))
        whole = self._rendered(shown, add_generation_prompt=False)
        if self._texts:
            bare = (*self._plain.messages[:number], replace(self._plain.messages[number], reasoning=asked))
            self._require_written(whole, self._of(self._plain, bare, add_generation_prompt=False))
        # Not any token that is kept whole: what closes a call ends no turn.
        last = next(reversed(list(self._special.strings.finditer(whole))), None)
        said = None if last is None else said_after(prompt, whole[: last.end()])
        if last is None or not said or whole[last.end() :].strip():
            raise DataError(
                f'row "{self._row}": the chat template does not write turn {number}, which calls tools, after its '
                "prompt and with a special token at its end, so nobody can say what a student should learn of it. "
                f"{FIX_OF_CALLS}."
            )
        names = [call.name for call in message.calls]
        content = message.content.strip()
        if message.reasoning is None:
            said = without_empty_block(prompt, said, message.content, [content or names[0], names[0]])
        elif asked is not None and self._reasoning in said:
            self.rewritten |= asked not in said or self._reasoning_key != REASONING[0]
            said = said.replace(self._reasoning, reasoning)
        else:
            said = f"<think>\n{message.reasoning}\n</think>\n\n{said}"
        self._require_calls(number, said[: -len(last.group())])
        self.rewritten |= message.content not in said
        response = after_prompt(prompt, said)
        self._refuse(problem_of_block(prompt, response, turn=number, switches=self._switches))
        return response, last.group()

    def _require_calls(self, number: int, said: str) -> None:
        """Raises DataError: the content of a message, or one of its calls, is not in what the template writes of it."""
        message = self._messages[number]
        content, bare = "".join(message.content.split()), "".join(said.split())
        lost = problem_of_calls(bare.replace(content, "", 1), message.calls) if content in bare else "the content"
        if lost:
            raise self._without_calls(number, lost)

    def _without_calls(self, number: int, lost: str) -> DataError:
        return DataError(
            f'row "{self._row}": the chat template does not write {lost} in turn {number}, so nobody would learn or be '
            f"shown it. {FIX_OF_CALLS}."
        )

    @cached_property
    def _call_form(self) -> CallForm:
        """How the template takes calls: the first form in which it writes all of one."""
        calling = [number for number, message in enumerate(self._messages) if message.calls]
        # Of a content that is empty more depends.
        number = next((number for number in calling if not self._messages[number].content), calling[0])
        problems: list[DataError] = []
        for form in FORMS:
            try:
                lost = self._lost_calls(number, form)
            except DataError as error:
                problems.append(error)
                continue
            if lost is None:
                return form
            problems.append(self._without_calls(number, lost))
        raise problems[0]

    def _lost_calls(self, number: int, form: CallForm) -> str | None:
        """What of the calls of a message is not in what the template writes of it in this form."""
        # Under whichever name reasoning goes, calls are the same.
        prompt, whole = (
            self._of(self._guarded, self._messages[:end], add_generation_prompt=asks, key=REASONING[0], form=form)
            for end, asks in ((number, True), (number + 1, False))
        )
        message = self._messages[number]
        said = said_after(prompt, whole) or ""
        return problem_of_calls(said.replace(message.content.strip(), "", 1), message.calls)

    def _content_within(self, number: int, lead: str, rest: str) -> str:
        """The content of message `number` as the template writes it between `lead` and `rest`: many trim it."""
        content = self._messages[number].content
        shown = self._rendered(self._messages[: number + 1], add_generation_prompt=False)
        if shown.startswith(lead) and shown.endswith(rest) and len(shown) >= len(lead) + len(rest):
            within = shown[len(lead) : len(shown) - len(rest)]
            if within in content and within.strip() == content.strip():
                self.rewritten |= within != content
                return within
        # Templates of reasoning models take the reasoning out of a content, or set it apart. It was written even so.
        if END in content and after_reasoning(content).strip() in shown:
            return content
        raise DataError(
            f'row "{self._row}": the chat template does not write the response of turn {number} as it is, so nobody '
            "can say what a student should learn of it. Change the response, or drop the row."
        )

    def _around(self, turns: int, response: Message) -> tuple[str, re.Match[str]]:
        """What the template writes before the content of a response, and its end-of-turn token in what follows."""
        shown = self._rendered((*self._messages[:turns], response), add_generation_prompt=False)
        if shown.count(self._content) != 1:
            raise ModelError(
                f'row "{self._row}": the chat template does not write a response once and as it is, so nobody can say '
                "what a student should learn of it. Use another template."
            )
        lead, _, rest = shown.partition(self._content)
        end = self._special.whole.search(rest)
        if not end:
            raise ModelError(
                f'row "{self._row}": the chat template writes no special token after a response, so a student could '
                "not learn to stop. Use a template that ends each turn with one."
            )
        following = rest[end.start() :]
        # Before the first content stands what begins turns, and no end of one.
        beginning = lead[: max(0, lead.find(self._messages[0].content.strip()))]
        if end.group() in beginning and lead.endswith(following) and following.strip() != end.group():
            raise ModelError(
                f'row "{self._row}": the chat template ends no turn with a special token, and writes the beginning of '
                f"another after a response: {following!r}. Use a template that ends each turn with a token, and writes "
                "the beginning of another where add_generation_prompt asks for it."
            )
        return lead, end

    @cached_property
    def _reasoning_key(self) -> str:
        """The name under which the template reads reasoning: the first that makes it write some."""
        thoughts = (number for number, message in enumerate(self._messages) if message.reasoning is not None)
        number = next(thoughts, None)
        if number is not None:
            probe = (*self._messages[:number], Message("assistant", self._content, self._reasoning))
            for key in REASONING:
                if self._reasoning in self._of(self._guarded, probe, add_generation_prompt=False, key=key):
                    return key
        return REASONING[0]

    def _ids(self, text: str) -> list[int]:
        """Token ids of a rendered text; what stands for a string of a special token is read as text."""
        if not self._texts:
            return token_ids(self._tokenizer, text, split_special_tokens=False)
        ids: list[int] = []
        for piece in re.split(f"({self._placeholders.pattern})", text):
            string = self._texts.get(piece)
            if string is None:
                encoded: list[int] | None = token_ids(self._tokenizer, piece, split_special_tokens=False)
            else:
                encoded = self._special.as_text(self._tokenizer, string)
            if encoded is None:
                raise DataError(f'row "{self._row}": the tokenizer cannot write {string!r} as text. Drop the string.')
            ids.extend(encoded)
        return ids

    def _rendered(self, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> str:
        return self._of(self._guarded, messages, add_generation_prompt=add_generation_prompt, key=self._reasoning_key)

    def _of(
        self,
        shown: Shown,
        messages: tuple[Message, ...],
        *,
        add_generation_prompt: bool,
        key: str | None = None,
        form: CallForm | None = None,
    ) -> str:
        calls = any(message.calls for message in messages)
        return self._template.rendered(
            self._row,
            messages,
            tools=shown.tools,
            values=shown.values,
            reasoning_key=key or self._reasoning_key,
            add_generation_prompt=add_generation_prompt,
            call_form=form or (self._call_form if calls else FORMS[0]),
        )
