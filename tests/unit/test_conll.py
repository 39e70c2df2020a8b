"""CoNLL files: sentences of words and tags, and what is said where a line is neither."""

from pathlib import Path

import pytest

from potstill.data.columns import Columns
from potstill.data.files import read_records
from potstill.data.reading import Reading
from potstill.data.rows import read_rows
from potstill.data.tagged import read_tagged
from potstill.errors import DataError
from tests.unit.test_files import written

REAL = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
. . O O

# a comment
Ann NNP B-NP B-PER
-DOCSTART- -X- -X- O

# 3
so RB O O
"""
SENTENCES = [(("EU", "rejects", "."), ("B-ORG", "O", "O")), (("Ann",), ("B-PER",)), (("so",), ("O",))]


def sentences(path: Path) -> list[tuple[tuple[str, ...], tuple[str, ...] | None]]:
    return [(row.tokens, row.tags) for row in read_tagged(path, Columns())]


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.iob", "a.IOB2", "a.txt"])
@pytest.mark.parametrize(("old", "new"), [(" ", " "), (" ", "\t"), (" ", "   "), ("\n", "\r\n")])
def test_sentences_are_read_by_their_empty_lines(tmp_path: Path, name: str, old: str, new: str) -> None:
    path = written(tmp_path, "\ufeff" + REAL.replace(old, new), name)
    assert sentences(path) == SENTENCES
    assert [place for place, _ in read_records(path)] == ["line 3", "line 8", "line 12"]


def test_the_words_have_the_names_that_the_recipe_gives_them(tmp_path: Path) -> None:
    path = written(tmp_path, REAL, "a.conll")
    found = read_tagged(path, Columns(tokens="words", tags="ner_tags"))
    assert [row.tokens for row in found] == [words for words, _ in SENTENCES]


def test_a_sign_is_a_word_and_a_comment_is_none(tmp_path: Path) -> None:
    text = "# id = 1\n# B-1 x\n#hash B-TAG\n# O\n\n# O\n1 O\n\n# NUM\nis VERB\n# SYM\n\n# SYM\n1 NUM\n"
    assert sentences(written(tmp_path, text, "a.conll")) == [
        (("#hash", "#"), ("B-TAG", "O")),
        (("#", "1"), ("O", "O")),
        (("is", "#"), ("VERB", "SYM")),
        (("#", "1"), ("SYM", "NUM")),
    ]


def test_a_sentence_that_nobody_tagged_has_an_underscore_at_each_word(tmp_path: Path) -> None:
    path = written(tmp_path, "# _\nso _\n\nAnn B-PER\n_ O\n", "a.conll")
    assert sentences(path) == [(("#", "so"), None), (("Ann", "_"), ("B-PER", "O"))]


def test_white_space_of_other_alphabets_parts_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "a\u2009b O\n", "a.conll")
    with pytest.raises(DataError, match=r"line 1 .*word 0 is 'a\\u2009b'; a word is not empty and holds no white"):
        read_tagged(path, Columns())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ann B-PER\ncame\n", "line 2: 'came' is one column; expected a word and its tag"),
        ("Ann B-PER\ncame VBD O\n", "line 2: 3 columns, and 2 in line 1. Write as many in each"),
        ("a X O\n\nb O\n", "line 3: 2 columns, and 3 in line 1"),
        ("Ann\tB-PER\ncame\t\n", "line 2: the word or its tag is missing. Write O"),
        ("Ann\nB-PER\n", "line 1: 'Ann' is one column"),
        ("Ann B-PER\ncame _\n", "line 2: some words of the sentence have a tag and some have _"),
        ("\n\n", "0 rows. Nothing written"),
        ("-DOCSTART-\n", "0 rows. Nothing written"),
        ("Ann b-PER\ncame O\n", '"b-PER"'),
    ],
)
def test_a_line_that_is_no_word_and_tag_is_an_error_of_its_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text, "a.conll")
    how = Reading()
    with pytest.raises(DataError, match=message):
        read_tagged(path, Columns(), how=how)
        raise DataError("\n".join(how.tags.problems(())))


def test_a_bad_sentence_is_skipped_as_a_whole_and_those_after_it_are_read(tmp_path: Path) -> None:
    text = "one O\n\nAnn B-PER\ncame\nhere O\nagain\n\ntwo O\n"
    how = Reading(on_error="skip")
    path = written(tmp_path, text, "a.conll")
    assert [row.tokens for row in read_tagged(path, Columns(), how=how)] == [("one",), ("two",)]
    assert how.files[path].bad == 1 and "line 4: 'came' is one column" in how.files[path].first_bad[0]


def test_words_with_tags_are_rows_of_no_other_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"words with their tags, which token_classification reads\. Set task.kind"):
        read_rows(written(tmp_path, REAL, "a.conll"), Columns())


def test_plain_text_is_no_conll(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown format '\.txt'.*Write one row a line"):
        read_tagged(written(tmp_path, "I like it, O\nand so on\n", "a.txt"), Columns())


def test_a_file_without_empty_lines_takes_no_memory_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.data.conll_rows.MAX_ROW_CHARACTERS", 100)
    with pytest.raises(DataError, match=r"line 3: a sentence of more than 100 characters\. Write an empty line after"):
        read_tagged(written(tmp_path, "a O\n\n" + "word O\n" * 20, "a.conll"), Columns())
