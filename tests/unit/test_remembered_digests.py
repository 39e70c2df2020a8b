"""Digests of large files are remembered, and never of a file that may have changed."""

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from potstill import remembered_digests
from potstill.remembered_digests import LEAST_BYTES, SETTLED_NS, rehashed, remembered_digest
from potstill.run_dir import file_digest
from potstill.runtimes.folder import ModelFolder, model_digest
from tests.commands import ENVIRONMENT, potstill

OTHER = "f" * 64


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the cache, for files of every size and age."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered_digests, "LEAST_BYTES", 1)
    monkeypatch.setattr(remembered_digests, "SETTLED_NS", -(10**9))
    return tmp_path / "cache/potstill/digests.json"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def remember_another(cache: Path) -> None:
    """Make the cache hold another digest of each file, so that what comes from there is told from what is hashed."""
    content = json.loads(cache.read_text())
    for known in content["files"].values():
        known["sha256"] = OTHER
    cache.write_text(json.dumps(content))


def test_a_file_is_hashed_once(cache: Path, weights: Path) -> None:
    assert remembered_digest(weights) == file_digest(weights)
    remember_another(cache)
    assert remembered_digest(weights) == OTHER
    # Under another name it is the same file.
    link = weights.with_name("link")
    link.symlink_to(weights)
    assert remembered_digest(link) == OTHER
    with rehashed():
        assert remembered_digest(weights) == file_digest(weights)
    assert remembered_digest(weights) == file_digest(weights)


def rewritten(path: Path) -> None:
    path.write_bytes(b"weightz")


def written_at_the_same_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"weightz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"weightz")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def longer(path: Path) -> None:
    path.write_bytes(b"weights and more")


@pytest.mark.parametrize("change", [rewritten, written_at_the_same_time, replaced, longer])
def test_a_changed_file_is_hashed_anew(cache: Path, weights: Path, change: Callable[[Path], None]) -> None:
    remembered_digest(weights)
    change(weights)
    assert remembered_digest(weights) == file_digest(weights) != hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("size", "st_size"),
        ("written_ns", "st_mtime_ns"),
        ("changed_ns", "st_ctime_ns"),
        ("inode", "st_ino"),
        ("device", "st_dev"),
    ],
)
def test_each_thing_that_the_file_system_says_counts(cache: Path, weights: Path, field: str, asked: str) -> None:
    remembered_digest(weights)
    assert json.loads(cache.read_text())["files"][str(weights)][field] == getattr(weights.stat(), asked)
    remember_another(cache)
    content = json.loads(cache.read_text())
    content["files"][str(weights)][field] += 1
    cache.write_text(json.dumps(content))
    assert remembered_digest(weights) == file_digest(weights)


def test_a_file_that_was_changed_just_now_is_not_remembered(
    cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered_digests, "SETTLED_NS", 2 * 10**9)
    # Neither is one of which the time of writing was set back.
    os.utime(weights, (0, 0))
    assert remembered_digest(weights) == file_digest(weights)
    assert not cache.exists()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = hashlib.file_digest

    def changed_meanwhile(file: Any, name: str) -> Any:
        found = read(file, name)
        weights.write_bytes(b"another")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", changed_meanwhile)
        remembered_digest(weights)
    assert not cache.exists()


def test_small_files_are_read_each_time(cache: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_digests, "LEAST_BYTES", len(b"weights") + 1)
    assert remembered_digest(weights) == file_digest(weights)
    assert not cache.exists()


def test_the_cache_is_for_its_owner_alone(cache: Path, weights: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.parent.chmod(0o755)
    remembered_digest(weights)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    # What others could have written is not believed.
    remember_another(cache)
    cache.chmod(0o660)
    assert remembered_digest(weights) == file_digest(weights)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"format": 2, "files": {}}', '{"files": {"/a": {"sha256": "no"}}}', "\udcff"]
)
def test_a_damaged_cache_is_passed_over_and_written_anew(cache: Path, weights: Path, content: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content.encode(errors="surrogateescape"))
    cache.chmod(0o600)
    assert remembered_digest(weights) == file_digest(weights)
    assert json.loads(cache.read_text())["files"][str(weights)]["sha256"] == file_digest(weights)


def test_the_latest_files_are_remembered(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_digests, "MOST_FILES", 3)
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_bytes(b"weights")
        remembered_digest(path)
    with rehashed():
        remembered_digest(paths[3])
    assert list(json.loads(cache.read_text())["files"]) == [str(paths[number]) for number in (2, 4, 3)]


def test_processes_at_work_together_lose_nothing(cache: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(40)]
    for path in paths:
        path.write_bytes(b"weights")
    # What a process left that was killed while it wrote.
    cache.parent.mkdir(parents=True)
    (cache.parent / f".{cache.name}.0123.tmp").touch()
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(remembered_digest, paths))) == 1
    assert set(json.loads(cache.read_text())["files"]) == {str(path) for path in paths}
    assert list(cache.parent.iterdir()) == [cache]


def test_a_cache_that_cannot_be_written_costs_time_alone(cache: Path, weights: Path) -> None:
    cache.parent.parent.write_text("a file in the place of the folder")
    assert remembered_digest(weights) == file_digest(weights)


def test_the_cache_lies_where_the_user_has_caches(
    cache: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        (tmp_path / "home/.cache/potstill/digests.json").unlink(missing_ok=True)
        remembered_digest(weights)
        assert (tmp_path / "home/.cache/potstill/digests.json").is_file()
    assert not cache.exists()


def test_what_a_run_wrote_is_read_whole(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run/adapt/model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    digest = model_digest(folder)
    assert model_digest(folder, remembered_digest) == digest
    remember_another(cache)
    assert model_digest(folder, remembered_digest) != digest
    ModelFolder(folder, digest=digest).require_unchanged()


def test_commands_take_a_teacher_for_the_one_that_was_hashed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher of which another digest is remembered is another teacher, until it is hashed anew."""
    monkeypatch.setitem(ENVIRONMENT, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = tmp_path / "cache/potstill/digests.json"
    recipe, run, teacher = project / "recipe.yaml", project / "run", project / "teacher"
    given = next(line for line in recipe.read_text().splitlines() if line.startswith("teacher:")).split('"')[1]
    shutil.copytree(given, teacher)
    large = teacher / "notes.txt"
    large.write_bytes(bytes(LEAST_BYTES))
    recipe.write_text(recipe.read_text().replace(given, "teacher"))
    while time.time_ns() < large.stat().st_ctime_ns + 1.1 * SETTLED_NS:
        time.sleep(0.05)  # until it is old enough to be remembered

    def kept(*options: str) -> bool:
        """Whether the plan is that of the command before."""
        return "plan: kept" in potstill("plan", recipe, "--out", run, *options).stderr

    def remembered() -> str:
        return str(json.loads(cache.read_text())["files"][str(large.resolve())]["sha256"])

    assert not kept() and remembered() == file_digest(large) and kept()
    remember_another(cache)
    assert not kept() and kept() and not kept("--rehash")
    for command in (["check", recipe], ["students", recipe, "--no-measure"]):
        remember_another(cache)
        potstill(*command)
        assert remembered() == OTHER
        potstill(*command, "--rehash")
        assert remembered() == file_digest(large)
