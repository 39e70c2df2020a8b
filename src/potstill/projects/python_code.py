"""The project python-code: how does a function go on after its docstring? From the standard library of Python."""

import ast
import json
import platform
import re
import sysconfig
import textwrap
import tokenize
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.data.near_copies import same_text_key
from potstill.data.splits import stable_fraction, stable_order
from potstill.errors import DataError
from potstill.progress import Advance, Progress
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import unlike
from potstill.run_dir import write_text

RECIPES = {"recipe.yaml": "python_code.yaml", "recipe-layers.yaml": "python_code_layers.yaml"}

MIN_LINES = 2
MAX_LINES = 40
"""Of the completion: one line is often a mere call, and more do not fit with the prompt."""
MAX_PROMPT_CHARACTERS = 1500
SKIPPED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "ensurepip", "turtledemo", "__pycache__"}
)
"""Folders of tests, examples, other people's packages, and what newer releases no longer have."""

TEST_SHARE = 0.12
VALIDATION_SHARE = 0.06
"""Of the modules, with all that is in a package: its files are alike, so it falls on one side."""
TEST_ROWS = 48
VALIDATION_ROWS = 24
TRAIN_ROWS = 150
"""In train.jsonl: about 100,000 characters, or 25,000 tokens."""
MAX_MODULE_ROWS = 4
"""In each file but train-full.jsonl, so that no large package sets its tone."""
SALT = "python-code"

DATA_CARD = """\
# Data of the project python-code

Functions of the standard library of Python {version}, from the sources that came with the interpreter. Copyright (c)
Python Software Foundation; licence: PSF-2.0, https://docs.python.org/3/license.html. Keep this notice with copies.

A prompt is a function from its `def` to the end of its docstring, its completion the rest of it. Another release of
Python has other functions, so numbers compare only within one.
"""

_GENERATED = re.compile(r"^#.*generated\b", re.IGNORECASE | re.MULTILINE)
_HEAD_CHARACTERS = 600
_SENTENCE = re.compile(r"[A-Z]\w*(\s+[^\s.]+){2,}\.(\s|$)")


@dataclass(frozen=True, slots=True)
class Function:
    """A function cut after its docstring; `prompt + completion` is its source."""

    id: str
    prompt: str
    completion: str

    @property
    def module(self) -> str:
        """The top-level module or package."""
        return self.id.partition(":")[0].partition(".")[0]

    @property
    def text(self) -> str:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Functions:
    """The usable functions in the order of their files, and how many others were left out for which reason."""

    usable: list[Function]
    read: int
    duplicates: int


def write(folder: Path, progress: Progress, *, modules: Collection[str] | None = None) -> list[str]:
    """Write `data/{train,train-full,validation,test}.jsonl` and `DATA.md` into `folder`; return what was done.

    `modules` are the top-level modules and packages to read; None for all.

    Raises:
        DataError: the interpreter has no sources of its standard library, or too few for each split.
    """
    paths = source_files(modules)
    with progress.task("reading modules", len(paths), "files") as advance:
        functions = read_functions(paths, advance)
    ordered = stable_order(functions.usable, lambda function: function.id, salt=SALT)
    sides: dict[str, list[Function]] = {"test": [], "validation": [], "train": []}
    for function in ordered:
        sides[_side(function.module)].append(function)
    test = _varied(sides["test"], TEST_ROWS)
    validation = _varied(unlike(sides["validation"], test, progress), VALIDATION_ROWS)
    full = unlike(sides["train"], [*test, *validation], progress)
    splits = {"test": test, "validation": validation, "train": _varied(full, TRAIN_ROWS), "train-full": full}
    for name, rows in splits.items():
        if not rows:
            raise DataError(f"{name}: no function of the {len(paths)} files falls into it. Read more modules.")

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_text(data / f"{name}.jsonl", _lines(rows))
    version = platform.python_version()
    write_text(folder / "DATA.md", DATA_CARD.format(version=version))
    write_recipes(folder, RECIPES)
    return [
        f"{functions.read:,} functions read from {len(paths):,} files of Python {version} (PSF-2.0), "
        f"{len(functions.usable):,} usable",
        f"dropped: {functions.duplicates:,} duplicates, and functions without a docstring that holds a sentence, "
        f"or without {MIN_LINES} to {MAX_LINES} lines after it",
        f"near-copies of held-out functions dropped: {len(sides['train']) - len(full):,}",
        *(f"{name}: {_summary(rows)}" for name, rows in splits.items()),
    ]


