"""evaluate, for language models: tokens of held-out responses, what the models write, and how fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from potstill.data.splits import stable_order
from potstill.data.token_rows import TokenRows
from potstill.measure import quality
from potstill.measure.generation import GenerationRequest, greedy
from potstill.measure.language import TokenMeasures, joined, measure_tokens
from potstill.measure.speed import Speed, measure_speed
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
from potstill.stages.common import Inputs, ModelFolder
from potstill.stages.compared import (
    estimate,
    headline,
    measurement,
    pairs,
    parameters,
    sizes_of,
    speed_of_several,
    speed_values,
    with_several,
)
from potstill.stages.exact_match import exact_matches
from potstill.stages.findings import findings
from potstill.stages.writing_together import write_together
from potstill.targets import FullTarget, HiddenTargets
from potstill.tasks.writing import end_tokens, writing
from potstill.teachers import FrozenTeacher, Routes, combined, route_numbers, routes_of
from potstill.training.engine import Engine

SHOWN_CHARACTERS = 600
UNTRAINED = "untrained"
EXACT_MATCH = "exact_match"


@dataclass(frozen=True)
class _Drawn:
    """Resamples of whole examples, for shares of their tokens."""

    example_of: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    def shares(self, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        size = self.weights.shape[1]
        hits = np.bincount(self.example_of, weights=right, minlength=size)
        return quality.pooled_shares(hits, np.bincount(self.example_of, minlength=size).astype(float), self.weights)

    def gain(self, tokens: Mapping[str, TokenMeasures], name: str) -> Estimate | None:
        """How much less of a measure the student has than the baseline, as a mean over tokens."""
        if "baseline" not in tokens:
            return None
        size = self.weights.shape[1]
        less = getattr(tokens["baseline"], name) - getattr(tokens["student"], name)
        sums = np.bincount(self.example_of, weights=less, minlength=size)
        counts = np.bincount(self.example_of, minlength=size).astype(float)
        return estimate(quality.pooled_shares(sums, counts, self.weights))


def evaluate_language(
    run: RunDir,
    recipe: Recipe,
    inputs: Inputs,
    folders: Mapping[str, ModelFolder],
    untrained: PreTrainedModel,
    engine: Engine,
) -> EvaluateRecord:
    """Perplexity, distance from the teacher, responses side by side, and speed of all models.

    `untrained` is the student as training found it, of which only the distance from the teacher is measured.
    """
    test = inputs.splits["test"].rows
    task = writing(recipe.task)
    rows = inputs.encoded(recipe, test)
    assert isinstance(rows, TokenRows)
    several = recipe.several
    asked = {name: folder for name, folder in folders.items() if not (several and name == "teacher")}
    models = {name: folder.load(recipe).to(engine.device).eval() for name, folder in asked.items()}
    counts = with_several(recipe, {name: parameters(recipe, model) for name, model in models.items()})
    sizes = sizes_of(recipe, folders)
    routes = {} if several is None else routes_of(several, rows, test)
    tokens, example_of = _tokens(run, recipe, rows, models | {UNTRAINED: untrained}, routes, engine)
    initial = tokens.pop(UNTRAINED)
    generations = _generations(run, recipe, inputs, models)
    exact = exact_matches(run, recipe, inputs, models) if task.judges_whole_responses else {}
    models.clear()
    prompts, speed = _speed(run, recipe, inputs, folders, engine)
    # Whole examples are drawn, since the tokens of one are not independent.
    drawn = _Drawn(example_of, quality.bootstrap_weights(len(rows.examples), seed=recipe.seed))
    accuracy = {name: drawn.shares(each.right) for name, each in tokens.items()}
    whole = {name: quality.accuracies(right, drawn.weights) for name, right in exact.items()}
    found = {
        name: _model(
            tokens[name],
            accuracy[name],
            {EXACT_MATCH: whole[name]} if whole else {},
            speed[name],
            sizes[name],
            counts[name],
            teacher=name == "teacher",
        )
        for name in folders
    }
    comparisons = [_comparison(of, against, tokens, accuracy, whole) for of, against in pairs(folders)]
    record = EvaluateRecord(
        test_rows=len(test),
        test_tokens=len(example_of),
        learnt_from=recipe.label.responses.kind,
        models=found,
        agreement={name: _agreement(tokens, name, drawn) for name in folders if name != "teacher"},
        comparisons=comparisons,
        floors={},
        classes=[],
        disagreements=[],
        kl_gain_over_baseline=drawn.gain(tokens, "kl"),
        loss_gain_over_baseline=drawn.gain(tokens, "loss"),
        generations=generations,
        initial_kl_mean=float(initial.kl.mean()),
        measurement=measurement(recipe, engine, rows=prompts, batch_size=1),
        findings=[],
        **headline(found, recipe.task.primary_metric, whole or accuracy, comparisons),
    )
    return record.model_copy(update={"findings": findings(record)})


def _tokens(
    run: RunDir,
    recipe: Recipe,
    rows: TokenRows,
    models: Mapping[str, PreTrainedModel],
    routes: Routes,
    engine: Engine,
) -> tuple[dict[str, TokenMeasures], npt.NDArray[np.int64]]:
    """The measures of each model at every trained token, and the number of the example that it belongs to."""
    asked = {name: FrozenTeacher(model, engine.device, recipe.task.ask) for name, model in models.items()}
    parts: dict[str, list[TokenMeasures]] = {name: [] for name in ("teacher", *models)}
    # Several arrays of a chunk's size are held.
    chunk_rows = writing(recipe.task).head_of(next(iter(models.values()))).chunk_rows // 4
    example_of: list[int] = []
    with run.progress.task("evaluate: tokens", len(rows.lengths), "rows") as advance:
        for index in range(len(rows.lengths)):
            batch = rows.collate([index])
            labels = batch.labels[batch.mask].to(engine.device)
            said: dict[str, FullTarget] = {name: _states(teacher, batch) for name, teacher in asked.items()}
            if recipe.several is not None:
                numbers = route_numbers({name: routes[name] for name in batch.ids} if routes else {})
                said["teacher"] = combined(recipe.several, [said[name] for name in recipe.several.of], numbers)
            for name, measured in measure_tokens(said, said["teacher"], labels, chunk_rows=chunk_rows).items():
                parts[name].append(measured)
            for number in rows.examples_in(index):
                example_of.extend([number] * int(rows.examples.trained_counts[number]))
            advance(1)
    return {name: joined(each) for name, each in parts.items()}, np.array(example_of)


def _states(teacher: FrozenTeacher, batch: Batch) -> HiddenTargets:
    said = teacher(batch).target
    assert isinstance(said, HiddenTargets)
    return said


def _model(
    tokens: TokenMeasures,
    accuracy: npt.NDArray[np.float64],
    scores: Mapping[str, npt.NDArray[np.float64]],
    speed: Speed,
    size_bytes: int,
    counts: tuple[int, int],
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
        size_bytes=size_bytes,
        num_parameters=counts[0],
        num_parameters_without_embeddings=counts[1],
        perplexity=float(np.exp(loss)),
        time_to_first_token_ms=speed.first_p50_ms,
        time_per_token_ms=speed.latency_p50_ms,
        tokens_per_s=speed.throughput_per_s,
        **({} if teacher else from_teacher),
        **speed_values(speed),
    )


def _agreement(tokens: Mapping[str, TokenMeasures], name: str, drawn: _Drawn) -> Agreement:
    wrong = ~tokens["teacher"].right
    same = tokens[name].agrees
    return Agreement(
        all_rows=estimate(drawn.shares(same)),
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


def _chosen(recipe: Recipe, inputs: Inputs, count: int, salt: str) -> list[tuple[Any, tuple[int, ...]]]:
    """Test rows that have a prompt, by stable hash, with its token ids."""
    prompts = writing(recipe.task).prompts(inputs.tokenizer)
    prompted = [row for row in inputs.splits["test"].rows if prompts.asks(row)]
    chosen: list[tuple[Any, tuple[int, ...]]] = []
    for row in stable_order(prompted, lambda row: row.id, salt=salt):
        if len(chosen) == count:
            break
        ids = prompts.last(row)
        if prompts.room(ids) > 0:
            chosen.append((row, tuple(int(token) for token in ids)))
    return chosen


def _generations(
    run: RunDir, recipe: Recipe, inputs: Inputs, models: Mapping[str, PreTrainedModel]
) -> list[Generation]:
    """What each model writes after the same prompts."""
    settings, tokenizer = recipe.evaluate, inputs.tokenizer
    prompts = writing(recipe.task).prompts(tokenizer)
    chosen = _chosen(recipe, inputs, settings.generations, "generations")
    room = settings.generation_tokens
    ends = end_tokens(models.values(), tokenizer)
    found = []
    with run.progress.task("evaluate: responses", len(chosen), "prompts") as advance:
        for row, prompt in chosen:
            said = {}
            stop = ends | {prompts.end_of(row)}
            if recipe.several is not None:
                said["teacher"] = write_together(recipe, models, row, prompt, room, stop)
            for name, model in models.items():
                said[name], _ = greedy([model], prompt, room, stop=stop)
            advance(1)
            read = {name: str(tokenizer.decode(ids, skip_special_tokens=True)) for name, ids in said.items()}
            asked, truth = prompts.shown(row)
            found.append(
                Generation(id=row.id, prompt=asked[-SHOWN_CHARACTERS:], truth=truth[:SHOWN_CHARACTERS], said=read)
            )
    return found


def _speed(
    run: RunDir, recipe: Recipe, inputs: Inputs, folders: Mapping[str, ModelFolder], engine: Engine
) -> tuple[int, dict[str, Speed]]:
    """How many prompts were timed, and the speed of each model."""
    settings = recipe.evaluate
    chosen = _chosen(recipe, inputs, settings.prompts, "latency")
    # Plain texts have no prompt, and speed does not depend on which tokens it has.
    prompts = tuple(ids for _, ids in chosen) or (tuple(range(1, 17)),)
    requests = {
        name: GenerationRequest(
            model=str(folder.path),
            prompts=prompts,
            new_tokens=max(2, settings.new_tokens),
            threads=settings.threads,
            warmup=settings.warmup,
            device=engine.device.type,
            trust_remote_code=folder.trust_remote_code,
            **(speed_of_several(recipe, folders) if name == "teacher" else {}),
        )
        for name, folder in folders.items()
    }
    with run.progress.task("evaluate: speed", settings.rounds * len(folders), "processes") as advance:
        return len(prompts), measure_speed(requests, rounds=settings.rounds, advance=advance)
