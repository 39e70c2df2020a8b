"""Checkpoints that are written while training goes on, as on accelerators: whole, of their own step, and never lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.errors import Stopped
from potstill.progress import Progress
from potstill.training import loop, saving
from potstill.training.checkpoints import is_whole, save_checkpoint
from potstill.training.loop import Job, fit
from potstill.training.one_process import OneProcess
from tests.invariants.test_training import CPU, StopsAt, job, losses, names, weights

FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"optimizer": {"states": "bfloat16"}},
    "8bit": {"optimizer": {"states": "8bit"}},
}


def slowly(*given: Any) -> None:
    """So that several steps are made before a checkpoint is written."""
    time.sleep(0.15)
    save_checkpoint(*given)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator."""
    monkeypatch.setattr(saving, "writes_beside", lambda device: True)
    monkeypatch.setattr(saving, "save_checkpoint", slowly)


def fitted(of: Job, folder: Path) -> Job:
    fit(of, folder, OneProcess(CPU), Progress())
    return of


def files(folder: Path) -> dict[str, bytes]:
    found = sorted((folder / "scratch/checkpoints").rglob("*.*"))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


@pytest.mark.parametrize("form", FORMS)
def test_they_hold_what_was_when_their_step_was_done(
    tmp_path: Path, form: str, beside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte what is written by a training that waits, though steps go on."""
    threads: set[threading.Thread] = set()
    monkeypatch.setattr(
        saving, "save_checkpoint", lambda *given: (threads.add(threading.current_thread()), slowly(*given))
    )
    apart = fitted(job(keep_checkpoints=9, **FORMS[form]), tmp_path / "beside")
    assert threads and threading.main_thread() not in threads
    monkeypatch.undo()
    waited = fitted(job(keep_checkpoints=9, **FORMS[form]), tmp_path / "waits")
    assert torch.equal(weights(apart.model), weights(waited.model))
    assert files(tmp_path / "beside") == files(tmp_path / "waits")
    assert len(names(tmp_path / "beside/scratch/checkpoints")) == 6


def test_steps_are_made_while_one_is_written_and_only_one_is_on_its_way(
    tmp_path: Path, beside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, seen, writing = [0], [], [0]

    def written(folder: Path, state: Any, progressed: Any, random: Any) -> None:
        writing[0] += 1
        assert writing[0] == 1
        slowly(folder, state, progressed, random)
        seen.append(done[0] - progressed.step)
        writing[0] -= 1

    def copied(self: Any, *given: Any) -> Any:
        # The host would hold two copies.
        assert not writing[0]
        return taken(self, *given)

    taken: Callable[..., Any] = OneProcess.state
    monkeypatch.setattr(saving, "save_checkpoint", written)
    monkeypatch.setattr(OneProcess, "state", copied)

    def count(step: int) -> None:
        done[0] = step

    fitted(replace(job(), at_step={step: lambda step=step: count(step) for step in range(1, 22)}), tmp_path)
    assert len(seen) == 6 and max(seen) > 0


@pytest.mark.parametrize("calls", [8, 10, 18])
def test_broken_anywhere_it_resumes_to_bitwise_the_same(tmp_path: Path, calls: int, beside: None) -> None:
    whole = fitted(job(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(job(teacher=StopsAt(calls)), tmp_path / "broken")
    # What was on its way was still written.
    assert f"step-{calls // 4 * 4:08d}" in names(tmp_path / "broken/scratch/checkpoints")
    resumed = fitted(job(), tmp_path / "broken")
    assert torch.equal(weights(whole.model), weights(resumed.model))
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


@pytest.mark.parametrize("step", [8, 21])
def test_one_that_cannot_be_written_ends_the_training_with_its_own_error_and_removes_nothing(
    tmp_path: Path, step: int, beside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle, where the next one is saved, and at the end."""

    def full(folder: Path, state: Any, progressed: Any, random: Any) -> None:
        if progressed.step == step:
            raise OSError(28, "No space left on device")
        save_checkpoint(folder, state, progressed, random)

    monkeypatch.setattr(saving, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left on device"):
        fitted(job(keep_checkpoints=1), tmp_path / "broken")
    left = names(tmp_path / "broken/scratch/checkpoints")
    assert left[-1] == f"step-{4 if step == 8 else 20:08d}"
    monkeypatch.setattr(saving, "save_checkpoint", slowly)
    resumed = fitted(job(keep_checkpoints=1), tmp_path / "broken")
    assert torch.equal(weights(resumed.model), weights(fitted(job(), tmp_path / "whole").model))


def test_a_stop_waits_for_what_is_on_its_way(tmp_path: Path, beside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.stopping, "requested", lambda: True)
    left: list[list[str]] = []
    finish = saving.Saving.finish

    def finished(self: saving.Saving) -> None:
        finish(self)
        left.append(names(self.folder))

    monkeypatch.setattr(saving.Saving, "finish", finished)
    with pytest.raises(Stopped):
        fitted(job(), tmp_path)
    assert left == [["step-00000001"]]


@pytest.mark.long
def test_killed_while_it_writes_it_goes_on_from_the_one_before(tmp_path: Path) -> None:
    """Five steps in, while the checkpoint of the fourth is being written; and nine, by when it was whole."""
    for step, left in ((5, []), (9, ["step-00000004"])):
        command = [sys.executable, "-m", __name__, str(tmp_path / "broken"), str(step)]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120)
        assert done.returncode == -signal.SIGKILL
        checkpoints = tmp_path / "broken/scratch/checkpoints"
        assert [path.name for path in sorted(checkpoints.glob("step-*")) if is_whole(path)] == left
    resumed = fitted(job(), tmp_path / "broken")
    assert torch.equal(weights(resumed.model), weights(fitted(job(), tmp_path / "whole").model))
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


if __name__ == "__main__":
    saving.writes_beside = lambda device: True
    kill = int(sys.argv[2])

    def never_ends(folder: Path, state: Any, progressed: Any, random: Any) -> None:
        if progressed.step == kill - 1:
            # Between its files and the name that makes it visible.
            from potstill.training import checkpoints

            checkpoints.write_json = lambda *given: time.sleep(60)
        save_checkpoint(folder, state, progressed, random)

    saving.save_checkpoint = never_ends
    ends = {kill: lambda: (time.sleep(1), os.kill(os.getpid(), signal.SIGKILL))}
    fit(replace(job(), at_step=ends), Path(sys.argv[1]), OneProcess(CPU), Progress())
