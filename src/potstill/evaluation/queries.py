"""The test rows by which speed is measured, and whether there are enough of them for what the gate asks."""

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from potstill.data.fields import MOST_LISTED, shown
from potstill.data.rows import labelled_rows
from potstill.data.splits import stable_order
from potstill.data.tag_schemes import OUTSIDE
from potstill.errors import DataError, RecipeError
from potstill.evaluation.calibration import FEWEST_DECISIONS
from potstill.evaluation.case import Case
from potstill.evaluation.checks import PERCENTILES, unfit_unit
from potstill.evaluation.judged_writing.required import require_judge, require_judged
from potstill.evaluation.metrics import FEWEST_ROWS, Metric, metric, metric_for
from potstill.evaluation.slices import field_values
from potstill.models import most_tokens
from potstill.perturbations.words import BOILERPLATE
from potstill.recipe import GateSettings
from potstill.recipe.requirements import Requirement
from potstill.records import QUERIES_OF_A_PERCENTILE, AnswerKind
from potstill.tasks.generative import generative
from potstill.teachers import Routed

PLAIN_PROMPT = 16
"""Tokens of a plain text, which has no prompt, that stand for one: speed does not depend on which they are."""

TokenIds = tuple[int, ...]


def prompted_rows(
    case: Case, tokenizer: PreTrainedTokenizerBase, count: int, *, salt: str
) -> list[tuple[Any, TokenIds]]:
    """Test rows that have a prompt, by stable hash, with its token ids. They are the same for each tokenizer."""
    task = generative(case.recipe.task)
    prompts = task.prompts(tokenizer)
    others = [task.prompts(each) for each in (case.tokenizer, case.own_tokenizer) if each and each is not tokenizer]
    prompted = [row for row in case.test if prompts.asks(row)]
    chosen: list[tuple[Any, TokenIds]] = []
    for row in stable_order(prompted, lambda row: row.id, salt=salt):
        if len(chosen) == count:
            break
        ids = prompts.last(row)
        if prompts.room(ids) > 0 and all(other.room(other.last(row)) > 0 for other in others):
            chosen.append((row, tuple(ids.tolist())))
    return chosen


def timed_prompts(case: Case, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenIds, ...]:
    """What a language model with this tokenizer is shown where its speed is measured, with room for what it writes."""
    prompts = _prompts(case, tokenizer) or [ids[:PLAIN_PROMPT] for ids in _plain_texts(case, tokenizer)]
    most = room_after((), case)
    apart = case.config.is_encoder_decoder
    return tuple(ids if most is None or apart else ids[-(most - new_tokens(case)) :] for ids in prompts)


def whole_prompts(case: Case, tokenizer: PreTrainedTokenizerBase) -> Sequence[TokenIds]:
    """What prompts of a set length are made of: the prompts of as many test rows, or plain texts as they are."""
    return _prompts(case, tokenizer) or _plain_texts(case, tokenizer)


def _prompts(case: Case, tokenizer: PreTrainedTokenizerBase) -> Sequence[TokenIds]:
    return [ids for _, ids in prompted_rows(case, tokenizer, case.recipe.evaluate.prompts, salt="latency")]


def _plain_texts(case: Case, tokenizer: PreTrainedTokenizerBase) -> Sequence[TokenIds]:
    examples = generative(case.recipe.task).encode(case.test, tokenizer).examples
    return [tuple(examples[number].ids.tolist()) for number in range(min(case.recipe.evaluate.prompts, len(examples)))]


def new_tokens(case: Case) -> int:
    """What a language model writes after each prompt where its speed is measured: the first token, and one more."""
    return max(2, case.recipe.evaluate.new_tokens)


def room_after(prompt: TokenIds, case: Case, of: PretrainedConfig | None = None) -> int | None:
    """How many tokens a model has positions for after a prompt, the teacher if no other; None where positions are
    computed."""
    config = of or case.config
    most = most_tokens(config)
    return None if most is None else most - (0 if config.is_encoder_decoder else len(prompt))


