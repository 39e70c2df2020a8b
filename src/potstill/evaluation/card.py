"""What the model card says of a student, by the kind of its answers."""

from collections.abc import Mapping
from typing import Any

from potstill.evaluation.sections import floor_values
from potstill.evaluation.tables import quantities
from potstill.evaluation.wording import WORDING
from potstill.presentation.card import Card, FloorLine
from potstill.records import AnswerKind, EvaluateRecord, PlanRecord

_OPEN = """\
from transformers import {auto}, AutoTokenizer{more}

folder = "."  # the folder with this file's model, or its name on a hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {auto}.from_pretrained(folder)

"""
_CLASSIFY = 'inputs = tokenizer("a text", truncation=True, max_length={max_length}, return_tensors="pt")\n'
_AUTO: Mapping[AnswerKind, str] = {
    "single_label": "AutoModelForSequenceClassification",
    "multi_label": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "tags": "AutoModelForTokenClassification",
    "text": "AutoModelForCausalLM",
    "target": "AutoModelForSeq2SeqLM",
}
_USE: Mapping[AnswerKind, str] = {
    "single_label": _CLASSIFY + "print(model.config.id2label[model(**inputs).logits.argmax().item()])",
    "multi_label": _CLASSIFY
    + "chances = model(**inputs).logits[0].sigmoid()\n"
    + "print({{model.config.id2label[number]: chance for number, chance in enumerate(chances.tolist()) "
    + "if chance > 0.5}})",
    "regression": _CLASSIFY + "print(model(**inputs).logits.item())",
    "tags": 'find = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")\n'
    'print(find("a text of at most {max_length} tokens"))',
    "text": 'inputs = tokenizer("a text", return_tensors="pt")\n'
    "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))",
    "target": _CLASSIFY
    + "written = model.generate(**inputs, max_new_tokens={max_target_length})\n"
    + "print(tokenizer.decode(written[0], skip_special_tokens=True))",
}


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
        limit=None if words.limit is None else words.limit.format(classes=classes),
        classes=words.classes,
        labelled="tokens" if words.queries == "prompts" else "rows",
        labels="distributions" if words.queries == "prompts" else "scores",
        loading=loading_code(kind, task),
    )


def loading_code(kind: AnswerKind, task: Mapping[str, Any]) -> str:
    """Python that loads a student and asks it."""
    opened = _OPEN.format(auto=_AUTO[kind], more=", pipeline" if kind == "tags" else "")
    return opened + _USE[kind].format_map(task)
