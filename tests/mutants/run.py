"""Breaks one line of the package at a time, and asks the test that must notice.

A row of mutants.toml is a file, what stands there once, what takes its place, and a test that must then fail. Each row
is tried on a copy of the package. The libraries are imported once; every trial is a fork of the process that has them.

    python -m tests.mutants.run                     all rows
    python -m tests.mutants.run --only patience     rows with this in their name
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
PACKAGE = Path("src/potstill")
# What every test imports, by way of the package; not the package itself, which each trial has a copy of.
LIBRARIES = (
    "beartype",
    "jinja2",
    "pyarrow.parquet",
    "pydantic",
    "pytest",
    "rich",
    "scipy.stats",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "torch.distributed.checkpoint.state_dict",
    "torch.nn.parallel",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "typer",
)

KILLED, SURVIVED, BROKEN, LATE, NOT_RUN = "killed", "SURVIVED", "broken", "timed out", "not run"


@dataclass(frozen=True)
class Mutant:
    """A row of the list."""

    name: str
    file: str
    """Relative to src/potstill."""
    find: str
    """Occurs once in the file."""
    replace: str
    test: str
    """The node id of a test that must fail."""
    why: str
    """What would go wrong, in words."""

    def changed(self, text: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: what is to be found is there never, or more than once.
        """
        count = text.count(self.find)
        if count != 1:
            raise ValueError(f"{self.name}: {self.file} has {self.find!r} {count} times; it must be there once")
        return text.replace(self.find, self.replace)


