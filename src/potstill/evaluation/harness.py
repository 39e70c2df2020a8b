"""The models of a run in tasks of lm-evaluation-harness (Gao et al. 2021, doi:10.5281/zenodo.5371628)."""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

from potstill.errors import ModelError, PotstillError
from potstill.evaluation.harness_tasks import HarnessTask, task_given
from potstill.progress import Progress
from potstill.recipe.harness_settings import HarnessSettings
from potstill.records import HarnessRecord, HarnessScore, HarnessValue
from potstill.runtimes.predictor import Predictor
from potstill.runtimes.transformers import TransformersPredictor

BOOTSTRAP = 1000
"""Resamples behind the standard error of a metric without a formula for it; the harness draws at most a thousand at a
time."""


def harness_scores(
    settings: HarnessSettings, tasks: Sequence[HarnessTask], predictors: Mapping[str, Predictor], progress: Progress
) -> HarnessRecord:
    """All models, one after the other, each in memory alone.

    Raises:
        ModelError: a task that cannot be run; carries what the harness says.
    """
    found: dict[tuple[str, str], HarnessScore] = {}
    with progress.task("evaluate: harness", len(predictors), "models") as advance:
        for name, predictor in predictors.items():
            assert isinstance(predictor, TransformersPredictor), "the recipe has one teacher, which transformers loads"
            results = _results(settings, tasks, name, predictor)
            for score in _scores(results, name):
                key = score.task, score.metric
                known = found.setdefault(key, score)
                found[key] = known.model_copy(update={"models": known.models | score.models})
            predictor.release()
            advance(1)
    return HarnessRecord(
        version=version("lm-eval"), few_shot=settings.few_shot, limit=settings.limit, scores=list(found.values())
    )


def _results(
    settings: HarnessSettings, tasks: Sequence[HarnessTask], name: str, predictor: TransformersPredictor
) -> Mapping[str, Any]:
    """What the harness says of one model."""
    # It draws resamples in as many processes as there are cores, unless told not to.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with _quiet():
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        try:
            with _templates_in_a_sandbox(trusted=settings.trust_remote_code):
                manager = TaskManager(include_defaults=any(task.file is None for task in tasks))
                model = HFLM(pretrained=predictor.model, tokenizer=predictor.tokenizer, batch_size=settings.batch_size)
                results: Mapping[str, Any] | None = simple_evaluate(
                    model=model,
                    tasks=[task_given(task, trusted=settings.trust_remote_code) for task in tasks],
                    task_manager=manager,
                    num_fewshot=settings.few_shot,
                    limit=settings.limit,
                    apply_chat_template=settings.apply_chat_template,
                    bootstrap_iters=BOOTSTRAP,
                    log_samples=False,
                    # The generators of the run go on as they are.
                    random_seed=None,
                    numpy_random_seed=None,
                    torch_random_seed=None,
                    confirm_run_unsafe_code=settings.trust_remote_code,
                )
        except PotstillError:
            raise
        except Exception as error:  # of a library that runs what files say
            told = " ".join(str(error).split())[:300]
            raise ModelError(
                f"evaluate.harness: {name} could not be put to its tasks ({type(error).__name__}: {told}). Mend the "
                "task, have its data in the cache of datasets, or drop it."
            ) from None
    assert results is not None, "this is the main process"
    return results


def _scores(results: Mapping[str, Any], model: str) -> Iterator[HarnessScore]:
    """Every metric of every task; its key in results is its name, a comma and the filter of responses."""
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            higher = results["higher_is_better"].get(task, {}).get(metric)
            better: Literal["higher", "lower"] | None = None if higher is None else "higher" if higher else "lower"
            found = HarnessValue(value=value, standard_error=error if _is_finite(error) else None)
            yield HarnessScore(
                task=task,
                metric=metric if filtered == "none" else f"{metric} ({filtered})",
                documents=int(values.get("sample_len", 0)),
                better=better,
                models={model: found} if _is_finite(value) else {},
            )


def _is_finite(value: Any) -> bool:
    """Whether it is a number; the mean of nothing is none."""
    return isinstance(value, int | float) and math.isfinite(value)


@contextlib.contextmanager
def _templates_in_a_sandbox(*, trusted: bool) -> Iterator[None]:
    """The templates of task files without what would run Python (Jinja, "Sandbox")."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    if trusted:
        yield
        return
    own = utils.env
    sandbox = ImmutableSandboxedEnvironment(
        loader=own.loader, undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    sandbox.filters |= own.filters
    utils.env = sandbox
    try:
        yield
    finally:
        utils.env = own


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its bars and its news, which would break ours; what is wrong it raises."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.CRITICAL)
    with (
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        try:
            yield
        finally:
            log.setLevel(level)
