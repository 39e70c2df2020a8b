"""Reading a recipe: YAML 1.2 with limits, overrides, and errors that name line, key and remedy."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from potstill.errors import RecipeError
from potstill.recipe import Recipe

EXPECTED, FOUND = "Input should be ", ", found "
"""How a message of a wrong value begins, and what comes before that value."""
MAX_BYTES = 1_000_000
MAX_NODES = 10_000
"""Nodes after aliases are followed: a few hundred bytes of YAML can expand to gigabytes."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `a.b=value` overrides applied before validation.

    Raises:
        RecipeError: everything that is wrong with it, together, each with its line.
    """
    document = _parse(path)
    values = _plain(document, path)
    for override in overrides:
        _apply(values, override)
    return recipe_of(values, str(path), document)


def read_values(path: Path) -> dict[str, Any]:
    """What stands in a file, as plain values; whether it is a recipe is not looked at.

    Raises:
        RecipeError: it cannot be read, or is no YAML of keys and values.
    """
    values: dict[str, Any] = _plain(_parse(path), path)
    return values


def recipe_of(values: dict[str, Any], source: str, document: CommentedMap | None = None) -> Recipe:
    """The recipe of plain values, which came from `source`.

    Raises:
        RecipeError: everything that is wrong with it, together, each with its line where there is a document.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = CommentedMap() if document is None else document
        problems = _merged(_explain(problem, values, lines) for problem in _causes(error.errors()))
        raise RecipeError("\n".join([f"{source}: {len(problems)} problem(s)", *problems])) from None


def _causes(found: Sequence[Any]) -> list[Any]:
    """The problems without those that only follow from others: a list is not too short because a member is wrong."""
    places = [tuple(problem["loc"]) for problem in found]

    def follows(problem: Any, place: tuple[Any, ...]) -> bool:
        inside = (other for other in places if other != place and other[: len(place)] == place)
        return problem["type"] == "too_short" and any(inside)

    return [problem for problem, place in zip(found, places, strict=True) if not follows(problem, place)]


def _merged(explained: Iterator[tuple[str, str, str]]) -> list[str]:
    """A line for each place and what was found there: a value that may be of several forms is one problem, and not one
    for each form that it has not."""
    found: dict[tuple[str, str], list[str]] = {}
    for number, (place, message, shown) in enumerate(explained):
        # Of what has no value to show, two messages are two problems.
        messages = found.setdefault((place, shown or f"problem {number}"), [])
        if message not in messages:
            messages.append(message)
    lines = []
    for (place, shown), (first, *others) in found.items():
        whole = ", or ".join([first, *(each.removeprefix(EXPECTED) for each in others)])
        lines.append(f"  {place}{whole}{shown if shown.startswith(FOUND) else ''}")
    return list(dict.fromkeys(lines))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out; it loads to the same recipe."""
    import io

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 100
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    # Weights that were not given are left out where alpha sets them, for both together are an error.
    values = recipe.model_dump(mode="json")
    if recipe.train.alpha is not None:
        for loss in values["losses"]:
            del loss["weight"]
    buffer = io.StringIO()
    yaml.dump(values, buffer)
    return buffer.getvalue()


def _parse(path: Path) -> CommentedMap:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file. Start one with: potstill init NAME DIR") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: {len(content):,} bytes; a recipe has at most {MAX_BYTES:,}.")
    # The round-trip loader knows line numbers, builds no objects from tags, and refuses duplicate keys.
    yaml = YAML(typ="rt", pure=True)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8. Save it as UTF-8.") from None
    try:
        document = yaml.load(text)
    except DuplicateKeyError as error:
        raise RecipeError(f"{path}: {_duplicate(error, text)}") from None
    except Exception as error:  # the constructors of tagged values raise all kinds
        raise RecipeError(f"{path}: {_syntax(error)}") from None
    if not isinstance(document, CommentedMap):
        raise RecipeError(f"{path}: expected keys such as task, data and teacher at the top level.")
    return document


def _syntax(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply."
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, MarkedYAMLError) and mark is not None:
        # In YAML, > begins a block of text.
        quotes = " Put a requirement in quotes: '>= 0.9'." if "chomping" in str(error.problem) else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}.{quotes}"
    reason = str(error).splitlines() or [type(error).__name__]
    return f"not YAML: {reason[0]}."


def _duplicate(error: DuplicateKeyError, text: str) -> str:
    """Both lines: the error knows the second, the nodes of the block that it happened in know the first."""
    second = error.problem_mark
    for block in _mappings(YAML(typ="rt", pure=True).compose(text)):
        keys = [key for key, _ in block.value]
        again = next((key for key in keys if second and key.start_mark.index == second.index), None)
        if again is not None:
            first = next(key for key in keys if key.value == again.value)
            lines = f"lines {first.start_mark.line + 1} and {again.start_mark.line + 1}"
            return f"{lines}: {again.value!r} is given twice. Keep one of them."
    return _syntax(error)


def _mappings(root: Any) -> Iterator[MappingNode]:
    """Every mapping below a node, once, however many aliases lead to it."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield node
            waiting += [value for _, value in node.value]
        elif isinstance(node, SequenceNode):
            waiting += node.value


