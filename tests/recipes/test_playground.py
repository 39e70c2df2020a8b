"""`potstill playground` on tiny runs: the same answers as elsewhere, and the page in a browser."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potstill.errors import ModelError, RunDirError
from potstill.playground.answers import ModelAnswer, Query, open_playground
from potstill.playground.models import FinishedModels
from potstill.run_dir import write_json
from tests import chromium
from tests.commands import ENVIRONMENT, potstill, record
from tests.conftest import make_project
from tests.tagged_project import make_tagged_project

FORMS = "export=[{kind: safetensors}, {kind: onnx, precision: float32}]"
NAMES = ["teacher", "student", "baseline", "safetensors", "onnx-float32", "teacher onnx-float32"]
TEXT = "w1 w5 apple w9"
HOSTILE = "apple <script>alert(1)</script> ${1+1} {{value}} <b>w1</b>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_project(tmp_path_factory.mktemp("playground"), teacher_folder)
    potstill("run", project / "recipe.yaml", "--out", project / "run", "--set", FORMS, "--quiet")
    return project / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that can be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def asked(run: Path, text: str = TEXT) -> dict[str, ModelAnswer]:
    return {each.name: each for each in open_playground(run, 1).ask(Query(text))}


def changed(run: Path, stage: str, **values: Any) -> dict[str, Any]:
    """The record of a stage, with other values than it was written with."""
    found = record(run, stage) | values | {"digest_of_record": ""}
    write_json(run / stage / "result.json", found)
    return found


def test_all_models_of_a_run_answer_in_their_order(finished: Path) -> None:
    found = asked(finished)
    assert list(found) == NAMES and not any(each.error for each in found.values())
    assert found["onnx-float32"].form == "float32, in onnx" and found["teacher"].form == "as it taught"
    for each in found.values():
        assert each.ms is not None and each.ms > 0
        assert len(each.classes) == 3 and sum(chance for _, chance in each.classes) == pytest.approx(1)
        assert each.chosen == (each.classes[0][0],)
    # The same files, or the same model in another runtime.
    assert found["student"].classes == found["safetensors"].classes
    for one, other in (("student", "onnx-float32"), ("teacher", "teacher onnx-float32")):
        assert dict(found[one].classes) == pytest.approx(dict(found[other].classes), abs=1e-3)
    assert dict(found["teacher"].classes) != pytest.approx(dict(found["student"].classes), abs=1e-3)


def test_answers_are_those_of_predict(finished: Path, tmp_path: Path) -> None:
    playground = open_playground(finished, 1)
    texts = [TEXT, "iron w2 w3 w4", "w7 wolf"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = [{each.name: each for each in playground.ask(Query(text))} for text in texts]
    for name in ("safetensors", "onnx-float32", "rivals/onnx-float32"):
        lines = potstill("predict", finished / "export" / name, tmp_path / "rows.jsonl", "--quiet").stdout.splitlines()
        for answers, line in zip(found, lines, strict=True):
            expected, each = json.loads(line), answers[name.replace("rivals/", "teacher ")]
            assert each.chosen == (expected["label"],)
            assert each.classes[0][1] == pytest.approx(expected["probability"], rel=1e-6)


@pytest.mark.parametrize("name", ["teacher", "student", "baseline"])
def test_each_model_of_the_run_answers_with_its_own_temperature(finished: Path, name: str) -> None:
    """As its folder does, that transformers loads."""
    folder = finished / ("adapt/model" if name == "teacher" else f"train/{name}/model")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")).logits[0].double()
    temperature = record(finished, "evaluate")["calibration"][name]["temperature"] or 1.0
    expected = dict(zip(model.config.id2label.values(), (logits / temperature).softmax(dim=0).tolist(), strict=True))
    assert dict(asked(finished)[name].classes) == pytest.approx(expected, abs=1e-6)


def test_a_temperature_of_the_record_is_that_of_the_answers(run: Path) -> None:
    calibration = record(run, "evaluate")["calibration"]
    calibration["baseline"]["temperature"] = 40.0
    before = asked(run)
    changed(run, "evaluate", calibration=calibration)
    after = asked(run)
    assert after["baseline"].classes[0][1] < 0.4 < before["baseline"].classes[0][1]
    assert after["student"].classes == before["student"].classes


def untempered(run: Path, name: str) -> dict[str, float]:
    """The probabilities of a trained model, as transformers has them."""
    folder = run / "train" / name / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")).logits[0].double()
    return dict(zip(model.config.id2label.values(), logits.softmax(dim=0).tolist(), strict=True))


def test_what_was_found_of_an_earlier_student_is_left_out_and_told(run: Path) -> None:
    with_temperatures(run, student=40.0)
    shutil.copytree(run / "train/baseline", run / "train/student", dirs_exist_ok=True)
    playground = open_playground(run, 1)
    assert [each.name for each in playground.models] == NAMES[:3]
    told, unjudged = playground.notes
    assert "What evaluate, gate, export found is of another student or evaluation" in told and str(run) in told
    assert unjudged == "No gate has judged this student yet."
    found = {each.name: dict(each.classes) for each in playground.ask(Query(TEXT))}
    assert found["student"] == pytest.approx(untempered(run, "student"), abs=1e-6)


def test_a_temperature_is_of_the_model_that_it_was_fitted_on(run: Path) -> None:
    """The student was evaluated as it is, and the baseline was trained again since."""
    with_temperatures(run, student=40.0, baseline=40.0)
    before = asked(run)
    assert before["student"].classes[0][1] < 0.4 and before["baseline"].classes[0][1] < 0.4
    with_inputs(run, "evaluate", lambda inputs: inputs["models"].update({"baseline": "0" * 64}))
    after = asked(run)
    assert dict(after["baseline"].classes) == pytest.approx(untempered(run, "baseline"), abs=1e-6)
    assert after["baseline"].classes[0][1] > 0.4 and after["student"].classes == before["student"].classes


def with_temperatures(run: Path, **degrees: float) -> None:
    calibration = record(run, "evaluate")["calibration"]
    fitted = {name: calibration[name] | {"temperature": each} for name, each in degrees.items()}
    changed(run, "evaluate", calibration=calibration | fitted)


def with_inputs(run: Path, stage: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Other inputs of a stage than it was begun with."""
    found = json.loads((run / stage / "inputs.json").read_text())
    change(found["inputs"])
    write_json(run / stage / "inputs.json", found)


