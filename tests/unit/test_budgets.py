"""Students by what they may cost."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pydantic import ValidationError
from transformers import BertConfig, LlamaConfig, T5Config

from potstill.cli import parameters_of
from potstill.errors import ModelError, RecipeError
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.candidates import costs_of_students
from potstill.stages.inputs import read_inputs
from potstill.stages.plan import make_plan
from potstill.stages.student_search import (
    Candidate,
    chosen_student,
    flops_per_token,
    shape_of,
    sized_candidates,
    within,
)
from potstill.students import Budget, Copy
from tests.commands import potstill

LABELS = ["a", "b", "c"]
SIZES: dict[str, Any] = {"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 6, "intermediate_size": 96}
ENCODER = BertConfig(**SIZES, num_attention_heads=6, max_position_embeddings=32)
DECODER = LlamaConfig(**SIZES, num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True)

SIZES_OF_T5: dict[str, Any] = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}


def recipe(task: str = "text_classification", max_length: int = 64, **changes: Any) -> Recipe:
    data = {"train": "a", "validation": "b", "test": "c"}
    return Recipe.model_validate(
        {"task": {"kind": task, "max_length": max_length}, "data": data, "teacher": {"model": "x"}, **changes}
    )


def found_of(teacher: T5Config) -> list[Candidate]:
    return sized_candidates(recipe("seq2seq"), teacher, [])


@pytest.mark.parametrize(("task", "config"), [("text_classification", ENCODER), ("causal_lm", DECODER)])
def test_candidates_are_legal_distinct_and_smaller(task: str, config: Any) -> None:
    asked = recipe(task)
    teacher = shape_of(asked, config, LABELS)
    found = sized_candidates(asked, config, LABELS)
    assert len(found) > 10
    sizes = [(each.shape.layers, each.shape.width) for each in found]
    assert len(set(sizes)) == len(sizes) and (6, 48) not in sizes
    assert all(each.shape.parameters < teacher.parameters for each in found)
    assert [each.shape.parameters for each in found] == sorted((e.shape.parameters for e in found), reverse=True)


def test_operations_are_those_of_the_products() -> None:
    asked = recipe("causal_lm", max_length=20)
    shape = shape_of(asked, DECODER, [])
    width, units, layers = 48, 96, 6
    keys = width * 2 // 6
    matrices = layers * (2 * width * width + 2 * width * keys + 3 * width * units)
    norms = (2 * layers + 1) * width
    # Two for each weight, also of the output layer; scores and values of ten keys on average.
    assert flops_per_token(asked, shape) == 2 * (matrices + norms + 100 * width) + 4 * 10 * layers * width


def test_heads_wider_than_the_stream_count_in_full() -> None:
    asked = recipe("causal_lm", max_length=20)
    wide = LlamaConfig(**SIZES, num_attention_heads=6, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True)
    shape = shape_of(asked, wide, [])
    assert (shape.width, shape.query_width, shape.key_value_width) == (48, 96, 32)
    body = shape.parameters - shape.embedding_parameters
    assert flops_per_token(asked, shape) == 2 * (body + 100 * 48) + 4 * 10 * 6 * 96


@pytest.mark.parametrize(
    "limits", [{"parameters": 60_000}, {"flops_ratio": 8.0}, {"parameters": 50_000, "flops_ratio": 5.0}]
)
def test_the_student_is_the_largest_within_the_budget(limits: dict[str, Any]) -> None:
    asked = recipe(student={"kind": "budget", **limits, "dropout": 0.0, "init": {"kind": "copy", "width": "project"}})
    flops = flops_per_token(asked, shape_of(asked, ENCODER, LABELS))
    chosen = chosen_student(asked, ENCODER, LABELS)
    assert chosen.dropout == 0.0 and chosen.init == Copy(width="project")
    known = {"parameters": None, "flops_ratio": None} | limits
    fitting = within(sized_candidates(asked, ENCODER, LABELS), flops, **known)
    assert 0 < len(fitting) < len(sized_candidates(asked, ENCODER, LABELS))
    (own,) = (each for each in fitting if (each.settings.layers, each.settings.width) == (chosen.layers, chosen.width))
    assert own.flops_per_token == max(each.flops_per_token for each in fitting)


def test_a_budget_that_nothing_fits_names_the_smallest() -> None:
    asked = recipe(student={"kind": "budget", "parameters": 10})
    with pytest.raises(RecipeError, match=r"The smallest that is tried, 1 x 8, has [\d,]+ parameters"):
        chosen_student(asked, ENCODER, LABELS)


def test_a_budget_of_which_no_shape_is_legal_says_why() -> None:
    asked = recipe(student={"kind": "budget", "parameters": 20_000, "family": "roberta"})
    with pytest.raises(ModelError, match="cannot start from the weights of a teacher of the family 'bert'"):
        chosen_student(asked, ENCODER, LABELS)


def test_candidates_of_encoder_decoders_differ_in_either() -> None:
    teacher = T5Config(**SIZES_OF_T5, num_layers=2, num_decoder_layers=8)
    found = {(c.settings.layers, c.settings.decoder_layers, c.settings.width) for c in found_of(teacher)}
    assert {(2, 8, 16), (2, 6, 32), (1, 4, 32), (1, 2, 32)} <= found


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="parameters, flops_ratio, or both"):
        Budget()


@pytest.mark.parametrize(
    ("text", "number"), [("30M", 30_000_000), ("1.5b", 1_500_000_000), ("7300", 7300), ("2 k", 2000)]
)
def test_numbers_of_parameters_as_people_write_them(text: str, number: int) -> None:
    assert parameters_of(text) == number


@pytest.mark.parametrize("text", ["", "many", "3MM", "-1", "1e6"])
def test_what_is_no_number_of_parameters_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--parameters"):
        parameters_of(text)


def test_the_command_lists_what_there_is_and_writes_nothing(project: Path) -> None:
    before = set(project.rglob("*"))
    listed = potstill("students", project / "recipe.yaml", "--flops-ratio", "2", "--most", "4").stdout
    lines = [line for line in listed.splitlines() if re.search(r"\d+ x \d+", line)]
    assert "4 x 32 (teacher)" in lines[0] and len(lines) == 5
    assert "In the recipe: student: {layers: " in listed
    refused = potstill("students", project / "recipe.yaml", "--parameters", "5", "--no-measure", check=1)
    assert "nothing is within the budget" in refused.stderr
    assert set(project.rglob("*")) == before


def test_the_command_lists_students_that_are_as_the_recipe_says(project: Path) -> None:
    student = "student={kind: budget, parameters: 20000, vocabulary: {kind: factorised, size: 4}, dropout: 0.0}"
    loaded = load_recipe(project / "recipe.yaml", [student])
    inputs = read_inputs(loaded, project)
    _, found = costs_of_students(loaded, inputs, Progress(), most=99, measured=False)
    assert found and all(each.config.model_type == "electra" for each, _ in found)
    assert inputs.student in [each.settings for each, _ in found]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_run_takes_the_student_of_its_budget(project: Path) -> None:
    path = project / "recipe.yaml"
    path.write_text(re.sub(r"student: .*", "student: {kind: budget, flops_ratio: 5}", path.read_text()))
    loaded = load_recipe(path, [])
    inputs = read_inputs(loaded, project)
    planned = make_plan(loaded, inputs, project / "run")
    assert (planned.student.layers, planned.student.width) == (inputs.student.layers, inputs.student.width)
    ratio = flops_per_token(loaded, planned.teacher) / flops_per_token(loaded, planned.student)
    assert ratio >= 5
    assert torch.get_num_threads() == 2, "as many as before"
