"""What other programs may import stays where it is."""

import dataclasses
import inspect
import subprocess
import sys

import potstill
from potstill.losses import soft_target_kl


def test_public_names() -> None:
    names = ["Distilled", "PotstillError", "Recipe", "__version__", "distill", "load_recipe", "run_recipe"]
    assert potstill.__all__ == names
    for name in potstill.__all__:
        assert getattr(potstill, name) is not None
    assert not hasattr(potstill, "no_such_name")


def test_signatures() -> None:
    assert list(inspect.signature(potstill.load_recipe).parameters) == ["path", "overrides"]
    assert list(inspect.signature(potstill.run_recipe).parameters) == ["recipe", "base", "out", "progress", "until"]
    parameters = inspect.signature(potstill.distill).parameters
    assert list(parameters) == ["teacher", "student", "data", "task", "out", "tokenizer", "progress", "settings"]
    positional = [name for name, each in parameters.items() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["teacher", "student", "data"]
    required = [name for name, each in parameters.items() if each.default is inspect.Parameter.empty]
    assert required == ["teacher", "student", "data", "task", "out", "settings"]
    assert [field.name for field in dataclasses.fields(potstill.Distilled)] == [
        "passed",
        "model",
        "tokenizer",
        "recipe",
        "evaluation",
        "gate",
        "export",
        "folder",
        "report",
    ]
    parameters = inspect.signature(soft_target_kl).parameters
    assert list(parameters) == ["student_logits", "teacher_logits", "mask", "temperature"]
    assert parameters["mask"].default is None
    assert parameters["temperature"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, potstill.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_is_imported_without_what_its_functions_need() -> None:
    code = "import sys, potstill; sys.exit(bool({'torch', 'transformers', 'pydantic', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
