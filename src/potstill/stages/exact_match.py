"""Whether what a model writes is what is right, as a whole: for tasks whose rows have one right response."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data.batches import batches_by_length
from potstill.recipe import Recipe
from potstill.run_dir import RunDir
from potstill.stages.common import Inputs
from potstill.stages.ensemble_writing import write_as_ensemble
from potstill.tasks.generative import end_tokens, writing
from potstill.teachers.responses import Generated, write_responses


def exact_matches(
    run: RunDir, recipe: Recipe, inputs: Inputs, models: Mapping[str, PreTrainedModel]
) -> dict[str, npt.NDArray[np.bool_]]:
    """For each model and test row whether its greedy response reads as the true one, space around them aside; of
    several teachers also for all together, as "teacher".

    Both are compared as the tokenizer reads them: what it has no tokens for, no model could write.
    """
    tokenizer = inputs.tokenizer
    prompts = writing(recipe.task).prompts(tokenizer)
    rows = inputs.splits["test"].rows
    shown = [prompts.last(row) for row in rows]
    truth = [_text(tokenizer, prompts.reference(row)) for row in rows]
    room = max(map(prompts.room, shown))
    settings = Generated(temperature=0, max_new_tokens=room)
    ends = end_tokens(models.values(), tokenizer)
    found = {}
    speakers = len(models) + (recipe.ensemble is not None)
    with run.progress.task("evaluate: exact match", len(rows) * speakers, "responses") as advance:
        if recipe.ensemble is not None:
            found["teacher"] = np.zeros(len(rows), dtype=np.bool_)
            for index, row in enumerate(rows):
                ids = write_as_ensemble(recipe, models, row, shown[index].tolist(), room, ends)
                found["teacher"][index] = _text(tokenizer, ids) == truth[index]
                advance(1)
        for name, model in models.items():
            right = np.zeros(len(rows), dtype=np.bool_)
            for indices in batches_by_length([len(ids) for ids in shown], recipe.label.batch_size):
                written = write_responses(
                    model, [shown[index] for index in indices], settings, new_tokens=room, ends=ends, seed=0
                )
                for index, ids in zip(indices, written, strict=True):
                    right[index] = _text(tokenizer, ids) == truth[index]
                advance(len(indices))
            found[name] = right
    return found


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
