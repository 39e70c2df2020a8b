"""What an evaluation means, in sentences: first of all whether the teacher was worth following."""

from collections.abc import Sequence

from potstill.evaluation.answers import CAME
from potstill.evaluation.metrics import FEWEST_ROWS, Unit, metric, name_in_words
from potstill.evaluation.references import is_beaten, not_beaten
from potstill.evaluation.robustness.findings import findings_on_other_texts
from potstill.evaluation.wording import WORDING
from potstill.records import Comparison, Estimate, EvaluateRecord
from potstill.teachers.self_taught import ROUND, is_round

ONE_SEED = "from one seed; another may differ"
AS_ITS_TEACHER = 1e-6
"""Nats a token: more than rounding in float32 leaves between a model and its copy, and too little to tell."""


def findings(evaluation: EvaluateRecord, members: Sequence[str] = ()) -> list[str]:
    """Sentences for the report, the worst news first. What compares models follows from intervals.

    `members` are those of several teachers that answer every row.
    """
    primary = name_in_words(evaluation.primary_metric)
    weak = weak_teacher(evaluation)
    found = [weak] if weak else []
    found.extend(line for name in members for line in _of_member(evaluation, name))
    found.extend(_of_few_rows(evaluation))
    found.extend(_of_teacher(evaluation))
    found.extend(_of_floors(evaluation))
    found.extend(_of_baseline(evaluation))
    found.extend(_of_start(evaluation))
    found.extend(_of_tokens(evaluation))
    found.extend(_of_other_tokens(evaluation))
    found.extend(_of_generations(evaluation))
    found.extend(_of_types(evaluation))
    found.extend(_of_changed_texts(evaluation))
    found.extend(findings_on_other_texts(evaluation))
    drop = evaluation.drop_points
    found.append(
        f"The student keeps {evaluation.retention.value:.1%} of the teacher's {primary} "
        f"(drop {drop.value:z.1f} points, 95 % interval {drop.low:z.1f} to {drop.high:z.1f}) "
        f"and answers {evaluation.speedup:.1f} times as fast."
    )
    return found


def weak_teacher(evaluation: EvaluateRecord) -> str | None:
    """Of a teacher that is no better than what answers without looking, or than the simplest model: what it fails."""
    failed = not_beaten(evaluation)
    if not failed:
        return None
    by_metric = {
        name: [f"{each.name} ({shown(name, each.value)})" for each in failed if each.metric == name]
        for name in dict.fromkeys(each.metric for each in failed)
    }
    sentence = "; ".join(
        f"{name_in_words(name)} {shown(name, next(each.teacher for each in failed if each.metric == name))} is no "
        f"better than {' or '.join(others)}"
        for name, others in by_metric.items()
    )
    return (
        f"The teacher's {sentence}: nothing can be learnt from it. Adapt it longer or on more rows, or choose another; "
        "gate.allow_weak_teacher: true judges its student all the same."
    )


def _of_member(evaluation: EvaluateRecord, name: str) -> list[str]:
    """One of several teachers that is no better than what all of them together must beat: the others may hide it."""
    model = evaluation.models[name]
    for reference in evaluation.references:
        known = metric(reference.metric)
        found = known.of_model(model)
        value = found.value if isinstance(found, Estimate) else found
        if value is not None and not known.is_better(value, reference.value):
            return [
                f"Of the teachers, {name} has {known.words} {shown(known.name, value)}, no better than "
                f"{reference.name} ({shown(known.name, reference.value)}): it draws the others away from what is "
                "right. Adapt it, give its classes their right names, or leave it out of teacher.of."
            ]
    return []


def shown(name: str, value: float) -> str:
    """A value of a metric: a share in per cent, all else with four digits."""
    return f"{value:.1%}" if metric(name).unit is Unit.SHARE else digits(value)


