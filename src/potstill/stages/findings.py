"""What an evaluation means, in sentences: first of all whether the teacher was worth following."""

from potstill.records import EvaluateRecord, metric_name


def findings(evaluation: EvaluateRecord) -> list[str]:
    """Sentences for the report, the worst news first."""
    models = evaluation.models
    teacher, baseline = models["teacher"], models.get("baseline")
    metric = metric_name(evaluation.primary_metric)
    scores = {name: evaluation.primary(name).value for name in models}
    found = []
    if baseline is not None and scores["teacher"] < scores["baseline"]:
        found.append(
            f"The teacher ({scores['teacher']:.1%}) is worse than the small model trained on hard labels alone "
            f"({scores['baseline']:.1%}): following it cannot pay. Adapt it longer or on more rows, or choose another."
        )
    floors = {name: floor.score(evaluation.primary_metric) for name, floor in evaluation.floors.items()}
    if "teacher_labels" in floors and scores["teacher"] < floors["teacher_labels"]:
        found.append(
            f"The teacher ({scores['teacher']:.1%}) is below TF-IDF with {_floor_of(evaluation)} on the "
            f"{evaluation.floors['teacher_labels'].labelled_rows:,} rows that it can be adapted on "
            f"({floors['teacher_labels']:.1%}): it is under-trained."
        )
    if "student_labels" in floors and scores["student"] < floors["student_labels"]:
        found.append(
            f"The student ({scores['student']:.1%}) is below TF-IDF with {_floor_of(evaluation)} on the same labelled "
            f"rows ({floors['student_labels']:.1%}): that simpler model serves better."
        )
    pair = next((c for c in evaluation.comparisons if (c.of, c.against) == ("student", "baseline")), None)
    macro = pair.macro_f1_points if pair is not None else None
    if pair is not None and macro is not None and macro.high < 0 <= pair.points(evaluation.primary_metric).high:
        found.append(
            "Distilling lost in macro-F1, which counts rare classes as much as others: the student is "
            f"{macro.value:+.1f} points (95 % interval {macro.low:+.1f} to {macro.high:+.1f}) from the same student on "
            "hard labels alone. "
            f"The teacher's own is {teacher.macro_f1 or 0.0:.3f}; one that knows the rare classes better would pass "
            "that on."
        )
    gain = evaluation.gain_over_baseline_points
    # A language model is judged by its distributions; its likeliest token alone says little.
    if gain is not None and evaluation.test_tokens is None:
        span = f"{gain.value:+.1f} points (95 % interval {gain.low:+.1f} to {gain.high:+.1f})"
        if gain.low > 0:
            found.append(f"Distilling paid: the student is {span} from the same student on hard labels alone.")
        elif gain.high < 0:
            found.append(
                f"Distilling did not pay: the student is {span} from the same student on hard labels alone. "
                "The labelled rows say more than the teacher does."
            )
        else:
            found.append(
                f"Distilling did not measurably pay: the student is {span} from the same student on hard labels "
                "alone, and the interval holds zero. More unlabelled text or a better teacher may change that."
            )
    found.extend(_of_tokens(evaluation))
    found.extend(_of_generations(evaluation))
    drop = evaluation.drop_points
    found.append(
        f"The student keeps {evaluation.retention.value:.1%} of the teacher's {metric} "
        f"(drop {drop.value:.1f} points, 95 % interval {drop.low:.1f} to {drop.high:.1f}) "
        f"and answers {evaluation.speedup:.1f} times as fast."
    )
    return found


def _floor_of(evaluation: EvaluateRecord) -> str:
    return "ridge regression" if evaluation.problem_type == "regression" else "logistic regression"


def _of_generations(evaluation: EvaluateRecord) -> list[str]:
    """How the students that taught each other compare, where there were several."""
    models = evaluation.models
    earlier = sorted((name for name in models if name.startswith("generation-")), key=lambda name: int(name[11:]))
    if not earlier:
        return []
    shares = ", ".join(f"{evaluation.primary(name).value:.1%}" for name in (*earlier, "student"))
    against = next(c for c in evaluation.comparisons if (c.of, c.against) == ("student", earlier[0]))
    points = against.points(evaluation.primary_metric)
    return [
        f"Over the generations, {metric_name(evaluation.primary_metric)} went: {shares}. The last is "
        f"{points.value:+.1f} points from the first (95 % interval {points.low:+.1f} to {points.high:+.1f})."
    ]


def _of_whole_targets(evaluation: EvaluateRecord) -> list[str]:
    """Of tasks whose responses are right or wrong as a whole: whether more are, for having had a teacher."""
    points = evaluation.gain_over_baseline_points
    if evaluation.primary_metric not in evaluation.models["student"].scores or points is None:
        return []
    how, than = (
        ("more", "than") if points.low > 0 else ("fewer", "than") if points.high < 0 else ("about as many", "as")
    )
    student, baseline = (evaluation.primary(name).value for name in ("student", "baseline"))
    return [
        f"It writes {how} targets to the letter {than} the baseline: {student:.1%} against "
        f"{baseline:.1%} ({points.value:+.1f} points, 95 % interval {points.low:+.1f} to {points.high:+.1f})."
    ]


def _of_tokens(evaluation: EvaluateRecord) -> list[str]:
    """What is said of language models alone."""
    student, baseline = evaluation.models["student"], evaluation.models.get("baseline")
    if student.kl_mean is None or student.perplexity is None:
        return []
    found = []
    start = evaluation.initial_kl_mean
    if start is not None:
        way = "fell" if student.kl_mean < start else "did not fall: it went"
        share = f" ({student.kl_mean / start:.0%} of what it was before training)" if start > 0 else ""
        found.append(f"KL from the teacher {way} from {start:.2f} to {student.kl_mean:.2f} nats a token{share}.")
    kl, loss = evaluation.kl_gain_over_baseline, evaluation.loss_gain_over_baseline
    if baseline is None or baseline.kl_mean is None or baseline.perplexity is None or kl is None or loss is None:
        return found
    # What the baseline learnt as hard labels.
    alone = "true responses alone" if evaluation.learnt_from == "given" else "the tokens of the same text alone"
    span = f"{kl.value:+.2f} nats a token (95 % interval {kl.low:+.2f} to {kl.high:+.2f})"
    compared = f"KL {student.kl_mean:.2f} against {baseline.kl_mean:.2f}, a gain of {span}"
    if kl.low > 0:
        found.append(f"Distilling paid: the student is nearer to the teacher than on {alone}: {compared}.")
    else:
        found.append(
            f"Distilling did not measurably pay: the student is no nearer to the teacher than the same student on "
            f"{alone}: {compared}."
        )
    found.extend(_of_whole_targets(evaluation))
    better = "better than" if loss.low > 0 else "worse than" if loss.high < 0 else "about as well as"
    found.append(
        f"It predicts the true responses {better} the baseline: perplexity {student.perplexity:.1f} against "
        f"{baseline.perplexity:.1f}. Where the teacher did not learn these responses, its student need not."
    )
    return found
