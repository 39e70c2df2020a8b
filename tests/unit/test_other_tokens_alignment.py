"""Where tokens of two tokenizers lie in each other, and what is then told, by small cases."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from potstill.cross_tokenizer import AlignedRows, RetellingTeacher, Vocabularies
from potstill.cross_tokenizer.places import MIXED, PLAIN, UNKNOWN, Aligned, align_row
from potstill.cross_tokenizer.retold import _Barred
from potstill.data.chat_tokens import ChatTokens
from potstill.data.dialogues import PlainText
from potstill.data.packing import pack
from potstill.data.tokens import Tokenised
from potstill.signals import Signals
from potstill.targets import GroupedTarget, LogitTargets, plain_log_sum_exp
from tests.two_vocabularies import AtRandom, Pair, byte_pairs, vocabularies

SPECIAL = "<s>", "</s>", "<stop>"
LETTERS = byte_pairs([], first=SPECIAL)
WORDS = byte_pairs(["he", "hey", " hey", " y", "  "], first=SPECIAL)
BOTH = vocabularies(LETTERS, WORDS)
SAME = vocabularies(LETTERS, LETTERS)


def characters(pieces: Sequence[str]) -> PreTrainedTokenizerFast:
    """Pieces as SentencePiece has them, each one character, and one token for all that are not among them."""
    names = {piece: number for number, piece in enumerate(["<s>", "</s>", "<unk>", *pieces])}
    core = Tokenizer(models.BPE(names, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace()
    core.add_special_tokens([AddedToken(each, special=True) for each in ("<s>", "</s>", "<unk>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<s>", unk_token="<unk>"
    )


def example(tokenizer: PreTrainedTokenizerFast, *pieces: str) -> Tokenised:
    """Pieces of a row, of which each second is learnt; `</s>` and such are special tokens in them."""
    ids = [tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
    learnt = [number % 2 == 1 for number, each in enumerate(ids) for _ in each]
    return Tokenised("row", np.array([number for each in ids for number in each], dtype=np.int32), np.array(learnt))


def aligned(both: Vocabularies, teacher: Tokenised, student: Tokenised) -> Aligned:
    (found,) = align_row(both, [teacher], 100, [student], joined=False)
    return found


def places(found: Aligned) -> list[int | None]:
    """The teacher's token that each of the student's begins with, from 0; None where nothing is known."""
    first = [
        found.questions[number].first + (found.questions[number].before.boundary or 0) if kind == MIXED else place
        for number, (kind, place) in enumerate(zip(found.kinds.tolist(), found.places.tolist(), strict=True))
    ]
    return [None if kind == UNKNOWN else place - 100 for kind, place in zip(found.kinds.tolist(), first, strict=True)]


@pytest.mark.parametrize(
    ("theirs", "own", "expected"),
    [
        ("by</s>", "by</s>", [0, 1, 2]),
        ("\nby</s>", "by</s>", [1, 2, 3]),
        ("by</s>", "\nby</s>", [None, 0, 1, 2]),
        # It ends with white space of the template's.
        ("by \n</s>", "by</s>", [0, 1, 4]),
        ("by</s>", "by \n</s>", [0, 1, None, None, 2]),
        # Something within is written otherwise.
        ("a, by</s>", "a; by</s>", [0, None, 2, 3, 4, 5]),
        ("a by</s>", "a by<stop>", [0, 1, 2, 3, None]),
        # White space behind a special token is no template's.
        ("a</s> by</s>", "a</s>by</s>", [0, 1, None, None, 5]),
        # A special token that the other has not is like a word.
        ("a <s> by</s>", "a ? by</s>", [0, 1, None, 3, 4, 5, 6]),
        # Both were cut, each in another place.
        ("a b", "a by</s>", [0, 1, 2, None, None]),
        ("a by</s>", "a b", [0, 1, 2]),
        # And written otherwise before.
        ("a, by", "a; by", [0, None, 2, 3, 4]),
        # Behind special tokens of two roles, nothing faces each other.
        ("a</s>by</s>", "a<stop>by</s>", [0, None, None, None, None]),
        ("</s>", "</s>", [0]),
    ],
)
def test_tokens_lie_where_their_bytes_do(theirs: str, own: str, expected: list[int | None]) -> None:
    both = Vocabularies(SAME.teacher, replace(SAME.student, names={1: "</s>", 2: "<stop>"}), [(1, 1)])
    assert places(aligned(both, example(LETTERS, "?", theirs), example(LETTERS, "!", own))) == expected


def test_later_turns_face_each_other_whatever_was_cut_in_earlier_ones() -> None:
    teacher = example(LETTERS, "?", "by</s>", "?", "b", "?", "a</s>")
    student = example(LETTERS, "!!!", "by</s>", "!!!", "bx</s>", "!!!", "a</s>")
    assert places(aligned(SAME, teacher, student)) == [0, 1, 2, 3, None, None, 4, 5]


def test_turns_that_one_side_has_not_are_left_out() -> None:
    teacher = example(LETTERS, "?", "a</s>", "?", "b</s>", "?", "c</s>", "?", "d")
    student = example(LETTERS, "!", "b</s>", "!", "dx</s>")
    assert places(aligned(SAME, teacher, student)) == [2, 3, 6, None, None]


def test_a_turn_is_faced_once() -> None:
    teacher = example(LETTERS, "?", "a</s>", "?", "b</s>")
    student = example(LETTERS, "!", "a</s>", "!", "a</s>", "!", "b</s>")
    assert places(aligned(SAME, teacher, student)) == [0, 1, None, None, 2, 3]


def test_what_the_student_has_no_token_for_is_as_if_it_were_not() -> None:
    """A special token of the teacher's, whatever mass it has."""
    tokenizer = byte_pairs(["he", "hey"])
    both = vocabularies(LETTERS, tokenizer)
    logits = drawn_logits(4)
    logits[:, LETTERS.convert_tokens_to_ids("<stop>")] = torch.tensor([-torch.inf, 3.0, 5.0, 7.0])
    theirs, own = example(LETTERS, "?", " hey"), example(tokenizer, "!", " hey")
    found = told_at(both, theirs, own, logits)
    logits[:, LETTERS.convert_tokens_to_ids("<stop>")] = -torch.inf
    torch.testing.assert_close(found, told_at(both, theirs, own, logits), rtol=1e-9, atol=0)


