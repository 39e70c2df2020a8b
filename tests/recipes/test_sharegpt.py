"""recipes/sharegpt.yaml through the command line: the demo's dialogues in ShareGPT's form are the same dialogues."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, potstill, record
from tests.conftest import make_chat_project
from tests.recipes.test_real_language_models import SHORT, keep_first

RECIPE = ROOT / "recipes/sharegpt.yaml"
SPLITS = ("train", "validation", "test")


def beside(folder: Path) -> Path:
    """The recipe in `folder`, beside the rows of `folder`/chat/data in ShareGPT's form, as its page writes them."""
    script = re.search(r"```python\n(.*?)```", (ROOT / "recipes/README.md").read_text(), re.DOTALL)
    assert script is not None
    subprocess.run([sys.executable, "-c", script[1]], cwd=folder, check=True)
    (folder / "recipes").mkdir()
    recipe = folder / "recipes" / RECIPE.name
    recipe.write_text(RECIPE.read_text())
    return recipe


def changed(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def test_the_same_dialogues_are_learnt_as_of_messages(tmp_path: Path, chat_teacher_folder: Path) -> None:
    (tmp_path / "chat").mkdir()
    make_chat_project(tmp_path / "chat", chat_teacher_folder)
    recipe = beside(tmp_path)
    first = json.loads((tmp_path / "chat/sharegpt/train.jsonl").read_text().splitlines()[0])
    assert [turn["from"] for turn in first["conversations"]][:2] == ["human", "gpt"]
    tiny = ["task.max_length=64", "student.layers=2", "student.width=32", "data.near_copies=null"]
    tiny.append(f"teacher.model={chat_teacher_folder}")
    for form, files in (("sharegpt", "../chat/sharegpt"), ("messages", "../chat/data")):
        data = [f"data.{split}={files}/{split}.jsonl" for split in SPLITS]
        potstill("plan", recipe, "--out", tmp_path / form, *changed(*tiny, *data))
    plans = [record(tmp_path / form, "plan") for form in ("sharegpt", "messages")]
    assert plans[0]["splits"] == plans[1]["splits"] and plans[0]["splits"]["train"]["tokens"]["trained_tokens"] > 0


@pytest.mark.long
def test_the_recipe_runs_on_the_demos_dialogues(tmp_path: Path) -> None:
    potstill("init", "support-chat", tmp_path / "chat")
    for name, rows in (("train", 8), ("validation", 2), ("test", 2)):
        keep_first(tmp_path / f"chat/data/{name}.jsonl", rows)
    recipe = beside(tmp_path)
    changes = [*(each for each in SHORT if "gate.min_kl" not in each), "task.max_length=128"]
    assert "[[" in potstill("check", recipe, *changed(*changes)).stdout
    potstill(
        "run",
        recipe,
        "--out",
        tmp_path / "run",
        *changed(*changes, "train.baseline=false", "gate.allow_degenerate_writing=true"),
    )
    evaluation = record(tmp_path / "run", "evaluate")
    assert evaluation["models"]["teacher"]["perplexity"] < 60
    assert evaluation["models"]["student"]["kl_mean"] < evaluation["initial_kl_mean"]
    assert (tmp_path / "run/report/report.html").is_file()
