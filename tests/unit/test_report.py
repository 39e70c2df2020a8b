"""The report and the model card: hostile text stays text, every section is there, the verdict is right."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from potstill.evaluation.sections import detail_sections
from potstill.presentation import charts
from potstill.presentation.page import render_html, render_model_card
from potstill.presentation.section_charts import drawn as drawn_chart
from potstill.presentation.tables import Quantity, Reliability
from potstill.presentation.terminal import result_table, verdict_lines
from potstill.records import Check, ExportRecord, GateRecord, Generation, RegressionsRecord
from tests.unit.finished_run import SECTIONS, card_inputs, evaluation, inputs, sections


class Elements(HTMLParser):
    """Collects the tags and attributes that a browser would see, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def closed(self) -> bool:
        return not self._open


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    elements.close()
    return elements


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(**inputs())


def test_hostile_text_stays_text(page: str) -> None:
    elements = parsed(page)
    assert elements.closed()
    assert "script" not in elements.tags
    assert "img" not in elements.tags
    assert "<script>alert(1)</script>" in elements.text
    assert "{{ 7 * 7 }} {% raw %}" in elements.text
    assert "🦊" in elements.text


def test_control_and_direction_characters_are_written_out(page: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", page)
    assert "[U+0000][U+001B][31m [U+202E]gnp.exe" in page


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    elements = parsed(page)
    assert not {"script", "link", "iframe", "object", "embed", "img", "image", "form", "base"} & set(elements.tags)
    for name, value in elements.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "href", "srcset", "action"}
        assert name != "xlink:href" or value.startswith("#")
        assert "http" not in value or name == "http-equiv"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in elements.attributes
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_every_section_and_chart_is_there(page: str) -> None:
    elements = parsed(page)
    names = {value for name, value in elements.attributes if name == "id"}
    assert set(SECTIONS) <= names
    assert elements.tags.count("svg") == 15
    for heading in ("Macro-F1", "Latency p99, ms", "Throughput", "Peak memory", "without embeddings", "ECE"):
        assert heading in elements.text


def test_a_percentile_is_shown_where_enough_rows_were_timed(page: str) -> None:
    """Of 200, the 95th is, and the 99th is not."""
    cells = {
        name: re.search(rf"{name}, ms</th><td class=\"n\">([^<]*)</td>", page)[1]  # type: ignore[index]
        for name in ("Latency p95", "Latency p99")
    }
    assert cells == {"Latency p95": "21.00", "Latency p99": "– (needs 662 queries)"}


def test_the_same_inputs_make_the_same_page(page: str) -> None:
    assert render_html(**inputs()) == page


def test_charts_hold_no_formula_markup(page: str) -> None:
    charts_alone = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "mathdefault" not in charts_alone


def test_long_texts_are_cut(page: str) -> None:
    assert "more characters)" in page


def test_the_largest_drop_comes_first_and_classes_without_rows_last(page: str) -> None:
    body = page[page.index('id="classes"') : page.index('id="slices"')]
    drops = re.findall(r'<td class="n">([+−][\d.]+|–)</td><td class="n">[\d.]+ %</td></tr>', body)
    assert drops[-1] == "–"
    numbers = [float(drop.replace("−", "-")) for drop in drops[:-1]]
    assert len(numbers) == 44
    assert numbers == sorted(numbers, reverse=True)


def test_verdict_of_a_passed_run(page: str) -> None:
    sentence = (
        "The student keeps 97.4 % of the teacher's accuracy (81.2 % against 83.4 %) and answers 7.1 times "
        "as fast; all 3 checks are met."
    )
    assert "✓ Passed" in parsed(page).text
    assert "✗ Failed" not in parsed(page).text
    assert sentence in parsed(page).text
    assert f"**Passed.** {sentence}" in render_model_card(**card_inputs())


