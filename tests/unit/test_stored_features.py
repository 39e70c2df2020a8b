"""Hidden states in a store: what was written is read by id, and what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from potstill.errors import LabelStoreError
from potstill.labels import LabelSource, LabelStore, States, StoredFeatures, StoreWriter
from potstill.labels.writer import describe
from potstill.signals import Batch, Read, Signal, Signals, Teacher
from potstill.teachers import JoinedTeacher
from tests.contracts.feature_reference import rows

CPU = torch.device("cpu")
READS = frozenset({Read(Signal.HIDDEN_STATES, 0), Read(Signal.HIDDEN_STATES, 2, normed=True)})
SOURCE = LabelSource(teacher="t", tokenizer="k", data="d", labels=(), max_length=8, precision="auto")
LENGTHS = (5, 3, 4)


def states(row: int) -> dict[Read, torch.Tensor]:
    generator = torch.Generator().manual_seed(row)
    return {read: torch.randn(LENGTHS[row], 6, generator=generator) for read in sorted(READS)}


def write(folder: Path, *, spoilt: float | None = None) -> None:
    encoding = States.of(READS, 6)

    def ask(indices: list[int]) -> object:
        features = {read: torch.cat([states(row)[read] for row in indices]) for read in READS}
        if spoilt is not None:
            features[Read(Signal.HIDDEN_STATES, 0)][1, 2] = spoilt
        return [LENGTHS[row] for row in indices], encoding.encode(features)

    ids = [f"row-{row}" for row in range(3)]
    StoreWriter(folder, encoding, SOURCE).write(ids, [[0, 1], [2]], 1, ask, lambda _: None)


def test_states_are_found_by_id_whatever_the_order(tmp_path: Path) -> None:
    write(tmp_path)
    store = LabelStore(tmp_path)
    store.require(SOURCE)
    batch = rows([4, 5])
    features = StoredFeatures(store, CPU)(replace(batch, ids=("row-2", "row-0"))).features
    assert set(features) == READS
    for read in READS:
        expected = torch.cat([states(2)[read], states(0)[read]])
        torch.testing.assert_close(features[read], expected, rtol=2**-10, atol=1e-6)
    assert ("layers", "layer_0, layer_2_normed") in list(describe(tmp_path))


def test_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(LabelStoreError, match=r"features of 3 positions of row 'row-1', of which 4 count"):
        StoredFeatures(LabelStore(tmp_path), CPU)(rows([5, 4]))


def test_a_state_that_does_not_fit_into_16_bits_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(LabelStoreError, match="layer_0"):
        write(tmp_path, spoilt=1e6)


def test_a_process_without_rows_in_a_step_needs_none(tmp_path: Path) -> None:
    write(tmp_path)
    empty = replace(rows([5]), mask=torch.zeros(1, dtype=torch.bool))
    features = StoredFeatures(LabelStore(tmp_path), CPU)(empty).features
    assert all(feature.shape == (0, 6) for feature in features.values())


def test_distributions_of_one_and_features_of_others_make_one_teacher() -> None:
    def speaks(batch: Batch) -> Signals:
        return Signals(logits=torch.ones(1, 2))

    def shows(read: Read) -> Teacher:
        return lambda batch: Signals(logits=torch.zeros(1, 2), features={read: states(0)[read]})

    said = JoinedTeacher(speaks, tuple(map(shows, sorted(READS))))(rows([5]))
    assert said.logits is not None and said.logits.sum() == 2
    assert set(said.features) == READS
    assert all(torch.equal(feature, states(0)[read]) for read, feature in said.features.items())
