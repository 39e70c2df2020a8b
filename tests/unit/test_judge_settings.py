"""Judges that a recipe names: which are refused, without showing a secret, and what they lack before training."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from potstill.errors import RecipeError
from potstill.evaluation.case import Case
from potstill.evaluation.judged_writing import required
from potstill.evaluation.queries import require_measurable
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.stage_settings import EvaluateSettings
from potstill.recipe.writing_judges import AnyWritingJudge, ExactMatch, ServerJudge
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import make_chat_project


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "regular_expression", "pattern": "(a"}, "'(a' is no regular expression"),
        ({"kind": "regular_expression", "pattern": "(a)", "group": 2}, "has no group 2. Name one of: 0, 1"),
        ({"kind": "regular_expression", "pattern": "(?P<x>a)", "group": "y"}, "Name one of: 0, 1, x"),
        ({"kind": "server", "url": "localhost:8000", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "ftp://host/v1", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "http://host:port/v1", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "https://me:secret@host/v1", "model": "m"}, "without user"),
        ({"kind": "server", "url": "https://host/v1?key=secret", "model": "m"}, "without user"),
        ({"kind": "server", "url": "http://host/v1", "model": "m", "api_key_env": "K"}, "in the clear"),
        ({"kind": "server", "url": "https://1.2.3.999/v1", "model": "m"}, "expected the address of a server"),
        ({"kind": "server", "url": "https://host/v1", "model": "m", "api_key": "secret"}, "api_key"),
        ({"kind": "server", "url": "https://host/v1", "model": "m", "api_key_env": "sk-1"}, "name of an environment"),
        ({"kind": "server", "url": "https://host/v1", "model": "m", "api_key_env": "1a"}, "name of an environment"),
        ({"kind": "server", "url": "https://host/v1", "model": "m", "api_key_env": "A\n"}, "name of an environment"),
        ({"kind": "server", "url": "https://host/v1", "model": "m", "api_key_env": ""}, "name of an environment"),
        ({"kind": "oracle"}, "oracle"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyWritingJudge)
    with pytest.raises(ValidationError, match=re.escape(told)):
        adapter.validate_python(settings)


def test_addresses_are_taken_as_they_are_written() -> None:
    for url in ("http://localhost:8000/v1", "http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"):
        assert ServerJudge(url=url, model="m").endpoint == "http://localhost:8000/v1/chat/completions"
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert ServerJudge(url=f"http://{host}:1/v1", model="m", api_key_env="K").api_key_env == "K"


def test_variables_of_keys_have_names_of_variables() -> None:
    for name in ("K", "_", "judge_KEY_2"):
        assert ServerJudge(url="https://host/v1", model="m", api_key_env=name).api_key_env == name
    with pytest.raises(ValidationError) as error:
        ServerJudge(url="https://host/v1", model="m", api_key_env="sk-hidden")
    assert "hidden" not in str(error.value)


def test_the_field_of_answers_is_kept_once() -> None:
    assert EvaluateSettings(slices=("a",), judge=ExactMatch(answer="b")).kept_fields == ("a", "b")
    assert EvaluateSettings(slices=("a",), judge=ExactMatch(answer="a")).kept_fields == ("a",)
    assert EvaluateSettings(slices=("a",), judge=ExactMatch()).kept_fields == ("a",)


def prepared(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return case_of(recipe, read_inputs(recipe, project), Progress())


def with_answers(project: Path, answer: Any) -> None:
    """What `answer` gives for the number of a row becomes its field `result`, where it is something."""
    path = project / "data/test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [row | ({} if (given := answer(number)) is None else {"result": given}) for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


SERVER = "evaluate.judge={kind: server, url: 'http://localhost:1/v1', model: m, api_key_env: JUDGE_KEY}"


def test_what_a_judge_lacks_is_found_out_before_training(
    tmp_path: Path, chat_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    for judge in ("{kind: exact_match}", "{kind: regular_expression, pattern: a}"):
        require_measurable(prepared(project, f"evaluate.judge={judge}", "gate.written_accuracy='>= 0.1 (95%)'"))
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    refused = {
        "evaluate.judge.api_key_env: the environment variable that it names is not set": [SERVER],
        'no row of data.test has a value of "result"': ["evaluate.judge={kind: exact_match, answer: result}"],
        "gate.as_good_as_teacher: needs evaluate.judge, who says": ["gate.as_good_as_teacher='>= 0.9'"],
        "nothing of fewer than 6 prompts holds with 95 % confidence, and evaluate.written is 5": [
            "evaluate.judge={kind: exact_match}",
            "evaluate.written=5",
            "gate.as_good_as_teacher='>= 0.9 (95%)'",
        ],
    }
    for told, changes in refused.items():
        with pytest.raises(RecipeError, match=re.escape(told)):
            require_measurable(prepared(project, *changes))
    monkeypatch.setenv("JUDGE_KEY", "k")
    require_measurable(prepared(project, SERVER, "gate.as_good_as_teacher='>= 0.9'"))
    with pytest.raises(RecipeError, match=r"gate.written_accuracy: a judge of kind server compares answers"):
        require_measurable(prepared(project, SERVER, "gate.written_accuracy='>= 0.9'"))
    monkeypatch.setattr(required, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"math-verify. Run: pip install 'potstill\[math\]'"):
        require_measurable(prepared(project, "evaluate.judge={kind: math_verify}"))
    require_measurable(prepared(project, "evaluate.judge={kind: exact_match}"))


def test_fields_of_answers_must_be_kept_whole(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    named = "evaluate.judge={kind: exact_match, answer: result}"
    with_answers(project, lambda number: "a" * 199 if number == 7 else None)
    require_measurable(prepared(project, named))
    with_answers(project, lambda number: "a" * 200 if number == 7 else None)
    with pytest.raises(RecipeError, match=r'"result" of the row "test-7" of data\.test has 200 characters or more'):
        require_measurable(prepared(project, named))


def test_plain_texts_have_no_answer_of_their_own(tmp_path: Path, chat_teacher_folder: Path) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    rows = [{"id": f"{n}", "text": f"w{n} w1 w2 w3", "result": "w3"} for n in range(1, 9)]
    (project / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RecipeError, match="exact_match compares with the response of a row"):
        require_measurable(prepared(project, "evaluate.judge={kind: exact_match}"))
    require_measurable(prepared(project, "evaluate.judge={kind: exact_match, answer: result}"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["evaluate.written=0", "evaluate.judge={kind: exact_match}"], "evaluate.judge: judges what is written after"),
        (
            ["evaluate.judge={kind: server, url: 'https://u:hidden@h/v1', model: m}"],
            "evaluate.judge: url: expected an address without user",
        ),
        (["evaluate.judge={kind: server, url: 'https://h/v1?k=hidden', model: m}"], "url: expected an address without"),
        (["evaluate.judge={kind: server, url: 'https://h/v1', model: m, api_key: hidden}"], "judge.api_key: unknown"),
        (
            ["evaluate.judge={kind: server, url: 'https://h/v1', model: m, api_key_env: sk-hidden}"],
            "evaluate.judge: api_key_env: expected the name of an environment variable",
        ),
        (
            ["evaluate.judge={kind: server, url: 'https://h/v1', model: m, api_key_env: [sk-hidden]}"],
            "evaluate.judge: api_key_env: expected the name of an environment variable",
        ),
        (
            ["evaluate.judge={kind: server, url: 'https://h/v1', model: m, api_key_env: 77665544}"],
            "evaluate.judge: api_key_env: expected the name of an environment variable",
        ),
    ],
)
def test_a_recipe_with_a_bad_judge_is_refused_without_its_secrets(
    tmp_path: Path, chat_teacher_folder: Path, changes: list[str], told: str
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    with pytest.raises(RecipeError, match=re.escape(told)) as error:
        load_recipe(project / "recipe.yaml", changes)
    assert "hidden" not in str(error.value) and "776655" not in str(error.value)


def test_of_classes_nobody_judges_what_is_written() -> None:
    told = "judges what language models write, and text_classification writes nothing"
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(
            {
                "task": {"kind": "text_classification"},
                "data": {"train": "a", "validation": "b", "test": "c"},
                "teacher": {"model": "m"},
                "evaluate": {"judge": {"kind": "exact_match"}},
            }
        )