def test_verdict_of_a_failed_run() -> None:
    failed = render_html(**inputs(passed=False))
    text = parsed(failed).text
    assert "✗ Failed" in text
    assert "✓ Passed" not in text
    assert "but 2 of 3 checks are missed: min retention (required >= 0.95, measured 0.931)" in text
    assert "min agreement (required >= 0.92, not measured: the recipe leaves it out <b>)" in text
    assert "<b>" not in failed
    assert "Nothing was exported." in text
    assert "not meant to be used" in render_model_card(**card_inputs(passed=False))


def test_the_card_of_a_student_that_was_left_as_it_begins_tells_of_no_training() -> None:
    given = card_inputs()
    assert "3. The student was trained for 2,430 steps" in render_model_card(**given)
    student = given["run"].student.model_copy(update={"steps": 0, "planned_steps": 0, "best_step": 0})
    text = render_model_card(**given | {"run": replace(given["run"], student=student)})
    assert "3. The student was left as it begins.\n" in text
    assert "trained for" not in text and "these losses" not in text and "weights are those of step" not in text
    assert "2. It labelled the rows of train with its scores, from which nothing was learnt.\n" in text
    assert "It was not trained, and is judged beside a teacher of 6 layers" in text and "distilled from" not in text


@pytest.mark.parametrize("steps", [0, 2430])
@pytest.mark.parametrize("passed", [True, False])
def test_the_card_tells_of_trainings_for_the_rounding_of_artefacts(steps: int, passed: bool) -> None:
    given = card_inputs(passed=passed)
    student = given["run"].student.model_copy(update={"planned_steps": steps})
    forms = "export:\n- {kind: onnx, precision: int8, distil: null}\n- {kind: safetensors, precision: float32}\n"
    rounded = (
        "- {kind: gguf, precision: q4_0, distil: {steps: 1100}}\n- {kind: onnx, precision: int8, distil: {steps: 9}}\n"
    )
    with_forms = given | {"run": replace(given["run"], student=student), "recipe_yaml": given["recipe_yaml"] + forms}
    plain = render_model_card(**with_forms)
    text = render_model_card(**with_forms | {"recipe_yaml": with_forms["recipe_yaml"] + rounded})
    told = [
        r"4. For gguf in q4\_0 a copy of it was trained on in 1,100 steps, on the same labels, with its weights",
        "5. For onnx in int8 a copy of it was trained on in 9 steps, on the same labels, with its weights rounded",
    ]
    # What was not exported was not trained for.
    assert all((sentence in text) is passed for sentence in told) and "a copy of it" not in plain
    if steps:
        assert "labelled the rows that the student is trained on with its scores.\n" in text
        assert "It was distilled from a teacher of 6 layers" in text
    else:
        assert ("It was not trained, but for the rounding of its artefacts, and is judged" in text) is passed
        assert ("labelled the rows of train with its scores.\n" in text) is passed
        assert "nothing was learnt" in plain and "that the student is trained on" not in text


def test_a_weak_teacher_is_what_the_verdict_says_first() -> None:
    weak = "The teacher's accuracy 83.4% is no better than TF-IDF (85.0%): nothing can be learnt from it."
    found = inputs(passed=False)
    run = found["run"]
    verdict = run.gate.model_copy(update={"weak_teacher": weak})
    text = parsed(render_html(**found | {"run": replace(run, gate=verdict)})).text
    assert f"✗ Failed\n{weak} The student keeps" in text
    card = card_inputs(passed=False)
    assert f"**Failed.** {weak}" in render_model_card(**card | {"run": replace(card["run"], gate=verdict)})


def test_what_the_teacher_must_be_better_than_is_shown_where_it_was_measured(page: str) -> None:
    assert "guessing a class" in parsed(page).text and "+4.2 (+2.9 to +5.4) points" in parsed(page).text
    found = inputs()
    evaluation = found["run"].evaluation.model_copy(update={"references": []})
    run = replace(found["run"], evaluation=evaluation)
    without = parsed(render_html(**found | {"run": run} | sections(evaluation, run.export)))
    assert without.closed() and "must be better than" not in without.text


