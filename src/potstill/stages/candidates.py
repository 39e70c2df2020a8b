"""`potstill students`: which students there are under a budget, with what each costs on this machine."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.records import ShapeRecord
from potstill.stages.inputs import Inputs
from potstill.stages.student_search import (
    Candidate,
    designed_candidates,
    flops_per_token,
    shape_of,
    sized_candidates,
    within,
)
from potstill.students import Budget, Pretrained

ROUNDS, FORWARDS = 3, 5


@dataclass(frozen=True)
class Costs:
    """What a model costs, beside its teacher."""

    shape: ShapeRecord
    flops_per_token: float
    latency_ms: float | None
    """Median of a forward pass over one row, of the fastest of the rounds; None where it was not measured."""
    design: str | None = None
    """The name of its design, where it has one."""

    @property
    def weight_bytes(self) -> int:
        """In float32."""
        return 4 * self.shape.parameters


def costs_of_students(
    recipe: Recipe,
    inputs: Inputs,
    progress: Progress,
    *,
    parameters: int | None = None,
    flops_ratio: float | None = None,
    most: int = 12,
    measured: bool = True,
) -> tuple[Costs, list[tuple[Candidate, Costs]]]:
    """The teacher's costs, and those of at most so many candidates within the limits, the largest first."""
    config = inputs.lead.config
    teacher = shape_of(recipe, config, inputs.labels)
    flops = flops_per_token(recipe, teacher)
    asked = recipe.student if isinstance(recipe.student, Budget) else inputs.student
    # In place of one that exists already, those are shown that could be cut from the teacher.
    like = None if isinstance(asked, Pretrained) else asked
    found = sized_candidates(recipe, config, inputs.labels, like, inputs.vocabulary)
    fitting, named = (
        within(each, flops, parameters=parameters, flops_ratio=flops_ratio)
        for each in (found, designed_candidates(recipe, config, inputs.labels, inputs.vocabulary))
    )
    named = [each for each in named if each.shape.parameters < teacher.parameters]
    chosen = _spread(fitting, max(1, most - len(named)))
    chosen = sorted([*chosen, *named][:most], key=lambda each: -each.shape.parameters)
    configs = [config, *(each.config for each in chosen)]
    latencies: list[float | None] = [None] * len(configs)
    if measured:
        with progress.task("students: latency", ROUNDS * len(configs), "measurements") as advance:
            latencies = list(_latencies(recipe, inputs, configs, advance))
    costs = [
        Costs(shape, operations, latency, design)
        for shape, operations, latency, design in zip(
            [teacher, *(each.shape for each in chosen)],
            [flops, *(each.flops_per_token for each in chosen)],
            latencies,
            [None, *(each.design for each in chosen)],
            strict=True,
        )
    ]
    return costs[0], list(zip(chosen, costs[1:], strict=True))


def _spread(found: Sequence[Candidate], most: int) -> list[Candidate]:
    """Of many, some over the whole range."""
    if len(found) <= most:
        return list(found)
    step = (len(found) - 1) / max(1, most - 1)
    return [found[round(number * step)] for number in range(most)]


def _latencies(recipe: Recipe, inputs: Inputs, configs: Sequence[PretrainedConfig], advance) -> Iterator[float]:  # type: ignore[no-untyped-def]
    """Of each, with random weights: what a forward pass costs does not depend on them."""
    rows = inputs.splits["test"].rows[:1]
    # The first is the teacher.
    of_teacher, of_student = (
        recipe.task.encode(rows, own.tokenizer, inputs.labels).collate([0]) for own in (inputs, inputs.of_student)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.evaluate.threads)
    models = []
    for config in configs:
        values = config.to_dict() | recipe.task.config_values(inputs.labels)
        models.append(recipe.task.new_model(type(config).from_dict(values)).eval())
    best = [float("inf")] * len(models)
    try:
        for _ in range(ROUNDS):
            for number, model in enumerate(models):
                taken = []
                for _ in range(FORWARDS):
                    started = time.perf_counter()
                    with torch.inference_mode():
                        outputs = recipe.task.ask(model, of_student if number else of_teacher)
                        if outputs.hidden is not None and outputs.head is not None:
                            # A token is written from the last position alone.
                            outputs.head.logits(outputs.hidden[0, -1:])
                    taken.append(1000 * (time.perf_counter() - started))
                best[number] = min(best[number], statistics.median(taken))
                advance(1)
    finally:
        torch.set_num_threads(before)
    yield from best