def require_measurable(case: Case) -> None:
    """What evaluate would find out after training, and the recipe and the rows already say.

    Raises:
        RecipeError: the gate requires what is not measured of this task or by this recipe, has no interval or never
            such a value; a percentile that too few queries would stand behind; slices by a field that no test row has;
            no positions are left for what a language model is to write; or a batch size or length at which speed cannot
            be measured.
    """
    for field in case.recipe.evaluate.slices:
        _require_field(case, field)
    writes, settings = case.recipe.task.generative, case.recipe.evaluate
    most = room_after((), case)
    if writes and most is not None and new_tokens(case) >= most:
        raise RecipeError(
            f"evaluate.new_tokens: {new_tokens(case)} tokens are to be written after a prompt, and this "
            f"{case.config.model_type} model has positions for {most}. Lower it."
        )
    _require_points(case)
    _require_one_domain(case)
    _require_read_out_of_domain(case)
    _require_outside(case)
    require_judge(case)
    for requirement in case.recipe.gate.requirements():
        required = _require_measured(case, requirement)
        if (unfit := unfit_unit(requirement, required)) is not None:
            raise RecipeError(f"gate.{requirement.key}: {unfit}")
        _require_possible(requirement, required)
        _require_confidence(case, requirement, required)
        _require_temperature(case, requirement, required)
        percentile = PERCENTILES.get(requirement.metric)
        if percentile is None:
            continue
        needed, test = QUERIES_OF_A_PERCENTILE[percentile], len(case.test)
        timed = len(timed_prompts(case, case.tokenizer)) if writes else min(settings.latency_rows, test)
        if timed < needed:
            key = "evaluate.prompts" if writes else "evaluate.latency_rows"
            asked = settings.prompts if writes else settings.latency_rows
            raise RecipeError(
                f"gate.{requirement.key}: a {percentile}th percentile needs {needed} queries, and {timed} would be "
                f"timed ({key} is {asked}, data.test has {test} rows). Raise {key}, add rows to data.test, or drop the "
                "threshold."
            )


def _require_points(case: Case) -> None:
    """That speed can be measured at the batch sizes and lengths that the recipe names."""
    settings, task, test = case.recipe.evaluate, case.recipe.task, len(case.test)
    timed = min(settings.latency_rows, test)
    for size in settings.batch_sizes:
        if size > timed:
            raise RecipeError(
                f"evaluate.batch_sizes: {size} rows are more than the {timed} that are timed (evaluate.latency_rows is "
                f"{settings.latency_rows}, data.test has {test}). Lower it, or raise evaluate.latency_rows."
            )
    for length in settings.lengths:
        if length > task.max_length:
            raise RecipeError(
                f"evaluate.lengths: {length} tokens, and no more than {task.max_length} are read (task.max_length). "
                "Lower it, or raise task.max_length."
            )
        rooms = [room_after((), case, config) for config in (case.config, case.own_config) if config is not None]
        room = min((room for room in rooms if room is not None), default=None)
        if task.generative and not case.config.is_encoder_decoder and room is not None:
            if length + new_tokens(case) > room:
                raise RecipeError(
                    f"evaluate.lengths: after {length} tokens {new_tokens(case)} are to be written "
                    f"(evaluate.new_tokens), and there are positions for {room}. Lower one of the two."
                )
        elif not task.generative and length < (least := _least_tokens(case)):
            raise RecipeError(
                f"evaluate.lengths: {length} tokens have no room for a text beside those that stand around it. Give "
                f"{least} or more."
            )


def _least_tokens(case: Case) -> int:
    """Of a text of one token; of a pair twice as many as stand around it, for its first text has half of them."""
    pairs = any(len(getattr(row, "texts", ())) > 1 for row in case.test)
    around = int(case.tokenizer.num_special_tokens_to_add(pair=pairs))
    return 2 * max(1, around) if pairs else around + 1


def why_not_asked(case: Case) -> str | None:
    """Why no queries are put to these models, though the recipe has some; None where they are, or it has none."""
    settings, teacher = case.recipe.evaluate.robustness, case.recipe.teacher
    if settings is None or settings.unanswerable is None:
        return "the recipe asks none (evaluate.robustness.unanswerable)"
    if not case.recipe.task.templated:
        return f"they are put to chat models, and this is {case.recipe.task.kind}"
    if isinstance(teacher, Routed) and teacher.by == "domain":
        return "teachers that are routed by domain answer rows of the data alone"
    tokenizers = {"teacher": case.tokenizer, "student": case.student_tokenizer}
    for name, tokenizer in tokenizers.items():
        if not tokenizer.chat_template:
            return f"the tokenizer of the {name} has no chat template"
    return None


