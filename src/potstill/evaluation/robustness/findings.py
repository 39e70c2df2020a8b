"""What language models do on other texts than the test rows, in sentences, where it follows from intervals."""

from collections.abc import Iterator

from potstill.evaluation.metrics import FEWEST_ROWS
from potstill.presentation.formats import number, number_span
from potstill.records import Estimate, EvaluateRecord


def findings_on_other_texts(evaluation: EvaluateRecord) -> Iterator[str]:
    """Whether a student loses more than its teacher, or more of its teacher."""
    yield from _after_changed_prompts(evaluation)
    yield from _out_of_domain(evaluation)


def _after_changed_prompts(evaluation: EvaluateRecord) -> Iterator[str]:
    found = evaluation.token_robustness
    student = found.models.get("student") if found else None
    if found is None or student is None or found.rows < FEWEST_ROWS:
        return
    over, further = student.ratio_over_teacher, student.kl_over_clean
    if over is not None and over.low > 1:
        own, teachers = (found.models[name].robust_perplexity_ratio.value for name in ("student", "teacher"))
        yield (
            "The student is less robust than its teacher: where prompts are changed its perplexity of true responses "
            f"is {number(own)} times what it was, and the teacher's {number(teachers)} times ({_times(over)})."
        )
    if further is not None and further.low > 0 and student.robust_kl is not None and student.clean.kl is not None:
        yield (
            "Where prompts are changed the student is further from its teacher: KL "
            f"{number(student.robust_kl.value)} nats a token, and {number(student.clean.kl.value)} after the prompts "
            f"as they are; the difference is {number_span(further)}, with its 95 % interval."
        )


def _out_of_domain(evaluation: EvaluateRecord) -> Iterator[str]:
    found = evaluation.token_out_of_domain
    student = found.models.get("student") if found else None
    if found is None or student is None or min(found.rows, found.test_rows) < FEWEST_ROWS:
        return
    over = student.ratio_over_teacher
    if over is not None and over.low > 1:
        own, teachers = (found.models[name].perplexity_ratio.value for name in ("student", "teacher"))
        yield (
            f"On texts of another kind the student falls behind its teacher: its perplexity is {number(own)} times "
            f"that on the test rows, and the teacher's {number(teachers)} times ({_times(over)})."
        )


def _times(ratio: Estimate) -> str:
    span = f"{number(ratio.low)} to {number(ratio.high)}"
    return f"{number(ratio.value)} times as much, 95 % interval {span}"
