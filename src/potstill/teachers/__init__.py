"""Teachers: where the knowledge comes from. Settings here; stored labels speak for them in training."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from potstill.teachers.composite import CompositeTeacher
from potstill.teachers.ensemble import (
    EnsembleTeacher,
    Mixture,
    Routed,
    Routes,
    combined,
    route_numbers,
    routes_of,
)
from potstill.teachers.frozen import FrozenTeacher
from potstill.teachers.moving_average import MovingAverage
from potstill.teachers.pretrained import PretrainedTeacher
from potstill.teachers.self_taught import BornAgainTeacher, CheckpointTeacher, MovingAverageTeacher
from potstill.teachers.token_mapping import TokenMappedTeacher


def _pretrained_unless_said(value: Any) -> Any:
    return {"kind": "pretrained"} | value if isinstance(value, dict) else value


AnyTeacher = Annotated[
    PretrainedTeacher | Mixture | Routed | CheckpointTeacher | BornAgainTeacher | MovingAverageTeacher,
    Field(discriminator="kind"),
    BeforeValidator(_pretrained_unless_said),
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
    "PretrainedTeacher",
    "Routed",
    "Routes",
    "TokenMappedTeacher",
    "combined",
    "lead_name",
    "lead_of",
    "route_numbers",
    "routes_of",
    "snapshot_name",
]


def lead_of(teacher: AnyTeacher) -> PretrainedTeacher:
    """The model whose family, tokenizer and first weights the student takes."""
    match teacher:
        case PretrainedTeacher():
            return teacher
        case CheckpointTeacher():
            member = Path(teacher.run) / "train" / teacher.member
            folder = member / "model" if teacher.at == "best" else member / snapshot_name(teacher.at)
            return PretrainedTeacher(model=str(folder))
        case BornAgainTeacher() | MovingAverageTeacher():
            return teacher.start
        case Mixture() | Routed():
            return teacher.of[lead_name(teacher)]


def lead_name(ensemble: Mixture | Routed) -> str:
    """Which of several teachers is the lead."""
    return ensemble.lead or next(iter(ensemble.of))


def snapshot_name(share: float) -> str:
    """The folder, within that of a training, of the model after this share of the steps."""
    return f"snapshots/{share:.4f}"
