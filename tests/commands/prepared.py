"""A process that has imported what a command needs, and forks for each that it is asked for."""

import atexit
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

MODELS = ("bert", "llama", "t5", "bart", "distilbert", "roberta", "qwen2")


def main(address: str) -> None:
    _import_all()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what has ended is not waited for
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _serve(connection, address)
        connection.close()


def _import_all() -> None:
    import potstill

    for module in pkgutil.walk_packages(potstill.__path__, "potstill."):
        # An exporter imports its extra where it is used; nothing else needs one.
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in MODELS:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def _serve(connection: socket.socket, address: str) -> None:
    """Do what the connection asks for, as its process, and answer with the process's number and its exit code."""
    ask = json.loads(connection.makefile().readline())
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        opened = os.open(ask[stream], os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(ask["cwd"])
    os.environ.clear()
    os.environ.update(ask["environment"])
    connection.sendall(f"{os.getpid()}\n".encode())
    code = 1
    try:
        _prepare(address)
        sys.argv = [ask["module"], *ask["arguments"]]
        runpy.run_module(ask["module"], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(code)


def _prepare(address: str) -> None:
    """What a new process would have made of its environment, and the processes that this one starts."""
    import torch

    from potstill.measure import speed

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def run(request: speed.Request, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as other:
            streams = {stream: f"{folder}/{stream}" for stream in ("stdin", "stdout", "stderr")}
            Path(streams["stdin"]).write_text(request.as_json())
            module = type(request).__module__
            ask = {"module": module, "arguments": [], "cwd": str(Path.cwd()), "environment": environment, **streams}
            other.connect(address)
            other.sendall(json.dumps(ask).encode() + b"\n")
            *_, code = other.makefile().read().split()
            out, errors = (Path(streams[stream]).read_text() for stream in ("stdout", "stderr"))
        return subprocess.CompletedProcess([module], int(code), out, errors)

    speed._run = run


if __name__ == "__main__":
    main(sys.argv[1])
