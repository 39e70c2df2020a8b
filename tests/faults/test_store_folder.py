"""What lies in a store's folder: nothing that is not verified, and no name in its manifest that leads out of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import LabelStoreError
from potstill.labels import LabelStore, writer
from potstill.labels.store import read_manifest
from potstill.labels.verify import faults
from potstill.labels.writer import describe, repair
from potstill.records import LabelRecord
from potstill.run_dir import file_digest, fingerprint
from tests.faults.test_label_store import BATCHES, Teacher, damage, is_detected, pristine, store, write

__all__ = ["pristine", "store"]

HOSTILE = ("../important.txt", "/tmp/important.txt", "shard-00001.arrow/../../important.txt", "shard-1.arrow", "..", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_a_manifest_that_is_no_shard_is_refused_and_nothing_is_removed(store: Path, name: str) -> None:
    important = store.parent / "important.txt"
    important.write_text("keep me")
    content = json.loads((store / "manifest.json").read_text())
    content["shards"][1]["file"] = name
    (store / "manifest.json").write_text(json.dumps(content))
    (store / "manifest.json.sha256").write_text(file_digest(store / "manifest.json"))
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    for use in (repair, LabelStore, write, lambda folder: list(faults(folder)), lambda folder: dict(describe(folder))):
        with pytest.raises(LabelStoreError, match=r"shards\.1\.file: .* is not the name of a shard"):
            use(store)
    assert important.read_text() == "keep me"
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_beside_a_shard_that_is_no_shard_is_not_used(tmp_path: Path, name: str) -> None:
    (tmp_path / "important.txt").write_text("keep me")
    with pytest.raises(ConnectionError):
        write(tmp_path / "store", Teacher(2))
    beside = tmp_path / "store/.shard-00000.arrow.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"file": name}))
    teacher = Teacher()
    write(tmp_path / "store", teacher)
    assert teacher.asked == [tuple(batch) for batch in BATCHES]
    assert (tmp_path / "important.txt").read_text() == "keep me"


def test_a_shard_that_is_a_link_takes_nothing_with_it(store: Path) -> None:
    elsewhere = store.parent / "important.arrow"
    elsewhere.write_bytes(b"keep me")
    (store / "shard-00001.arrow").unlink()
    (store / "shard-00001.arrow").symlink_to(elsewhere)
    assert repair(store) == ["shard-00001.arrow"]
    assert write(store) and not is_detected(store)
    assert elsewhere.read_bytes() == b"keep me" and not (store / "shard-00001.arrow").is_symlink()


def finish(store: Path) -> None:
    """The record of a stage, as labelling leaves it."""
    manifest = read_manifest(store)
    names = ["manifest.json", "manifest.json.sha256", *(shard.file for shard in manifest.shards)]
    record = LabelRecord(
        fingerprint=fingerprint({"a": 1}),
        rows=manifest.rows,
        content_digest=manifest.content_digest,
        size_bytes=1,
        rows_per_s=1.0,
        files={name: file_digest(store / name) for name in names},
    )
    (store / "inputs.json").write_text(json.dumps({"fingerprint": record.fingerprint, "inputs": {"a": 1}}))
    (store / "result.json").write_text(record.model_dump_json())


def test_a_finished_store_holds_nothing_that_verifying_does_not_know(store: Path) -> None:
    finish(store)
    assert not list(store.glob(".*"))
    assert list(faults(store)) == []
    for path in sorted(store.iterdir()):
        content = path.read_bytes()
        damage(path)
        try:
            assert path.name in dict(faults(store)), path.name
        except LabelStoreError as error:
            assert path.name.startswith("manifest.json") and "was changed" in str(error)
        path.write_bytes(content)
    for name in ("notes.txt", ".shard-00000.arrow.json", ".shard-00009.arrow.json", ".manifest.json.1f.tmp"):
        (store / name).write_text("{}")
        assert list(dict(faults(store))) == [name]
        (store / name).unlink()


def test_entries_that_an_earlier_version_left_beside_the_shards_are_compared_with_the_manifest(store: Path) -> None:
    entry = read_manifest(store).shards[2]
    (store / ".shard-00002.arrow.json").write_text(entry.model_dump_json())
    assert list(faults(store)) == []
    (store / ".shard-00002.arrow.json").write_text(read_manifest(store).shards[1].model_dump_json())
    assert list(dict(faults(store))) == [".shard-00002.arrow.json"]


def test_a_manifest_and_its_digest_that_were_both_exchanged_are_found_by_the_record(store: Path) -> None:
    finish(store)
    content = json.loads((store / "manifest.json").read_text())
    content["shards"][1], content["shards"][2] = content["shards"][2], content["shards"][1]
    (store / "manifest.json").write_text(json.dumps(content))
    (store / "manifest.json.sha256").write_text(file_digest(store / "manifest.json"))
    assert set(dict(faults(store))) == {"manifest.json", "manifest.json.sha256"}


def test_a_damaged_manifest_is_repaired_from_the_record_and_nothing_is_asked_again(store: Path) -> None:
    finish(store)
    before = read_manifest(store)
    damage(store / "manifest.json")
    damage(store / "shard-00002.arrow")
    assert repair(store) == ["manifest.json"]
    teacher = Teacher()
    assert write(store, teacher) == before.content_digest
    assert teacher.asked == [tuple(batch) for batch in BATCHES[4:6]]
    assert read_manifest(store) == before


def test_a_manifest_that_no_record_can_mend_names_what_to_do(store: Path) -> None:
    finish(store)
    (store / "result.json").unlink()
    damage(store / "manifest.json")
    with pytest.raises(LabelStoreError, match=r"no record of the stage tells .* Remove .* and run"):
        repair(store)
    (store / "manifest.json.sha256").write_text("")
    with pytest.raises(LabelStoreError, match=r"was being written\. Run potstill label"):
        repair(store)


@pytest.mark.parametrize("where", [".", "nowhere", "model.safetensors"])
def test_a_folder_that_is_no_store_is_said_to_be_none(tmp_path: Path, where: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(LabelStoreError, match=r"no manifest\.json and no shards\)\. Run potstill label, or give"):
        list(faults(tmp_path / where))


@pytest.mark.parametrize("call", ["write_text", "unlink"])
def test_a_job_that_is_killed_while_a_store_is_finished_asks_nothing_again_and_leaves_nothing(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before each call that writes the manifest or removes what it replaces; also where a store is finished again."""

    def at(point: int) -> Callable[..., None]:
        calls = 0
        place, name = (writer, "write_text") if call == "write_text" else (Path, "unlink")
        real = getattr(place, name)

        def instead(path: Path, *given: object, **named: object) -> None:
            nonlocal calls
            if str(path.name).endswith(".tmp"):
                return real(path, *given, **named)
            calls += 1
            if calls == point:
                raise KeyboardInterrupt
            return real(path, *given, **named)

        return instead

    place, name = (writer, "write_text") if call == "write_text" else (Path, "unlink")
    killed = 0
    for point in range(1, 20):
        folder = tmp_path / str(point)
        write(folder)
        (folder / "shard-00003.arrow").unlink()
        with monkeypatch.context() as patched:
            patched.setattr(place, name, at(point))
            try:
                write(folder)
            except KeyboardInterrupt:
                killed += 1
        teacher = Teacher()
        assert write(folder, teacher) == read_manifest(pristine).content_digest
        assert set(teacher.asked) <= {tuple(BATCHES[6])}, point
        assert {path.name for path in folder.iterdir()} == {path.name for path in pristine.iterdir()}
    assert killed >= 4


