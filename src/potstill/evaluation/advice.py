"""What would have to change for the checks that failed, and which other model would pass."""

import math
from collections.abc import Sequence

from potstill.evaluation.as_student import as_student, others
from potstill.evaluation.checks import bound_of, checks_of, drawn
from potstill.evaluation.harness_gate import harness_advice
from potstill.evaluation.metrics import Metric, Unit, metric
from potstill.evaluation.writing_checks import LEGS
from potstill.presentation.formats import number, sentence, size
from potstill.recipe import GateSettings
from potstill.recipe.requirements import Requirement, in_unit, with_unit
from potstill.records import Check, EvaluateRecord


def would_pass(settings: GateSettings, evaluation: EvaluateRecord) -> list[str]:
    """The other models of the run that meet every check in the student's place."""
    return [
        name
        for name in others(evaluation)
        if all(check.passed for check in checks_of(settings, as_student(evaluation, name)))
    ]


def advice(
    settings: GateSettings, evaluation: EvaluateRecord, checks: Sequence[Check], instead: Sequence[str]
) -> list[str]:
    """A sentence for each check that failed, and one for the models that would pass."""
    requirements = list(settings.requirements())
    # Before those of the recipe stand the checks that are always made, and behind them those of tasks.
    of_tasks = len(checks) - len(settings.harness)
    always = of_tasks - len(requirements)
    found = [_of_own(check) for check in checks[:always] if not check.passed]
    for requirement, check in zip(requirements, checks[always:of_tasks], strict=True):
        if not check.passed:
            found.append(_of_requirement(requirement, check, evaluation))
    found += harness_advice(checks[of_tasks:])
    if instead:
        names = " and ".join(f"the {name}" if name == "baseline" else f"{name!r}" for name in instead)
        found.append(f"{sentence(names)} would pass every check in the student's place.")
    return found


def _of_own(check: Check) -> str:
    """Of a check that is made whatever the recipe asks for."""
    for leg in LEGS:
        if leg.check == check.name and check.measured is not None:
            words = sentence(check.name.removesuffix("_points").replace("_", " "))
            return f"{words}: {_figure(check.measured - leg.most)} points more than the {leg.most:g} points allowed."
    return (
        f"{sentence(check.name.replace('_', ' '))}: the teacher has {number(check.measured)}, and must have "
        f"{check.required}. Until then its student is not worth keeping."
    )


def _of_requirement(requirement: Requirement, check: Check, evaluation: EvaluateRecord) -> str:
    required = metric(requirement.metric)
    words, value = sentence(required.named(evaluation.answers)), check.measured
    if check.why is not None or value is None:
        return f"{words} was not measured: {check.why}." if value is None else f"{words}: {check.why}."
    if not requirement.met_by(value):
        return f"{words}: {_miss(requirement, required, value)}."
    return f"{words}: {_rows_needed(requirement, required, value, evaluation)}."


def _miss(requirement: Requirement, required: Metric, value: float) -> str:
    """By how much a value misses its threshold."""
    limit = amount(required, requirement.threshold, requirement.unit)
    difference = abs(value - requirement.threshold)
    if difference == 0:
        return f"exactly {limit}, and it must be {'above' if requirement.from_below else 'below'} that"
    way, wanted = ("less", "required") if requirement.from_below else ("more", "allowed")
    missed = f"{distance(required, difference, requirement.unit)} {way} than the {limit} {wanted}"
    return f"{missed}; the value itself misses it, so more rows would not help" if requirement.confident else missed


def _rows_needed(requirement: Requirement, required: Metric, value: float, evaluation: EvaluateRecord) -> str:
    """How many rows would bring a bound to the threshold if the value stays as it is: the way from a value to its bound
    shrinks with the root of the rows."""
    bound = bound_of(requirement, required.in_record(evaluation), evaluation)
    assert bound is not None
    rows, of, key = drawn(required, evaluation)
    margin, gap = abs(value - requirement.threshold), abs(value - bound)
    limit, found, sure = (amount(required, each, requirement.unit) for each in (requirement.threshold, value, bound))
    begin = f"its value, {found}, is {requirement.sign} {limit}, and its 95 % bound, {sure}, is not"
    if margin == 0:
        return f"{begin}; it is the threshold itself, so no number of rows would do"
    needed = _rounded_up(rows * (gap / margin) ** 2)
    return f"{begin}; if the value stays, about {needed:,} {of} would do in place of {rows:,} ({key})"


def _rounded_up(count: float) -> int:
    """To two digits, since more would look surer than it is."""
    step = 10.0 ** max(0, math.floor(math.log10(count)) - 1)
    return int(math.ceil(count / step) * step)


def amount(required: Metric, value: float, unit: str | None) -> str:
    """A value of a metric in the unit that it is asked for in, else in its own."""
    if unit is not None:
        return with_unit(number(in_unit(value, unit)), unit)
    match required.unit:
        case Unit.SHARE:
            return f"{number(100 * value)} %"
        case Unit.BYTES:
            return size(round(value))
        case own:
            return f"{number(value)}{_BEHIND[own]}"


def distance(required: Metric, difference: float, unit: str | None) -> str:
    """How far two values are apart; of shares in points."""
    if required.unit is Unit.SHARE:
        return f"{_figure(100 * difference)} points"
    if unit is not None:
        return with_unit(_figure(in_unit(difference, unit)), unit)
    if required.unit is Unit.BYTES:
        return size(round(difference))
    return f"{_figure(difference)}{_BEHIND[required.unit]}"


_BEHIND = {
    Unit.POINTS: " points",
    Unit.NATS: " nats",
    Unit.RATIO: "x",
    Unit.NUMBER: "",
    Unit.MS: " ms",
    Unit.PER_S: "/s",
    Unit.COUNT: "",
}


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.3g}"
