"""Whole runs through the command line, as a user would, on a tiny teacher."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from potstill.training.costs import COSTS
from potstill.training.metrics import read_metrics
from tests.commands import (
    potstill,
    potstill_afresh,
    record,
    same_weights,
    stages_that_worked,
    start,
    wait_for_checkpoint,
)
from tests.conftest import make_project


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    project = make_project(tmp_path_factory.mktemp("finished"), teacher_folder)
    potstill_afresh("run", project / "recipe.yaml", "--out", project / "run")
    return project


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of a finished run: what counts is what lies in it, not where it lies."""
    return Path(shutil.copytree(finished_once, tmp_path / "copy"))


def test_a_run_leaves_records_with_the_promised_names_and_a_student_that_transformers_loads(finished: Path) -> None:
    run = finished / "run"
    evaluation = record(run, "evaluate")
    for model in ("teacher", "student", "baseline"):
        figures = evaluation["models"][model]
        for name in (
            "accuracy",
            "macro_f1",
            "latency_p50_ms",
            "throughput_per_s",
            "peak_memory_bytes",
            "size_bytes",
            "num_parameters",
        ):
            assert figures[name] > 0, (model, name)
        # Of eight rows that were timed.
        assert figures["latency_p95_ms"] is None and figures["latency_p99_ms"] is None
    assert {"retention", "drop_points", "speedup", "gain_over_baseline_points"} <= evaluation.keys()
    # The task is easy: a teacher that did not learn it, or a broken mask, would stay near a third.
    assert evaluation["models"]["teacher"]["accuracy"] > 0.8
    verdict = record(run, "gate")
    assert verdict["passed"] is True
    assert [set(check) for check in verdict["checks"]] == [{"name", "required", "measured", "passed"}] * 2
    assert [check["name"] for check in verdict["checks"]] == ["teacher_accuracy_above_floor", "retention"]
    assert "<script" not in (run / "report/report.html").read_text()
    assert (run / "report/MODEL_CARD.md").read_text().startswith("---\n")
    assert not list(run.rglob("scratch")), "checkpoints are removed once their stage is recorded"

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(run / "export/safetensors")
    tokenizer = AutoTokenizer.from_pretrained(run / "export/safetensors")
    label = model.config.id2label[int(model(**tokenizer("w1 w2 iron w3", return_tensors="pt")).logits.argmax())]
    assert label in {"fruit", "metal", "beast"}


def test_student_and_baseline_start_from_the_same_weights_and_take_the_same_steps(finished: Path) -> None:
    student, baseline = (record(finished / "run", f"train/{name}") for name in ("student", "baseline"))
    assert student["initial_digest"] == baseline["initial_digest"]
    assert student["planned_steps"] == baseline["planned_steps"] == 24
    assert (student["train_rows"], baseline["train_rows"]) == (90, 30)
    assert student["digest"] != baseline["digest"]


def test_the_student_is_chosen_by_validation_loss_and_the_baseline_by_accuracy(finished: Path) -> None:
    for name, better in (
        ("student", lambda line: line["validation_loss"]),
        ("baseline", lambda line: (-line["validation_accuracy"], line["validation_loss"])),
    ):
        stage = finished / "run/train" / name
        lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        validations = [line for line in lines if line["kind"] == "validation"]
        assert len(validations) > 1
        assert record(finished / "run", f"train/{name}")["best_step"] == min(validations, key=better)["step"]


def test_by_default_student_and_baseline_are_compared_at_the_same_steps(finished: Path) -> None:
    """Those of the student's epochs: of the labelled rows alone there would be three times as many."""
    done = potstill("train", finished / "recipe.yaml", "--out", finished / "run", "--set", "train.evaluate_every=null")
    assert stages_that_worked(done.stderr) == {"plan", "train/student", "train/baseline"}
    for name in ("student", "baseline"):
        lines = (finished / "run/train" / name / "metrics.jsonl").read_text().splitlines()
        validations = [line["step"] for line in map(json.loads, lines) if line["kind"] == "validation"]
        assert validations == [6, 12, 18, 24], name


def test_a_second_run_works_on_nothing_and_a_changed_part_reruns_only_what_depends_on_it(finished: Path) -> None:
    recipe, run = finished / "recipe.yaml", finished / "run"
    again = potstill("run", recipe, "--out", run)
    assert stages_that_worked(again.stderr) == set()
    *_, report, hint = again.stdout.splitlines()
    assert report == f"report: {run}/report/report.html"
    assert hint.startswith(f"next: load {run}/export/safetensors with transformers, or ask it: potstill predict ")

    stricter = potstill("run", recipe, "--out", run, "--set", "gate.min_retention=1.8", check=3)
    assert stages_that_worked(stricter.stderr) == {"gate", "export", "report"}
    assert record(run, "export")["skipped"] is True
    assert stricter.stdout.splitlines()[-1].startswith("next: read in the report what was missed; change the student")
    looser = potstill("run", recipe, "--out", run, "--set", "gate.min_retention=1.9", check=3)
    assert stages_that_worked(looser.stderr) == {"gate", "report"}
    assert "gate.min_retention" in looser.stderr

    labels = record(run, "label/teacher/logits")["content_digest"]
    narrow = potstill("run", recipe, "--out", run, "--set", "student.layers=1")
    assert "label/teacher/logits" not in stages_that_worked(narrow.stderr)
    assert {"train/student", "train/baseline", "evaluate"} <= stages_that_worked(narrow.stderr)
    assert record(run, "label/teacher/logits")["content_digest"] == labels