def _plain(value: Any, path: Path) -> Any:
    """Plain Python values of a parsed document, refused when aliases make it explode."""
    count = 0

    def convert(node: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_NODES:
            raise RecipeError(f"{path}: more than {MAX_NODES:,} values (aliases that expand?).")
        if isinstance(node, dict):
            return {str(key): convert(inner) for key, inner in node.items()}
        if isinstance(node, list):
            return [convert(inner) for inner in node]
        for kind in (bool, int, float, str):
            if isinstance(node, kind):
                return kind(node)
        return node if node is None else str(node)

    try:
        return convert(value)
    except RecursionError:
        raise RecipeError(f"{path}: nested too deeply (an alias that contains itself?).") from None


def _apply(values: dict[str, Any], override: str) -> None:
    """Set `a.b.0.c=value`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected key=value, as in train.epochs=3.")
    try:
        # A requirement, where a shell has taken its quotes: a block of text has no place in one line.
        loaded = text if text.startswith(">") else YAML(typ="rt", pure=True).load(text)
        value = _plain(loaded, Path(f"--set {key}"))
    except RecipeError:
        raise
    except Exception as error:  # the constructors of tagged values raise all kinds
        raise RecipeError(f"--set {override}: {_syntax(error)}") from None
    *parents, last = key.strip().split(".")
    target: Any = values
    for part in parents:
        target = _child(target, part, override)
    if isinstance(target, list):
        if not last.isdecimal() or int(last) >= len(target):
            raise RecipeError(f"--set {override}: no item {last!r} in a list of {len(target)}.")
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise RecipeError(f"--set {override}: {'.'.join(parents)} is a value, not a section.")


def _child(target: Any, part: str, override: str) -> Any:
    if isinstance(target, list):
        if not part.isdecimal() or int(part) >= len(target):
            raise RecipeError(f"--set {override}: no item {part!r} in a list of {len(target)}.")
        return target[int(part)]
    if not isinstance(target, dict):
        raise RecipeError(f"--set {override}: {part!r} is below a value, not a section.")
    if target.get(part) is None:
        target[part] = {}
    return target[part]


def _explain(problem: ErrorDetails, values: dict[str, Any], document: CommentedMap) -> tuple[str, str, str]:
    """Where, what was expected, and what was found; the last is empty where it cannot be shown in a line."""
    path = tuple(_keys_only(problem["loc"], values))
    name = _dotted(path)
    line = _line(path, document)
    where = f"line {line}: " if line else ""
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}{name}: ", f"unknown{_hint(path, values, document)}", ""
    if kind == "missing":
        return f"{where}{name}: ", "missing.", ""
    given = problem.get("input")
    shown = f"{FOUND}{given!r}" if isinstance(given, str | int | float) and not isinstance(given, bool) else ""
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid" and "ctx" in problem:
        tag = str(problem["ctx"].get("tag"))
        expected = re.findall(r"'([^']+)'", str(problem["ctx"].get("expected_tags")))
        guess = difflib.get_close_matches(tag, expected, n=1)
        message = f"unknown kind {tag!r}; expected one of {', '.join(expected)}"
        message += f"; did you mean {guess[0]}?" if guess else ""
        shown = ""
    if kind == "union_tag_not_found":
        message, shown = "needs a kind.", ""
    return f"{where}{name + ': ' if name else ''}", message, shown


def _hint(path: Sequence[str | int], values: Any, document: CommentedMap) -> str:
    """What a key that is not known may have been meant to be."""
    section: Any = values
    for part in path[:-1]:
        inside = (isinstance(section, dict) and part in section) or (
            isinstance(section, list) and isinstance(part, int)
        )
        section = section[part] if inside else {}
    key, known = str(path[-1]), _known_keys(path[:-1], document)
    if key in known:
        members = f"; give it to each of its members, as in {_dotted([*path[:-1], 'of', 'NAME', key])}"
        kind = section.get("kind", "left out")
        return f" where kind is {kind}, and known to other kinds{members if 'of' in section else ''}."
    guess = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {guess[0]}?" if guess else ""


def _keys_only(location: Sequence[str | int], values: Any) -> Iterator[str | int]:
    """The location without the tags that pydantic adds for members of a union."""
    node: Any = values
    for place, part in enumerate(location):
        last = place == len(location) - 1
        if isinstance(part, int):
            node = node[part] if isinstance(node, list) and part < len(node) else None
            yield part
        elif isinstance(node, dict) and (part in node or (last and part != node.get("kind"))):
            node = node.get(part)
            yield part
        elif node is None:
            yield part


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _line(path: Sequence[str | int], document: CommentedMap) -> int | None:
    """The line of a key, or of the nearest section above it."""
    node: Any = document
    line = None
    for part in path:
        try:
            if isinstance(node, CommentedMap):
                line = node.lc.key(part)[0] + 1
            elif isinstance(node, CommentedSeq):
                line = node.lc.item(part)[0] + 1
            node = node[part]
        except (KeyError, IndexError, TypeError):
            break
    return line


def _known_keys(path: Sequence[str | int], document: Any) -> list[str]:
    """The keys that the schema allows at a place, those of all members of a union together."""
    schema = Recipe.model_json_schema()
    nodes = [schema]
    for part in path:
        nodes = [child for node in _flat(nodes, schema) for child in _schema_children(node, part)]
    return sorted({key for node in _flat(nodes, schema) for key in node.get("properties", {})})


def _schema_children(node: dict[str, Any], part: str | int) -> Iterator[dict[str, Any]]:
    if isinstance(part, int):
        yield from [node["items"]] if isinstance(node.get("items"), dict) else []
    elif part in node.get("properties", {}):
        yield node["properties"][part]


def _flat(nodes: Sequence[dict[str, Any]], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Schema nodes with references and unions resolved."""
    for node in nodes:
        if "$ref" in node:
            yield from _flat([schema["$defs"][node["$ref"].rsplit("/", 1)[1]]], schema)
        else:
            yield node
            for union in ("anyOf", "oneOf"):
                yield from _flat(node.get(union, []), schema)
