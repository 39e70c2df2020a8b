"""What the record says of models on other texts, against plain counting; how they are asked; what the page shows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from potstill.data.encoded import EncodedRows
from potstill.data.rows import BETWEEN, Row
from potstill.errors import RecipeError
from potstill.evaluation.findings import findings
from potstill.evaluation.metrics import metric
from potstill.evaluation.queries import require_measurable
from potstill.evaluation.robustness import figures, outcomes
from potstill.evaluation.robustness.asking import Asker, with_texts
from potstill.evaluation.robustness.attack import Outcome
from potstill.evaluation.robustness.measured import changed, sampled_rows, ways
from potstill.evaluation.robustness.readings import READINGS, OneClass, SeveralLabels
from potstill.evaluation.robustness.sections import robustness_sections
from potstill.measure.quality import bootstrap_weights
from potstill.perturbations import NAMES
from potstill.perturbations.settings import RobustnessSettings
from potstill.presentation.section_charts import drawn
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Estimate, EvaluateRecord
from potstill.runtimes.predictor import Advance, Outputs
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import make_project
from tests.unit.finished_run import evaluation, robustness

ROWS, CLASSES, RESAMPLES = 23, 4, 30
WAYS = [("ocr", 1), ("ocr", 3), ("case", 1), ("case", 3), ("keyboard", 3)]


def answers(seed: int) -> list[Outputs]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(ROWS, CLASSES)).astype(np.float32) for _ in range(1 + len(WAYS))]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], float(np.quantile(values[1:], 0.025)), float(np.quantile(values[1:], 0.975))


def close(found: Estimate | None, values: Sequence[float]) -> bool:
    assert found is not None
    return (found.value, found.low, found.high) == pytest.approx(interval(values), abs=1e-12)


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_accuracy_agreement_and_what_is_kept_are_those_of_counting(kind: Any) -> None:
    outputs = {name: answers(seed) for seed, name in enumerate(("teacher", "student"))}
    draw, several = np.random.default_rng(9), kind == "multi_label"
    truth = (draw.random((ROWS, CLASSES)) < 0.2).astype(np.int64) if several else draw.integers(0, CLASSES, ROWS)
    # Some rows are right on purpose.
    for blocks in outputs.values():
        for number, block in enumerate(blocks):
            for row in range(number, ROWS, 3):
                block[row] = np.where(truth[row] == 1, 3, -3) if several else 5 * (np.arange(CLASSES) == truth[row])
    weights = bootstrap_weights(ROWS, seed=4, resamples=RESAMPLES)
    found = figures.robustness(READINGS[kind], truth, outputs, WAYS, weights)

    def is_right(output: Any, true: Any) -> bool:
        return all((output > 0) == (true == 1)) if several else int(output.argmax()) == true

    def alike(one: Any, other: Any) -> float:
        return float(np.mean((one > 0) == (other > 0))) if several else float(one.argmax() == other.argmax())

    def accuracy(name: str, block: int, drawn: Any) -> float:
        return float(np.mean([is_right(outputs[name][block][row], truth[row]) for row in drawn]))

    def agreement(block: int, drawn: Any) -> float:
        pairs = [(outputs["teacher"][block][row], outputs["student"][block][row]) for row in drawn]
        return float(np.mean([alike(*pair) for pair in pairs]))

    samples = [np.repeat(np.arange(ROWS), each) for each in weights]
    every = range(1, 1 + len(WAYS))
    kept: dict[str, list[float]] = {}
    for name, model in found.models.items():
        clean = [accuracy(name, 0, drawn) for drawn in samples]
        robust = [float(np.mean([accuracy(name, block, drawn) for block in every])) for drawn in samples]
        kept[name] = [a / b for a, b in zip(robust, clean, strict=True)]
        assert close(model.clean_accuracy, clean) and close(model.robust_accuracy, robust)
        assert close(model.kept, kept[name])
        for block, (each, way) in enumerate(zip(model.perturbed, WAYS, strict=True), start=1):
            assert (each.perturbation, each.severity) == way
            shares = [accuracy(name, block, drawn) for drawn in samples]
            assert close(each.accuracy, shares)
            assert close(each.kept, [a / b for a, b in zip(shares, clean, strict=True)])
            if name == "student":
                assert close(each.agreement, [agreement(block, drawn) for drawn in samples])
        for scores, blocks in zip(model.by_severity, ((1, 3), (2, 4, 5)), strict=True):
            assert scores.severity == (1 if blocks == (1, 3) else 3)
            mean = [float(np.mean([accuracy(name, block, drawn) for block in blocks])) for drawn in samples]
            assert close(scores.accuracy, mean)
            assert close(scores.kept, [a / b for a, b in zip(mean, clean, strict=True)])
    student, teacher = found.models["student"], found.models["teacher"]
    both = [float(np.mean([agreement(block, drawn) for block in every])) for drawn in samples]
    assert close(student.robust_agreement, both)
    apart = [100 * (a - b) for a, b in zip(kept["student"], kept["teacher"], strict=True)]
    assert close(student.kept_over_teacher_points, apart)
    assert teacher.robust_agreement is None and teacher.kept_over_teacher_points is None
    assert all(each.agreement is None for each in teacher.perturbed) and found.rows == ROWS


def test_what_outputs_say_of_one_class() -> None:
    outputs = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], np.float32)
    chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    one = OneClass()
    assert one.probability(outputs, np.array([1, 2])) == pytest.approx([chances[0, 1], chances[1, 2]], rel=1e-6)
    assert one.max_probability(outputs) == pytest.approx([chances[0, 0], chances[1, 2]], rel=1e-6)
    assert one.energy(outputs) == pytest.approx(np.log(np.exp(outputs).sum(axis=1)), rel=1e-6)
    assert one.named(outputs[1], ["a", "b", "c"]) == "c" == one.truth_named(np.int64(2), ["a", "b", "c"])  # type: ignore[arg-type]


def test_what_outputs_say_of_several_labels() -> None:
    outputs = np.array([[2.0, -0.5], [-3.0, -0.1]], np.float32)
    chances = 1 / (1 + np.exp(-outputs))
    several, truth = SeveralLabels(), np.array([[1, 1], [0, 0]])
    expected = [chances[0, 0] * chances[0, 1], (1 - chances[1, 0]) * (1 - chances[1, 1])]
    assert several.probability(outputs, truth) == pytest.approx(expected, rel=1e-6)
    assert several.right(outputs, truth).tolist() == [False, True]
    assert several.max_probability(outputs) == pytest.approx(chances.max(axis=1), rel=1e-6)
    assert several.energy(outputs) == pytest.approx(np.log1p(np.exp(outputs)).sum(axis=1), rel=1e-6)
    assert [several.named(each, ["a", "b"]) for each in outputs] == ["a", "(none)"]
    assert several.truth_named(truth[0], ["a", "b"]) == "a, b"


def test_rows_out_of_domain_are_counted_and_scored() -> None:
    inside, outside = answers(0)[0], 3 * answers(1)[0][:11]
    weights = bootstrap_weights(ROWS, seed=0, resamples=9), bootstrap_weights(11, seed=1, resamples=9)
    found = figures.out_of_domain(OneClass(), "x.jsonl", {"student": inside}, {"student": outside}, *weights)
    assert (found.source, found.rows, found.test_rows) == ("x.jsonl", 11, ROWS)
    scores = found.models["student"]
    top = [1 / np.exp(each - each.max()).sum() for each in outside]
    assert scores.confident.value == pytest.approx(np.mean([chance >= 0.9 for chance in top]))
    assert 0 < scores.confident.value < 1
    for name, detection in (("max", scores.max_probability), ("energy", scores.energy)):
        read = OneClass().max_probability if name == "max" else OneClass().energy
        within, without = read(inside), read(outside)
        expected = np.mean([(a > b) + 0.5 * (a == b) for a in within for b in without])
        assert detection.auroc.value == pytest.approx(expected)
        edges = detection.histogram.edges
        assert (
            len(edges) == figures.BINS + 1
            and edges[0] == min(*within, *without)
            and edges[-1] == max(*within, *without)
        )
        assert sum(detection.histogram.in_domain) == ROWS and sum(detection.histogram.out_of_domain) == 11
        assert detection.histogram.in_domain[0] == sum(score < edges[1] for score in within)


def came(
    text: str, *, right: bool = True, succeeded: bool = False, queries: int = 10, changed_words: int = 0
) -> Outcome:
    return Outcome((text,), right, succeeded, queries, changed_words, 4)


def test_of_attacks_those_on_right_rows_count() -> None:
    each = [
        came("a", succeeded=True, queries=8, changed_words=1),
        came("b", queries=40, changed_words=2),
        came("c", right=False, queries=1),
        came("d", succeeded=True, queries=12, changed_words=2),
    ]
    weights = bootstrap_weights(4, seed=0, resamples=RESAMPLES)
    found = outcomes.of_models({"student": each, "teacher": [came("c", right=False)] * 4}, weights)
    student = found["student"]
    assert (student.attacked, student.succeeded, student.mean_queries) == (3, 2, 20)
    assert student.mean_changed_words == pytest.approx(0.375)
    shares = [float(w[0] + w[3]) / max(1e-12, float(w[0] + w[1] + w[3])) for w in weights]
    assert close(student.success_rate, shares)
    teacher = found["teacher"]
    assert (teacher.attacked, teacher.success_rate, teacher.mean_queries, teacher.mean_changed_words) == (
        0,
        None,
        None,
        None,
    )


def test_examples_are_of_attacks_that_succeeded_around_the_first_change() -> None:
    rows = [Row(str(number), "w " * 200 + f"end{number} " + "z" * 400, "x") for number in range(9)]
    texts = [row.text.replace("end", "emd") for row in rows]
    each = [came(text, succeeded=number != 1) for number, text in enumerate(texts)]
    said = {"student": [f"s{n}" for n in range(9)], "teacher": [f"t{n}" for n in range(9)]}
    found = outcomes.examples(rows, ["x"] * 9, {"student": each, "teacher": each, "baseline": each}, said)
    assert [(one.id, one.model, one.answer) for one in found] == [
        *((str(n), "student", f"s{n}") for n in (0, 2, 3, 4, 5)),
        *((str(n), "teacher", f"t{n}") for n in (0, 2, 3, 4, 5)),
    ]
    first = found[0]
    assert len(first.before) == len(first.after) == outcomes.SHOWN_CHARACTERS
    assert first.before.index("nd0") == first.after.index("md0") == outcomes.SHOWN_BEFORE
    short = outcomes.examples(
        [Row("a", "an end", "x")], ["x"], {"student": [came("an emd", succeeded=True)], "teacher": []}, said
    )
    assert (short[0].before, short[0].after) == ("an end", "an emd")


class Remembering:
    """A predictor whose output for a row is its first token, and which remembers what it was asked."""

    def __init__(self, *, asks_others: bool = False) -> None:
        self.asks_others = asks_others
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def outputs(self, rows: EncodedRows, advance: Advance) -> Outputs:
        assert len(set(rows.ids)) == len(rows.ids) or not self.asks_others
        self.asked += [
            (identity, tuple(tokens.tolist())) for identity, tokens in zip(rows.ids, rows.tokens, strict=True)
        ]
        kinds = rows.types or [np.zeros(1, np.int8)] * len(rows.ids)
        return np.array([[each[0], kind[0]] for each, kind in zip(rows.tokens, kinds, strict=True)], np.float32)


def encoded(*tokens: list[int], ids: str = "abcdef", types: list[list[int]] | None = None) -> EncodedRows:
    return EncodedRows(
        tuple(ids[: len(tokens)]),
        [np.array(each, np.int32) for each in tokens],
        np.zeros(len(tokens), np.int64),
        0,
        0,
        types=[np.array(each, np.int8) for each in types] if types else None,
    )


def test_equal_rows_are_asked_about_once_and_answered_in_their_places() -> None:
    predictor = Remembering()
    asker = Asker(predictor)
    assert asker.outputs(encoded([1, 2], [3], [1, 2], [1]))[:, 0].tolist() == [1, 3, 1, 1]
    assert asker.outputs(encoded([3], [4, 5], [1]))[:, 0].tolist() == [3, 4, 1]
    assert asker.outputs(encoded([3]))[:, 0].tolist() == [3]
    assert sorted(tokens for _, tokens in predictor.asked) == [(1,), (1, 2), (3,), (4, 5)]


def test_rows_that_differ_in_their_types_alone_or_in_the_row_for_an_ensemble_are_others() -> None:
    predictor = Remembering()
    asker = Asker(predictor)
    assert asker.outputs(encoded([1, 2], [1, 2], types=[[0, 1], [1, 1]])).tolist() == [[1, 0], [1, 1]]
    several = Remembering(asks_others=True)
    asker = Asker(several)
    asker.outputs(encoded([1], [1], ids="ab"))
    asker.outputs(encoded([1], ids="a"))
    assert several.asked == [("a", (1,)), ("b", (1,))]


def test_a_row_with_other_texts_is_that_row() -> None:
    alone = Row("a", "one", "x", "home")
    assert with_texts(alone, ("two",)) == Row("a", "two", "x", "home")
    pair = Row("b", f"one{BETWEEN}two", "y", None, 3 + len(BETWEEN))
    other = with_texts(pair, ("three", "four"))
    assert other.texts == ("three", "four") and (other.id, other.label) == ("b", "y")


def test_both_texts_of_a_pair_are_changed_each_in_its_way() -> None:
    text = "the same words are here twice over"
    pair = Row("b", text + BETWEEN + text, "y", None, len(text) + len(BETWEEN))
    first, second = changed(pair, "keyboard", 3).texts
    assert text not in (first, second) and first != second
    assert changed(pair, "keyboard", 3) == changed(pair, "keyboard", 3)


def test_the_sample_is_of_test_rows_and_does_not_depend_on_their_order(tmp_path: Path, teacher_folder: Path) -> None:
    project = make_project(tmp_path, teacher_folder)

    def sample(*changes: str) -> list[str]:
        recipe = load_recipe(project / "recipe.yaml", list(changes))
        return [row.id for row in sampled_rows(case_of(recipe, read_inputs(recipe, project), Progress()))]

    assert sample() == []
    found = sample("evaluate.robustness={rows: 10}")
    assert len(set(found)) == 10 and all(identity.startswith("test-") for identity in found)
    lines = (project / "data/test.jsonl").read_text().splitlines()
    (project / "data/test.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    assert sample("evaluate.robustness={rows: 10}") == found
    assert len(sample("evaluate.robustness={}")) == 60


def test_settings_name_each_change_once() -> None:
    settings = RobustnessSettings()
    assert settings.perturbations == NAMES and len(ways(settings)) == 27
    assert ways(RobustnessSettings(perturbations=("ocr", "case"), severities=(3, 1))) == [
        *(("ocr", 3), ("ocr", 1), ("case", 3), ("case", 1)),
    ]
    for wrong, message in (
        ({"perturbations": ["ocr", "ocr"]}, "ocr is listed twice"),
        ({"severities": [1, 1]}, "1 is listed twice"),
        ({"perturbations": ["slang"]}, "perturbations"),
        ({"perturbations": []}, "at least 1"),
        ({"severities": [4]}, "severities"),
        ({"attacks": -1}, "attacks"),
        ({"max_changed_words": 0}, "max_changed_words"),
    ):
        with pytest.raises(ValidationError, match=message):
            RobustnessSettings.model_validate(wrong)


@pytest.mark.parametrize("setting", ["robustness={}", "out_of_domain=data/test.jsonl"])
def test_numbers_refuse_it(tmp_path: Path, teacher_folder: Path, setting: str) -> None:
    project = make_project(tmp_path, teacher_folder)
    with pytest.raises(
        RecipeError, match=rf"evaluate\.{setting.partition('=')[0]}: measured where a text has one class.* of numbers"
    ):
        task = "task={kind: text_classification, problem_type: regression}"
        load_recipe(project / "recipe.yaml", [task, f"evaluate.{setting}"])


@pytest.mark.parametrize(
    ("by", "change", "message"),
    [
        (
            "domain",
            "robustness={}",
            r"evaluate\.robustness\.attacks: teachers that are routed by domain .* Set it to 0",
        ),
        ("domain", "out_of_domain=x.jsonl", r"evaluate\.out_of_domain: teachers that are routed by domain .* Drop it"),
        ("domain", "robustness={attacks: 0}", None),
        ("confidence", "robustness={}", None),
    ],
)
def test_teachers_routed_by_domain_are_asked_about_test_rows_alone(
    tmp_path: Path, teacher_folder: Path, by: str, change: str, message: str | None
) -> None:
    project = make_project(tmp_path, teacher_folder)
    recipe = load_recipe(project / "recipe.yaml", [])
    case = case_of(recipe, read_inputs(recipe, project), Progress())
    domains = ", domains: {a: [x], b: [y]}" if by == "domain" else ""
    routed = f"teacher={{kind: routed, by: {by}, of: {{a: {{model: a}}, b: {{model: b}}}}{domains}}}"
    case = replace(case, recipe=load_recipe(project / "recipe.yaml", [routed, f"evaluate.{change}"]))
    if message is None:
        require_measurable(case)
        return
    with pytest.raises(RecipeError, match=message):
        require_measurable(case)


def told(**changes: Any) -> EvaluateRecord:
    return evaluation(with_baseline=True).model_copy(update=changes)


def test_metrics_are_read_of_each_model() -> None:
    record = told()
    assert record.robustness and record.robustness.attacks and record.out_of_domain
    for model in ("teacher", "student"):
        of_model = record.robustness.models[model]
        assert metric("robust_accuracy").in_record(record, model) == of_model.robust_accuracy
        assert metric("robust_agreement").in_record(record, model) == of_model.robust_agreement
        attacked = record.robustness.attacks.models[model]
        assert metric("attack_success_rate").in_record(record, model) == attacked.success_rate
        scores = record.out_of_domain.models[model].max_probability
        assert metric("ood_auroc").in_record(record, model) == scores.auroc
        assert metric("ood_fpr95").in_record(record, model) == scores.fpr95
    without = told(robustness=None, out_of_domain=None)
    for name in ("robust_accuracy", "robust_agreement", "attack_success_rate", "ood_auroc", "ood_fpr95"):
        assert metric(name).in_record(without) is None and metric(name).has_interval


@pytest.mark.parametrize(("high", "rows", "said"), [(-0.1, 300, True), (0.0, 300, False), (-0.1, 5, False)])
def test_a_less_robust_student_is_told_of_where_it_is_measured(high: float, rows: int, said: bool) -> None:
    lost = Estimate(value=-9.1, low=-14.0, high=high)
    sentences = findings(told(robustness=robustness("x", lost=lost, rows=rows)))
    assert any("less robust than its teacher" in each for each in sentences) is said
    assert not any("robust" in each for each in findings(told(robustness=None)))


def test_the_page_says_what_was_not_measured() -> None:
    assert [each.empty for each in robustness_sections(told(robustness=None, out_of_domain=None))] == [
        "Not measured: the recipe does not ask for it (evaluate.robustness).",
        "Not measured: the recipe names no texts of another kind (evaluate.out_of_domain).",
    ]
    assert list(robustness_sections(told(primary_metric="r2"))) == []


def test_each_model_and_change_has_its_cell_and_charts_say_what_they_show() -> None:
    record = told()
    assert record.robustness and record.robustness.attacks
    robust, adversarial, outside = robustness_sections(record)
    (_, summary), (_, whole) = robust.tables
    assert [row[0].text for row in summary.rows] == ["teacher", "student"]
    ways_shown = [f"{each.perturbation}, {each.severity}" for each in record.robustness.models["teacher"].perturbed]
    assert [row[0].text for row in whole.rows] == [
        "as they are",
        *(way.replace("ocr", "OCR").replace("case", "Case") for way in ways_shown),
    ]
    assert all(
        len(row) == len(table.head)
        for _, table in (*robust.tables, *adversarial.tables, *outside.tables)
        for row in table.rows
    )
    svg = drawn(robust.charts[0])
    assert 'aria-label="Accuracy kept on changed texts: at 1, 3: teacher 90.0, 70.0; student 80.0, 60.0"' in svg
    assert "<text" in svg and "severity" in svg
    histograms = [drawn(each) for each in outside.charts]
    assert len(histograms) == 4
    assert "test rows mostly from 0.75 to 1.00; other texts mostly from 0.25 to 0.50" in histograms[0]
