"""Labels that are numbers, in standard units while a model is trained on them."""

from collections.abc import Sequence
from typing import Any

from potstill.data.encoded import Encoded, EncodedRows
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs
from potstill.tasks.target_scaler import TargetScaler


def target_scaler_of(recipe: Recipe, rows: Sequence[Any]) -> TargetScaler | None:
    """What brings the labels of these rows to standard units, where they are numbers."""
    return recipe.task.scaler_of(rows)


def with_scaled_targets(recipe: Recipe, inputs: Inputs, rows: Sequence[Any], scaler: TargetScaler | None) -> Encoded:
    """The rows as they are trained on: labels that are numbers in standard units."""
    encoded = inputs.encoded(recipe, rows)
    return scaler.of_rows(encoded) if scaler is not None and isinstance(encoded, EncodedRows) else encoded
