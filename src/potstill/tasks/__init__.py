"""Tasks: what a row means, how it is encoded, which model reads it and how its answer is judged."""

from typing import Annotated, Any

from pydantic import Field

from potstill.tasks.causal_lm import CausalLM
from potstill.tasks.seq2seq import Seq2Seq
from potstill.tasks.text_classification import TextClassification
from potstill.tasks.token_classification import TokenClassification

AnyTask = Annotated[TextClassification | TokenClassification | CausalLM | Seq2Seq, Field(discriminator="kind")]

__all__ = ["AnyTask", "CausalLM", "Seq2Seq", "TextClassification", "TokenClassification", "task_named"]


def task_named(values: Any) -> type[TextClassification | TokenClassification | CausalLM | Seq2Seq] | None:
    """The class of a task from its settings as a recipe gives them; None where they name none."""
    kind = values.get("kind") if isinstance(values, dict) else getattr(values, "kind", None)
    tasks = (TextClassification, TokenClassification, CausalLM, Seq2Seq)
    return next((task for task in tasks if task.model_fields["kind"].default == kind), None)
