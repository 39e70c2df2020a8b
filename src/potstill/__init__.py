"""potstill distils a large model into a small one that you can ship, and measures that it is good enough."""

from importlib.metadata import version

from potstill.errors import PotstillError

__version__ = version("potstill")
__all__ = ["PotstillError", "__version__"]
