"""Batches that a thread makes before their step: the same training, and errors where they are asked for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.errors import LabelStoreError
from potstill.labels import Dense, LabelSource, LabelStore, StoredTeacher, StoreWriter
from potstill.labels.reader import _Ready
from potstill.progress import Progress, unseen
from potstill.signals import Batch, PreparedTeacher
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import CompositeTeacher, FrozenTeacher
from potstill.training import loop
from potstill.training.ahead import STEPS, MadeAhead, made_ahead
from potstill.training.batches import PlannedBatches, ShuffledRows, StepBatches
from potstill.training.loop import fit
from potstill.training.one_process import OneProcess
from tests.invariants.test_training import CPU, encoded, job, losses, tiny, weights
from tests.unit.test_step_batches import Written

SOURCE = LabelSource(teacher="t", tokenizer="k", data="d", labels=tuple("abcde"), max_length=12, precision="float32")
ACCELERATOR = torch.device("cuda")
"""What decides whether batches are made ahead; nothing is moved there."""


@pytest.fixture
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches_of(job: loop.Job, engine: Any) -> Any:
        return made_ahead(job.batches, job.teacher, job.total_steps, device=ACCELERATOR)

    monkeypatch.setattr(loop, "batches_of", batches_of)


class Watched(StoredTeacher):
    """Notes in which threads labels are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LabelStore(folder), CPU)
        self.readers: set[int] = set()

    def _read(self, batch: Batch) -> Any:
        self.readers.add(threading.get_ident())
        return super()._read(batch)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    rows, teacher = encoded(37, 1, unlabelled_from=20), FrozenTeacher(tiny(9), CPU, ask_for_logits)
    folder = tmp_path / "store"
    folder.mkdir()
    batches = [list(range(start, min(37, start + 5))) for start in range(0, 37, 5)]
    StoreWriter(folder, Dense(), SOURCE).write(
        rows.ids, batches, 2, lambda batch: teacher(rows.collate(batch)).logits.clone(), unseen
    )
    return folder


def test_a_training_is_the_same_to_the_bit_and_its_labels_are_read_beside_it(
    tmp_path: Path, stored: Path, request: pytest.FixtureRequest
) -> None:
    """In small pieces and with dropout; and where it goes on from a checkpoint in the midst of an epoch."""
    plain = job(teacher=Watched(stored), micro_batch_size=3)
    fit(plain, tmp_path / "plain", OneProcess(CPU), Progress())
    assert plain.teacher.readers == {threading.get_ident()}
    request.getfixturevalue("always_ahead")
    ahead = job(teacher=Watched(stored), micro_batch_size=3)
    fit(ahead, tmp_path / "ahead", OneProcess(CPU), Progress())
    assert threading.get_ident() not in ahead.teacher.readers and len(ahead.teacher.readers) == 1
    broken = replace(job(teacher=Watched(stored), micro_batch_size=3), at_step={10: _interrupt})
    with pytest.raises(KeyboardInterrupt):
        fit(broken, tmp_path / "broken", OneProcess(CPU), Progress())
    resumed = job(teacher=Watched(stored), micro_batch_size=3)
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "plain") == losses(tmp_path / "ahead") == losses(tmp_path / "broken")
    assert torch.equal(weights(plain.model), weights(ahead.model))
    assert torch.equal(weights(plain.model), weights(resumed.model))


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_no_more_steps_are_made_than_those_that_come_next_and_none_beyond_the_last() -> None:
    made: list[int] = []

    class Noted(ShuffledRows):
        def planned(self, step: int, *, rank: int, world_size: int) -> list[Batch]:
            made.append(step)
            return super().planned(step, rank=rank, world_size=world_size)

    source = job().batches
    noted = Noted(source.rows, source.settings, source.seed)
    with made_ahead(noted, lambda batch: None, 5, device=ACCELERATOR) as batches:
        found = [batches.at(step, student=tiny(0), rank=0, world_size=1)[0].ids for step in range(2)]
        assert max(made) <= 1 + STEPS
        found += [batches.at(step, student=tiny(0), rank=0, world_size=1)[0].ids for step in range(2, 5)]
    assert made == list(range(5))
    assert found == [source.at(step, student=tiny(0), rank=0, world_size=1)[0].ids for step in range(5)]


def test_a_row_without_labels_is_an_error_of_the_step_that_needs_it(tmp_path: Path, always_ahead: None) -> None:
    rows = encoded(37, 1)
    (tmp_path / "store").mkdir()
    StoreWriter(tmp_path / "store", Dense(), SOURCE).write(
        rows.ids[:30], [list(range(30))], 1, lambda batch: torch.zeros(len(batch), 5), unseen
    )
    before = threading.active_count()
    with pytest.raises(LabelStoreError, match="no label for id"):
        fit(job(teacher=Watched(tmp_path / "store")), tmp_path / "run", OneProcess(CPU), Progress())
    assert threading.active_count() == before


def test_a_source_that_asks_the_student_and_a_cpu_make_nothing_ahead() -> None:
    written = Written(encoded(37, 1), seed=3)
    assert not isinstance(written, PlannedBatches) and isinstance(job().batches, PlannedBatches)

    @contextmanager
    def of(source: StepBatches, device: torch.device) -> Iterator[StepBatches]:
        with made_ahead(source, lambda batch: None, 3, device=device) as found:
            yield found

    for source, device in ((written, ACCELERATOR), (job().batches, CPU)):
        with of(source, device) as found:
            assert found is source
    with of(job().batches, ACCELERATOR) as found:
        assert isinstance(found, MadeAhead) and found.steps_per_epoch == 5


def test_of_distributions_and_features_both_are_read_before_they_are_asked_for(stored: Path) -> None:
    first, second = Watched(stored), Watched(stored)
    together = CompositeTeacher(first, (second, lambda batch: None))
    assert isinstance(together, PreparedTeacher)
    batch = encoded(37, 1).collate([3, 4])
    together.prepare(batch)
    readers = [len(each.readers) for each in (first, second)]
    assert readers == [1, 1]
    for each in (first, second):
        each.readers.clear()
    for each in (first, second):
        # Read once, and of no other batch.
        expected = LabelStore(stored).logits(batch.ids)
        assert torch.equal(each(batch).logits, torch.from_numpy(expected)) and not each.readers
        each(encoded(37, 1).collate([3]))
        assert each.readers


def test_what_is_read_for_two_batches_of_the_same_rows_serves_both(stored: Path) -> None:
    """The last step of an epoch and the first of the next can have the same piece."""
    teacher, batch = Watched(stored), encoded(37, 1).collate([3, 4])
    teacher.prepare(batch)
    teacher.prepare(batch)
    teacher.readers.clear()
    assert torch.equal(teacher(batch).logits, teacher(batch).logits) and not teacher.readers
    assert teacher(batch).logits is not None and teacher.readers


def test_what_is_read_for_a_row_is_not_given_to_one_of_which_nothing_counts(tmp_path: Path) -> None:
    """A process without rows in a step is given the first row with nothing to learn in it."""
    ready = _Ready()
    batch = encoded(37, 1).collate([3])
    nothing = replace(batch, mask=torch.zeros_like(batch.mask))
    read = {"logits": torch.zeros(1, 5)}
    ready.put(nothing, None)
    ready.put(batch, read)
    assert ready.take(nothing) is None and ready.take(batch) is read
