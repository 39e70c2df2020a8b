"""Parts of the test rows and the rows that the student lost, against loops over rows and resamples."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.data.prepare import Split
from potstill.data.tagged import TaggedRow
from potstill.errors import RecipeError
from potstill.evaluation import generative, multi_label, single_label, tags
from potstill.evaluation.answers import measured_by
from potstill.evaluation.case import Case
from potstill.evaluation.multi_label import MultiLabelAnswers
from potstill.evaluation.queries import require_measurable
from potstill.evaluation.regressions import ShownRow, regressions_of
from potstill.evaluation.slices import MOST_VALUES, OTHERS, WITHOUT, RowScores, Slice, slices_of, whole_rows
from potstill.measure import quality
from potstill.measure.language import TokenMeasures, TokensOfRows
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord, SliceRow
from potstill.run_dir import RunDir
from potstill.stages.evaluate import evaluate
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from potstill.training.one_process import OneProcess
from tests.conftest import make_chat_project, make_project
from tests.unit.finished_run import evaluation, trained
from tests.unit.test_calibration import windows

ROWS = 120


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """Test rows of which two thirds have an origin, all have a number, and of the others none has either."""
    folder = make_project(tmp_path_factory.mktemp("slices"), teacher_folder)
    lines = []
    for number in range(ROWS):
        row: dict[str, Any] = {"id": f"t{number}", "text": " ".join(f"w{n % 60}" for n in range(number, number + 4))}
        row |= {"text": f"{row['text']} w{number // 2}", "label": ["fruit", "metal", "beast"][number % 3]}
        row |= {"number": number % 80, "origin": [None, "mail", "web"][number % 3 if number < 90 else 1]}
        lines.append(json.dumps(row))
    (folder / "data/test.jsonl").write_text("\n".join(lines))
    return folder


def loaded(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", ["data.near_copies=null", *changes])
    return case_of(recipe, read_inputs(recipe, project), Progress())


def drawn_scores(seed: int, *, lengths: list[int], classes: list[str] | None = None) -> RowScores:
    """Words of rows, of which the teacher has most right."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 6, ROWS).astype(np.float64)
    hits = {
        model: generator.binomial(counts.astype(int), chance).astype(np.float64)
        for model, chance in (("teacher", 0.9), ("student", 0.7), ("baseline", 0.5))
    }
    return RowScores(hits, counts, quality.bootstrap_weights(ROWS, seed=seed, resamples=60), lengths, "words", classes)


def by_loops(scores: RowScores, rows: list[int]) -> dict[str, Any]:
    """The shares of each model, and the drop over the resamples in which a row was drawn."""

    def share(model: str, weights: list[int]) -> float | None:
        total = sum(weights[row] * scores.counts[row] for row in rows)
        return sum(weights[row] * scores.hits[model][row] for row in rows) / total if total else None

    shares = {model: [share(model, weights) for weights in scores.weights.tolist()] for model in scores.hits}
    pairs = zip(shares["teacher"], shares["student"], strict=True)
    drops = [100 * (one - other) for one, other in pairs if one is not None and other is not None]
    low, high = np.quantile(drops[1:], [0.025, 0.975])
    return {
        "rows": len(rows),
        "small": len(rows) < 30,
        "values": [pytest.approx(shares[model][0]) for model in ("teacher", "student", "baseline")],
        "drop": [pytest.approx(value, abs=1e-9) for value in (drops[0], low, high)],
    }


