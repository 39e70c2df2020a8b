"""AUROC and FPR95 over resamples, against scikit-learn and plain counting; the reading of rows of another kind."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from potstill.errors import DataError
from potstill.measure.out_of_domain import aurocs, false_positive_rates
from potstill.measure.quality import bootstrap_weights
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import make_project


def scores(seed: int, inside: int = 47, outside: int = 31, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """With ties, within and between."""
    draw = np.random.default_rng(seed)
    return draw.normal(1, 1, inside).round(digits), draw.normal(0, 1.5, outside).round(digits)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_area_is_that_of_scikit_learn_in_each_resample(seed: int) -> None:
    inside, outside = scores(seed)
    within, without = bootstrap_weights(47, seed=seed, resamples=60), bootstrap_weights(31, seed=9, resamples=60)
    found = aurocs(inside, outside, within, without)
    truth = np.repeat([1, 0], [47, 31])
    for number, area in enumerate(found):
        weights = np.concatenate([within[number], without[number]])
        expected = roc_auc_score(truth, np.concatenate([inside, outside]), sample_weight=weights)
        assert area == pytest.approx(expected, abs=1e-12)
    assert 0.5 < found[0] < 0.95


def rate_by_hand(inside: np.ndarray, outside: np.ndarray) -> float:
    """At the highest of all scores that accepts 95 of 100 inside."""
    for threshold in sorted(set(inside), reverse=True):
        if sum(score >= threshold for score in inside) >= 0.95 * len(inside):
            return float(sum(score >= threshold for score in outside) / len(outside))
    raise AssertionError("the lowest score accepts all")


@pytest.mark.parametrize(("inside", "outside"), [(47, 31), (100, 31), (40, 7), (20, 20), (1, 3)])
def test_the_rate_of_false_acceptance_is_that_of_counting(inside: int, outside: int) -> None:
    for digits in (1, 9):
        ins, outs = scores(3, inside, outside, digits)
        within = bootstrap_weights(inside, seed=1, resamples=40)
        without = bootstrap_weights(outside, seed=2, resamples=40)
        found = false_positive_rates(ins, outs, within, without)
        for number, rate in enumerate(found):
            drawn = np.repeat(ins, within[number]), np.repeat(outs, without[number])
            assert rate == pytest.approx(rate_by_hand(*drawn), abs=1e-12)


def test_what_is_told_apart_and_what_is_not() -> None:
    once = np.ones((1, 4), np.uint8)
    high, low, same = np.array([3.0, 4, 5, 6]), np.array([0.0, 1, 2, 2.9]), np.zeros(4)
    assert aurocs(high, low, once, once) == [1] and false_positive_rates(high, low, once, once) == [0]
    assert aurocs(low, high, once, once) == [0] and false_positive_rates(low, high, once, once) == [1]
    assert aurocs(same, same, once, once) == [0.5] and false_positive_rates(same, same, once, once) == [1]


@pytest.fixture
def project(tmp_path: Path, teacher_folder: Path) -> Path:
    return make_project(tmp_path, teacher_folder)


def others(project: Path, *rows: dict[str, object]) -> list[object]:
    (project / "data/others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = load_recipe(project / "recipe.yaml", ["evaluate.out_of_domain=data/others.jsonl"])
    inputs = read_inputs(recipe, project)
    assert case_of(recipe, inputs, Progress()).out_of_domain is inputs.out_of_domain
    return [(row.id, row.text, row.label) for row in inputs.out_of_domain]


def test_rows_of_another_kind_are_read_without_labels_blanks_and_repetitions(project: Path) -> None:
    rows = [
        {"id": "a", "text": "hello there", "label": "no class of the data"},
        {"id": "b", "text": "  "},
        {"id": "c", "text": "hello there"},
        {"id": "d", "text": "good bye"},
    ]
    assert sorted(others(project, *rows)) in (
        [("a", "hello there", None), ("d", "good bye", None)],
        [("c", "hello there", None), ("d", "good bye", None)],
    )
    recipe = load_recipe(project / "recipe.yaml", [])
    assert list(read_inputs(recipe, project).out_of_domain) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"txt": "x"}], 'evaluate.out_of_domain: .*has no "text"'),
        ([{"text": " "}], "evaluate.out_of_domain: .* holds blank texts alone"),
        ([{"text": "a", "text_pair": "b"}], "rows of data.test have one text, and some of .* two"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(project: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        others(project, *rows)


def test_rows_of_the_data_are_no_other_kind(project: Path) -> None:
    row = json.loads((project / "data/test.jsonl").read_text().splitlines()[4])
    with pytest.raises(DataError, match=rf"the text of row {row['id']} of data.test is in .*others.jsonl too"):
        others(project, {"text": "something else"}, {"text": row["text"]})


def test_a_file_that_is_not_there(project: Path) -> None:
    recipe = load_recipe(project / "recipe.yaml", ["evaluate.out_of_domain=data/nowhere.jsonl"])
    with pytest.raises(DataError, match=r"evaluate\.out_of_domain: .*nowhere\.jsonl"):
        read_inputs(recipe, project)
