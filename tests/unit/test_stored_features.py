"""Hidden states in a store: what was written is read by id, and what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from potstill.errors import LabelStoreError
from potstill.labels import LabelSource, LabelStore, States, StoredFeatures, StoreWriter
from potstill.labels.positions import Column, arrow_schema, from_records, to_records
from potstill.labels.store import batch_checksum, read_manifest
from potstill.labels.writer import describe
from potstill.progress import unseen
from potstill.run_dir import file_digest
from potstill.signals import Batch, Read, Signal, Signals, Teacher
from potstill.teachers import CompositeTeacher
from tests.contracts.feature_reference import rows

CPU = torch.device("cpu")
READS = frozenset({Read(Signal.HIDDEN_STATES, 0), Read(Signal.HIDDEN_STATES, 2, normed=True)})
SOURCE = LabelSource(teacher="t", tokenizer="k", data="d", labels=(), max_length=8, precision="auto")
LENGTHS = (5, 3, 4)


def states(row: int) -> dict[Read, torch.Tensor]:
    generator = torch.Generator().manual_seed(row)
    return {read: torch.randn(LENGTHS[row], 6, generator=generator) for read in sorted(READS)}


def write(folder: Path, *, spoilt: float | None = None, asked: list[int] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    encoding = States.of(READS, 6)

    def ask(indices: list[int]) -> object:
        assert asked is None or indices == asked
        features = {read: torch.cat([states(row)[read] for row in indices]) for read in READS}
        if spoilt is not None:
            features[Read(Signal.HIDDEN_STATES, 0)][1, 2] = spoilt
        return [LENGTHS[row] for row in indices], encoding.encode(features)

    ids = [f"row-{row}" for row in range(3)]
    StoreWriter(folder, encoding, SOURCE).write(ids, [[0, 1], [2]], 1, ask, unseen)


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


def test_a_record_batch_may_hold_more_numbers_than_32_bits_count() -> None:
    layout = {"wide": Column(np.uint8, 2**20)}
    # Zeros that nobody touches take no memory.
    wide = np.zeros((2101, 2**20), dtype=np.uint8)
    wide[2099, -1], wide[2100, -1] = 3, 7
    batch = to_records(["long", "short"], [2100, 1], {"wide": wide}, layout)
    long, short = (row["wide"] for row in from_records(batch, layout))
    assert (long.shape, long[-1, -1], short.shape, short[0, -1]) == ((2100, 2**20), 3, (1, 2**20), 7)
    (alone,) = from_records(batch.slice(1, 1), layout)
    assert (alone["wide"].shape, alone["wide"][0, -1]) == ((1, 2**20), 7)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_store_of_format_2_is_read_and_one_that_was_begun_in_it_goes_on(tmp_path: Path, shards: int) -> None:
    write(tmp_path / "new")
    write(tmp_path / "old")
    manifest = read_manifest(tmp_path / "old")
    entries = []
    for entry in manifest.shards[:shards]:
        path = tmp_path / "old" / entry.file
        with pa.OSFile(str(path), "rb") as file:
            table = pa.ipc.open_file(file).read_all()
        small = table.cast(arrow_schema(States.of(READS, 6).columns, list_of=pa.list_)).to_batches()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, small[0].schema) as writer:
            for batch in small:
                writer.write_batch(batch)
        sums = tuple(map(batch_checksum, small))
        entries.append(entry.model_copy(update={"sha256": file_digest(path), "batch_checksums": sums}))
        (tmp_path / "old" / f".{entry.file}.json").write_text(entries[-1].model_dump_json())
    if shards == len(manifest.shards):
        text = manifest.model_copy(update={"format": 2, "shards": tuple(entries)}).model_dump_json()
        (tmp_path / "old/manifest.json").write_text(text)
        (tmp_path / "old/manifest.json.sha256").write_text(file_digest(tmp_path / "old/manifest.json"))
    else:
        (tmp_path / "old/manifest.json").unlink()
        write(tmp_path / "old", asked=[2])
    old, new = LabelStore(tmp_path / "old"), LabelStore(tmp_path / "new")
    assert old.manifest.content_digest == new.manifest.content_digest
    ids = ["row-2", "row-0", "row-1"]
    columns, counts = old.positions(ids)
    assert counts == new.positions(ids)[1] == [4, 5, 3]
    for name, values in new.positions(ids)[0].items():
        assert np.array_equal(columns[name], values)


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(read_manifest(tmp_path).model_copy(update={"format": 4}).model_dump_json())
    (tmp_path / "manifest.json.sha256").write_text(file_digest(path))
    with pytest.raises(LabelStoreError, match="format 4; this potstill reads formats 2 and 3"):
        LabelStore(tmp_path)


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

    said = CompositeTeacher(speaks, tuple(map(shows, sorted(READS))))(rows([5]))
    assert said.logits is not None and said.logits.sum() == 2
    assert set(said.features) == READS
    assert all(torch.equal(feature, states(0)[read]) for read, feature in said.features.items())
