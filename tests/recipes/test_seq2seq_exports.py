"""An encoder-decoder on its way into graphs, by the command line: made, judged again, asked, measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import potstill, record
from tests.kept_answers import assert_metrics_add_up
from tests.pair_models import pair_teacher_folder
from tests.recipes.test_seq2seq import SHRUNK, changed, of_recipes

__all__ = ["pair_teacher_folder"]

pytestmark = pytest.mark.long
FORMS = "[{kind: safetensors}, {kind: onnx}, {kind: onnx, precision: float32}]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, pair_teacher_folder: Path) -> Path:
    """The recipe for pairs, in a shrunk form."""
    folder = tmp_path_factory.mktemp("exports")
    recipe = of_recipes(folder, "seq2seq", pair_teacher_folder)
    potstill("run", recipe, "--out", folder / "run", *changed(*SHRUNK, f"export={FORMS}"), "--quiet")
    return folder


def rows_of(finished: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished / "names/data/test.jsonl").read_text().splitlines()]


def test_each_form_is_judged_by_itself_beside_the_teacher_in_the_same(finished: Path) -> None:
    exported, evaluated = (record(finished / "run", stage) for stage in ("export", "evaluate"))
    artefacts = {each["name"]: each for each in exported["artefacts"]}
    rivals = {each["name"]: each for each in exported["rivals"]}
    assert list(artefacts) == ["safetensors", "onnx-int8", "onnx-float32"]
    assert list(rivals) == ["teacher onnx-int8", "teacher onnx-float32"] and exported["rivals_missing"] == {}
    student, teacher = (evaluated["models"][name] for name in ("student", "teacher"))
    whole, rounded = artefacts["onnx-float32"], artefacts["onnx-int8"]
    for form, source in ((whole, student), (rivals["teacher onnx-float32"], teacher)):
        model = form["model"]
        assert model["scores"]["exact_match"]["value"] == source["scores"]["exact_match"]["value"]
        assert model["cross_entropy"] == pytest.approx(source["cross_entropy"], rel=1e-3)
        assert form["agreement_with_source"] == 1.0 and form["max_logit_difference"] < 1e-3
    assert whole["model"]["kl_mean"] == pytest.approx(student["kl_mean"], rel=1e-3, abs=1e-6)
    assert rounded["max_logit_difference"] > whole["max_logit_difference"] > 0
    assert rounded["model"]["scores"]["exact_match"]["value"] > 0.8
    for each in (whole, rounded):
        model = each["model"]
        assert each["passed"] and "retention" in [check["name"] for check in each["checks"]]
        assert model["time_to_first_token_ms"] > 0 and model["time_per_token_ms"] > 0 and model["load_ms"] > 0
        assert model["num_parameters"] == student["num_parameters"]
        rival = rivals[f"teacher {each['name']}"]["model"]
        assert each["speedup_over_rival"] == pytest.approx(rival["latency_p50_ms"] / model["latency_p50_ms"])
    assert_metrics_add_up(finished / "run")


def test_an_artefact_answers_elsewhere_as_it_does_here_and_is_right(finished: Path, tmp_path: Path) -> None:
    rows = rows_of(finished)
    lines = "".join(json.dumps({"id": row["id"], "text": row["source"]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    truth = [row["target"] for row in rows]
    for name in ("onnx-int8", "onnx-float32"):
        folder = Path(shutil.copytree(finished / "run/export" / name, tmp_path / name))
        done = subprocess.run(
            [sys.executable, folder / "predict.py"], input=lines, capture_output=True, text=True, check=True
        )
        elsewhere = [json.loads(line)["text"] for line in done.stdout.splitlines()]
        potstill("predict", folder, tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl", "--batch-size", "7")
        here = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [each["id"] for each in here] == [row["id"] for row in rows]
        assert [each["text"] for each in here] == elsewhere
        exported = {each["name"]: each for each in record(finished / "run", "export")["artefacts"]}
        right = sum(a == b for a, b in zip(elsewhere, truth, strict=True)) / len(rows)
        assert right == pytest.approx(exported[name]["model"]["scores"]["exact_match"]["value"])


def test_the_folder_stands_alone_and_its_card_says_how_it_is_asked(finished: Path) -> None:
    folder = finished / "run/export/onnx-int8"
    assert {path.name for path in folder.iterdir()} == {
        "encoder.onnx", "decoder.onnx", "decoder.onnx.data", "config.json", "tokenizer.json", "tokenizer_config.json",
        "artefact.json", "MODEL_CARD.md", "predict.py", "requirements.txt", "checksums.sha256",
    }  # fmt: skip
    card = (folder / "MODEL_CARD.md").read_text()
    assert "library_name: onnx" in card and "pipeline_tag: text2text-generation" in card
    assert "python predict.py" in card and "from_pretrained" not in card


def test_bench_times_its_tokens(finished: Path) -> None:
    found = json.loads(potstill("bench", finished / "run/export/onnx-float32", "--json", "--rounds", "1").stdout)
    assert found["artefact"] == "onnx float32" and found["method"]["runtime"] == "onnx"
    assert found["latency_p50_ms"] > 0 and found["first_p50_ms"] > 0 and found["method"]["queries"] == 2
