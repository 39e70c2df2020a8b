"""Answers from a shipped folder, whatever runtime it is for: rows of JSON in, rows of JSON out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from potstill.artefacts.checksums import require_whole
from potstill.artefacts.decisions import Numbers, decision, probabilities
from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.artefacts.reading import Reader
from potstill.artefacts.standing_alone import REQUIREMENTS
from potstill.data.windows import windows_in
from potstill.errors import DataError, ModelError
from potstill.runtimes import RUNTIMES
from potstill.runtimes.graphs import Graph, open_graph

Row = Mapping[str, Any]
Answer = dict[str, Any]
Answerer = Callable[[Sequence[Row]], list[Answer]]

NEW_TOKENS = 256
"""As much as a model writes after a prompt, where it does not end before."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked, and how much of what it knows its answers tell."""

    threads: int = 1
    new_tokens: int = NEW_TOKENS
    in_detail: bool = False
    """Also the probability of each class; of a text that is written, its `tokens` with theirs, and the `seconds` that
    they took with the reading of the prompt."""


def open_answerer(folder: Path, asking: Asking) -> Answerer:
    """What answers rows from a shipped folder.

    Raises:
        ModelError: as `opened_manifest`.
    """
    manifest = opened_manifest(folder)
    runtime = RUNTIMES[manifest.runtime]
    if runtime.graph and not manifest.encoder_file:
        reader, graph = Reader(folder, manifest), open_graph(folder, manifest, asking.threads)
        if manifest.answers == "tags":
            return lambda rows: _documents(manifest, reader, graph, rows)
        return lambda rows: _texts(manifest, reader, graph, rows, asking)
    opened: Answerer = import_module(runtime.answering).open_answerer(folder, manifest, asking)
    return opened


def opened_manifest(folder: Path) -> Manifest:
    """What a shipped folder says of itself, once it is known to be whole and that it can be answered from here.

    Raises:
        ModelError: it is none, is not as it was judged, or is for a runtime that is not there.
    """
    manifest = read_manifest(folder)
    require_whole(folder)
    if manifest.runtime not in RUNTIMES:
        raise ModelError(f"{folder}: it is for {manifest.runtime!r}, and there are: {', '.join(RUNTIMES)}.")
    for library in (module.partition(".")[0] for module in RUNTIMES[manifest.runtime].libraries):
        if find_spec(library) is None:
            raise ModelError(
                f"{folder}: it is answered from by {library}, which is not installed. Run: pip install -r "
                f"{folder / REQUIREMENTS}"
            )
    return manifest


def written(steps: Iterable[tuple[int, float, Numbers]], tokenizer: Any, asking: Asking) -> Answer:
    """What was written token by token, each with its seconds and the logits that it was chosen by."""
    ids: list[int] = []
    took, chances = 0.0, []
    for token, seconds, logits in steps:
        ids.append(token)
        took += seconds
        if asking.in_detail:
            chances.append(float(probabilities(logits, 1.0)[token]))
    answer: Answer = {"text": tokenizer.decode(ids, skip_special_tokens=True)}
    if asking.in_detail:
        pieces = [tokenizer.decode([token]) for token in ids]
        answer |= {"tokens": list(zip(pieces, chances, strict=True)), "seconds": took}
    return answer


def _texts(manifest: Manifest, reader: Reader, graph: Graph, rows: Sequence[Row], asking: Asking) -> list[Answer]:
    encodings = [reader.encode(text_of(row)) for row in rows]
    # Where numbers are rounded as they come, what is read beside a text would change its answer.
    together = len(rows) if manifest.precision == "float32" else 1
    answers = []
    for start in range(0, len(rows), together):
        outputs = graph(reader.feeds(encodings[start : start + together]))
        answers += [decision(manifest, each, all_classes=asking.in_detail) for each in outputs]
    return answers


def _documents(manifest: Manifest, reader: Reader, graph: Graph, rows: Sequence[Row]) -> list[Answer]:
    step = manifest.max_length - reader.special_tokens - manifest.overlap
    answers = []
    for row in rows:
        words = words_of(row)
        encodings = reader.encode_words(words)
        tags: list[str | None] = [None] * len(words)
        for encoding, window in zip(encodings, windows_in(encodings, step, manifest.overlap), strict=True):
            best = graph(reader.feeds([encoding]))[0].argmax(axis=-1)
            for place, word in zip(window.places.tolist(), window.words.tolist(), strict=True):
                tags[word] = manifest.labels[int(best[place])]
        answers.append({"tags": tags})
    return answers


def text_of(row: Row) -> str | tuple[str, str]:
    """A row's text, or its pair of texts.

    Raises:
        DataError: it has none.
    """
    text, second = row.get("text"), row.get("text_pair")
    if not isinstance(text, str) or not isinstance(second, str | None):
        raise DataError(f'expected a row such as {{"text": "..."}}, got the fields {sorted(row)}.')
    return text if second is None else (text, second)


def words_of(row: Row) -> list[str]:
    """A row's words: its `tokens`, or its `text` at white space.

    Raises:
        DataError: it has neither.
    """
    tokens = row.get("tokens")
    if tokens is None and isinstance(row.get("text"), str):
        return str(row["text"]).split()
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError(f'expected a row such as {{"tokens": ["a", "text"]}}, got the fields {sorted(row)}.')
    return tokens