@pytest.mark.long
def test_a_new_temperature_schedule_relabels_nothing(finished: Path) -> None:
    changed = finished / "recipe.yaml"
    changed.write_text(changed.read_text() + "losses: [{kind: soft_targets, temperature: 2.5}, {kind: hard_labels}]\n")
    done = potstill("train", changed, "--out", finished / "run")
    assert stages_that_worked(done.stderr) == {"plan", "train/student"}


def without_costs(metrics: Path) -> list[dict[str, object]]:
    """The lines of a metrics.jsonl, but for what each step cost in time and memory."""
    return [{key: line[key] for key in line if key not in COSTS} for line in read_metrics(metrics)]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_resumes_to_bitwise_the_same_labels_losses_and_weights(project: Path, stop: int) -> None:
    whole, broken = project / "whole", project / "broken"
    potstill("train", project / "recipe.yaml", "--out", whole)
    codes = []
    # Each attempt is stopped a little after it got further than the one before.
    for stage in ("adapt", "train/student", "train/baseline"):
        command = start("train", project / "recipe.yaml", "--out", broken)
        wait_for_checkpoint(command, broken / stage)
        command.send_signal(stop)
        codes.append(command.result(timeout_s=60).returncode)
    if stop == signal.SIGTERM:
        assert set(codes) <= {0, 75} and 75 in codes
    potstill("train", project / "recipe.yaml", "--out", broken)
    for stage in ("adapt", "train/student", "train/baseline"):
        assert without_costs(whole / stage / "metrics.jsonl") == without_costs(broken / stage / "metrics.jsonl")
        assert same_weights(whole / stage / "model/model.safetensors", broken / stage / "model/model.safetensors")
    digests = {record(run, "label/teacher/logits")["content_digest"] for run in (whole, broken)}
    assert len(digests) == 1


def test_a_run_that_saves_memory_learns_the_same_and_is_kept_without_what_leaves_the_steps_the_same(
    project: Path,
) -> None:
    saving, run = [], project / "saving"
    for stage in ("adapt", "train"):
        saving += ["--set", f"{stage}.gradient_checkpointing=true", "--set", f"{stage}.attention=eager"]
    moments = ["--set", "train.optimizer.states=bfloat16"]
    recipe = project / "recipe.yaml"
    short = ["--set", "adapt.epochs=2", "--set", "train.epochs=3", "--set", "train.baseline=false"]
    potstill("train", recipe, *short, "--out", project / "plain")
    potstill("train", recipe, *short, "--out", run, *saving, *moments)
    for stage, near in (("adapt", 1e-4), ("train/student", 0.02)):
        losses = [
            [line["loss"] for line in read_metrics(project / name / stage / "metrics.jsonl") if line["kind"] == "step"]
            for name in ("plain", "saving")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=near)
    # A model is saved as it always was.
    configs = [(project / name / "train/student/model/config.json").read_text() for name in ("plain", "saving")]
    assert configs[0] == configs[1]
    again = potstill("train", recipe, *short, "--out", run, *moments)
    assert not stages_that_worked(again.stderr) - {"plan"}
    assert 'train/student: kept, though train.attention "eager" -> null, train.gradient_checkpointing' in again.stderr
    other = potstill("train", recipe, *short, "--out", run)
    assert "train/student" in stages_that_worked(other.stderr)


def test_check_prints_a_plan_and_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    recipe = project / "recipe.yaml"
    done = potstill("check", recipe, "--set", "seed=1")
    assert "90 rows, 30 labelled" in done.stdout
    hint = f"next: potstill run {recipe} --out {project}/run --set seed=1"
    assert done.stdout.splitlines()[-1] == hint
    assert sorted(project.rglob("*")) == before


def test_a_damaged_store_is_refused_and_repaired_shard_by_shard(project: Path) -> None:
    run = project / "run"
    potstill("label", project / "recipe.yaml", "--out", run)
    store = run / "label/teacher/logits"
    digest = record(run, "label/teacher/logits")["content_digest"]
    shard = store / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert "shard-00001.arrow: damaged" in potstill("labels", "verify", store, check=1).stderr
    assert "shard-00001.arrow" in potstill("labels", "repair", store).stdout
    potstill("label", project / "recipe.yaml", "--out", run)
    assert record(run, "label/teacher/logits")["content_digest"] == digest
    assert "shards whole" in potstill("labels", "verify", store).stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("learning_rate: 5e-3, evaluate_every", "learning_rte: 5e-3, evaluate_every"), "did you mean learning_rate?"),
        (("data/test.jsonl", "data/tost.jsonl"), "no such file"),
        (("width: 1/2", "width: 33"), "more than the teacher's 32"),
        (("kind: shrunk", "kind: shronk"), "student: unknown kind 'shronk'; expected one of shrunk, budget"),
        (("0.01}", "0.01, max_latency_p95_ms: 5}"), "needs 100 queries, and 8 would be timed"),
        (("pretrained, model", "pretrained, modell"), "teacher.modell: unknown; did you mean model?"),
    ],
)
def test_a_mistake_is_one_message_and_no_traceback(project: Path, change: tuple[str, str], message: str) -> None:
    recipe = project / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(*change))
    done = potstill("check", recipe, check=1)
    assert "Traceback" not in done.stderr
    assert message in done.stderr


def test_a_teacher_whose_head_has_other_classes_is_refused_without_adapt(project: Path) -> None:
    recipe = project / "recipe.yaml"
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("adapt:")]
    recipe.write_text("\n".join(lines))
    assert "its head has 2 classes, the data 3" in potstill("check", recipe, check=1).stderr


def test_components_projects_and_schema_can_be_listed() -> None:
    assert "soft_targets" in potstill("list", "losses").stdout
    assert "license-notices" in potstill("init", "--list").stdout
    assert json.loads(potstill("schema").stdout)["additionalProperties"] is False
    assert "losses" in potstill("list", "loss", check=1).stderr
