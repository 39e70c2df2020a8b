"""A further form of a language model is judged as the first one is, and models that were judged are not asked again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from potstill import load_recipe
from potstill.evaluation.case import Case
from potstill.evaluation.generative import answers_of, compared
from potstill.evaluation.shipping import _AskedOnce
from potstill.progress import Progress
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of

CPU = torch.device("cpu")
NAMES = ("teacher", "baseline", "one", "other")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, chat_teacher_folder: Path) -> dict[str, Path]:
    """The teacher, and models that are it with some noise."""
    found = {"teacher": chat_teacher_folder}
    for number, name in enumerate(NAMES[1:]):
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_pretrained(chat_teacher_folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(found[name])
    return found


@pytest.fixture
def case(chat_project: Path, folders: dict[str, Path]) -> Case:
    path = chat_project / "recipe.yaml"
    recipe = load_recipe(path, ["evaluate.written=4", "evaluate.generations=2", "evaluate.generation_tokens=6"])
    inputs = read_inputs(recipe, path.parent, Progress())

    def untrained() -> Any:
        return AutoModelForCausalLM.from_pretrained(folders["baseline"])

    return case_of(recipe, inputs, Progress(), untrained=untrained)


@pytest.fixture
def models(case: Case, folders: dict[str, Path]) -> dict[str, Predictor]:
    def opened(folder: Path) -> Predictor:
        model = ModelFolder(folder)
        return open_predictor(model, task=case.recipe.task, tokenizer=case.tokenizer, device=CPU, batch_size=4)

    return {name: opened(folder) for name, folder in folders.items()}


def beside(models: Mapping[str, Any], form: str) -> dict[str, Any]:
    return {"teacher": models["teacher"], "student": models[form], "baseline": models["baseline"]}


def test_a_further_form_is_judged_as_if_all_were_asked(
    case: Case, models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = answers_of(case, beside(models, "one"))
    fresh = answers_of(case, beside(models, "other"))

    def asked_again(*_: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(models["baseline"], "target", asked_again)
    again = answers_of(replace(case, untrained=asked_again), beside(models, "other"), known)
    assert list(again.tokens) == list(fresh.tokens) == ["teacher", "student", "baseline"]
    for name, expected in fresh.tokens.items():
        for field, values in vars(expected).items():
            assert np.array_equal(getattr(again.tokens[name], field), values), (name, field)
    assert not np.array_equal(again.tokens["student"].kl, known.tokens["student"].kl)
    assert np.array_equal(again.untrained.tokens.kl, fresh.untrained.tokens.kl)
    assert again.untrained.vocabulary == fresh.untrained.vocabulary
    assert again.generations == fresh.generations and again.written is not None and fresh.written is not None
    assert again.written.tokens == fresh.written.tokens
    assert again.agreement("student") == fresh.agreement("student")


def test_a_form_is_compared_with_the_model_that_it_was_made_of(case: Case, models: dict[str, Predictor]) -> None:
    found = compared(case, models["one"], models["other"])
    expected = answers_of(case, {"teacher": models["one"], "student": models["other"]}).agreement("student")
    assert found == expected != compared(case, models["teacher"], models["other"])


def test_what_was_written_after_the_same_prompts_is_not_written_again(
    case: Case, models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def write_all(rows: Sequence[Any], prompts: Any, new_tokens: int, ends: Any, advance: Any) -> list[list[int]]:
        asked.append(len(rows))
        advance(len(rows))
        return [[len(asked)] for _ in rows]

    monkeypatch.setattr(models["one"], "write_all", write_all)
    once = _AskedOnce(models["one"])
    rows, prompts = list(case.test[:2]), [np.array([1, 2], np.int32), np.array([3], np.int32)]
    told: list[int] = []
    first = once.write_all(rows, prompts, 4, {7, 8}, told.append)
    assert once.write_all(rows, prompts, 4, {8, 7}, told.append) == first == [[1], [1]]
    assert asked == [2] and told == [2, 2], "and progress goes on"
    other = [np.array([1], np.int32), np.array([2, 3], np.int32)]
    for number, changed in enumerate(
        [
            (rows[::-1], prompts, 4, {7, 8}),
            (rows, other, 4, {7, 8}),
            (rows, prompts, 5, {7, 8}),
            (rows, prompts, 4, {7}),
        ]
    ):
        assert once.write_all(*changed, told.append) == [[number + 2]] * 2
