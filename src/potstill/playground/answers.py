"""One query, answered by all models of a run, and the time that each took."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.errors import DataError, ModelError, PotstillError
from potstill.playground.models import FinishedModels, Opened
from potstill.progress import Progress
from potstill.runtimes.answering import Answer, Answerer, Asking

MOST_CHARACTERS = 4000
"""Of a query: about a page and a half, more than most models read, and answered in seconds."""
NEW_TOKENS = 64
"""That a model writes: enough to see how it writes, and a matter of seconds for a model of a billion weights."""
TOP = 5
"""Classes that are shown of each answer."""
REPEATS = 5
"""After the first, of which the median is shown: the fewest whose median does not move with two that were disturbed."""


@dataclass(frozen=True)
class Query:
    """What a person typed."""

    text: str
    second: str = ""
    """The other text of a pair."""
    as_chat: bool = False
    """Whether it is put into the chat template as what the user says."""

    def row(self, answers: str) -> dict[str, Any]:
        """As a row of JSON.

        Raises:
            DataError: it is empty or too long.
        """
        for text in (self.text, self.second):
            if len(text) > MOST_CHARACTERS:
                raise DataError(
                    f"The query has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are read. Shorten it."
                )
        if not self.text.strip():
            raise DataError("The query is empty. Type a text.")
        if answers == "tags":
            return {"tokens": self.text.split()}
        if self.as_chat:
            return {"messages": [{"role": "user", "content": self.text}]}
        return {"text": self.text} | ({"text_pair": self.second} if self.second.strip() else {})


@dataclass(frozen=True)
class ModelAnswer:
    """What one model answers. Of its fields those are filled that its kind of answer has."""

    name: str
    form: str
    error: str = ""
    """Why there is no answer."""
    ms: float | None = None
    """That the answer took: the median of some, or all that was written."""
    chosen: tuple[str, ...] = ()
    """The class, or the labels."""
    classes: tuple[tuple[str, float], ...] = ()
    """The likeliest, with their probabilities."""
    tagged: tuple[tuple[str, str | None], ...] = ()
    """Each word with its tag."""
    value: float | None = None
    text: str | None = None
    tokens: tuple[tuple[str, float | None], ...] = ()
    """Of the text, with their probabilities."""

    @property
    def tokens_per_s(self) -> float | None:
        return 1000 * len(self.tokens) / self.ms if self.tokens and self.ms else None


@dataclass(frozen=True)
class Playground:
    """The models of a run, ready to be asked."""

    run: Path
    answers: str
    """The kind of their answers."""
    notes: tuple[str, ...]
    models: tuple[Opened, ...]
    pairs: bool
    """Whether the rows of the run have two texts."""
    chat: bool
    """Whether the student has a chat template."""

    def ask(self, query: Query) -> list[ModelAnswer]:
        """The answers of all models, in their order.

        Raises:
            DataError: a query that is empty or too long.
        """
        row = query.row(self.answers)
        return [answer_of(model, row) for model in self.models]


def open_playground(run: Path, threads: int, progress: Progress | None = None) -> Playground:
    """Open all models of a run.

    Raises:
        ModelError: the run has none, or none that can be opened.
    """
    found = FinishedModels(run)
    asking = Asking(threads, new_tokens=NEW_TOKENS, in_detail=True)
    models = []
    for model in found.open_all(asking):
        models.append(model)
        # What is done once, such as reading weights from the disk, is no part of the first query's time.
        answer_of(model, Query("w").row(found.recipe.task.answers))
        if progress is not None:
            progress.line(f"{model.name}: {model.error or 'opened'}")
    if not any(model.answer for model in models):
        raise ModelError(f"{run}: none of its models can be opened. {models[0].error}")
    task = found.recipe.task
    return Playground(
        run=run,
        answers=task.answers,
        notes=tuple(found.notes),
        models=tuple(models),
        pairs=any(counts.pairs for counts in found.plan.splits.values()),
        chat=task.answers == "text" and (run / "train/student/model/chat_template.jinja").is_file(),
    )


def answer_of(model: Opened, row: Mapping[str, Any]) -> ModelAnswer:
    """What a model answers to a row; why it does not, where it cannot."""
    if model.answer is None:
        return ModelAnswer(model.name, model.form, error=model.error)
    try:
        answer, ms = timed(model.answer, row)
    except PotstillError as error:
        return ModelAnswer(model.name, model.form, error=str(error))
    # A library may refuse a text in ways of its own, such as one that is longer than a model has positions for; the
    # other models can answer still.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        return ModelAnswer(model.name, model.form, error=f"It cannot answer: {type(error).__name__} {reason}"[:300])
    return ModelAnswer(model.name, model.form, ms=ms, **shown(answer, row))


def timed(answer: Answerer, row: Mapping[str, Any]) -> tuple[Answer, float]:
    """The first answer, and the milliseconds of one: what writing says that it took, else the median of some after the
    first."""
    [first] = answer([row])
    if "seconds" in first:
        return first, 1000 * first["seconds"]
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        answer([row])
        seconds.append(time.perf_counter() - started)
    return first, 1000 * statistics.median(seconds)


def shown(answer: Answer, row: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an answer as fields of `ModelAnswer`."""
    if "text" in answer:
        return {"text": answer["text"], "tokens": tuple(answer["tokens"])}
    if "tags" in answer:
        return {"tagged": tuple(zip(row["tokens"], answer["tags"], strict=True))}
    if "value" in answer:
        return {"value": answer["value"]}
    chosen: Sequence[str] = answer["labels"] if "labels" in answer else [answer["label"]]
    best = sorted(answer["probabilities"].items(), key=lambda each: -each[1])[:TOP]
    return {"chosen": tuple(chosen), "classes": tuple(best)}
