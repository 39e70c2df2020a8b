"""evaluate, for texts with several labels: which of them each model gives."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from potstill.data.rows import Row
from potstill.data.splits import stable_order
from potstill.measure import quality
from potstill.measure.floor import tfidf_labels
from potstill.recipe import Recipe
from potstill.records import Agreement, ClassRow, Comparison, Disagreement
from potstill.run_dir import RunDir
from potstill.stages import references
from potstill.stages.common import Inputs
from potstill.stages.compared import DISAGREEMENT_CHARACTERS, Judged, estimate, pairs
from potstill.stages.floors import measured_floors
from potstill.tasks.problem_types import MultiLabel

Outputs = npt.NDArray[np.float32]
Decisions = npt.NDArray[np.bool_]
Resampled = Mapping[str, npt.NDArray[np.float64]]


def judge_labels(
    run: RunDir, recipe: Recipe, inputs: Inputs, outputs: Mapping[str, Outputs], numbers: npt.NDArray[np.int64]
) -> Judged:
    """The models by their log-odds of each label, rows x labels; `numbers` are 1 where a row has the label."""
    truth = numbers == 1
    weights = quality.bootstrap_weights(len(truth), seed=recipe.seed)
    # A label is given where its probability is above one half.
    predicted = {name: values > 0 for name, values in outputs.items()}
    # As a distribution of two classes for each decision.
    pairwise = {name: np.stack([np.zeros_like(x), x], axis=-1).reshape(-1, 2) for name, x in outputs.items()}
    exact = {name: (decisions == truth).all(axis=1) for name, decisions in predicted.items()}
    resampled = {
        "micro_f1": {name: quality.micro_f1s(truth, each, weights) for name, each in predicted.items()},
        "macro_f1": {name: quality.label_f1s(truth, each, weights) for name, each in predicted.items()},
        "accuracy": {name: quality.accuracies(right, weights) for name, right in exact.items()},
    }
    micro_f1 = resampled["micro_f1"]

    def floor(taught: Sequence[Row], asked: Sequence[str]) -> Resampled:
        known = MultiLabel().targets(taught, inputs.labels) == 1
        given = tfidf_labels([row.text for row in taught], known, asked, seed=recipe.seed)
        return {
            "accuracy": quality.accuracies((given == truth).all(axis=1), weights[:1]),
            "macro_f1": quality.label_f1s(truth, given, weights[:1]),
            "micro_f1": quality.micro_f1s(truth, given, weights),
        }

    floors = measured_floors(run, recipe, inputs, "micro_f1", micro_f1, floor)
    return Judged(
        quality={
            name: {
                "accuracy": float(resampled["accuracy"][name][0]),
                "accuracy_interval": estimate(resampled["accuracy"][name]),
                "macro_f1": float(resampled["macro_f1"][name][0]),
                "macro_f1_interval": estimate(resampled["macro_f1"][name]),
                "scores": {"micro_f1": estimate(resampled["micro_f1"][name])},
                "cross_entropy": quality.cross_entropy(pairwise[name], numbers.reshape(-1)),
                "expected_calibration_error": quality.expected_calibration_error(pairwise[name], numbers.reshape(-1)),
            }
            for name in outputs
        },
        primary=micro_f1,
        agreement={
            name: _agreement(predicted, name, truth, quality.kl(pairwise["teacher"], pairwise[name]), weights)
            for name in outputs
            if name != "teacher"
        },
        comparisons=[_comparison(of, against, exact, resampled) for of, against in pairs(outputs)],
        floors=floors.fitted,
        floors_missing=floors.missing,
        references=[
            *references.of_floor(floors, "micro_f1", micro_f1["teacher"], "logistic"),
            *references.of_multi_label(inputs, truth, micro_f1["teacher"], weights),
        ],
        classes=_classes(inputs.labels, truth, predicted),
        disagreements=_disagreements(recipe, inputs, truth, predicted),
    )


def _agreement(
    predicted: Mapping[str, Decisions], model: str, truth: Decisions, kl: float, weights: quality.Weights
) -> Agreement:
    same = predicted["teacher"] == predicted[model]
    wrong = predicted["teacher"] != truth
    each_row = np.full(len(truth), float(truth.shape[1]))
    return Agreement(
        all_rows=estimate(quality.pooled_shares(same.sum(axis=1).astype(np.float64), each_row, weights)),
        teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong_rows=int(wrong.sum()),
        kl_from_teacher=kl,
    )


def _comparison(
    of: str, against: str, exact: Mapping[str, npt.NDArray[np.bool_]], resampled: Mapping[str, Resampled]
) -> Comparison:
    points = {metric: estimate(100 * (values[of] - values[against])) for metric, values in resampled.items()}
    only_of, only_against, p = quality.mcnemar(exact[of], exact[against])
    return Comparison(
        of=of,
        against=against,
        accuracy_points=points["accuracy"],
        macro_f1_points=points["macro_f1"],
        score_points={"micro_f1": points["micro_f1"]},
        only_of_right=only_of,
        only_against_right=only_against,
        mcnemar_p=p,
    )


def _classes(labels: Sequence[str], truth: Decisions, predicted: Mapping[str, Decisions]) -> list[ClassRow]:
    recalls = {name: quality.label_recalls(truth, decisions) for name, decisions in predicted.items()}
    nothing = [None] * len(labels)
    return [
        ClassRow(
            label=label,
            rows=int(truth[:, number].sum()),
            teacher_accuracy=recalls["teacher"][number],
            student_accuracy=recalls["student"][number],
            baseline_accuracy=recalls.get("baseline", nothing)[number],
        )
        for number, label in enumerate(labels)
    ]


def _disagreements(
    recipe: Recipe, inputs: Inputs, truth: Decisions, predicted: Mapping[str, Decisions]
) -> list[Disagreement]:
    """A sample, by stable hash, of the rows to which student and teacher give other labels."""
    test = inputs.splits["test"].rows
    differ = np.nonzero((predicted["student"] != predicted["teacher"]).any(axis=1))[0].tolist()
    chosen = stable_order(differ, lambda row: test[row].id, salt="disagreements")

    def named(decisions: Decisions, row: int) -> str:
        return ", ".join(inputs.labels[number] for number in np.nonzero(decisions[row])[0]) or "(none)"

    return [
        Disagreement(
            id=test[row].id,
            text=test[row].text[:DISAGREEMENT_CHARACTERS],
            truth=named(truth, row),
            teacher=named(predicted["teacher"], row),
            student=named(predicted["student"], row),
            baseline=named(predicted["baseline"], row) if "baseline" in predicted else None,
        )
        for row in chosen[: recipe.evaluate.sample_disagreements]
    ]
