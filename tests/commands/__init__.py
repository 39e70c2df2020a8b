"""Commands as a user gives them, without the seconds that each new process needs to import torch and transformers.

One process for each worker of the tests has imported everything and forks for each command: what the command does to
its process, and how much memory that takes, stays its own. A command that is to be started as a user does it is
`potstill_afresh`.
"""

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
TIMEOUT_S = 1200


def potstill(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    return _checked(start(*arguments).result(), check)


def potstill_afresh(*arguments: object, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """The same in a process that a shell would start."""
    command = [sys.executable, "-m", "potstill", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=TIMEOUT_S)
    return _checked(done, check)


def _checked(done: subprocess.CompletedProcess[str], code: int | None) -> subprocess.CompletedProcess[str]:
    assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def start(*arguments: object) -> "Command":
    return Command(_prepared_process(), list(map(str, arguments)))


class Command:
    """A command at work in a process of its own, which can be asked for and signalled like a `Popen`."""

    def __init__(self, address: str, arguments: list[str]) -> None:
        self.arguments = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="command-"))
        self._answers = socket.socket(socket.AF_UNIX)
        self._answers.connect(address)
        ask = {
            "module": "potstill",
            "arguments": arguments,
            "cwd": str(Path.cwd()),
            "environment": dict(ENVIRONMENT),
            **{stream: str(self._folder / stream) for stream in ("stdin", "stdout", "stderr")},
        }
        (self._folder / "stdin").touch()
        self._answers.sendall(json.dumps(ask).encode() + b"\n")
        self.pid = int(_line_of(self._answers))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self._answers.settimeout(0)
            try:
                self._end(self._answers.recv(64).decode())
            except BlockingIOError:
                return None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def result(self, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        deadline = time.monotonic() + timeout_s
        while self.returncode is None:
            self._answers.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                self._end(self._answers.recv(64).decode())
            except TimeoutError:
                self.send_signal(signal.SIGKILL)
                raise
        stdout, stderr = ((self._folder / stream).read_text() for stream in ("stdout", "stderr"))
        shutil.rmtree(self._folder)
        return subprocess.CompletedProcess(self.arguments, self.returncode, stdout, stderr)

    def _end(self, answer: str) -> None:
        # A process that was killed says nothing: its end of the connection is closed for it.
        self.returncode = int(answer) if answer.strip() else -signal.SIGKILL
        self._answers.close()


def _line_of(answers: socket.socket) -> str:
    """The next line, and no byte of what may lie behind it: a quick command can have ended by the time it is read."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = answers.recv(1)
        assert byte, "the process that forks has ended"
        line += byte
    return line.decode()


def record(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "result.json").read_text())


def stages_that_worked(stderr: str) -> set[str]:
    return {line.removesuffix(": started") for line in stderr.splitlines() if line.endswith(": started")}


def same_weights(left: Path, right: Path) -> bool:
    a, b = load_file(left), load_file(right)
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def wait_for_checkpoint(process: "Command | subprocess.Popen[str]", stage: Path) -> None:
    """Return when a stage has its first checkpoint, or the process has ended before it was seen."""
    deadline = time.monotonic() + 120
    while not list((stage / "scratch/checkpoints").glob("step-*")) and process.poll() is None:
        assert time.monotonic() < deadline, f"{stage}: no checkpoint after two minutes"
        time.sleep(0.002)  # polling: a process can only be seen from outside by what it leaves on disk


@functools.cache
def _prepared_process() -> str:
    """The address of the process that forks; it ends with this one."""
    folder = tempfile.mkdtemp(prefix="commands-")
    address = f"{folder}/socket"
    command = [sys.executable, "-m", "tests.commands.prepared", address]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, cwd=ROOT)
    assert server.stdout and server.stdout.readline() == b"ready\n", "the process that forks did not start"

    def end() -> None:
        assert server.stdin
        server.stdin.close()
        server.wait(timeout=60)
        shutil.rmtree(folder)

    atexit.register(end)
    return address
