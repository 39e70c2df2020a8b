"""Fields of rows that nothing reads: how many there are, and which of them carry meaning that would be lost.

Real rows have fields that only tell where they are from (`source`, `url`, `score`); these are counted. By convention
others say what a model is to learn, or how: such a field is an error until the recipe says that it may go.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_NAMES = 1000
"""Names of fields that are counted one by one; rows whose fields are named by their content have no end of them."""
LONGEST_NAME = 60
OTHERS = "(others)"
MOST_VALUES = 100
"""Different values of a field that are compared with the classes; a label has fewer."""

_WEIGHT = "how much the row counts in training (sample_weight of scikit-learn); all rows count the same here"
_TOOLS = "the functions that the model may call (tools of chat templates)"
_REASONING = "what was thought before the answer (reasoning_content of chat templates)"
_INPUT = "what the instruction is about (input of Alpaca's rows)"
_SEEN = "what the model is shown beside the text; only text is read"
_LEARNT = "which tokens are to be learnt"
_SECOND = "a second text, which the answer may depend on; one text is read"

WEIGHTS = frozenset({"weight", "sampleweight", "exampleweight", "instanceweight", "lossweight"})
EVERYWHERE = {
    **dict.fromkeys(WEIGHTS, _WEIGHT),
    "tools": _TOOLS,
    **dict.fromkeys(("reasoning", "reasoningcontent", "thinking"), _REASONING),
    "chattemplatekwargs": "arguments of the chat template (transformers, TRL)",
}
"""What fields mean whatever the task, by their names without case and punctuation."""

IN_CHATS = EVERYWHERE | {
    **dict.fromkeys(("functions", "functioncall", "functioncalls", "toolcalls", "toolchoice"), _TOOLS),
    **dict.fromkeys(("system", "systemprompt", "systemmessage"), "the system turn; write it as the first of messages"),
    "history": "the turns before (history of Alpaca's rows); write them as messages",
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _SEEN),
    **dict.fromkeys(("chosen", "rejected"), "a response that is better, or worse, than another (TRL's preferences)"),
    **dict.fromkeys(("lossmask", "completionmask", "assistantmask", "assistantmasks"), _LEARNT),
    **dict.fromkeys(("thought", "thoughts"), _REASONING),
}
IN_PAIRS = EVERYWHERE | {
    **dict.fromkeys(("system", "systemprompt"), "what the model is told before the source"),
    "history": "the turns before the source",
    "instruction": "what is to be done with the source (instruction of Alpaca's rows)",
    "input": _INPUT,
}

BESIDE_TEXT = frozenset(
    {"textpair", "text2", "textb", "sentence2", "sentenceb", "question2", "hypothesis", "premise"}
    | {"context", "passage", "question", "query", "aspect"}
)
"""Second texts beside any first one that is classified."""
BESIDE_SOURCE = frozenset({"textpair", "text2", "sentence2", "context", "passage"})
BESIDE_PROMPT = frozenset({"context", "input"})


def _pairs(*pairs: str) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(pair.split()) for pair in pairs)


PAIRS_OF_TEXTS = _pairs(
    *("sentence sentence2", "question sentence", "question answer", "question document", "query document"),
    *("query answer", "query text", "query product", "claim evidence", "claim document", "prompt response"),
    *("instruction response", "instruction output", "instruction input", "input output", "post comment"),
    *("comment parent", "comment parentcomment", "headline body", "anchor positive", "source target", "src mt"),
    *("src tgt", "reference candidate", "reference prediction", "tweet target", "argument topic"),
)
"""First and second text, in either order, of data sets for pairs (GLUE, SNLI, FEVER, MS MARCO, reward models)."""
PAIRS_OF_PROMPTS = _pairs("input instruction", "question passage", "question document")

LABELS = frozenset(
    [
        "label",
        "labels",
        "labelname",
        "labelnames",
        "labelid",
        "labelids",
        "labeltext",
        "goldlabel",
        "truelabel",
        "class",
        "classes",
        "classname",
        "category",
        "categories",
        "target",
        "targets",
        "y",
        "intent",
        "sentiment",
        "emotion",
        "topic",
        "stance",
        "tag",
        "tags",
        "annotation",
        "gold",
        "answer",
    ]
)
"""What a column of classes or numbers is called."""
ALSO_METADATA = frozenset({"category", "categories", "topic", "tag", "tags", "annotation", "answer", "answers"})
"""Of what labels are called: what as often tells where a row is from. Alone, in a file without a label, it says
nothing."""
TAGS = frozenset(
    [
        "tags",
        "tag",
        "nertags",
        "ner",
        "nerlabels",
        "postags",
        "pos",
        "labels",
        "label",
        "bio",
        "biotags",
        "iob",
        "iobtags",
        "entities",
        "spans",
        "slots",
    ]
)
RESPONSES = frozenset(
    [
        "completion",
        "completions",
        "output",
        "outputs",
        "response",
        "responses",
        "answer",
        "answers",
        "target",
        "targets",
        "solution",
        "chosen",
        "summary",
        "highlights",
        "translation",
        "reference",
        "references",
        "label",
        "labels",
        "tgt",
    ]
)


@dataclass(frozen=True)
class Form:
    """What a reader makes of records, as far as the fields depend on it that it does not read."""

    reads: frozenset[str]
    """The columns that it reads."""
    text: str
    """The column beside which another may be a second text."""
    label: str
    """The column that says what is right."""
    setting: str
    """Its name in `data.columns`."""
    meanings: Mapping[str, str]
    labels: frozenset[str]
    """What the column of labels is called elsewhere."""
    seconds: frozenset[str] = frozenset()
    """Second texts beside any text."""
    pairs: frozenset[frozenset[str]] = frozenset()
    """First and second texts."""
    verdicts: frozenset[str] = frozenset()
    """Fields that say whether a response is good."""

    def suspects(self, name: str) -> bool:
        """Whether a field of this name can have a meaning, whatever its value."""
        plain = _plain(name)
        return plain in self.meanings or plain in self.verdicts or self._is_second(plain)

    def meaning(self, name: str, value: Any, record: Mapping[str, Any]) -> str | None:
        """What a field that is not read means, where it has a meaning that would be lost."""
        plain = _plain(name)
        if plain in WEIGHTS and _number(value) in (None, 1):
            return None  # what every row has without it, or a property of what the row is about, such as 2.5 kg
        if plain in self.meanings:
            return self.meanings[plain]
        if plain in self.verdicts and isinstance(value, bool):
            return "whether the response is a good one (TRL's KTO); all are learnt here"
        if isinstance(value, str) and self._is_second(plain) and not _empty(record.get(self.text)):
            return _SECOND
        return None

    def _is_second(self, plain: str) -> bool:
        first = _plain(self.text)
        # review1 and review2, text_a and text_b, comment and comment2; in either order.
        numbered = any(
            first.endswith(one) and plain == first.removesuffix(one) + two
            for one, two in (("1", "2"), ("2", "1"), ("a", "b"), ("b", "a"), ("", "2"), ("", "pair"))
        )
        return plain in self.seconds or frozenset({first, plain}) in self.pairs or (numbered and bool(self.seconds))


@dataclass
class _Field:
    suspect: bool
    """Whether a field of this name can have a meaning."""
    rows: int = 0
    unlabelled: int = 0
    first_unlabelled: str = ""
    values: set[str] = field(default_factory=set)
    """Of rows without a label, up to one more than are compared."""
    meaning: str | None = None
    with_meaning: int = 0
    seconds: set[int] = field(default_factory=set)
    """Hashes of the first two different second texts."""
    first_with_meaning: str = ""


class Unread:
    """The fields of a file that its reader does not read. Those without a value count for nothing: Parquet gives each
    row every column."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._fields: dict[str, _Field] = {}
        self._rows = self._unlabelled = 0

    @property
    def counts(self) -> dict[str, int]:
        """In how many rows each field is, the most frequent first."""
        return {
            name: each.rows for name, each in sorted(self._fields.items(), key=lambda pair: (-pair[1].rows, pair[0]))
        }

    def see(self, place: str, record: Mapping[str, Any], *, labelled: bool) -> None:
        """Count the fields of a row that was read."""
        self._rows += 1
        self._unlabelled += not labelled
        for name in record.keys() - self._form.reads:
            value = record[name]
            if _empty(value):
                continue
            found = self._field(name)
            found.rows += 1
            if found.suspect and (meaning := self._form.meaning(name, value, record)):
                found.meaning = meaning
                found.with_meaning += 1
                found.first_with_meaning = found.first_with_meaning or place
                if meaning == _SECOND and len(found.seconds) < 2:
                    found.seconds.add(hash(value))
            if not labelled:
                found.unlabelled += 1
                found.first_unlabelled = found.first_unlabelled or place
                if len(found.values) <= MOST_VALUES and isinstance(value, str | int):
                    found.values.add(str(value)[:MOST_VALUES])

    def _field(self, name: str) -> _Field:
        found = self._fields.get(name)
        if found is None:
            suspect = self._form.suspects(name)
            pooled = len(self._fields) >= MOST_NAMES and not suspect
            found = self._fields.setdefault(OTHERS if pooled else name, _Field(suspect=suspect))
        return found

    def problems(self, path: Path, classes: Collection[str]) -> Iterator[str]:
        """An error for each field whose meaning would be lost, where `classes` are those that labelled rows have."""
        for name, each in sorted(self._fields.items()):
            if each.meaning is not None and not self._is_constant(each):
                yield (
                    f"{path}: {each.with_meaning:,} of {self._rows:,} rows have {shown(name)}, first "
                    f"{each.first_with_meaning}, which is not read. It is {each.meaning}. {leaves_out(name)}"
                )
            elif self._looks_like_the_label(name, each, classes):
                label, setting = self._form.label, self._form.setting
                yield (
                    f'{path}: {self._unlabelled:,} of {self._rows:,} rows have no "{label}", and {each.unlabelled:,} '
                    f"of these have {shown(name)}, first {each.first_unlabelled}, which looks like it. Give it one "
                    f"name in all rows, and set data.columns.{setting} where that is another than {label}. "
                    f"{leaves_out(name)}"
                )

    def _is_constant(self, each: _Field) -> bool:
        """Whether it is the same second text in all rows, so that no answer can depend on it."""
        return each.meaning == _SECOND and each.with_meaning == self._rows > 1 and len(each.seconds) == 1

    def _looks_like_the_label(self, name: str, each: _Field, classes: Collection[str]) -> bool:
        # Where labelled rows have it too, it is something else that they have beside their label.
        if not each.unlabelled or each.unlabelled < each.rows:
            return False
        known = bool(each.values) and len(each.values) <= MOST_VALUES and each.values <= set(classes)
        plain = _plain(name)
        # Tags are what a tagged row is for, whatever else is labelled.
        doubtful = plain in ALSO_METADATA and self._form.labels is not TAGS and self._unlabelled == self._rows
        return (plain in self._form.labels and not doubtful) or known


def leaves_out(name: str) -> str:
    """The last sentence of an error about a field."""
    plain = name.isascii() and name.isidentifier()
    return f"data.ignore: [{name if plain else shown(name)}] leaves it out."


def shown(name: str) -> str:
    """The name of a field in quotes, of which control characters are escaped and the end is cut."""
    return json.dumps(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "...", ensure_ascii=False)


def _plain(name: str) -> str:
    """Without case and punctuation: `Label_Name` and `labelName` are one name."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _number(value: Any) -> float | None:
    """The number, or the number that a text has; None where it is none."""
    if not isinstance(value, bool | int | float | str):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, list | dict | tuple | bytes) and not value)
