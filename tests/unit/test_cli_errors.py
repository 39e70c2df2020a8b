"""What the system refuses is one message; what the program gets wrong stays a traceback."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch._inductor.exc import InductorError

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


def noted(error: Exception, stage: str | None) -> Exception:
    if stage:
        error.add_note(stage)
    return error


CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 3 MiB is free."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "400000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "stage", "message"),
    [
        (
            torch.OutOfMemoryError(CUDA),
            "train/student",
            "train/student: out of memory (CUDA out of memory. Tried to allocate 20.00 MiB). Lower "
            "train.micro_batch_size, which is train.batch_size where it is not set, or set "
            "train.gradient_checkpointing: true; the same command goes on from what was saved.",
        ),
        (
            RuntimeError(CPU),
            "label/teacher/logits",
            "label/teacher/logits: out of memory (can't allocate memory: you tried to allocate 400000000000 bytes). "
            "Lower label.batch_size; the same",
        ),
        (
            MemoryError(),
            "label/responses",
            "label/responses: out of memory. Lower label.responses.batch_size; the same",
        ),
        (InductorError(torch.OutOfMemoryError(CUDA), None), "adapt", "adapt: out of memory (CUDA out of memory. Tried"),
        (MemoryError(), None, "potstill: out of memory. Lower the batch sizes of the recipe"),
    ],
)
def test_memory_that_runs_out_is_one_message_with_what_to_lower(
    error: Exception,
    stage: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise noted(error, stage)

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug of memory")])
def test_an_error_of_the_program_is_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(type(error), match="a bug"):
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
