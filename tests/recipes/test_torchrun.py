"""Runs under torchrun, with two processes that train together and one that writes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from potstill.progress import Progress
from potstill.run_dir import open_run
from tests.recipes.test_cli import ENVIRONMENT, potstill, record


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "potstill", *map(str, arguments)]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


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


def test_two_processes_make_the_run_of_one_and_resume_it(without_dropout: Path) -> None:
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


def test_when_the_main_process_fails_the_others_end_with_it(project: Path) -> None:
    with open_run(project / "run", Progress()):
        done = torchrun("plan", project / "recipe.yaml", "--out", project / "run")
    assert done.returncode != 0
    assert f"in use by pid {os.getpid()}" in done.stderr
