"""Models on changed texts and on texts of another kind, through the command line, with a tiny teacher."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record, stages_that_worked
from tests.conftest import make_project
from tests.recipes.test_problem_types import changes, of_recipes, write_sets

ASKED = (
    "evaluate.robustness={rows: 20, attacks: 6, queries: 60, perturbations: [keyboard, truncation], severities: [1, 3]}"
)
OTHERS = "evaluate.out_of_domain=data/others.jsonl"
WAYS = [("keyboard", 1), ("keyboard", 3), ("truncation", 1), ("truncation", 3)]


def write_others(path: Path) -> None:
    texts = [f"a note of {number} words on <b>nothing</b>" for number in range(12)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_robustness_is_measured_required_and_shown(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_project(tmp_path, teacher_folder)
    write_others(project / "data/others.jsonl")
    required = {
        "robust_accuracy": "> 0.3 (95%)",
        "robust_agreement": ">= 0.5",
        "attack_success_rate": "<= 1",
        "ood_auroc": ">= 0",
        "ood_fpr95": "<= 1 (95%)",
    }
    settings = [ASKED, OTHERS, f"gate.require={json.dumps(required)}", "train.epochs=8"]
    command = [
        "run",
        project / "recipe.yaml",
        "--out",
        project / "run",
        *(part for each in settings for part in ("--set", each)),
    ]
    said = potstill(*command).stderr
    assert "evaluate" in stages_that_worked(said)

    evaluation = record(project / "run", "evaluate")
    robust, outside = evaluation["robustness"], evaluation["out_of_domain"]
    assert robust["rows"] == 20 and list(robust["models"]) == ["teacher", "student", "baseline"]
    for name, model in robust["models"].items():
        assert [(each["perturbation"], each["severity"]) for each in model["perturbed"]] == WAYS
        accuracies = [each["accuracy"]["value"] for each in model["perturbed"]]
        assert model["robust_accuracy"]["value"] == pytest.approx(sum(accuracies) / 4)
        # One word decides the class, and most texts lose it where three quarters of their words are cut away.
        assert accuracies[3] < accuracies[2] <= model["clean_accuracy"]["value"], name
        assert model["kept"]["value"] == pytest.approx(sum(accuracies) / 4 / model["clean_accuracy"]["value"])
    attacks = robust["attacks"]
    assert attacks["rows"] == 6
    for model in attacks["models"].values():
        assert 0 < model["succeeded"] <= model["attacked"] <= 6 and model["mean_queries"] <= 60
        assert model["success_rate"]["value"] == pytest.approx(model["succeeded"] / model["attacked"])
    for example in attacks["examples"]:
        before, after = example["before"].split(), example["after"].split()
        assert sum(a != b for a, b in zip(before, after, strict=True)) <= max(1, len(before) // 5)
        assert example["answer"] != example["truth"]
    assert outside["rows"] == 12 and outside["test_rows"] == 60 and outside["source"] == "data/others.jsonl"
    for model in outside["models"].values():
        for score in ("max_probability", "energy"):
            assert sum(model[score]["histogram"]["out_of_domain"]) == 12
            assert sum(model[score]["histogram"]["in_domain"]) == 60

    verdict = {check["name"]: check for check in record(project / "run", "gate")["checks"]}
    student = robust["models"]["student"]
    assert verdict["robust_accuracy"]["measured"] == student["robust_accuracy"]["value"]
    assert verdict["ood_auroc"]["measured"] == outside["models"]["student"]["max_probability"]["auroc"]["value"]
    assert set(required) < set(verdict) and all(verdict[name]["passed"] for name in required)
    page = (project / "run/report/report.html").read_text()
    for anchor in ("robustness", "adversarial", "out-of-domain"):
        assert f'<h2 id="{anchor}">' in page
    assert page.count('aria-label="Accuracy kept on changed texts') == 1 and "<script" not in page

    assert stages_that_worked(potstill(*command).stderr) == set()
    # Where the texts of another kind are others, models are measured again, and nothing is trained.
    (project / "data/others.jsonl").write_text(json.dumps({"text": "one more"}) + "\n")
    command[-3] = "gate.require={}"
    forms = {"forms/student/safetensors", "forms/measured"}
    assert stages_that_worked(potstill(*command).stderr) == {"evaluate", "gate", *forms, "export", "report"}
    assert record(project / "run", "evaluate")["out_of_domain"]["rows"] == 1


@pytest.mark.long
def test_several_labels_on_other_texts(tmp_path: Path, teacher_folder: Path) -> None:
    of_recipes(tmp_path, "multi_label", "sets", write_sets, teacher_folder)
    write_others(tmp_path / "sets/data/others.jsonl")
    asked = changes()
    settings = [ASKED, "evaluate.out_of_domain=../sets/data/others.jsonl"]
    potstill(
        "run",
        tmp_path / "recipes/multi_label.yaml",
        "--out",
        tmp_path / "run",
        *asked,
        *(part for each in settings for part in ("--set", each)),
    )
    evaluation = record(tmp_path / "run", "evaluate")
    for name in ("teacher", "student"):
        model = evaluation["robustness"]["models"][name]
        assert 0 < model["robust_accuracy"]["value"] < model["clean_accuracy"]["value"]
        assert evaluation["robustness"]["attacks"]["models"][name]["attacked"] > 0
        assert 0 <= evaluation["out_of_domain"]["models"][name]["energy"]["auroc"]["value"] <= 1
    page = (tmp_path / "run/report/report.html").read_text()
    assert "All labels right" in page.split('<h2 id="robustness">')[1].split("<h2")[0]
