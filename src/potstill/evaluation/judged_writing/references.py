"""Whether a response is right, by judges that know what is right."""

import re
from collections.abc import Callable, Collection

from potstill.evaluation.judged_writing.exchanges import NO_REFERENCE, UNREADABLE_REFERENCE, Exchange, NotJudged
from potstill.evaluation.judged_writing.mathematics import answers_equally, mathematical_answer
from potstill.recipe.writing_judges import ExactMatch, MathVerify, RegularExpression, ServerJudge

IsRight = Callable[[str], bool]
"""Whether a response is right."""


def right_after(judge: ExactMatch | RegularExpression | MathVerify, exchange: Exchange, answer: str | None) -> IsRight:
    """What is right: the last response of the row, or `answer` where the recipe names a field for it.

    Raises:
        NotJudged: there is nothing, or nothing in it that the judge could compare with.
    """
    truth = (answer if judge.answer is not None else exchange.truth) or ""
    if not truth.strip():
        raise NotJudged(NO_REFERENCE)
    match judge:
        case ExactMatch():
            read = [truth] if judge.answer is not None else [truth, exchange.truth_as_read]
            return _same_text({text.strip() for text in read if text.strip()})
        case RegularExpression():
            return _same_match(judge, truth)
        case MathVerify():
            return _same_mathematics(truth, alone=judge.answer is not None)


def knows_what_is_right(judge: object) -> bool:
    return not isinstance(judge, ServerJudge)


def _same_text(right: Collection[str]) -> IsRight:
    return lambda said: said.strip() in right


def _same_match(judge: RegularExpression, truth: str) -> IsRight:
    pattern, group = re.compile(judge.pattern), judge.taken

    def taken(text: str) -> str | None:
        found: list[str | None] = [match[group] for match in pattern.finditer(text)]
        return None if not found or found[-1] is None else found[-1].strip()

    right = taken(truth)
    if right is None and judge.answer is not None:
        right = truth.strip()
    if right is None:
        raise NotJudged(UNREADABLE_REFERENCE)
    return lambda said: taken(said) == right


def _same_mathematics(truth: str, *, alone: bool) -> IsRight:
    right = mathematical_answer(truth, alone=alone)
    if not right:
        raise NotJudged(UNREADABLE_REFERENCE)

    def same(said: str) -> bool:
        try:
            return answers_equally(right, mathematical_answer(said))
        except NotJudged:
            # Whoever writes what nobody can compute has not answered.
            return False

    return same