def test_a_model_is_shown_as_it_is_served(page: str) -> None:
    assert "in its own type" not in page and ">91.0 MB</td>" not in page
    found = inputs()
    evaluation = found["run"].evaluation
    served = {"weights_type": "bfloat16", "size_bytes": 45_500_000, "size_in_float32_bytes": 91_000_000}
    teacher = evaluation.models["teacher"].model_copy(update={**served, "own_type_latency_p50_ms": 14.0})
    models = {**evaluation.models, "teacher": teacher}
    run = replace(found["run"], evaluation=evaluation.model_copy(update={"models": models}))
    shown = found | {"run": run} | sections(run.evaluation, run.export)
    text = re.sub(r"\s*\n\s*", " ", parsed(render_html(**shown)).text)
    assert "45.5 MB (bfloat16; 91.0 MB in float32)" in text
    # The student is served in float32, so its speed in its own type is the one above.
    row = text[text.index("Latency p50 in its own type, ms") :]
    assert row.startswith("Latency p50 in its own type, ms14.001.401.41 … speed-up1.0×10.0×")


def test_a_run_without_baseline_and_metrics_has_a_page() -> None:
    text = parsed(render_html(**{**inputs(with_baseline=False), "metrics": {}})).text
    assert "The baseline" not in text
    assert "No metrics were recorded." in text


def test_model_card_has_front_matter_and_no_markup_from_data() -> None:
    card = render_model_card(**card_inputs())
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "pipeline_tag: text-classification" in head
    assert "license" not in head
    outside = re.sub(r"(?ms)^(````*)\w*$.*?^\1$", "", body)
    assert "<" not in outside
    assert "```" not in outside
    # Each row of the table has as many cells as its head.
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    assert body.index("|---|") - body.index("| |") < 60
    assert "max_length=64" in body


def test_a_teacher_can_be_called_as_what_stands_beside_its_text() -> None:
    found = evaluation(with_baseline=False).model_copy(
        update={
            "primary_metric": "token_accuracy",
            "generations": [Generation(id="1", prompt="a prompt", truth="a truth", said={"asked": "its answer"})],
        }
    )
    (samples,) = [each for each in detail_sections(found) if each.anchor == "generations"]
    ((_, table),) = samples.tables
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["asked", "a prompt"],
        ["true response", "a truth"],
        ["asked", "its answer"],
    ]


def test_a_recipe_that_exports_nothing_has_no_empty_table() -> None:
    found = inputs()
    run = replace(found["run"], export=ExportRecord(skipped=False, artefacts=[]))
    text = parsed(render_html(**found | {"run": run, **sections(run.evaluation, run.export)})).text
    assert "The recipe exports nothing." in text and "largest difference of a logit" not in text


