"""Reasoning between <think> and </think>: in a content, at the end of a prompt and at the start of a response."""

import re
from collections.abc import Sequence

END = "</think>"
_OPENED = re.compile(r"<think>(\s*)\Z")
_CLOSED = re.compile(r"</think>\s*\Z")
_OPENING = re.compile(r"\s*<think>")
_EMPTY = re.compile(r"<think>\s*</think>\s*")
_CLOSED_EMPTY = re.compile(r"<think>\s*</think>\s*\Z")
_EMPTY_REST = re.compile(r"(?:<think>\s*)?</think>\s*")


def after_reasoning(content: str) -> str:
    """What of a content follows the reasoning in it."""
    return content.rpartition(END)[2]


def lead_of(prompt: str, whole: str) -> str:
    """What a template writes between prompt and content, from the opening of a reasoning block that ends the prompt.

    Nothing where `whole`, all before the content, does not begin with the prompt.
    """
    opened = _OPENED.search(prompt)
    stem = prompt[: opened.start()] if opened else prompt
    return whole[len(stem) :] if whole.startswith(stem) else ""


def said_after(prompt: str, whole: str) -> str | None:
    """As `lead_of`, where the prompt may also end with an empty block that `whole` does not have; None where `whole`
    does not go on from the prompt."""
    stems = (prompt[: opened.start()] if (opened := _OPENED.search(prompt)) else prompt, _CLOSED_EMPTY.sub("", prompt))
    return next((whole[len(stem) :] for stem in stems if whole.startswith(stem)), None)


def without_empty_block(prompt: str, said: str, content: str, before: Sequence[str]) -> str:
    """What follows a prompt, without an empty block that stands before all of these."""
    block = _EMPTY.search(said)
    if block is None or any(each in said[: block.start()] for each in before):
        return said
    return lead_without_reasoning(prompt, said[: block.end()], content) + said[block.end() :]


def lead_without_reasoning(prompt: str, lead: str, content: str) -> str:
    """The lead of a response that has no reasoning, or has it in its content.

    An empty block is left out, which later prompts do not show, unless the prompt has opened it and it must be closed.
    """
    if not _OPENED.search(prompt):
        return _EMPTY.sub("", lead)
    return _EMPTY_REST.sub("", lead) if END in content else lead


def after_prompt(prompt: str, response: str) -> str:
    """The response without what the prompt has of its reasoning block: the opening, or all of it."""
    opening = _OPENING.match(response)
    if (opened := _OPENED.search(prompt)) and opening:
        return response[opening.end() :].removeprefix(opened.group(1))
    if _CLOSED.search(prompt) and (empty := _EMPTY.match(response)):
        return response[empty.end() :]
    return response


def problem_of_block(prompt: str, response: str, *, turn: int, switches: Sequence[str]) -> str | None:
    """Why a response after the prompt breaks its reasoning block, and the fix; None where it does not.

    `switches` are the arguments by which the template is told whether there is reasoning.
    """
    if _CLOSED.search(prompt) and _OPENING.match(response):
        return (
            f"ends the reasoning ({END}) in the prompt of turn {turn}, which has reasoning to be learnt. Leave that "
            f"out{_set(switches, 'true')}, or drop the row."
        )
    if _OPENED.search(prompt) and END not in response:
        return (
            f"opens the reasoning (<think>) in the prompt of turn {turn}, which has none, so that its answer would be "
            "learnt within a block that nothing closes. Give the turn reasoning_content, or weight: 0 to show it "
            f"alone{_set(switches, 'false')}, or use a template whose prompt does not open it."
        )
    return None


def _set(switches: Sequence[str], value: str) -> str:
    if not switches:
        return ""
    return f", set {' or '.join(f'{switch}: {value}' for switch in switches)} in chat_template_kwargs"


def without_repeated(content: str, reasoning: str) -> str | None:
    """A content without a block at its start that repeats the reasoning beside it; None where that differs."""
    opening = _OPENING.match(content)
    if opening is None:
        return content
    thought, closing, answer = content[opening.end() :].partition(END)
    return answer.lstrip() if closing and thought.strip() == reasoning.strip() else None
