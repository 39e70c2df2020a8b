"""Windows over documents of words: each word is answered once, where most stands around it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, RobertaTokenizer

from potstill.data.tagged import TaggedRow
from potstill.data.words import EncodedWords, encode_words, windows_of
from potstill.errors import DataError
from potstill.models import Part
from potstill.signals import IGNORE_INDEX
from potstill.tasks import TokenClassification

# Words of one, two and three pieces, one that is read as nothing, and one that looks like a special token.
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##c", "[", "]", "sep"]
WORDS = ["a", "b", "ab", "abc", "c", "\u200b", "[SEP]"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("pieces")
    BertTokenizer(tokenizer_object=core, vocab=vocabulary).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def pieces_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[tuple[int, int]]:
    """Each piece of a document, one word after the other, with the number of its word."""
    return [
        (piece, number)
        for number, word in enumerate(words)
        for piece in tokenizer(word, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ]


def naive_windows(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], max_length: int, overlap: int
) -> list[tuple[list[int], dict[int, int]]]:
    """For each window its ids, and the place of each word that is answered there."""
    pieces = pieces_of(tokenizer, words)
    room, starts = max_length - 2, [0]
    while starts[-1] + room < len(pieces):
        starts.append(starts[-1] + room - overlap)
    found = []
    for number, start in enumerate(starts):
        own = pieces[start : start + room]
        # The pieces that are shared with the window before belong to it in their first half.
        low = start + overlap // 2 if number else 0
        high = starts[number + 1] + overlap // 2 if number + 1 < len(starts) else len(pieces)
        answered = {}
        for place in range(low, high):
            if place == 0 or pieces[place - 1][1] != pieces[place][1]:
                answered[pieces[place][1]] = 1 + place - start
        found.append(([2, *(piece for piece, _ in own), 3], answered))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=40),
    max_length=st.integers(6, 16),
    data=st.data(),
)
def test_windows_are_those_of_the_definition(
    tokenizer: PreTrainedTokenizerBase, words: list[str], max_length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, max_length - 5))
    [found] = windows_of(tokenizer, [words], max_length, overlap)
    expected = naive_windows(tokenizer, words, max_length, overlap)
    assert [window.tokens.tolist() for window in found] == [ids for ids, _ in expected]
    assert [dict(zip(w.words.tolist(), w.places.tolist(), strict=True)) for w in found] == [a for _, a in expected]
    answered = [word for window in found for word in window.words.tolist()]
    assert answered == [number for number, word in enumerate(words) if word != "\u200b"]


def test_a_word_is_answered_where_more_stands_around_it(tokenizer: PreTrainedTokenizerBase) -> None:
    [windows] = windows_of(tokenizer, [["a"] * 14], 10, 4)
    assert [window.words.tolist() for window in windows] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]
    # Two of the four shared pieces, and the token before all, are only context.
    assert [int(window.places.min()) for window in windows] == [1, 3, 3]


def rows_of(tokenizer: PreTrainedTokenizerBase) -> EncodedWords:
    rows = [
        TaggedRow("one", ("ab", "\u200b", "c"), ("B-x", "O", "I-x")),
        TaggedRow("two", ("abc",) * 5, None),
    ]
    return encode_words(rows, tokenizer, {"B-x": 0, "I-x": 1, "O": 2}, max_length=10, overlap=2)


def test_a_batch_has_labels_at_first_pieces_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = rows_of(tokenizer)
    assert encoded.ids == ("one", "two", "two#2") and encoded.documents.tolist() == [0, 1, 1]
    assert encoded.truncated == 1 and sum(encoded.positions) == 7
    batch = encoded.collate([0, 1])
    assert batch.mask[0].nonzero().flatten().tolist() == [1, 3]
    assert batch.labels[0][batch.mask[0]].tolist() == [0, 1]
    assert (batch.labels[~batch.mask] == IGNORE_INDEX).all() and (batch.labels[1] == IGNORE_INDEX).all()
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [encoded.lengths[0], encoded.lengths[1]]
    assert torch.equal(batch.token_weights, batch.mask.float())


def test_features_are_of_words_and_maps_of_all_that_these_may_see(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = rows_of(tokenizer)
    assert list(rows.feature_sizes(Part.ONLY)) == [(2, 5), (3, 10), (2, 10)]


def test_padding_changes_no_row(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = rows_of(tokenizer)
    alone, beside = encoded.collate([0]), encoded.collate([0, 1])
    length = alone.mask.shape[1]
    for one, other in ((alone.labels, beside.labels), (alone.mask, beside.mask)):
        assert torch.equal(one[0], other[0, :length])
    assert not beside.mask[0, length:].any()


def test_an_empty_document_has_a_window_without_words(tokenizer: PreTrainedTokenizerBase) -> None:
    [[window]] = windows_of(tokenizer, [["\u200b"]], 8, 2)
    assert window.tokens.tolist() == [2, 3] and len(window.words) == 0


def test_a_word_longer_than_windows_leaves_none_without_an_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [TaggedRow("long", ("b", "a" * 60, "b"), ("O", "B-x", "O")), TaggedRow("none", ("\u200b",), ("O",))]
    encoded = encode_words(rows, tokenizer, {"B-x": 0, "O": 1}, max_length=10, overlap=2)
    assert set(encoded.row_ids) == {"long"} and min(encoded.positions) > 0 and sum(encoded.positions) == 3
    assert np.concatenate(encoded.labels).tolist() == [1, 0, 1] and encoded.truncated == 1
    with pytest.raises(DataError, match="no row has a word that the tokenizer reads"):
        encode_words(rows[1:], tokenizer, {"B-x": 0, "O": 1}, max_length=10, overlap=2)


def test_a_row_with_the_id_of_a_later_window_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [TaggedRow("a", ("abc",) * 5, None), TaggedRow("a#2", ("b",), None)]
    with pytest.raises(DataError, match='Duplicate id "a#2": of a row, and of a later part of a long one'):
        encode_words(rows, tokenizer, {}, max_length=10, overlap=2)


def test_byte_pairs_know_the_space_before_a_word(tmp_path: Path) -> None:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5, "\u0120": 6, "\u0120a": 7}
    RobertaTokenizer(vocab=vocabulary, merges=[("\u0120", "a")]).save_pretrained(tmp_path)
    task = TokenClassification(max_length=8, overlap=0)
    tokenizer = task.load_tokenizer(str(tmp_path))
    encoded = task.encode([TaggedRow("x", ("a", "a"), None)], tokenizer, ["O", "B-x"])
    assert encoded.windows[0].tokens.tolist() == [0, 7, 7, 2]
    assert encoded.windows[0].places.tolist() == [1, 2]


def test_an_overlap_that_leaves_nothing_new_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing new"):
        TokenClassification(max_length=16, overlap=12)
