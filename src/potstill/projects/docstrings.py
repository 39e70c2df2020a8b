"""Texts about code, out of the sources of Python's standard library: what a classifier of other texts may meet too."""

import ast
import json
from pathlib import Path

from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects.python_code import Function, read_functions, source_files
from potstill.run_dir import write_text

MODULES = frozenset(
    {"argparse", "asyncio", "collections", "concurrent", "ctypes", "email", "http", "importlib", "json", "logging"}
    | {"multiprocessing", "pathlib", "statistics", "subprocess", "tarfile", "threading", "unittest", "xml", "zipfile"}
)
"""Some of the library, so that reading takes a few seconds."""
SALT = "docstrings"


def write_docstrings(path: Path, count: int, progress: Progress) -> str:
    """Write so many docstrings of functions as rows without labels; return what was done.

    Raises:
        DataError: the interpreter has no sources of its standard library, or too few.
    """
    paths = source_files(MODULES)
    with progress.task("reading docstrings", len(paths), "files") as advance:
        functions = read_functions(paths, advance).usable
    texts = {_docstring(each): each.id for each in stable_order(functions, lambda each: each.id, salt=SALT)}
    if len(texts) < count:
        raise DataError(f"{path}: {len(texts)} docstrings in {len(paths)} files, and {count} are wanted.")
    rows = [{"id": identity, "text": text} for text, identity in list(texts.items())[:count]]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return f"{path.stem}: {count} docstrings of Python's standard library (PSF-2.0), which are no notices"


def _docstring(function: Function) -> str:
    node = ast.parse(function.text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return ast.get_docstring(node) or ""
