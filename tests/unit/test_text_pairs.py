"""Two texts a row: read, encoded as the tokenizer encodes pairs, and known by both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from potstill.data.columns import Columns
from potstill.data.encoded import TOKEN_TYPES, EncodedRows
from potstill.data.prepare import DataSettings, NearCopies, prepare
from potstill.data.rows import Row, read_rows, rows_fingerprint, texts_fingerprint
from potstill.data.special_tokens import TextIds
from potstill.errors import DataError
from potstill.evaluation.card import loading_code
from potstill.runtimes.timing import Loads, SpeedRequest
from potstill.runtimes.transformers_timing import measure
from potstill.tasks import TextClassification
from potstill.tasks.loading import without_token_types
from tests.commands import potstill, record
from tests.unit.test_python_tokenizers import WORDS, folder_of, in_python
from tests.unit.test_rows import lines

TASK = TextClassification(max_length=12)
PREMISE = "w1 w2 w3 w4 w5 w6 w7"


def pair(first: str, second: str, label: str = "x", name: str = "a") -> Row:
    return Row(name, f"{first}\n\n{second}", label, None, len(first) + 2)


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


@pytest.mark.parametrize(
    ("columns", "first", "second"),
    [
        ({}, "text", "text_pair"),
        ({"text": "sentence1", "text_pair": "sentence2"}, "sentence1", "sentence2"),
        ({"text": "premise", "text_pair": "hypothesis"}, "premise", "hypothesis"),
        ({"text": "question", "text_pair": "sentence"}, "question", "sentence"),
    ],
)
def test_both_texts_are_read(tmp_path: Path, columns: dict[str, str], first: str, second: str) -> None:
    rows = [{"id": "i", first: "a\n\nb", second: "c", "label": "x"}, {first: "a", second: "", "label": None}]
    one, empty = read_rows(lines(tmp_path / "rows.jsonl", *rows), Columns(**columns))
    assert one == pair("a\n\nb", "c", name="i") and one.texts == ("a\n\nb", "c")
    assert empty.texts == ("a", "") and empty.label is None
    for row in (one, empty):
        assert Row.of(json.loads(json.dumps(row.content))) == row


def test_rows_of_one_text_are_kept_as_they_were_before_there_were_pairs() -> None:
    assert Row("a", "b", "x").content == ["a", "b", "x"] and Row("a", "b", "x", "d").content == ["a", "b", "x", "d"]
    assert "text_pair" not in Columns().model_dump() and Columns(text_pair="b").model_dump()["text_pair"] == "b"


def split(tmp_path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **settings: Any) -> Any:
    for name, rows in (
        ("train", train),
        ("test", test),
        ("validation", [{"text": "v", "text_pair": "v", "label": "x"}]),
    ):
        lines(tmp_path / f"{name}.jsonl", *rows)
    files = {name: f"{name}.jsonl" for name in ("train", "test", "validation")}
    return prepare(DataSettings(**files, **settings), tmp_path, TASK.read)


def given(first: str, second: str, label: str = "x") -> dict[str, str]:
    return {"text": first, "text_pair": second, "label": label}


def test_copies_are_found_by_both_texts(tmp_path: Path) -> None:
    long = " ".join(f"word{number}" for number in range(60))
    train = [
        given(long, "There is a knife."),
        given(long, "There is no knife.", "y"),
        given(f"{long} more", "There is a fork.", "y"),
        given("a b", "c"),
        given("a", "b c"),
        given("a  b", "c"),
    ]
    splits = split(tmp_path, train, [given(f"{long} end", "There is a fork.")])
    kept = [row.texts for row in splits["train"].rows]
    assert kept == [(train[number]["text"], train[number]["text_pair"]) for number in (0, 1, 3, 4)]
    assert (splits["train"].duplicates_dropped, splits["train"].near_copies_dropped) == (1, 1)
    assert splits["train"].other_label_dropped == 1
    assert len(split(tmp_path, train, [given(long, "Other.")], near_copies=NearCopies())["train"].rows) == 5


@pytest.mark.parametrize(
    ("train", "columns", "problem"),
    [
        (
            [given("a", "b"), {"text": "c", "label": "y"}],
            {},
            r'1 of 4 rows have no "text_pair", first .*train\.jsonl: line 2',
        ),
        (
            [{"text": "c", "label": "y"}],
            {"text_pair": "other"},
            r'3 of 3 rows have no "other", .* Write it in each row',
        ),
        ([{**given("a", "b"), "text_pair": 3}], {}, r'line 1 "text_pair": expected text, found int'),
    ],
)
def test_rows_without_a_second_text_beside_pairs_are_an_error(
    tmp_path: Path, train: list[dict[str, Any]], columns: dict[str, str], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        split(tmp_path, train, [given("d", "e")], columns=columns, ignore=["text_pair"] if columns else [])


def test_one_column_is_not_both_texts() -> None:
    with pytest.raises(ValueError, match='text_pair is "body", as another column is'):
        Columns(text="body", text_pair="body")
    assert Columns(text="text_pair").of_pairs == frozenset()


def test_fingerprints_know_where_the_second_text_begins() -> None:
    one, other = pair("a\n\nb", "c"), pair("a", "b\n\nc")
    assert one.text == other.text
    assert len({texts_fingerprint([row]) for row in (one, other)}) == 2
    assert len({rows_fingerprint([row]) for row in (one, other)}) == 2
    assert texts_fingerprint([Row("a", "b", None)]) == texts_fingerprint([Row("a", "b", "x", "d")])


PAIRS = [("pear", "apple w1"), (PREMISE, "w8"), ("w8", PREMISE), (PREMISE, PREMISE), ("pear [SEP] w1", ""), ("", "w9")]


@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_encoded_as_the_tokenizer_encodes_them(tokenizer: PreTrainedTokenizerBase, side: str) -> None:
    tokenizer.truncation_side = side
    encoded = TASK.encode([pair(*texts, name=str(n)) for n, texts in enumerate(PAIRS)], tokenizer, ["x"])
    for number, texts in enumerate(PAIRS):
        columns = [[text] for text in texts]
        own = tokenizer(*columns, truncation="longest_first", max_length=12, split_special_tokens=True)
        assert [encoded.tokens[number].tolist()] == own.input_ids
        assert encoded.types is not None and [encoded.types[number].tolist()] == own.token_type_ids
    assert encoded.truncated == 1
    batch = encoded.collate([0, 3])
    assert batch.inputs[TOKEN_TYPES].tolist() == [[0, 0, 0, 1, 1, 1, *[0] * 6], [0] * 6 + [1] * 6]
    assert encoded.select([3]).collate([0]).inputs[TOKEN_TYPES].tolist() == [[0] * 6 + [1] * 6]


def test_a_tokenizer_that_runs_in_python_encodes_pairs_in_the_same_way(tmp_path: Path) -> None:
    slow = in_python(folder_of(tmp_path, "one", WORDS))
    assert TASK.encode([pair("pear", "apple")], slow, ["x"]).types is None
    slow.model_input_names = ["input_ids", TOKEN_TYPES, "attention_mask"]
    encoded = TASK.encode([pair(*texts, name=str(n)) for n, texts in enumerate(PAIRS)], slow, ["x"])
    for number, texts in enumerate(PAIRS):
        if "[SEP]" not in texts[0]:
            own = slow(*texts, truncation="longest_first", max_length=12)
            assert encoded.tokens[number].tolist() == own.input_ids
            assert encoded.types is not None and encoded.types[number].tolist() == own.token_type_ids
    assert encoded.truncated == 1
    # No string of a text is what stands between the two.
    ids, types, _ = TextIds(slow).pair_within(("pear [SEP] w1", "w2"), 100)
    assert ids.count(3) == 2 and sum(types) == 2


def test_a_model_without_token_types_is_told_none(tokenizer: PreTrainedTokenizerBase) -> None:
    bare = without_token_types(tokenizer)
    encoded = TASK.encode([pair("pear", "apple")], bare, ["x"])
    assert set(encoded.collate([0]).inputs) == {"input_ids", "attention_mask"}
    assert TASK.encode([Row("a", "pear", "x")], tokenizer, ["x"]).types is None


def test_a_model_answers_a_pair_by_which_text_is_which(tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertForSequenceClassification(config).eval()
    encoded = TASK.encode([pair("pear", "w1 w2"), pair("apple w3", "w4", name="b")], tokenizer, ["x"])
    with torch.no_grad():
        ours = model(**encoded.collate([0, 1]).inputs).logits
        own = model(**tokenizer(["pear", "apple w3"], ["w1 w2", "w4"], padding=True, return_tensors="pt")).logits
        swapped = model(**tokenizer(["w1 w2"], ["pear"], return_tensors="pt")).logits
    assert torch.equal(ours, own) and not torch.allclose(ours[0], swapped[0])


def test_speed_is_measured_on_pairs(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    seen: list[Any] = []
    forward = BertForSequenceClassification.forward

    def watched(self: Any, *args: Any, **inputs: Any) -> Any:
        seen.append(inputs[TOKEN_TYPES].sum(dim=1).tolist())
        return forward(self, *args, **inputs)

    queries = [["pear", "w1 w2"], ["apple", "w3"], [PREMISE, PREMISE]]
    request = SpeedRequest(Loads((str(tmp_path),)), "texts", queries, 1, 0, 3, "cpu", {"max_length": 12})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BertForSequenceClassification, "forward", watched)
        found = measure(SpeedRequest.from_json(request.as_json()))
    assert len(found["latencies_ms"]) == 3 and [3] in seen and [3, 2, 6] in seen


def test_the_card_shows_how_a_pair_is_asked() -> None:
    task = {"max_length": 12}
    assert 'tokenizer("a text", "a second text", truncation' in loading_code("single_label", task, pairs=True)
    assert 'tokenizer("a text", truncation' in loading_code("single_label", task)


@pytest.mark.long
def test_pairs_go_through_every_stage(project: Path) -> None:
    """The class is said by the second text alone, so that whoever does not read it learns nothing."""
    for path in (project / "data").iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(
                json.dumps({**row, "text": f"w0 w{n % 60}", "text_pair": row["text"]}) + "\n"
                for n, row in enumerate(rows)
            )
        )
    done = potstill("check", project / "recipe.yaml")
    assert "60 rows, 60 labelled, 0 cut, of two texts each" in done.stdout
    quick = ["--set", "gate.allow_weak_teacher=true"]
    potstill("run", project / "recipe.yaml", "--out", project / "run", *quick, check=None)
    evaluation = record(project / "run", "evaluate")
    assert record(project / "run", "plan")["splits"]["test"]["pairs"] == 60
    assert evaluation["models"]["teacher"]["accuracy"] > 0.5, "a third is chance"
    assert evaluation["floors"]["teacher_labels"]["accuracy"] > 0.8


def test_encoded_rows_of_one_text_have_no_types() -> None:
    rows = EncodedRows(("a",), [np.array([1, 2], dtype=np.int32)], np.array([0]), 0, 0)
    assert set(rows.collate([0]).inputs) == {"input_ids", "attention_mask"}
