"""A tokenizer with only some of its pieces, made from the rules of the whole one.

Rules are the JSON of the `tokenizers` library. What is kept is closed: every text whose pieces are kept is read as
before, and every other text is spelt with shorter pieces, down to single characters. For each kind of model:

- WordPiece takes the longest piece that fits, from left to right. A piece that is kept stays the longest. Since a word
  is cut otherwise where its pieces are gone, each character must be a piece by itself, wherever it can stand.
- BPE joins neighbours by rank. The joins within a piece do not depend on what stands beside it, so with all that a
  piece is joined from, each text of kept pieces goes through the same joins.
- Unigram takes the likeliest way to cut a text. Those that are left are as likely as before, so the likeliest of all
  stays it where it is left. What an unknown character costs follows from the least likely piece, which is kept.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any

from potstill.errors import ModelError

Rules = dict[str, Any]
"""Normaliser, pre-tokeniser, model, added tokens and templates, as `Tokenizer.to_str` writes them."""


def kept_ids(rules: Rules, wanted: Iterable[int]) -> list[int]:
    """The ids of what a tokenizer needs to have these pieces, ascending.

    Raises:
        ModelError: a tokenizer whose model is not known here, or that cannot spell its own pieces.
    """
    vocabulary = _vocabulary(rules["model"])
    pieces = {number: piece for piece, number in vocabulary.items()}
    asked = {pieces[number] for number in wanted if number in pieces}
    added = {token["id"] for token in rules["added_tokens"]}
    # What is added is found in a text before the model cuts it.
    cut = {piece: number for piece, number in vocabulary.items() if number not in added}
    needed = {vocabulary[piece] for piece in _needed(rules["model"], cut, asked) if piece in vocabulary}
    return sorted(needed | added)


def with_pieces(rules: Rules, kept: Collection[int]) -> Rules:
    """The rules of the tokenizer that has these pieces alone, numbered in the order of their old ids.

    Raises:
        ModelError: a template whose tokens cannot be found.
    """
    numbers = {old: new for new, old in enumerate(sorted(kept))}
    padding = rules.get("padding")
    return rules | {
        "model": _smaller_model(rules["model"], numbers),
        "added_tokens": [token | {"id": numbers[token["id"]]} for token in rules["added_tokens"]],
        "post_processor": _with_new_ids(rules["post_processor"], numbers),
        "padding": padding and padding | {"pad_id": numbers[padding["pad_id"]]},
    }


def _vocabulary(model: Rules) -> dict[str, int]:
    if model.get("type") == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    vocabulary: dict[str, int] = model["vocab"]
    return vocabulary


def _needed(model: Rules, vocabulary: Mapping[str, int], asked: set[str]) -> set[str]:
    """The pieces that are asked for, and those that must stay with them."""
    match model.get("type"):
        case "WordPiece":
            prefix = model["continuing_subword_prefix"]
            return asked | {model["unk_token"]} | _of_word_pieces(vocabulary.keys() - {model["unk_token"]}, prefix)
        case "BPE":
            if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
                raise ModelError(
                    "student.vocabulary: the teacher's tokenizer is a BPE that marks where words begin or end within "
                    "them, which cannot be trimmed. Use full."
                )
            alone = {piece for piece in vocabulary if len(piece) == 1} | _bytes(vocabulary)
            return _merged_from(asked, model["merges"]) | alone | {model.get("unk_token") or ""}
        case "Unigram":
            return asked | _of_unigram(model, vocabulary)
        case other:
            raise ModelError(
                f"student.vocabulary: the teacher's tokenizer is of the type {other}, which cannot be trimmed; known: "
                "WordPiece, BPE, Unigram. Use full."
            )


def _of_word_pieces(vocabulary: Collection[str], prefix: str) -> set[str]:
    """The single characters, with which every piece can be spelt."""
    alone = set()
    for piece in vocabulary:
        inside = piece.removeprefix(prefix)
        within = bool(inside) and inside != piece
        parts = [prefix + character for character in (inside if within else piece[1:])]
        parts = parts if within else [piece[:1], *parts]
        if len(parts) == 1:
            alone.add(piece)
        elif missing := [part for part in parts if part not in vocabulary]:
            raise ModelError(
                f"student.vocabulary: the teacher's tokenizer has the piece {piece!r} and no {missing[0]!r}, so some "
                "words could not be read without the first. Its vocabulary cannot be trimmed; use full."
            )
    return alone


def _bytes(vocabulary: Mapping[str, int]) -> set[str]:
    """The pieces of single bytes with which a tokenizer spells characters that it has not."""
    return {piece for piece in (f"<0x{byte:02X}>" for byte in range(256)) if piece in vocabulary}


def _of_unigram(model: Rules, vocabulary: Mapping[str, int]) -> set[str]:
    alone = {piece for piece in vocabulary if len(piece) == 1}
    unspelt = {piece for piece in vocabulary if not alone >= set(piece)}
    least = min(model["vocab"], key=lambda entry: entry[1])[0]
    unknown = set() if model["unk_id"] is None else {model["vocab"][model["unk_id"]][0]}
    return alone | unspelt | {least} | unknown | (_bytes(vocabulary) if model.get("byte_fallback") else set())


def _merged_from(asked: Iterable[str], merges: Iterable[Any]) -> set[str]:
    """The pieces that are asked for, with all that they are merged from."""
    ranks = {pair: rank for rank, pair in enumerate(_pairs(merges))}
    found: set[str] = set()
    for piece in asked:
        parts = list(piece)
        found.add(piece)
        while joinable := [(ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in ranks]:
            _, place = min(joinable)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            found.add(parts[place])
    return found


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    """Merges as pairs; older files write them with a space between."""
    return [
        (left, right) for left, right in (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    ]


def _smaller_model(model: Rules, numbers: Mapping[int, int]) -> Rules:
    if model["type"] == "Unigram":
        unknown = model["unk_id"]
        return model | {
            "vocab": [entry for number, entry in enumerate(model["vocab"]) if number in numbers],
            "unk_id": None if unknown is None else numbers[unknown],
        }
    vocabulary = {piece: numbers[old] for piece, old in model["vocab"].items() if old in numbers}
    if model["type"] != "BPE":
        return model | {"vocab": vocabulary}
    merges = [list(pair) for pair in _pairs(model["merges"]) if {*pair, "".join(pair)} <= vocabulary.keys()]
    return model | {"vocab": vocabulary, "merges": merges}


def _with_new_ids(processor: Rules | None, numbers: Mapping[int, int]) -> Rules | None:
    """What is put around a text, with the new ids of its tokens."""
    if processor is None:
        return None
    match processor["type"]:
        case "ByteLevel":
            return processor
        case "TemplateProcessing":
            tokens = {
                name: token | {"ids": [numbers[number] for number in token["ids"]]}
                for name, token in processor["special_tokens"].items()
            }
            return processor | {"special_tokens": tokens}
        case "BertProcessing" | "RobertaProcessing":
            ends = {end: [processor[end][0], numbers[processor[end][1]]] for end in ("sep", "cls")}
            return processor | ends
        case "Sequence":
            return processor | {"processors": [_with_new_ids(each, numbers) for each in processor["processors"]]}
        case other:
            raise ModelError(
                f"student.vocabulary: the teacher's tokenizer ends with a {other} step, whose tokens cannot be "
                "renumbered. Use full."
            )