def test_the_terminal_shows_texts_of_the_data_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A tag in brackets is no style, and one between colons no picture."""
    tags = "B-[org] [/x] [bold] :cat: \\[a]"
    reference = f"the tag {tags} at every word"
    gate = GateRecord(
        passed=False,
        checks=[Check(name="entity_f1", required=f"> 0.1 ({reference})", measured=0.2, passed=True)],
        weak_teacher=tags,
        warnings=[tags],
    )
    verdict_lines(gate)
    found = evaluation(with_baseline=True).model_copy(update={"findings": [tags]})
    result_table(found, [Quantity(tags, [tags] * 3, brief=True)], [tags])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(tags) >= 5, shown


def test_a_teacher_adapted_on_the_training_rows_has_a_card() -> None:
    found = card_inputs(hostile="plain")
    plan = found["run"].plan
    splits = {name: counts for name, counts in plan.splits.items() if name != "adapt"}
    card = render_model_card(**found | {"run": replace(found["run"], plan=plan.model_copy(update={"splits": splits}))})
    assert "adapted to 1,000 labelled rows" in card


def test_curves_are_thinned_to_their_ends() -> None:
    points = [(float(step), 1.0) for step in range(1, 10_001)]
    thin = charts.thinned(points)
    assert len(thin) == charts.MAX_POINTS
    assert (thin[0][0], thin[-1][0]) == (1.0, 10_000.0)


def test_smoothing_keeps_a_constant() -> None:
    smooth = charts.smoothed([(1.0, 3.0), (2.0, 3.0), (3.0, 3.0)])
    assert [y for _, y in smooth] == pytest.approx([3.0, 3.0, 3.0])


def section(page: str, anchor: str, after: str) -> Elements:
    return parsed(page[page.index(f'<h2 id="{anchor}"') : page.index(f'<h2 id="{after}"')])


def test_reliability_is_drawn_and_told_in_words_and_tables(page: str) -> None:
    shown = section(page, "calibration", "classes")
    assert shown.tags.count("svg") == shown.tags.count("figure") == 3
    (student,) = [value for name, value in shown.attributes if name == "aria-label" and " student:" in value]
    assert student == (
        "Reliability of student: accuracy by confidence in per cent; as it is: 30 at 43, 50 at 63, 90 at 97; "
        "calibrated: 41 at 43, 62 at 63."
    )
    assert all(("role", "img") in shown.attributes for _ in range(3))
    text = " ".join(shown.text.split())
    assert "student1.75500" in text and "baseline–12Not used: too few <script>alert(1)</script>" in text
    row = "60.0 to 66.7 %90063.3 %50.0 % (46.0–53.0)90063.3 %62.0 % (58.0–65.0)"
    assert text.count(row) == 2, "of teacher and student"
    assert "93.3 to 100.0 %1,40096.7 %90.0 % (86.0–93.0)0––" in text
    # The baseline has no second series.
    assert "93.3 to 100.0 %1,40096.7 %80.0 % (76.0–83.0)" in text and text.count("decisions, calibrated") == 2


def test_charts_follow_the_scheme_of_the_page_and_names_in_them_stay_text() -> None:
    bins = evaluation(with_baseline=False).calibration["student"].bins
    name = """a" onload="x() <b>&amp; ' \\1"""
    drawn = drawn_chart(Reliability(name, {"as it is": bins}))
    found = parsed(drawn)
    assert found.closed() and name in found.text
    assert not {attribute for attribute, _ in found.attributes if attribute.startswith("on")} and "b" not in found.tags
    (label,) = [value for attribute, value in found.attributes if attribute == "aria-label"]
    assert label.startswith(f"{name}: accuracy")
    colours = set(re.findall(r"(?:stroke|fill): *([^;\"]+)", drawn)) - {"none"}
    assert colours and all(colour.startswith("var(--") or colour == "currentColor" for colour in colours)


def test_the_diagonal_lies_where_confidence_and_accuracy_are_equal() -> None:
    """Points of a model that is as often right as it says lie on the line, and bars end where their intervals do."""
    bins = evaluation(with_baseline=False).calibration["student"].bins
    honest = [each.model_copy(update={"confidence": each.accuracy}) for each in bins]
    drawn = drawn_chart(Reliability("student", {"as it is": honest}))
    lines = [re.findall(r"-?[\d.]+", path) for path in re.findall(r'<path d="(M [^"z]*?)"[^>]*clip-path', drawn)]
    ends = [[float(number) for number in line] for line in lines]
    (diagonal,) = [line for line in ends if len(line) == 4 and line[0] != line[2] and line[1] != line[3]]
    (points,) = [line for line in ends if len(line) == 6]
    for each, x, y in zip(honest, points[::2], points[1::2], strict=True):
        assert x == pytest.approx(diagonal[0] + each.accuracy * (diagonal[2] - diagonal[0]), abs=1e-3)
        assert y == pytest.approx(diagonal[1] + each.accuracy * (diagonal[3] - diagonal[1]), abs=1e-3)
    upright = [line for line in ends if len(line) == 4 and line[0] == line[2] and line[0] in points[::2]]
    for each, line in zip(honest, upright, strict=True):
        for end, y in ((each.low, line[1]), (each.high, line[3])):
            assert y == pytest.approx(diagonal[1] + end * (diagonal[3] - diagonal[1]), abs=1e-3)


