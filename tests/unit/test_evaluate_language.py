"""What an evaluation of language models takes for its unit, and what it asks of short prompts and small models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.errors import RecipeError
from potstill.evaluation.case import Case
from potstill.evaluation.generative import measured_tokens
from potstill.evaluation.queries import PLAIN_PROMPT, require_measurable, timed_prompts
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from potstill.tasks.generative import generative
from tests.conftest import FILLERS, make_chat_project


@pytest.fixture
def project(tmp_path: Path, chat_teacher_folder: Path) -> Path:
    return make_chat_project(tmp_path, chat_teacher_folder)


def write_test(project: Path, *rows: dict[str, Any]) -> None:
    (project / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_text_that_is_read_in_windows_is_one_row(project: Path) -> None:
    texts = {"long": " ".join(FILLERS * 5), "short": "w1 w2 w3"}
    write_test(project, *({"id": name, "text": text} for name, text in texts.items()))
    recipe = load_recipe(project / "recipe.yaml")
    inputs = read_inputs(recipe, project)
    test = inputs.splits["test"].rows
    rows = generative(recipe.task).encode(test, inputs.tokenizer)
    assert len(rows.examples) == 6, "the long one is read in five windows"
    model = recipe.task.load_model(inputs.lead.location)
    cpu = torch.device("cpu")
    teacher = TransformersPredictor(None, recipe.task, inputs.tokenizer, cpu, 1, model=model)
    found, drawn = measured_tokens(case_of(recipe, inputs, Progress()), {"teacher": teacher})
    assert drawn.weights.shape[1] == 2
    assert np.bincount(drawn.row_of).tolist() == [300, 3]
    shown = {name: sum(len(each.ids) for each in rows.examples if each.id.startswith(name)) for name in texts}
    assert dict(zip(drawn.row_ids, drawn.lengths, strict=True)) == shown and shown["long"] > 300
    # The first token of a text is learnt by nobody, and its end is.
    means = drawn.means(found["teacher"].loss)
    both = {float(means[row]) for row in range(1, len(means)) if (drawn.weights[row] == 1).all()}
    assert both == {float(means[0])}


def loaded(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return case_of(recipe, read_inputs(recipe, project), Progress())


def test_plain_texts_are_gone_on_with_from_their_first_tokens(project: Path) -> None:
    write_test(project, *({"id": f"{n}", "text": " ".join(FILLERS[n : n + 20])} for n in range(5)))
    case = loaded(project)
    prompts = timed_prompts(case, case.tokenizer)
    assert [len(prompt) for prompt in prompts] == [PLAIN_PROMPT] * case.recipe.evaluate.prompts
    assert case.tokenizer.decode(prompts[1]).split() == FILLERS[1 : 1 + PLAIN_PROMPT]


def test_a_percentile_that_too_few_prompts_would_stand_behind_is_refused(project: Path) -> None:
    asked = "gate.max_latency_p95_ms=5"
    with pytest.raises(
        RecipeError, match=r"needs 100 queries, and 3 would be timed \(evaluate.prompts is 3, data.test"
    ):
        require_measurable(loaded(project, asked))
    with pytest.raises(RecipeError, match="and 30 would be timed"):
        require_measurable(loaded(project, asked, "evaluate.prompts=200"))
    require_measurable(loaded(project))
