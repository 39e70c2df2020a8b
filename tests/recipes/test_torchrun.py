"""Runs under torchrun, with two processes that train together and one that writes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from potstill.progress import Progress
from potstill.run_dir import open_run
from tests.commands import ENVIRONMENT, potstill, record, wait_for_checkpoint

pytestmark = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two processes need two devices, or none")
TWO = ENVIRONMENT | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def command(*arguments: object) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "potstill"]
    return [*launcher, *map(str, arguments)]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=TWO, timeout=300)


def losses(stage: Path) -> list[float]:
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.fixture
def without_dropout(project: Path, teacher_folder: Path) -> Path:
    """The project with a teacher whose training does not depend on the random state of a process."""
    shutil.copytree(teacher_folder, project / "teacher")
    config = json.loads((project / "teacher/config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (project / "teacher/config.json").write_text(json.dumps(config))
    recipe = project / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(teacher_folder), "teacher"))
    return project


def test_two_processes_make_the_run_of_one_and_keep_it(without_dropout: Path) -> None:
    recipe = without_dropout / "recipe.yaml"
    one, two = without_dropout / "one", without_dropout / "two"
    potstill("train", recipe, "--out", one)
    done = torchrun("run", recipe, "--out", two)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train/student: started") == 1
    assert done.stdout.count("verdict: passed") == 1
    for stage in ("adapt", "train/student", "train/baseline"):
        np.testing.assert_allclose(losses(one / stage), losses(two / stage), rtol=1e-3)
    assert record(two, "gate")["passed"] is True

    again = torchrun("run", recipe, "--out", two)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr and again.stderr.count("train/student: kept") == 1


FEATURES = (
    "losses=[{kind: soft_targets}, {kind: hard_labels}, {kind: hidden_states}, {kind: attention, heads: learned}]"
)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        [FEATURES],
        [FEATURES, "label.features=online", "label.mode=online"],
        ["teacher={kind: ema, decay: 0.9, start: {model: teacher}}", "label.mode=online"],
        ["teacher={kind: mixture, of: {a: {model: teacher}, b: {model: teacher}}}"],
    ],
    ids=["features", "online", "ema", "mixture"],
)
def test_two_processes_have_the_losses_of_one_with_every_teacher(without_dropout: Path, changes: list[str]) -> None:
    recipe = without_dropout / "recipe.yaml"
    said = [part for change in (*changes, "train.baseline=false") for part in ("--set", change)]
    one, two = without_dropout / "one", without_dropout / "two"
    potstill("train", recipe, "--out", one, *said)
    done = torchrun("train", recipe, "--out", two, *said)
    assert done.returncode == 0, done.stderr
    # Both lose little here, so rounding is compared with the loss of a whole nat.
    np.testing.assert_allclose(losses(one / "train/student"), losses(two / "train/student"), rtol=1e-3, atol=3e-4)


@pytest.mark.long
def test_two_stopped_processes_go_on_to_the_run_of_two_that_were_not(without_dropout: Path) -> None:
    recipe = without_dropout / "recipe.yaml"
    whole, broken = without_dropout / "whole", without_dropout / "broken"
    assert torchrun("train", recipe, "--out", whole).returncode == 0
    process = subprocess.Popen(command("train", recipe, "--out", broken), env=TWO, stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(process, broken / "train/student")
    process.terminate()
    stopped = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "Stopped by SIGTERM" in stopped
    resumed = torchrun("train", recipe, "--out", broken)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("train/student: resumed from step-") == 1
    for stage in ("adapt", "train/student", "train/baseline"):
        assert losses(whole / stage) == losses(broken / stage)


@pytest.mark.long
def test_a_failed_gate_is_shown_once_and_fails_the_job(project: Path) -> None:
    done = torchrun("run", project / "recipe.yaml", "--out", project / "run", "--set", "gate.min_speedup=1000")
    assert done.returncode != 0
    assert done.stdout.count("verdict: FAILED") == 1
    assert (project / "run/report/report.html").exists()


def test_when_the_main_process_fails_the_others_end_with_it(project: Path) -> None:
    with open_run(project / "run", Progress()):
        done = torchrun("plan", project / "recipe.yaml", "--out", project / "run")
    assert done.returncode != 0
    assert f"in use by pid {os.getpid()}" in done.stderr


@pytest.mark.long
def test_losses_on_features_alone_reach_no_head(without_dropout: Path) -> None:
    recipe, two = without_dropout / "recipe.yaml", without_dropout / "two"
    losses = "losses=[{kind: hidden_states}, {kind: attention}]"
    done = torchrun("train", recipe, "--out", two, "--set", losses, "--set", "train.baseline=false")
    assert done.returncode == 0, done.stderr
