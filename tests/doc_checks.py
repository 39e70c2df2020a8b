"""What reads the code blocks of the pages: each language by what would read it in earnest.

What follows a fence's language says how. A `recipe` is a whole recipe; a `part` is merged into one of the task that is
named after it. `jsonl` names the task whose rows it shows. A block of Python that says `run` is run on a tiny project
(`test_docs.py`), and of all others the imports and the arguments of calls are compared with the package.
"""

import argparse
import ast
import importlib
import inspect
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer.main
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser

from potstill.catalogue import LISTED
from potstill.cli import app
from potstill.data.columns import Columns
from potstill.data.reading import Reading
from potstill.errors import RecipeError
from potstill.projects import PROJECTS, my_data
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe

ROOT = Path(__file__).parents[1]
TASKS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in ("text_classification", "token_classification", "causal_lm", "seq2seq")},
    **{
        problem: {"kind": "text_classification", "problem_type": problem}
        for problem in ("multi_label_classification", "regression")
    },
}
DATA = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}
SECTIONS = tuple(Recipe.model_fields)


@dataclass(frozen=True)
class Block:
    """A fenced block, or a piece of code within a line, which has no language."""

    place: str
    words: tuple[str, ...]
    """Its language, and what follows it."""
    text: str


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page, and what stands between backticks within its lines.

    Raises:
        AssertionError: there is code that would not be found.
    """
    found: list[Block] = []
    words: tuple[str, ...] | None = None
    begun, inside = 0, []
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*```(.*)", line)
        if words is None and fence:
            words, begun, inside = tuple(fence[1].split() or [""]), number, []
        elif words is not None and fence:
            found.append(Block(f"{page}:{begun}", words, "\n".join(inside)))
            words = None
        elif words is not None:
            inside.append(line)
        else:
            assert not line.startswith("    "), f"{page}:{number}: an indented block; fence it, with its language."
            found += [Block(f"{page}:{number}", (), span) for span in re.findall(r"`([^`]+)`", line)]
    assert words is None, f"{page}:{begun}: a fence that is not closed"
    return found


def recipe_with(values: dict[str, Any], folder: Path, *overrides: str) -> Recipe:
    """The recipe as `potstill` would read it; JSON is YAML."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values))
    return load_recipe(path, overrides)


def base_of(task: str) -> dict[str, Any]:
    return {"task": TASKS[task], "data": DATA, "teacher": {"kind": "pretrained", "model": "models/teacher"}}


def merged(base: Any, part: Any) -> Any:
    """`part` over `base`, key by key, where both are sections of one kind."""
    if not (isinstance(base, dict) and isinstance(part, dict)):
        return part
    if "kind" in part and part["kind"] != base.get("kind"):
        return part
    return base | {key: merged(base.get(key), value) for key, value in part.items()}


def check_yaml(block: Block, folder: Path) -> None:
    kind, *task = block.words[1:]
    if kind == "recipe":
        path = folder / "recipe.yaml"
        path.write_text(block.text)
        load_recipe(path)
        return
    assert kind == "part", f"{block.place}: yaml is a recipe or a part"
    part = YAML(typ="safe", pure=True).load(block.text)
    recipe_with(merged(base_of(*task or ["text_classification"]), part), folder)