def test_what_one_side_writes_together_with_the_template_is_unknown() -> None:
    """What the student would write in place of ` hey` begins with a space, and the teacher speaks of none."""
    found = aligned(BOTH, example(LETTERS, "?", "heyy</s>"), example(WORDS, "!", " heyy</s>"))
    assert places(found) == [None, 3, 4]
    found = aligned(vocabularies(WORDS, LETTERS), example(WORDS, "?", " heyy</s>"), example(LETTERS, "!", "heyy</s>"))
    assert found.kinds.tolist() == [MIXED, MIXED, MIXED, PLAIN, PLAIN]


def told_at(both: Vocabularies, teacher: Tokenised, student: Tokenised, logits: Tensor) -> Tensor:
    """What is told at each token of the student's, for a student that finds all alike."""
    rows = [pack([each], max_length=64, pad_id=0, packing=False) for each in (teacher, student)]
    target = RetellingTeacher(
        lambda batch: _signals(logits), AlignedRows(both, rows[0], rows[1], frozenset()), torch.device("cpu")
    )(rows[1].collate([0])).target
    assert isinstance(target, GroupedTarget)
    even = torch.zeros(len(target), len(both.student), dtype=torch.float64)
    return torch.softmax(target.logits_beside(even, slice(None), 1.0, plain_log_sum_exp), dim=1)


def _signals(logits: Tensor) -> Signals:
    return Signals(target=LogitTargets(logits))


def test_a_student_without_the_templates_space_is_told_what_comes_behind_it() -> None:
    both = vocabularies(WORDS, LETTERS)
    teacher, student = example(WORDS, "?", " heyy</s>"), example(LETTERS, "!", "heyy</s>")
    logits = torch.full((3, len(WORDS)), -50.0, dtype=torch.float64)
    words, letters = WORDS.get_vocab(), LETTERS.get_vocab()
    logits[0, [words["Ġhey"], words["Ġy"]]] = torch.tensor([0.75, 0.25], dtype=torch.float64).log()
    told = told_at(both, teacher, student, logits)[0]
    assert float(told[letters["h"]]) == pytest.approx(0.75)
    assert float(told[letters["y"]]) == pytest.approx(0.25)


