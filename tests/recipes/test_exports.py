"""Artefacts through the command line, on a tiny teacher: made, judged again, asked, measured, refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import potstill, record, stages_that_worked
from tests.conftest import make_project
from tests.kept_answers import assert_figures_add_up, assert_metrics_add_up, kept
from tests.tagged_project import make_tagged_project

FORMS = "[{kind: safetensors}, {kind: onnx}, {kind: onnx, precision: float32}]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_project(tmp_path_factory.mktemp("exports"), teacher_folder)
    potstill("run", project / "recipe.yaml", "--out", project / "run", "--set", f"export={FORMS}", "--quiet")
    return project


def rows_of(project: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project / "data/test.jsonl").read_text().splitlines()]


def rival_of(exported: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in exported["rivals"] if each["name"] == "teacher onnx-float32")


def test_each_artefact_is_judged_by_itself_beside_the_teacher_in_the_same_form(finished: Path) -> None:
    exported, evaluated = record(finished / "run", "export"), record(finished / "run", "evaluate")
    artefacts = {each["name"]: each for each in exported["artefacts"]}
    rivals = {each["name"]: each for each in exported["rivals"]}
    assert list(artefacts) == ["safetensors", "onnx-int8", "onnx-float32"]
    assert list(rivals) == ["teacher onnx-int8", "teacher onnx-float32"] and exported["rivals_missing"] == {}
    student, teacher = (evaluated["models"][name] for name in ("student", "teacher"))
    assert artefacts["safetensors"]["model"] is None and artefacts["safetensors"]["max_logit_difference"] == 0.0
    whole, rounded = artefacts["onnx-float32"], artefacts["onnx-int8"]
    assert whole["model"]["accuracy"] == student["accuracy"] and whole["agreement_with_source"] == 1.0
    assert rivals["teacher onnx-float32"]["model"]["accuracy"] == teacher["accuracy"]
    assert 0 < whole["max_logit_difference"] < 1e-4 < rounded["max_logit_difference"]
    for each in (whole, rounded):
        model = each["model"]
        assert each["passed"] and [check["name"] for check in each["checks"]] == ["retention"]
        assert model["latency_p50_ms"] > 0 and model["load_ms"] > 0
        assert 0 < model["memory_above_floor_bytes"] < model["peak_memory_bytes"]
        assert model["num_parameters"] == student["num_parameters"]
        rival = rivals[f"teacher {each['name']}"]["model"]
        assert each["speedup_over_rival"] == pytest.approx(rival["latency_p50_ms"] / model["latency_p50_ms"])
    # Each card is of its own model.
    cards = [(finished / "run" / each["folder"] / "MODEL_CARD.md").read_text() for each in (whole, rival_of(exported))]
    plan = record(finished / "run", "plan")
    for card, shape in zip(cards, (plan["student"], plan["teacher"]), strict=True):
        assert f"{shape['family']} with {shape['layers']} layers of width {shape['width']}, in float32" in card
    assert "It was distilled from" in cards[0] and "- knowledge-distillation\n" in cards[0]
    assert "It is the teacher itself" in cards[1] and "distilled from" not in cards[1]
    assert "knowledge-distillation" not in cards[1]
    assert exported["smallest"] == "safetensors" and exported["fastest"] in artefacts
    # All that was shipped is in the record, each file with its digest.
    files = {path.relative_to(finished / "run/export").as_posix() for path in (finished / "run/export").rglob("*")}
    assert set(exported["files"]) == {name for name in files if (finished / "run/export" / name).is_file()} - {
        "result.json",
        "inputs.json",
    }


def test_an_artefact_answers_elsewhere_without_this_package_as_it_does_here(finished: Path, tmp_path: Path) -> None:
    """In a process that can import none of what training needs."""
    rows = rows_of(finished)[:12]
    lines = "".join(json.dumps({"id": row["id"], "text": row["text"]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    barred = "import sys, runpy\nfor name in ('potstill', 'torch', 'transformers'): sys.modules[name] = None\n"
    for name in ("onnx-int8", "onnx-float32"):
        folder = Path(shutil.copytree(finished / "run/export" / name, tmp_path / name))
        done = subprocess.run(
            [sys.executable, "-c", barred + f"runpy.run_path({str(folder / 'predict.py')!r}, run_name='__main__')"],
            input=lines, capture_output=True, text=True, cwd=tmp_path, check=True,
        )  # fmt: skip
        elsewhere = [json.loads(line) for line in done.stdout.splitlines()]
        potstill("predict", folder, tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl", "--batch-size", "5")
        here = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [each["id"] for each in here] == [row["id"] for row in rows]
        assert [each["label"] for each in here] == [each["label"] for each in elsewhere]
        chances = [[each["probability"] for each in found] for found in (here, elsewhere)]
        assert chances[0] == pytest.approx(chances[1], rel=1e-5)
    about = json.loads((folder / "artefact.json").read_text())
    labels = about["labels"]
    fitted = record(finished / "run", "evaluate")["calibration"]["student"]["temperature"]
    assert about["temperature"] == (fitted or 1.0)
    assert {each["label"] for each in here} <= set(labels) and len({each["label"] for each in here}) > 1


def test_the_card_of_an_artefact_has_the_metadata_of_the_hub_and_its_own_figures(finished: Path) -> None:
    text = (finished / "run/export/onnx-int8/MODEL_CARD.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "onnx" and head["pipeline_tag"] == "text-classification"
    assert {"onnx", "int8", "knowledge-distillation"} <= set(head["tags"])
    latency = record(finished / "run", "export")["artefacts"][1]["model"]["latency_p50_ms"]
    assert f"| {latency:,.2f} |" in text and "python predict.py" in text and "not stated" in text


def test_bench_measures_an_artefact_alone_and_says_how(finished: Path) -> None:
    folder = finished / "run/export/onnx-int8"
    found = json.loads(potstill("bench", folder, "--json", "--rounds", "2").stdout)
    low, high = found["latency_p50_range_ms"]
    assert low == found["latency_p50_ms"] <= high
    method = found["method"]
    assert method["runtime"] == "onnx" and method["threads"] == 1 and method["rounds"] == 2
    assert method["queries"] == 8 and "onnxruntime" in method["made_with"]
    assert "rounds" in potstill("bench", folder, "--rounds", "1", "--rows", finished / "data/test.jsonl").stdout


def test_an_artefact_that_does_not_meet_the_gate_is_not_shipped(finished: Path, tmp_path: Path) -> None:
    """The student meets it, a graph of so small a model is larger; where none passes, the command says so."""
    run = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    recipe = finished / "recipe.yaml"
    limit = "gate.require={size_bytes: '<= 100000'}"
    done = potstill("export", recipe, "--out", run, "--set", limit, "--set", "export=[{kind: onnx}]", check=3)
    (made,) = record(run, "export")["artefacts"]
    assert not made["passed"] and record(run, "gate")["passed"] and record(run, "export")["smallest"] is None
    assert [check["name"] for check in made["checks"] if not check["passed"]] == ["size_bytes"]
    assert "misses size_bytes" in " ".join(done.stdout.split())
    # Beside one that passes it is no failure of the run.
    potstill("export", recipe, "--out", run, "--set", limit, "--set", "export=[{kind: onnx}, {kind: safetensors}]")
    assert record(run, "export")["smallest"] == "safetensors"


def test_other_thresholds_judge_what_was_measured_and_write_nothing_anew(finished: Path, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", finished / "recipe.yaml"
    # As `cp -a` copies: what shares its bytes goes on to.
    subprocess.run(["cp", "-a", finished / "run", run], check=True)
    before = record(run, "export")
    largest = max(each["size_bytes"] for each in before["artefacts"])
    command = ("export", recipe, "--out", run, "--set", f"export={FORMS}")
    limit = ("--set", f"gate.require={{size_bytes: '< {largest}'}}", "--set", "gate.min_retention=0.02")
    assert stages_that_worked(potstill(*command, *limit).stderr) == {"gate", "export"}
    after = record(run, "export")
    judged = ("passed", "checks")
    for old, new in zip(
        (*before["artefacts"], *before["rivals"]), (*after["artefacts"], *after["rivals"]), strict=True
    ):
        assert {**new, **{name: old[name] for name in judged}} == old
        assert [check["name"] for check in new["checks"]] == (
            [] if new["model"] is None else ["retention", "size_bytes"]
        )
        assert new["passed"] is all(check["passed"] for check in new["checks"])
        verdict = "Passed" if new["passed"] else "Failed"
        assert f"**{verdict}.**" in (run / new["folder"] / "MODEL_CARD.md").read_text()
    assert len({each["passed"] for each in after["artefacts"]}) == 2
    graphs = [run / place / "model.onnx" for place in ("export/onnx-int8", "forms/student/onnx-int8/model")]
    assert graphs[0].samefile(graphs[1]) and kept(run, "export") == kept(finished / "run", "export")

    more = ("--set", f"export={FORMS.replace(']', ', {kind: safetensors, precision: bfloat16}]')}")
    new = {f"forms/{source}/safetensors-bfloat16" for source in ("student", "teacher")}
    assert stages_that_worked(potstill(*command, *more).stderr) == {*new, "forms/measured", "gate", "export"}
    artefacts = {each["name"]: each for each in record(run, "export")["artefacts"]}
    assert list(artefacts) == ["safetensors", "onnx-int8", "onnx-float32", "safetensors-bfloat16"]
    # Measured once more beside it, they answer as they did.
    for old in before["artefacts"]:
        new_model, old_model = artefacts[old["name"]]["model"], old["model"]
        assert (new_model and new_model["accuracy"]) == (old_model and old_model["accuracy"])


def test_a_student_that_fails_the_gate_is_not_exported(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    forms = ("--set", f"export={FORMS}", "--set", "gate.min_speedup=1e6")
    potstill("export", finished / "recipe.yaml", "--out", run, *forms, check=3)
    assert record(run, "export")["skipped"] and not (run / "export/onnx-int8").exists()


@pytest.mark.long
def test_documents_are_answered_elsewhere_as_here(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    settings = ("--set", "export=[{kind: onnx}]", "--set", "gate={min_retention: 0.01, allow_weak_teacher: true}")
    potstill("run", project / "recipe.yaml", "--out", project / "run", *settings, "--quiet")
    (made,) = record(project / "run", "export")["artefacts"]
    assert made["passed"] and made["model"]["scores"]["entity_f1"]["value"] > 0
    folder = project / "run/export/onnx-int8"
    rows = [json.loads(line) for line in (project / "data/test.jsonl").read_text().splitlines()][:6]
    lines = "".join(json.dumps({"tokens": row["tokens"]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    done = subprocess.run(
        [sys.executable, folder / "predict.py"], input=lines, capture_output=True, text=True, check=True
    )
    potstill("predict", folder, tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl")
    elsewhere = [json.loads(line)["tags"] for line in done.stdout.splitlines()]
    here = [json.loads(line)["tags"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert here == elsewhere and [len(tags) for tags in here] == [len(row["tokens"]) for row in rows]
    assert len({tag for tags in here for tag in tags}) > 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"txt": "a"}', 'line 2: expected a row such as {"text"'),
        ('{"text": 7}', "line 2: expected a row such as"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(finished: Path, tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "w1"}\n' + line + "\n")
    out = tmp_path / "out.jsonl"
    done = potstill("predict", finished / "run/export/onnx-int8", tmp_path / "rows.jsonl", "--out", out, check=1)
    assert told in done.stderr and "Traceback" not in done.stderr
    assert not out.exists(), "a file that is there is whole"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("export=[{kind: onnx, precision: int4}]", "export[0].precision: Input should be"),
        ("export=[{kind: onx}]", "export[0]"),
        ("export=[{kind: onnx}, {kind: onnx}]", "onnx-int8 is listed twice"),
        ("export=[{kind: onnx, activations: static, calibration_rows: 0}]", "calibration_rows"),
    ],
)
def test_wrong_exporters_are_one_clear_error(finished: Path, setting: str, told: str) -> None:
    done = potstill("check", finished / "recipe.yaml", "--set", setting, check=1)
    assert told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_a_student_is_trained_on_with_the_rounding_of_its_artefact(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished / "run", tmp_path / "run"))
    forms = "export=[{kind: onnx}, {kind: onnx, distil: {steps: 8, learning_rate: 1e-3}}]"
    potstill("export", finished / "recipe.yaml", "--out", run, "--set", forms)
    trained = record(run, "train/rounded-onnx-int8-distilled")
    assert trained["steps"] == 8 and trained["initial_digest"] == record(run, "train/student")["digest"]
    assert trained["digest"] != trained["initial_digest"]
    plain, distilled = record(run, "export")["artefacts"]
    assert [plain["name"], distilled["name"]] == ["onnx-int8", "onnx-int8-distilled"]
    graphs = [(run / f"export/{name}/model.onnx.data").read_bytes() for name in ("onnx-int8", "onnx-int8-distilled")]
    assert graphs[0] != graphs[1]
    # One teacher stands beside both.
    assert [each["name"] for each in record(run, "export")["rivals"]] == ["teacher onnx-int8"]
    assert plain["speedup_over_rival"] and distilled["speedup_over_rival"]
    before = (run / "train/rounded-onnx-int8-distilled/result.json").stat().st_mtime_ns
    potstill("export", finished / "recipe.yaml", "--out", run, "--set", forms)
    assert (run / "train/rounded-onnx-int8-distilled/result.json").stat().st_mtime_ns == before


def test_what_rounds_nothing_is_not_trained_for(finished: Path) -> None:
    done = potstill(
        "check", finished / "recipe.yaml", "--set", "export=[{kind: onnx, precision: float32, distil: {}}]", check=1
    )
    assert "export[0].distil: onnx-float32 does not round weights" in done.stderr


def test_the_answers_of_forms_are_kept_and_add_up_to_their_figures(finished: Path) -> None:
    run = finished / "run"
    assert_metrics_add_up(run)
    own, forms, exported = kept(run), kept(run, "export"), record(run, "export")
    assert [row["id"] for row in forms] == [row["id"] for row in own] and "text" not in forms[0]
    assert [row["digest"] for row in forms] == [row["digest"] for row in own]
    judged = {each["name"]: each["model"] for each in (*exported["artefacts"], *exported["rivals"]) if each["model"]}
    assert set(forms[0]["models"]) == set(judged) and len(judged) == 4
    for name, figures in judged.items():
        assert_figures_add_up(figures, [row["models"][name] for row in forms], [row["truth"] for row in own])
    exact = [
        [row["models"][name]["said"] for row in rows] for name, rows in (("student", own), ("onnx-float32", forms))
    ]
    assert exact[0] == exact[1]


def test_forms_of_two_runs_are_compared_row_by_row(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "run", tmp_path / "other")
    potstill("report", finished / "run", tmp_path / "other", "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for name in ("onnx-int8", "onnx-float32", "teacher onnx-int8", "teacher onnx-float32"):
        row = re.search(rf"<tr><th[^>]*>export/{name}</th>(.*?)</tr>", page, re.DOTALL)
        assert row is not None and re.findall(r"<td[^>]*>([^<]*)</td>", row[1])[:3] == ["0", "0", "p = 1.000"], name