def margin_unit(name: str) -> str:
    """In what the lead in a metric is told: of shares in points, of perplexities by their cross-entropies."""
    return "points" if metric(name).unit is Unit.SHARE else "nats a token"


def digits(value: float) -> str:
    """Four digits, and large numbers whole."""
    return f"{value:z.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _of_few_rows(evaluation: EvaluateRecord) -> list[str]:
    if evaluation.test_rows >= FEWEST_ROWS:
        return []
    rows = "row" if evaluation.test_rows == 1 else "rows"
    return [
        f"The test has {evaluation.test_rows} {rows}, and what differs on fewer than {FEWEST_ROWS} can be chance: no "
        "difference between the models counts as measured. Add rows to data.test."
    ]


def _sure(evaluation: EvaluateRecord, difference: Estimate) -> int:
    """1 where a difference is above zero, -1 where it is below, and 0 where it may be chance."""
    if evaluation.test_rows < FEWEST_ROWS:
        return 0
    return int(difference.low > 0) - int(difference.high < 0)


def _span(points: Estimate) -> str:
    return f"{points.value:+z.1f} points, 95 % interval {points.low:+z.1f} to {points.high:+z.1f}"


def _of_teacher(evaluation: EvaluateRecord) -> list[str]:
    """Whether the teacher can have been worth following."""
    found = []
    scores = {name: evaluation.primary(name).value for name in evaluation.models}
    pair = _comparison(evaluation, "baseline", "teacher")
    points = None if pair is None else pair.points(evaluation.primary_metric)
    if points is not None and points.value > 0:
        sure = _sure(evaluation, points) > 0
        found.append(
            f"The teacher ({scores['teacher']:.1%}) is {'worse' if sure else 'not measurably better'} than the small "
            f"model trained on hard labels alone ({scores['baseline']:.1%}; {_span(points)}): following it "
            f"{'cannot' if sure else 'may not'} pay ({ONE_SEED}). Adapt it longer or on more rows, or choose another."
        )
    for reference in evaluation.references:
        if is_beaten(reference) and reference.margin is not None and _sure(evaluation, reference.margin) == 0:
            margin = reference.margin
            name = reference.metric
            found.append(
                f"The teacher's {name_in_words(name)} ({shown(name, reference.teacher)}) is not measurably better than "
                f"{reference.name} ({shown(name, reference.value)}): the 95 % interval of the difference is "
                f"{margin.low:+z.2g} to {margin.high:+z.2g} {margin_unit(name)}."
            )
    return found


def _of_floors(evaluation: EvaluateRecord) -> list[str]:
    """Where the simpler model serves better than the student, and where there is none to tell."""
    found = []
    kind = f"{WORDING[evaluation.answers].floor} regression"
    floor = evaluation.floors.get("student_labels")
    if floor is not None and floor.margin is not None and _sure(evaluation, floor.margin) < 0:
        found.append(
            f"The student ({evaluation.primary('student').value:.1%}) is below TF-IDF with {kind} on the same labelled "
            f"rows ({floor.score(evaluation.primary_metric):.1%}; {_span(floor.margin)}): that simpler model serves "
            f"better ({ONE_SEED})."
        )
    for name, reason in evaluation.floors_missing.items():
        found.append(f"There is no TF-IDF floor on the labelled rows of the {name.removesuffix('_labels')}: {reason}.")
    return found


def _comparison(evaluation: EvaluateRecord, of: str, against: str) -> Comparison | None:
    return next((each for each in evaluation.comparisons if (each.of, each.against) == (of, against)), None)


