"""Students: their shape and their first weights."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from potstill.students.budget import Budget, candidates
from potstill.students.copying import copy_from_teacher
from potstill.students.designs import Design, design_note, designed, designs_for
from potstill.students.importance import Importance, measure_importance
from potstill.students.pretrained import Pretrained
from potstill.students.shape import model_shape, shape_notes, student_config
from potstill.students.shared_tokens import SharedTokens, same_pieces, shared_tokens
from potstill.students.sizes import Copy, Random, Shrunk
from potstill.students.trimming import Trimmed, trim
from potstill.students.vocabulary import AnyVocabulary, FactorisedVocabulary, FullVocabulary, TrimmedVocabulary


def _shrunk_by_default(value: Any) -> Any:
    return {"kind": "shrunk"} | value if isinstance(value, dict) else value


AnyStudent = Annotated[
    Shrunk | Budget | Design | Pretrained, Field(discriminator="kind"), BeforeValidator(_shrunk_by_default)
]

__all__ = [
    "AnyStudent",
    "AnyVocabulary",
    "Budget",
    "Copy",
    "Design",
    "FactorisedVocabulary",
    "FullVocabulary",
    "Importance",
    "Pretrained",
    "Random",
    "SharedTokens",
    "Shrunk",
    "Trimmed",
    "TrimmedVocabulary",
    "candidates",
    "copy_from_teacher",
    "design_note",
    "designed",
    "designs_for",
    "measure_importance",
    "model_shape",
    "same_pieces",
    "shape_notes",
    "shared_tokens",
    "student_config",
    "trim",
]
