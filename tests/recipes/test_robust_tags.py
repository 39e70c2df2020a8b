"""Tagged documents that are changed or of another kind, through the command line, with a tiny teacher."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.perturbations.words import OF_WORDS
from tests.commands import potstill, record
from tests.recipes.test_robust_writing import changed
from tests.tagged_project import make_tagged_project, write_documents


def test_changed_documents_are_measured_required_and_shown(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_tagged_project(tmp_path, teacher_folder)
    write_documents(project / "data/others.jsonl", 9, seed=99)
    required = {"robust_entity_f1": ">= 0 (95%)", "robust_agreement": ">= 0", "ood_auroc": ">= 0", "ood_fpr95": "<= 1"}
    settings = changed(
        "evaluate.robustness={rows: 8, severities: [2]}",
        "evaluate.out_of_domain=data/others.jsonl",
        f"gate.require={json.dumps(required)}",
        "export=[{kind: onnx, precision: float32}]",
    )
    command = ["run", project / "recipe.yaml", "--out", project / "run", *settings]
    potstill(*command)
    evaluation = record(project / "run", "evaluate")
    robust: dict[str, Any] = evaluation["robustness"]
    assert robust["rows"] == 8 and robust["attacks"] is None
    student = robust["models"]["student"]
    assert [each["perturbation"] for each in student["perturbed"]] == list(OF_WORDS)
    assert 0 < student["robust_accuracy"]["value"] < student["clean_accuracy"]["value"] <= 1
    assert evaluation["out_of_domain"]["rows"] == 9
    assert 0 <= evaluation["out_of_domain"]["models"]["student"]["with_entities"]["value"] <= 1
    verdict = {check["name"]: check for check in record(project / "run", "gate")["checks"]}
    assert verdict["robust_entity_f1"]["measured"] == student["robust_accuracy"]["value"]
    assert all(verdict[name]["passed"] for name in required)
    (artefact,) = record(project / "run", "export")["artefacts"]
    again = {check["name"]: check for check in artefact["checks"]}
    # The same model in another runtime, asked about the same documents.
    assert again["robust_entity_f1"]["measured"] == pytest.approx(student["robust_accuracy"]["value"], abs=0.02)
    page = (project / "run/report/report.html").read_text()
    assert "Entity F1 kept on changed texts" in page and '<h2 id="out-of-domain">' in page
