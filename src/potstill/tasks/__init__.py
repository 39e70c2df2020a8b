"""Tasks: what a row means, how it is encoded, which model reads it and how its answer is judged."""

from typing import Annotated

from pydantic import Field

from potstill.tasks.causal_lm import CausalLM
from potstill.tasks.seq2seq import Seq2Seq
from potstill.tasks.text_classification import TextClassification
from potstill.tasks.token_classification import TokenClassification

AnyTask = Annotated[TextClassification | TokenClassification | CausalLM | Seq2Seq, Field(discriminator="kind")]

__all__ = ["AnyTask", "CausalLM", "Seq2Seq", "TextClassification", "TokenClassification"]
