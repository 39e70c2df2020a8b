"""Language models on other texts than the test rows, through the command line, with a tiny teacher."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record, stages_that_worked
from tests.conftest import make_chat_project, write_dialogues

WAYS = [("keyboard", 1), ("keyboard", 3), ("truncation", 1), ("truncation", 3)]
ASKED = "{rows: 12, perturbations: [keyboard, truncation], severities: [1, 3]}"


def changed(*settings: str) -> list[str]:
    return [part for each in settings for part in ("--set", each)]


def test_changed_prompts_and_queries_are_measured_required_and_shown(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    hostile = "w1 <script>alert(1)</script>"
    rows = [{"messages": [{"role": "user", "content": text}], "domain": "odd"} for text in (hostile, "w2 w3", "w4 ?")]
    (project / "data/queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_dialogues(project / "data/others.jsonl", 8, seed=99)
    required = {
        "robust_kl": "<= 20 (95%)",
        "robust_perplexity": "<= 1000000",
        "robust_perplexity_ratio": "<= 1000x",
        "robust_agreement": ">= 0",
        "unanswerable_kl": "<= 20 nats",
        "unanswerable_agreement": ">= 0",
        "ood_kl": "<= 20 (95%)",
        "ood_perplexity": "<= 1000000",
    }
    settings = changed(
        f"evaluate.robustness={ASKED}",
        "evaluate.robustness.unanswerable=data/queries.jsonl",
        "evaluate.out_of_domain=data/others.jsonl",
        f"gate.require={json.dumps(required)}",
    )
    command = ["run", project / "recipe.yaml", "--out", project / "run", *settings]
    assert "evaluate" in stages_that_worked(potstill(*command).stderr)
    evaluation = record(project / "run", "evaluate")
    robust, outside = evaluation["token_robustness"], evaluation["token_out_of_domain"]
    assert robust["rows"] == 12 and list(robust["models"]) == ["teacher", "student", "baseline"]
    for name, model in robust["models"].items():
        assert [(each["perturbation"], each["severity"]) for each in model["perturbed"]] == WAYS
        # What is asked about stands at the end of each question, and is cut away.
        assert model["perturbed"][3]["perplexity_ratio"]["value"] > 1, name
        assert (model["robust_kl"] is None) is (name == "teacher")
    queries = robust["unanswerable"]
    assert (queries["queries"], queries["source"], queries["counts"]) == (3, "data/queries.jsonl", {"odd": 3})
    assert outside["rows"] == 8 and outside["test_rows"] == 30
    inside = outside["models"]["student"]["inside"]
    assert inside["perplexity"]["value"] == pytest.approx(evaluation["models"]["student"]["perplexity"], rel=1e-6)
    assert inside["kl"]["value"] == pytest.approx(evaluation["models"]["student"]["kl_mean"], rel=1e-6)

    verdict = {check["name"]: check for check in record(project / "run", "gate")["checks"]}
    assert set(required) < set(verdict) and all(verdict[name]["passed"] for name in required)
    assert verdict["robust_kl"]["measured"] == robust["models"]["student"]["robust_kl"]["value"]
    page = (project / "run/report/report.html").read_text()
    for anchor in ("robustness", "unanswerable", "out-of-domain"):
        assert f'<h2 id="{anchor}">' in page
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page
    assert stages_that_worked(potstill(*command).stderr) == set()
    # Other queries are asked anew, and nothing is trained.
    (project / "data/queries.jsonl").write_text(json.dumps(rows[1]) + "\n")
    forms = {"forms/student/safetensors", "forms/measured"}
    assert stages_that_worked(potstill(*command).stderr) == {"evaluate", "gate", *forms, "export", "report"}
    assert record(project / "run", "evaluate")["token_robustness"]["unanswerable"]["queries"] == 1
