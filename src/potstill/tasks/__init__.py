"""Tasks: what a row means, how it is encoded, which model reads it and how its answer is judged."""

from potstill.tasks.text_classification import TextClassification

# One member so far; a union with `kind` as its discriminator when there are two.
AnyTask = TextClassification

__all__ = ["AnyTask", "TextClassification"]
