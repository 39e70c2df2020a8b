"""What evaluate leaves of how language models answer where prompts, texts or queries are not as in the test."""

from pydantic import Field

from potstill.records.parts import Estimate, Part


class TokenScores(Part):
    """A model at the tokens of true responses."""

    perplexity: Estimate
    kl: Estimate | None
    """KL from the teacher, which was shown the same, in nats a token; None of the teacher itself, as the next."""
    agreement: Estimate | None
    """The share of tokens at which its likeliest is the teacher's."""


class ChangedPromptScores(TokenScores):
    """A model where all prompts are changed in one way."""

    perturbation: str
    severity: int
    perplexity_ratio: Estimate
    """Perplexity / that on the same prompts as they are."""


class SeverityTokenScores(Part):
    """A model over all perturbations of one severity."""

    severity: int
    perplexity_ratio: Estimate
    kl: Estimate | None


class ModelTokenRobustness(Part):
    """One model on the true responses to the sampled rows, after prompts as they are and changed in every way.

    Means over all perturbations and severities are of nats a token, so that of perplexities the mean is geometric.
    """

    clean: TokenScores
    robust_perplexity: Estimate
    robust_perplexity_ratio: Estimate
    """Of it to the perplexity on the same prompts as they are."""
    robust_kl: Estimate | None
    robust_agreement: Estimate | None
    ratio_over_teacher: Estimate | None
    """Its ratio / the teacher's."""
    kl_over_clean: Estimate | None
    """How much further it is from the teacher than on the prompts as they are, in nats a token."""
    by_severity: list[SeverityTokenScores]
    perturbed: list[ChangedPromptScores]


class QueryScores(Part):
    """One model on queries that should be declined or are nonsense."""

    kl: Estimate | None
    """KL from the teacher in nats a token, at the first tokens of what the teacher writes; None of the teacher itself,
    as the others that compare."""
    agreement: Estimate | None
    """The share of these tokens at which its likeliest is the teacher's."""
    ended: Estimate
    """The share of its own answers that come to an end."""
    ended_as_teacher: Estimate | None
    """The share of queries where both end, or neither does."""
    repeats: Estimate
    """The share of its own answers of which half of the 4-grams or more occurred before."""
    repeats_as_teacher: Estimate | None


class QueryAnswers(Part):
    """A query, and the beginning of what each model writes."""

    id: str
    query: str
    said: dict[str, str]


class UnanswerableQueries(Part):
    """Models on queries that should be declined or are nonsense."""

    source: str
    queries: int
    left_out: int = 0
    """Those that leave no room for an answer, or that the chat template refuses."""
    first_tokens: int
    """So many of the teacher's answer at most are compared token by token."""
    answer_tokens: int
    """The most that each model writes."""
    models: dict[str, QueryScores]
    counts: dict[str, int] = Field(default_factory=dict)
    """How many queries there are of each kind."""
    by_kind: dict[str, dict[str, QueryScores]] = Field(default_factory=dict)
    examples: list[QueryAnswers] = Field(default_factory=list)


class TokenRobustness(Part):
    """Language models after changed prompts."""

    rows: int
    tokens: int
    """Of their true responses."""
    plain_texts: int = 0
    """Rows without a prompt, of which the text itself is changed."""
    left_out: int = 0
    """Rows that were not taken since a changed prompt leaves less room for the response, or is refused."""
    models: dict[str, ModelTokenRobustness]
    unanswerable: UnanswerableQueries | None = None
    unanswerable_missing: str | None = None
    """Why no such queries were asked."""


class OutOfDomainTokens(Part):
    """One model on rows of the test and out of domain."""

    inside: TokenScores
    outside: TokenScores
    perplexity_ratio: Estimate
    """Outside / inside."""
    ratio_over_teacher: Estimate | None
    """Its ratio / the teacher's; None of the teacher itself."""


class TokenOutOfDomain(Part):
    """Language models on texts of another kind than they were trained for."""

    source: str
    rows: int
    tokens: int
    test_rows: int
    left_out: int = 0
    """Rows whose prompt leaves no room for a response."""
    models: dict[str, OutOfDomainTokens]
