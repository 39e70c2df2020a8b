"""What outputs say, as a row of JSON has it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.artefacts.manifest import Manifest

Numbers = npt.NDArray[np.float32]


def decision(manifest: Manifest, outputs: Numbers, *, all_classes: bool = False) -> dict[str, Any]:
    """The class of a text with its probability, its labels with theirs, or its number.

    With `all_classes` also the probability of each class that it could have been.
    """
    match manifest.answers:
        case "regression":
            return {"value": float(outputs[0])}
        case "multi_label":
            chances = 1 / (1 + np.exp(-outputs.astype(np.float64) / manifest.temperature))
            named: Mapping[str, float] = dict(zip(manifest.labels, chances.tolist(), strict=True))
            return {"labels": [name for name, chance in named.items() if chance > 0.5], "probabilities": named}
        case _:
            chances = probabilities(outputs, manifest.temperature)
            best = int(chances.argmax())
            found = {"label": manifest.labels[best], "probability": float(chances[best])}
            if all_classes:
                found["probabilities"] = dict(zip(manifest.labels, chances.tolist(), strict=True))
            return found


def probabilities(logits: Numbers, temperature: float) -> npt.NDArray[np.float64]:
    """softmax(logits / temperature) of one row."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max())
    return np.asarray(exponentials / exponentials.sum())
