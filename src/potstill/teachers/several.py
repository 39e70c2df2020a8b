"""Several teachers of one student: mixed by weights, or each for the rows that it knows best."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from potstill.errors import DataError
from potstill.settings import Settings
from potstill.signals import Batch, Signals, Teacher
from potstill.targets import FullTarget, LogitTargets, MixedTargets, MostConfidentTargets
from potstill.teachers.pretrained import PretrainedTeacher

Positive = Annotated[float, Field(gt=0)]
RESERVED = frozenset({"teacher", "student", "baseline", "model", "scratch"})


def _names(members: dict[str, PretrainedTeacher]) -> dict[str, PretrainedTeacher]:
    for name in members:
        # A name is a folder of the run, and a column of its tables.
        taken = name in RESERVED or name.startswith("generation-")
        if taken or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
            raise ValueError(
                f"{name!r} cannot name a teacher; use letters, digits, - and _, and not {sorted(RESERVED)}"
            )
    return members


Members = Annotated[dict[str, PretrainedTeacher], Field(min_length=2), AfterValidator(_names)]
"""The teachers by name. They must share their tokenizer and, unless they are adapted, their classes."""
Domains = dict[str, tuple[str, ...]]
"""For a teacher, the values of the column `domain` of the rows that it knows. It is adapted on these rows alone; one
that is not named here, on all."""


class Mixture(Settings):
    """A weighted mean of several teachers' distributions, in probability space and at each temperature anew."""

    kind: Literal["mixture"] = "mixture"
    of: Members
    weights: dict[str, Positive] = Field(default_factory=dict)
    """Relative to each other, 1 where none is given. Each teacher's labels are stored by themselves, so other weights
    relabel nothing."""
    domains: Domains = Field(default_factory=dict)
    lead: str | None = None
    """Whose family and first weights the student takes, and whose features losses read; by default the first."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "Mixture":
        _check(self.of, self.lead, weights=self.weights, domains=self.domains)
        return self


class Routed(Settings):
    """For each row the distribution of one of several teachers: of the row's domain, or of the most confident one."""

    kind: Literal["routed"] = "routed"
    of: Members
    by: Literal["domain", "confidence"]
    """domain: the teacher that `domains` names for the row's domain; each domain has one. confidence: the teacher whose
    likeliest answer has the most mass."""
    domains: Domains = Field(default_factory=dict)
    lead: str | None = None
    """As in a mixture."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "Routed":
        _check(self.of, self.lead, domains=self.domains)
        named = [domain for domains in self.domains.values() for domain in domains]
        if self.by == "domain":
            if twice := sorted({domain for domain in named if named.count(domain) > 1}):
                raise ValueError(f"domains: {twice[0]!r} has two teachers; by: domain needs one for each.")
            if silent := [name for name in self.of if name not in self.domains]:
                raise ValueError(f"domains: {silent[0]!r} has none, so it would never be asked. Give it one.")
        return self

    def member_for(self, domain: str | None, row: str) -> int:
        """The number of the teacher of a row of this domain.

        Raises:
            DataError: nobody knows it.
        """
        for number, name in enumerate(self.of):
            if domain in self.domains[name]:
                return number
        known = sorted(known for domains in self.domains.values() for known in domains)
        raise DataError(
            f"row {row!r}: its domain is {domain!r}, which no teacher of teacher.domains knows; known: "
            f"{', '.join(known)}. Give the row one of them, or a teacher this domain."
        )


def _check(members: Mapping[str, object], lead: str | None, **named: Mapping[str, object]) -> None:
    for what, mapping in named.items():
        if unknown := [name for name in mapping if name not in members]:
            raise ValueError(f"{what}: no teacher {unknown[0]!r}; there are: {', '.join(members)}.")
    if lead is not None and lead not in members:
        raise ValueError(f"lead: no teacher {lead!r}; there are: {', '.join(members)}.")


def routes_of(settings: Mixture | Routed, rows: Sequence[Any]) -> dict[str, int]:
    """The number of the teacher for the id of each row, where rows are routed by domain; else nothing."""
    if not isinstance(settings, Routed) or settings.by != "domain":
        return {}
    return {row.id: settings.member_for(row.domain, row.id) for row in rows}


def combined(
    settings: Mixture | Routed, members: Sequence[FullTarget], routes: Sequence[int] | None = None
) -> MixedTargets | MostConfidentTargets:
    """One target from those of the teachers, in the order of `of`; `routes` are the teachers' numbers by domain."""
    if isinstance(settings, Routed) and settings.by == "confidence":
        return MostConfidentTargets(tuple(members))
    weights: Float[Tensor, "positions members"]
    if isinstance(settings, Routed):
        assert routes is not None
        weights = torch.nn.functional.one_hot(torch.tensor(routes, dtype=torch.int64), len(members)).float()
    else:
        shares = torch.tensor([settings.weights.get(name, 1.0) for name in settings.of])
        weights = (shares / shares.sum()).expand(len(members[0]), -1)
    return MixedTargets(tuple(members), weights)


@dataclass(frozen=True)
class SeveralTeachers:
    """`teacher(batch) -> Signals` from those of several, of rows with one position each or one for each label."""

    settings: Mixture | Routed
    members: Mapping[str, Teacher]
    routes: Mapping[str, int]
    """The number of the teacher for each id, where rows are routed by domain."""

    def __call__(self, batch: Batch) -> Signals:
        targets: list[FullTarget] = []
        for name in self.settings.of:
            said = self.members[name](batch).logits
            assert said is not None
            targets.append(LogitTargets(said[batch.mask.to(said.device)]))
        positions = batch.mask.reshape(len(batch.ids), -1).sum(dim=1).tolist()
        counted = [identity for identity, count in zip(batch.ids, positions, strict=True) for _ in range(count)]
        routes = [self.routes[identity] for identity in counted] if self.routes else None
        target = combined(self.settings, targets, routes)
        if isinstance(target, MixedTargets):
            target = MixedTargets(target.members, target.weights.to(batch.mask.device))
        return Signals(target=target)
