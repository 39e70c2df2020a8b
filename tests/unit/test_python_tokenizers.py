"""Tokenizers that run in Python: texts are cut, counted and kept from control tokens as with all others."""

import json
from pathlib import Path

import pytest
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerBase

from potstill.data.rows import Row
from potstill.tasks import TextClassification
from potstill.tasks.loading import reads_alike, tokenizer_fingerprint
from tests.commands import potstill, record

TASK = TextClassification(max_length=8)
TEXTS = ["pear", "", "w1 w2 w3 w4 w5 w6", "w1 w2 w3 w4 w5 w6 w7", "Apple w9 w8 w7 w6 w5 w4 w3 w2 w1", "so unknown"]


def in_python(folder: Path, *, lower: bool = True) -> PreTrainedTokenizerBase:
    """The words of a folder's tokenizer, read by one that transformers has in Python alone; saved over it."""
    words = (folder / "vocab.txt").read_text()
    for path in (*folder.glob("tokenizer*"), *folder.glob("special_tokens*")):
        path.unlink()
    tokenizer = BertJapaneseTokenizer(str(folder / "vocab.txt"), word_tokenizer_type="basic", do_lower_case=lower)
    tokenizer.save_pretrained(folder)
    assert (folder / "vocab.txt").read_text().split() == words.split()
    loaded = TASK.load_tokenizer(str(folder))
    assert not loaded.is_fast
    return loaded


def folder_of(tmp_path: Path, name: str, words: list[str]) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": len(words)}))
    return folder


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "s", "e", "p", "pear", "apple"]
WORDS += [f"w{number}" for number in range(10)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_are_cut_as_the_tokenizer_cuts_them_and_counted(side: str, tmp_path: Path) -> None:
    tokenizer = in_python(folder_of(tmp_path, "one", WORDS))
    tokenizer.truncation_side = side
    encoded = TASK.encode([Row(str(number), text, "x") for number, text in enumerate(TEXTS)], tokenizer, ["x"])
    for text, tokens in zip(TEXTS, encoded.tokens, strict=True):
        assert tokens.tolist() == tokenizer(text, truncation=True, max_length=8).input_ids
    # Six words and the two tokens around them fit.
    assert encoded.truncated == 2 and [len(tokens) for tokens in encoded.tokens] == [3, 2, 8, 8, 8, 4]


def test_the_string_of_a_control_token_stays_text(tmp_path: Path) -> None:
    tokenizer = in_python(folder_of(tmp_path, "one", WORDS))
    assert 3 in tokenizer("pear [SEP] w1", add_special_tokens=False, split_special_tokens=True).input_ids
    (tokens,) = TASK.encode([Row("a", "pear [SEP] w1", "x")], tokenizer, ["x"]).tokens
    assert tokens.tolist() == [2, *tokenizer.convert_tokens_to_ids(["pear", "[", "s", "e", "p", "]"]), 3]


def test_two_that_split_words_in_another_way_do_not_read_alike(tmp_path: Path) -> None:
    one, other = (in_python(folder_of(tmp_path, name, WORDS)) for name in ("one", "other"))
    cased = in_python(folder_of(tmp_path, "cased", WORDS), lower=False)
    other.model_max_length = 77
    assert reads_alike(one, other) and not reads_alike(one, cased)
    # As it always was, so that runs go on.
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(cased)


def teacher_of(project: Path, name: str, *, lower: bool = True) -> Path:
    """The teacher of a project with such a tokenizer, in a folder of this name."""
    location = (project / "recipe.yaml").read_text().split('model: "')[1].split('"')[0]
    folder = project / name
    folder.mkdir()
    for path in Path(location).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    in_python(folder, lower=lower)
    return folder


def test_teachers_that_split_words_in_another_way_are_not_mixed(project: Path) -> None:
    of = {name: str(teacher_of(project, name, lower=name != "b")) for name in ("a", "b", "c")}
    for second in ("b", "c"):
        members = f"{{a: {{model: {of['a']}}}, {second}: {{model: {of[second]}}}}}"
        teacher = f"teacher={{kind: mixture, of: {members}}}"
        done = potstill("check", project / "recipe.yaml", "--set", teacher, check=None)
        refused = f"teacher.of.{second}: its tokenizer is not that of a" in done.stderr
        assert refused == (second == "b") and done.returncode == int(refused)


def test_a_classifier_with_such_a_tokenizer_teaches(project: Path) -> None:
    """Every stage up to the report: also where texts are read in another process, and from the student's folder."""
    quick = [
        "adapt.epochs=2",
        "train.epochs=1",
        "gate.allow_weak_teacher=true",
        f"teacher.model={teacher_of(project, 'own')}",
    ]
    changes = [word for change in quick for word in ("--set", change)]
    potstill("run", project / "recipe.yaml", "--out", project / "run", *changes, check=None)
    evaluation = record(project / "run", "evaluate")
    assert set(evaluation["models"]) == {"teacher", "student", "baseline"} and evaluation["test_rows"] == 60
