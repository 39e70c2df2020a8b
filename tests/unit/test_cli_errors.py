"""What the system refuses is one message; what the program gets wrong stays a traceback."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from potstill import cli


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run/x"), "error: run/x: the disk is full. Free some space"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "error: the disk is full. Free some space; the same command goes on",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "run"), "error: run: Permission denied. (potstill --debug"),
    ],
)
def test_a_refusal_of_the_system_is_one_message(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(message)


def test_an_error_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main()


def test_a_run_directory_below_a_file_is_one_message(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["potstill", "plan", str(project / "recipe.yaml"), "--out", str(project / "recipe.yaml/run")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "recipe.yaml/run: Not a directory" in capsys.readouterr().err
