"""The forms in which a student can be shipped: each judged as the student was, in its own runtime."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.evaluation.answers import measured_by
from potstill.evaluation.case import Case
from potstill.evaluation.costs import costs_of
from potstill.evaluation.evaluate import side_by_side
from potstill.evaluation.judges import JUDGES
from potstill.evaluation.kept_rows import KeptRows, ModelRows, kept_rows
from potstill.evaluation.metrics import ON_OTHER_TEXTS, metric
from potstill.recipe import GateSettings
from potstill.recipe.writing_judges import ServerJudge
from potstill.records import Artefact, EvaluateRecord, ExportRecord, GateRecord, MeasuredForm
from potstill.runtimes.predictor import Advance, Outputs, Predictor, release_all

Encode = Callable[[PreTrainedTokenizerBase], Encoded]


@dataclass(frozen=True)
class Form:
    """A model in a form that can be shipped."""

    source: str
    """The name of the model that it was made of."""
    predictor: Predictor


@dataclass(frozen=True)
class JudgedForm:
    """What was measured of it."""

    evaluation: EvaluateRecord
    """In which it is the student."""
    agreement_with_source: float | None
    answers: ModelRows


def rows_of(case: Case, judged: Mapping[str, JudgedForm]) -> KeptRows:
    """What each form answers to each test row; the texts lie beside what the models themselves answered."""
    return kept_rows(case, {name: form.answers for name, form in judged.items()}, with_texts=False)


def judge_forms(
    case: Case, models: Mapping[str, Predictor], forms: Mapping[str, Form], device: str
) -> dict[str, JudgedForm]:
    """Each form on all test rows, against the teacher as it was, and the baseline where `models` has one.

    Teacher, student and all forms are timed together, in alternated rounds.
    """
    case = _encoded_once(_judged_as_required(case))
    asked = {name: cast(Predictor, _AskedOnce(model)) for name, model in models.items()}
    judge, kind = JUDGES[case.recipe.task.answers], case.recipe.task.answers
    timed = {name: models[name] for name in models} | {name: form.predictor for name, form in forms.items()}
    found: dict[str, tuple[Any, Any, Mapping[str, Any]]] = {}
    rows: dict[str, ModelRows] = {}
    answers: Any = None
    for name, form in forms.items():
        own = cast(Predictor, _AskedOnce(form.predictor))
        answers = judge.answers_of_form(case, {**asked, "student": own}, answers)
        # To the teacher every form is compared anyway.
        of_teacher = form.source == "teacher"
        agreement = answers.agreement("student") if of_teacher else judge.agreement_of(case, asked[form.source], own)
        rows[name] = judge.kept(case, answers, "student")
        others: Mapping[str, Any] = {}
        if _asks_of_other_texts(case):
            # Not from memory, which what is asked there would fill.
            others = judge.beside(case, {**models, "student": form.predictor}, answers)
        found[name] = answers, agreement, others
        # One form at a time is in memory, beside the models.
        form.predictor.release()
    release_all(timed.values())
    costs = costs_of(case, timed, judge.queries(case), device)
    judged = {}
    for name, (answers, agreement, others) in found.items():
        again, as_student = judge.judged_again(case, answers), costs | {"student": costs[name]}
        record = side_by_side(case, again, measured_by(answers, kind), as_student, device, **others)
        judged[name] = JudgedForm(record, agreement.all_rows.value if agreement else None, rows[name])
    return judged


def measured_if_required(gate: GateSettings) -> list[str]:
    """What costs much, and is measured of forms only because this gate requires it."""
    needed = {metric(each.metric).needs for each in gate.requirements()}
    return sorted(each for each in (*ON_OTHER_TEXTS, "judge") if each in needed)


def _asks_of_other_texts(case: Case) -> bool:
    """Whether the gate requires something that is measured on other texts than the test rows."""
    return any(each in ON_OTHER_TEXTS for each in measured_if_required(case.recipe.gate))


def _judged_as_required(case: Case) -> Case:
    """Without a judge that costs money or hours, where the gate requires nothing that it measures."""
    settings = case.recipe.evaluate
    if not isinstance(settings.judge, ServerJudge) or "judge" in measured_if_required(case.recipe.gate):
        return case
    without = settings.model_copy(update={"judge": None})
    return replace(case, recipe=case.recipe.model_copy(update={"evaluate": without}))


def _encoded_once(case: Case) -> Case:
    """Rows that are encoded again are the same rows, by which answers are known."""
    known: dict[tuple[str, int], Encoded] = {}

    def once(name: str, encode: Encode) -> Encode:
        def encoded(tokenizer: PreTrainedTokenizerBase) -> Encoded:
            key = name, id(tokenizer)
            if key not in known:
                known[key] = encode(tokenizer)
            return known[key]

        return encoded

    validation = case.encode_validation and once("validation", case.encode_validation)
    return replace(case, encode=once("test", case.encode), encode_validation=validation)


class _AskedOnce:
    """A predictor that is asked about the same rows by several forms, and answers and writes from memory after the
    first."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._known: dict[int, tuple[Encoded, Outputs]] = {}
        self._written: dict[object, list[list[int]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        # The rows are held with what was answered, so that no others get their number.
        if id(rows) not in self._known:
            self._known[id(rows)] = rows, self._predictor.outputs(rows, advance)
        return self._known[id(rows)][1]

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        key = tuple((row.id, prompt.tobytes()) for row, prompt in zip(rows, prompts, strict=True))
        asked = key, new_tokens, frozenset(ends)
        if asked in self._written:
            advance(len(rows))
        else:
            self._written[asked] = self._predictor.write_all(rows, prompts, new_tokens, ends, advance)
        return self._written[asked]


def better_rival(artefacts: list[Artefact], rivals: list[Artefact], primary: str) -> str | None:
    """Of a teacher that in one of these forms is at least as good, as fast and as small as each form of the student."""
    measured = [each for each in artefacts if each.model is not None]
    for rival in rivals:
        if measured and all(_as_good_in_all(rival, each, primary) for each in measured):
            return (
                f"The teacher itself as {rival.name} answers better, faster and smaller than every form of the student "
                f"that was exported: ship it ({rival.folder}). A student must be smaller to be worth its training."
            )
    return None


def _as_good_in_all(rival: Artefact, artefact: Artefact, primary: str) -> bool:
    one, other = rival.model, artefact.model
    assert one is not None and other is not None
    return (
        one.score(primary).value >= other.score(primary).value
        and one.latency_p50_ms <= other.latency_p50_ms
        and rival.size_bytes <= artefact.size_bytes
    )


def artefact_of(artefact: Artefact, form: MeasuredForm, verdict: GateRecord, rival: MeasuredForm | None) -> Artefact:
    """The artefact with what was measured of it; `rival` is the teacher in the same form."""
    record = form.evaluation
    assert record is not None
    model = record.models["student"]
    of_rival = rival and rival.evaluation and rival.evaluation.models["student"].latency_p50_ms
    return artefact.model_copy(
        update={
            "passed": artefact.passed and verdict.passed,
            "agreement_with_source": form.agreement_with_source,
            "model": model,
            "retention": record.retention,
            "drop_points": record.drop_points,
            "speedup": record.speedup,
            "speedup_over_rival": of_rival and of_rival / model.latency_p50_ms,
            "checks": verdict.checks,
        }
    )


def with_best(record: ExportRecord) -> ExportRecord:
    """With the names of the smallest and the fastest artefact that passed."""
    passed = [each for each in record.artefacts if each.passed]
    timed = {each.name: each.model.latency_p50_ms for each in passed if each.model is not None}
    return record.model_copy(
        update={
            "smallest": min(passed, key=lambda each: each.size_bytes).name if passed else None,
            "fastest": min(timed, key=lambda name: timed[name]) if timed else None,
        }
    )
