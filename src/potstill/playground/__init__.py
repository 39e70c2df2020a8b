"""potstill playground: a page on this machine where a query is answered by all models of a run, side by side."""

import os
from importlib.util import find_spec

from potstill.errors import PotstillError

_SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def require_gradio() -> None:
    """Make Gradio ready to be imported: it tells nobody anything, and asks no proxy for this machine.

    Raises:
        PotstillError: it is not installed.
    """
    if find_spec("gradio") is None:
        raise PotstillError("playground: gradio is not installed. Run: pip install 'potstill[playground]'")
    os.environ.update(_SILENT)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
