"""Runs that are killed, or find the disk full, at calls that make a file durable or visible: nothing is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from potstill.progress import Progress
from potstill.run_dir import file_digest
from potstill.training.costs import COSTS
from potstill.training.metrics import METRICS, read_metrics

STAGES = ("adapt", "train/student", "train/baseline")
POINTS = 18
"""Calls, evenly spread over all of a run, before which it is broken off."""
REPEATED = 40
"""Calls that may be made twice: those since the last checkpoint or shard."""


def outcome(run: Path) -> dict[str, str]:
    """What must not depend on where a run was broken off."""
    labels = json.loads((run / "label/teacher/logits/result.json").read_text())
    found = {"labels": labels["content_digest"]}
    for stage in STAGES:
        lines = [{key: line[key] for key in line if key not in COSTS} for line in read_metrics(run / stage / METRICS)]
        found[f"{stage}/{METRICS}"] = json.dumps(lines)
        found[f"{stage}/model"] = file_digest(run / stage / "model/model.safetensors")
    return found


@pytest.mark.long
@pytest.mark.parametrize("fault", ["kill", "disk_full"])
def test_a_run_that_was_broken_off_goes_on_and_ends_as_one_that_was_not(project: Path, fault: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(project), fault],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, *broken = (json.loads(line) for line in done.stdout.splitlines())
    assert whole["status"] == 0 and whole["calls"] > 5 * POINTS
    assert len(broken) == POINTS
    expected = {"kill": signal.SIGKILL, "disk_full": 1 << 8}[fault]
    for each in broken:
        assert each["first_status"] == expected, f"the fault at call {each['point']} did not come"
        assert each["second_status"] == 0, f"no resume after call {each['point']}"
        assert each["calls"] <= whole["calls"] - each["point"] + REPEATED, f"work lost before call {each['point']}"
        assert each["outcome"] == whole["outcome"], f"another result after call {each['point']}"


def _with_fault(project: Path, out: Path, point: int | None, act: Callable[[], None]) -> int:
    """Train in a child process, `act` before call number `point`; returns its status and leaves the count of calls."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count = 0

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def instead(*given: object, **named: object) -> object:
            nonlocal count
            count += 1
            if point is not None and count >= point:
                act()
            return call(*given, **named)

        return instead

    for name in ("fsync", "rename", "replace"):
        setattr(os, name, watched(getattr(os, name)))
    try:
        from potstill.pipeline import run_recipe
        from potstill.recipe.yaml_file import load_recipe

        recipe = load_recipe(project / "recipe.yaml", ["adapt.epochs=2", "train.epochs=2"])
        run_recipe(recipe, project, out, Progress(), until="train")
    except OSError as error:
        os._exit(1 if error.errno == errno.ENOSPC else 2)
    (out / "calls").write_text(str(count))
    os._exit(0)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _main(project: Path, fault: str) -> None:
    import torch

    # Imported once and forked before anything was computed, since threads do not survive a fork.
    import potstill.pipeline  # noqa: F401

    torch.set_num_threads(1)
    act = {"kill": _kill, "disk_full": _disk_full}[fault]
    whole = project / "whole"
    status = _with_fault(project, whole, None, act)
    calls = int((whole / "calls").read_text())
    print(json.dumps({"status": status, "calls": calls, "outcome": outcome(whole)}), flush=True)
    for number in range(POINTS):
        point = 1 + number * calls // POINTS
        broken = project / f"broken-{point}"
        line = {
            "point": point,
            "first_status": _with_fault(project, broken, point, act),
            "second_status": _with_fault(project, broken, None, act),
            "calls": int((broken / "calls").read_text()),
            "outcome": outcome(broken),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
