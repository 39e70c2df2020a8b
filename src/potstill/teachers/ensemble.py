"""Several teachers of one student: mixed by weights, or each for the rows that it knows best."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from potstill.capabilities import Capability, Facts
from potstill.data.encoded import Encoded
from potstill.errors import DataError
from potstill.settings import Settings
from potstill.signals import Batch, Read, Signals, Teacher
from potstill.targets import FullTarget, LogitTargets, MixedTargets, MostConfidentTargets
from potstill.teachers.opening import Routes, Sources
from potstill.teachers.pretrained import PretrainedTeacher
from potstill.teachers.self_taught import is_round

Positive = Annotated[float, Field(gt=0)]
RESERVED = frozenset({"teacher", "student", "baseline", "pretrained", "model", "scratch"})


def _names(members: dict[str, PretrainedTeacher]) -> dict[str, PretrainedTeacher]:
    for name in members:
        # A name is a folder of the run, and a column of its tables.
        taken = name in RESERVED or is_round(name)
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


class Ensemble(Settings):
    """What all ensembles have: teachers by name, of which one is the lead."""

    of: Members
    domains: Domains = Field(default_factory=dict)
    lead: str | None = None
    """Whose family and first weights the student takes, and whose features losses read; by default the first."""

    @property
    def gives(self) -> frozenset[Capability]:
        return OF_ENSEMBLES

    runtime: ClassVar[str] = "transformers"
    """What answers for each member."""
    own_ids: ClassVar[bool] = True
    settings_decide: ClassVar[bool] = True
    """Weights and routes are settings of training alone."""

    @property
    def rounds(self) -> int:
        """How many students are trained one after the other: one."""
        return 1

    @property
    def members(self) -> Mapping[str, PretrainedTeacher]:
        return self.of

    @property
    def member_domains(self) -> Domains:
        """The domains of members that are adapted on the rows of these alone."""
        return self.domains

    @property
    def lead_member(self) -> str:
        return self.lead or next(iter(self.of))

    def require_routes(self, rows: Iterable[Any]) -> None:
        """Each member answers every row."""

    @property
    def route(self) -> Callable[[str | None, str], int] | None:
        """The number of the member that answers a row of this domain and id; None where all of them do."""
        return None

    @property
    def title(self) -> str:
        """Who teaches, in a few words."""
        return " and ".join(self.of)

    @property
    def described(self) -> str:
        """Who teaches, in a sentence."""
        return ", ".join(f"{name} ({member.model})" for name, member in self.of.items())

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from _of_ensemble(where, facts)

    def open(self, sources: Sources, reads: frozenset[Read]) -> Teacher:
        """All members together, with the features of the lead alone."""
        routes = sources.routes(self.route)
        together = EnsembleTeacher(self, {name: sources.distributions(name) for name in self.of}, routes)
        # Beside the lead's features, not its distributions: those are of all.
        return sources.with_features(together, reads, self.lead_member)


class Mixture(Ensemble):
    """A weighted mean of several teachers' distributions, in probability space and at each temperature anew."""

    kind: Literal["mixture"] = "mixture"
    weights: dict[str, Positive] = Field(default_factory=dict)
    """Relative to each other, 1 where none is given. Each teacher's labels are stored by themselves, so other weights
    relabel nothing."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "Mixture":
        _check(self.of, self.lead, weights=self.weights, domains=self.domains)
        return self


class Routed(Ensemble):
    """For each row the distribution of one of several teachers: of the row's domain, or of the most confident one."""

    kind: Literal["routed"] = "routed"
    by: Literal["domain", "confidence"]
    """domain: the teacher that `domains` names for the row's domain; each domain has one. confidence: the teacher whose
    likeliest answer has the most mass."""

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

    def require_routes(self, rows: Iterable[Any]) -> None:
        """Raises DataError: a row of a domain that no teacher knows, where rows are routed by domain."""
        if self.by == "domain":
            for row in rows:
                self.member_for(row.domain, row.id)

    @property
    def route(self) -> Callable[[str | None, str], int] | None:
        return self.member_for if self.by == "domain" else None

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


