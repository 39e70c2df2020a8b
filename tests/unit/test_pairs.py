"""Pairs of source and target: reading them, and their token ids and batches against a naive construction."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import MarianTokenizer, PreTrainedTokenizerFast

from potstill.data.columns import Columns
from potstill.data.generated import GeneratedResponse
from potstill.data.pair_tokens import PairRows, PairTokens
from potstill.data.pairs import Pair, read_pairs
from potstill.data.prepare import DataSettings, prepare
from potstill.data.token_rows import TokenRows
from potstill.errors import DataError, ModelError
from potstill.models import Part
from potstill.signals import IGNORE_INDEX
from potstill.tasks import Seq2Seq
from tests.pair_models import SPECIAL, WORDS, pair_tokenizer

texts = st.lists(st.sampled_from([*WORDS[:12], "</s>", "<pad>", "<s>"]), max_size=9).map(" ".join)
pairs = st.lists(st.tuples(texts, texts.filter(str.strip)), min_size=1, max_size=5)


def naive(family: str, text: str) -> list[int]:
    """The ids of a text, where a string of a special token is spelled, in letters that the tokenizer does not know."""
    words = [*SPECIAL[family], *WORDS]
    found = []
    for word in text.split():
        spelled = len(word) if word in SPECIAL[family] else 1
        found += [words.index(word)] if word in WORDS else [words.index("<unk>")] * spelled
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=pairs, max_source=st.integers(3, 8), max_target=st.integers(2, 8), family=st.sampled_from(["t5", "bart"]))
def test_batches_are_those_of_a_naive_construction(
    rows: list[tuple[str, str]], max_source: int, max_target: int, family: str
) -> None:
    tokenizer = pair_tokenizer(family)
    words = SPECIAL[family]
    before = [words.index("<s>")] if family == "bart" else []
    end = words.index("</s>")
    kept, counts = PairTokens(tokenizer, max_source, max_target).tokenise(
        Pair(str(number), *row) for number, row in enumerate(rows)
    )
    encoded = PairRows(kept, pad_id=end, counts=counts)
    assert isinstance(encoded, TokenRows) and encoded.unpacked() is encoded
    order = list(range(len(rows)))[::-1]
    batch = encoded.collate(order)
    assert batch.ids == tuple(str(number) for number in order)
    cut = targets_cut = 0
    for place, number in enumerate(order):
        source, target = (naive(family, text) for text in rows[number])
        room = max_source - len(before) - 1
        shown = [*before, *source[:room], end]
        said = [*before, *target, end]
        cut += len(source) > room or len(said) > max_target
        targets_cut += len(said) > max_target
        said = said[:max_target]
        longest = batch.inputs["input_ids"].shape[1]
        assert batch.inputs["input_ids"][place].tolist() == shown + [end] * (longest - len(shown))
        assert batch.inputs["attention_mask"][place].tolist() == [1] * len(shown) + [0] * (longest - len(shown))
        width = batch.labels.shape[1]
        assert batch.labels[place].tolist() == said + [IGNORE_INDEX] * (width - len(said))
        # The padding is the token that ends a text, and only what is beyond the end is masked.
        assert batch.mask[place].tolist() == [True] * len(said) + [False] * (width - len(said))
        assert batch.inputs["target_ids"][place].tolist() == said + [end] * (width - len(said))
        assert batch.inputs["decoder_attention_mask"][place].tolist() == batch.mask[place].long().tolist()
    assert (counts.rows_cut, counts.responses_cut, encoded.truncated) == (cut, targets_cut, cut)
    assert counts.trained_tokens == int(batch.mask.sum())
    # One normaliser: source tokens weigh as much as the row's target.
    torch.testing.assert_close(batch.weights_of(Part.ENCODER).sum(dim=1), batch.mask.sum(dim=1).float())
    assert torch.equal(batch.weights_of(Part.CROSS), batch.mask.float())
    assert torch.equal(batch.tokens_of(Part.ENCODER), batch.inputs["attention_mask"].bool())
    lengths = [tuple(map(int, pair)) for pair in encoded.feature_sizes(Part.CROSS)]
    assert [lengths[number] for number in order] == [
        (int(batch.mask[place].sum()), int(batch.inputs["attention_mask"][place].sum())) for place in range(len(order))
    ]


def test_a_tokenizer_whose_special_tokens_are_words_of_its_own_spells_their_strings() -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((each, -3.0) for each in "▁<>/sMIT")]
    core = Tokenizer(models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    assert 1 in tokenizer("MIT </s>", split_special_tokens=True, add_special_tokens=False).input_ids
    ids = PairTokens(tokenizer, 40, 40).target_ids("MIT </s> T").tolist()
    assert ids.count(1) == 1 and ids[-1] == 1
    assert "".join(tokenizer.decode(ids[:-1]).split()) == "MIT</s>T"


@pytest.fixture
def marian_tokenizer(tmp_path: Path) -> Any:
    """Two models of pieces, of which the target's cuts each word into letters, and one list of pieces for both."""
    pieces: dict[str, int] = {}
    for side, size in (("source", 60), ("target", 20)):
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["red green blue cup hat"] * 40 + ["der hut ist rot blau"] * 40),
            model_writer=written,
            vocab_size=size,
            hard_vocab_limit=False,
            minloglevel=3,
        )
        (tmp_path / f"{side}.spm").write_bytes(written.getvalue())
        model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
        for number in range(3, model.get_piece_size()):
            pieces.setdefault(model.id_to_piece(number), len(pieces) + 2)
    vocabulary = {"</s>": 0, "<unk>": 1, **pieces, "<pad>": len(pieces) + 2}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    # It recommends another package, by which punctuation would be brought into one form.
    with pytest.warns(UserWarning, match="sacremoses"):
        return MarianTokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_that_cuts_targets_by_other_rules_does(marian_tokenizer: Any) -> None:
    tokens = PairTokens(marian_tokenizer, 40, 40)
    source, target = tokens.source_ids("red hat")[0].tolist(), tokens.target_ids("red hat").tolist()
    assert source == marian_tokenizer("red hat").input_ids
    assert target == marian_tokenizer(text_target="red hat").input_ids
    assert source != target and source[-1] == target[-1] == 0 and tokens.text_ids("red hat") == target[:-1]
    assert marian_tokenizer.decode(target[:-1]) == "red hat"
    # A string of a special token stays text in both.
    for ids in (tokens.source_ids("red</s>")[0].tolist(), tokens.target_ids("red</s>").tolist()):
        assert ids.count(0) == 1


