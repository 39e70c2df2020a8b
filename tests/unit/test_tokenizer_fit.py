"""A tokenizer that reads most words as unknown is that of another model, and the plan says so before any work."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import ModelError
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.plan import make_plan
from potstill.stages.tokenizer_fit import doubts_about_tokenizer, unknown_shares


def planned(project: Path) -> Any:
    recipe = load_recipe(project / "recipe.yaml", [])
    return make_plan(recipe, read_inputs(recipe, project), project / "run")


def with_unknown(file: Path, share: float) -> None:
    """The first rows of a file, up to this share, with texts of words that no tokenizer here has."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        if number < share * len(rows):
            row["text"] = " ".join(f"\u0e01{number}\u0e02{word}" for word in range(len(row["text"].split())))
    file.write_text("\n".join(json.dumps(row) for row in rows))


def test_a_split_of_mostly_unknown_words_is_refused(project: Path, teacher_folder: Path) -> None:
    with_unknown(project / "data/test.jsonl", 0.7)
    with pytest.raises(ModelError) as refused:
        planned(project)
    said = str(refused.value)
    assert (
        said.startswith(f"{teacher_folder}/tokenizer.json: ")
        and "% of the tokens of data.test are unknown ([UNK])" in said
    )
    assert "the tokenizer has" in said and "and the model rows for 74" in said


@pytest.mark.parametrize(("share", "warned"), [(0.0, False), (0.2, True)])
def test_many_unknown_words_are_a_warning(share: float, warned: bool, project: Path) -> None:
    with_unknown(project / "data/validation.jsonl", share)
    found = [line for line in planned(project).warnings if "unknown to the tokenizer ([UNK])" in line]
    assert [line.split(":")[0] for line in found] == ["validation"] * warned


def test_language_models_are_counted_without_what_pads_and_ends(chat_project: Path) -> None:
    recipe = load_recipe(chat_project / "recipe.yaml", [])
    inputs = read_inputs(recipe, chat_project)
    encoded = {"train": inputs.encoded(recipe, inputs.splits["train"].rows)}
    assert unknown_shares(inputs, encoded) == {"train": 0.0}
    # A token of the template that stood for unknown words, too: every turn has one, and no word is unknown.
    inputs.tokenizer.unk_token = inputs.tokenizer.eos_token
    assert unknown_shares(inputs, encoded) == {}


def test_a_tokenizer_that_is_much_smaller_than_its_model(chat_project: Path) -> None:
    recipe = load_recipe(chat_project / "recipe.yaml", [])
    inputs = read_inputs(recipe, chat_project)
    assert doubts_about_tokenizer(inputs, {}) == []
    pieces = len(inputs.tokenizer)
    for rows, warned in ((int(pieces * 1.08), False), (int(pieces * 1.2), True)):
        found = doubts_about_tokenizer(of_rows(inputs, rows), {})
        assert [f"and the model rows for {rows}." in line for line in found] == [True] * warned


def of_rows(inputs: Inputs, rows: int) -> Inputs:
    config = copy.deepcopy(inputs.lead.config)
    config.vocab_size = rows
    return replace(inputs, lead=replace(inputs.lead, config=config))