def test_the_curve_of_reliability_goes_from_confidence_to_accuracy() -> None:
    """A model that is too sure lies below the line."""
    bins = evaluation(with_baseline=False).calibration["student"].bins
    too_sure = [each.model_copy(update={"confidence": each.accuracy + 0.05}) for each in bins]
    drawn = drawn_chart(Reliability("student", {"as it is": too_sure}))
    paths = re.findall(r'<path d="(M [^"z]*?)"[^>]*clip-path', drawn)
    lines = [list(map(float, re.findall(r"-?[\d.]+", path))) for path in paths]
    (diagonal,) = [line for line in lines if len(line) == 4 and line[0] != line[2] and line[1] != line[3]]
    (points,) = [line for line in lines if len(line) == 6]
    for x, y in zip(points[::2], points[1::2], strict=True):
        share = (x - diagonal[0]) / (diagonal[2] - diagonal[0])
        # Downwards in the picture is more.
        assert y > diagonal[1] + share * (diagonal[3] - diagonal[1]) + 1


def test_slices_and_lost_rows_are_shown_as_they_are_told(page: str) -> None:
    shown = section(page, "slices", "regressions")
    text = " ".join(shown.text.split())
    assert "come last" in text and "Slices of fewer than 30 rows are small" in text
    order = [text.index(start) for start in ("class <script>", "field <script>", "length <script>")]
    assert order == sorted(order)
    assert (
        "40090.0 %81.0 %+9.0 (+7.7 to +10.2)70.0 %" in text and "7 (small)90.0 %" in text and "90 (small)" not in text
    )
    shown = section(page, "regressions", "disagreements")
    text = " ".join(shown.text.split())
    assert "The teacher alone has 105 of 2,000 test rows right, and the student alone 61." in text
    assert "2 of 105 rows" in text and "sure to 83.0 %" in text and text.count("sure to 97.0 %") == 1
    assert "✓ mit <script>" in text and "✗ gpl <script>" in text and "✗ gpl–" in text


def test_what_the_teacher_answers_is_right_in_whatever_white_space() -> None:
    found = evaluation(with_baseline=True)
    assert found.regressions is not None
    (row, *_) = found.regressions.rows
    rows = [
        row.model_copy(update={"truth": " a  b", "teacher": "a b", "student": "c", "baseline": baseline})
        for baseline in ("a b", " a  b", "c")
    ]
    changed = found.model_copy(update={"regressions": found.regressions.model_copy(update={"rows": rows})})
    (told,) = [each for each in detail_sections(changed) if each.anchor == "regressions"]
    ((_, table),) = told.tables
    assert [[cell.met for cell in cells[2:5]] for cells in table.rows] == [
        [True, False, True],
        [True, False, True],
        [True, False, False],
    ]


def test_a_record_from_before_there_were_slices_has_no_empty_sections() -> None:
    old = evaluation(with_baseline=True).model_copy(update={"calibration": {}, "slices": [], "regressions": None})
    anchors = {each.anchor for each in detail_sections(old)}
    assert not {"calibration", "slices", "regressions"} & anchors and "disagreements" in anchors
    none = RegressionsRecord(lost=0, gained=3, rows=[])
    (told,) = [s for s in detail_sections(old.model_copy(update={"regressions": none})) if s.anchor == "regressions"]
    assert not told.tables and "alone has 0 of 2,000" in told.notes[0]


def test_the_page_shows_where_the_time_went(page: str) -> None:
    text = " ".join(parsed(page[page.index('<h2 id="times"') : page.index('<h2 id="done"')]).text.split())
    assert "label/teacher/logits1 min 34 s2.2 %" in text
    assert "train/student1 h 02 min88.0 %397 rows a second" in text
