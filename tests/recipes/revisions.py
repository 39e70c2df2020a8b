"""Runs each recipe of recipes/, as short as in the tests, by two revisions, and compares what they leave.

    python -m tests.recipes.revisions REVISION [NAME ...]

compares REVISION with the sources as they lie here. Records, losses, labels and weights must be the same to the
bit, but for what is measured in seconds or in bytes of memory; and a run that REVISION made must have nothing left to
do here.
"""

import argparse
import difflib
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from tests.commands import ENVIRONMENT, stages_that_worked
from tests.conftest import make_chat_project, spelling_pieces, word_pieces, write_chat_teacher, write_teacher
from tests.pair_models import make_pair_teacher
from tests.recipes import (
    test_flavours,
    test_language_models,
    test_problem_types,
    test_seq2seq,
    test_token_classification,
)

ROOT = Path(__file__).parents[2]
WRITING = Lock()
"""Models are written one at a time: their weights are drawn from torch's global generator."""
MEASURED = ("seconds", "latency", "throughput", "speed", "memory", "_per_s", "time_to", "time_per", "disk_free")
"""Parts of the names of what differs from run to run."""
DIGESTS = {"fingerprint", "digest_of_record"}
"""Of records: of those after evaluate they cover what is measured."""


@dataclass(frozen=True)
class Run:
    """One call of `potstill run`."""

    recipe: Path
    out: Path
    changes: list[str]


def runs_of(name: str, folder: Path) -> list[Run]:
    """What a recipe takes, in order, beside data and a teacher that are written into `folder`."""
    teacher = write_teacher(_made(folder / "teacher"), word_pieces())
    project = _made(folder / "project")
    if name in test_flavours.PAIRS:
        recipe = test_seq2seq.of_recipes(project, name, make_pair_teacher(_made(folder / "pairs"), "t5"))
        return [Run(recipe, project / "run", test_seq2seq.changed(*test_seq2seq.SHRUNK))]
    if name == "chat_hidden_states":
        chat = write_chat_teacher(_made(folder / "chat"))
        recipe, changes = test_language_models.with_hidden_states(make_chat_project(project, chat), chat)
        return [Run(recipe, project / "run", test_seq2seq.changed(*changes))]
    if name in ("token_classification", "conll"):
        recipe, changes = test_token_classification.of_recipes(project, teacher, name)
        return [Run(recipe, project / "run", test_seq2seq.changed(*changes))]
    if name in test_flavours.OTHER_ANSWERS:
        of: tuple[str, Callable[..., None]] = (
            ("sets", test_problem_types.write_sets)
            if name == "multi_label"
            else ("coverage", test_problem_types.write_numbers)
        )
        test_problem_types.of_recipes(project, name, *of, teacher)
        return [Run(project / f"recipes/{name}.yaml", project / "run", test_problem_types.changes())]
    test_flavours.of_recipes(project, teacher, write_teacher(_made(folder / "spelling"), spelling_pieces()))
    recipe = project / f"recipes/{name}.yaml"
    # With a baseline, so that its losses and weights are compared too.
    own = Run(recipe, project / "run", test_flavours.changes_of(recipe, "train.baseline=true"))
    if name != "assistant_second":
        return [own]
    first = project / "recipes/assistant_first.yaml"
    return [Run(first, project / "runs/assistant", test_flavours.changes_of(first, "train.snapshots=[0.25]")), own]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def carried_out(runs: list[Run], source: Path) -> set[str]:
    """Carry out runs with the package in `source`; returns the stages that worked."""
    worked: set[str] = set()
    for run in runs:
        command = [sys.executable, "-m", "potstill", "run", str(run.recipe), "--out", str(run.out), *run.changes]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | {"PYTHONPATH": str(source)})
        # 3 is a student that the gate refuses.
        if done.returncode not in (0, 3):
            raise RuntimeError(f"{run.recipe.name} by {source}: exit {done.returncode}\n{done.stderr}")
        worked |= stages_that_worked(done.stderr)
    return worked


def left_by(folder: Path) -> Iterator[tuple[str, Any]]:
    """Name and content, or sha256, of all that must be the same in the runs of a project."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "result.json":
            record = json.loads(path.read_text().replace(str(folder), "FOLDER"))
            yield name, _lasting(record, judged=path.parent.name not in NOT_JUDGED)
        elif path.name == "metrics.jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            yield name, [_lasting(line) for line in lines]
        elif path.suffix in (".safetensors", ".arrow", ".parquet") and "scratch" not in path.parts:
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


NOT_JUDGED = ("evaluate", "gate", "export", "report")


def _lasting(value: Any, *, judged: bool = False) -> Any:
    """A record without what is measured; `judged` says whether its fingerprint must be the same."""
    if isinstance(value, dict):
        return {
            key: _lasting(each, judged=judged)
            for key, each in value.items()
            if not any(part in key for part in MEASURED)
            and key != "files"
            and ((judged and key == "fingerprint") or key not in DIGESTS)
        }
    if isinstance(value, list):
        measured = [each for each in value if not _of_speed(each)]
        return [_lasting(each, judged=judged) for each in measured]
    return value


def _of_speed(each: Any) -> bool:
    """Whether it is a sentence or a check of the gate about what is measured."""
    said = each if isinstance(each, str) else each.get("name", "") if isinstance(each, dict) else ""
    return "times as fast" in said or any(part in said for part in MEASURED)


def compare(name: str, before: Path, after: Path) -> list[str]:
    """What is wrong with a recipe, as lines."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with WRITING:
            runs = runs_of(name, folder)
        carried_out(runs, before)
        old = dict(left_by(folder))
        found = []
        if worked := carried_out(runs, after):
            found.append(f"what was made before is made again: {', '.join(sorted(worked))}")
        for run in runs:
            shutil.rmtree(run.out)
        carried_out(runs, after)
        new = dict(left_by(folder))
        for file in sorted(old.keys() | new.keys()):
            found += _difference(file, old.get(file), new.get(file))
        return found


def _known_before(old: Any, new: Any) -> Any:
    """What is there now without the fields that records did not have before."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _known_before(old[key], value) for key, value in new.items() if key in old}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_known_before(*each) for each in zip(old, new, strict=True)]
    return new


def _difference(what: str, old: Any, new: Any) -> list[str]:
    before, after = (json.dumps(each, indent=1, sort_keys=True).splitlines() for each in (old, _known_before(old, new)))
    lines = difflib.unified_diff(before, after, "before", "after", lineterm="", n=1)
    shown = list(lines)[:20]
    return [what, *shown] if shown else []


def exported(revision: str, folder: Path) -> Path:
    """The sources of a revision."""
    archive = subprocess.run(["git", "archive", revision, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "src"


def recipes_of(revision: str) -> list[str]:
    """The names of the recipes that a revision has, and that are here."""
    command = ["git", "ls-tree", "--name-only", revision, "recipes/"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split()
    return sorted(path.stem for each in listed if (path := ROOT / each).suffix == ".yaml" and path.exists())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("names", nargs="*", help="by default all recipes that REVISION has too")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.names or recipes_of(arguments.revision)
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(arguments.jobs) as pool:
        before = exported(arguments.revision, Path(made))
        # As they are now: whoever waits for this may go on writing.
        after = Path(shutil.copytree(ROOT / "src", Path(made) / "after"))
        found = pool.map(lambda name: (name, compare(name, before, after)), names)
        wrong = 0
        for name, lines in found:
            print(f"{name}: {'differs' if lines else 'the same'}", *lines, sep="\n  ", flush=True)
            wrong += bool(lines)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
