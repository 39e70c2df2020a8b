"""The built-in project with its real teacher and real text, in a shrunk form."""

import json
from pathlib import Path

import pytest

from tests.commands import potstill, record

pytestmark = pytest.mark.long

KEPT = {"adapt": (1000, 0), "train": (300, 400), "validation": (150, 0), "test": (400, 0)}


def shrink(data: Path) -> None:
    """Keep the first labelled and unlabelled rows of each file."""
    for name, (labelled, unlabelled) in KEPT.items():
        path = data / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
        kept = [row for row in rows if row["label"] is not None][:labelled]
        kept += [row for row in rows if row["label"] is None][:unlabelled]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def test_the_project_is_written_as_described_and_runs_to_a_report(tmp_path: Path) -> None:
    written = potstill("init", "license-notices", tmp_path / "demo").stdout
    data = tmp_path / "demo/data"
    lines = {path.stem: path.read_text().count("\n") for path in data.iterdir()}
    assert lines["test"] == 2000 and lines["adapt"] == 4600 and lines["train"] > 6000
    assert lines.pop("out_of_domain") == 300
    assert "near-copies of held-out rows dropped" in written
    plan = potstill("check", tmp_path / "demo/recipe.yaml").stdout
    assert "near-copies" not in plan, "what init wrote holds none"

    shrink(data)
    # Classes that are left without a training row would be refused.
    taught = {json.loads(line)["label"] for line in (data / "adapt.jsonl").read_text().split("\n") if line}
    for name in ("validation", "test"):
        rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text().split("\n") if line]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["label"] in taught))

    run = tmp_path / "run"
    shorter = ["adapt.epochs=4", "train.epochs=8", "evaluate.latency_rows=30", "evaluate.rounds=1"]
    shorter += ["evaluate.robustness={rows: 40, severities: [2], attacks: 4, queries: 60}"]
    overrides = [part for setting in shorter for part in ("--set", setting)]
    done = potstill("run", tmp_path / "demo/recipe.yaml", "--out", run, *overrides, check=None)
    assert done.returncode in (0, 3), done.stderr
    evaluation, verdict = record(run, "evaluate"), record(run, "gate")
    assert (done.returncode == 0) == verdict["passed"]
    assert record(run, "export")["skipped"] is not verdict["passed"]
    models = evaluation["models"]
    # The most frequent class has about a tenth of the rows.
    assert models["teacher"]["accuracy"] > 0.5
    assert models["student"]["accuracy"] > 0.4
    assert evaluation["agreement"]["student"]["all_rows"]["value"] > 0.5
    assert models["teacher"]["size_bytes"] > 3 * models["student"]["size_bytes"]
    assert evaluation["findings"]
    assert evaluation["robustness"]["models"]["teacher"]["robust_accuracy"]["value"] > 0.3
    assert evaluation["out_of_domain"]["rows"] == 300
    assert evaluation["out_of_domain"]["models"]["teacher"]["max_probability"]["auroc"]["value"] > 0.6
    page = (run / "report/report.html").read_text()
    assert "<script" not in page and "<svg" in page
