"""Recipes: what is wrong is said with its line, key and remedy, and never with a traceback."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import RecipeError
from potstill.losses import HardLabels, SoftTargets
from potstill.recipe.yaml_file import dump_recipe, load_recipe
from potstill.schedules import Constant, Linear

BASE = """\
task: {kind: text_classification}
data: {train: train.jsonl, validation: 0.1, test: test.jsonl}
teacher: {kind: pretrained, model: models/teacher}
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def _load(text: str, *overrides: str) -> Any:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / "recipe.yaml", overrides)

    return _load


def test_a_short_recipe_is_filled_with_defaults(load: Any) -> None:
    recipe = load(BASE)
    assert recipe.train.epochs == 10 and recipe.seed == 0
    assert [loss.kind for loss in recipe.losses] == ["soft_targets", "hard_labels"]


@pytest.mark.parametrize(
    ("text", "value"), [("1e-5", 1e-5), ("1E-5", 1e-5), ("5e-05", 5e-5), ("1.0e-3", 1e-3), ("1", 1.0)]
)
def test_an_exponent_without_a_point_is_a_number(load: Any, text: str, value: float) -> None:
    rate = load(BASE + f"train: {{learning_rate: {text}}}").train.learning_rate
    assert rate == value and isinstance(rate, float)


@pytest.mark.parametrize("word", ["no", "off", "yes", "on"])
def test_words_that_yaml_1_1_takes_for_booleans_stay_text(load: Any, word: str) -> None:
    assert load(BASE.replace("models/teacher", word)).teacher.model == word


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("train:\n  learning_rte: 1\n", r"line 5: train\.learning_rte: unknown; did you mean learning_rate\?"),
        ("trian: {}\n", r"line 4: trian: unknown; did you mean train\?"),
        ("student: {kind: shrunk, parameters: 9}\n", r"student\.parameters: unknown where kind is shrunk, and known"),
        ("train:\n  qqqqqqq: 1\n", r"line 5: train\.qqqqqqq: unknown$"),
        (
            "losses:\n  - kind: soft_targets\n    temprature: 2\n",
            r"line 6: losses\[0\]\.temprature: unknown; did you mean temperature\?",
        ),
        (
            "losses:\n  - kind: soft_target\n",
            r"line 5: losses\[0\]: unknown kind 'soft_target'.*did you mean soft_targets",
        ),
        ("losses:\n  - weight: 1\n", r"line 5: losses\[0\]: needs a kind"),
        (
            "student:\n  layers: 2\n  init:\n    kind: copy\n    layrs: first\n",
            r"line 8: student\.init\.layrs: unknown; did",
        ),
        ("train:\n  epochs: many\n", r"line 5: train\.epochs: .*number.*found 'many'"),
        ("train:\n  epochs: -1\n", r"line 5: train\.epochs: .*greater than or equal to 0, found -1"),
        ("train:\n  epochs: .nan\n", r"line 5: train\.epochs: "),
        ("student:\n  layers: 3/2\n", r"line 5: student\.layers: .*\(0, 1\]"),
        ("student:\n  layers: half\n", r"line 5: student\.layers: .*a share such as \"1/2\""),
        (
            "losses:\n  - kind: soft_targets\n    temperature: 0\n",
            r"line 6: losses\[0\]\.temperature: a temperature must be positive, got 0",
        ),
        ("losses: []\n", r"line 4: losses: "),
        ("label: {temperatures: []}\n", r"line 4: label\.temperatures: .* at least 1 item"),
        (
            "label:\n  responses:\n    kind: generated\n    temperature: 0\n    per_prompt: 2\n",
            r"line 5: label\.responses: per_prompt: at temperature 0 all responses to a prompt are the same",
        ),
        ("losses: [{kind: hard_labels}, {kind: hard_labels}]\n", "hard_labels is listed twice"),
        ("export: [{kind: safetensors}, {kind: safetensors}]\n", "safetensors is listed twice"),
        ("train: {alpha: 1.5}\n", r"train\.alpha: expected values from 0"),
        (
            "train: {alpha: 0.5}\nlosses: [{kind: hard_labels}]\n",
            r"train\.alpha weighs soft_targets against hard_labels, and",
        ),
        (
            "train: {alpha: 0.5}\nlosses: [{kind: soft_targets}, {kind: hard_labels, weight: 1}]\n",
            r"train\.alpha and losses\[1\]\.weight both set the weight of hard_labels\. Drop one",
        ),
        (
            "losses: [{kind: hard_labels, weight: 0}, {kind: cosine, weight: {kind: cosine, start: 0, end: 0}}]\n",
            r"losses: every weight is 0 all through training\. Give a loss a weight above 0\.",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_remedy(load: Any, more: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"(?m){message}") as caught:
        load(BASE + more)
    assert "recipe.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("teacher.dtype=float64", "Input should be 'auto', 'float32', 'bfloat16' or 'float16', found 'float64'"),
        ("label.precision=float64", "Input should be 'auto', 'float32' or 'bfloat16', found 'float64'"),
        ("student.layers=0", "Input should be greater than or equal to 1, or a valid string, found 0"),
        ("data.validation=2", "Input should be a valid string, or less than 0.5, found 2"),
    ],
)
def test_one_mistake_is_one_problem(load: Any, override: str, told: str) -> None:
    """Also where a value may have several forms, of which it has none."""
    with pytest.raises(RecipeError) as caught:
        load(BASE, override)
    first, *problems = str(caught.value).splitlines()
    assert first.endswith("recipe.yaml: 1 problem(s)")
    [problem] = problems
    assert problem.endswith(f" {override.partition('=')[0]}: {told}")


