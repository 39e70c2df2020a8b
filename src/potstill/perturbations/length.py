"""A text that is cut short, or that comes with what says nothing of it."""

import re
from dataclasses import dataclass
from random import Random

CUT = (0.25, 0.50, 0.75)
"""Share of the words that are cut away, by severity."""
SENTENCES = (1, 3, 6)
"""Of boilerplate, by severity."""
BEFORE = (
    "Skip to main content.",
    "Home > Documents > Details.",
    "You are viewing page 1 of 4.",
    "Please enable scripts to see this page in full.",
    "This message was sent from outside of your organisation.",
    "Last updated on 3 March at 14:05.",
    "Sign in to save this item to your list.",
    "Dear reader, please find the requested text below.",
    "This site uses cookies to keep you signed in.",
    "Printed from the online archive, second edition.",
)
AFTER = (
    "Share this page with your friends.",
    "Was this helpful? Let us know.",
    "Back to top.",
    "Contact the help desk for further questions.",
    "You receive this message because you subscribed to our newsletter.",
    "Sent from my phone.",
    "Page 1 of 4, continued overleaf.",
    "Read next: what is new this week.",
    "Best regards, your service team.",
    "Follow us for news and updates.",
)
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Truncation:
    """The end of the text cut away, between words where it has several."""

    name: str = "truncation"

    def apply(self, text: str, severity: int, random: Random) -> str:
        ends = [found.end() for found in _WORD.finditer(text)]
        if not ends:
            return text
        if len(ends) == 1:
            start = len(text) - len(text.lstrip())
            return text[: start + _kept(ends[0] - start, severity)]
        return text[: ends[_kept(len(ends), severity) - 1]]


def _kept(count: int, severity: int) -> int:
    """How many of these stay: at least one, and not all where there are several."""
    return max(1, count - max(1, round(CUT[severity - 1] * count)))


@dataclass(frozen=True)
class BoilerplateBefore:
    """Sentences as at the head of a page."""

    name: str = "boilerplate_before"

    def apply(self, text: str, severity: int, random: Random) -> str:
        return "\n".join([*_drawn(BEFORE, severity, random), text]) if text else text


@dataclass(frozen=True)
class BoilerplateAfter:
    """Sentences as at the foot of a page."""

    name: str = "boilerplate_after"

    def apply(self, text: str, severity: int, random: Random) -> str:
        return "\n".join([text, *_drawn(AFTER, severity, random)]) if text else text


def _drawn(sentences: tuple[str, ...], severity: int, random: Random) -> list[str]:
    return random.sample(sentences, SENTENCES[severity - 1])
