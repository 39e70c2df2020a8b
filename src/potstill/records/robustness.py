"""What evaluate leaves of how models answer where texts are not as in the test."""

from pydantic import Field

from potstill.records.parts import Estimate, Part


class PerturbedScores(Part):
    """A model on the sampled rows, all changed in one way."""

    perturbation: str
    severity: int
    accuracy: Estimate
    """Here and below: where words have tags the entity F1."""
    kept: Estimate
    """Of the accuracy on the same rows as they are."""
    agreement: Estimate | None
    """With the teacher's answers to the same changed texts; None of the teacher itself. Where a text has several
    labels, each decision about one counts by itself, and where words have tags each word."""


class SeverityScores(Part):
    """A model on the sampled rows, over all perturbations of one severity."""

    severity: int
    accuracy: Estimate
    kept: Estimate


class ModelRobustness(Part):
    """One model on the sampled rows, as they are and changed in every way."""

    clean_accuracy: Estimate
    robust_accuracy: Estimate
    """The mean over all perturbations and severities."""
    kept: Estimate
    """Robust of clean accuracy."""
    kept_over_teacher_points: Estimate | None
    """What it keeps, minus what the teacher keeps of its own; None of the teacher itself."""
    robust_agreement: Estimate | None
    by_severity: list[SeverityScores]
    perturbed: list[PerturbedScores]


class AttackExample(Part):
    """A text that a model was right about, and what made it wrong."""

    id: str
    model: str
    truth: str
    answer: str
    """To the changed text."""
    before: str
    after: str


class ModelAttack(Part):
    """A model under attack."""

    attacked: int
    """Rows that it was right about before."""
    succeeded: int
    """Those of them that it was made wrong about."""
    success_rate: Estimate | None
    """None where it was right about none."""
    mean_queries: float | None
    """Over the rows that were attacked."""
    mean_changed_words: float | None
    """The share of words changed, over the attacks that succeeded."""


class Attacks(Part):
    """Greedy changes of letters, on purpose."""

    rows: int
    queries: int
    max_changed_words: float
    models: dict[str, ModelAttack]
    examples: list[AttackExample] = Field(default_factory=list)


class Robustness(Part):
    """Models on changed texts."""

    rows: int
    models: dict[str, ModelRobustness]
    attacks: Attacks | None = None


class ScoreHistogram(Part):
    """How many rows have a score between one edge and the next."""

    edges: list[float]
    in_domain: list[int]
    out_of_domain: list[int]


class Detection(Part):
    """How well a score tells rows of the test from rows out of domain, which should have less of it."""

    auroc: Estimate
    """The chance that a row of the test has more of it than one out of domain; a tie counts half."""
    fpr95: Estimate
    """The share of rows out of domain that are accepted where 95 % of the test rows are."""
    histogram: ScoreHistogram


class OutOfDomainScores(Part):
    """One model on rows out of domain."""

    max_probability: Detection
    """Of the likeliest class, or label (Hendrycks and Gimpel 2017, arXiv:1610.02136)."""
    energy: Detection
    """The negative energy: log sum exp of the logits (Liu et al. 2020, arXiv:2010.03759); of several labels the sum of
    log(1 + exp x) over their log-odds."""
    confident: Estimate
    """The share of rows out of domain whose likeliest class or label has a probability of 0.9 or more; where words have
    tags the share of their words."""
    with_entities: Estimate | None = Field(default=None, exclude_if=lambda found: found is None)
    """Where words have tags, the share of documents out of domain in which an entity is found."""


class OutOfDomain(Part):
    """Models on texts of another kind than they were trained for."""

    source: str
    rows: int
    test_rows: int
    models: dict[str, OutOfDomainScores]
