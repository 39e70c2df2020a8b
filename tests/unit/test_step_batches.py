"""Sources of batches: rows in shuffled order over processes and pieces, and texts that the student writes."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from potstill.data.batches import hash_seed
from potstill.data.encoded import EncodedRows
from potstill.progress import Progress
from potstill.recipe import OptimiserSettings
from potstill.signals import Batch
from potstill.training.batches import ShuffledRows, StepBatches
from potstill.training.loop import fit, validate
from potstill.training.one_process import OneProcess
from tests.invariants.test_steps_by_hand import OfRank
from tests.invariants.test_training import CPU, StopsAt, encoded, job, losses, tiny, weights


def source(rows: int, **settings: object) -> ShuffledRows:
    optimiser = OptimiserSettings(**({"learning_rate": 1e-3} | settings))  # type: ignore[arg-type]
    return ShuffledRows(encoded(rows, 1), optimiser, seed=3)


def test_an_epoch_of_all_processes_has_each_row_once_in_pieces_of_the_asked_size() -> None:
    batches = source(23, batch_size=8, micro_batch_size=3)
    assert batches.steps_per_epoch == 3
    seen: Counter[str] = Counter()
    for step in range(3):
        of_ranks = [batches.at(step, student=tiny(0), rank=rank, world_size=2) for rank in range(2)]
        assert len({len(pieces) for pieces in of_ranks}) == 1
        for pieces in of_ranks:
            assert all(len(batch.ids) <= 3 for batch in pieces)
            seen.update(name for batch in pieces if batch.mask.any() for name in batch.ids)
    assert seen == Counter(batches.rows.ids)  # type: ignore[attr-defined]


def test_a_process_without_rows_gets_a_batch_that_counts_nothing() -> None:
    """One row of two processes: the second goes along, with a row that is there and is masked."""
    batches = source(1, batch_size=8)
    first, second = (batches.at(0, student=tiny(0), rank=rank, world_size=2) for rank in range(2))
    assert [int(batch.mask.sum()) for batch in (*first, *second)] == [1, 0]
    assert second[0].inputs["input_ids"].shape == first[0].inputs["input_ids"].shape


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_process_makes_as_many_passes_in_a_validation(world_size: int) -> None:
    """16 rows in batches of 8 are two batches, of which one process of three has none; the sums are those of one."""
    whole = replace(job(dropout=0.0), validation=encoded(16, 2))
    expected = validate(whole, OneProcess(CPU))
    passes: list[int] = []
    sums = torch.zeros(4, dtype=torch.float64)
    for rank in range(world_size):
        engine = Listening(CPU, rank, world_size)
        count = 0

        def ask(model: nn.Module, batch: Batch):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            return whole.ask(model, batch)

        validate(replace(whole, ask=ask), engine)
        passes.append(count)
        sums += engine.heard
    assert len(set(passes)) == 1
    loss, right, answers, rows = sums.tolist()
    assert rows == 16
    assert loss / rows == pytest.approx(expected.validation_loss, rel=1e-6)
    assert right / answers == expected.validation_accuracy


@dataclass(frozen=True)
class Listening(OfRank):
    """Says that it is one of several processes, and keeps what it would have added to the sums of the others."""

    world_size: int = 1

    @property
    def heard(self) -> torch.Tensor:
        return self.__dict__["heard"]  # type: ignore[no-any-return]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        self.__dict__["heard"] = tensor.clone()
        # Of no row at all there is no mean.
        return tensor.clamp(min=1)


@dataclass(frozen=True)
class Written:
    """A source on the student's own policy: its likeliest class for each row is the label that it is shown."""

    rows: EncodedRows
    seed: int
    steps_per_epoch: int = 4

    def at(self, step: int, *, student: nn.Module, rank: int, world_size: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(hash_seed(self.seed, step))
        drawn = torch.randint(len(self.rows.ids), (8,), generator=generator).tolist()
        batch = self.rows.collate(drawn[rank::world_size])
        student.eval()
        with torch.inference_mode():
            logits = student(**batch.inputs).logits
        # Made outside of inference mode, for training needs them.
        return [replace(batch, labels=torch.tensor(logits.argmax(dim=-1).tolist()))]


def test_a_source_that_asks_the_student_needs_no_other_loop_and_resumes_exactly(tmp_path: Path) -> None:
    """With dropout, which must be on again after the student has written."""
    written = Written(encoded(37, 1), seed=3)
    assert isinstance(written, StepBatches)
    whole, broken, resumed = (replace(each, batches=written) for each in (job(), job(teacher=StopsAt(10)), job()))
    modes: list[bool] = []
    whole.model.register_forward_pre_hook(
        lambda module, _: None if torch.is_inference_mode_enabled() else modes.append(module.training)
    )
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    assert len(modes) == 21 and all(modes)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, tmp_path / "broken", OneProcess(CPU), Progress())
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert torch.equal(weights(whole.model), weights(resumed.model))