def _require_one_domain(case: Case) -> None:
    """That what answers by the domain of a row is asked about rows of the data alone, and about each of them once."""
    teacher, settings = case.recipe.teacher, case.recipe.evaluate
    if not (isinstance(teacher, Routed) and teacher.by == "domain"):
        return
    where = "out_of_domain" if settings.out_of_domain is not None else "robustness.attacks"
    if settings.out_of_domain is not None or (settings.robustness and settings.robustness.attacks):
        fix = "Drop it" if settings.out_of_domain is not None else "Set it to 0"
        raise RecipeError(
            f"evaluate.{where}: teachers that are routed by domain answer test rows alone, each once. {fix}, or route "
            "by confidence."
        )


def _require_outside(case: Case) -> None:
    """That words which are brought to a document have a tag."""
    settings = case.recipe.evaluate.robustness
    brought = set(BOILERPLATE) & set(settings.perturbations) if settings else set()
    if case.recipe.task.windows and brought and OUTSIDE not in case.class_names:
        raise RecipeError(
            f"evaluate.robustness.perturbations: {' and '.join(sorted(brought))} bring words that are outside of all "
            f"entities, and no row of data.train has the tag {OUTSIDE}. Leave them out."
        )


def _require_read_out_of_domain(case: Case) -> None:
    """That language models can read rows out of domain, which must have something to be said."""
    if not (case.recipe.task.generative and case.out_of_domain):
        return
    assert case.encode_rows is not None
    try:
        case.encode_rows(case.tokenizer, case.out_of_domain)
    except DataError as error:
        raise RecipeError(f"evaluate.out_of_domain: {error}") from None


def _require_measured(case: Case, requirement: Requirement) -> Metric:
    """The metric that is required, which this task must have and this recipe measure."""
    found = metric_for(requirement.metric, case.recipe.task.answers)
    if isinstance(found, str):
        raise RecipeError(f"gate.{requirement.key}: {found}")
    if found.needs_baseline and not case.recipe.train.baseline:
        raise RecipeError(
            f"gate.{requirement.key}: {found.words} is measured against the baseline, which train.baseline: false "
            "leaves out. Drop one of the two."
        )
    if found.of_writing and not case.recipe.evaluate.written:
        raise RecipeError(
            f"gate.{requirement.key}: {found.words} is measured after the prompts that evaluate.written counts, and it "
            "is 0. Raise it, or drop the threshold."
        )
    if found.needs is not None and _rows_behind(case, found) == 0:
        raise RecipeError(
            f"gate.{requirement.key}: needs evaluate.{found.needs}, {_WHAT_IT_IS[found.needs]}, and the recipe does "
            "without. Give it, or drop the threshold."
        )
    require_judged(case, requirement, found)
    return found


_WHAT_IT_IS = {
    "robustness": "which changes test rows (robustness: {} for all of it)",
    "robustness.attacks": "the number of test rows that are attacked",
    "robustness.unanswerable": "which are queries for chat models",
    "judge": "who says of what models write whether it is right or as good as the teacher's",
    "out_of_domain": "a file of texts of another kind than the data",
    "expenses.price_per_hour": "what an hour of a process that answers costs",
    "expenses.watts": "what a process that answers draws",
}


def _rows_behind(case: Case, required: Metric) -> int:
    """How many rows a metric is measured on; none where the recipe does without it."""
    settings, test = case.recipe.evaluate.robustness, len(case.test)
    match required.needs:
        case None:
            return test
        case "expenses.price_per_hour" | "expenses.watts":
            expenses = case.recipe.evaluate.expenses
            return test if getattr(expenses, required.needs.partition(".")[2], None) is not None else 0
        case "out_of_domain":
            return min(test, len(case.out_of_domain))
        case "judge":
            return case.recipe.evaluate.written if case.recipe.evaluate.judge else 0
        case "robustness":
            return min(test, settings.rows) if settings else 0
        case "robustness.attacks":
            return min(test, settings.rows, settings.attacks) if settings else 0
        case "robustness.unanswerable":
            return len(case.unanswerable) if why_not_asked(case) is None else 0