def test_a_text_that_was_cut_has_its_probability_up_to_there() -> None:
    """The last of the teacher's tokens is asked for, though nothing comes behind it."""
    logits = drawn_logits(3)
    told = told_at(BOTH, example(LETTERS, "?", "hey"), example(WORDS, "!", "hey"), logits)
    theirs, own = LETTERS.get_vocab(), WORDS.get_vocab()
    along = torch.log_softmax(logits, dim=1)[torch.arange(3), [theirs[each] for each in "hey"]].sum()
    assert float(told[0, own["hey"]]) == pytest.approx(float(along.exp()))


def drawn_logits(rows: int) -> Tensor:
    return torch.randn(rows, len(LETTERS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_token_of_the_teachers_may_have_several_roles() -> None:
    """It ends texts and turns; the student has a token for each."""
    both = Vocabularies(BOTH.teacher, BOTH.student, [(1, 1), (1, 2)])
    for end in ("</s>", "<stop>"):
        found = aligned(both, example(LETTERS, "?", "by</s>"), example(WORDS, "!", "by" + end))
        assert places(found) == [0, 1, 2]
    assert both.group_of_student[1] == both.group_of_student[2] == both.group_of_teacher[1]
    assert not both.paired(2, 2) and both.paired(1, 2)


def of_windows(
    sizes: tuple[int, int], text: str, pair: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
) -> AlignedRows:
    rows = []
    for tokenizer, size in zip(pair, sizes, strict=True):
        examples, _ = ChatTokens(tokenizer, size).tokenise([PlainText("row", text)])
        rows.append(pack(examples, max_length=size, pad_id=0, packing=False))
    return AlignedRows(vocabularies(*pair), rows[0], rows[1], frozenset({"row"}))


@pytest.mark.parametrize("sizes", [(5, 7), (7, 5), (64, 3), (3, 64), (2, 2)])
@pytest.mark.parametrize("pair", [(LETTERS, WORDS), (WORDS, LETTERS)], ids=["letters", "words"])
def test_windows_of_one_text_are_told_as_the_whole_of_it(
    sizes: tuple[int, int], pair: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
) -> None:
    """Whichever of the teacher's windows a token and what goes before it lie in."""
    text = "hey y  hey heyyy he   y hey"
    whole = told_of(of_windows((64, 64), text, pair))
    torch.testing.assert_close(told_of(of_windows(sizes, text, pair)), whole)


def told_of(rows: AlignedRows) -> Tensor:
    teacher = RetellingTeacher(AtRandom(rows, 1), rows, torch.device("cpu"))
    found = []
    for number in range(len(rows.student.lengths)):
        target = teacher(rows.student.collate([number])).target
        assert isinstance(target, GroupedTarget)
        even = torch.zeros(len(target), len(rows.vocabularies.student), dtype=torch.float64)
        found.append(target.logits_beside(even, slice(None), 1.0, plain_log_sum_exp))
    return torch.cat(found)


def test_what_is_known_is_told_alike_where_the_rest_is_left_out() -> None:
    both = vocabularies(LETTERS, WORDS)
    pair = example(LETTERS, "?", "a hey yx heyy</s>"), example(WORDS, "!", "b hey yz heyy</s>")
    packed = [pack([each], max_length=64, pad_id=0, packing=False) for each in pair]
    rows = AlignedRows(both, *packed, frozenset())
    kinds = rows.of("row").kinds
    assert kinds[0] == UNKNOWN and {MIXED, PLAIN, UNKNOWN} == set(kinds[1:].tolist())
    torch.testing.assert_close(told_of(rows.answered()), told_of(rows)[torch.from_numpy(kinds != UNKNOWN)])


def test_a_text_with_the_space_that_sentencepiece_puts_before_it_is_the_same_text() -> None:
    pieces = characters(["▁", *"heyx"])
    # What one shows of it, the other learns.
    for pair, shown in (((LETTERS, pieces), 1), ((pieces, LETTERS), 0)):
        rows = of_windows((64, 6), "hey hex y", pair)
        kinds = [kind for name in rows.student.examples.names for kind in rows.of(name).kinds.tolist()]
        assert len(kinds) == 9 + shown and UNKNOWN not in kinds[shown:]


def test_what_a_tokenizer_does_not_know_ends_nothing() -> None:
    pieces = characters(["▁", *"heyx"])
    found = aligned(
        vocabularies(LETTERS, pieces), example(LETTERS, "e", "he? hey</s>"), example(pieces, "x", "he? hey</s>")
    )
    # It writes a space before, of which the teacher has none.
    assert places(found) == [None, 0, 1, None, 3, 4, 5, 6, 7]


def test_a_long_text_is_known_between_what_is_written_otherwise() -> None:
    """Though it repeats itself; and where the student is not shown a long part of it."""
    theirs = "?".join(["hey y "] * 300)
    found = aligned(
        SAME, example(LETTERS, "?", theirs + "</s>"), example(LETTERS, "!", theirs.replace("?", "!") + "</s>")
    )
    # Each time the four bytes of a word.
    assert np.count_nonzero(found.kinds == UNKNOWN) == 4 * 299
    thoughts = "".join(f"thought {number} " for number in range(50))
    found = aligned(SAME, example(LETTERS, "?", thoughts + "\nso be it</s>"), example(LETTERS, "!", "so be it</s>"))
    # Its first word has other white space before it.
    assert places(found) == [None, None, *(len(thoughts) + 3 + number for number in range(7))]


@pytest.mark.parametrize(
    ("teacher", "student", "texts"),
    [
        # Looked back over four tokens for one that goes on.
        (byte_pairs(["de", "cde", "bcde", "abcde"]), byte_pairs([]), {"abcde": 0.4, "abcdx": 0.4, "abc": 0.2}),
        # No token of the student's begins in the middle of a character, where the teacher's do.
        (byte_pairs([]), characters(["▁", *"字宇é"]), {"字": 0.4, "宇": 0.3, "字é": 0.2, "é": 0.1}),
    ],
    ids=["looked back", "characters"],
)
def test_a_text_has_its_probability(
    teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast, texts: dict[str, float]
) -> None:
    pair = Pair(texts, teacher, student)
    for number, weight in enumerate(texts.values()):
        told, _, found = pair.told(number)
        known = np.flatnonzero(found.kinds != UNKNOWN)
        # The space that SentencePiece puts before a text is none of the teacher's.
        assert len(known) >= len(found.kinds) - 1
        assert float(told[torch.from_numpy(known), found.tokens[known]].prod()) == pytest.approx(weight)


@pytest.mark.parametrize("temperature", [0.5, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_distributions(dtype: torch.dtype, temperature: float) -> None:
    """Also where the teacher is sure of a token that the text rules out."""
    for pair in ((LETTERS, WORDS), (WORDS, LETTERS)):
        rows = of_windows((64, 64), "hey y  hey heyyy he   y hey", pair)
        batch = rows.student.collate([0])
        count = int(rows.starts[-1])
        generator = torch.Generator().manual_seed(0)
        for size in (1.0, 1e3):
            logits = size * torch.randn(count, len(pair[0]), generator=generator)
            for wide in (logits, logits.bfloat16()):
                teacher = RetellingTeacher(lambda batch, given=wide: _signals(given), rows, torch.device("cpu"))
                target = teacher(batch).target
                assert isinstance(target, GroupedTarget)
                student = size * torch.randn(len(target), len(pair[1]), generator=generator)
                said = (
                    target.logits_beside(student.to(dtype), slice(None), temperature, plain_log_sum_exp) / temperature
                )
                assert said.isfinite().all()
                torch.testing.assert_close(said.exp().sum(dim=1), torch.ones(len(said), dtype=dtype), rtol=1e-4, atol=0)


def test_what_little_is_left_beside_what_is_barred_keeps_its_digits() -> None:
    log_p = torch.log_softmax(torch.tensor([[30.0, 0.0, 1.0, 2.0]]), dim=1)
    barred = _Barred(np.array([0]), (np.array([0]),))
    torch.testing.assert_close(barred.rest(log_p), log_p[:, 1:].logsumexp(dim=1))
