"""potstill distils a large model into a small one that you can ship, and measures that it is good enough."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from potstill.errors import PotstillError

if TYPE_CHECKING:
    from potstill.distillation import Distilled, distill
    from potstill.pipeline import run_recipe
    from potstill.recipe import Recipe
    from potstill.recipe.yaml_file import load_recipe

__version__ = version("potstill")
__all__ = ["Distilled", "PotstillError", "Recipe", "__version__", "distill", "load_recipe", "run_recipe"]

_LATER = {
    "Distilled": "potstill.distillation",
    "Recipe": "potstill.recipe",
    "distill": "potstill.distillation",
    "load_recipe": "potstill.recipe.yaml_file",
    "run_recipe": "potstill.pipeline",
}


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is asked for: the command line would wait for it otherwise."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
