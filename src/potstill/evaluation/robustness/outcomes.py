"""From what came of attacks to what the record says of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from potstill.data.rows import BETWEEN, Row
from potstill.evaluation.answers import estimate
from potstill.evaluation.robustness.attack import Outcome
from potstill.measure import quality
from potstill.measure.quality import Weights
from potstill.records import AttackExample, ModelAttack

EXAMPLES = {"student": 5, "teacher": 5}
"""How many texts that made each model wrong are shown."""
SHOWN_CHARACTERS = 300
SHOWN_BEFORE = 100
"""Of them at most so many before the first letter that was changed."""


def of_models(outcomes: Mapping[str, Sequence[Outcome]], weights: Weights) -> dict[str, ModelAttack]:
    """What came of the attacks on each model; `weights` are resamples of the rows."""
    return {name: _of_model(each, weights) for name, each in outcomes.items()}


def _of_model(outcomes: Sequence[Outcome], weights: Weights) -> ModelAttack:
    attacked = np.array([each.right_before for each in outcomes], dtype=np.float64)
    succeeded = np.array([each.succeeded for each in outcomes], dtype=np.float64)
    tried, changed = [each for each in outcomes if each.right_before], [each for each in outcomes if each.succeeded]
    return ModelAttack(
        attacked=len(tried),
        succeeded=len(changed),
        success_rate=estimate(quality.pooled_shares(succeeded, attacked, weights)) if tried else None,
        mean_queries=float(np.mean([each.queries for each in tried])) if tried else None,
        mean_changed_words=float(np.mean([each.share_changed for each in changed])) if changed else None,
    )


def examples(
    rows: Sequence[Row],
    truths: Sequence[str],
    outcomes: Mapping[str, Sequence[Outcome]],
    answers: Mapping[str, Sequence[str]],
) -> list[AttackExample]:
    """The first texts that made student and teacher wrong, with what each answers to them."""
    found = []
    for model, most in EXAMPLES.items():
        succeeded = [number for number, each in enumerate(outcomes[model]) if each.succeeded]
        for number in succeeded[:most]:
            before, after = rows[number].text, BETWEEN.join(outcomes[model][number].texts)
            start = max(0, _first_difference(before, after) - SHOWN_BEFORE)
            found.append(
                AttackExample(
                    id=rows[number].id,
                    model=model,
                    truth=truths[number],
                    answer=answers[model][number],
                    before=before[start:][:SHOWN_CHARACTERS],
                    after=after[start:][:SHOWN_CHARACTERS],
                )
            )
    return found


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))
