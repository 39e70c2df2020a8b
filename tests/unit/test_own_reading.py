"""A teacher whose student reads with another tokenizer: each label stays with its row, and each with its word."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from potstill.data.encoded import EncodedRows
from potstill.data.tagged import TaggedRow
from potstill.data.words import EncodedWords, encode_words
from potstill.signals import IGNORE_INDEX, Batch, Signals
from potstill.targets import LogitTargets
from potstill.teachers import OwnReadingTeacher, OwnWindowsTeacher, answered_by_both

WORDS = [f"word{number}" for number in range(30)]
TAGS = {"O": 0, "B-x": 1}


def tokenizer(pieces: Sequence[str], without: str = "") -> PreTrainedTokenizerFast:
    """One that knows these words and spells all others; `without` has no characters left of what it is given."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces, *letters, *(f"##{letter}" for letter in letters)]
    core = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    if without:
        core.normalizer = normalizers.Replace(without, "")
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def documents(more: Sequence[str] = ()) -> list[TaggedRow]:
    draw = random.Random(3)
    rows = []
    for number in range(12):
        words = tuple(draw.choice([*WORDS, *more]) for _ in range(draw.randint(1, 40)))
        rows.append(TaggedRow(f"d{number}", words, tuple(draw.choice(list(TAGS)) for _ in words)))
    return rows


def encode(rows: Sequence[TaggedRow], words: PreTrainedTokenizerFast, max_length: int = 16) -> EncodedWords:
    return encode_words(rows, words, TAGS, max_length=max_length, overlap=4)


def told_by(words: EncodedWords, form: str):  # type: ignore[no-untyped-def]
    """A teacher whose logits at each word are the numbers of its document and of itself, as a model or a store gives
    them."""
    number = {name: place for place, name in enumerate(words.ids)}

    def answer(batch: Batch) -> Signals:
        flat: list[list[float]] = []
        logits = torch.full((*batch.mask.shape, 2), -1.0)
        for row, name in enumerate(batch.ids):
            window = words.windows[number[name]]
            for place, word in zip(window.places.tolist(), window.words.tolist(), strict=True):
                logits[row, place] = torch.tensor([float(words.documents[number[name]]), float(word)])
                flat.append(logits[row, place].tolist())
        return Signals(logits=logits) if form == "model" else Signals(target=LogitTargets(torch.tensor(flat)))

    return answer


def told(signals: Signals) -> Tensor:
    assert isinstance(signals.target, LogitTargets)
    return signals.target.logits


@pytest.mark.parametrize("form", ["model", "store"])
@pytest.mark.parametrize("spells", ["teacher", "student"])
def test_each_word_has_the_label_that_the_teacher_gave_it(form: str, spells: str) -> None:
    rows = documents()
    pieces = {"teacher": WORDS, "student": WORDS} | {spells: []}
    own, student = (encode(rows, tokenizer(pieces[name])) for name in ("teacher", "student"))
    # Words that are spelt fill windows faster, so that these begin elsewhere.
    assert len(own.windows) != len(student.windows)
    teacher = OwnWindowsTeacher(told_by(own, form), own, answered_by_both(student, own))
    draw = random.Random(1)
    for _ in range(20):
        chosen = draw.sample(range(len(student.windows)), 5)
        found = told(teacher(student.collate(chosen)))
        expected = [
            [float(student.documents[window]), float(word)]
            for window in chosen
            for word in student.windows[window].words.tolist()
        ]
        assert found.tolist() == expected


def test_words_that_the_teacher_reads_as_nothing_are_not_learnt() -> None:
    rows = documents(more=["zzz"] * 12)
    own, student = encode(rows, tokenizer(WORDS, without="zzz")), encode(rows, tokenizer(WORDS))
    both = answered_by_both(student, own)
    kept = [
        (int(document), word)
        for document, window in zip(both.documents, both.windows, strict=True)
        for word in window.words.tolist()
    ]
    assert sorted(kept) == [
        (number, place) for number, row in enumerate(rows) for place, word in enumerate(row.tokens) if word != "zzz"
    ]
    for window, labels, document in zip(both.windows, both.labels, both.documents.tolist(), strict=True):
        tags = rows[document].tags
        assert tags is not None and labels.tolist() == [TAGS[tags[word]] for word in window.words.tolist()]
    batch = both.collate(range(len(both.windows)))
    teacher = OwnWindowsTeacher(told_by(own, "store"), own, both)
    assert told(teacher(batch))[:, 1].tolist() == [float(word) for _, word in kept]
    assert (batch.labels != IGNORE_INDEX).sum() == len(kept)


def test_a_window_without_a_word_of_both_is_left_out() -> None:
    rows = [TaggedRow("d0", ("zzz",), ("O",)), TaggedRow("d1", ("word1",), ("B-x",))]
    own, student = encode(rows, tokenizer(WORDS, without="zzz")), encode(rows, tokenizer(WORDS))
    assert len(student.windows) == 2 and answered_by_both(student, own).ids == ("d1",)


def test_each_row_is_asked_about_as_the_teacher_reads_it() -> None:
    ids = tuple(f"r{number}" for number in range(6))
    own = EncodedRows(ids, [np.arange(n + 1, dtype=np.int32) + 50 for n in range(6)], np.arange(6), 0, 0)
    student = EncodedRows(ids[::-1], [np.ones(3, dtype=np.int32)] * 6, np.arange(6), 0, 0)

    def teacher(batch: Batch) -> Signals:
        return Signals(logits=(batch.inputs["input_ids"] * batch.inputs["attention_mask"]).sum(dim=1)[:, None].float())

    reading = OwnReadingTeacher(teacher, own)
    found = reading(student.collate([0, 2, 5])).logits
    assert found is not None
    assert found[:, 0].tolist() == [float(sum(range(50, 50 + n + 1))) for n in (5, 3, 0)]


def test_where_nothing_counts_the_teacher_is_told_so() -> None:
    rows = documents()
    own, student = encode(rows, tokenizer(WORDS)), encode(rows, tokenizer([]))
    seen: list[Batch] = []

    def teacher(batch: Batch) -> Signals:
        seen.append(batch)
        return Signals()

    batch = student.collate([0, 1])
    empty = replace(batch, mask=torch.zeros_like(batch.mask))
    OwnWindowsTeacher(teacher, own, student)(empty)
    assert not seen[0].mask.any()