def test_two_mistakes_are_two_problems(load: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        load(BASE, "student.layers=0", "student.width=0", "train.epochs=-1")
    assert "3 problem(s)" in str(caught.value) and len(str(caught.value).splitlines()) == 4


KINDS = ("soft_targets", "hard_labels", "hidden_states", "embeddings", "cosine", "attention", "relations")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("weight", "got"), [("-1", "-1"), ("{kind: linear, start: 1, end: -0.5}", "-0.5")])
def test_a_weight_below_zero_is_refused_of_every_loss(load: Any, kind: str, weight: str, got: str) -> None:
    with pytest.raises(RecipeError, match=rf"losses\[0\]\.weight: a weight must not be negative, got {got}"):
        load(BASE + f"losses: [{{kind: {kind}, weight: {weight}}}, {{kind: hard_labels}}]\n")


def test_a_weight_of_zero_is_one_beside_another(load: Any) -> None:
    losses = load(BASE + "losses: [{kind: soft_targets, weight: 0}, {kind: hard_labels}]\n").losses
    assert losses[0].weight.at(0.5) == 0 and losses[1].weight.at(1.0) == 0.5


def test_all_mistakes_are_told_together(load: Any) -> None:
    with pytest.raises(RecipeError, match=r"3 problem\(s\)") as caught:
        load(BASE.replace("data:", "dta:") + "train: {epochs: -1}\n")
    text = str(caught.value)
    assert "data: missing" in text and "dta: unknown; did you mean data?" in text and "train.epochs" in text


def test_a_key_given_twice_is_named_with_both_places(load: Any) -> None:
    with pytest.raises(RecipeError, match=r"lines 5 and 7: 'epochs' is given twice"):
        load(BASE + "train:\n  epochs: 1\n  seed: 1\n  epochs: 2\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys such as task, data and teacher"),
        ("- a\n- b\n", "expected keys such as"),
        ("just text", "expected keys such as"),
        ("a: [1, 2\nb: 3\n", r"line 2, column \d+: "),
        ("a: 'open", r"line 1, column \d+: "),
        ("\t- a", r"line 1, column \d+: "),
        ("a: *nothing", "line 1, column 4: .*nothing"),
        ("[" * 5000, "nested too deeply|line"),
        ("# " + "x" * 1_000_001, r"1,000,003 bytes; a recipe has at most 1,000,000"),
    ],
)
def test_text_that_is_no_recipe_is_refused_in_one_line(load: Any, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(text)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused(load: Any) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 10):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n"
    with pytest.raises(RecipeError, match="more than 10,000 values"):
        load(bomb)