def _of_baseline(evaluation: EvaluateRecord) -> list[str]:
    """Whether distilling paid: the student against the same one on hard labels alone."""
    found = []
    pair, primary = _comparison(evaluation, "student", "baseline"), evaluation.primary_metric
    macro = pair.macro_f1_points if pair is not None else None
    lost = macro is not None and _sure(evaluation, macro) < 0
    if pair is not None and macro is not None and lost and _sure(evaluation, pair.points(primary)) >= 0:
        found.append(
            "Distilling lost in macro-F1, which counts rare classes as much as others: the student is "
            f"{_apart(macro)} from the same student on hard labels alone ({ONE_SEED}). "
            f"The teacher's own is {evaluation.models['teacher'].macro_f1 or 0.0:.3f}; one that knows the rare classes "
            "better would pass that on."
        )
    gain = evaluation.gain_over_baseline_points
    # A language model is judged by its distributions; its likeliest token alone says little.
    if gain is None or evaluation.test_tokens is not None:
        return found
    apart = f"the student is {_apart(gain)} from the same student on hard labels alone"
    match _sure(evaluation, gain):
        case 1:
            found.append(f"Distilling paid: {apart} ({ONE_SEED}).")
        case -1:
            found.append(
                f"Distilling did not pay: {apart} ({ONE_SEED}). The labelled rows say more than the teacher does."
            )
        case _:
            held = ", and the interval holds zero" if gain.low <= 0 <= gain.high else ""
            found.append(
                f"Distilling did not measurably pay: {apart}{held} ({ONE_SEED}). More unlabelled text or a better "
                "teacher may change that."
            )
    return found


def _of_start(evaluation: EvaluateRecord) -> list[str]:
    """Of a student that existed already: as it came, fine-tuned on the labelled rows, and distilled."""
    if CAME not in evaluation.models:
        return []
    primary = evaluation.primary_metric
    told = []
    for name, how in (("baseline", "fine-tuned on the labelled rows alone"), ("student", "distilled")):
        pair = _comparison(evaluation, name, CAME)
        points = None if pair is None else pair.points(primary)
        if points is not None:
            told.append(f"{how} {shown(primary, evaluation.primary(name).value)} ({_span(points)})")
    came = shown(primary, evaluation.primary(CAME).value)
    return [f"As it came, the student's {name_in_words(primary)} is {came}; {', '.join(told)} ({ONE_SEED})."]


def _apart(points: Estimate) -> str:
    return f"{points.value:+z.1f} points (95 % interval {points.low:+z.1f} to {points.high:+z.1f})"


def _of_types(evaluation: EvaluateRecord) -> list[str]:
    """Models that are served in a type in which they could not be timed here."""
    untimed = {
        name: model.weights_type
        for name, model in evaluation.models.items()
        if model.weights_type not in (None, "float32") and model.own_type_latency_p50_ms is None
    }
    return [
        f"The {name} is served as {kind}, in which it could not be timed here: its size is that of those weights, and "
        "its speed and memory are in float32."
        for name, kind in untimed.items()
    ]


def _of_changed_texts(evaluation: EvaluateRecord) -> list[str]:
    """Whether the student loses more than its teacher where texts are changed."""
    found = evaluation.robustness
    points = None if found is None else found.models["student"].kept_over_teacher_points
    if found is None or points is None or found.rows < FEWEST_ROWS or points.high >= 0:
        return []
    if found.models["student"].clean_accuracy.value == 0:
        # Who has nothing right has nothing to keep.
        return []
    kept = [found.models[name].kept.value for name in ("student", "teacher")]
    of = name_in_words("entity_f1") if evaluation.answers == "tags" else "accuracy"
    return [
        f"The student is less robust than its teacher: where texts are changed it keeps {kept[0]:.1%} of its {of}, "
        f"and the teacher {kept[1]:.1%} of its own ({_span(points)})."
    ]


def _of_other_tokens(evaluation: EvaluateRecord) -> list[str]:
    left_out = evaluation.tokens_without_answer
    if left_out is None:
        return []
    return [
        "Student and teacher have other tokens. All figures are per token of the student's, in which the teacher's "
        "distributions are told; where it cannot tell the student's tokens apart, nothing counts as a difference."
        + (f" It says nothing of {left_out:,} tokens, which are left out." if left_out else "")
    ]


