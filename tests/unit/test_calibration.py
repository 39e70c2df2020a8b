"""Calibration, against sums by loops and temperatures by a grid."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from potstill.data.encoded import Encoded
from potstill.data.words import EncodedWords, Window
from potstill.errors import DataError, RecipeError
from potstill.evaluation.answers import measured_by
from potstill.evaluation.calibration import (
    FEWEST_DECISIONS,
    Temperature,
    calibration_records,
    fitted,
    temperatures_of,
)
from potstill.evaluation.evaluate import _REQUIRED, model_evaluation
from potstill.evaluation.metrics import metric
from potstill.evaluation.multi_label import MultiLabelAnswers
from potstill.evaluation.queries import require_measurable
from potstill.evaluation.single_label import SingleLabelAnswers
from potstill.evaluation.tags import TagAnswers
from potstill.measure import quality
from potstill.measure.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    brier_score,
    fitted_temperature,
    reliability,
)
from potstill.progress import Progress
from potstill.recipe import GateSettings
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AnswerKind, ModelEvaluation
from potstill.runtimes.predictor import Advance
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.gate import judge
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from potstill.tasks.text_classification import TextClassification
from tests.conftest import write_rows
from tests.unit.finished_run import evaluation

seeds = st.integers(0, 2**32 - 1)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    largest = max(value / temperature for value in row)
    powers = [math.exp(value / temperature - largest) for value in row]
    return [power / sum(powers) for power in powers]


def loss(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    chances = [softmax(row, temperature)[true] for row, true in zip(logits.tolist(), truth.tolist(), strict=True)]
    return -sum(map(math.log, chances)) / len(chances)


def brier(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> float:
    total = 0.0
    for row, true in zip(logits.tolist(), truth.tolist(), strict=True):
        for number, chance in enumerate(softmax(row, temperature)):
            total += (chance - (number == true)) ** 2
    return total / len(truth)


def bins(logits: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> list[tuple[float, int, float, float]]:
    """The upper edge, the number of decisions, their mean confidence and the share that is right."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for row, true in zip(logits.tolist(), truth.tolist(), strict=True):
        chances = softmax(row, temperature)
        confidence = max(chances)
        number = next(n for n in range(1, 16) if confidence <= n / 15 or n == 15)
        held.setdefault(number, []).append((confidence, chances.index(confidence) == true))
    return [
        (number / 15, len(each), sum(c for c, _ in each) / len(each), sum(right for _, right in each) / len(each))
        for number, each in sorted(held.items())
    ]


def drawn(seed: int, temperature: float, *, rows: int = 80, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes that are drawn as their softmax at this temperature says."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(rows, classes)).astype(np.float32)
    truth = [generator.choice(classes, p=softmax(row, temperature)) for row in logits.tolist()]
    return logits, np.array(truth)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, classes=st.integers(2, 6))
def test_the_brier_score_is_the_sum_over_classes_by_loops(seed: int, classes: int) -> None:
    logits, truth = drawn(seed, 1.0, classes=classes)
    found = brier_score(logits, truth)
    assert found == pytest.approx(brier(logits, truth), abs=1e-9)
    if classes == 2:
        first = [(softmax(row)[1] - true) ** 2 for row, true in zip(logits.tolist(), truth.tolist(), strict=True)]
        assert found == pytest.approx(2 * sum(first) / len(first), abs=1e-9)


def test_the_brier_score_of_the_sure_is_nothing_or_all() -> None:
    sure = np.array([[500.0, 0.0, 0.0]])
    assert brier_score(sure, np.array([0])) == pytest.approx(0)
    assert brier_score(sure, np.array([2])) == pytest.approx(2) == metric("brier").ceiling
    assert brier_score(np.zeros((1, 4)), np.array([1])) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_temperature_is_that_of_a_fine_grid_and_the_only_minimum(
    seed: int, temperature: float, scale: float
) -> None:
    logits, truth = drawn(seed, temperature / scale)
    grid = np.linspace(math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE), 241)
    losses = [loss(logits, truth, math.exp(log_t)) for log_t in grid.tolist()]
    best = int(np.argmin(losses))
    found = fitted_temperature(logits, truth)
    assert abs(math.log(found) - grid[best]) <= (grid[1] - grid[0]) * 1.01
    assert loss(logits, truth, found) <= losses[best] + 1e-9
    # Down to it, and up from it.
    assert (np.diff(losses[: best + 1]) <= 1e-12).all() and (np.diff(losses[best:]) >= -1e-12).all()