OF_ENSEMBLES = frozenset(Capability) - {Capability.TEXT}
"""All but text: what each would write is another text."""


def _of_ensemble(where: str, facts: Facts) -> Iterator[str]:
    if facts.means:
        yield (
            f"{where}: {facts.teacher} mixes distributions over classes, and task.problem_type is regression. "
            "Name one teacher."
        )
    if not (facts.online or facts.whole):
        yield (
            f"label.encoding: {facts.encoding} holds no whole distributions, and those of several teachers are "
            "mixed. Use low_rank or hidden, or label.mode: online."
        )


def routes_of(settings: Ensemble, encoded: Encoded, rows: Iterable[Any]) -> Routes:
    """The routes of `rows` as they are encoded.

    Raises:
        DataError: a row of a domain that no teacher knows.
    """
    return {} if settings.route is None else routes_by(settings.route, encoded, rows)


def routes_by(member_for: Callable[[str | None, str], int], encoded: Encoded, rows: Iterable[Any]) -> Routes:
    """The member that each of `encoded` is answered by, as `member_for` says by domain and id of its row."""
    members = {row.id: member_for(row.domain, row.id) for row in rows}
    parts = zip(encoded.ids, encoded.row_ids, encoded.positions, strict=True)
    return {identity: (members[row], positions) for identity, row, positions in parts}


def route_numbers(routes: Routes) -> list[int] | None:
    """The number of the teacher at each position, in the order of the routes; None where there are none."""
    return [member for member, positions in routes.values() for _ in range(positions)] or None


def combined(
    settings: Ensemble, members: Sequence[FullTarget], routes: Sequence[int] | None = None
) -> MixedTargets | MostConfidentTargets:
    """One target from those of the teachers, in the order of `of`; `routes` are the teachers' numbers by domain."""
    if isinstance(settings, Routed) and settings.by == "confidence":
        return MostConfidentTargets(tuple(members))
    weights: Float[Tensor, "positions members"]
    if isinstance(settings, Routed):
        assert routes is not None
        weights = torch.nn.functional.one_hot(torch.tensor(routes, dtype=torch.int64), len(members)).float()
    else:
        assert isinstance(settings, Mixture)
        shares = torch.tensor([settings.weights.get(name, 1.0) for name in settings.of])
        weights = (shares / shares.sum()).expand(len(members[0]), -1)
    return MixedTargets(tuple(members), weights)


@dataclass(frozen=True)
class EnsembleTeacher:
    """`teacher(batch) -> Signals` from those of several, at each position that counts."""

    settings: Ensemble
    members: Mapping[str, Teacher]
    routes: Routes

    def __call__(self, batch: Batch) -> Signals:
        targets: list[FullTarget] = []
        for name in self.settings.of:
            outputs = self.members[name](batch)
            if outputs.logits is None:
                # Stored labels of words are those of the positions that count.
                assert outputs.target is None or isinstance(outputs.target, FullTarget)
                targets.extend([outputs.target] if outputs.target is not None else [])
            else:
                targets.append(LogitTargets(outputs.logits[batch.mask.to(outputs.logits.device)]))
        if not targets:
            return Signals()
        return Signals(target=combined(self.settings, targets, self._numbers(batch) if self.routes else None))

    def _numbers(self, batch: Batch) -> list[int]:
        """The number of the teacher at each position that counts."""
        counts = [self.routes[identity][1] for identity in batch.ids]
        if len(batch.ids) == len(batch.mask):
            counts = batch.mask.reshape(len(batch.ids), -1).sum(dim=1).tolist()
        elif not batch.mask.any():
            # Packed rows of a process that has none in this step.
            counts = [0] * len(batch.ids)
        return [n for name, count in zip(batch.ids, counts, strict=True) for n in [self.routes[name][0]] * count]
