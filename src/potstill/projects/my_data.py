"""The project my-data: a recipe for rows that are there, of which the form and the columns are guessed."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from potstill.data.cells import as_list, as_number
from potstill.data.fields import LABELS, RESPONSES, TAGS, in_yaml
from potstill.data.meanings import is_empty, plain
from potstill.data.reading import FileNotes
from potstill.data.sources import is_of_hub, read_source
from potstill.errors import DataError, RecipeError
from potstill.run_dir import write_text

NAME = "my-data"
SUMMARY = "A recipe for rows that you have: potstill init my-data DIR --from FILE guesses their form."
RECIPE = "recipe.yaml"
LOOKED_AT = 500
"""Rows from the beginning; enough to see what a column holds."""
CONVERSATIONS = ("messages", "conversations")
TOKENS = ("tokens", "words")
TEXTS = ("text", "sentence", "content", "body", "review", "comment", "document", "tweet", "utterance", "query", "title")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
SOURCES = ("source", "article", "document", "src", "dialogue")
TARGETS = ("target", "summary", "highlights", "translation", "tgt")
"""What columns are called, the likeliest first; as `plain` makes names."""
MOST_CLASSES = 50
MOST_NAMED = 4


@dataclass
class Guess:
    """What rows seem to be for."""

    task: str
    columns: dict[str, str]
    """By its role, each column that is read."""
    problem_type: str | None = None
    about: list[str] = field(default_factory=list)


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
    name = source if is_of_hub(source) else os.path.relpath(source, folder)
    write_text(path, _recipe(guess, name))
    names = dict.fromkeys(name for row in rows for name in row)
    unread = [each for each in names if each not in guess.columns.values() and each not in ("id", "domain")]
    return [
        f"{source}: {len(rows):,} rows looked at, with {', '.join(map(_shown, names))}",
        f"guessed {guess.task}"
        + (f", {guess.problem_type}" if guess.problem_type else "")
        + f": {', '.join(f'{role} in {_shown(column)}' for role, column in guess.columns.items())}",
        *guess.about,
        *([f"not read: {', '.join(map(_shown, unread))}"] if unread else []),
        f"wrote {path}: validation and test are a tenth each of its labelled rows; give files of their own if you have",
    ]


def _first_rows(source: Path) -> list[dict[str, Any]]:
    notes = FileNotes(source)
    # Words of CoNLL files are called so in the recipe too.
    records = read_source(source, notes, reads=(), tagged=("tokens", "tags"))
    rows = [record for _, _, record in islice(records, LOOKED_AT) if isinstance(record, dict)]
    if not rows:
        raise DataError("\n".join(notes.first_bad) or f"{source}: 0 rows.")
    return rows


def guessed(source: str, rows: Sequence[Mapping[str, Any]]) -> Guess:
    """What the rows are for, by the names and values of their columns.

    Raises:
        DataError: it cannot be guessed.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: [row[name] for row in rows if name in row and not is_empty(row[name])] for name in names}
    texts = [name for name in names if values[name] and all(isinstance(each, str) for each in values[name])]
    turns = [name for name in names if plain(name) in CONVERSATIONS and values[name]]
    if turns:
        return Guess("causal_lm", {"messages": turns[0]})
    tokens = _named(TOKENS, [name for name in names if _are_lists_of_texts(values[name])])
    if tokens is not None:
        tags = _of(TAGS, [name for name in names if name != tokens and _are_lists_of_texts(values[name])])
        return Guess("token_classification", {"tokens": tokens} | ({} if tags is None else {"tags": tags}))
    source_column, target = _named(SOURCES, texts), _named(TARGETS, texts)
    if source_column is not None and target is not None:
        return Guess("seq2seq", {"source": source_column, "target": target})
    prompt, completion = _named(PROMPTS, texts), _of(RESPONSES - LABELS | {"answer"}, texts)
    if prompt is not None and completion is not None:
        more = {"input": "input"} if "input" in texts and prompt != "input" else {}
        return Guess("causal_lm", {"prompt": prompt} | more | {"completion": completion})
    label = _of(LABELS, [name for name in names if values[name]])
    text = _named(TEXTS, [name for name in texts if name != label]) or _longest(values, texts, label)
    if text is not None and label is not None:
        return _classified(text, label, values[label])
    if text is not None:
        return Guess("causal_lm", {"text": text}, about=["no column looks like a label: each text is learnt whole"])
    raise DataError(
        f"{source}: it cannot be guessed what its columns are for: {', '.join(map(_shown, names))}. Begin with "
        "potstill init blank DIR, and name them in data.columns."
    )


def _classified(text: str, label: str, values: Sequence[Any]) -> Guess:
    columns = {"text": text, "label": label}
    if any(isinstance(as_list(each), list) for each in values):
        return Guess("text_classification", columns, "multi_label_classification")
    numbers = [each for each in map(as_number, values) if isinstance(each, float) and not isinstance(each, bool)]
    if len(numbers) == len(values) and not all(each.is_integer() for each in numbers):
        return Guess("text_classification", columns, "regression")
    classes = list(dict.fromkeys(map(str, values)))
    about = f"{len(classes):,} classes: {', '.join(map(_shown, classes[:MOST_NAMED]))}"
    more = f" and {len(classes) - MOST_NAMED:,} more" if len(classes) > MOST_NAMED else ""
    doubt = ", which are many; are they classes?" if len(classes) > MOST_CLASSES else ""
    return Guess("text_classification", columns, "single_label_classification", [about + more + doubt])


def _named(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the likeliest of these names."""
    return next((name for each in known for name in names if plain(name) == each), None)


def _of(known: frozenset[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if plain(name) in known), None)


def _longest(values: Mapping[str, Sequence[Any]], texts: Sequence[str], label: str | None) -> str | None:
    """The column with the longest texts on average, where no name says which is the text."""
    found = [name for name in texts if name not in (label, "id", "domain")]
    return max(found, key=lambda name: sum(map(len, values[name])) / len(values[name]), default=None)


def _are_lists_of_texts(values: Sequence[Any]) -> bool:
    lists = [as_list(each) for each in values]
    return bool(lists) and all(isinstance(each, list) and all(isinstance(item, str) for item in each) for each in lists)


def _shown(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _recipe(guess: Guess, name: str) -> str:
    """The commented recipe of the task, with these rows in it."""
    text = resources.files("potstill.projects").joinpath(f"blank_{guess.task}.yaml").read_text(encoding="utf-8")
    renamed = {role: column for role, column in guess.columns.items() if role != column and column != "conversations"}
    columns = ", ".join(f"{role}: {in_yaml(column)}" for role, column in renamed.items())
    train = f"  train: {json.dumps(name, ensure_ascii=False)}"
    changes = {
        r"^# Put your rows.*\n": f"# Name your teacher, then: potstill check {RECIPE}\n",
        r"^  train: .*$": train + (f"\n  columns: {{{columns}}}" if columns else ""),
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
