"""Labels that are numbers are questioned: values that stand for none, and differences that float32 cannot tell."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from potstill.data.number_checks import NumberTally
from potstill.data.prepare import DataSettings, prepare
from potstill.data.rows import Columns
from potstill.errors import DataError
from potstill.tasks import TextClassification
from tests.unit.test_rows import lines


def problems(values: Sequence[float], *allow: str) -> list[str]:
    tally = NumberTally()
    for number, value in enumerate(values, start=1):
        tally.add(Path("train.jsonl"), f"line {number}", float(value))
    return list(tally.problems(allow))


RATINGS = [1, 1.2, 3.4, 3, 1.9, 2.6, 4.2, 5, 0.4] * 3


@pytest.mark.parametrize("none", [-1, -100, -99, -999, -9999, 9999])
def test_a_number_that_stands_for_no_label_is_asked_for(none: int) -> None:
    [said] = problems([3.0, none, *RATINGS, none])
    assert (
        f'data: "{none}" in 2 of 30 labels, first train.jsonl: line 2, often stands for a row without a label' in said
    )
    assert "Use null there" in said and f'data.allow_labels: ["{none}"].' in said
    assert problems([3.0, none, *RATINGS, none], str(none)) == problems([none, none, *RATINGS], f"{none}.0") == []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([-1, -1, 0, 1], id="a scale about zero"),
        pytest.param([-1, -1, 1, 1], id="two sides"),
        pytest.param([-2, -1, -1, 0, 1, 2], id="values below"),
        pytest.param([-1, -1, *(n / 10 for n in range(-8, 11))], id="clipped"),
        pytest.param([-1, -1, -0.5, 0.2, 0.3, 0.4, 0.5], id="nearest to others"),
        pytest.param([-100, -100, -60, 20, 90, 150], id="percentages"),
        pytest.param([9999, 9999, *range(0, 5001, 1000)], id="prices"),
        pytest.param([-1, *range(6)], id="once"),
        pytest.param([-1, -1, *range(300)], id="hardly ever"),
        pytest.param([-1, -1, -1], id="nothing else"),
    ],
)
def test_numbers_of_the_scale_are_not_asked_for(values: Sequence[float]) -> None:
    assert problems(values) == []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([-1, -1, *range(6)], id="whole numbers from zero"),
        pytest.param([-1, -1, 0.1, 0.3, 0.5, 0.8, 0.9, 1], id="shares"),
        pytest.param([-99, -99, -30, -12, 4, 17, 28, 40], id="degrees"),
    ],
)
def test_other_scales_that_one_number_is_no_part_of(values: Sequence[float]) -> None:
    [said] = problems(values)
    assert "often stands for a row without a label" in said


@pytest.mark.parametrize(
    ("scale", "offset", "fix"),
    [
        (1, 1_700_000_000, "Subtract a constant near 17000000"),
        (1e-6, 1, "Subtract a constant near 1.0"),
        (1, 0, ""),
        (1, 2000, ""),
        (1e7, 1_700_000_000, ""),
        (1e-30, 0, ""),
        (1e-40, 0, "Multiply all labels"),
        (1e37, 0, ""),
        (0, 1_700_000_001, ""),
    ],
)
def test_differences_that_float32_cannot_tell_are_refused(scale: float, offset: float, fix: str) -> None:
    said = problems([offset + scale * value for value in RATINGS])
    assert [fix in each and "first train.jsonl: line 1, " in each for each in said] == ([True] if fix else [])


def test_numbers_are_asked_for_through_the_task_and_those_beyond_float32_are_refused(tmp_path: Path) -> None:
    task = TextClassification(problem_type="regression")
    settings = DataSettings(train="train.jsonl", validation="train.jsonl", test="train.jsonl", deduplicate=False)
    lines(tmp_path / "train.jsonl", *({"text": f"t{n}", "label": -1 if n < 2 else n} for n in range(9)))
    with pytest.raises(DataError, match=r'"-1" in 2 of 9 labels, first .*train\.jsonl: line 1,'):
        prepare(settings, tmp_path, task.read)
    lines(tmp_path / "rows.jsonl", {"text": "a", "label": 1}, {"text": "b", "label": -1e39})
    with pytest.raises(DataError, match=r'line 2 "label": -1e\+39 is too large for float32.*Divide all labels'):
        task.read(tmp_path / "rows.jsonl", Columns())
