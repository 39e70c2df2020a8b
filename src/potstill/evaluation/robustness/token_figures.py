"""From sums over tokens, row by row, to what the record says of language models on other texts than the test rows.

All means are over the tokens of the drawn rows, in each resample of rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from potstill.evaluation.answers import estimate
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.robustness.changed_prompts import TokenSums
from potstill.measure import quality
from potstill.measure.out_of_domain import InsideWeights, OutsideWeights
from potstill.measure.quality import Weights
from potstill.records import (
    ChangedPromptScores,
    ModelTokenRobustness,
    OutOfDomainTokens,
    SeverityTokenScores,
    TokenScores,
)

TEACHER = "teacher"


@dataclass(frozen=True)
class Means:
    """One model on the same rows after the same prompts, over resamples of the rows."""

    sums: TokenSums
    weights: Weights

    @cached_property
    def loss(self) -> Resampled:
        return self._mean(self.sums.loss)

    @cached_property
    def kl(self) -> Resampled:
        return self._mean(self.sums.kl)

    @cached_property
    def agreement(self) -> Resampled:
        return self._mean(self.sums.agrees)

    def _mean(self, values: Resampled) -> Resampled:
        return quality.pooled_shares(values, self.sums.tokens, self.weights)


def token_robustness(
    blocks: Mapping[str, Sequence[TokenSums]], ways: Sequence[tuple[str, int]], weights: Weights
) -> dict[str, ModelTokenRobustness]:
    """Of each model the sums for rows as they are and then with prompts changed in each of the ways."""
    means = {name: [Means(each, weights) for each in of_model] for name, of_model in blocks.items()}
    rises = {name: _mean([each.loss for each in of[1:]]) - of[0].loss for name, of in means.items()}
    return {name: _model(name, of_model, ways, rises) for name, of_model in means.items()}


def _model(
    name: str, means: Sequence[Means], ways: Sequence[tuple[str, int]], rises: Mapping[str, Resampled]
) -> ModelTokenRobustness:
    clean, changed = means[0], means[1:]
    compared = name != TEACHER
    kl = _mean([each.kl for each in changed])

    def ratio(of: Sequence[Means]) -> Resampled:
        return np.asarray(np.exp(_mean([each.loss for each in of]) - clean.loss))

    def of_severity(severity: int) -> list[Means]:
        return [each for each, way in zip(changed, ways, strict=True) if way[1] == severity]

    return ModelTokenRobustness(
        clean=_scores(clean, compared=compared),
        robust_perplexity=estimate(np.exp(_mean([each.loss for each in changed]))),
        robust_perplexity_ratio=estimate(ratio(changed)),
        robust_kl=estimate(kl) if compared else None,
        robust_agreement=estimate(_mean([each.agreement for each in changed])) if compared else None,
        ratio_over_teacher=estimate(np.exp(rises[name] - rises[TEACHER])) if compared else None,
        kl_over_clean=estimate(kl - clean.kl) if compared else None,
        by_severity=[
            SeverityTokenScores(
                severity=severity,
                perplexity_ratio=estimate(ratio(of_severity(severity))),
                kl=estimate(_mean([each.kl for each in of_severity(severity)])) if compared else None,
            )
            for severity in sorted({severity for _, severity in ways})
        ],
        perturbed=[
            ChangedPromptScores(
                perturbation=perturbation,
                severity=severity,
                perplexity_ratio=estimate(ratio([each])),
                **dict(_scores(each, compared=compared)),
            )
            for (perturbation, severity), each in zip(ways, changed, strict=True)
        ],
    )


def out_of_domain(
    inside: Mapping[str, TokenSums], outside: Mapping[str, TokenSums], within: InsideWeights, without: OutsideWeights
) -> dict[str, OutOfDomainTokens]:
    """Each model on the test rows and on those out of domain, over resamples of both."""
    means = {name: (Means(inside[name], within), Means(each, without)) for name, each in outside.items()}
    rises = {name: out.loss - own.loss for name, (own, out) in means.items()}
    return {
        name: OutOfDomainTokens(
            inside=_scores(own, compared=name != TEACHER),
            outside=_scores(out, compared=name != TEACHER),
            perplexity_ratio=estimate(np.exp(rises[name])),
            ratio_over_teacher=None if name == TEACHER else estimate(np.exp(rises[name] - rises[TEACHER])),
        )
        for name, (own, out) in means.items()
    }


def _scores(means: Means, *, compared: bool) -> TokenScores:
    return TokenScores(
        perplexity=estimate(np.exp(means.loss)),
        kl=estimate(means.kl) if compared else None,
        agreement=estimate(means.agreement) if compared else None,
    )


def _mean(values: Sequence[Resampled]) -> Resampled:
    return np.asarray(np.mean(values, axis=0))