def test_a_temperature_beyond_the_bounds_is_a_bound() -> None:
    logits, _ = drawn(0, 1.0)
    assert fitted_temperature(logits, logits.argmax(axis=1)) == LEAST_TEMPERATURE
    assert fitted_temperature(1e4 * logits, logits.argmax(axis=1)) == LEAST_TEMPERATURE
    assert fitted_temperature(logits, logits.argmin(axis=1)) == MOST_TEMPERATURE
    assert fitted_temperature(np.zeros((40, 3)), np.zeros(40, dtype=np.int64)) in (LEAST_TEMPERATURE, MOST_TEMPERATURE)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, classes=st.integers(2, 6))
def test_bins_of_reliability_are_those_by_loops_with_wilsons_interval(seed: int, classes: int) -> None:
    logits, truth = drawn(seed, 2.0, classes=classes)
    found = reliability(*quality.confidences(logits, truth))
    expected = bins(logits, truth)
    assert len(found) == len(expected)
    z, gap = 1.959963984540054, 0.0
    for each, (up_to, count, confidence, right) in zip(found, expected, strict=True):
        assert each.up_to == pytest.approx(up_to) and each.above == pytest.approx(up_to - 1 / 15)
        assert (each.decisions, each.accuracy) == (count, pytest.approx(right))
        assert each.confidence == pytest.approx(confidence)
        middle = (right + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z / (1 + z**2 / count) * math.sqrt(right * (1 - right) / count + z**2 / (4 * count**2))
        assert (each.low, each.high) == (pytest.approx(middle - half, abs=1e-9), pytest.approx(middle + half, abs=1e-9))
        gap += count / len(truth) * abs(right - confidence)
    assert quality.calibration_error(*quality.confidences(logits, truth)) == pytest.approx(gap)


def test_a_confidence_at_an_edge_belongs_to_the_bin_below() -> None:
    found = reliability(np.array([0.2, 0.4, 0.6, 0.8, 1.0]), np.array([True] * 5))
    assert [each.up_to for each in found] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_few_decisions_or_a_bound_are_told_and_not_used() -> None:
    logits, truth = drawn(5, 2.0, rows=FEWEST_DECISIONS)
    enough = fitted(logits, truth)
    assert enough == Temperature(fitted_temperature(logits, truth), FEWEST_DECISIONS)
    few = fitted(logits[:-1], truth[:-1])
    assert few.value is None and few.decisions == FEWEST_DECISIONS - 1 and "29 decisions" in str(few.reason)
    for true, way in ((logits.argmax(axis=1), "as low as 0.05"), (logits.argmin(axis=1), "as high as 20")):
        unused = fitted(logits, true)
        assert unused.value is None and way in str(unused.reason)


def windows(labels: list[list[int]]) -> EncodedWords:
    """Documents of one window each, whose words have these tags."""
    found = [Window(np.arange(len(tags), dtype=np.int32), *2 * [np.arange(len(tags))]) for tags in labels]
    names = tuple(f"d{number}" for number in range(len(labels)))
    return EncodedWords(names, found, [np.array(tags) for tags in labels], np.arange(len(labels)), 0, 0)


def answers_of(kind: str, seed: int) -> tuple[Any, Callable[[str], tuple[np.ndarray, np.ndarray]]]:
    """Answers of two models with a temperature for one of them, and what their distributions must be."""
    logits, truth = {}, np.zeros(0, dtype=np.int64)
    for number, model in enumerate(("teacher", "student")):
        logits[model], truth = drawn(seed + number, 2.0)
    temperatures = {"teacher": Temperature(None, 3, "few"), "student": Temperature(2.5, 80)}
    weights = quality.bootstrap_weights(80, seed=0, resamples=10)
    if kind == "single_label":
        single = SingleLabelAnswers(logits, truth, 4, weights, temperatures)
        return single, lambda model: (logits[model], truth)
    if kind == "tags":
        documents = windows(np.split(truth, [3, 40]))  # type: ignore[arg-type]
        tagged = TagAnswers(logits, [], documents, "OABC", weights, temperatures)
        return tagged, lambda model: (logits[model], truth)
    several = MultiLabelAnswers(logits, drawn(seed, 1.0)[0] > 0, weights, temperatures)
    pairs = {model: np.array([[0.0, value] for value in each.reshape(-1)]) for model, each in logits.items()}
    return several, lambda model: (pairs[model], several.truth.reshape(-1).astype(int))


@pytest.mark.parametrize("kind", ["single_label", "multi_label", "tags"])
def test_metrics_with_and_without_a_temperature_are_those_by_loops(kind: AnswerKind) -> None:
    answers, expected = answers_of(kind, 3)
    names = ("ece", "cross_entropy", "brier", "ece_calibrated", "cross_entropy_calibrated")
    found = {name: {} for name in (*names, "brier_calibrated")}
    for each in found:
        formula = metric(each).formula_for(kind)
        assert formula is not None
        found[each] = {model: formula(answers, model) for model in answers.models}
    for model in answers.models:
        logits, truth = expected(model)
        assert found["brier"][model] == pytest.approx(brier(logits, truth))
        assert found["cross_entropy"][model] == pytest.approx(loss(logits, truth, 1.0))
        assert metric("nll").measured_as is metric("cross_entropy")
        if model == "teacher":
            assert [found[f"{name}_calibrated"][model] for name in ("ece", "cross_entropy", "brier")] == [None] * 3
            continue
        assert found["brier_calibrated"][model] == pytest.approx(brier(logits, truth, 2.5))
        assert found["cross_entropy_calibrated"][model] == pytest.approx(loss(logits, truth, 2.5))
        gap = sum(count / len(truth) * abs(c - right) for _, count, c, right in bins(logits, truth, 2.5))
        assert found["ece_calibrated"][model] == pytest.approx(gap)
        record = calibration_records(answers)[model]
        for listed, temperature in ((record.bins, 1.0), (record.bins_calibrated, 2.5)):
            assert [(each.decisions, pytest.approx(each.confidence)) for each in listed] == [
                (count, confidence) for _, count, confidence, _ in bins(logits, truth, temperature)
            ]
    told = calibration_records(answers)["teacher"]
    assert (told.temperature, told.decisions, told.reason, told.bins_calibrated) == (None, 3, "few", [])


def test_what_was_not_measured_is_not_recorded_and_fails_the_gate() -> None:
    answers, _ = answers_of("single_label", 3)
    measured = measured_by(answers, "single_label")
    assert set(measured["ece_calibrated"]) == {"student"} and set(measured["brier"]) == {"teacher", "student"}
    old = evaluation(with_baseline=False)
    models = {}
    for name, each in old.models.items():
        costs = {field: getattr(each, field) for field in ModelEvaluation.model_fields if "interval" not in field}
        costs = {field: value for field, value in costs.items() if field not in (*_REQUIRED, "scores")}
        models[name] = model_evaluation(name, measured, costs)
    record = old.model_copy(update={"models": models})
    value = measured["ece_calibrated"]["student"]
    assert metric("ece_calibrated").in_record(record) == value
    assert metric("nll").in_record(record) == models["student"].cross_entropy
    for required, passed in ((f"<= {value + 1e-3:.4f}", True), (f"<= {value - 1e-3:.4f}", False)):
        settings = GateSettings(min_retention=None, require={"ece_calibrated": required})
        assert judge(settings, record).checks[-1].passed is passed
    without = models | {"student": models["teacher"]}
    settings = GateSettings(min_retention=None, require={"ece_calibrated": "<= 1"})
    assert judge(settings, record.model_copy(update={"models": without})).checks[-1].passed is False


class Answering(TransformersPredictor):
    """A predictor that has these outputs for rows of these names, and for no others."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], outputs: np.ndarray | None) -> None:
        super().__init__(None, TextClassification(), tokenizer, torch.device("cpu"), 1)
        self.names, self.found = list(names), outputs

    def outputs(self, rows: Encoded, advance: Advance) -> np.ndarray:
        if self.found is None:
            raise DataError("no teacher knows its domain")
        assert list(rows.ids) == self.names
        return self.found


def test_a_temperature_is_fitted_on_the_labelled_validation_rows_alone(project: Path) -> None:
    write_rows(project / "data/validation.jsonl", 40, seed=3)
    recipe = load_recipe(project / "recipe.yaml")
    inputs = read_inputs(recipe, project)
    case = case_of(recipe, inputs, Progress())
    assert case.encode_validation is not None
    rows: Any = case.encode_validation(inputs.tokenizer)
    assert list(rows.ids) == [row.id for row in inputs.splits["validation"].rows]
    generator = np.random.default_rng(1)
    models: dict[str, Answering] = {}
    for number, name in enumerate(("teacher", "student")):
        logits = generator.normal(size=(len(rows.ids), 3)).astype(np.float32)
        logits[np.arange(len(logits)), rows.labels] += 1 + number
        models[name] = Answering(inputs.tokenizer, rows.ids, logits)
    models["refusing"] = Answering(inputs.tokenizer, (), None)
    found = temperatures_of(case, models, lambda outputs, rows: (outputs, rows.labels))
    for name in ("teacher", "student"):
        logits = models[name].found
        assert found[name] == Temperature(fitted_temperature(logits, rows.labels), len(logits))
    assert found["refusing"] == Temperature(None, 0, "no teacher knows its domain")
    without = replace(case, encode_validation=None)
    assert temperatures_of(without, models, lambda outputs, rows: (outputs, rows.labels)) == {}


def test_the_gate_asks_for_no_temperature_that_cannot_be_fitted(project: Path) -> None:
    def check(*changes: str) -> None:
        recipe = load_recipe(project / "recipe.yaml", ["data.near_copies=null", *changes])
        require_measurable(case_of(recipe, read_inputs(recipe, project), Progress()))

    asked = 'gate.require={ece_calibrated: "<= 0.05"}'
    check(asked)
    write_rows(project / "data/validation.jsonl", FEWEST_DECISIONS - 1, seed=3)
    with pytest.raises(RecipeError, match=r"gate.require.ece_calibrated: .* needs 30 labelled .* there are 29. Add"):
        check(asked)
    check('gate.require={ece: "<= 0.05"}')
    with pytest.raises(RecipeError, match=r"'<= 3' tells nothing|never above 2"):
        check('gate.require={brier: "<= 3"}')


def test_decisions_are_counted_as_each_task_has_them(project: Path) -> None:
    """A row with several labels has one for each, and a document one for each word."""
    folder = project / "data"
    asked = ["data.near_copies=null", 'gate.require={brier_calibrated: "<= 1"}']

    def check(rows: int, kind: str, **fields: Any) -> None:
        for name in ("train", "validation", "test", "adapt"):
            count = rows if name == "validation" else 9
            each = [{"id": f"{name}{n}", "text": f"w{n} w1 {name}"} | fields for n in range(count)]
            each = [{key: value for key, value in row.items() if value is not None} for row in each]
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, each)))
        recipe = load_recipe(project / "recipe.yaml", [*asked, kind, "data.deduplicate=false"])
        require_measurable(case_of(recipe, read_inputs(recipe, project), Progress()))

    several = "task.problem_type=multi_label_classification"
    check(10, several, label=["a", "b", "c"])
    with pytest.raises(RecipeError, match="there are 27"):
        check(9, several, label=["a", "b", "c"])
    tagged, words = (
        "task={kind: token_classification, max_length: 24, overlap: 6}",
        {"tokens": ["w1"] * 6, "tags": ["B-X", *"OOOOO"]},
    )
    check(5, tagged, text=None, **words)
    with pytest.raises(RecipeError, match="there are 24"):
        check(4, tagged, text=None, **words)
