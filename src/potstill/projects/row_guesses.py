"""What rows are for, guessed by the names and values of their columns."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from potstill.data.cells import as_list, as_number
from potstill.data.columns import KINDS, Columns
from potstill.data.dialogue_rows import CONVERSATIONS, turns_in
from potstill.data.fields import LABELS, RESPONSES, TAGS, is_numbered, shown
from potstill.data.files import json_value
from potstill.data.meanings import BESIDE_TEXT, FIRST_AND_SECOND, SECOND, is_empty, plain
from potstill.data.spans import are_spans
from potstill.data.tagged import ENTITIES
from potstill.errors import DataError

CHATS = ("messages", CONVERSATIONS)
TOKENS = ("tokens", "words")
TEXTS = ("text", "sentence", "content", "body", "review", "comment", "document", "tweet", "utterance", "query", "title")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
ANSWERS = RESPONSES - LABELS | {"answer"}
SOURCES = ("source", "article", "document", "src", "dialogue")
TARGETS = ("target", "summary", "highlights", "translation", "tgt")
ENTITY_TAGS = ("nertags", "ner", "nerlabels", "tags", "tag", "labels", "label", "biotags", "bio", "iobtags", "iob")
OTHER_TAGS = ("slots", "chunktags", "postags", "pos")
TOOLS = ("tools", "functions", "availabletools", "tooldefinitions")
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
    ignore: list[str] = field(default_factory=list)
    """Columns that would be read too, or in place of these."""


@dataclass(frozen=True)
class _Seen:
    """The columns of the first rows."""

    values: Mapping[str, Sequence[Any]]
    """By name, those that say something."""
    turns: Sequence[str]
    spans: Sequence[str]
    texts: Sequence[str]
    """Those of which each value is a text, and none of the above."""
    lists: Sequence[str]
    """Those of lists of texts."""

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "_Seen":
        names = dict.fromkeys(name for row in rows for name in row)
        all_values = {name: [row[name] for row in rows if not is_empty(row.get(name))] for name in names}
        values = {name: each for name, each in all_values.items() if each}
        turns = [name for name, each in values.items() if all(turns_in(_parsed(value)) for value in each)]
        spans = [name for name, each in values.items() if name not in turns and are_spans(list(map(_parsed, each)))]
        texts = [
            name
            for name, each in values.items()
            if name not in (*turns, *spans) and all(isinstance(value, str) for value in each)
        ]
        return cls(values, turns, spans, texts, [name for name, each in values.items() if _are_lists_of_texts(each)])


def guessed(source: str, rows: Sequence[Mapping[str, Any]]) -> Guess:
    """What the rows are for, by the names and values of their columns.

    Raises:
        DataError: it cannot be guessed.
    """
    seen = _Seen.of(rows)
    ways: tuple[Callable[[_Seen], Guess | None], ...] = (
        *(_of_turns, _of_words, _of_spans, _of_labelled_pairs, _of_sources, _of_prompts, _of_classes, _of_texts),
    )
    guess = next((guess for way in ways if (guess := way(seen)) is not None), None)
    if guess is None:
        names = dict.fromkeys(name for row in rows for name in row)
        raise DataError(
            f"{source}: it cannot be guessed what its columns are for: {', '.join(map(shown, names))}. Begin with "
            "potstill init blank DIR, and name them in data.columns."
        )
    guess.ignore.extend(_beside(guess, seen))
    if guess.ignore:
        read = shown(next(iter(guess.columns.values())))
        guess.about.append(f"left out: {', '.join(map(shown, guess.ignore))}, in place of which {read} is read")
    return guess


def _beside(guess: Guess, seen: _Seen) -> list[str]:
    """The columns that would make rows of another kind, or belong to such."""
    if guess.task == "token_classification":
        return [name for name in seen.values if name == "tokens" and "spans" in guess.columns]
    if guess.task != "causal_lm":
        return []
    columns = Columns(**{role: name for role, name in guess.columns.items() if name != CONVERSATIONS})
    roles = [role for role in (*KINDS, "completion", "input") if role not in columns.given_away]
    others = {*(getattr(columns, role) for role in roles), CONVERSATIONS} - {*guess.columns.values()}
    return [name for name in seen.values if name in others]


def _of_turns(seen: _Seen) -> Guess | None:
    named = _named(CHATS, list(seen.values))
    prompt = _named(PROMPTS, seen.turns)
    if named is not None or (prompt is None and seen.turns):
        columns = {"messages": named or seen.turns[0]}
    elif prompt is not None:
        completion = _of(ANSWERS, [name for name in (*seen.turns, *seen.texts) if name != prompt])
        columns = {"prompt": prompt} | ({} if completion is None else {"completion": completion})
    else:
        return None
    tools = _named(TOOLS, [name for name, values in seen.values.items() if all(map(_is_list_of_objects, values))])
    arguments = next((name for name in seen.values if plain(name) == "chattemplatekwargs"), None)
    more = {"tools": tools, "chat_template_kwargs": arguments}
    return Guess("causal_lm", columns | {role: name for role, name in more.items() if name is not None})


def _of_words(seen: _Seen) -> Guess | None:
    tokens = _named(TOKENS, seen.lists)
    if tokens is None:
        return None
    others = [name for name in seen.lists if name != tokens]
    tags = _named(ENTITY_TAGS, others) or _named(OTHER_TAGS, others) or _of(TAGS, others)
    if tags is None:
        return _of_spans(seen) or Guess("token_classification", {"tokens": tokens})
    unread = [name for name in others if name != tags and (plain(name) in TAGS or plain(name).endswith("tags"))]
    about = [f"there are other tags: {', '.join(map(shown, unread))}; name these in data.columns.tags"]
    return Guess("token_classification", {"tokens": tokens, "tags": tags}, about=about if unread else [])


def _of_spans(seen: _Seen) -> Guess | None:
    text = _named(TEXTS, seen.texts) or _longest(seen, None)
    spans = _named(("spans", ENTITIES), seen.spans) or _of(TAGS, seen.spans) or next(iter(seen.spans), None)
    if text is None or spans is None:
        return None
    return Guess("token_classification", {"text": text, "spans": spans})


def _of_labelled_pairs(seen: _Seen) -> Guess | None:
    """Two texts and what is called a label, which are no prompt and its answer."""
    label = _of(frozenset(name for name in LABELS if "label" in name), list(seen.values))
    pair = _pair_in([name for name in seen.texts if name != label])
    if label is None or pair is None or (plain(pair[0]) in SOURCES and plain(pair[1]) in TARGETS):
        return None
    return _classified({"text": pair[0], "text_pair": pair[1]}, label, seen.values[label])


def _of_sources(seen: _Seen) -> Guess | None:
    source, target = _named(SOURCES, seen.texts), _named(TARGETS, seen.texts)
    return None if source is None or target is None else Guess("seq2seq", {"source": source, "target": target})


def _of_prompts(seen: _Seen) -> Guess | None:
    prompt, completion = _named(PROMPTS, seen.texts), _of(ANSWERS, seen.texts)
    if prompt is None or completion is None:
        return None
    more = {"input": "input"} if "input" in seen.texts and prompt != "input" else {}
    return Guess("causal_lm", {"prompt": prompt} | more | {"completion": completion})


def _of_classes(seen: _Seen) -> Guess | None:
    label = _of(LABELS, list(seen.values))
    if label is None:
        return None
    texts = [name for name in seen.texts if name != label]
    if (pair := _pair_in(texts)) is not None:
        return _classified({"text": pair[0], "text_pair": pair[1]}, label, seen.values[label])
    text = _named(TEXTS, texts) or _longest(seen, label)
    if text is None:
        return None
    second = next((name for name in texts if name != text and BESIDE_TEXT.get(plain(name)) is SECOND), None)
    columns = {"text": text} | ({} if second is None else {"text_pair": second})
    return _classified(columns, label, seen.values[label])


def _of_texts(seen: _Seen) -> Guess | None:
    text = _named(TEXTS, seen.texts) or _longest(seen, None)
    if text is None:
        return None
    return Guess("causal_lm", {"text": text}, about=["no column looks like a label: each text is learnt whole"])


def _classified(columns: dict[str, str], label: str, values: Sequence[Any]) -> Guess:
    columns = columns | {"label": label}
    if any(isinstance(as_list(each), list) for each in values):
        return Guess("text_classification", columns, "multi_label_classification")
    numbers = [each for each in map(as_number, values) if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) == len(values) and not all(float(each).is_integer() for each in numbers):
        return Guess("text_classification", columns, "regression")
    classes = list(dict.fromkeys(map(str, values)))
    about = f"{len(classes):,} classes: {', '.join(map(shown, classes[:MOST_NAMED]))}"
    more = f" and {len(classes) - MOST_NAMED:,} more" if len(classes) > MOST_NAMED else ""
    doubt = ", which are many; are they classes?" if len(classes) > MOST_CLASSES else ""
    return Guess("text_classification", columns, "single_label_classification", [about + more + doubt])


def _pair_in(texts: Sequence[str]) -> tuple[str, str] | None:
    """The first and the second text of a pair, by their names."""
    pairs = [(one, other) for one in texts for other in texts if one != other]
    known = [pair for pair in pairs if _is_pair(*map(plain, pair))]
    return known[0] if known else None


def _is_pair(first: str, second: str) -> bool:
    return (first, second) in FIRST_AND_SECOND or is_numbered(first, second)


def _named(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the likeliest of these names."""
    return next((name for each in known for name in names if plain(name) == each), None)


def _of(known: Collection[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if plain(name) in known), None)


def _longest(seen: _Seen, label: str | None) -> str | None:
    """The column with the longest texts on average, where no name says which is the text."""
    found = [name for name in seen.texts if name not in (label, "id", "domain")]
    return max(found, key=lambda name: sum(map(len, seen.values[name])) / len(seen.values[name]), default=None)


def _parsed(value: Any) -> Any:
    """A value, of which a text may be the JSON, or in a table what Python writes."""
    value = as_list(value)
    try:
        return json_value(value) if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") else value
    except (ValueError, RecursionError):
        return value


def _is_list_of_objects(value: Any) -> bool:
    found = _parsed(value)
    return isinstance(found, list) and all(isinstance(each, dict) for each in found)


def _are_lists_of_texts(values: Sequence[Any]) -> bool:
    lists = [as_list(each) for each in values]
    return bool(lists) and all(isinstance(each, list) and all(isinstance(item, str) for item in each) for each in lists)
