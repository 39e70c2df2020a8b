"""What a judge says of what models wrote after the prompts of test rows."""

from pydantic import Field

from potstill.records.parts import Estimate, Part


class ModelJudgement(Part):
    """Of one model, beside its teacher."""

    judged: int
    """How many of the answers were judged."""
    accuracy: Estimate | None = None
    """Share of them that are right; None of a judge that only compares. Intervals are Wilson's."""
    as_good: Estimate | None = None
    """Of a judge that knows what is right: of the answers that the teacher has right, the share that this model has
    right too. Of one that compares: the share that is as good as the teacher's or better. None of the teacher, and
    where there is nothing that it would be a share of."""
    of: int = 0
    """Of how many answers that is the share."""
    wins: int = 0
    """Answers that are better than the teacher's: right where it is wrong, or found better in both orders."""
    ties: int = 0
    losses: int = 0
    orders_disagreed: int | None = None
    """Of a judge that compares: how often it said something else once the answers had changed places; none of these is
    judged."""
    not_judged: dict[str, int] = Field(default_factory=dict)
    """How many answers were not judged, by the reason."""


class WritingJudgement(Part):
    """Of all models."""

    kind: str
    """The judge, as recipes call it."""
    model: str | None = None
    """Of a server: who judged."""
    prompts: int
    """After how many prompts they wrote."""
    models: dict[str, ModelJudgement]

    @property
    def compares(self) -> bool:
        """Whether it compares answers, rather than knowing which are right."""
        return self.kind == "server"
