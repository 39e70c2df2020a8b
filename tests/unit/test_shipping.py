"""Which form of a student to ship, whether it was worth its training, and its way to the hub."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.evaluation.artefact_sections import artefact_lines, artefact_section
from potstill.evaluation.shipping import better_rival, with_best
from potstill.presentation.page import render_html
from potstill.presentation.tables import Section
from potstill.records import Artefact, Estimate, ExportRecord
from potstill.run_dir import folder_files, write_json
from potstill.shipping.push import push_artefact
from tests.unit.finished_run import HOSTILE, evaluation, inputs, sections


def form(name: str, *, score: float, ms: float, size: int, passed: bool = True, why: str = "") -> Artefact:
    found = evaluation(with_baseline=True).models["student"]
    interval = Estimate(value=score, low=score - 0.01, high=score + 0.01)
    model = found.model_copy(
        update={"accuracy": score, "accuracy_interval": interval, "latency_p50_ms": ms, "size_bytes": size}
    )
    return Artefact(
        kind=name, name=name, folder=f"export/{name}", size_bytes=size, max_logit_difference=0.1, passed=passed,
        model=model, drop_points=interval, speedup=10.0, why=why,
    )  # fmt: skip


STUDENT = form("onnx-int8", score=0.85, ms=1.0, size=7_000_000)
SMALLER = form("tiny", score=0.80, ms=1.5, size=2_000_000)


@pytest.mark.parametrize(
    ("rival", "better"),
    [
        ({"score": 0.86, "ms": 0.9, "size": 1_900_000}, True),
        # As good as the best in each is enough.
        ({"score": 0.85, "ms": 1.0, "size": 2_000_000}, True),
        ({"score": 0.84, "ms": 0.9, "size": 1_900_000}, False),
        ({"score": 0.86, "ms": 1.1, "size": 1_900_000}, False),
        # Smaller than one of them is not smaller than what could be shipped.
        ({"score": 0.86, "ms": 0.9, "size": 2_100_000}, False),
    ],
)
def test_a_student_that_its_teacher_beats_in_everything_was_not_worth_it(rival: dict[str, Any], better: bool) -> None:
    told = better_rival([STUDENT, SMALLER], [form("teacher onnx-int8", **rival)], "accuracy")
    assert (told is not None) == better
    assert told is None or ("teacher onnx-int8" in told and "export/teacher onnx-int8" in told)


def test_without_a_rival_or_a_measured_form_nothing_is_said() -> None:
    assert better_rival([STUDENT], [], "accuracy") is None
    same_files = STUDENT.model_copy(update={"model": None})
    assert better_rival([same_files], [form("r", score=1, ms=0.1, size=1)], "accuracy") is None


def test_the_smallest_and_the_fastest_are_of_those_that_passed() -> None:
    failed = form("best of all", score=0.9, ms=0.1, size=1, passed=False)
    record = with_best(ExportRecord(skipped=False, artefacts=[failed, STUDENT, SMALLER]))
    assert (record.smallest, record.fastest) == ("tiny", "onnx-int8")
    none = with_best(ExportRecord(skipped=False, artefacts=[failed]))
    assert (none.smallest, none.fastest) == (None, None)


def texts(section: Section) -> str:
    cells = [cell for _, table in section.tables for row in table.rows for cell in row]
    return " ".join([*section.notes, *(f"{cell.text} {cell.under}" for cell in cells)])


def test_page_and_terminal_say_first_that_it_was_not_worth_it() -> None:
    rival = form("teacher onnx-int8", score=0.9, ms=0.1, size=1)
    record = with_best(
        ExportRecord(
            skipped=False,
            artefacts=[STUDENT, form("x", score=0.1, ms=9, size=9, passed=False, why=HOSTILE)],
            rivals=[rival],
            rivals_missing={"openvino-int8": HOSTILE},
            not_worth="It was not worth it.",
        )
    )
    section, lines = (
        artefact_section(record, evaluation(with_baseline=True)),
        list(artefact_lines(record, evaluation(with_baseline=True))),
    )
    assert section.notes[0] == lines[0] == "It was not worth it."
    shown = texts(section)
    assert HOSTILE in shown and "teacher onnx-int8" in shown and "7.0 MB" in shown and "✗ missed" in shown
    assert "fastest that passed is onnx-int8" in shown and "FAIL  x" in " ".join(lines)


def test_forms_of_language_models_are_shown_with_their_kl() -> None:
    found = evaluation(with_baseline=True)
    assert "KL" not in texts(artefact_section(ExportRecord(skipped=False, artefacts=[STUDENT]), found))
    student = found.models["student"].model_copy(update={"kl_mean": 0.25})
    of_tokens = found.model_copy(update={"models": {**found.models, "student": student}})
    measured = form("gguf", score=0.9, ms=2.0, size=9)
    assert measured.model is not None
    far = measured.model_copy(update={"model": measured.model.model_copy(update={"kl_mean": 0.128})})
    record = ExportRecord(skipped=False, artefacts=[far])
    section, lines = artefact_section(record, of_tokens), list(artefact_lines(record, of_tokens))
    _, table = section.tables[0]
    (row,) = table.rows
    at = [cell.text for cell in table.head].index("KL, nats")
    assert row[at].text == "0.128" and len(row) == len(table.head)
    assert "KL 0.128 nats" in lines[0]
    assert not any("KL" in line for line in artefact_lines(record.model_copy(update={"artefacts": [measured]}), found))


def test_the_page_does_not_say_passed_above_forms_of_which_none_is() -> None:
    given = inputs()
    failed = form("onnx-int8", score=0.85, ms=1.0, size=7_000_000, passed=False)

    def page(export: ExportRecord) -> str:
        run = replace(given["run"], export=export)
        return render_html(**given | {"run": run} | sections(run.evaluation, export))

    none = page(ExportRecord(skipped=False, artefacts=[failed], not_worth="It was not worth it."))
    assert "✗ Failed" in none and '<div class="verdict failed">' in none
    first = none[none.index('<div class="verdict') :]
    assert first.index("It was not worth it. None of its 1 exported forms meets") < first.index("The student keeps")
    some = page(ExportRecord(skipped=False, artefacts=[failed, STUDENT]))
    assert "✓ Passed" in some and "None of its" not in some
    assert "✓ Passed" in page(ExportRecord(skipped=False, artefacts=[]))


@dataclass
class Hub:
    """What a hub was asked for, and what it answers."""

    address: str
    committed: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    refuse: bool = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.tokens.add(self.headers.get("authorization"))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if found.refuse:
                return self._answer({"error": f"no {self.headers.get('authorization')}"}, 403)
            if self.path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                return self._answer(
                    {
                        "files": [
                            {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files
                        ]
                    }
                )
            if self.path.endswith("/commit/main"):
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        found.committed[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                return self._answer({"commitUrl": f"{found.address}/o/n/commit/1", "commitOid": "1"})
            return self._answer({"url": f"{found.address}/o/n"})

        def do_GET(self) -> None:
            self._answer({"id": "o/n", "siblings": []})

        do_HEAD = do_GET

        def _answer(self, what: dict[str, Any], code: int = 200) -> None:
            text = json.dumps(what).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: Any) -> None:
            """A server of a test is silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that exported two artefacts, of which the second did not pass."""
    for name in ("onnx-int8", "bad"):
        folder = tmp_path / "export" / name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"weights")
        (folder / "MODEL_CARD.md").write_text("# card\n")
    files = folder_files(tmp_path / "export", relative_to=tmp_path / "export")
    artefacts = [STUDENT, form("bad", score=0.1, ms=1, size=1, passed=False)]
    record = with_best(ExportRecord(skipped=False, artefacts=artefacts, files=files))
    write_json(tmp_path / "export/result.json", record.model_dump(mode="json"))
    return tmp_path


def test_what_passed_is_pushed_with_its_card_in_one_commit(run: Path, hub: Hub) -> None:
    assert push_artefact(run, "hf:o/n", None, private=True) == f"{hub.address}/o/n"
    assert hub.committed == {"model.onnx": b"weights", "README.md": b"# card\n"}
    assert hub.tokens == {"Bearer hf_canary"}


@pytest.mark.parametrize(
    ("target", "name", "error", "told"),
    [
        ("o/n", None, RecipeError, "expected hf:organisation/name"),
        ("hf:n", None, RecipeError, "expected hf:organisation/name"),
        ("hf:../n/x", None, RecipeError, "expected hf:organisation/name"),
        ("hf:o/n", "bad", ModelError, "no artefact 'bad' that passed; passed: onnx-int8"),
        ("hf:o/n", "none", ModelError, "no artefact 'none' that passed"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_anything_is_sent(
    run: Path, hub: Hub, target: str, name: str | None, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        push_artefact(run, target, name, private=False)
    assert hub.tokens == set()


def test_files_that_were_changed_since_they_were_judged_are_not_pushed(run: Path, hub: Hub) -> None:
    (run / "export/onnx-int8/model.onnx").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"model\.onnx: changed since it was judged"):
        push_artefact(run, "hf:o/n", None, private=False)
    assert hub.committed == {}


def test_a_token_is_read_from_the_environment_alone_and_told_to_nobody(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuse = True
    with pytest.raises(PotstillError) as refused:
        push_artefact(run, "hf:o/n", None, private=False)
    assert "hf_canary" not in str(refused.value) and "\n" not in str(refused.value)

    def broken(self: Any, *arguments: Any, **more: Any) -> None:
        raise OSError(f"no route with {self.token}\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", broken)
    with pytest.raises(PotstillError, match=r"push: o/n: no route with \*\*\*$"):
        push_artefact(run, "hf:o/n", None, private=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RecipeError, match=r"no token\. Set HF_TOKEN"):
        push_artefact(run, "hf:o/n", None, private=False)
