"""Files and folders that are whole or not there."""

from pathlib import Path
from typing import Any

import pytest

from potstill.run_dir import (
    atomic_file,
    atomic_folder,
    folder_files,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"), atomic_file(path) as temporary:
        temporary.write_text("new, but on")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file.txt"]


def test_a_failed_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(*_: Any) -> None:
        raise OSError("read-only")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="read-only"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_file_has_usual_permissions_unless_it_is_private(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    for private in (False, True):
        with atomic_file(tmp_path / str(private), private=private) as temporary:
            temporary.write_text("x")
    assert (tmp_path / "False").stat().st_mode == usual.stat().st_mode
    assert (tmp_path / "True").stat().st_mode & 0o777 == 0o600


def test_the_old_file_is_seen_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_line_ends_are_written_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "a\r\nb\n\u2028")
    assert (tmp_path / "file.txt").read_bytes() == "a\r\nb\n\u2028".encode()


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("1")
    with pytest.raises(OSError, match="full"), atomic_folder(target) as temporary:
        (temporary / "b").write_text("2")
        raise OSError("full")
    assert list(folder_files(target, relative_to=tmp_path)) == ["model/sub/a"]
    with atomic_folder(target) as temporary:
        (temporary / "c").write_text("3")
    assert list(folder_files(target, relative_to=tmp_path)) == ["model/c"]
    assert [child.name for child in tmp_path.iterdir()] == ["model"]