def source_files(modules: Collection[str] | None = None) -> list[Path]:
    """The files of the standard library, without those in `SKIPPED` folders.

    Raises:
        DataError: there is none.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.isdisjoint(parts) and (modules is None or parts[0] in modules):
            found.append(path)
    if not found:
        what = "no Python sources" if modules is None else f"none of the modules {', '.join(sorted(modules))}"
        raise DataError(f"{root}: {what}. Use a Python that is installed with its standard library as files.")
    return found


def read_functions(paths: Sequence[Path], advance: Advance) -> Functions:
    """The usable functions of files that were not generated, each once."""
    usable: list[Function] = []
    seen: set[str] = set()
    read = duplicates = 0
    for path in paths:
        advance()
        with tokenize.open(path) as file:
            source = file.read()
        if _GENERATED.search(source[:_HEAD_CHARACTERS]):
            continue
        # Not splitlines(), for which a form feed ends a line, as it does not for Python.
        lines = source.split("\n")
        for name, node in _definitions(ast.parse(source)):
            read += 1
            function = cut(f"{_module_name(path)}:{name}", node, lines)
            if function is None:
                continue
            keys = {function.id, same_text_key(function.text)}
            if keys & seen:
                duplicates += 1
            else:
                usable.append(function)
            seen |= keys
    return Functions(usable, read, duplicates)


def cut(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]) -> Function | None:
    """The function `node` of a file of `lines`, cut after its docstring, or None where it is not usable."""
    docstring = ast.get_docstring(node)
    if docstring is None or not _SENTENCE.search(docstring):
        return None
    last = node.body[0].end_lineno
    assert last is not None and node.end_lineno is not None
    if not MIN_LINES <= node.end_lineno - last <= MAX_LINES:
        return None
    text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    try:
        ast.parse(text)
    except SyntaxError:
        # A string with less indentation than the code keeps it from moving.
        return None
    # The newline belongs to the completion: tokenizers join it with the indentation after it.
    length = last - node.lineno + 1
    parts = text.split("\n")
    prompt, completion = "\n".join(parts[:length]), "".join(f"\n{line}" for line in parts[length:])
    return Function(name, prompt, completion) if len(prompt) <= MAX_PROMPT_CHARACTERS else None


def _definitions(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods with their names; not those inside functions, which stand in these already."""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child


def _module_name(path: Path) -> str:
    parts = path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _side(module: str) -> str:
    place = stable_fraction(module, salt=SALT)
    if place < TEST_SHARE:
        return "test"
    return "validation" if place < TEST_SHARE + VALIDATION_SHARE else "train"


def _varied(functions: Sequence[Function], count: int) -> list[Function]:
    taken: Counter[str] = Counter()
    chosen: list[Function] = []
    for function in functions:
        if len(chosen) < count and taken[function.module] < MAX_MODULE_ROWS:
            taken[function.module] += 1
            chosen.append(function)
    return chosen


def _summary(functions: Sequence[Function]) -> str:
    modules = len({function.module for function in functions})
    characters = sum(len(function.text) for function in functions)
    return f"{len(functions):,} functions of {modules:,} modules, {characters:,} characters"


def _lines(functions: Sequence[Function]) -> str:
    records = [{"id": row.id, "prompt": row.prompt, "completion": row.completion} for row in functions]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
