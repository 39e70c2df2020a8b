"""Whether the judge of a recipe can judge, found out before anything is trained."""

import os
from importlib.util import find_spec

from potstill.data.fields import shown
from potstill.data.kept_fields import LONGEST_VALUE
from potstill.errors import RecipeError
from potstill.evaluation.case import Case
from potstill.evaluation.judged_writing.mathematics import PACKAGE
from potstill.evaluation.metrics import Metric
from potstill.evaluation.slices import field_values
from potstill.recipe.requirements import Requirement
from potstill.recipe.writing_judges import MathVerify, ServerJudge
from potstill.tasks.generative import generative


def require_judge(case: Case) -> None:
    """That what it needs is installed, in the environment and in the rows.

    Raises:
        RecipeError: names what is missing.
    """
    judge = case.recipe.evaluate.judge
    if judge is None:
        return
    if isinstance(judge, ServerJudge):
        key_of(judge)
        return
    if isinstance(judge, MathVerify) and find_spec(PACKAGE) is None:
        raise RecipeError(
            "evaluate.judge: math_verify needs the package math-verify. Run: pip install 'potstill[math]'"
        )
    prompts = generative(case.recipe.task).prompts(case.tokenizer)
    if judge.answer is None and not any(prompts.asks(row) for row in case.test):
        raise RecipeError(
            f"evaluate.judge: {judge.kind} compares with the response of a row, and the rows of data.test are plain "
            "texts. Name the field that holds what is right as evaluate.judge.answer, or drop the judge."
        )
    if judge.answer is None:
        return
    values = field_values(case.test, judge.answer)
    if all(value is None for value in values):
        raise RecipeError(
            f"evaluate.judge.answer: no row of data.test has a value of {shown(judge.answer)}. Name the field that "
            "holds what is right, or drop the key for the last response of each row."
        )
    for row, value in zip(case.test, values, strict=True):
        if value is not None and len(value) >= LONGEST_VALUE:
            raise RecipeError(
                f"evaluate.judge.answer: {shown(judge.answer)} of the row {shown(row.id)} of data.test has "
                f"{LONGEST_VALUE} characters or more, and answers are shorter. Give the answer alone."
            )


def require_judged(case: Case, requirement: Requirement, required: Metric) -> None:
    """That the judge says what the gate asks for.

    Raises:
        RecipeError: it only compares, and the gate asks how much is right.
    """
    judge = case.recipe.evaluate.judge
    if required.name == "written_accuracy" and isinstance(judge, ServerJudge):
        raise RecipeError(
            f"gate.{requirement.key}: a judge of kind server compares answers and says of none that it is right. "
            "Require as_good_as_teacher, or take a judge that knows what is right, such as exact_match."
        )


def key_of(settings: ServerJudge) -> str | None:
    """The key, from the environment.

    Raises:
        RecipeError: there is none, or one that no header can hold.
    """
    name = settings.api_key_env
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        # Its name is not shown, for it could be the key itself.
        raise RecipeError(
            "evaluate.judge.api_key_env: the environment variable that it names is not set. Export the key."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise RecipeError(
            "evaluate.judge.api_key_env: what this variable holds is no key, for it has spaces or other signs. Export "
            "the key alone."
        )
    return key
