"""An OpenAI-compatible server that is asked one thing at a time, within limits of time, size and patience."""

import email.utils
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import httpx2

from potstill.evaluation.judged_writing.required import key_of
from potstill.recipe.writing_judges import ServerJudge

MOST_BYTES = 2**20
"""Of a reply, which is a few sentences: what is larger is none."""
LONGEST_WAIT_S = 60.0
"""For a server that asks to be left alone; one that asks for longer is not waited for."""
BUSY = frozenset({429, 500, 502, 503, 504})
IN_TIME, REACHED, READABLE, SMALL, WHOLE = (
    "no reply in time",
    "the server was not reached",
    "no readable reply",
    f"a reply of more than {MOST_BYTES // 2**20} MiB",
    "a reply that max_tokens cut off",
)


class NoReply(Exception):
    """There is none. Its text says why, without a word of what was sent or came."""


class NoServer(NoReply):
    """There is none, for a reason that has nothing to do with what was asked: the next prompt may not fare better."""


class _Later(Exception):
    """It may be there when the server is asked again."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks for."""


class ChatServer:
    """The server of a judge; to be closed."""

    def __init__(self, settings: ServerJudge, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings = settings
        self._sleep = sleep
        key = key_of(settings)
        # What is compressed could be large once it is read.
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._client = httpx2.Client(
            headers=headers,
            timeout=settings.timeout_seconds,
            follow_redirects=False,
            # A proxy of the environment would look for the address on its own machine.
            trust_env=not settings.is_here,
        )

    def __enter__(self) -> "ChatServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def reply(self, prompt: str) -> str:
        """What the model says to a prompt.

        Raises:
            NoReply: nothing that can be read, in time, after all retries; `NoServer` where the server is to blame.
        """
        for attempt in range(self._settings.retries + 1):
            try:
                return self._asked_once(prompt)
            except _Later as later:
                wait = 2.0**attempt if later.wait is None else later.wait
                if attempt == self._settings.retries or wait > LONGEST_WAIT_S:
                    raise NoServer(str(later)) from None
                self._sleep(wait)
        raise AssertionError("it was asked at least once")

    def _asked_once(self, prompt: str) -> str:
        settings = self._settings
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": settings.max_tokens,
            "temperature": 0,
        }
        deadline = time.monotonic() + settings.timeout_seconds
        try:
            with self._client.stream("POST", settings.endpoint, json=body) as response:
                if response.status_code in BUSY:
                    raise _Later(f"HTTP {response.status_code}", seconds_asked_for(response.headers))
                if response.status_code != 200:
                    raise NoReply(f"HTTP {response.status_code}")
                return _content(_read(response, deadline))
        except httpx2.TimeoutException:
            raise NoServer(IN_TIME) from None
        except httpx2.NetworkError:
            raise _Later(REACHED) from None
        except httpx2.HTTPError:
            raise NoReply(READABLE) from None


def seconds_asked_for(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, in seconds or as a date (RFC 9110, section 10.2.3); None where it says nothing."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        until = email.utils.parsedate_to_datetime(said).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, until - time.time())


def _read(response: httpx2.Response, deadline: float) -> bytes:
    found = bytearray()
    for chunk in response.iter_raw():
        found += chunk
        if len(found) > MOST_BYTES:
            raise NoReply(SMALL)
        if time.monotonic() > deadline:
            raise NoServer(IN_TIME)
    return bytes(found)


def _content(body: bytes) -> str:
    """What the first choice of a chat completion says, where it came to an end."""
    try:
        choice: Any = json.loads(body)["choices"][0]
        found, ended_by = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise NoReply(READABLE) from None
    if ended_by == "length":
        raise NoReply(WHOLE)
    if not isinstance(found, str):
        raise NoReply(READABLE)
    return found
