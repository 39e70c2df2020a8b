"""Models that are asked about other texts than the test rows: changed ones, and those of another kind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from potstill.data.encoded import EncodedRows
from potstill.data.rows import Row
from potstill.data.splits import stable_order
from potstill.evaluation.case import Case
from potstill.evaluation.robustness import figures, outcomes
from potstill.evaluation.robustness.asking import Asker, with_texts
from potstill.evaluation.robustness.attack import Answers, Attack, Limits, Outcome, Texts, attack, run_attacks
from potstill.evaluation.robustness.readings import READINGS, OutputReading, Truth
from potstill.measure import quality
from potstill.perturbations import PerturbationName, Severity, perturbed
from potstill.perturbations.settings import RobustnessSettings
from potstill.records import Attacks
from potstill.runtimes.predictor import Outputs, Predictor, held

MODELS = ("teacher", "student", "baseline")
"""Those that are measured here."""
SALT = "robustness"
Advance = Callable[[int], object]


@runtime_checkable
class ClassAnswers(Protocol):
    """The answers to the test rows, of one class or of several labels."""

    @property
    def outputs(self) -> Mapping[str, Outputs]:
        """Of each model, rows x classes."""
        ...

    @property
    def weights(self) -> quality.Weights:
        """Resamples of the rows."""
        ...


@dataclass(frozen=True)
class OtherTexts:
    """Token ids of the texts that models with one tokenizer are asked about."""

    blocks: Sequence[EncodedRows]
    """The sampled rows as they are, and then changed in each way; empty where none is to be changed."""
    outside: EncodedRows | None
    """Rows out of domain, where there are some."""

    def __len__(self) -> int:
        return sum(len(each.ids) for each in (*self.blocks, *([self.outside] if self.outside else [])))


@dataclass(frozen=True)
class Told:
    """What one model answers."""

    blocks: Sequence[Outputs]
    outcomes: Sequence[Outcome]
    """Of the attacks."""
    ends: Outputs | None
    """To the texts with which they ended."""
    outside: Outputs | None


def beside_the_test(case: Case, predictors: Mapping[str, Predictor], answers: ClassAnswers) -> dict[str, Any]:
    """The fields of an `EvaluateRecord` that say how models answer to other texts than the test rows, to which
    `answers` are."""
    settings = case.recipe.evaluate.robustness
    if settings is None and not case.out_of_domain:
        return {}
    sample = sampled_rows(case)
    reading = READINGS[case.recipe.task.answers]
    texts: dict[int, OtherTexts] = {}
    models = {name: predictors[name] for name in MODELS if name in predictors}
    for predictor in models.values():
        if id(predictor.tokenizer) not in texts:
            texts[id(predictor.tokenizer)] = _texts(case, predictor.tokenizer, sample)
    attacked = sample[: settings.attacks] if settings else []
    total = sum(len(texts[id(each.tokenizer)]) + len(attacked) for each in models.values())
    with case.progress.task("evaluate: other texts", total, "rows") as advance:
        # One model after the other, so that each is loaded once.
        told = {
            name: _told(case, predictor, texts[id(predictor.tokenizer)], attacked, reading, advance)
            for name, predictor in models.items()
        }
    found: dict[str, Any] = {}
    if settings is not None:
        truth = texts[id(predictors["teacher"].tokenizer)].blocks[0].labels
        found["robustness"] = figures.robustness(
            reading,
            truth,
            {name: each.blocks for name, each in told.items()},
            ways(settings),
            quality.bootstrap_weights(len(sample), seed=case.recipe.seed),
        )
        if attacked:
            update = {"attacks": _attacks(case, reading, settings, attacked, truth, told)}
            found["robustness"] = found["robustness"].model_copy(update=update)
    if case.out_of_domain:
        outside = {name: each.outside for name, each in told.items() if each.outside is not None}
        resamples = quality.bootstrap_weights(len(case.out_of_domain), seed=case.recipe.seed + 1)
        found["out_of_domain"] = figures.out_of_domain(
            reading, str(case.recipe.evaluate.out_of_domain), answers.outputs, outside, answers.weights, resamples
        )
    return found


def sampled_rows(case: Case) -> list[Any]:
    """The test rows that are changed, by stable hash."""
    settings = case.recipe.evaluate.robustness
    return [] if settings is None else stable_order(case.test, lambda row: row.id, salt=SALT)[: settings.rows]


def ways(settings: RobustnessSettings) -> list[tuple[PerturbationName, Severity]]:
    """Each perturbation at each severity."""
    return [(name, severity) for name in settings.perturbations for severity in settings.severities]


def changed(row: Row, name: str, severity: Severity) -> Row:
    """A row of which each text is changed."""
    texts = (perturbed(text, name, severity, f"{row.id}\0{number}") for number, text in enumerate(row.texts))
    return with_texts(row, tuple(texts))


def _texts(case: Case, tokenizer: PreTrainedTokenizerBase, sample: Sequence[Row]) -> OtherTexts:
    return OtherTexts(
        blocks=list(_blocks(case, tokenizer, sample)),
        outside=_encoded(case, tokenizer, case.out_of_domain) if case.out_of_domain else None,
    )


def _blocks(case: Case, tokenizer: PreTrainedTokenizerBase, sample: Sequence[Row]) -> Iterator[EncodedRows]:
    settings = case.recipe.evaluate.robustness
    if settings is None:
        return
    yield _encoded(case, tokenizer, sample)
    for name, severity in ways(settings):
        yield _encoded(case, tokenizer, [changed(row, name, severity) for row in sample])


def _encoded(case: Case, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> EncodedRows:
    assert case.encode_rows is not None
    encoded = case.encode_rows(tokenizer, rows)
    assert isinstance(encoded, EncodedRows)
    return encoded


def _told(
    case: Case,
    predictor: Predictor,
    texts: OtherTexts,
    attacked: Sequence[Row],
    reading: OutputReading,
    advance: Advance,
) -> Told:
    asker = Asker(predictor)

    def outputs(rows: EncodedRows) -> Outputs:
        found = asker.outputs(rows)
        advance(len(rows.ids))
        return found

    def answers(asked: Sequence[tuple[int, Texts]]) -> Answers:
        rows = encoded([with_texts(attacked[number], changed) for number, changed in asked])
        found = asker.outputs(rows)
        return Answers(reading.probability(found, rows.labels), reading.right(found, rows.labels))

    def encoded(rows: Sequence[Row]) -> EncodedRows:
        return _encoded(case, predictor.tokenizer, rows)

    with held(predictor):
        blocks = [outputs(block) for block in texts.blocks]
        outcomes = run_attacks(_begun(case, attacked), answers, advance)
        ended = [with_texts(row, outcome.texts) for row, outcome in zip(attacked, outcomes, strict=True)]
        return Told(
            blocks=blocks,
            outcomes=outcomes,
            ends=asker.outputs(encoded(ended)) if ended else None,
            outside=None if texts.outside is None else outputs(texts.outside),
        )


def _begun(case: Case, rows: Sequence[Row]) -> list[Attack]:
    settings = case.recipe.evaluate.robustness
    if settings is None:
        return []
    limits = Limits(settings.queries, settings.max_changed_words)
    return [attack(row.texts, limits, Random(f"{row.id}\0attack")) for row in rows]


def _attacks(
    case: Case,
    reading: OutputReading,
    settings: RobustnessSettings,
    rows: Sequence[Row],
    truth: Truth,
    told: Mapping[str, Told],
) -> Attacks:
    names, came = case.class_names, {name: each.outcomes for name, each in told.items()}
    answers = {
        name: [reading.named(output, names) for output in each.ends]
        for name, each in told.items()
        if each.ends is not None
    }
    truths = [reading.truth_named(each, names) for each in truth[: len(rows)]]
    return Attacks(
        rows=len(rows),
        queries=settings.queries,
        max_changed_words=settings.max_changed_words,
        models=outcomes.of_models(came, quality.bootstrap_weights(len(rows), seed=case.recipe.seed)),
        examples=outcomes.examples(rows, truths, came, answers),
    )
