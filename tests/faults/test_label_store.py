"""Damage to a label store is always found, repaired at the cost of the damaged shard, and never read as labels."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.errors import LabelStoreError
from potstill.labels import Dense, LabelSource, LabelStore, StoredTeacher, StoreWriter
from potstill.labels.store import damaged_shards, read_manifest
from potstill.labels.verify import faults
from potstill.labels.writer import describe, repair
from potstill.progress import unseen
from potstill.signals import IGNORE_INDEX, Batch

CLASSES = ("ant", "bee", "cat")
SOURCE = LabelSource(
    teacher="t" * 64, tokenizer="k" * 64, data="d" * 64, labels=CLASSES, max_length=64, precision="float32"
)
IDS = [f"row {number}" for number in range(26)]
BATCHES = [list(range(start, min(start + 4, 26))) for start in range(0, 26, 4)]
LOGITS = torch.randn(26, 3, generator=torch.Generator().manual_seed(7)) * 5


class Teacher:
    """Answers batches and remembers which; fails when it is asked for more than `patience` of them."""

    def __init__(self, patience: int = 1000, logits: Tensor = LOGITS) -> None:
        self.patience = patience
        self.logits = logits
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, rows: Sequence[int]) -> Tensor:
        if len(self.asked) == self.patience:
            raise ConnectionError("killed")
        self.asked.append(tuple(rows))
        return self.logits[list(rows)]


def write(folder: Path, teacher: Teacher | None = None, encoding: Dense | None = None) -> str:
    folder.mkdir(exist_ok=True)
    writer = StoreWriter(folder, encoding or Dense(), SOURCE)
    return writer.write(IDS, BATCHES, 2, teacher or Teacher(), unseen).content_digest


def read_all(folder: Path) -> np.ndarray:
    return np.array(LabelStore(folder).logits(IDS))


def is_detected(folder: Path) -> bool:
    """Whether reading refuses, or the verification names a shard."""
    try:
        read_all(folder)
        return bool(list(damaged_shards(folder)))
    except LabelStoreError:
        return True


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "store"
    write(folder)
    return folder


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def test_labels_are_for_their_owner_alone(pristine: Path) -> None:
    shards = list(pristine.glob("*.arrow"))
    assert shards and all(shard.stat().st_mode & 0o777 == 0o600 for shard in shards)


def test_labels_are_found_by_id_whatever_the_order(pristine: Path) -> None:
    labels = LabelStore(pristine)
    order = [25, 0, 7, 7, 13]
    np.testing.assert_array_equal(labels.logits([IDS[row] for row in order]), LOGITS[order].numpy())
    assert len(labels) == 26
    assert "row 3" in labels and "row 26" not in labels


def test_an_id_without_a_label_is_named(pristine: Path) -> None:
    with pytest.raises(LabelStoreError, match=r"no label for id 'row 99' \(26 rows stored\)"):
        LabelStore(pristine).logits(["row 1", "row 99"])


def test_float32_labels_come_back_bit_for_bit(pristine: Path) -> None:
    np.testing.assert_array_equal(read_all(pristine), LOGITS.numpy())
    assert not list(damaged_shards(pristine))


def test_float16_labels_come_back_rounded_once(tmp_path: Path) -> None:
    write(tmp_path / "half", encoding=Dense(dtype="float16"))
    values = read_all(tmp_path / "half")
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, LOGITS.half().numpy())
    np.testing.assert_allclose(values.astype(np.float32), LOGITS.numpy(), rtol=5e-4)
    assert Dense(dtype="float16").bytes_per_row(3) * 2 == Dense().bytes_per_row(3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_stored_labels_speak_as_the_teacher_by_id(tmp_path: Path, dtype: str) -> None:
    write(tmp_path / "store", encoding=Dense.model_validate({"dtype": dtype}))
    rows = [9, 2, 20]
    batch = Batch(
        ids=tuple(IDS[row] for row in rows),
        inputs={},
        labels=torch.full((3,), IGNORE_INDEX),
        mask=torch.ones(3, dtype=torch.bool),
    )
    said = StoredTeacher(LabelStore(tmp_path / "store"), torch.device("cpu"))(batch).logits
    assert said is not None and said.dtype == torch.float32
    torch.testing.assert_close(said, LOGITS[rows].to(getattr(torch, dtype)).float(), rtol=0, atol=0)


@pytest.mark.parametrize("shard", [0, 3])
def test_every_flipped_bit_of_a_shard_is_detected(store: Path, shard: int) -> None:
    path = store / f"shard-{shard:05d}.arrow"
    content = path.read_bytes()
    missed = []
    for offset in range(0, len(content), 11):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << (offset % 8)
        path.write_bytes(flipped)
        if not is_detected(store):
            missed.append(offset)
        assert [entry.file for entry, _ in damaged_shards(store)] == [path.name]
    assert missed == []
    path.write_bytes(content)
    assert not is_detected(store)


def test_a_flipped_bit_of_a_value_is_refused_when_it_is_read(store: Path) -> None:
    path = store / "shard-00001.arrow"
    content = path.read_bytes()
    place = content.index(LOGITS[8].numpy().tobytes())
    for bit in range(3 * 32):
        flipped = bytearray(content)
        flipped[place + bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        with pytest.raises(LabelStoreError, match=r"shard-00001\.arrow: damaged .*checksum"):
            read_all(store)


@pytest.mark.parametrize("file", ["manifest.json", "manifest.json.sha256"])
def test_every_flipped_bit_of_the_manifest_is_refused_on_opening(store: Path, file: str) -> None:
    content = (store / file).read_bytes().rstrip(b"\n")
    for offset in range(0, len(content), 7):
        for bit in (0, 4, 7):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            (store / file).write_bytes(bytes(flipped))
            with pytest.raises(LabelStoreError, match=r"manifest\.json"):
                LabelStore(store)


def test_truncation_anywhere_is_detected(store: Path) -> None:
    path = store / "shard-00002.arrow"
    content = path.read_bytes()
    for length in [*range(0, len(content), 23), len(content) - 1]:
        path.write_bytes(content[:length])
        assert is_detected(store), length
        with pytest.raises(LabelStoreError, match=r"shard-00002\.arrow: damaged"):
            read_all(store)


def test_a_missing_shard_is_named_with_the_remedy(store: Path) -> None:
    (store / "shard-00001.arrow").unlink()
    with pytest.raises(LabelStoreError, match=r"shard-00001\.arrow: damaged .*potstill labels repair"):
        LabelStore(store)
    assert [(entry.file, why) for entry, why in damaged_shards(store)] == [("shard-00001.arrow", "missing")]


def test_swapped_shards_are_refused(store: Path) -> None:
    first, second = store / "shard-00000.arrow", store / "shard-00001.arrow"
    first.rename(store / "aside")
    second.rename(first)
    (store / "aside").rename(second)
    with pytest.raises(LabelStoreError, match=r"shard-00000\.arrow: damaged"):
        LabelStore(store)
    assert [entry.file for entry, _ in damaged_shards(store)] == [first.name, second.name]


def test_an_edited_manifest_is_refused(store: Path) -> None:
    path = store / "manifest.json"
    path.write_text(path.read_text().replace('"max_length": 64', '"max_length": 99'))
    with pytest.raises(LabelStoreError, match=r"manifest\.json: was changed"):
        LabelStore(store)
    with pytest.raises(LabelStoreError, match="was changed"):
        repair(store)


@pytest.mark.parametrize("file", ["manifest.json", "manifest.json.sha256"])
def test_a_store_without_a_manifest_is_not_complete(store: Path, file: str) -> None:
    (store / file).unlink()
    with pytest.raises(LabelStoreError, match=rf"not a complete label store \({file} is missing"):
        LabelStore(store)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("spoil", [damage, Path.unlink], ids=["flip", "missing"])
def test_repair_makes_only_the_damaged_shard_anew(store: Path, spoil: Callable[[Path], None]) -> None:
    before = read_manifest(store)
    (store / "result.json").write_text("{}")
    spoil(store / "shard-00001.arrow")
    assert repair(store) == ["shard-00001.arrow"]
    assert not (store / "result.json").exists()
    with pytest.raises(LabelStoreError, match="not a complete"):
        LabelStore(store)
    teacher = Teacher()
    assert write(store, teacher) == before.content_digest
    assert teacher.asked == [tuple(batch) for batch in BATCHES[2:4]]
    assert read_manifest(store) == before
    assert not is_detected(store)


def test_repair_leaves_a_whole_store_alone(store: Path) -> None:
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    assert repair(store) == []
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_a_complete_store_asks_the_teacher_nothing(store: Path) -> None:
    teacher = Teacher(patience=0)
    assert write(store, teacher) == read_manifest(store).content_digest
    assert teacher.asked == []


@pytest.mark.parametrize("patience", range(len(BATCHES)))
def test_a_killed_job_resumes_to_the_same_store_and_repeats_at_most_a_shard(
    pristine: Path, tmp_path: Path, patience: int
) -> None:
    killed, resumed = Teacher(patience), Teacher()
    with pytest.raises(ConnectionError):
        write(tmp_path / "store", killed)
    with pytest.raises(LabelStoreError, match="not a complete"):
        LabelStore(tmp_path / "store")
    assert write(tmp_path / "store", resumed) == read_manifest(pristine).content_digest
    whole_shards = patience // 2
    assert resumed.asked == [tuple(batch) for batch in BATCHES[2 * whole_shards :]]
    for path in pristine.glob("*.arrow"):
        assert (tmp_path / "store" / path.name).read_bytes() == path.read_bytes()
    assert not list((tmp_path / "store").glob("*.tmp"))


def test_shards_of_another_plan_stay_and_only_the_rows_that_they_lack_are_asked_about(
    pristine: Path, tmp_path: Path
) -> None:
    """As after running out of memory: 3 of 7 batches, so one shard of 8 rows, then batches of 3."""
    smaller = [list(range(start, min(start + 3, 26))) for start in range(0, 26, 3)]
    with pytest.raises(ConnectionError):
        write(tmp_path / "store", Teacher(3))
    first = (tmp_path / "store/shard-00000.arrow").read_bytes()

    def go_on(teacher: Teacher) -> str:
        writer = StoreWriter(tmp_path / "store", Dense(), SOURCE)
        return writer.write(IDS, smaller, 2, teacher, unseen).content_digest

    killed, resumed = Teacher(4), Teacher()
    with pytest.raises(ConnectionError):
        go_on(killed)
    assert go_on(resumed) == read_manifest(pristine).content_digest
    assert [*killed.asked, *resumed.asked] == [(8,), *(tuple(batch) for batch in smaller[3:])]
    assert (tmp_path / "store/shard-00000.arrow").read_bytes() == first
    np.testing.assert_array_equal(read_all(tmp_path / "store"), LOGITS.numpy())
    assert list(faults(tmp_path / "store")) == []


def test_a_shard_of_rows_that_are_not_to_be_labelled_is_not_reused(store: Path) -> None:
    ids = [*IDS[:25], "another row"]
    teacher = Teacher()
    StoreWriter(store, Dense(), SOURCE).write(ids, BATCHES, 2, teacher, unseen)
    assert teacher.asked == [tuple(BATCHES[6])]
    np.testing.assert_array_equal(LabelStore(store).logits(ids), LOGITS.numpy())


def test_a_row_that_two_shards_hold_is_stored_once(store: Path) -> None:
    before = read_manifest(store)
    repair_all = Teacher()
    (store / "shard-00001.arrow").write_bytes((store / "shard-00000.arrow").read_bytes())
    entry = before.shards[0].model_copy(update={"file": "shard-00001.arrow"})
    (store / ".shard-00001.arrow.json").write_text(entry.model_dump_json())
    assert write(store, repair_all) == before.content_digest
    assert repair_all.asked == [tuple(batch) for batch in BATCHES[2:4]]


def test_the_content_digest_depends_on_values_and_not_on_layout(pristine: Path, tmp_path: Path) -> None:
    digest = read_manifest(pristine).content_digest

    def laid_out(name: str, batches: list[list[int]], logits: Tensor) -> str:
        (tmp_path / name).mkdir()
        writer = StoreWriter(tmp_path / name, Dense(), SOURCE)
        return writer.write(IDS, batches, 3, Teacher(logits=logits), unseen).content_digest

    assert laid_out("other", [list(range(25, 12, -1)), list(range(13))], LOGITS) == digest
    changed = LOGITS.clone()
    changed[3, 1] += 1e-5
    assert laid_out("changed", BATCHES, changed) != digest


def test_duplicate_ids_are_refused_before_the_teacher_is_asked(tmp_path: Path) -> None:
    teacher = Teacher()
    with pytest.raises(LabelStoreError, match="duplicate ids"):
        StoreWriter(tmp_path, Dense(), SOURCE).write(["a", "b", "a"], [[0, 1, 2]], 1, teacher, unseen)
    assert teacher.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_logit_is_refused_with_its_id_and_earlier_shards_stay(tmp_path: Path, value: float) -> None:
    spoilt = LOGITS.clone()
    spoilt[13, 2] = value
    with pytest.raises(LabelStoreError, match=r"non-finite: id row 13 class 2\. Row not written"):
        write(tmp_path / "store", Teacher(logits=spoilt))
    assert sorted(path.name for path in (tmp_path / "store").glob("*.arrow")) == ["shard-00000.arrow"]


def test_a_logit_that_overflows_float16_is_refused(tmp_path: Path) -> None:
    large = LOGITS.clone()
    large[0, 0] = 1e5
    with pytest.raises(LabelStoreError, match="non-finite: id row 0"):
        write(tmp_path / "store", Teacher(logits=large), Dense(dtype="float16"))


def test_labels_of_the_same_source_are_accepted(pristine: Path) -> None:
    labels = LabelStore(pristine)
    labels.require(SOURCE)
    assert labels.manifest.source == SOURCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("ant", "cat", "bee")}, "class 1: teacher 'bee', student 'cat'"),
        ({"labels": ("ant", "bee")}, "class 2: teacher 'cat', student None"),
        ({"labels": ("ant", "bee", "cat", "dog")}, "class 3: teacher None, student 'dog'"),
        ({"tokenizer": "x" * 64}, "made with tokenizer kkkkkkkkkkkk, this run has xxxxxxxxxxxx"),
        ({"teacher": "x" * 64}, "made with teacher tttttttttttt"),
        ({"data": "x" * 64}, "made with data dddddddddddd"),
        ({"max_length": 32}, "made with max_length 64, this run has 32"),
        ({"precision": "bfloat16"}, "made with precision float32"),
    ],
)
def test_labels_of_something_else_are_refused(pristine: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(LabelStoreError, match=message):
        LabelStore(pristine).require(SOURCE.model_copy(update=change))


def test_ids_of_any_text_are_kept(tmp_path: Path) -> None:
    ids = ["../x", "a\0b", "\u2028", "é\U0001f600", "", "=1+1"]
    logits = torch.arange(18.0).reshape(6, 3)
    StoreWriter(tmp_path, Dense(), SOURCE).write(ids, [[0, 1, 2, 3, 4, 5]], 1, Teacher(logits=logits), unseen)
    np.testing.assert_array_equal(LabelStore(tmp_path).logits(ids[::-1]), logits.flip(0).numpy())


def test_progress_counts_every_row_once(tmp_path: Path) -> None:
    heard: dict[bool, int] = {False: 0, True: 0}

    def advance(amount: int = 1, note: str = "", *, earlier: bool = False) -> None:
        heard[earlier] += amount

    StoreWriter(tmp_path, Dense(), SOURCE).write(IDS, BATCHES, 2, Teacher(), advance)
    assert heard == {False: len(IDS), True: 0}
    heard[False] = 0
    StoreWriter(tmp_path, Dense(), SOURCE).write(IDS, BATCHES, 2, Teacher(), advance)
    assert heard == {False: 0, True: len(IDS)}


def test_a_description_tells_rows_classes_and_source(pristine: Path) -> None:
    lines = dict(describe(pristine))
    assert lines["rows"] == "26" and lines["classes"] == "3" and lines["shards"] == "4"
    assert lines["teacher"] == SOURCE.teacher
