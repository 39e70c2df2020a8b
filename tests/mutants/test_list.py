"""The list of mutants fits the package and its tests, and the runner tells who noticed from who did not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import run
from tests.mutants.run import BROKEN, KILLED, ROOT, SURVIVED, Mutant, judged, module_name, read_list

MUTANTS = read_list()


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 50


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_of_a_file_that_stays_python(mutant: Mutant) -> None:
    text = (ROOT / run.PACKAGE / mutant.file).read_text(encoding="utf-8")
    changed = mutant.changed(text)
    assert changed != text
    ast.parse(changed)
    assert mutant.why and not mutant.why.endswith(".")


@pytest.mark.parametrize("test", sorted({mutant.test for mutant in MUTANTS}))
def test_the_test_that_must_notice_is_there(test: str) -> None:
    file, *names = test.split("::")
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for name in names:
        (found,) = [each for each in body if getattr(each, "name", None) == name]
        assert isinstance(found, ast.FunctionDef | ast.ClassDef)
        body = found.body
    assert names[-1].startswith("test_")


def test_what_is_not_there_once_is_no_mutant() -> None:
    for find, count in (("x", 2), ("y", 0)):
        with pytest.raises(ValueError, match=rf"a: f\.py has '{find}' {count} times"):
            Mutant("a", "f.py", find, "z", "tests/t.py::test_t", "because").changed("x = x")


def test_only_a_test_that_ran_and_failed_has_noticed() -> None:
    def verdict(*reports: tuple[str, str], import_error: str = "") -> str:
        return judged({"import_error": import_error, "reports": [(*report, "why") for report in reports]}).verdict

    assert verdict(("setup", "passed"), ("call", "failed"), ("teardown", "passed")) == KILLED
    assert verdict(("setup", "passed"), ("call", "passed"), ("call", "failed")) == KILLED
    assert verdict(("setup", "passed"), ("call", "passed"), ("teardown", "passed")) == SURVIVED
    assert verdict(("setup", "failed"), ("teardown", "passed")) == BROKEN
    assert verdict(("collect", "failed")) == BROKEN
    assert verdict(("setup", "skipped")) == verdict() == BROKEN
    assert verdict(("call", "failed"), import_error="ImportError") == BROKEN
    assert judged(None).verdict == BROKEN


def test_modules_are_named_as_they_are_imported() -> None:
    assert module_name("labels/store.py") == "potstill.labels.store"
    assert module_name("recipe/__init__.py") == "potstill.recipe"


@pytest.mark.long
def test_the_runner_tells_killed_from_survived_and_broken(tmp_path: Path) -> None:
    """On three changes of one line: one that the test notices, one that means nothing, and one without a module."""
    rows = {
        "noticed": ("return (step + 1) / (warmup_steps + 1)", "return 0.0"),
        "equivalent": ("return (step + 1) / (warmup_steps + 1)", "return (1 + step) / (1 + warmup_steps)"),
        "no module": ("import math", "import mathematics"),
    }
    test = "tests/unit/test_schedules.py::test_the_learning_rate_rises_to_its_peak_then_only_falls"
    (tmp_path / "list.toml").write_text(
        "".join(
            f'[[mutant]]\nname = "{name}"\nfile = "schedules.py"\nfind = "{find}"\nreplace = "{replace}"\n'
            f'test = "{test}"\nwhy = "for a test"\n'
            for name, (find, replace) in rows.items()
        )
    )
    command = [sys.executable, "-m", "tests.mutants.run", "--list", str(tmp_path / "list.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    *lines, last = done.stdout.splitlines()
    found = {name: line.split()[0] for line in lines for name in rows if f" {name} " in line}
    assert found == {"noticed": KILLED, "equivalent": SURVIVED, "no module": BROKEN}, done.stdout + done.stderr
    assert last.startswith("1 SURVIVED, 1 broken, 1 killed in ") and done.returncode == 1
    assert "mathematics" in next(line for line in lines if "no module" in line)
