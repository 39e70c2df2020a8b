"""What other programs may import stays where it is."""

import inspect
import subprocess
import sys

import potstill
from potstill.losses import soft_target_kl


def test_public_names() -> None:
    assert potstill.__all__ == ["PotstillError", "Recipe", "__version__", "load_recipe", "run_recipe"]
    for name in potstill.__all__:
        assert getattr(potstill, name) is not None
    assert not hasattr(potstill, "no_such_name")


def test_signatures() -> None:
    assert list(inspect.signature(potstill.load_recipe).parameters) == ["path", "overrides"]
    assert list(inspect.signature(potstill.run_recipe).parameters) == ["recipe", "base", "out", "progress", "until"]
    parameters = inspect.signature(soft_target_kl).parameters
    assert list(parameters) == ["student_logits", "teacher_logits", "mask", "temperature"]
    assert parameters["mask"].default is None
    assert parameters["temperature"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, potstill.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
