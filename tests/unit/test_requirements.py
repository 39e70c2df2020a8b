"""What a gate is told: metrics by their names, in units, and one clear sentence for what is none of it."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.evaluation.metrics import METRICS, Unit, metric
from potstill.recipe import GateSettings, Recipe
from potstill.recipe.requirements import UNITS, in_unit, parse_requirement, units_of, with_unit
from potstill.recipe.yaml_file import dump_recipe, load_recipe, recipe_of

RECIPE: dict[str, Any] = {
    "task": {"kind": "text_classification"},
    "data": {"train": "train.jsonl", "validation": 0.1, "test": 0.1},
    "teacher": {"kind": "pretrained", "model": "org/name"},
}
SIZES = {
    "B": Fraction(1),
    "kB": Fraction(1000),
    "MB": Fraction(1000**2),
    "GB": Fraction(1000**3),
    "KiB": Fraction(1024),
    "MiB": Fraction(1024**2),
    "GiB": Fraction(1024**3),
    "ms": Fraction(1),
    "s": Fraction(1000),
    "%": Fraction(1, 100),
    "x": Fraction(1),
    "points": Fraction(1),
    "nats": Fraction(1),
    "/s": Fraction(1),
}


def gate_of(values: Any) -> GateSettings:
    return recipe_of(RECIPE | {"gate": values}, "recipe.yaml").gate


def problems(values: Any) -> list[str]:
    with pytest.raises(RecipeError) as error:
        gate_of(values)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_each_unit_is_so_many_of_the_metrics_own() -> None:
    assert set(UNITS) == set(SIZES)
    for unit, size in SIZES.items():
        for number in ("40", "0.57", "29", "1.1", "-3", "2.5e-3"):
            found = parse_requirement("x", f"<= {number} {unit}")
            # The nearest number that there is: 57 % are 0.57, and not what 57 * 0.01 rounds to.
            assert found.threshold == float(Fraction(number) * size), (number, unit)
            assert math.isclose(in_unit(found.threshold, unit), float(number), rel_tol=1e-12)
    assert parse_requirement("x", "<= 57 %").threshold == 0.57 != 57 * 0.01


def test_every_unit_is_one_of_the_registrys_and_fits_some_metric() -> None:
    assert {unit.measures for unit in UNITS.values()} <= set(Unit)
    assert all(any(unit in units_of(each.unit) for each in METRICS) for unit in UNITS)
    assert units_of(metric("size_bytes").unit) == ["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]
    assert units_of(metric("latency_p95_ms").unit) == ["ms", "s"]
    assert units_of(metric("retention").unit) == ["%"] and units_of(metric("rmse").unit) == []


@pytest.mark.parametrize(
    ("text", "shown", "threshold", "confident", "unit"),
    [
        (">= 0.920", ">= 0.920", 0.92, False, None),
        (">=0.92", ">= 0.92", 0.92, False, None),
        (" <= 40 MB ", "<= 40 MB", 4e7, False, "MB"),
        ("<=40MB", "<= 40MB", 4e7, False, "MB"),
        ("<= 40   MiB", "<= 40 MiB", 40 * 2**20, False, "MiB"),
        (">= 8x", ">= 8x", 8.0, False, "x"),
        ("> 92% (95%)", "> 92% (95%)", 0.92, True, "%"),
        ("> 0 points ( 95 % )", "> 0 points (95%)", 0.0, True, "points"),
        (">= 100 /s", ">= 100 /s", 100.0, False, "/s"),
        ("< 1.5e3 ms", "< 1.5e3 ms", 1500.0, False, "ms"),
        ("< 5e-1 s", "< 5e-1 s", 500.0, False, "s"),
    ],
)
def test_a_requirement_is_shown_as_it_is_written(
    text: str, shown: str, threshold: float, confident: bool, unit: str | None
) -> None:
    found = parse_requirement("x", text)
    assert (str(found), found.threshold, found.confident, found.unit) == (shown, threshold, confident, unit)
    assert found.bare == shown.split()[1].removesuffix(unit or "")


def test_numbers_are_shown_with_their_unit() -> None:
    assert [with_unit("8", unit) for unit in (None, "x", "/s", "MB", "%")] == ["8", "8x", "8/s", "8 MB", "8 %"]
    assert in_unit(4e7, "MB") == 40 and in_unit(0.5, None) == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<= 40,000 B", "'40,000' is no number here. Write its digits alone"),
        ("<= 40_000", "'40_000' is no number here. Write its digits alone"),
        (">= 92,5 %", "'92,5' is no number here. Write its digits alone, with a point before decimals"),
        ("<= 40 mb", "'mb' is no unit of a requirement: there are B, kB, MB"),
        ("<= 40 mb", "; did you mean MB?"),
        (">= 8×", "'×' is no unit of a requirement"),
        ("<= 40 lots", "'lots' is no unit of a requirement"),
        ("<= 1.2.3 MB", "is no requirement. Write a sign and a number"),
        ("<= 1e999999999 GB", "is no requirement. Write a sign and a number"),
        ("<= 1e308 GB", "is no requirement. Write a sign and a number"),
        ("40 MB", "is no requirement. Write a sign and a number"),
        (">= 92 % (90%)", "is no requirement. Write a sign and a number"),
    ],
)
def test_what_is_no_requirement_is_told_in_a_sentence_at_its_key(text: str, said: str) -> None:
    for values, key in (
        ({"size_bytes": text}, "size_bytes"),
        ({"require": {"size_bytes": text}}, "require.size_bytes"),
    ):
        (line,) = problems(values)
        assert line.startswith(f"gate.{key}: ") and said in line and line.count(key) == 1


def test_requirements_stand_under_the_gate_or_under_require() -> None:
    texts = {"accuracy": ">= 92 %", "size_bytes": "<= 40 MB", "gain_over_baseline_points": "> 0 (95%)"}
    for values, key in ((texts, "{}"), ({"require": texts}, "require.{}")):
        found = [each for each in gate_of(values).requirements() if each.metric != "retention"]
        assert {each.metric: str(each) for each in found} == texts
        assert [each.key for each in found] == [key.format(name) for name in texts]
    both = gate_of({"accuracy": ">= 0.9", "require": {"ece": "<= 0.1"}, "min_speedup": 5})
    assert [each.key for each in both.requirements()] == ["min_retention", "min_speedup", "require.ece", "accuracy"]


def test_a_number_in_quotes_is_a_threshold_as_it_always_was() -> None:
    gate = gate_of({"min_speedup": "5", "max_size_bytes": "1e6"})
    assert (gate.min_speedup, gate.max_size_bytes) == (5.0, 1e6)


def test_a_recipe_of_requirements_is_read_again_as_it_was(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPE | {"gate": {"retention": ">= 90 %", "size_bytes": "<= 4 MB"}})
    assert recipe.gate.min_retention is None, "the threshold by default of the same metric is replaced"
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert [str(each) for each in load_recipe(tmp_path / "recipe.yaml").gate.requirements()] == [">= 90 %", "<= 4 MB"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"accuracy": 0.92},
            'gate.accuracy: 0.92 alone does not tell which way. Write accuracy: ">= 0.92", or "<= 0.92" where less is '
            "better.",
        ),
        (
            {"size_bytes": 5},
            'gate.size_bytes: 5 alone does not tell which way. Write size_bytes: ">= 5", or max_size_bytes: 5.',
        ),
        ({"require": {"ece": 3}}, "gate.require.ece: 3 alone does not tell which way."),
        ({"min_retenton": 0.9}, "gate.min_retenton: unknown; did you mean min_retention?"),
        ({"max_size_byte": "<= 4"}, "gate.max_size_byte: unknown; did you mean max_size_bytes?"),
        ({"alow_weak_teacher": True}, "gate.alow_weak_teacher: unknown; did you mean allow_weak_teacher?"),
        ({"requir": {"ece": "<= 1"}}, "gate.requir: unknown; did you mean require?"),
        ({"accuracy": None}, "gate.accuracy: unknown."),
        (
            {"max_size_bytes": "40 MB"},
            "gate.max_size_bytes: it takes a number alone. With a unit, it is written as size",
        ),
        (
            {"ece": "<= 1", "require": {"ece": "<= 2"}},
            "gate.ece: it is required both here and under require. Keep one.",
        ),
        (
            {"min_speedup": 5, "speedup": ">= 6x"},
            "gate.min_speedup: min_speedup and speedup are thresholds of the same metric. Drop one.",
        ),
        (
            {"min_speedup": 5, "require": {"speedup": ">= 6x"}},
            "gate.min_speedup: min_speedup and require.speedup are thresholds of the same metric. Drop one.",
        ),
    ],
)
def test_what_is_no_key_of_the_gate_is_one_sentence(values: dict[str, Any], said: str) -> None:
    (line,) = problems(values)
    assert line.startswith(said)


def test_all_that_is_wrong_is_told_together_each_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "task: {kind: text_classification}\ndata: {train: t.jsonl, validation: 0.1, test: 0.1}\n"
        "teacher: {model: org/name}\ngate:\n  accuracy: 0.92\n  size_bytes: <= 4,0\n  require:\n    ece: x\n"
    )
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    lines = str(error.value).splitlines()[1:]
    places = ["line 5: gate.accuracy", "line 6: gate.size_bytes", "line 8: gate.require.ece"]
    assert [line.strip().split(": ")[:2] for line in lines] == [place.split(": ") for place in places]


def test_the_schema_of_recipes_takes_texts_by_any_name_under_the_gate() -> None:
    """An editor must not underline what a recipe may say, nor be silent about a number."""
    schema = Recipe.model_json_schema()["$defs"]["GateSettings"]
    assert schema["additionalProperties"] == {"type": "string"}
    assert set(schema["properties"]) == set(GateSettings.model_fields)
    assert Recipe.model_json_schema()["$defs"]["TrainSettings"]["additionalProperties"] is False


def test_a_requirement_on_the_command_line_needs_no_quotes_of_its_own(tmp_path: Path) -> None:
    """A shell takes those that it was given, and > begins a block of text in YAML."""
    recipe = tmp_path / "recipe.yaml"
    rest = "task: {kind: text_classification}\ndata: {train: a, validation: b, test: c}\nteacher: {model: m}\n"
    recipe.write_text(rest)
    for text in (">= 0.9", "> 0 points (95%)", "<= 40 MB", "'>= 0.9'"):
        name = {"<": "size_bytes"}.get(text[0], "drop_points" if "points" in text else "accuracy")
        loaded = load_recipe(recipe, [f"gate.{name}={text}"])
        (found,) = [each for each in loaded.gate.requirements() if each.metric == name]
        assert str(found) == text.strip("'")
    recipe.write_text(rest + "gate:\n  accuracy: >= 0.9\n")
    with pytest.raises(RecipeError, match=r"line 5, column 14: .* Put a requirement in quotes: '>= 0.9'\."):
        load_recipe(recipe)