def _require_possible(requirement: Requirement, required: Metric) -> None:
    """That a student can have such a value, and another not."""
    sign, threshold, amount = requirement.sign, requirement.threshold, requirement.amount
    if threshold > required.ceiling or (sign == ">" and threshold == required.ceiling):
        never = f"is a share and {'never' if required.ceiling == 1 else 'of no student'} above {required.ceiling:g}"
        meant = f" If {amount} % is meant, write {threshold / 100:g}." if requirement.unit is None else ""
        raise RecipeError(
            f"gate.{requirement.key}: {required.words} {never}, so '{sign} {amount}' tells nothing.{meant}"
        )
    if not required.below_zero and (threshold < 0 or (sign == "<" and threshold == 0)):
        who = "every student meets" if requirement.from_below else "no student meets"
        raise RecipeError(
            f"gate.{requirement.key}: {required.words} is never below 0, so {who} '{sign} {amount}'. "
            "Raise the threshold, or drop it."
        )


def _require_confidence(case: Case, requirement: Requirement, required: Metric) -> None:
    """That there is an interval to trust, where it must hold with confidence."""
    if not requirement.confident:
        return
    if not required.has_interval:
        raise RecipeError(
            f"gate.{requirement.key}: {required.words} is measured without an interval, so nothing of it holds with "
            f"95 % confidence. Write '{requirement.sign} {requirement.amount}'."
        )
    by_prompt = required.of_writing or required.needs == "judge"
    if by_prompt and (written := case.recipe.evaluate.written) < FEWEST_ROWS:
        raise RecipeError(
            f"gate.{requirement.key}: nothing of fewer than {FEWEST_ROWS} prompts holds with 95 % confidence, and "
            f"evaluate.written is {written}. Raise it, or write '{requirement.sign} {requirement.amount}'."
        )
    if len(case.test) < FEWEST_ROWS:
        raise RecipeError(
            f"gate.{requirement.key}: nothing of fewer than {FEWEST_ROWS} test rows holds with 95 % confidence, and "
            f"data.test has {len(case.test)}. Add rows, or write '{requirement.sign} {requirement.amount}'."
        )
    if required.needs is not None and (rows := _rows_behind(case, required)) < FEWEST_ROWS:
        raise RecipeError(
            f"gate.{requirement.key}: nothing of fewer than {FEWEST_ROWS} rows holds with 95 % confidence, and "
            f"evaluate.{required.needs} has {rows}. Add rows, or write "
            f"'{requirement.sign} {requirement.amount}'."
        )


def _require_temperature(case: Case, requirement: Requirement, required: Metric) -> None:
    """That there is enough to fit a temperature on, where the metric is measured with one."""
    if not required.needs_temperature:
        return
    rows = labelled_rows(case.splits["validation"].rows)
    each = {"multi_label": lambda row: len(case.class_names), "tags": lambda row: len(row.tokens)}
    counted = each.get(case.recipe.task.answers, lambda row: 1)
    decisions = sum(map(counted, rows))
    if decisions < FEWEST_DECISIONS:
        raise RecipeError(
            f"gate.{requirement.key}: {required.words} needs {FEWEST_DECISIONS} labelled decisions on data.validation "
            f"to fit a temperature on, and there are {decisions}. Add labelled rows to data.validation, or drop the "
            "threshold."
        )


def _require_field(case: Case, field: str) -> None:
    """That test rows have the field by which they are to be told apart."""
    if any(value is not None for value in field_values(case.test, field)):
        return
    notes = case.splits["test"].notes or case.splits["train"].notes
    there = sorted(notes.unread) if notes else []
    if field in case.recipe.data.ignore:
        fix = "data.ignore leaves it out; drop it there or here."
    elif there:
        fix = f"Fields that are there and not read: {', '.join(map(shown, there[:MOST_LISTED]))}."
    else:
        fix = "Name a field of the rows, or drop it."
    raise RecipeError(f"evaluate.slices: no row of data.test has a value of {shown(field)}. {fix}")


def thresholds_upside_down(settings: GateSettings, answers: AnswerKind) -> Iterator[str]:
    """Warnings of thresholds that the worst students meet, and the best may not."""
    for requirement in settings.requirements():
        judged = metric(requirement.metric)
        if judged.better is None or requirement.from_below == (judged.better == "higher"):
            continue
        way, sign = ("more", ">=") if judged.better == "higher" else ("less", "<=")
        yield (
            f"gate.{requirement.key}: '{requirement}' passes the worst students, since {way} "
            f"{judged.named(answers)} is better. Should it be '{sign} {requirement.amount}'?"
        )
