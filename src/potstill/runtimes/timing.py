"""The speed of a saved model, measured in a process of its own by the runtime that answers from it.

The process imports this module and the runtime's own, and little else: what it imports counts as memory.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import Any

from potstill.measure.timed import Series
from potstill.measure.weights import COMMON
from potstill.runtimes import RUNTIMES


@dataclass(frozen=True)
class Loads:
    """What a process loads to answer as a predictor does: one model, or several."""

    folders: tuple[str, ...]
    runtime: str = "transformers"
    trusted: tuple[str, ...] = ()
    """Those of the folders whose own code may run."""
    held: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How the weights of those are held that cannot be held in float32 on one device."""
    in_turn: bool = False
    """Of several, each query is answered by one, as where rows are routed by domain, instead of by all."""

    def trusts(self, folder: str) -> bool:
        """Whether code that lies in this folder may run: each of several models is trusted or not by itself."""
        return folder in self.trusted


@dataclass(frozen=True)
class SpeedRequest:
    """What to measure. `queries` are drawn from the test rows: their lengths are what latency depends on."""

    loads: Loads
    form: str
    """Of the queries: `texts`, `documents` or `prompts`."""
    queries: Sequence[Any]
    threads: int
    warmup: int
    batch_size: int
    device: str
    settings: Mapping[str, int] = field(default_factory=dict)
    """What the form needs: how long a text may be, how many tokens are written after a prompt."""
    dtype: str = COMMON
    series: Sequence[Series] = ()
    """What is timed beside them, at other batch sizes and lengths."""

    @property
    def model(self) -> str:
        return self.loads.folders[0]

    def in_type(self, dtype: str) -> "SpeedRequest":
        """The same with weights of another type, and nothing timed beside: that is compared in one type."""
        return replace(self, dtype=dtype, series=())

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SpeedRequest":
        """The inverse of `as_json`, which has lists for tuples."""
        values = json.loads(text)
        loads: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in values["loads"].items()
        }
        series = tuple(Series(**each | {"batch_sizes": tuple(each["batch_sizes"])}) for each in values["series"])
        return cls(**values | {"loads": Loads(**loads), "series": series})


def main() -> None:
    request = SpeedRequest.from_json(sys.stdin.read())
    print(json.dumps(import_module(RUNTIMES[request.loads.runtime].timing).measure(request)))


if __name__ == "__main__":
    main()