def check_rows(block: Block, folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(block.text)
    [task] = block.words[1:]
    how = Reading()
    rows = recipe_with(base_of(task), folder).task.read(path, Columns(), how=how)
    assert len(rows) == len(block.text.splitlines())
    assert not how.files[path].unread, f"{block.place}: nothing reads {how.files[path].unread}"


def check_python(block: Block, folder: Path) -> None:
    import potstill

    tree = ast.parse(block.text)
    results: dict[str, type] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for module in node.names:
                importlib.import_module(module.name)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert hasattr(importlib.import_module(node.module or ""), name.name), f"{block.place}: {name.name}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "potstill":
            assert hasattr(potstill, node.attr), f"{block.place}: potstill.{node.attr}"
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and (found := _called(node.value)):
            for target in node.targets:
                results[ast.unparse(target)] = get_type_hints(found).get("return", object)
        if isinstance(node, ast.Call) and (found := _called(node)):
            named = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(found).bind(*[None] * len(node.args), **named)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (kind := results.get(ast.unparse(node.value))):
            known = node.attr in get_type_hints(kind) or hasattr(kind, node.attr)
            assert known, f"{block.place}: {ast.unparse(node)} is no part of {kind.__name__}"


def _called(call: ast.Call) -> Callable[..., Any] | None:
    """The function of the package that is called; None for any other."""
    import potstill

    name = ast.unparse(call.func).removeprefix("potstill.")
    return getattr(potstill, name) if name in potstill.__all__ else None


def check_shell(block: Block, folder: Path) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            check_command(words, folder)


def check_command(words: list[str], folder: Path, *, partial: bool = False) -> None:
    """One command with its arguments; `partial` where a text names it without all of them."""
    words = words[: words.index(">")] if ">" in words else words
    match words:
        case ["potstill", *arguments]:
            check_potstill(arguments, folder, partial=partial)
        case ["torchrun", *arguments]:
            given = get_args_parser().parse_args(arguments)
            assert given.module and given.training_script == "potstill"
            check_potstill(given.training_script_args, folder, partial=partial)
        case ["make", *targets]:
            phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert phony and targets and set(targets) <= set(phony[1].split()), targets
        case ["pip", "install", *places]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for place in places:
                asked = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", place)
                assert asked and set((asked[1] or "demo").split(",")) <= set(extras), place
        case ["python", script, *arguments] if script.startswith("benchmarks/"):
            check_benchmark(script, arguments)
        case _:
            raise AssertionError(f"a command that no test knows: {shlex.join(words)}")


def check_potstill(arguments: list[str], folder: Path, *, partial: bool) -> None:
    """The arguments as the command line reads them, without running anything."""
    command: Any = typer.main.get_command(app)
    name, context = "potstill", None
    while True:
        try:
            context = command.make_context(name, list(arguments), parent=context)
        except Exception as error:
            # The classes are Typer's own copy of Click's, which it does not export.
            missing = partial and type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError")
            # An option that only shows something, such as a version, ends there.
            if missing or (type(error).__name__ == "Exit" and getattr(error, "exit_code", 1) == 0):
                return
            raise
        if not hasattr(command, "resolve_command"):
            break
        arguments = [*context._protected_args, *context.args]
        if partial and arguments[0].isupper():
            return
        name, command, arguments = command.resolve_command(context, arguments)
    given = context.params
    if name in ("init", "list"):
        value = given.get("name") or given.get("what") or "NAME"
        assert value in (*PROJECTS, my_data.NAME, *LISTED) or (partial and value.isupper()), value
    if (recipe := given.get("recipe")) and not (partial and str(recipe).isupper()):
        own = recipe if recipe.parts[0] == "recipes" else Path("src/potstill/projects/license_notices.yaml")
        load_recipe(ROOT / own, [] if partial and given.get("set_") == ["KEY=VALUE"] else given.get("set_") or [])


class Parsed(Exception):
    """The arguments of a benchmark are right."""


def check_benchmark(script: str, arguments: list[str]) -> None:
    """The arguments as the benchmark's own parser reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.setattr(sys, "argv", [script, *arguments])
        parse = argparse.ArgumentParser.parse_args

        def and_stop(parser: argparse.ArgumentParser, *given: Any, **options: Any) -> None:
            parse(parser, *given, **options)
            raise Parsed

        module = importlib.import_module(Path(script).stem)
        patch.setattr(argparse.ArgumentParser, "parse_args", and_stop)
        with pytest.raises(Parsed):
            module.main()


CHECKS = {"yaml": check_yaml, "jsonl": check_rows, "python": check_python, "sh": check_shell}


def check(block: Block, folder: Path) -> None:
    assert block.words[0] in CHECKS, f"{block.place}: no test knows the language {block.words[0]!r}"
    CHECKS[block.words[0]](block, folder)


def names_in(schema: Any) -> Iterator[str]:
    """Every key that some part of a recipe can have."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from names_in(child)


def check_in_a_line(text: str, folder: Path) -> bool:
    """Whether a piece of code in a line is a command or a setting; it is compared with the package then."""
    if re.match(r"(potstill|make|torchrun|python benchmarks/\S+) ", text):
        check_command(shlex.split(text), folder, partial=True)
        return True
    setting = re.fullmatch(rf"({'|'.join(SECTIONS)})((?:\.[a-z_]+)*)(?:: (.*))?", text)
    if setting is None or text == setting[1] or text.endswith(".jsonl"):
        return False
    unknown = set(setting[2].split(".")[1:]) - set(names_in(Recipe.model_json_schema()))
    assert not unknown, unknown
    if setting[3] is not None:
        refusals = []
        for task in TASKS:
            try:
                recipe_with(base_of(task), folder, f"{setting[1]}{setting[2]}={setting[3]}")
                break
            except RecipeError as error:
                refusals.append(str(error))
        assert len(refusals) < len(TASKS), refusals
    return True
