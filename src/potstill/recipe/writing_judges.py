"""Who says whether what language models write is right, or as good as what their teacher writes."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, model_validator

from potstill.settings import Settings

FieldName = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
"""Names of environment variables (POSIX.1-2017, section 8.1)."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ReferenceJudge(Settings):
    """One that compares what was written with what is right."""

    answer: FieldName | None = None
    """The field of rows that holds what is right; by default it is the last response of the row itself."""


class ExactMatch(ReferenceJudge):
    """A response is right that reads as what is right, white space around it aside."""

    kind: Literal["exact_match"] = "exact_match"


class RegularExpression(ReferenceJudge):
    """A response is right in which a pattern finds what it finds in what is right, the last time that it matches."""

    kind: Literal["regular_expression"] = "regular_expression"
    pattern: Annotated[str, Field(min_length=1)]
    """As Python's `re` has them. A field `answer` in which it does not match is the answer as a whole."""
    group: int | str | None = None
    """Which group of the pattern is the answer, by number or name: by default the first, of a pattern without groups
    all that it matches."""

    @property
    def taken(self) -> int | str:
        if self.group is not None:
            return self.group
        return 1 if re.compile(self.pattern).groups else 0

    @model_validator(mode="after")
    def _pattern_has_the_group(self) -> "RegularExpression":
        try:
            compiled = re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"pattern: {self.pattern!r} is no regular expression ({error}). Correct it.") from None
        known = {*range(compiled.groups + 1), *compiled.groupindex}
        if self.group is not None and self.group not in known:
            named = ", ".join(map(str, sorted(known, key=str)))
            raise ValueError(f"group: {self.pattern!r} has no group {self.group!r}. Name one of: {named}.")
        return self


class MathVerify(ReferenceJudge):
    """A response is right whose mathematical answer equals the right one, however it is written: 1/2 is 0.5."""

    kind: Literal["math_verify"] = "math_verify"


class ServerJudge(Settings):
    """A model behind an OpenAI-compatible server compares answers with the teacher's, blind and in both orders."""

    # What is wrong with it can hold a secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    kind: Literal["server"] = "server"
    url: str
    """Up to `/chat/completions`, such as http://localhost:8000/v1."""
    model: Annotated[str, Field(min_length=1)]
    """As the server calls it."""
    api_key_env: FieldName | None = None
    """The environment variable that holds the key; by default none is sent. The key itself never stands in a recipe."""
    max_tokens: Count = 512
    """Of a reply: room for a few sentences of reasons before the verdict."""
    rubric: Annotated[str, Field(min_length=1)] | None = None
    """What makes an answer better; by default how helpful, correct and complete it is."""
    timeout_seconds: float = Field(default=60, gt=0)
    """For one reply, the whole of it; what comes later is not judged."""
    retries: int = Field(default=3, ge=0)
    """How often it is asked again where it is too busy (429), broken (5xx) or not reached."""

    @property
    def endpoint(self) -> str:
        return self.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"

    @property
    def is_here(self) -> bool:
        """Whether the server is one of this machine."""
        return urlsplit(self.url).hostname in LOOPBACK

    @model_validator(mode="before")
    @classmethod
    def _key_is_only_named(cls, values: Any) -> Any:
        # Of the whole, for what is wrong in a single value is shown.
        name = values.get("api_key_env") if isinstance(values, dict) else None
        if name is not None and not (isinstance(name, str) and VARIABLE.fullmatch(name)):
            raise ValueError(
                "api_key_env: expected the name of an environment variable, of letters, digits and _, such as "
                "JUDGE_KEY. Put the key itself into that variable."
            )
        return values

    @model_validator(mode="after")
    def _address_has_no_secrets(self) -> "ServerJudge":
        import httpx2  # a tenth of a second, which recipes without a server need not wait

        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
            httpx2.URL(self.endpoint)
        except (ValueError, httpx2.InvalidURL):
            parts, host = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("url: expected the address of a server, such as http://localhost:8000/v1.")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "url: expected an address without user, query or fragment. Name the environment variable that holds a "
                "key as api_key_env."
            )
        if self.api_key_env is not None and parts.scheme == "http" and not self.is_here:
            raise ValueError("url: a key would be sent through http in the clear. Use https, or drop api_key_env.")
        return self


AnyWritingJudge = Annotated[ExactMatch | RegularExpression | MathVerify | ServerJudge, Field(discriminator="kind")]
