"""What the judge of a recipe says of all that was written, counted."""

from collections import Counter
from collections.abc import Mapping, Sequence

from potstill.evaluation.judged_writing.comparing import Outcome, compared
from potstill.evaluation.judged_writing.exchanges import CONTRADICTED, Exchange, NotJudged
from potstill.evaluation.judged_writing.references import right_after
from potstill.progress import Progress
from potstill.recipe.writing_judges import AnyWritingJudge, ExactMatch, MathVerify, RegularExpression, ServerJudge
from potstill.records import Estimate, ModelJudgement, WritingJudgement

MOST_FAULTS = 3
"""Comparisons in a row to which a server did not reply, after which it is not asked again: each may have taken
minutes."""
NOT_ASKED = f"not asked after {MOST_FAULTS} without a reply"


def judgement_of(
    judge: AnyWritingJudge,
    exchanges: Sequence[Exchange],
    models: Sequence[str],
    answers: Mapping[str, str | None],
    progress: Progress,
) -> WritingJudgement:
    """`answers` are what the field of right answers holds, by row, where the recipe names one."""
    if isinstance(judge, ServerJudge):
        found = _by_server(judge, exchanges, [name for name in models if name != "teacher"], progress)
        return WritingJudgement(kind=judge.kind, model=judge.model, prompts=len(exchanges), models=found)
    found = _by_reference(judge, exchanges, models, answers, progress)
    return WritingJudgement(kind=judge.kind, prompts=len(exchanges), models=found)


def share(hits: int, of: int) -> Estimate | None:
    """A share of independent trials with Wilson's intervals (1927), which hold near 0 and 1 too; None of no trials."""
    if of == 0:
        return None
    from scipy.stats import binomtest  # half a second, which a command that only reads a recipe need not wait

    low, high = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    at_least = binomtest(hits, of, alternative="greater").proportion_ci(0.95, method="wilson").low
    at_most = binomtest(hits, of, alternative="less").proportion_ci(0.95, method="wilson").high
    return Estimate(value=hits / of, low=float(low), high=float(high), at_least=float(at_least), at_most=float(at_most))


def _by_reference(
    judge: ExactMatch | RegularExpression | MathVerify,
    exchanges: Sequence[Exchange],
    models: Sequence[str],
    answers: Mapping[str, str | None],
    progress: Progress,
) -> dict[str, ModelJudgement]:
    right: dict[str, list[bool | str]] = {name: [] for name in models}
    """For each prompt whether the model is right, or why that is not known."""
    with progress.task("evaluate: judging responses", len(exchanges), "prompts") as advance:
        for exchange in exchanges:
            try:
                is_right = right_after(judge, exchange, answers.get(exchange.id))
            except NotJudged as reason:
                for name in models:
                    right[name].append(str(reason))
            else:
                for name in models:
                    right[name].append(is_right(exchange.said[name]))
            advance(1)
    return {name: _beside_teacher(right[name], right["teacher"], is_teacher=name == "teacher") for name in models}


def _beside_teacher(own: Sequence[bool | str], teachers: Sequence[bool | str], *, is_teacher: bool) -> ModelJudgement:
    known = [each for each in own if isinstance(each, bool)]
    found = ModelJudgement(
        judged=len(known),
        accuracy=share(sum(known), len(known)),
        not_judged=dict(Counter(each for each in own if isinstance(each, str))),
    )
    if is_teacher:
        return found
    both = Counter(zip(own, teachers, strict=True))
    teacher_right = both[True, True] + both[False, True]
    return found.model_copy(
        update={
            "as_good": share(both[True, True], teacher_right),
            "of": teacher_right,
            "wins": both[True, False],
            "ties": both[True, True] + both[False, False],
            "losses": both[False, True],
        }
    )


def _by_server(
    judge: ServerJudge, exchanges: Sequence[Exchange], models: Sequence[str], progress: Progress
) -> dict[str, ModelJudgement]:
    from potstill.evaluation.judged_writing.chat_server import ChatServer, NoReply, NoServer  # has its own library

    found = {}
    in_a_row = 0
    with (
        ChatServer(judge) as server,
        progress.task("evaluate: comparing responses", len(exchanges) * len(models), "responses") as advance,
    ):
        for name in models:
            outcomes: list[Outcome] = []
            faults: Counter[str] = Counter()
            for exchange in exchanges:
                advance(1)
                if in_a_row == MOST_FAULTS:
                    faults[NOT_ASKED] += 1
                    continue
                own, teachers = exchange.said[name], exchange.said["teacher"]
                try:
                    outcomes.append(compared(server.reply, exchange.asked, own, teachers, judge.rubric))
                    in_a_row = 0
                except NoServer as reason:
                    faults[str(reason)] += 1
                    in_a_row += 1
                except (NotJudged, NoReply) as reason:
                    faults[str(reason)] += 1
                    in_a_row = 0
            found[name] = _counted(outcomes, faults)
    return found


def _counted(outcomes: Sequence[Outcome], faults: Mapping[str, int]) -> ModelJudgement:
    counts = Counter(outcomes)
    return ModelJudgement(
        judged=len(outcomes),
        as_good=share(counts["win"] + counts["tie"], len(outcomes)),
        of=len(outcomes),
        wins=counts["win"],
        ties=counts["tie"],
        losses=counts["loss"],
        orders_disagreed=faults.get(CONTRADICTED, 0),
        not_judged=dict(faults),
    )