@dataclass(frozen=True)
class Trial:
    """Tests that are run on a copy of the package, with one change or none."""

    tests: tuple[str, ...]
    mutant: Mutant | None = None


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: of a mutant whether it was noticed, else whether the tests pass."""

    verdict: str
    note: str = ""
    seconds: float = 0.0


NO_TIME = Outcome(NOT_RUN, "no time was left")


def read_list(path: Path = LIST) -> list[Mutant]:
    return [Mutant(**row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]


def judged(found: dict[str, Any] | None) -> Outcome:
    """The verdict on a mutant, from what its process wrote down; None where it wrote nothing.

    Only a test that ran and failed has noticed. One that could not be collected or set up has judged nothing.
    """
    if found is None:
        return Outcome(BROKEN, "the process died")
    if found["import_error"]:
        return Outcome(BROKEN, found["import_error"])
    phases = {(when, outcome): reason for when, outcome, reason in reversed(found["reports"])}
    if ("call", "failed") in phases:
        return Outcome(KILLED, phases["call", "failed"])
    for when in ("collect", "setup", "teardown"):
        if (when, "failed") in phases:
            return Outcome(BROKEN, f"{when} failed: {phases[when, 'failed']}")
    if ("call", "passed") in phases:
        return Outcome(SURVIVED)
    return Outcome(BROKEN, "no test ran")


class _Recorder:
    """A pytest plugin that writes down how each test ended, and that the copy is what was tested."""

    def __init__(self, copy: Path, mutant: Mutant | None) -> None:
        self.copy = copy
        self.mutant = mutant
        self.found: dict[str, Any] = {"import_error": "", "reports": []}

    def pytest_collection(self, session: Any) -> None:
        """Import what was changed: if that fails, no test says anything of the change."""
        module = "potstill" if self.mutant is None else module_name(self.mutant.file)
        try:
            imported = importlib.import_module(module)
        except BaseException as error:
            self.found["import_error"] = f"{module} cannot be imported: {type(error).__name__}: {error}"
            raise
        where = Path(str(imported.__file__)).resolve()
        assert where.is_relative_to(self.copy.resolve()), f"{where} is tested in place of {self.copy}"

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._add("collect", report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._add(report.when, report)

    def _add(self, when: str, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr or "")
        self.found["reports"].append((when, report.outcome, next(iter(reason.strip().splitlines()), "")))


def module_name(file: str) -> str:
    """`potstill.labels.store` for `labels/store.py`."""
    parts = Path(file).with_suffix("").parts
    return ".".join(("potstill", *parts)).removesuffix(".__init__")


def _fork(trial: Trial, copy: Path, results: Path) -> int:
    """Start a trial; returns the process that runs it."""
    process = os.fork()
    if process:
        return process
    # Nothing of the parent's must run here: no exit handler, no line of its output again.
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with (results / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        _run_tests(trial, copy, results)
        code = 0
    finally:
        os._exit(code)


def _run_tests(trial: Trial, copy: Path, results: Path) -> None:
    import pytest

    # Before the installed package, here and in every process that a test starts.
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), str(ROOT)])
    os.chdir(ROOT)
    recorder = _Recorder(copy, trial.mutant)
    stop_at_first = ["-x"] if trial.mutant else []
    # A fork has modules that pytest did not rewrite; plain assertions are enough to fail.
    options = ["-q", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={results / 'tmp'}", *stop_at_first]
    with contextlib.suppress(SystemExit):
        pytest.main([*options, *trial.tests], plugins=[recorder])
    partial = results / "found.partial"
    partial.write_text(json.dumps(recorder.found))
    partial.replace(results / "found.json")


def _copy_with(mutant: Mutant, whole: Path, target: Path) -> Path:
    """A copy of the package with the change, and without compiled files of what was changed."""
    shutil.copytree(whole, target)
    path = target / "potstill" / mutant.file
    path.write_text(mutant.changed(path.read_text(encoding="utf-8")), encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()
    return target


def run_trials(
    trials: Iterable[Trial], folder: Path, whole: Path, *, jobs: int, seconds_each: float, deadline: float
) -> Iterator[tuple[Trial, Outcome]]:
    """Every trial with its outcome, as they end; those that the deadline leaves no time for are not run."""
    waiting = list(trials)[::-1]
    running: dict[int, tuple[Trial, Path, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < deadline:
                trial, place = waiting.pop(), Path(tempfile.mkdtemp(dir=folder))
                copy = whole if trial.mutant is None else _copy_with(trial.mutant, whole, place / "src")
                running[_fork(trial, copy, place)] = trial, place, time.monotonic()
            if not running:
                break
            process, _ = os.waitpid(-1, os.WNOHANG)
            if process in running:
                trial, place, started = running.pop(process)
                _end_group(process)
                found = place / "found.json"
                outcome = judged(json.loads(found.read_text()) if found.exists() else None)
                yield trial, Outcome(outcome.verdict, outcome.note, time.monotonic() - started)
                shutil.rmtree(place, ignore_errors=True)
                continue
            now = time.monotonic()
            for process, (trial, _, started) in list(running.items()):
                if now - started > seconds_each or now > deadline:
                    del running[process]
                    _end_group(process)
                    os.waitpid(process, 0)
                    yield trial, NO_TIME if now > deadline else Outcome(LATE, "", now - started)
            time.sleep(0.05)
    finally:
        # Trials have sessions of their own, which a signal to this process does not reach.
        for process in running:
            _end_group(process)
    yield from ((trial, NO_TIME) for trial in reversed(waiting))


def _end_group(process: int) -> None:
    """End a trial with all that it started."""
    # By itself as well, where it has not yet begun its own session.
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(process, signal.SIGKILL)


def _check_tests(mutants: Sequence[Mutant], folder: Path, whole: Path, **limits: Any) -> dict[str, Outcome]:
    """The tests that do not pass on the package as it is, with what that means for their mutants: nothing is learnt."""
    by_file: dict[str, list[str]] = {}
    for test in dict.fromkeys(mutant.test for mutant in mutants):
        by_file.setdefault(test.partition("::")[0], []).append(test)
    failing: dict[str, Outcome] = {}
    for trial, found in run_trials([Trial(tuple(tests)) for tests in by_file.values()], folder, whole, **limits):
        if found.verdict != SURVIVED:
            reason = f"its tests do not pass on the package as it is: {found.note or found.verdict}"
            failing |= dict.fromkeys(trial.tests, NO_TIME if found.verdict == NOT_RUN else Outcome(BROKEN, reason))
    return failing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--only", action="append", help="rows with this in their name; can be given again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of them together")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    mutants = [m for m in read_list(chosen.list) if not chosen.only or any(part in m.name for part in chosen.only)]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for library in LIBRARIES:
        importlib.import_module(library)
    limits = {
        "jobs": chosen.jobs,
        "seconds_each": chosen.timeout,
        "deadline": started + 60 * chosen.minutes,
    }
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        whole = folder / "src"
        shutil.copytree(ROOT / PACKAGE, whole / "potstill")
        # The tests of a file together may take as long as they like, within the deadline.
        failing = _check_tests(mutants, folder, whole, **limits | {"seconds_each": 60 * chosen.minutes})

        def tell(mutant: Mutant, outcome: Outcome) -> None:
            counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
            print(f"{outcome.verdict:10} {outcome.seconds:6.1f} s  {mutant.name:44} {outcome.note[:110]}", flush=True)

        for mutant in (each for each in mutants if each.test in failing):
            tell(mutant, failing[mutant.test])
        trials = [Trial((mutant.test,), mutant) for mutant in mutants if mutant.test not in failing]
        for trial, outcome in run_trials(trials, folder, whole, **limits):
            assert trial.mutant is not None
            tell(trial.mutant, outcome)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    print(f"{told or 'no row'} in {time.monotonic() - started:.0f} s")
    return 0 if mutants and set(counts) == {KILLED} else 1


if __name__ == "__main__":
    sys.exit(main())
