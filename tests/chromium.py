"""A page in headless Chromium, through the pipe of its debugger: no driver and no other package is needed."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1600",
    "--remote-debugging-pipe",
)
DEADLINE_S = 120


class Tab:
    """A page that can be asked."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, os.fdopen(answers, "rb")
        self._number = 0
        self._session: dict[str, str] = {}
        self.requested: list[str] = []
        """The addresses that the page asked for."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.call("Network.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(asked).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requested.append(answer["params"]["request"]["url"])
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        line = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            line += byte
        found: dict[str, Any] = json.loads(line)
        return found

    def value(self, expression: str) -> Any:
        """What a piece of JavaScript gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Return when it is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.value(expression):
            assert time.monotonic() < deadline, f"{expression}: not in {DEADLINE_S} s\n{self.text}"
            time.sleep(0.05)  # polling: a page says only when it is asked what it shows

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return str(self.value("document.body.innerText"))

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """An empty page of a browser of its own, which ends with the block."""
    assert BROWSER is not None
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    # The browser reads commands from its descriptor 3, and writes answers to 4.
    shell = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    command = ["/bin/bash", "-c", shell, "bash", BROWSER, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    found = Tab(commands, answers)
    try:
        yield found
    finally:
        os.close(commands)  # the browser ends with its pipe
        process.wait(timeout=60)
        found._answers.close()
