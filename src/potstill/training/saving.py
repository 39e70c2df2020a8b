"""The checkpoints of one training: where it goes on from, and what is saved of it while it does.

On an accelerator a checkpoint is copied to the host and written while training goes on, for 11 GB take as long to write
as hundreds of steps. Only one is on its way at a time, so the host holds one copy. On a CPU the copy would take memory
from the training, and the writing its cores, to gain little: there a checkpoint is written before the next step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from potstill.background import Background
from potstill.progress import Progress
from potstill.training.checkpoints import (
    Progressed,
    keep_newest,
    newest_checkpoint,
    read_checkpoint,
    read_progress,
    save_checkpoint,
)
from potstill.training.engine import Engine
from potstill.training.metrics import MetricsFile
from potstill.training.states import TrainingState


def resume(
    folder: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    engine: Engine,
    progress: Progress,
    name: str,
) -> Progressed:
    """Restore the newest whole checkpoint of a training, if there is one; returns how far it is."""
    newest, damaged = newest_checkpoint(folder)
    if newest is None:
        return Progressed()
    state, random = read_checkpoint(newest)
    engine.load_state(module, optimiser, state)
    engine.set_random_states(random)
    note = f" ({', '.join(damaged)} is damaged)" if damaged else ""
    progress.line(f"{name}: resumed from {newest.name}{note}")
    return read_progress(newest)


@dataclass
class Saving:
    """Saves a training after a step, and keeps the newest checkpoints with the best."""

    folder: Path
    module: nn.Module
    optimiser: torch.optim.Optimizer
    engine: Engine
    keep: int
    whole: list[int]
    """Steps whose checkpoints this process has read or written whole."""
    behind: Background[None] | None
    """Who writes beside the training; None where it waits."""

    def save(self, done: Progressed, metrics: MetricsFile | None) -> None:
        """Save what was `done`; all processes must call it.

        Raises:
            OSError: it cannot be written, or an earlier one could not.
        """
        if self.behind is not None:
            self.behind.finish()
        # Asked of every process, for the engine may have to gather them.
        state, random = self.engine.state(self.module, self.optimiser), self.engine.random_states()
        if self.engine.is_main:
            if metrics:
                metrics.sync()
            if self.behind is not None:
                self.behind.do(partial(self._write, self._apart(state), done, random))
            else:
                self._write(state, done, random)
        if self.behind is None:
            self.engine.barrier()

    def finish(self) -> None:
        """Return when all that was saved is whole on disk, in all processes; raises as `save`."""
        if self.behind is not None:
            self.behind.finish()
            self.engine.barrier()

    def _write(self, state: TrainingState, done: Progressed, random: dict[str, Tensor]) -> None:
        save_checkpoint(self.folder, state, done, random)
        self.whole.append(done.step)
        keep_newest(self.folder, self.keep, done.best_step, self.whole)

    def _apart(self, state: TrainingState) -> TrainingState:
        """The same, with copies of what is still that of the training, and changes with its next step."""
        live = [*self.module.state_dict().values()]
        live += [each for held in self.optimiser.state.values() for each in held.values() if isinstance(each, Tensor)]
        places = {_place(tensor) for tensor in live}

        def own(tensor: Tensor) -> Tensor:
            return tensor.clone() if _place(tensor) in places else tensor

        weights = {name: own(tensor) for name, tensor in state.weights.items()}
        moments = {name: {key: own(each) for key, each in held.items()} for name, held in state.moments.items()}
        return replace(state, weights=weights, moments=moments)


def _place(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def writes_beside(device: torch.device) -> bool:
    """Whether checkpoints are written while training goes on."""
    return device.type != "cpu"


@contextmanager
def saving(
    folder: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    engine: Engine,
    *,
    keep: int,
    begun: int,
) -> Iterator[Saving]:
    """What saves a training that was resumed from the step `begun`. Where the block ends with an error, what is on its
    way is still written."""
    if not writes_beside(engine.device):
        yield Saving(folder, module, optimiser, engine, keep, [begun], None)
        return
    with Background[None](waiting=1) as behind:
        yield Saving(folder, module, optimiser, engine, keep, [begun], behind)
