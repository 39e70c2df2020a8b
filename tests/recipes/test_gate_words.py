"""A gate in the product's words, through the command line, on a tiny recipe; and records of a whole run."""

from pathlib import Path

import pytest

from potstill.evaluation.as_student import as_student
from potstill.records import EvaluateRecord
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import make_project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """A run that failed: its recipe asks for weights of a kilobyte."""
    project = make_project(tmp_path_factory.mktemp("gate"), teacher_folder)
    recipe = project / "recipe.yaml"
    words = 'gate:\n  retention: ">= 1 %"\n  size_bytes: "<= 1 kB"\n  latency_p50_ms: "<= 5 s"\n'
    recipe.write_text(recipe.read_text().replace("gate: {min_retention: 0.01}\n", words))
    done = potstill("run", recipe, "--out", project / "run", check=3)
    (project / "printed.txt").write_text(done.stdout)
    return project


def test_a_run_is_judged_in_the_units_of_its_recipe(finished: Path) -> None:
    gate = record(finished / "run", "gate")
    assert not gate["passed"]
    checks = {each["name"]: each for each in gate["checks"]}
    assert [(name, checks[name]["required"], checks[name]["passed"]) for name in list(checks)[1:]] == [
        ("retention", ">= 1 %", True),
        ("size_bytes", "<= 1 kB", False),
        ("latency_p50_ms", "<= 5 s", True),
    ]
    (line,) = gate["advice"]
    assert line.startswith("Size of the weights: ") and line.endswith(" kB more than the 1 kB allowed.")
    printed = " ".join((finished / "printed.txt").read_text().split())
    assert "FAIL size_bytes <= 1 kB: " in printed and f"to pass: {line}" in printed
    assert line in (finished / "run/report/report.html").read_text()
    assert line in (finished / "run/report/MODEL_CARD.md").read_text()


def test_a_gate_in_other_words_is_judged_again_and_nothing_else(finished: Path) -> None:
    recipe, run = finished / "recipe.yaml", finished / "run"
    passed = potstill("gate", recipe, "--out", run, "--set", "gate.size_bytes='<= 40 MB'")
    assert stages_that_worked(passed.stderr) == {"gate"}
    assert "size_bytes <= 40 MB: 0." in passed.stdout and "verdict: passed" in passed.stdout
    half = record(run, "evaluate")["models"]["student"]["size_bytes"]
    mean = potstill("gate", recipe, "--out", run, "--set", f"gate.size_bytes='< {half} B'", check=3)
    assert f"exactly {half:,} B, and it must be below that" in " ".join(mean.stdout.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gate.size_bytes=<= 40 ms", "gate.size_bytes: size of the weights is not measured in ms. Write it in B or kB"),
        ("gate.accuracy=0.92", 'gate.accuracy: 0.92 alone does not tell which way. Write accuracy: ">= 0.92"'),
        ("gate.acuracy='>= 0.9'", "gate.acuracy: 'acuracy' is not measured of this task; did you mean accuracy"),
        ("gate.min_speedupp=3", "gate.min_speedupp: unknown; did you mean min_speedup?"),
        ("gate.size_bytes='<= 40,000'", "gate.size_bytes: '40,000' is no number here."),
    ],
)
def test_check_refuses_what_can_not_be_meant(finished: Path, change: str, said: str) -> None:
    done = potstill("check", finished / "recipe.yaml", "--set", change, check=1)
    assert said in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


def test_check_takes_a_gate_in_words_and_the_schema_knows_it(finished: Path) -> None:
    assert "next: potstill run" in potstill("check", finished / "recipe.yaml").stdout
    assert '"additionalProperties": {\n        "type": "string"\n      }' in potstill("schema").stdout


def test_the_student_of_a_run_in_its_own_place_is_as_it_was(finished: Path) -> None:
    found = EvaluateRecord.model_validate(record(finished / "run", "evaluate"))
    again = as_student(found, "student")
    for name in ("drop_points", "gain_over_baseline_points"):
        before, after = getattr(found, name).model_dump(), getattr(again, name).model_dump()
        assert after == pytest.approx(before, abs=1e-9)
    for name in ("speedup", "throughput_ratio", "size_ratio", "size_ratio_in_float32", "speedup_in_own_types"):
        assert getattr(again, name) == getattr(found, name)
    assert again.retention.value == pytest.approx(found.retention.value)