def test_of_a_run_that_failed_its_gate_the_students_can_be_looked_at(run: Path) -> None:
    checks = record(run, "gate")["checks"]
    changed(run, "gate", passed=False, checks=[*checks[:-1], checks[-1] | {"passed": False}])
    playground = open_playground(run, 1)
    assert [each.name for each in playground.models] == NAMES[:3]
    assert playground.notes == ("This student failed its gate (retention), so no artefact was exported.",)
    (run / "gate/result.json").unlink()
    assert FinishedModels(run).notes == ["No gate has judged this student yet."]


def test_an_artefact_that_did_not_pass_says_so(run: Path) -> None:
    artefacts = record(run, "export")["artefacts"]
    changed(run, "export", artefacts=[artefacts[0], artefacts[1] | {"passed": False}])
    forms = {each.name: each.form for each in open_playground(run, 1).models}
    assert forms["onnx-float32"] == "float32, in onnx; it did not pass the gate"
    assert forms["safetensors"] == "float32, in transformers"


def test_what_is_damaged_is_told_in_its_place(run: Path) -> None:
    (run / "export/onnx-float32/model.onnx").write_bytes(b"other")
    (run / "train/baseline/model/config.json").write_text("{}")
    found = asked(run)
    assert "model.onnx: another file than when it was judged" in found["onnx-float32"].error
    assert "not those that this run wrote" in found["baseline"].error
    assert [name for name, each in found.items() if not each.error] == [
        name for name in NAMES if name not in ("onnx-float32", "baseline")
    ]


def test_where_nothing_can_be_opened_the_command_says_why(run: Path) -> None:
    for path in (*run.glob("**/model/config.json"), *run.glob("export/**/checksums.sha256")):
        path.write_text("{}")
    done = potstill("playground", run, "--no-browser", check=1)
    assert "none of its models can be opened" in done.stderr and "not those that this run wrote" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_teachers_answer_each_for_itself(run: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(run / "adapt/model", run / f"adapt/{name}/model")
        shutil.copy(run / "adapt/result.json", run / f"adapt/{name}/result.json")
        changed(run, f"adapt/{name}", location=f"adapt/{name}/model")
    shutil.rmtree(run / "adapt/model")
    recipe = (run / "recipe.yaml").read_text()
    [teacher] = re.findall(r"^teacher:\n((?:  .*\n)+)", recipe, re.MULTILINE)
    members = "".join(f"    {name}:\n" + re.sub("^", "    ", teacher.rstrip(), flags=re.M) + "\n" for name in "ab")
    recipe = recipe.replace(f"teacher:\n{teacher}", f"teacher:\n  kind: mixture\n  of:\n{members}")
    (run / "recipe.yaml").write_text(recipe)
    playground = open_playground(run, 1)
    assert [each.name for each in playground.models[:3]] == ["teacher a", "teacher b", "student"]
    assert not playground.models[0].error and "several teachers" in playground.notes[0]
    # Each with its own temperature.
    before = asked(run)
    assert before["teacher a"].classes == before["teacher b"].classes
    digest, calibration = record(run, "adapt/a")["digest"], record(run, "evaluate")["calibration"]
    with_inputs(run, "evaluate", lambda inputs: inputs["models"].update({"a": digest, "b": digest}))
    fitted = {name: calibration["teacher"] | {"temperature": degrees} for name, degrees in (("a", 40.0), ("b", 1.0))}
    changed(run, "evaluate", calibration=calibration | fitted)
    after = asked(run)
    assert after["teacher a"].classes[0][1] < 0.4 < after["teacher b"].classes[0][1]
    # Of one without a record it is said that there is none.
    (run / "adapt/b/result.json").unlink()
    found = open_playground(run, 1).models
    assert "no record of this teacher" in found[1].error and not found[0].error


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda run: shutil.rmtree(run), ModelError, "no run directory"),
        (lambda run: (run / "recipe.yaml").unlink(), ModelError, "no run directory"),
        (lambda run: shutil.rmtree(run / "train"), ModelError, "no trained student yet. Run: potstill run"),
        (lambda run: (run / "plan/result.json").unlink(), ModelError, "no trained student yet"),
        (lambda run: _alter(run / "gate/result.json"), RunDirError, "was changed since it was written"),
    ],
)
def test_a_folder_without_models_is_one_clear_error(run: Path, spoil: Any, error: Any, told: str) -> None:
    spoil(run)
    with pytest.raises(error, match=told):
        open_playground(run, 1)


