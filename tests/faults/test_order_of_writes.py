"""The order in which a file, a folder and their names reach the disk: content first, then the name, then its folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from potstill.run_dir import atomic_folder, write_text


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was forced to disk and what was renamed, in this order."""
    events: list[str] = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def name_of(path: Path) -> str:
        return "folder" if path == tmp_path else "new" if path.name.endswith(".tmp") else path.name

    def seen_fsync(descriptor: int) -> None:
        events.append(f"sync {name_of(Path(f'/proc/self/fd/{descriptor}').resolve())}")
        fsync(descriptor)

    def seen_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    def seen_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    monkeypatch.setattr(Path, "rename", seen_rename)
    return lambda: events


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files by their descriptors in /proc")
def test_what_takes_the_place_of_a_file_is_on_disk_before_it_does(
    tmp_path: Path, seen: Callable[[], list[str]]
) -> None:
    (tmp_path / "file").write_text("old")
    write_text(tmp_path / "file", "new")
    assert seen() == ["sync new", "rename", "sync folder"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files by their descriptors in /proc")
def test_what_is_in_a_folder_is_on_disk_before_it_has_its_name(tmp_path: Path, seen: Callable[[], list[str]]) -> None:
    with atomic_folder(tmp_path / "made") as folder:
        (folder / "inside").write_text("new")
    assert seen() == ["sync inside", "sync new", "rename", "sync folder"]
