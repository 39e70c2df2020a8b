"""evaluate, for numbers: how much of their variance each model explains."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from potstill.data.rows import Row
from potstill.measure import quality
from potstill.measure.floor import tfidf_numbers
from potstill.recipe import Recipe
from potstill.records import Comparison, Disagreement
from potstill.run_dir import RunDir
from potstill.stages import references
from potstill.stages.common import Inputs
from potstill.stages.compared import DISAGREEMENT_CHARACTERS, Judged, estimate, pairs
from potstill.stages.floors import measured_floors
from potstill.tasks.problem_types import Regression

Values = npt.NDArray[np.float64]


def judge_values(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    outputs: Mapping[str, npt.NDArray[np.float32]],
    labels: npt.NDArray[np.float32],
) -> Judged:
    """The models by the numbers that they say, rows x 1, in the unit of the labels."""
    truth = labels.astype(np.float64)
    predicted: dict[str, Values] = {name: values[:, 0].astype(np.float64) for name, values in outputs.items()}
    weights = quality.bootstrap_weights(len(truth), seed=recipe.seed)
    scores = {
        "r2": {name: quality.r2s(truth, values, weights) for name, values in predicted.items()},
        "spearman": {name: quality.spearmans(truth, values, weights) for name, values in predicted.items()},
    }
    r2 = scores["r2"]

    def floor(taught: Sequence[Row], asked: Sequence[str]) -> dict[str, Values]:
        known = Regression().targets(taught, inputs.labels)
        given = tfidf_numbers([row.text for row in taught], known, asked)
        return {
            "r2": quality.r2s(truth, given, weights),
            "spearman": quality.spearmans(truth, given, weights[:1]),
        }

    floors = measured_floors(run, recipe, inputs, "r2", r2, floor)
    nothing = dict.fromkeys(
        (
            "accuracy",
            "accuracy_interval",
            "macro_f1",
            "macro_f1_interval",
            "cross_entropy",
            "expected_calibration_error",
        )
    )
    return Judged(
        quality={
            name: nothing
            | {
                "scores": {metric: estimate(values[name]) for metric, values in scores.items()},
                "rmse": estimate(quality.rmses(truth, values, weights)),
                "rmse_from_teacher": estimate(quality.rmses(predicted["teacher"], values, weights)),
            }
            for name, values in predicted.items()
        },
        primary=r2,
        # Numbers that are near each other do not agree.
        agreement={},
        comparisons=[
            Comparison(
                of=of,
                against=against,
                accuracy_points=None,
                macro_f1_points=None,
                score_points={m: estimate(100 * (values[of] - values[against])) for m, values in scores.items()},
                only_of_right=None,
                only_against_right=None,
                mcnemar_p=None,
            )
            for of, against in pairs(predicted)
        ],
        floors=floors.fitted,
        floors_missing=floors.missing,
        references=[
            *references.of_floor(floors, "r2", r2["teacher"], "ridge"),
            *references.of_regression(r2["teacher"]),
        ],
        classes=[],
        disagreements=_furthest(recipe, inputs, truth, predicted),
    )


def _furthest(recipe: Recipe, inputs: Inputs, truth: Values, predicted: Mapping[str, Values]) -> list[Disagreement]:
    """The rows on which the student is furthest from the teacher, the furthest first."""
    test = inputs.splits["test"].rows
    furthest = np.argsort(-np.abs(predicted["student"] - predicted["teacher"]), kind="stable")
    return [
        Disagreement(
            id=test[row].id,
            text=test[row].text[:DISAGREEMENT_CHARACTERS],
            truth=f"{truth[row]:.4g}",
            teacher=f"{predicted['teacher'][row]:.4g}",
            student=f"{predicted['student'][row]:.4g}",
            baseline=f"{predicted['baseline'][row]:.4g}" if "baseline" in predicted else None,
        )
        for row in furthest[: recipe.evaluate.sample_disagreements].tolist()
    ]
