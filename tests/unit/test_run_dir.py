"""The run directory: stages done once, the lock, atomic files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import LockedError, RunDirError
from potstill.progress import Progress
from potstill.run_dir import Record, RunDir, file_digest, fingerprint, open_run, read_record, write_text
from potstill.stage_inputs import differences

INPUTS = {"train": {"epochs": 8, "rate": 0.1}, "data": "a" * 64}


class Spoken(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


class Made(Record):
    answer: int


class Work:
    """Writes a file and counts its calls."""

    def __init__(self, answer: int = 42) -> None:
        self.answer = answer
        self.calls = 0
        self.found: list[str] = []

    def __call__(self, folder: Path) -> Made:
        self.calls += 1
        self.found = sorted(path.name for path in folder.iterdir() if path.name != "inputs.json")
        write_text(folder / "out.txt", str(self.answer))
        return Made(answer=self.answer, files={"out.txt": file_digest(folder / "out.txt")})


@pytest.fixture
def spoken() -> Spoken:
    return Spoken()


@pytest.fixture
def run(tmp_path: Path, spoken: Spoken) -> RunDir:
    return RunDir(tmp_path, spoken)


def test_a_stage_with_the_same_inputs_is_kept(run: RunDir, spoken: Spoken) -> None:
    work = Work()
    first = run.once("stage", INPUTS, Made, work)
    second = run.once("stage", dict(reversed(INPUTS.items())), Made, work)
    assert work.calls == 1
    assert second == first
    assert second.answer == 42 and second.fingerprint == fingerprint(INPUTS)
    assert spoken.lines[-1] == "stage: kept"


def test_the_run_knows_how_long_each_stage_took_that_was_made_or_kept(run: RunDir, spoken: Spoken) -> None:
    assert run.seconds == {}
    made = run.once("later/stage", INPUTS, Made, Work())
    run.once("earlier", INPUTS, Made, Work())
    assert list(run.seconds) == ["later/stage", "earlier"]
    again = RunDir(run.root, spoken)
    slow = made.model_copy(update={"seconds": 61.5, "digest_of_record": ""})
    run.path("later/stage", "result.json").write_text(slow.model_dump_json())
    again.once("later/stage", INPUTS, Made, Work())
    assert again.seconds == {"later/stage": 61.5}


def test_a_stage_with_other_inputs_runs_again_and_names_what_changed(run: RunDir, spoken: Spoken) -> None:
    run.once("stage", INPUTS, Made, Work(1))
    again = Work(2)
    changed = {"train": {"epochs": 10, "rate": 0.1}, "data": "b" * 64}
    assert run.once("stage", changed, Made, again).answer == 2
    assert again.calls == 1 and again.found == []
    line = next(line for line in spoken.lines if "runs again" in line)
    assert "train.epochs 8 -> 10" in line
    assert "data" in line and "bbbb" not in line and "rate" not in line


PIECES = ("train.micro_batch_size", "label.batch_size")


def micro(size: int | None, **more: Any) -> dict[str, Any]:
    return {"train": {"epochs": 8, "micro_batch_size": size} | more, "data": "a" * 64}


def test_what_decides_last_bits_alone_makes_no_stage_run_again(run: RunDir, spoken: Spoken) -> None:
    work = Work()
    first = run.once("stage", micro(8), Made, work, last_bits=PIECES)
    assert run.once("stage", micro(4), Made, work, last_bits=PIECES) == first
    assert spoken.lines[-1].startswith("stage: kept, though train.micro_batch_size 8 -> 4: the same work in other")
    # Nor where there was no such key.
    without = {"train": {"epochs": 8}, "data": "a" * 64}
    assert run.once("stage", without, Made, work, last_bits=PIECES) == first
    assert run.once("stage", micro(8), Made, work, last_bits=PIECES) == first
    assert spoken.lines[-1] == "stage: kept" and work.calls == 1
    assert run.once("stage", micro(4), Made, work).fingerprint == fingerprint(micro(4)), "unless the stage says so"
    assert run.once("stage", micro(4, epochs=9), Made, work, last_bits=PIECES) and work.calls == 3


def test_work_goes_on_where_only_last_bits_were_changed(run: RunDir, spoken: Spoken) -> None:
    def broken(folder: Path) -> Made:
        write_text(folder / "half.txt", "half")
        raise RuntimeError("out of memory")

    for size in (8, 4):
        with pytest.raises(RuntimeError):
            run.once("stage", micro(size), Made, broken, last_bits=PIECES)
    assert "stage: goes on from what is there, though train.micro_batch_size 8 -> 4: " in spoken.lines[-2]
    work = Work()
    made = run.once("stage", micro(2), Made, work, last_bits=PIECES)
    assert work.found == ["half.txt"] and made.fingerprint == fingerprint(micro(2))
    spoken.lines.clear()
    assert run.once("stage", micro(2), Made, work, last_bits=PIECES) == made
    assert spoken.lines == ["stage: kept"]


def test_an_error_for_want_of_memory_names_the_stage(run: RunDir) -> None:
    def broken(folder: Path) -> Made:
        raise MemoryError

    with pytest.raises(MemoryError) as raised:
        run.once("label/teacher", INPUTS, Made, broken)
    assert raised.value.__notes__ == ["label/teacher"]


def test_auto_that_an_earlier_version_recorded_is_what_it_is_on_this_machine(run: RunDir, spoken: Spoken) -> None:
    work = Work()
    first = run.once("stage", micro(8, precision="auto"), Made, work)
    here = {"train.precision": "float32"}
    assert run.once("stage", micro(8, precision="float32"), Made, work, auto=here) == first
    assert spoken.lines[-1] == "stage: kept"
    assert run.once("stage", micro(8, precision="bfloat16"), Made, work, auto=here) != first
    # Only where the name is given.
    run.once("other", {"encoding": "auto"}, Made, work)
    run.once("other", {"encoding": "float32"}, Made, work, auto=here)
    assert work.calls == 4


def test_inputs_that_are_not_those_of_the_record_prove_nothing(run: RunDir) -> None:
    work = Work()
    run.once("stage", micro(8), Made, work, last_bits=PIECES)
    path = run.path("stage/inputs.json")
    path.write_text(path.read_text().replace('"epochs": 8', '"epochs": 9'))
    run.once("stage", micro(4, epochs=9), Made, work, last_bits=PIECES)
    assert work.calls == 2


@pytest.mark.parametrize("name", ["../out.txt", "/etc/hostname", "a/../../out.txt", "", "."])
def test_a_record_whose_files_lead_out_of_its_folder_is_none(run: RunDir, tmp_path: Path, name: str) -> None:
    made = run.once("stage", INPUTS, Made, Work())
    (tmp_path / "out.txt").write_text("another's")
    path = run.path("stage/result.json")
    path.write_text(path.read_text().replace('"out.txt"', json.dumps(name)))
    assert read_record(path, Made) is None
    again = Work()
    assert run.once("stage", INPUTS, Made, again).answer == made.answer and again.calls == 1


def test_scratch_that_a_killed_process_left_in_a_finished_stage_is_removed(run: RunDir) -> None:
    run.once("stage", INPUTS, Made, Work())
    run.path("stage/scratch/checkpoints").mkdir(parents=True)
    work = Work()
    run.once("stage", INPUTS, Made, work)
    assert not run.path("stage/scratch").exists() and work.calls == 0


def test_a_link_with_the_name_of_a_leftover_is_removed_and_not_what_it_leads_to(run: RunDir, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "important.txt").write_text("keep me")
    with pytest.raises(KeyboardInterrupt):
        run.once("stage", INPUTS, Made, _killed)
    run.path("stage/.model.1f.tmp").symlink_to(elsewhere)
    run.once("stage", INPUTS, Made, Work())
    assert not run.path("stage/.model.1f.tmp").is_symlink()
    assert (elsewhere / "important.txt").read_text() == "keep me"


def test_leftovers_of_the_same_inputs_are_resumed(run: RunDir) -> None:
    def broken(folder: Path) -> Made:
        write_text(folder / "half.txt", "half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run.once("stage", INPUTS, Made, broken)
    work = Work()
    run.once("stage", INPUTS, Made, work)
    assert work.found == ["half.txt"]


def test_leftovers_of_other_inputs_are_discarded(run: RunDir) -> None:
    def broken(folder: Path) -> Made:
        write_text(folder / "half.txt", "half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run.once("stage", INPUTS, Made, broken)
    work = Work()
    run.once("stage", {"train": None}, Made, work)
    assert work.found == []
    assert not run.path("stage", "half.txt").exists()


def test_leftovers_of_unknown_inputs_are_discarded(run: RunDir) -> None:
    run.path("stage").mkdir()
    run.path("stage", "stray.txt").write_text("?")
    run.path("stage", "inputs.json").write_text("{broken")
    work = Work()
    run.once("stage", INPUTS, Made, work)
    assert work.found == []


def test_a_stage_whose_output_is_missing_runs_again(run: RunDir) -> None:
    run.once("stage", INPUTS, Made, Work())
    run.path("stage", "out.txt").unlink()
    again = Work()
    run.once("stage", INPUTS, Made, again)
    assert again.calls == 1
    assert run.path("stage", "out.txt").read_text() == "42"


def test_an_old_record_does_not_vouch_for_work_that_was_broken_off(run: RunDir) -> None:
    run.once("stage", INPUTS, Made, Work())
    run.path("stage", "out.txt").unlink()

    def broken(folder: Path) -> Made:
        (folder / "out.txt").write_text("4")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run.once("stage", INPUTS, Made, broken)
    again = Work()
    run.once("stage", INPUTS, Made, again)
    assert again.calls == 1
    assert run.path("stage", "out.txt").read_text() == "42"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"answer": "x"}', '{"answer": 1, "new": 2}'])
def test_a_record_that_this_version_does_not_understand_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    assert read_record(tmp_path / "result.json", Made) is None


def test_a_fingerprint_depends_on_content_and_not_on_order() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint(Made(answer=1)) == fingerprint(Made(answer=1).model_dump())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b 1 -> 2"]),
        ({"a": 1}, {"b": 1}, ["a 1 -> null", "b null -> 1"]),
        ({"a": "x" * 60}, {"a": "y" * 60}, ["a"]),
        ({"a": [1]}, {"a": [1]}, []),
    ],
)
def test_differences_name_the_fields(old: Any, new: Any, expected: list[str]) -> None:
    assert list(differences(old, new)) == expected


HOLD = """
import sys, time
from pathlib import Path
from potstill.progress import Progress
from potstill.run_dir import open_run
with open_run(Path(sys.argv[1]), Progress()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_kill_9_frees_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with (
                pytest.raises(LockedError, match=rf"pid {holder.pid} on .+ since 20"),
                open_run(tmp_path, Progress()),
            ):
                pass
            other = subprocess.run(command, input="", capture_output=True, text=True, check=False)
            assert other.returncode != 0
            assert f"pid {holder.pid}" in other.stderr
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
    with open_run(tmp_path, Progress()):
        assert f"pid {os.getpid()} " in (tmp_path / "lock").read_text()


class Two:
    """One of two processes, here threads; the other is slow to go on after each barrier.

    It has then missed whatever the main one does at once, which a right `once` does not mind.
    """

    def __init__(self, barrier: threading.Barrier, *, is_main: bool) -> None:
        self.is_main = is_main
        self._barrier = barrier

    def barrier(self) -> None:
        self._barrier.wait(timeout=10)
        if not self.is_main:
            time.sleep(0.05)


@pytest.mark.parametrize("together", [False, True])
def test_two_processes_get_one_record_and_take_the_same_turns(tmp_path: Path, together: bool) -> None:
    barrier = threading.Barrier(2)
    works = {True: Work(), False: Work()}

    def process(is_main: bool) -> list[Made]:
        run = RunDir(tmp_path, Spoken(), Two(barrier, is_main=is_main))
        work = works[is_main] if is_main or not together else lambda folder: Made(answer=42)
        return [run.once("stage", inputs, Made, work, together=together) for inputs in (INPUTS, INPUTS, {"other": 1})]

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(process, (True, False))
    assert first == second
    assert works[True].calls == 2 and works[False].calls == 0


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_run(tmp_path, Progress()):
        raise KeyError
    with open_run(tmp_path, Progress()) as run:
        assert run.root == tmp_path


def test_temporary_files_of_a_killed_process_are_removed_before_work_goes_on(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.once("stage", INPUTS, Made, _killed)
    (tmp_path / "stage/part").mkdir()
    (tmp_path / "stage/part/.shard.arrow.k3x.tmp").write_text("half a shard")
    (tmp_path / "stage/part/whole.arrow").write_text("a whole one")
    work = Work()
    run.once("stage", INPUTS, Made, work)
    assert [path.name for path in (tmp_path / "stage/part").iterdir()] == ["whole.arrow"]


def _killed(folder: Path) -> Made:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["recipe.yaml", "data/rows.jsonl"])
def test_a_folder_with_other_things_in_it_is_no_run_directory(tmp_path: Path, content: str) -> None:
    (tmp_path / content).parent.mkdir(exist_ok=True)
    (tmp_path / content).write_text("keep me")
    with (
        pytest.raises(RunDirError, match=f"no run directory, and not empty \\({content.split('/')[0]}\\)"),
        open_run(tmp_path, Progress()),
    ):
        pass
    assert (tmp_path / content).read_text() == "keep me" and not (tmp_path / "lock").exists()


def test_a_new_volume_and_an_earlier_run_are_run_directories(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".keep").touch()
    for _ in range(2):
        with open_run(tmp_path, Progress()) as run:
            (run.root / "recipe.yaml").write_text("")


def test_a_record_that_was_changed_is_refused(run: RunDir) -> None:
    work = Work()
    run.once("stage", INPUTS, Made, work)
    path = run.path("stage/result.json")
    written = path.read_text()
    path.write_text(json.dumps(json.loads(written)))
    assert run.once("stage", INPUTS, Made, work) and work.calls == 1, "the same in other white space"
    changed = json.loads(written)
    changed["seconds"] = 7.5
    path.write_text(json.dumps(changed))
    with pytest.raises(RunDirError, match=r"result\.json: was changed since it was written"):
        run.once("stage", INPUTS, Made, work)
    # One of an earlier version says nothing of itself.
    del changed["digest_of_record"]
    path.write_text(json.dumps(changed))
    assert run.once("stage", INPUTS, Made, work).seconds == 7.5 and work.calls == 1
