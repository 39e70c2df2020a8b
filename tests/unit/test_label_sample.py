"""What an encoding is fitted on, and what its error is measured on, are the states of different positions."""

from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.labels import LowRank, fitting
from potstill.pipeline import run_recipe
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe


def test_the_error_of_labels_is_measured_on_positions_that_nothing_was_fitted_on(
    chat_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoding that fits its sample by heart would be measured as perfect."""
    fitted: list[torch.Tensor] = []
    measured: list[torch.Tensor] = []
    fit, measure = LowRank.fit, fitting.measure_error

    def seen_fit(self: LowRank, hidden: torch.Tensor, *others: Any) -> Any:
        fitted.append(hidden.clone())
        return fit(self, hidden, *others)

    def seen_measure(codec: Any, hidden: torch.Tensor, *others: Any) -> Any:
        measured.append(hidden.clone())
        return measure(codec, hidden, *others)

    monkeypatch.setattr(LowRank, "fit", seen_fit)
    monkeypatch.setattr(fitting, "measure_error", seen_measure)
    recipe = load_recipe(chat_project / "recipe.yaml", ["adapt=null", "data.adapt=null", "label.max_kl=null"])
    run_recipe(recipe, chat_project, chat_project / "run", Progress(), "label")
    (fit_states,), (measured_states,) = fitted, measured
    known = {tuple(state) for state in fit_states.tolist()}
    shared = sum(tuple(state) in known for state in measured_states.tolist())
    # Of texts that begin alike a few positions have one state.
    assert shared < 0.1 * len(measured_states)
    assert len(measured_states) >= 0.25 * len(fit_states) - 1
