"""Every name that the package uses is known, though the linter must not ask: it takes the axes of shapes for names."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import potstill

PACKAGE = Path(potstill.__file__).parent


def strings_in(path: Path) -> list[tuple[int, int, int, int]]:
    """Where strings begin and end: lines and columns, counted from 1."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.end_lineno is not None and node.end_col_offset is not None
            found.append((node.lineno, node.col_offset + 1, node.end_lineno, node.end_col_offset + 1))
    return found


def unknown_names(folder: Path) -> list[str]:
    """Names that nothing defines and that are not the axes of a shape, which stand in strings."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "json"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    told = []
    for each in json.loads(done.stdout):
        place = each["location"]["row"], each["location"]["column"]
        strings = strings_in(Path(each["filename"]))
        if not any((row, column) <= place < (last, end) for row, column, last, end in strings):
            told.append(f"{each['filename']}:{place[0]}: {each['message']}")
    return told


def test_every_name_is_known() -> None:
    assert unknown_names(PACKAGE) == []


def test_a_name_that_nothing_defines_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        'x: Shape["rows"] = 1\n\n\ndef f(a: "Batch[\'rows\']") -> None:\n    forgotten(a)\n'
    )
    assert [line.partition(": ")[2] for line in unknown_names(tmp_path)] == [
        "Undefined name `Shape`",
        "Undefined name `forgotten`",
    ]
