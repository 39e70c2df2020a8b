"""A judge behind a server: what is asked of it, and what becomes of each way in which it can fail."""

import email.utils
import gzip
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.evaluation.judged_writing import chat_server
from potstill.evaluation.judged_writing.chat_server import ChatServer, NoReply, seconds_asked_for
from potstill.evaluation.judged_writing.comparing import NO_VERDICT, RUBRIC, compared, prompt_of, verdict_in
from potstill.evaluation.judged_writing.exchanges import CONTRADICTED, Exchange, NotJudged
from potstill.evaluation.judged_writing.judged import NOT_ASKED, judgement_of, share
from potstill.progress import Progress
from potstill.recipe.writing_judges import ServerJudge

KEY = "sk-0123456789"

Answer = tuple[int, dict[str, str], bytes] | Callable[[BaseHTTPRequestHandler], None]


def says(text: Any, **more: Any) -> Answer:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, **more}]}).encode()


def fails(status: int, **headers: str) -> Answer:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, f"broken {KEY}".encode()


class Server:
    """One that answers by a script, and remembers what it was asked."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer] | list[Answer]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.stopped = threading.Event()
        script, server = answer, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.paths.append(self.path)
                found = script(body) if callable(script) else script[min(len(server.asked), len(script)) - 1]
                if callable(found):
                    found(self)
                    return
                status, headers, content = found
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def server(answer: Callable[[dict[str, Any]], Answer] | list[Answer]) -> Iterator[Server]:
    running = Server(answer)
    try:
        yield running
    finally:
        running.stop()


def settings(url: str, **changes: Any) -> ServerJudge:
    return ServerJudge(**{"url": url, "model": "judge-1", "timeout_seconds": 20} | changes)


def test_it_is_asked_as_openai_compatible_servers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    with server([says("fine")]) as running:
        with ChatServer(settings(running.url, max_tokens=7, api_key_env="JUDGE_KEY")) as asked:
            assert asked.reply("Which?") == "fine"
        with ChatServer(settings(running.url)) as asked:
            asked.reply("Which?")
    assert running.paths == ["/v1/chat/completions"] * 2
    assert running.asked[0] == {
        "model": "judge-1",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_tokens": 7,
        "temperature": 0,
    }
    assert running.headers[0]["authorization"] == f"Bearer {KEY}" and "authorization" not in running.headers[1]
    assert running.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("value", [None, "", "  ", "a b", "schlüssel", "a\x07b"])
def test_a_key_that_is_none_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(RecipeError, match=r"^evaluate.judge.api_key_env: .*variable") as error:
        ChatServer(settings("http://localhost:1/v1", api_key_env="JUDGE_KEY"))
    assert not (value or "").strip() or str(value) not in str(error.value)
    assert "JUDGE_KEY" not in str(error.value), "what was pasted there may be the key"


def test_a_proxy_is_not_asked_for_a_server_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is for all others."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with server([says("direct")]) as running, server([says("through the proxy")]) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for host in ("127.0.0.1", "localhost"):
            with ChatServer(settings(running.url.replace("127.0.0.1", host))) as asked:
                assert asked.reply("Which?") == "direct"
        assert not proxy.asked
        with ChatServer(settings("http://judge.invalid/v1")) as asked:
            assert asked.reply("Which?") == "through the proxy"


def reply(answers: list[Answer], **changes: Any) -> tuple[str, list[float], int]:
    """What comes of a script: the reply or why there is none, the waits, and how often it was asked."""
    waits: list[float] = []
    with server(answers) as running, ChatServer(settings(running.url, **changes), sleep=waits.append) as asked:
        try:
            found = asked.reply("Which?")
        except NoReply as reason:
            found = f"none: {reason}"
    return found, waits, len(running.asked)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, each of which comes in time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1)


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")


HUGE: Answer = (200, {}, b" " * (chat_server.MOST_BYTES + 1))
LARGEST: Answer = (200, {}, b" " * (chat_server.MOST_BYTES - 100) + says("fine")[2])  # type: ignore[index]
PACKED: Answer = (200, {"Content-Encoding": "gzip"}, gzip.compress(says("fine")[2]))  # type: ignore[index]


@pytest.mark.parametrize(
    ("answers", "found", "waits", "times"),
    [
        ([fails(429, Retry_After="3"), says("fine")], "fine", [3.0], 2),
        ([fails(429, Retry_After="0"), fails(503), says("fine")], "fine", [0.0, 2.0], 3),
        ([fails(500), fails(502), fails(504), says("fine")], "fine", [1.0, 2.0, 4.0], 4),
        ([fails(500)], "none: HTTP 500", [1.0, 2.0, 4.0], 4),
        ([fails(429, Retry_After="61"), says("fine")], "none: HTTP 429", [], 1),
        ([fails(429, Retry_After="60"), says("fine")], "fine", [60.0], 2),
        ([fails(429, Retry_After="soon"), says("fine")], "fine", [1.0], 2),
        # What asking again cannot change.
        ([fails(401), says("fine")], "none: HTTP 401", [], 1),
        ([fails(400), says("fine")], "none: HTTP 400", [], 1),
        ([(302, {"Location": "/v1/elsewhere"}, b""), says("fine")], "none: HTTP 302", [], 1),
        ([(201, {}, b"{}")], "none: HTTP 201", [], 1),
        ([(200, {}, b'{"choices": [')], "none: no readable reply", [], 1),
        ([(200, {}, b"[" * 200_000)], "none: no readable reply", [], 1),
        ([(200, {}, b"\xff\xfe")], "none: no readable reply", [], 1),
        ([(200, {}, b"[]")], "none: no readable reply", [], 1),
        ([(200, {}, b'{"choices": []}')], "none: no readable reply", [], 1),
        ([(200, {}, b'{"choices": {"0": 1}}')], "none: no readable reply", [], 1),
        ([says(None)], "none: no readable reply", [], 1),
        ([says(["fine"])], "none: no readable reply", [], 1),
        ([says("fine", finish_reason="stop")], "fine", [], 1),
        ([says("fine [[A]]", finish_reason="length")], "none: a reply that max_tokens cut off", [], 1),
        ([(200, {}, b'{"choices": [[]]}')], "none: no readable reply", [], 1),
        ([PACKED], "none: no readable reply", [], 1),
        ([LARGEST], "fine", [], 1),
        ([HUGE], "none: a reply of more than 1 MiB", [], 1),
        ([hangs_up, says("fine")], "none: no readable reply", [], 1),
    ],
)
def test_faults_are_no_reply_or_are_tried_again(
    answers: list[Answer], found: str, waits: list[float], times: int
) -> None:
    assert reply(answers) == (found, waits, times)


@pytest.mark.parametrize("slow", [hangs, drips])
def test_a_server_that_hangs_is_not_waited_for(slow: Answer) -> None:
    assert reply([slow], timeout_seconds=0.3) == ("none: no reply in time", [], 1)


def test_a_server_that_is_not_there_is_tried_again() -> None:
    running = Server([])
    running.stop()
    waits: list[float] = []
    judge = settings(running.url, retries=2)
    with ChatServer(judge, sleep=waits.append) as asked, pytest.raises(NoReply, match="the server was not reached"):
        asked.reply("Which?")
    assert waits == [1.0, 2.0]


def test_without_retries_it_is_asked_once() -> None:
    assert reply([fails(500), says("fine")], retries=0) == ("none: HTTP 500", [], 1)


def test_a_server_may_name_a_date() -> None:
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (seconds_asked_for({"Retry-After": later}) or 0) <= 30
    assert seconds_asked_for({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert seconds_asked_for({}) is None and seconds_asked_for({"Retry-After": "-5"}) is None
    assert seconds_asked_for({"Retry-After": "²"}) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A is shorter.\n[[A]]", "first"),
        ("[[B]]", "second"),
        ("[[C]] as I said: [[C]]", "tie"),
        ("A", None),
        ("[[D]]", None),
        ("", None),
        ("[[A]] would be unfair, so [[B]]", None),
        ("[[A]] would be unfair.\n[[B]]\n \n", "second"),
        ("[[A]]\nBut I am not sure.", None),
        ("First [[A]]\r\nverdict: [[C]]\r\n", "tie"),
    ],
)
def test_a_verdict_is_read_only_where_there_is_one(text: str, found: str | None) -> None:
    if found is not None:
        assert verdict_in(text) == found
        return
    with pytest.raises(NotJudged, match=NO_VERDICT):
        verdict_in(text)


def test_the_judge_sees_what_was_asked_and_no_names() -> None:
    prompt = prompt_of("What is {red}?", "a colour", "a {0}", None)
    assert RUBRIC in prompt and "What is {red}?" in prompt and "teacher" not in prompt and "student" not in prompt
    assert prompt.index("a colour") < prompt.index("a {0}")
    assert "Shorter is better." in prompt_of("x", "y", "z", "Shorter is better.")
    long = prompt_of("x" * 10 + "y" * 20_000, "a" * 20_000 + "bbb", "c", None)
    assert "xy" not in long and "bbb" not in long and "y" * 20_000 in long


@pytest.mark.parametrize("one", "ABC")
@pytest.mark.parametrize("other", "ABC")
def test_better_is_what_is_better_in_both_orders(one: str, other: str) -> None:
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return f"[[{one if len(asked) == 1 else other}]]"

    expected = {"AB": "win", "BA": "loss", "CC": "tie"}.get(one + other)
    if expected is None:
        with pytest.raises(NotJudged, match=CONTRADICTED):
            compared(ask, "asked", "of the student", "of its t.")
    else:
        assert compared(ask, "asked", "of the student", "of its t.") == expected
    assert asked == [
        prompt_of("asked", "of the student", "of its t.", None),
        prompt_of("asked", "of its t.", "of the student", None),
    ]


def test_equal_answers_are_as_good_without_being_asked() -> None:
    def ask(prompt: str) -> str:
        raise AssertionError("asked")

    assert compared(ask, "asked", "same", " same\n") == "tie"


def exchanges(*said: tuple[str, str]) -> list[Exchange]:
    return [
        Exchange(str(n), f"question {n}", "", "", {"teacher": teacher, "student": student})
        for n, (teacher, student) in enumerate(said)
    ]


def by_length(body: dict[str, Any]) -> Answer:
    """Longer is better; of texts with a bang the first, wherever it stands; a question mark breaks it."""
    prompt = body["messages"][0]["content"]
    first, second = (prompt.split(f"answer {each} =====\n")[1].split("\n=====")[0] for each in "AB")
    if "?" in first + second:
        return says("I cannot tell.")
    if "!" in first + second:
        return says("[[A]]")
    return says("[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]")


def test_outcomes_are_counted() -> None:
    said = [("a", "bb"), ("aa", "b"), ("aaa", "b"), ("a", "b"), ("a!", "b"), ("a?", "b"), ("same", "same")]
    with server(by_length) as running:
        found = judgement_of(settings(running.url), exchanges(*said), ("teacher", "student"), {}, Progress())
    assert (found.kind, found.model, found.prompts, found.compares) == ("server", "judge-1", 7, True)
    assert list(found.models) == ["student"], "a teacher is not compared with itself"
    student = found.models["student"]
    assert (student.wins, student.ties, student.losses, student.orders_disagreed) == (1, 2, 2, 1)
    assert student.judged == student.of == 5 and student.as_good == share(3, 5) and student.accuracy is None
    assert student.not_judged == {NO_VERDICT: 1, CONTRADICTED: 1}
    # Two for each pair that is not equal, but for the one whose first verdict is none.
    assert len(running.asked) == 11


def test_a_judge_that_always_says_the_first_judges_nothing() -> None:
    with server([says("[[A]]")]) as running:
        judge = settings(running.url)
        found = judgement_of(judge, exchanges(("a", "b"), ("c", "d")), ("teacher", "student"), {}, Progress())
    student = found.models["student"]
    assert (student.judged, student.as_good, student.orders_disagreed) == (0, None, 2)


@pytest.mark.parametrize("status", [429, 500, 504])
def test_faults_are_no_judgement_and_end_it_where_there_are_too_many(status: int) -> None:
    said = [(f"a{n}", f"b{n}") for n in range(12)]

    def answer(body: dict[str, Any]) -> Answer:
        prompt = body["messages"][0]["content"]
        broken = any(f"question {n}\n" in prompt for n in (1, 2, 4, 5, 7, 8, 9))
        return fails(status) if broken else says("[[C]]")

    with server(answer) as running:
        judge = settings(running.url, retries=0)
        found = judgement_of(judge, exchanges(*said), ("teacher", "student"), {}, Progress())
    student = found.models["student"]
    # Never three in a row before the tenth prompt; after it nothing is asked.
    assert student.judged == 3 and student.as_good == share(3, 3)
    assert student.not_judged == {f"HTTP {status}": 7, NOT_ASKED: 2}
    assert len(running.asked) == 3 * 2 + 7


@pytest.mark.parametrize("slow", [hangs, drips])
def test_a_server_that_is_late_or_gone_is_not_asked_for_ever(slow: Answer) -> None:
    said = exchanges(*((f"a{n}", f"b{n}") for n in range(5)))
    with server([slow]) as running:
        judge = settings(running.url, timeout_seconds=0.1, retries=0)
        late = judgement_of(judge, said, ("teacher", "student"), {}, Progress()).models["student"]
    assert late.not_judged == {"no reply in time": 3, NOT_ASKED: 2}
    gone = judgement_of(judge, said, ("teacher", "student"), {}, Progress()).models["student"]
    assert gone.not_judged == {"the server was not reached": 3, NOT_ASKED: 2}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fails(400), "HTTP 400"),
        (says("x", finish_reason="length"), "a reply that max_tokens cut off"),
        ((200, {}, b"[]"), "no readable reply"),
    ],
)
def test_what_lies_in_the_prompt_ends_nothing(answer: Answer, reason: str) -> None:
    """Such as one that is too long for the model."""
    said = exchanges(*((f"a{n}", f"b{n}") for n in range(6)))
    with server([*[answer] * 5, says("[[C]]")]) as running:
        found = judgement_of(settings(running.url), said, ("teacher", "student"), {}, Progress()).models["student"]
    assert found.not_judged == {reason: 5} and found.judged == 1


def test_the_key_is_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Though the server says it again, in errors and in verdicts."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with server([fails(401), says(f"{KEY} [[C]]")]) as running:
        judge = settings(running.url, api_key_env="JUDGE_KEY")
        found = judgement_of(judge, exchanges(("a", "b"), ("c", "d")), ("teacher", "student"), {}, Progress())
    assert running.headers[0]["authorization"].endswith(KEY)
    assert found.models["student"].judged == 1
    assert KEY not in found.model_dump_json() + judge.model_dump_json() + caplog.text