def _alter(path: Path) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"passed": not values["passed"]}))


@contextmanager
def served(run: Path, *, by: signal.Signals) -> Iterator[str]:
    """The address of the page, while the command is at work; it is ended as a person would."""
    command = [sys.executable, "-m", "potstill", "playground", str(run), "--no-browser", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"playground: (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n", line)
        assert found, f"{line}\n{process.poll() is not None and process.communicate()}"
        yield found[1]
        process.send_signal(by)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def status(address: str, body: bytes | None = None, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.long
@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
def test_the_page_answers_over_http_and_takes_nothing_else(finished: Path) -> None:
    with served(finished, by=signal.SIGINT) as address:
        ask = (
            "import json, sys\nfrom gradio_client import Client\nclient = Client(sys.argv[1], verbose=False)\n"
            "for text in sys.argv[2:]: print(json.dumps(client.predict(text, '', False, api_name='/ask')))"
        )
        done = subprocess.run(
            [sys.executable, "-c", ask, address, TEXT, "", "a" * 4001], capture_output=True, text=True, check=True,
            env=ENVIRONMENT,
        )  # fmt: skip
        page, empty, long = map(json.loads, done.stdout.splitlines())
        assert re.findall("<h3>(.*?)</h3>", page) == NAMES
        assert "The query is empty" in empty and "4,001 characters" in long
        for name, each in asked(finished).items():
            card = page[page.index(f"<h3>{name}</h3>") :]
            assert f"{100 * each.classes[0][1]:.1f} %" in card[: card.index("</section>")]
        assert status(address) == 200
        assert status(f"{address}/gradio_api/upload", b"x") == 403
        assert status(address, Host="evil.example") == 400
        assert status(address, Origin="http://evil.example") == 403
        assert status(address, Origin="http://127.0.0.1:1") == 403 and status(address, Origin=address) == 200
        assert status(f"{address}/gradio_api/file={finished / 'recipe.yaml'}") == 403
        # The port of one page is not free for another.
        port = address.rpartition(":")[2]
        taken = potstill("playground", finished, "--no-browser", "--quiet", "--port", port, check=1)
        assert f"--port {port}: Address already in use" in taken.stderr and "Traceback" not in taken.stderr
    with pytest.raises(urllib.error.URLError):
        status(address)


@pytest.mark.long
@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.skipif(chromium.BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser_a_query_is_answered_and_stays_text(
    teacher_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = make_tagged_project(tmp_path_factory.mktemp("tags"), teacher_folder)
    potstill("run", project / "recipe.yaml", "--out", project / "run", "--set", "export=[{kind: onnx}]", "--quiet")
    names = ["teacher", "student", "baseline", "onnx-int8", "teacher onnx-int8"]
    with served(project / "run", by=signal.SIGTERM) as address, chromium.tab(tmp_path / "profile") as tab:
        tab.open(f"{address}/?{urllib.parse.urlencode({'query': HOSTILE})}")
        tab.wait_for("document.querySelectorAll('.card').length == 5")
        assert tab.value("[...document.querySelectorAll('.card h3')].map(each => each.innerText)") == names
        assert tab.value("document.querySelector('textarea').value") == HOSTILE
        for number in range(5):
            card = f"document.querySelectorAll('.card')[{number}]"
            shown = tab.value(f"{card}.innerText")
            assert "<script>alert(1)</script> ${1+1} {{value}} <b>w1</b>" in shown
            assert " ms" in shown and tab.value(f"{card}.querySelectorAll('script, b').length") == 0
        # A person types, and asks.
        tab.value("document.querySelector('textarea').focus()")
        tab.value("document.querySelector('textarea').select()")
        tab.call("Input.insertText", text="w11 iron")
        tab.value("[...document.querySelectorAll('button')].find(each => each.innerText == 'Ask').click()")
        tab.wait_for("[...document.querySelectorAll('.card')].every(each => each.innerText.includes('w11'))")
        assert "iron B-metal" in tab.text and "<script>" not in tab.text
        # Nothing was asked of any other place, and no font is taken from one.
        assert tab.requested and {urllib.parse.urlsplit(each).netloc for each in tab.requested} <= {
            address.removeprefix("http://"),
            "",
        }
