"""Teachers: where the knowledge comes from. Settings here; stored labels take their place in training."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from potstill.teachers.composite import CompositeTeacher
from potstill.teachers.ensemble import (
    EnsembleTeacher,
    Mixture,
    Routed,
    combined,
    route_numbers,
    routes_by,
    routes_of,
)
from potstill.teachers.frozen import FrozenTeacher
from potstill.teachers.moving_average import MovingAverage
from potstill.teachers.opening import Routes, Sources
from potstill.teachers.own_reading import OwnReadingTeacher, OwnWindowsTeacher, answered_by_both
from potstill.teachers.pretrained import PretrainedTeacher
from potstill.teachers.self_taught import BornAgainTeacher, CheckpointTeacher, MovingAverageTeacher, snapshot_name
from potstill.teachers.token_mapping import TokenMappedTeacher


def _pretrained_by_default(value: Any) -> Any:
    return {"kind": "pretrained"} | value if isinstance(value, dict) else value


AnyTeacher = Annotated[
    PretrainedTeacher | Mixture | Routed | CheckpointTeacher | BornAgainTeacher | MovingAverageTeacher,
    Field(discriminator="kind"),
    BeforeValidator(_pretrained_by_default),
]

__all__ = [
    "AnyTeacher",
    "BornAgainTeacher",
    "CheckpointTeacher",
    "CompositeTeacher",
    "EnsembleTeacher",
    "FrozenTeacher",
    "Mixture",
    "MovingAverage",
    "MovingAverageTeacher",
    "OwnReadingTeacher",
    "OwnWindowsTeacher",
    "PretrainedTeacher",
    "Routed",
    "Routes",
    "Sources",
    "TokenMappedTeacher",
    "answered_by_both",
    "combined",
    "lead_of",
    "route_numbers",
    "routes_by",
    "routes_of",
    "snapshot_name",
]


def lead_of(teacher: AnyTeacher) -> PretrainedTeacher:
    """The model whose family, tokenizer and first weights the student takes."""
    if isinstance(teacher, Mixture | Routed):
        return teacher.of[teacher.lead_member]
    return teacher.lead
