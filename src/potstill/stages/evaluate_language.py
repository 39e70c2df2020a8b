"""evaluate, for language models: tokens of held-out responses, what the models write, and how fast."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from potstill.data.token_rows import TokenRows
from potstill.measure import quality
from potstill.measure.generation import GenerationRequest, greedy
from potstill.measure.language import TokenMeasures, TokensOfRows, joined, measure_tokens
from potstill.measure.speed import Speed
from potstill.recipe import Recipe
from potstill.records import (
    Agreement,
    Comparison,
    Estimate,
    EvaluateRecord,
    Generation,
    ModelEvaluation,
)
from potstill.run_dir import RunDir
from potstill.signals import Batch
from potstill.stages import references
from potstill.stages.common import Inputs
from potstill.stages.compared import (
    asked_of_all,
    cost_values,
    ensemble_speed,
    estimate,
    headline,
    measurement,
    pairs,
    parameters,
    speeds,
    weights_of,
    with_ensemble,
)
from potstill.stages.ensemble_writing import write_as_ensemble
from potstill.stages.exact_match import exact_matches
from potstill.stages.findings import findings
from potstill.stages.models import ModelFolder
from potstill.stages.queries import new_tokens, prompted_rows, room_after, timed_prompts
from potstill.targets import FullTarget, HiddenTargets
from potstill.tasks.generative import end_tokens, writing
from potstill.teachers import FrozenTeacher, Routes, combined, route_numbers, routes_of
from potstill.training.engine import Engine

SHOWN_CHARACTERS = 600
UNTRAINED = "untrained"
EXACT_MATCH = "exact_match"


def evaluate_language(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    folders: Mapping[str, ModelFolder],
    untrained: PreTrainedModel,
    engine: Engine,
) -> EvaluateRecord:
    """Perplexity, distance from the teacher, responses side by side, and speed of all models.

    `untrained` is the student as training found it: how far from the teacher it is, and what a teacher must be better
    than.
    """
    test = inputs.splits["test"].rows
    task = writing(recipe.task)
    rows = inputs.encoded(recipe, test)
    assert isinstance(rows, TokenRows)
    ensemble = recipe.ensemble
    asked = {name: folder for name, folder in folders.items() if not (ensemble and name == "teacher")}
    models = {name: folder.load(recipe).to(engine.device).eval() for name, folder in asked.items()}
    counts = with_ensemble(recipe, {name: parameters(recipe, model) for name, model in models.items()})
    routes = {} if ensemble is None else routes_of(ensemble, rows, test)
    tokens, drawn = _tokens(run, recipe, rows, models | {UNTRAINED: untrained}, routes, engine)
    initial = tokens.pop(UNTRAINED)
    generations = _generations(run, recipe, inputs, models)
    exact = exact_matches(run, recipe, inputs, models) if task.judges_whole_responses else {}
    models.clear()
    # Speed is measured in other processes, which need the device to themselves.
    untrained.cpu()
    weights, requests = weights_of(recipe, folders), _requests(recipe, inputs, folders, engine)
    speed = speeds(run, recipe, weights, requests)
    accuracy = {name: drawn.means(each.right) for name, each in tokens.items()}
    whole = {name: quality.accuracies(right, drawn.weights) for name, right in exact.items()}
    found = {
        name: _model(
            tokens[name],
            accuracy[name],
            {EXACT_MATCH: whole[name]} if whole else {},
            speed[name],
            cost_values(weights[name], counts[name], speed[name]),
            teacher=name == "teacher",
        )
        for name in folders
    }
    comparisons = [_comparison(of, against, tokens, accuracy, whole) for of, against in pairs(folders)]
    losses = {"teacher": tokens["teacher"].loss, "untrained": initial.loss}
    record = EvaluateRecord(
        test_rows=len(test),
        test_tokens=len(drawn.row_of),
        learnt_from=recipe.label.responses.kind,
        models=found,
        agreement={name: _agreement(tokens, name, drawn) for name in folders if name != "teacher"},
        comparisons=comparisons,
        floors={},
        references=[
            *references.of_tokens(recipe, inputs, drawn, losses, untrained.get_output_embeddings().weight.shape[0]),
            *(references.of_whole_responses(inputs, whole["teacher"], drawn.weights) if whole else []),
        ],
        classes=[],
        disagreements=[],
        kl_gain_over_baseline=_gain(tokens, drawn, "kl"),
        loss_gain_over_baseline=_gain(tokens, drawn, "loss"),
        generations=generations,
        initial_kl_mean=float(initial.kl.mean()),
        kl_gain_over_start=estimate(drawn.means(initial.kl - tokens["student"].kl)),
        measurement=measurement(recipe, engine, rows=len(requests["student"].prompts), batch_size=1),
        findings=[],
        **headline(found, recipe.task.primary_metric, whole or accuracy, comparisons),
    )
    return record.model_copy(update={"findings": findings(record, asked_of_all(recipe))})


def _tokens(
    run: RunDir,
    recipe: Recipe,
    rows: TokenRows,
    models: Mapping[str, PreTrainedModel],
    routes: Routes,
    engine: Engine,
) -> tuple[dict[str, TokenMeasures], TokensOfRows]:
    """The measures of each model at every trained token, and the rows of these tokens, in the order of the data."""
    asked = {name: FrozenTeacher(model, engine.device, recipe.task.ask) for name, model in models.items()}
    parts: dict[str, list[TokenMeasures]] = {name: [] for name in ("teacher", *models)}
    # Several arrays of a chunk's size are held.
    chunk_rows = writing(recipe.task).head_of(next(iter(models.values()))).chunk_rows // 4
    number_of = {row: number for number, row in enumerate(dict.fromkeys(rows.row_ids))}
    row_of: list[int] = []
    true_ids: list[npt.NDArray[np.int64]] = []
    with run.progress.task("evaluate: tokens", len(rows.lengths), "rows") as advance:
        for index in range(len(rows.lengths)):
            batch = rows.collate([index])
            labels = batch.labels[batch.mask].to(engine.device)
            true_ids.append(labels.cpu().numpy())
            outputs: dict[str, FullTarget] = {name: _states(teacher, batch) for name, teacher in asked.items()}
            if recipe.ensemble is not None:
                numbers = route_numbers({name: routes[name] for name in batch.ids} if routes else {})
                outputs["teacher"] = combined(recipe.ensemble, [outputs[name] for name in recipe.ensemble.of], numbers)
            for name, measured in measure_tokens(outputs, outputs["teacher"], labels, chunk_rows=chunk_rows).items():
                parts[name].append(measured)
            for number in rows.examples_in(index):
                row_of.extend([number_of[rows.row_ids[number]]] * int(rows.examples.trained_counts[number]))
            advance(1)
    weights = quality.bootstrap_weights(len(number_of), seed=recipe.seed)
    of_rows = TokensOfRows(np.array(row_of), np.concatenate(true_ids), weights)
    return {name: joined(each) for name, each in parts.items()}, of_rows


def _gain(tokens: Mapping[str, TokenMeasures], drawn: TokensOfRows, name: str) -> Estimate | None:
    """How much less of a measure the student has than the baseline, as a mean over tokens."""
    if "baseline" not in tokens:
        return None
    return estimate(drawn.means(getattr(tokens["baseline"], name) - getattr(tokens["student"], name)))


def _states(teacher: FrozenTeacher, batch: Batch) -> HiddenTargets:
    outputs = teacher(batch).target
    assert isinstance(outputs, HiddenTargets)
    return outputs


def _model(
    tokens: TokenMeasures,
    accuracy: npt.NDArray[np.float64],
    scores: Mapping[str, npt.NDArray[np.float64]],
    speed: Speed,
    costs: Mapping[str, Any],
    *,
    teacher: bool,
) -> ModelEvaluation:
    loss = float(tokens.loss.mean())
    median, high = np.quantile(tokens.kl, [0.5, 0.99])
    from_teacher = {
        "kl_mean": float(tokens.kl.mean()),
        "kl_median": float(median),
        "kl_p99": float(high),
        "top1_agreement": float(tokens.agrees.mean()),
        "rms_probability_difference": float(np.sqrt((tokens.probability_difference**2).mean())),
    }
    return ModelEvaluation(
        accuracy=float(accuracy[0]),
        accuracy_interval=estimate(accuracy),
        macro_f1=None,
        macro_f1_interval=None,
        scores={metric: estimate(values) for metric, values in scores.items()},
        cross_entropy=loss,
        expected_calibration_error=quality.calibration_gap(tokens.confidence, tokens.right),
        perplexity=float(np.exp(loss)),
        time_to_first_token_ms=speed.first_p50_ms,
        time_per_token_ms=speed.latency_p50_ms,
        tokens_per_s=speed.throughput_per_s,
        **({} if teacher else from_teacher),
        **costs,
    )


def _agreement(tokens: Mapping[str, TokenMeasures], name: str, drawn: TokensOfRows) -> Agreement:
    wrong = ~tokens["teacher"].right
    same = tokens[name].agrees
    return Agreement(
        all_rows=estimate(drawn.means(same)),
        teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong_rows=int(wrong.sum()),
        kl_from_teacher=float(tokens[name].kl.mean()),
    )


def _comparison(
    of: str,
    against: str,
    tokens: Mapping[str, TokenMeasures],
    accuracy: Mapping[str, npt.NDArray[np.float64]],
    whole: Mapping[str, npt.NDArray[np.float64]],
) -> Comparison:
    first, second = tokens[of].right, tokens[against].right
    return Comparison(
        of=of,
        against=against,
        accuracy_points=estimate(100 * (accuracy[of] - accuracy[against])),
        macro_f1_points=None,
        score_points={EXACT_MATCH: estimate(100 * (whole[of] - whole[against]))} if whole else {},
        only_of_right=int((first & ~second).sum()),
        only_against_right=int((second & ~first).sum()),
        mcnemar_p=None,
    )


def _generations(
    run: RunDir, recipe: Recipe, inputs: Inputs, models: Mapping[str, PreTrainedModel]
) -> list[Generation]:
    """What each model writes after the same prompts."""
    settings, tokenizer = recipe.evaluate, inputs.tokenizer
    prompts = writing(recipe.task).prompts(tokenizer)
    chosen = prompted_rows(recipe, inputs, settings.generations, salt="generations")
    ends = end_tokens(models.values(), tokenizer)
    found = []
    with run.progress.task("evaluate: responses", len(chosen), "prompts") as advance:
        for row, prompt in chosen:
            left = room_after(prompt, inputs)
            room = settings.generation_tokens if left is None else min(left, settings.generation_tokens)
            outputs = {}
            stop = ends | {prompts.end_of(row)}
            if recipe.ensemble is not None:
                outputs["teacher"] = write_as_ensemble(recipe, models, row, prompt, room, stop)
            for name, model in models.items():
                outputs[name], _ = greedy([model], prompt, room, stop=stop)
            advance(1)
            read = {name: str(tokenizer.decode(ids, skip_special_tokens=True)) for name, ids in outputs.items()}
            asked, truth = prompts.shown(row)
            found.append(
                Generation(id=row.id, prompt=asked[-SHOWN_CHARACTERS:], truth=truth[:SHOWN_CHARACTERS], said=read)
            )
    return found


def _requests(
    recipe: Recipe, inputs: Inputs, folders: Mapping[str, ModelFolder], engine: Engine
) -> dict[str, GenerationRequest]:
    settings = recipe.evaluate
    prompts = timed_prompts(recipe, inputs)
    return {
        name: GenerationRequest(
            model=str(folder.path),
            prompts=prompts,
            new_tokens=new_tokens(recipe),
            threads=settings.threads,
            warmup=settings.warmup,
            device=engine.device.type,
            trust_remote_code=folder.trust_remote_code,
            **(ensemble_speed(recipe, folders) if name == "teacher" else {}),
        )
        for name, folder in folders.items()
    }
