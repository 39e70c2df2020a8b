"""What tokens are as bytes, how bytes are spelled, and which tokens of two tokenizers belong together."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.cross_tokenizer import TokenTexts, Vocabularies
from tests.two_vocabularies import byte_pairs, vocabularies


def sentence_pieces(pieces: list[str], merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """With bytes for what is no piece, as Llama 2 and Gemma have them."""
    names = {piece: number for number, piece in enumerate(["<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", *pieces])}
    core = Tokenizer(models.BPE(names, merges, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(each, special=True) for each in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


PIECES = sentence_pieces(["▁", "a", "b", "▁a", "ab"], [("▁", "a")])


def texts_of(tokenizer: PreTrainedTokenizerFast, rows: int | None = None) -> TokenTexts:
    return TokenTexts.of(tokenizer, len(tokenizer) if rows is None else rows, "here")


def spelled(tokenizer: PreTrainedTokenizerFast, text: bytes) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(texts_of(tokenizer).spell(text)))


def test_pieces_are_bytes() -> None:
    found = texts_of(PIECES)
    assert list(found.texts) == [None, None, b"\n", b"\xc3", b"\xa9", b" ", b"a", b"b", b" a", b"ab"]
    assert found.names == {0: "<s>", 1: "</s>"}
    # Of a padded matrix, the last rows stand for nothing; of a short one, the last tokens are none.
    assert texts_of(PIECES, 12).texts[10:] == [None, None]
    assert len(texts_of(PIECES, 7)) == 7 and set(texts_of(PIECES, 7).pieces) == {b"\n", b"\xc3", b"\xa9", b" ", b"a"}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (b" a", ["▁a"]),
        (b"a a", ["a", "▁a"]),
        ("é".encode(), ["<0xC3>", "<0xA9>"]),
        (b"\n", ["<0x0A>"]),
        # No text by itself.
        (b"\xa9a", ["<0xA9>", "a"]),
        # No piece, and no byte of it either.
        (b"az", []),
    ],
)
def test_bytes_are_spelled_as_the_tokenizer_does(text: bytes, pieces: list[str]) -> None:
    assert spelled(PIECES, text) == pieces


def test_an_added_token_is_found_before_the_rest_is_cut() -> None:
    tokenizer = byte_pairs(["th"])
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    tokenizer.add_tokens([AddedToken("<end>", special=True)], special_tokens=True)
    found = texts_of(tokenizer)
    think, end = tokenizer.convert_tokens_to_ids(["<think>", "<end>"])
    assert found.texts[think] == b"<think>" and found.texts[end] is None and found.names[end] == "<end>"
    assert found.spell(b"<think>") == (think,)
    # A special token stands for no text, so its letters are letters.
    assert spelled(tokenizer, b"<end>") == list("<end>") and spelled(tokenizer, b"th<") == ["th", "<"]


def test_what_begins_with_the_last_byte_is_found() -> None:
    found = texts_of(byte_pairs(["ÿ", "ÿÿ"])).spelled
    assert [text for text, _ in found.beginning_with(b"\xff")] == [b"\xff"]
    assert [text for text, _ in found.beginning_with("ÿ".encode())] == ["ÿ".encode(), "ÿÿ".encode()]
    assert found.longest_prefix("ÿÿÿ".encode()) == found.exactly("ÿÿ".encode())[0]


def test_a_token_that_its_own_tokenizer_never_writes_is_itself() -> None:
    """It is in the vocabulary, and no merge makes it; a teacher gives it some mass all the same."""
    both = vocabularies(PIECES, PIECES)
    assert both.groups == len(PIECES)
    number = PIECES.get_vocab()["ab"]
    assert both.spelled[number] == (number,) and texts_of(PIECES).spell(b"ab") != (number,)


def test_a_student_with_fewer_rows_than_tokens_writes_what_it_has() -> None:
    tokenizer = byte_pairs(["ab", "abc"])
    names = tokenizer.get_vocab()
    last = names["abc"]
    assert last == len(tokenizer) - 1
    both = Vocabularies(texts_of(tokenizer), texts_of(tokenizer, last), [(1, 1)])
    assert both.spelled[last] == (names["ab"], names["c"])
    assert len(both.group_of_student) == last
    assert both.group_of_teacher[last] == both.group_of_student[names["ab"]]


def test_special_tokens_belong_together_by_their_role_and_else_by_their_name() -> None:
    theirs = byte_pairs([], first=("<s>", "</s>", "<pad>", "<turn>"))
    own = byte_pairs([], first=("<pad>", "</s>", "<stop>", "<s>"))
    both = vocabularies(theirs, own)
    assert {(a, b) for a in range(4) for b in range(4) if both.paired(a, b)} == {(0, 3), (1, 1), (2, 0)}
    # What has a role has no other one for its name.
    both = Vocabularies(texts_of(theirs), texts_of(own), [(1, 2)])
    assert {(a, b) for a in range(4) for b in range(4) if both.paired(a, b)} == {(0, 3), (1, 2), (2, 0)}
    assert both.teacher_roles == {0, 1, 2} and both.student_roles == {0, 2, 3}
    assert both.group_of_teacher[3] == -1
