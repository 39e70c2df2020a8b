"""gate: the recipe's thresholds against what was measured."""

from potstill.evaluation.advice import advice, would_pass
from potstill.evaluation.checks import checks_of
from potstill.evaluation.findings import weak_teacher
from potstill.evaluation.queries import thresholds_upside_down
from potstill.evaluation.writing_checks import degenerate_writing
from potstill.recipe import GateSettings, Recipe
from potstill.records import EvaluateRecord, GateRecord
from potstill.run_dir import RunDir, fingerprint

JUDGES = 4
"""Raised where the same measurements would be judged in another way than before."""


def gate(run: RunDir, recipe: Recipe, evaluation: EvaluateRecord) -> GateRecord:
    """The verdict with its reasons."""
    depends = {"gate": recipe.gate, "evaluation": fingerprint(evaluation), "judges": JUDGES}
    return run.once("gate", depends, GateRecord, lambda _: judge(recipe.gate, evaluation))


def judge(settings: GateSettings, evaluation: EvaluateRecord) -> GateRecord:
    """The verdict: every check, and where one fails what would have to change; what was not measured fails."""
    checks = checks_of(settings, evaluation)
    passed = all(check.passed for check in checks)
    instead = [] if passed else would_pass(settings, evaluation)
    return GateRecord(
        passed=passed,
        checks=checks,
        weak_teacher=weak_teacher(evaluation),
        degenerate=degenerate_writing(evaluation),
        advice=[] if passed else advice(settings, evaluation, checks, instead),
        would_pass=instead,
        warnings=list(thresholds_upside_down(settings, evaluation.answers)),
    )
