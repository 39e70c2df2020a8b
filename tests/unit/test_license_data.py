"""The data of the projects license-sets and license-coverage: labelled as the rules say, and held out in full."""

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects import license_coverage, license_sets
from potstill.projects.license_notices import Rule

Rows = dict[str, list[dict[str, Any]]]
SPLITS = ("adapt", "train", "validation", "test")


def read(folder: Path) -> Rows:
    return {
        name: [json.loads(line) for line in (folder / f"data/{name}.jsonl").read_text().splitlines()] for name in SPLITS
    }


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rules in place of those of the package: 40 of two licences, 20 of an unknown one, a double and an unused one."""
    folder = tmp_path / "rules"
    folder.mkdir()
    for number in range(60):
        expression = "mit OR (gpl-2.0 WITH classpath-exception-2.0)" if number % 3 else "rare-one"
        coverage = f"minimum_coverage: {40 + number % 50}\n" if number % 2 else ""
        front = f"license_expression: {expression}\nis_license_notice: yes\n{coverage}"
        text = f"This is notice number {number} of those about thing {number * 7} and word{number} alone"
        (folder / f"rule_{number:02}.RULE").write_text(f"---\n{front}---\n\n{text}\n")
    again = (folder / "rule_01.RULE").read_text()
    (folder / "rule_98.RULE").write_text(again)
    (folder / "rule_99.RULE").write_text(again.replace("is_license_notice: yes", "is_deprecated: yes") + " more")
    for project in (license_sets, license_coverage):
        monkeypatch.setattr(project, "rules_folder", lambda: folder)
    return folder


def sized(monkeypatch: pytest.MonkeyPatch, project: Any, **sizes: int) -> None:
    for name, value in sizes.items():
        monkeypatch.setattr(project, name, value)


def test_the_licences_of_an_expression_are_its_names() -> None:
    rule = Rule("a", "x", "(GPL-2.0 WITH classpath-exception-2.0) OR mit AND bsd-new")
    assert license_sets.keys_of(rule) == {"gpl-2.0", "classpath-exception-2.0", "mit", "bsd-new"}


def test_rows_have_the_licences_that_enough_rules_name(
    rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sized(monkeypatch, license_sets, MIN_LABEL_ROWS=30, TEST_ROWS=12, VALIDATION_ROWS=6, ADAPT_ROWS=15, LABELLED_ROWS=8)
    said = license_sets.write(tmp_path / "sets", Progress())
    assert "60 usable" in said[0] and "3 licences" in said[2]
    rows = read(tmp_path / "sets")
    assert [len(rows[name]) for name in SPLITS] == [15, 27, 6, 12]
    every = [row for name in SPLITS for row in rows[name]]
    assert len({row["id"] for row in every}) == 60
    for row in every:
        known = ["classpath-exception-2.0", "gpl-2.0", "mit"] if int(row["id"][5:]) % 3 else []
        assert row["label"] in (known, None)
    assert [row["label"] is None for row in rows["train"]] == [False] * 8 + [True] * 19
    assert (tmp_path / "sets/recipe.yaml").exists()


def test_rows_have_the_coverage_that_rules_state(rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sized(
        monkeypatch,
        license_coverage,
        TEST_ROWS=6,
        VALIDATION_ROWS=4,
        ADAPT_ROWS=10,
        LABELLED_ROWS=5,
        POOL_ROWS=20,
    )
    said = license_coverage.write(tmp_path / "coverage", Progress())
    assert "60 current" in said[0] and "30 say which share" in said[1]
    rows = read(tmp_path / "coverage")
    # Of 30 with a number, 25 are used with it; the other 5 and 20 without one are unlabelled.
    assert [len(rows[name]) for name in SPLITS] == [10, 30, 4, 6]
    for name in SPLITS:
        for row in rows[name]:
            assert row["label"] in (40 + int(row["id"][5:]) % 50, None)
    assert sum(row["label"] is not None for row in rows["train"]) == 5


def test_too_few_rules_are_refused(rules: Path, tmp_path: Path) -> None:
    for project in (license_sets, license_coverage):
        with pytest.raises(DataError, match="too few to split"):
            project.write(tmp_path / "none", Progress())