def rewrite(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and its digest so that it is of the new one."""
    content = json.loads((store / "manifest.json").read_text())
    change(content)
    (store / "manifest.json").write_text(json.dumps(content))
    (store / "manifest.json.sha256").write_text(file_digest(store / "manifest.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda of: of["shards"][0].update(batch_checksums=[]), "has 2 batches, and checksums of 0"),
        (lambda of: of["shards"][0].update(batch_rows=[-4, 12]), "has 8 rows, and its batches 8"),
        (lambda of: of["shards"][0].update(rows=9), "has 9 rows, and its batches 8"),
        (lambda of: of.update(rows=7), "7 rows, and 26 in the shards"),
        (lambda of: of["shards"].append(of["shards"][0]) or of.update(rows=34), "a shard is named twice"),
        (
            lambda of: of.update(encoding={"kind": "top_k"}),
            "labels of encoding top_k without a word of their positions",
        ),
    ],
)
def test_a_manifest_that_does_not_add_up_is_none(store: Path, change: Any, message: str) -> None:
    rewrite(store, change)
    with pytest.raises(LabelStoreError, match=message):
        LabelStore(store)


def test_a_manifest_that_is_not_that_of_the_record_is_repaired_from_it(store: Path) -> None:
    before = read_manifest(store)
    finish(store)
    rewrite(store, lambda content: content["source"].update(max_length=65))
    assert repair(store) == ["manifest.json"]
    teacher = Teacher()
    assert write(store, teacher) == before.content_digest and not teacher.asked
    assert read_manifest(store) == before
