"""What the model card says of a student, by the kind of its answers."""

from collections.abc import Mapping
from typing import Any

from potstill.evaluation.sections import floor_values
from potstill.evaluation.tables import quantities
from potstill.evaluation.wording import WORDING
from potstill.presentation.card import Card, FloorLine
from potstill.records import AnswerKind, EvaluateRecord, PlanRecord

_OPEN = """\
from transformers import {names}

folder = "."  # the folder with this file's model, or its name on a hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto}.from_pretrained(folder)

"""


def card_of(evaluation: EvaluateRecord, plan: PlanRecord, task: Mapping[str, Any], taught_by: str) -> Card:
    """What the card says of a student; `task` are the task's settings as the recipe has them."""
    kind, classes = evaluation.answers, len(plan.labels)
    words, test = WORDING[kind], plan.splits["test"]
    read = (
        f"Documents are read in windows of {task['max_length']} tokens that share {task['overlap']}; what lies further "
        "away does not count."
        if words.read_whole
        else f"Texts are read up to {task['max_length']} tokens; in the test, {test.truncated:,} of {test.rows:,} were "
        "cut off there."
    )
    return Card(
        pipeline=words.pipeline,
        metrics=words.card_metrics,
        is_a=words.is_a.format(classes=classes),
        taught_by=taught_by,
        comparison=quantities(evaluation),
        floors=[
            FloorLine(name, words.floor, floor.labelled_rows, floor_values(evaluation, floor))
            for name, floor in evaluation.floors.items()
        ],
        reads=read,
        timed_as=f"documents read in windows of {task['max_length']} tokens"
        if words.read_whole
        else f"texts cut at {task['max_length']} tokens",
        limit=None if words.limit is None else words.limit.format(classes=classes),
        classes=words.classes,
        labelled="tokens" if words.queries == "prompts" else "rows",
        labels="distributions" if words.queries == "prompts" else "scores",
        loading=loading_code(kind, task, pairs=test.pairs > 0),
    )


def loading_code(kind: AnswerKind, task: Mapping[str, Any], *, pairs: bool = False) -> str:
    """Python that loads a student and asks it, about one text or about a pair."""
    words = WORDING[kind]
    names = ", ".join((words.auto_class, "AutoTokenizer", *words.imports))
    return _OPEN.format(auto=words.auto_class, names=names) + words.use.format_map(
        {**task, "texts": '"a text", "a second text"' if pairs else '"a text"'}
    )
