"""The project my-data: a recipe for rows that are there, of which the form and the columns are guessed."""

import json
import os
import re
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from potstill.data.fields import in_yaml, shown
from potstill.data.meanings import is_empty
from potstill.data.reading import FileNotes
from potstill.data.sources import is_of_hub, read_source
from potstill.errors import DataError, RecipeError
from potstill.projects.row_guesses import Guess, guessed
from potstill.run_dir import write_text

NAME = "my-data"
SUMMARY = "A recipe for rows that you have: potstill init my-data DIR --from FILE guesses their form."
RECIPE = "recipe.yaml"
LOOKED_AT = 500
"""Rows from the beginning; enough to see what a column holds."""


def write(folder: Path, source: str) -> list[str]:
    """Look at the rows, write their recipe, and say what was guessed.

    Raises:
        DataError: rows that cannot be read, or of which it cannot be guessed what they are for.
        RecipeError: the folder has a recipe.
    """
    path = folder / RECIPE
    if path.exists():
        raise RecipeError(f"{path} is there already. Give another folder.")
    rows = _first_rows(Path(source))
    guess = guessed(source, rows)
    folder.mkdir(parents=True, exist_ok=True)
    name = source if is_of_hub(source) else _relative(Path(source), folder)
    write_text(path, _recipe(guess, name))
    names = dict.fromkeys(name for row in rows for name in row)
    told = {*guess.columns.values(), *guess.ignore, "id", "domain"}
    unread = [each for each in names if each not in told and not all(is_empty(row.get(each)) for row in rows)]
    return [
        f"{source}: {len(rows):,} rows looked at, with {', '.join(map(shown, names))}",
        f"guessed {guess.task}"
        + (f", {guess.problem_type}" if guess.problem_type else "")
        + f": {', '.join(f'{role} in {shown(column)}' for role, column in guess.columns.items())}",
        *guess.about,
        *([f"not read: {', '.join(map(shown, unread))}"] if unread else []),
        f"wrote {path}: validation and test are a tenth each of its labelled rows; give files of their own if you have",
    ]


def _relative(source: Path, folder: Path) -> str:
    """Where the rows are from the folder, which may be reached through a link: `..` leads out of what it links to."""
    return os.path.relpath(source.parent.resolve() / source.name, folder.resolve())


def _first_rows(source: Path) -> list[dict[str, Any]]:
    notes = FileNotes(source)
    # Words of CoNLL files are called so in the recipe too.
    records = read_source(source, notes, reads=(), tagged=("tokens", "tags"))
    rows = [record for _, _, record in islice(records, LOOKED_AT) if isinstance(record, dict)]
    if not rows:
        raise DataError("\n".join(notes.first_bad) or f"{source}: 0 rows.")
    return rows


def _recipe(guess: Guess, name: str) -> str:
    """The commented recipe of the task, with these rows in it."""
    text = resources.files("potstill.projects").joinpath(f"blank_{guess.task}.yaml").read_text(encoding="utf-8")
    renamed = {role: column for role, column in guess.columns.items() if role != column and column != "conversations"}
    columns = ", ".join(f"{role}: {in_yaml(column)}" for role, column in renamed.items())
    train = f"  train: {json.dumps(name, ensure_ascii=False)}" + (f"\n  columns: {{{columns}}}" if columns else "")
    ignored = ", ".join(map(in_yaml, guess.ignore))
    changes = {
        r"^# Put your rows.*\n": f"# Name your teacher, then: potstill check {RECIPE}\n",
        r"^  train: .*$": train + (f"\n  ignore: [{ignored}]" if ignored else ""),
        r"^  validation: .*$": "  validation: 0.1",
        r"^  test: .*$": "  test: 0.1",
    }
    if guess.problem_type:
        changes[r"^  problem_type: .*$"] = f"  problem_type: {guess.problem_type}"
    for pattern, line in changes.items():
        # A name is no template, whatever signs it has.
        text, found = re.subn(pattern, line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE)
        assert found, pattern
    return text