def test_what_a_teacher_wrote_stays_the_tokens_that_it_wrote() -> None:
    written = GeneratedResponse(
        "a", np.array([4, 5, 1], dtype=np.int32), np.array([7, 7], dtype=np.int32), "x", ended=False
    )
    batch = Seq2Seq().encode([written], pair_tokenizer("t5")).collate([0])
    assert batch.inputs["input_ids"].tolist() == [[4, 5, 1]] and batch.labels.tolist() == [[7, 7]]


def test_a_tokenizer_that_puts_no_end_after_a_text_still_ends_targets() -> None:
    tokenizer = pair_tokenizer("t5")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokens = PairTokens(tokenizer, 8, 8)
    assert tokens.target_ids("red").tolist() == [*naive("t5", "red"), 1]
    assert tokens.source_ids("red")[0].tolist() == naive("t5", "red")
    assert tokens.source_ids("")[0].tolist() == [1]
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        tokens.target_ids("red")


def read(tmp_path: Path, *rows: Any, **columns: str) -> list[Pair]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return list(read_pairs(tmp_path / "rows.jsonl", Columns(**columns)))


def test_rows_are_read_with_and_without_targets_and_ids(tmp_path: Path) -> None:
    found = read(tmp_path, {"id": 3, "source": "a", "target": "b"}, {"source": "c"}, {"source": "d", "target": None})
    assert found[0] == Pair("3", "a", "b") and found[0].labelled and found[0].text == "a"
    assert [pair.labelled for pair in found[1:]] == [False, False] and found[1].id != found[2].id
    assert [Pair.of(pair.content) for pair in found] == found
    assert found[0].content == ["3", "a", "b"], "as it was before there were domains, so that runs go on"
    [known] = read(tmp_path, {"source": "a", "target": "b", "domain": "law"})
    assert known.domain == "law" and Pair.of(known.content) == known
    named = read(tmp_path, {"en": "a", "de": "b"}, source="en", target="de")
    assert (named[0].source, named[0].target) == ("a", "b")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("text", "line 1: expected an object with 'source', found str"),
        ({"text": "a"}, 'line 1 has no "source"; found .*data.columns.source'),
        ({"source": 4}, 'line 1 "source": expected text, found int'),
        ({"source": "a", "target": ["b"]}, 'line 1 "target": expected text, found list'),
        ({"source": "a", "target": " "}, 'line 1 "target": empty; use null'),
        ({"source": "a", "target": "b", "domain": [4]}, 'line 1 "domain": expected text, found list'),
        (
            {"id": "0", "translation": {"en": "a", "de": "b"}},
            r"""jq -c '\{source: \.\["translation"\]\["en"\], target: \.\["translation"\]\["de"\]\}'""",
        ),
        ({"translation": {"en": "a", "de": "b", "fr": "c"}}, "Set data.columns.source and data.columns.target"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, row)


def test_one_id_with_two_targets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='Duplicate id "x"'):
        read(tmp_path, {"id": "x", "source": "a", "target": "b"}, {"id": "x", "source": "a", "target": "c"})


def test_a_source_that_is_held_out_is_not_learnt_whatever_its_target(tmp_path: Path) -> None:
    for name, rows in {
        "train": [("a", "1"), ("b", "2"), ("c", None)],
        "validation": [("b", "other")],
        "test": [("d", "4")],
    }.items():
        lines = [json.dumps({"source": source, "target": target}) for source, target in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    data = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl")
    splits = prepare(data, tmp_path, Seq2Seq().read)
    assert [pair.source for pair in splits["train"].rows] == ["a", "c"]
    with pytest.raises(DataError, match=r"data.train: 1 of 2 rows have no target.*kind: generated"):
        Seq2Seq().label_names({"train": splits["train"].rows})