def test_tags_build_no_objects(load: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load(BASE + f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert not (tmp_path / "made").exists()


def test_a_missing_file_is_named_with_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such file\. Start one with: potstill init"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_a_file_in_another_encoding_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(BASE.encode("utf-16"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(path)
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_recipe(path).teacher.model == "models/teacher"


def test_overrides_are_applied_before_validation(load: Any) -> None:
    recipe = load(
        BASE + "losses: [{kind: soft_targets}, {kind: hard_labels}]\n",
        "train.epochs=3",
        "train.learning_rate=1e-4",
        "losses.1.weight=0.25",
        "data.validation=dev.jsonl",
        "student.init={kind: random}",
        "train.trackers=[tensorboard]",
        "gate.min_retention=null",
    )
    assert recipe.train.epochs == 3 and recipe.train.learning_rate == 1e-4
    assert recipe.losses[1] == HardLabels(weight=Constant(value=0.25))
    assert recipe.data.validation == "dev.jsonl"
    assert recipe.student.init.kind == "random"
    assert recipe.train.trackers == ("tensorboard",)
    assert recipe.gate.min_retention is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("train.epoch=3", r"train\.epoch: unknown; did you mean epochs\?"),
        ("train.epochs=lots", r"train\.epochs: .*found 'lots'"),
        ("losses.5.weight=1", "no item '5' in a list of 2"),
        ("losses.x=1", "no item 'x' in a list of 2"),
        ("losses.².weight=1", "no item '²' in a list of 2"),
        ("seed.x=1", "seed is a value, not a section"),
        ("seed.x.y=1", "'x' is below a value"),
        ("train.epochs=[1", "line 1"),
        ("train.epochs=2001-99-99", r"--set train\.epochs=2001-99-99: "),
        ("train.epochs=!!int x", "--set"),
        ("student={kind: shrunk, layrs: 1}", r"student\.layrs: unknown; did you mean layers\?"),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(load: Any, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(BASE + "seed: 1\nlosses: [{kind: soft_targets}, {kind: hard_labels}]\n", override)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "adapt: {frozen_layers: 2}\n",
        "train: {alpha: 0.3, learning_rate: 1e-5}\n",
        "train: {alpha: {kind: linear, start: 0.9, end: 0.1}}\n",
        "student: {layers: 2, width: 1/3, init: {kind: copy, layers: last}}\n",
        "losses: [{kind: hard_labels, weight: 1, label_smoothing: 0.1}]\n",
        "seed: 3\ngate: {min_retention: null, max_size_bytes: 1e7}\n",
    ],
)
def test_a_resolved_recipe_loads_to_the_same_recipe(load: Any, more: str) -> None:
    recipe = load(BASE + more)
    text = dump_recipe(recipe)
    assert load(text) == recipe
    assert dump_recipe(load(text)) == text


@settings(max_examples=40, deadline=None, derandomize=True)
@given(model=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_any_text_in_a_recipe_survives_dump_and_load(tmp_path_factory: pytest.TempPathFactory, model: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "dumped"
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(BASE)
    recipe = load_recipe(folder / "base.yaml")
    teacher = recipe.teacher.model_copy(update={"model": model})
    named = recipe.model_copy(update={"teacher": teacher})
    (folder / "named.yaml").write_bytes(dump_recipe(named).encode())
    assert load_recipe(folder / "named.yaml") == named


def test_alpha_is_the_weight_of_the_teacher_and_its_rest_that_of_the_labels(load: Any) -> None:
    soft, hard = load(BASE + "train: {alpha: {kind: linear, start: 0.9, end: 0.2}}\n").weighted_losses()
    assert soft.weight == Linear(start=0.9, end=0.2)
    for progress in (0.0, 0.5, 1.0):
        assert hard.weight.at(progress) == pytest.approx(1 - soft.weight.at(progress))
    soft, hard = load(BASE + "train: {alpha: 0.75}\n").weighted_losses()
    assert (soft.weight.at(0.5), hard.weight.at(0.5)) == (0.75, 0.25)
    untouched = load(BASE)
    assert untouched.weighted_losses() == untouched.losses


KEYS = st.sampled_from(
    ["task", "data", "teacher", "train", "losses", "student", "kind", "epochs", "init", "x", "", "1"]
)
SCALARS = st.sampled_from(
    [
        "1",
        "1e-5",
        "null",
        "true",
        "shrunk",
        "soft_targets",
        "~",
        "2001-99-99",
        "!!int x",
        "!!timestamp x",
        "!!float ''",
        "!!binary é",
        "!!omap [1]",
        "!!set {a, a}",
        "!x y",
        "&a 1",
        "*a",
        ".inf",
        "0o9",
        "''",
        "?",
        "<<: 1",
    ]
)
YAML = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(KEYS | SCALARS, inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=8,
)
TEXTS = (
    st.text(max_size=80)
    | st.text("{}[]:,-?!&*#|>%@`'\"\n\t ab1.~<=", max_size=40)
    | YAML
    | st.dictionaries(KEYS, YAML, max_size=5).map(
        lambda items: "".join(f"{key}: {value}\n" for key, value in items.items())
    )
    | st.tuples(KEYS, YAML).map(lambda item: f"{BASE}{item[0]}: {item[1]}\n")
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(text=TEXTS, override=st.none() | st.tuples(KEYS, YAML | st.text(max_size=20)).map("=".join))
def test_any_text_is_a_recipe_or_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, override: str | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed-recipes"
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    for overrides in ([], [override] if override else []):
        try:
            assert load_recipe(path, overrides).task is not None
        except RecipeError as error:
            assert str(error)


def test_a_wrong_member_does_not_make_its_list_too_short(load: Any) -> None:
    with pytest.raises(RecipeError, match=r"1 problem\(s\)") as caught:
        load(BASE + "losses: [{kind: soft_targets, divergence: forwrd_kl}]\n")
    assert "did you mean forward_kl?" in str(caught.value) and "at least 1 item" not in str(caught.value)
    with pytest.raises(RecipeError, match=r"losses: .*at least 1 item"):
        load(BASE + "losses: []\n")


LANGUAGE = BASE.replace("kind: text_classification", "kind: causal_lm")


def test_a_language_model_matches_the_distribution_unless_told_otherwise(load: Any) -> None:
    assert LANGUAGE != BASE
    recipe = load(LANGUAGE)
    (soft,) = recipe.losses
    assert (soft.kind, soft.weight.value, soft.temperature.value) == ("soft_targets", 1.0, 1.0)
    assert recipe.encoding.kind == "low_rank" and recipe.temperatures_used == (1.0, 1.0)
    soft, hard = load(LANGUAGE + "train: {alpha: 0.9}\n").weighted_losses()
    assert (soft.weight.value, hard.weight.value) == (0.9, pytest.approx(0.1)) and soft.temperature.value == 1.0


@pytest.mark.parametrize("kind", ["causal_lm", "seq2seq"])
def test_so_does_each_soft_loss_of_a_language_model_that_says_no_temperature(load: Any, kind: str) -> None:
    text = LANGUAGE.replace("kind: causal_lm", f"kind: {kind}")
    recipe = load(text + "losses: [{kind: soft_targets, divergence: reverse_kl}, {kind: hard_labels}]\n")
    assert recipe.losses[0].temperature == Constant(value=1.0) and recipe.temperatures_used == (1.0, 1.0)
    # All else of a loss in a list is as the loss has it by itself.
    assert recipe.losses[0].weight == SoftTargets().weight and recipe.losses[0].divergence.kind == "reverse_kl"
    assert load(text, "losses=[{kind: soft_targets}]").losses[0].temperature == Constant(value=1.0)
    (asked,) = load(text + "losses: [{kind: soft_targets, temperature: {kind: linear, start: 2, end: 1}}]\n").losses
    assert asked.temperature.values() == (2, 1)
    (classes,) = load(BASE + "losses: [{kind: soft_targets}]\n").losses
    assert classes.temperature == SoftTargets().temperature != Constant(value=1.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("label: {encoding: {kind: auto}, max_kl: null}\n", r"auto chooses by label\.max_kl, which is null"),
        ("label: {encoding: {kind: dense}}\n", "dense does not fit causal_lm; use auto, low_rank"),
    ],
)
def test_an_encoding_that_cannot_serve_a_language_model_is_refused(load: Any, more: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(LANGUAGE + more)
