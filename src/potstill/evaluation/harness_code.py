"""The Python of trusted task files: what they name, and all that this imports of the files beside it."""

import ast
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from potstill.errors import RecipeError
from potstill.evaluation.harness_files import FUNCTION, TaskFile


def code_of(where: str, files: Sequence[TaskFile]) -> list[Path]:
    """The files of the functions that a trusted task names, and those that they import, each once; those of installed
    modules change with the environment.

    Imports are read, and nothing is run, so what a file imports by a name that it makes is not among them.

    Raises:
        RecipeError: a module that is not there, or a file that is no Python.
    """
    found: dict[Path, None] = {}
    for file in files:
        for function in file.functions:
            module = function.rpartition(".")[0]
            package = module.partition(".")[0]
            path = file.path.parent / f"{module.replace('.', '/')}.py"
            if path.is_file():
                _add_with_imports(where, path, file.path.parent, found)
            elif not package or find_spec(package) is None:
                raise RecipeError(
                    f"{where}: {file.path} has {FUNCTION} {function}, whose module neither lies beside it nor is "
                    "installed."
                )
    return list(found)


def _add_with_imports(where: str, path: Path, folder: Path, found: dict[Path, None]) -> None:
    """Add a file and what it imports of what lies below the folder of its task."""
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = None
            waiting += _beside(where, path, folder)


def _beside(where: str, path: Path, folder: Path) -> Iterator[Path]:
    try:
        statements = list(ast.walk(ast.parse(path.read_bytes(), str(path))))
    except OSError as error:
        raise RecipeError(f"{where}: {path} cannot be read ({error.strerror}).") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: {path} is no Python ({error}). Mend it.") from None
    for statement in statements:
        match statement:
            case ast.Import(names=names):
                modules = [(name.name, 0) for name in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                # What is imported from a package can be a module of it.
                begin = f"{module}." if module else ""
                modules = [(f"{begin}{name.name}", level) for name in names]
            case _:
                continue
        for module, level in modules:
            # A script finds modules in its own folder too; a relative name begins there, or above.
            bases = (folder, path.parent) if level == 0 else (path.parents[min(level, len(path.parents)) - 1],)
            for base in dict.fromkeys(bases):
                if base.is_relative_to(folder):
                    yield from _files_of(module.split("."), base)


def _files_of(parts: Sequence[str], base: Path) -> Iterator[Path]:
    """Of `a.b.c` the files that Python would run: of packages their `__init__.py`."""
    for count in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:count])
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                yield file
