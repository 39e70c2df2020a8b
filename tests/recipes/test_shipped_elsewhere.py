"""A shipped folder in an environment that has only what the folder asks for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from potstill.artefacts.llama_cpp import PACKAGE, VERSION
from tests.commands import ROOT, potstill
from tests.conftest import make_chat_project, make_project
from tests.gguf_models import write_llama
from tests.tagged_project import make_tagged_project

pytestmark = pytest.mark.long

INSTALL = ("-m", "pip", "install", "--quiet", "--retries", "0", "--constraint", str(ROOT / "constraints.txt"))
SMALL = "idna"
"""A package that any index has."""
LOOSE = ("--set", "gate={min_retention: 0.01, allow_weak_teacher: true}")
ANSWER = "answer: "
SERVED = f"""
import json, sys, xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.cpuparams.n_threads = sys.argv[1], 128, 1
server = xllamacpp.Server(params)
for line in sys.stdin:
    found = server.handle_chat_completions(json.loads(line) | {{"temperature": 0, "max_tokens": 32}})
    print({ANSWER!r} + json.dumps(found["choices"][0]["message"]["content"]), flush=True)
"""
"""What `llama-server` does, without its address: the same server, as a library."""


class Elsewhere:
    """A new virtual environment, in which nothing of this one can be imported."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self._python = folder / "bin/python"
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.folder = folder

    def run(self, *arguments: object, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._python, *map(str, arguments)],
            input=given, capture_output=True, text=True, cwd=self.folder, env=self._environment, timeout=500,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def answers(self, *arguments: object, given: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, given=given).stdout.splitlines()]

    def require_without(self, *names: str) -> None:
        for name in names:
            assert "ModuleNotFoundError" in self.run("-c", f"import {name}", check=False).stderr, name


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    found = Elsewhere(tmp_path / "venv")
    reached = found.run(*INSTALL, "--dry-run", "--ignore-installed", "--no-deps", SMALL, check=False)
    if reached.returncode:
        pytest.skip(f"pip reaches no index: {reached.stderr.strip().splitlines()[-1:]}")
    found.require_without("potstill", "torch", "transformers", "tokenizers", "numpy")
    return found


def lines_of(project: Path, count: int, *fields: str) -> str:
    """The first test rows, with these fields alone."""
    rows = [json.loads(line) for line in (project / "data/test.jsonl").read_text().splitlines()][:count]
    return "".join(json.dumps({name: row[name] for name in fields}) + "\n" for row in rows)


def answered_here(folder: Path, lines: str, scratch: Path) -> list[dict[str, Any]]:
    (scratch / "rows.jsonl").write_text(lines)
    potstill("predict", folder, scratch / "rows.jsonl", "--out", scratch / "out.jsonl")
    return [json.loads(line) for line in (scratch / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_graph_answers_by_what_its_folder_asks_for(
    kind: str, tmp_path: Path, teacher_folder: Path, elsewhere: Elsewhere
) -> None:
    """Texts and documents, each by the script that lies in its folder."""
    made = {"text": make_project, "tokens": make_tagged_project}
    for field, make in made.items():
        (tmp_path / field).mkdir()
        project = make(tmp_path / field, teacher_folder)
        forms = f"export=[{{kind: {kind}}}, {{kind: {kind}, precision: float32}}]"
        potstill("run", project / "recipe.yaml", "--out", project / "run", "--set", forms, *LOOSE, "--quiet")
        lines = lines_of(project, 12, field)
        for name in (f"{kind}-int8", f"{kind}-float32"):
            folder = project / "run/export" / name
            here = answered_here(folder, lines, tmp_path)
            copied = Path(shutil.copytree(folder, elsewhere.folder / field / name))
            elsewhere.run(*INSTALL, "--requirement", copied / "requirements.txt")
            there = elsewhere.answers(copied / "predict.py", given=lines)
            chances = [[each.pop("probability", 1.0) for each in found] for found in (here, there)]
            assert here == there and len({str(each) for each in here}) > 1
            assert chances[0] == pytest.approx(chances[1], rel=1e-5)
    elsewhere.require_without("potstill", "torch", "transformers")


def test_a_file_for_llama_cpp_answers_in_a_server_that_knows_nothing_else(tmp_path: Path, elsewhere: Elsewhere) -> None:
    """Greedily, after the same questions: the template and the tokens that end a response are in the file."""
    project = make_chat_project(tmp_path, write_llama(tmp_path / "teacher", width=64, layers=3))
    forms = ("--set", "export=[{kind: gguf, precision: f16}]", "--set", "adapt.epochs=12", "--set", "student.width=64")
    potstill(
        "run", project / "recipe.yaml", "--out", project / "run", *forms, "--set", "task.max_length=128", "--quiet"
    )
    folder = project / "run/export/gguf-f16"
    rows = [json.loads(line) for line in lines_of(project, 6, "messages").splitlines()]
    lines = "".join(json.dumps({"messages": row["messages"][:1]}) + "\n" for row in rows)
    here = [each["text"].strip() for each in answered_here(folder, lines, tmp_path)]
    file = shutil.copyfile(folder / "model.gguf", elsewhere.folder / "model.gguf")
    elsewhere.run(*INSTALL, f"{PACKAGE}=={VERSION}")
    told = elsewhere.run("-c", SERVED, file, given=lines).stdout.splitlines()
    there = [json.loads(line.removeprefix(ANSWER)).strip() for line in told if line.startswith(ANSWER)]
    assert there == here == [row["messages"][1]["content"] for row in rows]
    elsewhere.require_without("potstill", "torch", "transformers", "numpy")
