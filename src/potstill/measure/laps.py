"""How long the parts of some work take, each as often as it comes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

_Mark = float | torch.cuda.Event


@dataclass
class Laps:
    """Seconds of parts by name: by the clock of the accelerator where there is one in use, whose work is queued."""

    on_cuda: bool = field(default_factory=torch.cuda.is_initialized)
    _taken: list[tuple[str, _Mark, _Mark]] = field(default_factory=list)
    _summed: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def lap(self, part: str) -> Iterator[None]:
        """Within it the part is worked on."""
        started = self._mark()
        yield
        self._taken.append((part, started, self._mark()))

    @property
    def seconds(self) -> Mapping[str, float]:
        """Of each part, to the millisecond; waits for what the accelerator still has to do."""
        for part, started, ended in self._taken:
            if isinstance(started, float) or isinstance(ended, float):
                assert isinstance(started, float) and isinstance(ended, float)
                spent = ended - started
            else:
                ended.synchronize()
                spent = started.elapsed_time(ended) / 1000
            self._summed[part] = self._summed.get(part, 0.0) + spent
        self._taken.clear()
        return {part: round(spent, 3) for part, spent in self._summed.items()}

    def _mark(self) -> _Mark:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