def _of_generations(evaluation: EvaluateRecord) -> list[str]:
    """How the students that taught each other compare, where there were several."""
    models = evaluation.models
    earlier = sorted(filter(is_round, models), key=lambda name: int(name.removeprefix(ROUND)))
    if not earlier:
        return []
    shares = ", ".join(f"{evaluation.primary(name).value:.1%}" for name in (*earlier, "student"))
    against = next(c for c in evaluation.comparisons if (c.of, c.against) == ("student", earlier[0]))
    points = against.points(evaluation.primary_metric)
    return [
        f"Over the generations, {name_in_words(evaluation.primary_metric)} went: {shares}. The last is "
        f"{_apart(points)} from the first ({ONE_SEED})."
    ]


def _of_whole_targets(evaluation: EvaluateRecord) -> list[str]:
    """Of tasks whose responses are right or wrong as a whole: whether more are, for having had a teacher."""
    points = evaluation.gain_over_baseline_points
    if evaluation.primary_metric not in evaluation.models["student"].scores or points is None:
        return []
    how, than = {1: ("more", "than"), -1: ("fewer", "than"), 0: ("about as many", "as")}[_sure(evaluation, points)]
    student, baseline = (evaluation.primary(name).value for name in ("student", "baseline"))
    return [
        f"It writes {how} targets to the letter {than} the baseline: {student:.1%} against "
        f"{baseline:.1%} ({_span(points)}; {ONE_SEED})."
    ]


def _nats(value: float, sign: str = "") -> str:
    """With two decimals, or two digits where these would all be zeros."""
    return f"{value:{sign}z.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:{sign}.2g}"


def _of_tokens(evaluation: EvaluateRecord) -> list[str]:
    """What only language models have."""
    student, baseline = evaluation.models["student"], evaluation.models.get("baseline")
    if student.kl_mean is None or student.perplexity is None:
        return []
    found = []
    start = evaluation.initial_kl_mean
    # Where nothing was trained both are the same; what begins as its teacher has nothing to fall from.
    if start is not None and start != student.kl_mean and start > AS_ITS_TEACHER:
        gain = evaluation.kl_gain_over_start
        fell = student.kl_mean < start if gain is None else _sure(evaluation, gain) > 0
        way = "fell" if fell else "did not measurably fall: it went"
        share = f" ({student.kl_mean / start:.0%} of what it was before training)"
        found.append(f"KL from the teacher {way} from {_nats(start)} to {_nats(student.kl_mean)} nats a token{share}.")
    kl, loss = evaluation.kl_gain_over_baseline, evaluation.loss_gain_over_baseline
    if baseline is None or baseline.kl_mean is None or baseline.perplexity is None or kl is None or loss is None:
        return found
    # What the baseline learnt as hard labels.
    alone = "true responses alone" if evaluation.learnt_from == "given" else "the tokens of the same text alone"
    span = f"{_nats(kl.value, '+')} nats a token (95 % interval {_nats(kl.low, '+')} to {_nats(kl.high, '+')})"
    compared = f"KL {_nats(student.kl_mean)} against {_nats(baseline.kl_mean)}, a gain of {span}"
    verdict, nearer = {
        1: ("paid", "nearer to the teacher"),
        -1: ("did not pay", "farther from the teacher"),
        0: ("did not measurably pay", "not measurably nearer to the teacher"),
    }[_sure(evaluation, kl)]
    found.append(f"Distilling {verdict}: the student is {nearer} than on {alone}: {compared} ({ONE_SEED}).")
    found.extend(_of_whole_targets(evaluation))
    better = {1: "better than", -1: "worse than", 0: "about as well as"}[_sure(evaluation, loss)]
    found.append(
        f"It predicts the true responses {better} the baseline: perplexity {student.perplexity:.1f} against "
        f"{baseline.perplexity:.1f} ({ONE_SEED}). Where the teacher did not learn these responses, its student need "
        "not."
    )
    return found
