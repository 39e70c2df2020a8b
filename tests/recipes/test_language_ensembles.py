"""Two chat models that know different things teach one student, through the command line."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record, stages_that_worked
from tests.conftest import THINGS, make_chat_project

CHANGES = ["train.epochs=6", "train.baseline=false", "evaluate.generations=1", "evaluate.rounds=1"]


def changed(*changes: str) -> list[str]:
    return [part for change in (*CHANGES, *changes) for part in ("--set", change)]


@pytest.fixture
def project(tmp_path: Path, chat_teacher_folder: Path) -> Path:
    """Rows whose first turn is about one of three things are of one domain, all others of another."""
    make_chat_project(tmp_path, chat_teacher_folder)
    for path in (tmp_path / "data").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["messages"] = row["messages"][:2]
            row["domain"] = "few" if row["messages"][0]["content"].split()[-2] in THINGS[:3] else "others"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "train/student/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "step"]


def test_specialists_are_mixed_token_by_token(project: Path, chat_teacher_folder: Path) -> None:
    """One is called as the student before its training is elsewhere, which is measured too."""
    members = "untrained", "b"
    of = f"of: {{untrained: {{model: '{chat_teacher_folder}'}}, b: {{model: '{chat_teacher_folder}'}}}}"
    teacher = f"teacher={{kind: mixture, {of}, domains: {{untrained: [few], b: [others]}}}}"
    recipe, out = project / "recipe.yaml", project / "run"
    potstill("run", recipe, "--out", out, *changed(teacher))
    evaluation = record(out, "evaluate")
    models = evaluation["models"]
    assert set(models) == {"teacher", "student", *members}
    for quantity in ("num_parameters", "size_bytes"):
        assert models["teacher"][quantity] == sum(models[name][quantity] for name in members)
    # Each is sure of wrong answers in the other's domain; the mixture gives a half to what one of them knows.
    assert models["teacher"]["cross_entropy"] < min(models[name]["cross_entropy"] for name in members)
    assert models["teacher"]["kl_mean"] is None and models["untrained"]["kl_mean"] > 0
    assert models["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    assert set(evaluation["generations"][0]["said"]) == set(models)
    stored = losses(out)
    again = potstill("train", recipe, "--out", out, *changed(teacher.replace("domains", "weights: {b: 2}, domains")))
    assert stages_that_worked(again.stderr) == {"plan", "train/student"}, "other weights relabel nothing"
    potstill("train", recipe, "--out", out, *changed(teacher, "label.mode=online"))
    # 16 of 32 components lose a little of the tail.
    assert losses(out) == pytest.approx(stored, rel=0.05, abs=0.02)


def test_labels_that_are_no_whole_distributions_are_refused(project: Path, chat_teacher_folder: Path) -> None:
    of = f"of: {{a: {{model: '{chat_teacher_folder}'}}, b: {{model: '{chat_teacher_folder}'}}}}"
    recipe = project / "recipe.yaml"
    for encoding, change in (("top_k", "{kind: top_k}"), ("auto", "{kind: auto}")):
        teacher = f"teacher={{kind: mixture, {of}}}"
        done = potstill("check", recipe, *changed(teacher, f"label.encoding={change}"), check=1)
        assert f"label.encoding: {encoding} holds no whole distributions" in done.stderr


@pytest.mark.long
def test_each_row_hears_the_teacher_of_its_domain(project: Path, chat_teacher_folder: Path) -> None:
    of = f"of: {{a: {{model: '{chat_teacher_folder}'}}, b: {{model: '{chat_teacher_folder}'}}}}"
    routed = f"teacher={{kind: routed, by: domain, {of}, domains: {{a: [few], b: [others]}}}}"
    recipe, out = project / "recipe.yaml", project / "run"
    with (project / "data/train.jsonl").open("a") as file:
        # Longer than a row of the task: it becomes several examples, all of its domain.
        file.write(json.dumps({"id": "long", "text": "w1 w2 w3 " * 40, "domain": "few"}) + "\n")
    potstill("run", recipe, "--out", out, *changed(routed))
    evaluation = record(out, "evaluate")
    # A teacher that was asked about the other's rows, or whose rows were swapped in packing, would not know all.
    assert evaluation["models"]["teacher"]["accuracy"] > 0.97
    assert all(evaluation["models"][name]["accuracy"] < 0.95 for name in "ab")
    assert evaluation["models"]["student"]["kl_mean"] < 0.5 * evaluation["initial_kl_mean"]
    (sample,) = evaluation["generations"]
    assert sample["said"]["teacher"] in (sample["said"]["a"], sample["said"]["b"])
    with (project / "data/validation.jsonl").open("a") as file:
        row = {"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}], "domain": "sea"}
        file.write(json.dumps(row) + "\n")
    assert "its domain is 'sea'" in potstill("check", recipe, *changed(routed), check=1).stderr
