"""What a teacher must be better than to be worth following: the simplest answers to the same rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.data.pairs import Pair
from potstill.data.rows import labelled_rows
from potstill.data.tag_schemes import OUTSIDE
from potstill.evaluation.answers import estimate
from potstill.evaluation.case import Case
from potstill.evaluation.floors import Floors
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.metrics import metric
from potstill.measure import entities, quality
from potstill.measure.entities import Entity
from potstill.measure.language import TokensOfRows
from potstill.records import EvaluateRecord, Reference
from potstill.tasks.generative import generative
from potstill.tasks.problem_types import MultiLabel, SingleLabel

COUNTED_ROWS = 20_000
"""Rows of a split whose tokens are counted: what is frequent shows on far fewer."""
TRIED_DOCUMENTS = 1_000
"""Documents on which each tag is tried at every word."""
SAME_LOSS = 1e-5
"""Nats a token: rounding between two models of equal weights is below it, an untrained student far above."""
NO_ENTITY = "no entity at all"
FREQUENT = 0.01
"""Share of the targets that one must have for always writing it to be a rule that a teacher must beat."""


def is_beaten(reference: Reference) -> bool:
    """Whether the teacher is better than this."""
    return metric(reference.metric).is_better(reference.teacher, reference.value)


def not_beaten(evaluation: EvaluateRecord) -> list[Reference]:
    """What the teacher is no better than."""
    return [reference for reference in evaluation.references if not is_beaten(reference)]


def above(name: str, metric: str, teacher: Resampled, other: Resampled | float) -> Reference:
    """A reference of a share that is better where it is higher, from its values over the resamples."""
    value = float(other[0]) if isinstance(other, np.ndarray) else other
    margin = estimate(100 * (teacher - other))
    return Reference(name=name, metric=metric, value=value, teacher=float(teacher[0]), margin=margin)


def of_floor(floors: Floors, metric: str, teacher: Resampled, kind: str) -> list[Reference]:
    """The floor that was fitted on the rows that the teacher can be adapted on, where there is one."""
    floor = floors.fitted.get("teacher_labels")
    if floor is None:
        return []
    name = f"TF-IDF with {kind} regression on the {floor.labelled_rows:,} rows that it can be adapted on"
    value, score = floor.score(metric), float(teacher[0])
    return [Reference(name=name, metric=metric, value=value, teacher=score, margin=floor.margin)]


def of_single_label(
    case: Case, truth: npt.NDArray[np.int64], teacher: Resampled, weights: quality.Weights
) -> list[Reference]:
    """The most frequent class of the rows that teach, at every test row, and guessing."""
    taught = SingleLabel().targets(list(taught_rows(case)), case.class_names)
    most = np.bincount(taught, minlength=len(case.class_names)).argmax()
    always = quality.accuracies(truth == most, weights)
    return [
        above("always the most frequent class", "accuracy", teacher, always),
        above("guessing a class", "accuracy", teacher, 1 / len(case.class_names)),
    ]


def of_multi_label(
    case: Case, truth: npt.NDArray[np.bool_], teacher: Resampled, weights: quality.Weights
) -> list[Reference]:
    """The same labels at every test row: so many of the most frequent as serve the rows that teach best."""
    taught = MultiLabel().targets(list(taught_rows(case)), case.class_names) == 1
    order = np.argsort(-taught.sum(axis=0), kind="stable")
    one = np.ones((1, len(taught)))

    def always(count: int, rows: int) -> npt.NDArray[np.bool_]:
        return np.tile(np.isin(np.arange(len(order)), order[:count]), (rows, 1))

    best = max(range(1, len(order) + 1), key=lambda n: quality.micro_f1s(taught, always(n, len(taught)), one)[0])
    found = quality.micro_f1s(truth, always(best, len(truth)), weights)
    return [above("always the most frequent labels", "micro_f1", teacher, found)]


def of_regression(teacher: Resampled) -> list[Reference]:
    """The mean of the test rows, which explains nothing of their variance."""
    return [above("always the mean", "r2", teacher, 0.0)]


def of_tags(
    case: Case, truth: Sequence[Sequence[Entity]], teacher: Resampled, weights: quality.Weights
) -> list[Reference]:
    """The same tag at every word: the one that finds most entities in documents that teach, and O.

    O at every word is right where the test has no entity, so that no teacher is better there.
    """
    taught = _spread(list(taught_rows(case)), TRIED_DOCUMENTS)
    there = [entities.entities_of(row.tags, case.class_names) for row in taught]
    one = np.ones((1, len(taught)))

    def always(tag: str, rows: Sequence[Any]) -> list[list[Entity]]:
        return [entities.entities_of([tag] * len(row.tokens), case.class_names) for row in rows]

    best = max(case.class_names, key=lambda tag: entities.f1(entities.compare(there, always(tag, taught)), one)[0])
    names = {best: f"the tag {best} at every word"} | ({OUTSIDE: NO_ENTITY} if OUTSIDE in case.class_names else {})
    test = case.test
    found = {tag: entities.f1(entities.compare(truth, always(tag, test)), weights) for tag in names}
    return [above(name, "entity_f1", teacher, found[tag]) for tag, name in names.items()]


def of_tokens(
    case: Case,
    tokens: TokensOfRows,
    losses: Mapping[str, npt.NDArray[np.float64]],
    vocabulary: int,
) -> list[Reference]:
    """Tokens by their frequency alone, and the student before its training; `losses` are of it and the teacher."""
    frequencies = _token_losses(case, vocabulary)[tokens.true_ids]
    teacher, untrained = losses["teacher"], losses["untrained"]
    others = {"the frequencies of tokens alone": frequencies}
    if np.abs(untrained - teacher).max() > SAME_LOSS:
        # One that begins as a whole copy of its teacher says nothing of it.
        others["the untrained student"] = untrained
    return [
        Reference(
            name=name,
            metric="perplexity",
            value=float(np.exp(loss.mean())),
            teacher=float(np.exp(teacher.mean())),
            margin=estimate(tokens.means(loss - teacher)),
        )
        for name, loss in others.items()
    ]


def _token_losses(case: Case, vocabulary: int) -> npt.NDArray[np.float64]:
    """The negative log-likelihood of each token by how often it is learnt, where every token occurs once more.

    Laplace's rule: a token that no row has is rare, not impossible.
    """
    counts = np.ones(vocabulary)
    for name in ("train", "adapt"):
        rows = _spread(labelled_rows(case.splits[name].rows), COUNTED_ROWS) if name in case.splits else []
        if rows:
            for example in generative(case.recipe.task).encode(rows, case.student_tokenizer).examples:
                counts += np.bincount(example.ids[example.trained], minlength=vocabulary)
    return np.asarray(-np.log(counts / counts.sum()))


def of_whole_responses(case: Case, teacher: Resampled, weights: quality.Weights) -> list[Reference]:
    """The most frequent target of the rows that teach, at every test row.

    Not where targets are nearly all different: a teacher that is judged by likeness alone may have none right.
    """
    targets = Counter(row.target.strip() for row in taught_rows(case) if isinstance(row, Pair) and row.target)
    if not targets:
        return []
    most, count = targets.most_common(1)[0]
    if count < FREQUENT * targets.total():
        return []
    right = np.array([row.target.strip() == most for row in case.test], dtype=np.bool_)
    always = quality.accuracies(right, weights)
    return [above("always the most frequent target", "exact_match", teacher, always)]


def taught_rows(case: Case) -> Iterator[Any]:
    """The labelled rows that student or teacher learn from."""
    for name in ("train", "adapt"):
        if name in case.splits:
            yield from labelled_rows(case.splits[name].rows)


def _spread(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the rows, evenly spread."""
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=np.int64)
    return [rows[number] for number in chosen.tolist()]
