"""A language model on its way into a GGUF file, by the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from potstill.exporters.gguf_conversion import FOLDER
from tests import commands
from tests.commands import potstill, record
from tests.conftest import make_chat_project
from tests.gguf_models import write_llama

CHANGES = ["--set", "task.max_length=128", "--set", "adapt.epochs=12", "--set", "student.width=64"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ends with the student and its teacher in 8 bits."""
    folder = make_chat_project(
        tmp_path_factory.mktemp("gguf"), write_llama(tmp_path_factory.mktemp("teacher"), width=64, layers=3)
    )
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write("export: [{kind: gguf, precision: q8_0}]\n")
    done = potstill("run", folder / "recipe.yaml", "--out", folder / "run", *CHANGES)
    (folder / "shown.txt").write_text(done.stdout)
    return folder


def both_of(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    found = record(run, "export")
    (artefact,), (rival,) = found["artefacts"], found["rivals"]
    return artefact, rival


def test_the_record_says_what_the_file_is_worth(project: Path) -> None:
    artefact, rival = both_of(project / "run")
    evaluation = record(project / "run", "evaluate")["models"]
    for form, source in ((artefact, "student"), (rival, "teacher")):
        assert form["passed"] and form["runtime"] == "llama_cpp" and form["precision"] == "q8_0"
        assert form["agreement_with_source"] >= 0.99
        assert form["max_logit_difference"] > 0
        # A quarter of the weights in float32, with a scale for each block; the tokens lie in the file too.
        assert form["size_bytes"] < 0.4 * evaluation[source]["size_bytes"]
        model = form["model"]
        assert model["weights_type"] == "GGUF Q8_0"
        assert model["num_parameters"] == evaluation[source]["num_parameters"]
        assert model["time_to_first_token_ms"] > 0 and model["time_per_token_ms"] > 0 and model["load_ms"] > 0
        assert form["checks"] and all(check["passed"] for check in form["checks"])
    # Its divergence is from the teacher as it was, so the student's own is in it, and the teacher's file has its own.
    assert artefact["model"]["kl_mean"] == pytest.approx(evaluation["student"]["kl_mean"], rel=0.2, abs=1e-3)
    assert 0 < rival["model"]["kl_mean"] < 1e-3
    assert artefact["speedup_over_rival"] == pytest.approx(
        rival["model"]["latency_p50_ms"] / artefact["model"]["latency_p50_ms"]
    )
    assert record(project / "run", "export")["measurement"]["device"] == "cpu"


def test_the_folder_stands_alone(project: Path) -> None:
    folder = project / "run/export/gguf-q8_0"
    card = (folder / "MODEL_CARD.md").read_text()
    assert "library_name: gguf" in card and "answered by llama.cpp" in card
    assert "llama-server -m model.gguf" in card and "from_pretrained" not in card
    names = {path.name for path in folder.iterdir()}
    assert {"model.gguf", "Modelfile", "artefact.json", "tokenizer.json", "checksums.sha256"} <= names
    assert not names & {"predict.py", "requirements.txt"}
    sums = dict(reversed(line.split("  ")) for line in (folder / "checksums.sha256").read_text().splitlines())
    assert set(sums) == names - {"checksums.sha256"}


def test_what_comes_next_is_to_serve_it(project: Path) -> None:
    last = (project / "shown.txt").read_text().splitlines()[-1]
    assert "serve " in last and "export/gguf-q8_0 as its MODEL_CARD.md says" in last and "predict.py" not in last


def test_it_answers_and_is_measured_where_it_was_copied_to(project: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(project / "run/export/gguf-q8_0", tmp_path / "copy")
    asked = [json.loads(line) for line in (project / "data/test.jsonl").read_text().splitlines()][:6]
    rows = [{"id": row["id"], "messages": row["messages"][:1]} for row in asked]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    potstill("predict", folder, tmp_path / "rows.jsonl", "--out", tmp_path / "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    assert [answer["text"].strip() for answer in answers] == [row["messages"][1]["content"] for row in asked]
    shown = json.loads(potstill("bench", folder, "--rounds", "1", "--json").stdout)
    assert shown["artefact"] == "gguf q8_0" and shown["method"]["runtime"] == "llama_cpp"
    assert shown["latency_p50_ms"] > 0 and shown["first_p50_ms"] > 0


def test_a_converter_that_is_not_there_is_told_before_anything_is_trained(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(commands.ENVIRONMENT, FOLDER, str(tmp_path))
    done = potstill("check", project / "recipe.yaml", *CHANGES, check=None)
    assert done.returncode == 1
    assert "export[0]: gguf needs llama.cpp's converter" in done.stderr and "Run: make gguf" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("task", "words"),
    [("text_classification", "those of text_classification are none"), ("seq2seq", "those of seq2seq are none")],
)
def test_models_that_are_no_language_models_are_refused(project: Path, task: str, words: str) -> None:
    recipe = project / f"{task}.yaml"
    recipe.write_text((project / "recipe.yaml").read_text().replace("kind: causal_lm, max_length: 64", f"kind: {task}"))
    done = potstill("check", recipe, check=None)
    assert done.returncode == 1 and "export[0]: gguf is for language models, and " + words in done.stderr
