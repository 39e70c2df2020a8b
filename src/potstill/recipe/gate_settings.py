"""What the student must reach: thresholds by their keys, and requirements of any metric by its name."""

import difflib
from collections.abc import Collection, Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from potstill.capabilities import Facts
from potstill.recipe.requirements import Requirement, parse_requirement
from potstill.settings import Settings

Positive = Annotated[float, Field(gt=0)]

THRESHOLD_KEYS = frozenset(
    {
        "min_retention",
        "max_drop_points",
        "min_speedup",
        "max_latency_p95_ms",
        "max_size_bytes",
        "max_peak_memory_bytes",
        "min_agreement",
        "max_kl_from_teacher",
        "min_kl_gain_over_baseline",
        "min_gain_over_baseline_points",
    }
)
"""Keys of the gate that are thresholds: `min_` or `max_` and the name of a metric."""


class GateSettings(Settings):
    """What the student must reach to go on to export. A threshold that is not set is not checked.

    Any metric of the task is required by its name, in either direction and in the units of what is to be shipped:
    `accuracy: ">= 92 %"`, `size_bytes: "<= 40 MB"`, `latency_p50_ms: "< 5 ms"`, `speedup: ">= 8x"`. With `(95%)` behind
    the number, as in `gain_over_baseline_points: "> 0 (95%)"`, the one-sided 95 % bound of the metric must meet it. One
    that is named so replaces the threshold by default of the same metric.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str] = Field(init=False)

    allow_weak_teacher: bool = False
    """Judge the student also where its teacher is no better than TF-IDF, the most frequent class or chance; of language
    models than the frequencies of tokens or the untrained student. Else that fails the run, whatever the thresholds."""
    allow_degenerate_writing: bool = Field(default=False, exclude_if=lambda allowed: not allowed)
    """Judge a language model also where it repeats itself, or does not come to an end, far more often than its teacher.
    Else that fails the run, whatever the thresholds, for a model can be near its teacher token by token and still write
    the same words over and over."""
    min_retention: float | None = Field(default=0.95, gt=0)
    """Student / teacher of the primary metric."""
    max_drop_points: float | None = None
    min_speedup: float | None = Field(default=None, gt=0)
    """Teacher / student median latency at batch 1; of models in half precision the lower of theirs, in it and in
    float32."""
    max_latency_p95_ms: Positive | None = None
    """Needs 100 timed rows or prompts."""
    max_size_bytes: Positive | None = None
    max_peak_memory_bytes: Positive | None = None
    min_agreement: float | None = Field(default=None, gt=0, le=1)
    """Share of test rows on which the student predicts what the teacher predicts."""
    max_kl_from_teacher: Positive | None = None
    """Of language models: mean KL from the teacher at temperature 1, in nats a token."""
    min_kl_gain_over_baseline: float | None = None
    """Of language models: how much nearer to the teacher than the baseline, in nats a token."""
    min_gain_over_baseline_points: float | None = None
    """Student minus baseline; a negative threshold allows distilling to lose."""
    require: dict[str, str] = Field(default_factory=dict, exclude_if=lambda required: not required)
    """Requirements of metrics by their names, as they can also stand directly under `gate`."""
    harness: dict[str, str] = Field(default_factory=dict, exclude_if=lambda required: not required)
    """Requirements of the tasks of `evaluate.harness`, as `arc_easy.acc: ">= 0.4"`, and of the share of its teacher's
    that the student keeps, as `arc_easy.acc.retention: ">= 95 %"`. With `(95%)` the bound is by the harness' standard
    error. Forms other than the student's own files are not put to tasks, and so cannot be exported beside them."""

    @model_validator(mode="before")
    @classmethod
    def _other_keys_are_requirements(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        under = values.get("require")
        required = under if isinstance(under, dict) else {}
        found: dict[tuple[str, ...], str | None] = {
            (key,): _misfit(key, value, cls.model_fields, required) for key, value in values.items()
        }
        found |= {("require", name): _no_requirement(name, value) for name, value in required.items()}
        of_tasks = values.get("harness")
        tasks = of_tasks if isinstance(of_tasks, dict) else {}
        found |= {("harness", name): _no_task_requirement(name, value) for name, value in tasks.items()}
        if problems := [_problem(place, said) for place, said in found.items() if said is not None]:
            raise ValidationError.from_exception_data("gate", problems)
        return values

    @model_validator(mode="after")
    def _no_threshold_is_given_twice(self) -> "GateSettings":
        named = {requirement.metric: requirement.key for requirement in self._named()}
        for key in sorted(THRESHOLD_KEYS):
            name, value = key.partition("_")[2], getattr(self, key)
            if name not in named or value is None:
                continue
            if value != type(self).model_fields[key].default:
                said = f"{key} and {named[name]} are thresholds of the same metric. Drop one."
                raise ValidationError.from_exception_data("gate", [_problem((key,), said)])
            # Frozen: this is still its making.
            object.__setattr__(self, key, None)
        return self

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.means and self.min_agreement is not None:
            yield f"{where}.min_agreement: numbers that are near each other do not agree. Drop it."

    def requirements(self) -> Iterator[Requirement]:
        """Every threshold that is set."""
        for key in type(self).model_fields:
            threshold = getattr(self, key)
            if key in THRESHOLD_KEYS and threshold is not None:
                bound, _, name = key.partition("_")
                yield Requirement(name, ">=" if bound == "min" else "<=", threshold, key=key)
        yield from self._named()

    def harness_requirements(self) -> Iterator[Requirement]:
        """Those of tasks, each by task and metric."""
        for name, text in self.harness.items():
            yield parse_requirement(name, text, key=f"harness.{name}")

    def _named(self) -> Iterator[Requirement]:
        """The requirements by the names of metrics, where they stand."""
        for name, text in self.require.items():
            yield parse_requirement(name, text)
        for name, text in (self.model_extra or {}).items():
            yield parse_requirement(name, text, key=name)


def _misfit(key: str, value: Any, fields: Collection[str], required: Collection[str]) -> str | None:
    """What is wrong with a key of the gate, or with a text at one that takes a number."""
    bound, _, metric = key.partition("_")
    if key in THRESHOLD_KEYS and isinstance(value, str) and not _is_number(value):
        sign = ">=" if bound == "min" else "<="
        return f'it takes a number alone. With a unit, it is written as {metric}: "{sign} ...".'
    if key in fields:
        return None
    # No metric's name begins as those of thresholds do.
    if bound in ("min", "max") or isinstance(value, bool) or not isinstance(value, int | float | str):
        close = difflib.get_close_matches(key, fields, n=1)
        return f"unknown{f'; did you mean {close[0]}?' if close else '.'}"
    if key in required:
        return "it is required both here and under require. Keep one."
    return _no_requirement(key, value)


def _no_requirement(metric: str, value: Any) -> str | None:
    """Why a value that is a text or a number is no requirement."""
    if isinstance(value, str):
        try:
            parse_requirement(metric, value)
        except ValueError as error:
            return str(error)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        alone = next((key for key in sorted(THRESHOLD_KEYS) if key.partition("_")[2] == metric), None)
        instead = f"{alone}: {value}" if alone else f'"<= {value}" where less is better'
        return f'{value} alone does not tell which way. Write {metric}: ">= {value}", or {instead}.'
    return None


def _no_task_requirement(name: str, value: Any) -> str | None:
    """The same of a requirement of a task."""
    if isinstance(name, str) and "." not in name.strip("."):
        return 'it names no metric. Write the task and one of its metrics, as in arc_easy.acc: ">= 0.4".'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'{value} alone does not tell which way. Write {name}: ">= {value}".'
    if (said := _no_requirement(name, value)) is not None or not isinstance(value, str):
        return said
    unit = parse_requirement(name, value).unit
    return None if unit in (None, "%") else f"the harness gives numbers without a unit, and shares. Leave out {unit}."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _problem(place: tuple[str, ...], said: str) -> InitErrorDetails:
    # Without an input, which would be shown a second time.
    return InitErrorDetails(type=PydanticCustomError("requirement", "{said}", {"said": said}), loc=place, input=None)