def as_found(each: SliceRow) -> dict[str, Any]:
    drop = each.drop_points
    return {
        "rows": each.rows,
        "small": each.small,
        "values": [each.teacher_accuracy, each.student_accuracy, each.baseline_accuracy],
        "drop": [drop.value, drop.low, drop.high],
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_slices_are_those_by_loops_and_the_surest_loss_leads(project: Path, seed: int) -> None:
    case = loaded(project, "evaluate.slices=[origin, number]")
    lengths = np.random.default_rng(seed).integers(3, 12, ROWS).tolist()
    classes = [row.label for row in case.test]
    scores = drawn_scores(seed, lengths=lengths, classes=classes)
    expected: dict[tuple[str, str | None, str], list[int]] = {}
    edges = np.quantile(lengths, [0.25, 0.5, 0.75]).tolist()
    quarters: dict[int, list[int]] = {}
    numbers: dict[int, list[int]] = {}
    for row in range(ROWS):
        expected.setdefault(("class", None, classes[row]), []).append(row)
        quarters.setdefault(sum(lengths[row] > edge for edge in edges), []).append(row)
        origin = [WITHOUT, "mail", "web"][row % 3 if row < 90 else 1]
        expected.setdefault(("field", "origin", origin), []).append(row)
        numbers.setdefault(row % 80, []).append(row)
    for each in quarters.values():
        short, long = min(lengths[row] for row in each), max(lengths[row] for row in each)
        expected["length", None, f"{short} to {long} words" if short < long else f"{short} words"] = each
    # Those of two rows first, then by their names as texts.
    ranked = sorted(numbers, key=lambda number: (-len(numbers[number]), str(number)))
    for number in ranked[:MOST_VALUES]:
        expected["field", "number", str(number)] = numbers[number]
    expected["field", "number", OTHERS] = [row for number in ranked[MOST_VALUES:] for row in numbers[number]]
    found = slices_of(case, scores)
    names = [(each.record.by, each.record.field, each.record.name) for each in found]
    assert sorted(names, key=str) == sorted(expected, key=str)
    for name, each in zip(names, found, strict=True):
        assert sorted(each.rows.tolist()) == sorted(expected[name])
        assert as_found(each.record) == by_loops(scores, expected[name]), name
    large = [each.record for each in found if not each.record.small]
    assert [each.record for each in found][: len(large)] == large and len(large) > 5
    for part in (large, [each.record for each in found][len(large) :]):
        lows = [each.drop_points.low for each in part]
        assert lows == sorted(lows, reverse=True)


def test_a_resample_without_a_row_of_the_slice_says_nothing(project: Path) -> None:
    """Taken for no drop, it would move the interval of a slice of one row to zero."""
    case = loaded(project, "evaluate.slices=[number]")
    right = {"teacher": np.ones(ROWS, dtype=bool), "student": np.zeros(ROWS, dtype=bool)}
    scores = whole_rows(right, quality.bootstrap_weights(ROWS, seed=0, resamples=50), [])
    found = [each.record for each in slices_of(case, scores)]
    assert {each.by for each in found} == {"field"}, "without lengths and classes by the field alone"
    assert {(each.drop_points.low, each.drop_points.high) for each in found} == {(100.0, 100.0)}
    assert all(each.baseline_accuracy is None for each in found)


def test_every_class_has_a_slice_however_many_there_are(project: Path) -> None:
    case = replace(loaded(project), class_names=[f"c{number}" for number in range(60)])
    scores = drawn_scores(0, lengths=[], classes=[f"c{row % 60}" for row in range(ROWS)])
    assert {each.record.name for each in slices_of(case, scores)} == set(case.class_names)


def test_slices_without_a_word_are_none(project: Path) -> None:
    scores = drawn_scores(0, lengths=[1] * 60 + [9] * 60)
    counts = np.where(np.arange(ROWS) < 60, 0.0, scores.counts)
    hits = {model: np.minimum(each, counts) for model, each in scores.hits.items()}
    found = slices_of(loaded(project), replace(scores, hits=hits, counts=counts))
    assert [each.record.name for each in found] == ["9 words"]


@pytest.mark.parametrize("most", [7, 50])
def test_rows_that_were_lost_are_chosen_by_surety_and_shown_by_slice(project: Path, most: int) -> None:
    case = loaded(project, f"evaluate.sample_regressions={most}")
    generator = np.random.default_rng(2)
    right = {model: generator.random(ROWS) < 0.7 for model in ("teacher", "student")}
    surety = generator.random(ROWS).round(1)
    parts = {"b": range(0, 40), "a": range(20, 70), "c": range(100, 110)}
    blank = slices_of(case, drawn_scores(0, lengths=[1] * ROWS))[0].record
    slices = [Slice(np.array(rows), blank.model_copy(update={"name": name})) for name, rows in parts.items()]

    def shown(row: int) -> ShownRow:
        return ShownRow(
            f"text {row} " + 900 * "x", "true", {"teacher": "true", "student": f"wrong {row}"}, {"student": 1.0}
        )

    found = regressions_of(case, right, slices, shown, surety)
    lost = [row for row in range(ROWS) if right["teacher"][row] and not right["student"][row]]
    assert found.lost == len(lost) > 10
    assert found.gained == sum(not one and two for one, two in zip(*right.values(), strict=True)) > 0
    chosen = sorted(lost, key=lambda row: (-surety[row], f"t{row}"))[:most]
    assert most == 7 or any(20 <= row < 40 for row in chosen), "some are in two slices"
    rank = {row: 3 if 70 <= row < 100 or row >= 110 else 0 if row < 40 else 1 if row < 70 else 2 for row in chosen}
    ordered = sorted(chosen, key=lambda row: (rank[row], -surety[row], f"t{row}"))
    assert [each.id for each in found.rows] == [f"t{row}" for row in ordered]
    assert [each.slice for each in found.rows] == [
        None if rank[row] == 3 else f"length: {list(parts)[rank[row]]}" for row in ordered
    ]
    first = found.rows[0]
    assert (first.truth, first.teacher, first.student) == ("true", "true", f"wrong {ordered[0]}")
    assert (first.baseline, first.teacher_confidence, first.student_confidence) == (None, None, 1.0)
    assert first.text.startswith(f"text {ordered[0]} x") and len(first.text) == 600
    none = regressions_of(loaded(project, "evaluate.sample_regressions=0"), right, slices, shown, surety)
    assert (none.rows, none.lost) == ([], found.lost)


def logits_for(generator: np.random.Generator, count: int, classes: int) -> dict[str, np.ndarray]:
    return {
        model: generator.normal(scale=2, size=(count, classes)).astype(np.float32)
        for model in ("teacher", "student", "baseline")
    }


def test_of_one_class_the_row_counts_and_the_chance_of_the_likeliest(project: Path) -> None:
    case = loaded(project)
    names = list(case.class_names)
    logits = logits_for(np.random.default_rng(0), ROWS, 3)
    truth = np.array([names.index(row.label) for row in case.test])
    weights = quality.bootstrap_weights(ROWS, seed=0, resamples=20)
    answers = single_label.SingleLabelAnswers(logits, truth, 3, weights, lengths=[5] * ROWS)
    more = single_label.judged(case, answers, measured_by(answers, "single_label")).more
    assert {(each.by, each.name) for each in more["slices"]} == {
        *(("class", name) for name in names),
        ("length", "5 tokens"),
    }
    for each in more["slices"]:
        rows = [row for row in range(ROWS) if each.by == "length" or names[truth[row]] == each.name]
        assert each.student_accuracy == pytest.approx(
            np.mean([logits["student"][r].argmax() == truth[r] for r in rows])
        )
    for each in more["regressions"].rows:
        row = int(each.id[1:])
        said = {model: int(values[row].argmax()) for model, values in logits.items()}
        assert each.truth == each.teacher == names[truth[row]] != each.student == names[said["student"]]
        assert each.baseline == names[said["baseline"]] and each.text == case.test[row].text
        for model, confidence in (("teacher", each.teacher_confidence), ("student", each.student_confidence)):
            powers = np.exp(logits[model][row].astype(float))
            assert confidence == pytest.approx(powers.max() / powers.sum())


def test_of_several_labels_all_must_be_right_and_their_chances_are_multiplied(project: Path) -> None:
    case = loaded(project)
    generator = np.random.default_rng(1)
    odds = logits_for(generator, ROWS, 3)
    truth = generator.random((ROWS, 3)) < 0.5
    weights = quality.bootstrap_weights(ROWS, seed=0, resamples=20)
    answers = MultiLabelAnswers(odds, truth, weights, lengths=[5] * ROWS)
    case = replace(
        case,
        recipe=case.recipe.model_copy(update={"evaluate": case.recipe.evaluate.model_copy(update={"floor": False})}),
    )
    more = multi_label.judged(case, answers, measured_by(answers, "multi_label")).more
    (only,) = more["slices"]
    right = {
        model: [bool(((each[row] > 0) == truth[row]).all()) for row in range(ROWS)] for model, each in odds.items()
    }
    assert only.student_accuracy == pytest.approx(np.mean(right["student"]))
    lost = [row for row in range(ROWS) if right["teacher"][row] and not right["student"][row]]
    assert sorted(each.id for each in more["regressions"].rows) == sorted(f"t{row}" for row in lost) != []
    for each in more["regressions"].rows:
        chance = 1.0
        for value in odds["student"][int(each.id[1:])].tolist():
            chance *= max(1 / (1 + np.exp(-value)), 1 / (1 + np.exp(value)))
        assert each.student_confidence == pytest.approx(chance)
    sure = [each.student_confidence for each in more["regressions"].rows]
    assert sure == sorted(sure, reverse=True)


def test_of_documents_the_words_count_and_the_surest_wrong_word_is_shown(project: Path) -> None:
    generator = np.random.default_rng(4)
    names = ["O", "B-X", "I-X"]
    truth = [generator.integers(0, 3, count).tolist() for count in generator.integers(1, 4, 50).tolist()]
    rows = [
        TaggedRow(
            f"d{number}", tuple(f"w{number}.{place}" for place in range(len(each))), tuple(names[n] for n in each)
        )
        for number, each in enumerate(truth)
    ]
    flat = [(number, place) for number, each in enumerate(truth) for place in range(len(each))]
    logits = logits_for(generator, len(flat), 3)
    for place, (number, word) in enumerate(flat):
        logits["teacher"][place, truth[number][word]] += 6
    weights = quality.bootstrap_weights(50, seed=0, resamples=20)
    answers = tags.TagAnswers(logits, rows, windows(truth), names, weights)
    case = replace(loaded(project), splits={"test": Split(rows, 50)})
    more = tags._by_document(case, answers)
    assert {each.name for each in more["slices"]} <= {"1 words", "2 words", "3 words", "1 to 2 words", "2 to 3 words"}
    for each in more["slices"]:
        longest, shortest = int(each.name.split()[-2]), int(each.name.split()[0])
        places = [p for p, (number, _) in enumerate(flat) if shortest <= len(truth[number]) <= longest]
        right = [logits["student"][p].argmax() == truth[flat[p][0]][flat[p][1]] for p in places]
        assert each.student_accuracy == pytest.approx(np.mean(right))
    said = {model: each.argmax(axis=1) for model, each in logits.items()}

    def all_right(model: str, number: int) -> bool:
        return all(said[model][p] == truth[n][w] for p, (n, w) in enumerate(flat) if n == number)

    lost = [number for number in range(50) if all_right("teacher", number) and not all_right("student", number)]
    assert more["regressions"].lost == len(lost) > 5
    for each in more["regressions"].rows:
        number = int(each.id[1:])
        chances = np.exp(logits["student"].astype(float))
        chances /= chances.sum(axis=1, keepdims=True)
        wrong = [p for p, (n, w) in enumerate(flat) if n == number and said["student"][p] != truth[n][w]]
        place = max(wrong, key=lambda p: chances[p].max())
        word = f"w{number}.{flat[place][1]}"
        assert each.student == f"{word}: {names[said['student'][place]]}"
        assert each.truth == each.teacher == f"{word}: {names[truth[number][flat[place][1]]]}"
        assert each.student_confidence == pytest.approx(chances[place].max()) and word in each.text


def test_of_texts_tokens_count_and_of_targets_whole_responses(tmp_path: Path, chat_teacher_folder: Path) -> None:
    chats = make_chat_project(tmp_path, chat_teacher_folder)
    lines = (chats / "data/test.jsonl").read_text().splitlines()
    with_kind = [json.dumps(json.loads(line) | {"kind": "odd" if n % 2 else "even"}) for n, line in enumerate(lines)]
    (chats / "data/test.jsonl").write_text("\n".join(with_kind))
    recipe = load_recipe(chats / "recipe.yaml", ["evaluate.slices=[kind]"])
    case = case_of(recipe, read_inputs(recipe, chats), Progress())
    generator = np.random.default_rng(0)
    count, rows = len(case.test), case.test
    # The second row of the test has no token, and the others are in another order.
    ids = [row.id for row in reversed(rows) if row.id != rows[1].id]
    row_of = np.sort(generator.integers(0, len(ids), 300))
    right = {model: generator.random(300) < chance for model, chance in (("teacher", 0.9), ("student", 0.6))}
    blank = np.zeros(300)
    tokens = {m: TokenMeasures(blank, each, blank, blank, each, blank) for m, each in right.items()}
    weights = quality.bootstrap_weights(len(ids), seed=0, resamples=20)
    drawn = TokensOfRows(row_of, row_of, weights, ids, [7] * len(ids))
    untrained = generative.Untrained(tokens["teacher"], 10)
    answers = generative.GenerativeAnswers(tokens, untrained, drawn, {}, {}, None, [])
    more = generative._by_token(case, answers)
    assert set(more) == {"slices"}
    assert {(each.by, each.name) for each in more["slices"]} == {
        ("length", "7 tokens"),
        ("field", "odd"),
        ("field", "even"),
    }
    kinds = {json.loads(line)["id"]: json.loads(line)["kind"] for line in with_kind}
    for each in more["slices"]:
        places = [p for p in range(300) if each.by == "length" or kinds[ids[row_of[p]]] == each.name]
        assert each.student_accuracy == pytest.approx(np.mean(right["student"][places]))
        assert each.rows == sum(each.by == "length" or kinds[name] == each.name for name in ids)
    whole = {model: generator.random(count) < 0.5 for model in ("teacher", "student")}
    written = {model: [f"{model} {number}{' x' * 400}" for number in range(count)] for model in whole}
    every = TokensOfRows(row_of, row_of, quality.bootstrap_weights(count, seed=0), [], [7] * count)
    more = generative._by_response(case, generative.GenerativeAnswers({}, untrained, every, whole, written, None, []))
    for each in more["slices"]:
        numbers = [n for n, row in enumerate(rows) if each.by == "length" or kinds[row.id] == each.name]
        assert each.teacher_accuracy == pytest.approx(np.mean(whole["teacher"][numbers]))
    lost = [n for n in range(count) if whole["teacher"][n] and not whole["student"][n]]
    assert sorted(each.student for each in more["regressions"].rows) == sorted(
        written["student"][n][:600] for n in lost
    )
    first = more["regressions"].rows[0]
    assert first.student_confidence is None and first.text and first.truth.endswith("is the colour")


def test_slices_that_cannot_be_are_refused_before_anything_works(project: Path) -> None:
    require_measurable(loaded(project, "evaluate.slices=[origin, id]"))
    with pytest.raises(
        RecipeError, match=r'slices: no row of data.test has a value of "Origin". Fields .* "number", "o'
    ):
        require_measurable(loaded(project, "evaluate.slices=[Origin]"))
    with pytest.raises(RecipeError, match=r"data.ignore leaves it out; drop it there or here"):
        require_measurable(loaded(project, "evaluate.slices=[origin]", "data.ignore=[origin]"))
    for wrong, told in (("origin", "evaluate.slices"), ('[""]', "at least 1 character"), ("[origin, origin]", "twice")):
        with pytest.raises(RecipeError, match=told):
            load_recipe(project / "recipe.yaml", [f"evaluate.slices={wrong}"])
    numbers = ["task.problem_type=regression", "evaluate.slices=[origin]"]
    with pytest.raises(RecipeError, match=r"evaluate.slices: numbers are near or far, and never right"):
        load_recipe(project / "recipe.yaml", numbers)


class Asked(RunDir):
    """A run that keeps what a stage depends on, and works on nothing."""

    def once(self, name: str, inputs: Mapping[str, Any], record: Any, work: Any, **more: Any) -> Any:
        self.inputs = json.loads(json.dumps(inputs, default=str))
        return evaluation(with_baseline=False)


def test_what_is_measured_depends_on_the_values_that_rows_are_told_apart_by(project: Path, tmp_path: Path) -> None:
    """They are no part of what the rows are, so that labels and training go on."""
    folder = Path(shutil.copytree(project, tmp_path / "copy"))
    adapted = AdaptRecord(adapted=False, location="x", digest="a")

    def depends() -> dict[str, Any]:
        recipe = load_recipe(folder / "recipe.yaml", ["data.near_copies=null", "evaluate.slices=[origin]"])
        asked = Asked(tmp_path, Progress())
        student, engine = trained(0.5), OneProcess(torch.device("cpu"))
        evaluate(asked, recipe, read_inputs(recipe, folder), adapted, student, None, {}, None, engine)
        return asked.inputs

    before, path = depends(), folder / "data/test.jsonl"
    assert depends() == before
    path.write_text(path.read_text().replace('"mail"', '"letter"', 1))
    changed = depends()
    assert {name for name in before if before[name] != changed[name]} == {"slices"}
