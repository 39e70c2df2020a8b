"""Conversations as token ids and masks, against chat templates of each shape that models have."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from potstill.data.chat_tokens import ChatTokens, TokenCounts, Tokenised, marked_text
from potstill.data.dialogues import Completion, Conversation, PlainText, WrittenResponse
from potstill.data.generated import GeneratedResponse
from potstill.data.turns import Message
from potstill.errors import DataError, ModelError
from tests.unit.chat_shapes import (
    ATTACK,
    CHATML,
    CORPUS,
    PREFILLS,
    SHAPES,
    SPECIAL,
    Shape,
    byte_level,
    conversation,
    counted,
    decoded,
    tokenised,
)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {name: byte_level(shape.template) for name, shape in SHAPES.items()}


def as_dicts(messages: Iterable[Message]) -> list[dict[str, str]]:
    turns = [{"role": m.role, "content": m.content, "reasoning_content": m.reasoning} for m in messages]
    return [{key: value for key, value in turn.items() if value is not None} for turn in turns]


def inference_prompt(tokenizer: Any, messages: Iterable[Message]) -> str:
    return str(tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=True))


def spans(example: Tokenised) -> list[tuple[int, int]]:
    """Beginning and end of each run of trained tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], example.trained, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def check_all_turns(tokenizer: Any, shape: Shape, example: Conversation) -> list[Tokenised]:
    """What is learnt is each response, exactly; what stands before it is the prompt of inference, exactly."""
    made = tokenised(tokenizer, example)
    answers = [number for number, message in enumerate(example.messages) if message.role == "assistant"]
    found = [(one, start, end) for one in made for start, end in spans(one)]
    assert len(found) == len(answers)
    for number, (one, start, end) in zip(answers, found, strict=True):
        prompt = inference_prompt(tokenizer, example.messages[:number])
        assert one.ids[:start].tolist() == tokenizer(prompt, add_special_tokens=False).input_ids
        assert decoded(tokenizer, one.ids[start:end]) == shape.response(example.messages[number])
    for one in made:
        assert one.trained[-1] and not one.trained[0]
    return made


CONTENTS = {
    "plain": conversation("Hello", "Fine.", "And today?", "Fine today."),
    "the answer repeats the question": conversation("Fine.", "Fine.", "Fine.<|", "Fine.<|"),
    "the system says the answer": conversation("Hello", "Fine.", system="Answer: Fine."),
    "unicode": conversation("Grüße 🏴‍☠️", "\u2028é\u0301 漢字 🙂", "\u200d", "\ufeff"),
    "white space around": conversation("  Hello \n", "\n\n Fine. \n\n", " x", "  y "),
    "one character": conversation("?", "!", "?", "."),
    "looks like a template": conversation("{{ messages }}", "{% raw %}", "assistant\n", "user\n"),
    "reasoning in every turn": conversation("Hello", ("Polite.", "Fine."), "And?", ("Hm\n", "So.")),
    "reasoning in the first turn": conversation("Hello", ("Polite.", "Fine."), "And?", "So."),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_exactly_the_responses_are_learnt_after_the_prompts_of_inference(
    tokenizers: dict[str, Any], shape: str, name: str
) -> None:
    check_all_turns(tokenizers[shape], SHAPES[shape], SHAPES[shape].fitted(CONTENTS[name]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_conversation_is_learnt_exactly(tokenizers: dict[str, Any], data: st.DataObject) -> None:
    text = st.text(st.sampled_from("a é\n\t.🙂<|") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    answer = text | st.tuples(text, text)
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    turns = data.draw(st.lists(st.tuples(text, answer), min_size=1, max_size=3))
    system = data.draw(st.none() | text)
    example = SHAPES[name].fitted(conversation(*(part for turn in turns for part in turn), system=system))
    made = check_all_turns(tokenizers[name], SHAPES[name], example)
    if name == "chatml" and all(isinstance(reply, str) for _, reply in turns):
        rendered = tokenizers[name].apply_chat_template(as_dicts(example.messages), tokenize=False)
        assert decoded(tokenizers[name], made[-1].ids) + "\n" == rendered
    for one in made:
        pieces = marked_text(one, tokenizers[name])
        assert "".join(text for text, _ in pieces) == decoded(tokenizers[name], one.ids)
        assert [text for text, learnt in pieces if learnt] == [
            decoded(tokenizers[name], one.ids[start:end]) for start, end in spans(one)
        ]


@pytest.mark.parametrize(
    ("shape", "name", "examples"),
    [
        ("chatml", "plain", 1),
        ("spaced", "plain", 1),
        ("thinks", "plain", 1),
        ("trims", "plain", 1),
        ("trims", "white space around", 1),
        ("chatml", "reasoning in every turn", 2),
        ("thinks", "reasoning in the first turn", 2),
        ("prefills", "plain", 2),
        ("channels", "reasoning in every turn", 1),
    ],
)
def test_a_conversation_is_one_example_where_the_template_shows_earlier_turns_as_they_were_said(
    tokenizers: dict[str, Any], shape: str, name: str, examples: int
) -> None:
    made = tokenised(tokenizers[shape], SHAPES[shape].fitted(CONTENTS[name]))
    assert [one.id for one in made] == (["c"] if examples == 1 else [f"c#{number}" for number in range(examples)])


def test_the_last_turn_alone(tokenizers: dict[str, Any]) -> None:
    for name, shape in SHAPES.items():
        for example in map(shape.fitted, CONTENTS.values()):
            (one,) = tokenised(tokenizers[name], example, train_on="last_turn")
            ((start, end),) = spans(one)
            assert one.id == "c" and end == len(one.ids)
            assert (
                one.ids[:start].tolist()
                == tokenizers[name](
                    inference_prompt(tokenizers[name], example.messages[:-1]), add_special_tokens=False
                ).input_ids
            )
            assert decoded(tokenizers[name], one.ids[start:]) == shape.response(example.messages[-1])


def test_a_response_that_brings_its_own_reasoning_does_not_open_it_twice(tokenizers: dict[str, Any]) -> None:
    (one,) = tokenised(tokenizers["prefills"], conversation("Hello", "<think>\nPolite.\n</think>\n\nFine."))
    ((start, _),) = spans(one)
    assert decoded(tokenizers["prefills"], one.ids[start:]) == "Polite.\n</think>\n\nFine.</s>"
    assert decoded(tokenizers["prefills"], one.ids).count("<think>") == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_strings_of_special_tokens_in_a_content_stay_text(tokenizers: dict[str, Any], shape: str) -> None:
    tokenizer = tokenizers[shape]
    harmless = conversation("Hello", "Fine.", "And?", "So.", system="Short.")
    hostile = conversation("Hello" + ATTACK, f"Fine. </s>{ATTACK}", f"{ATTACK} And?", "So.", system="Short. <s>")
    special = set(tokenizer.convert_tokens_to_ids(SPECIAL))
    counts = []
    for example in map(SHAPES[shape].fitted, (harmless, hostile)):
        made = tokenised(tokenizer, example)
        assert [decoded(tokenizer, one.ids[a:b]) for one in made for a, b in spans(one)] == [
            SHAPES[shape].response(message) for message in example.messages if message.role == "assistant"
        ]
        counts.append([sum(int(token) in special for token in one.ids) for one in made])
        ids = ChatTokens(tokenizer, 10_000).prompt_ids(example)
        assert decoded(tokenizer, ids.tolist()) == inference_prompt(tokenizer, example.messages[:-1])
    assert counts[0] == counts[1]


def test_a_template_that_rewrites_such_a_string_is_refused_by_row_and_string() -> None:
    tokenizer = byte_level(CHATML.replace("m.content", "m.content.replace('|', ' | ')"))
    (one,) = tokenised(tokenizer, conversation("yes|", "Fine."))
    assert marked_text(one, tokenizer)[0][0] == "<|im_start|>user\nyes | <|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(DataError, match=r"row \"c\": the chat template rewrites .* '<\|im_end\|>'.*Drop the string"):
        tokenised(tokenizer, conversation("yes <|im_end|>", "Fine."))


def test_the_end_token_may_take_in_the_line_end_behind_it() -> None:
    tokenizer = byte_level(CHATML, rstrip=True)
    (one,) = check_all_turns(tokenizer, SHAPES["chatml"], CONTENTS["plain"])
    assert "<|im_end|><|im_start|>user" in "".join(tokenizer.convert_ids_to_tokens(one.ids.tolist()))


def test_a_conversation_keeps_the_leading_turns_that_fit(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chatml"]
    (whole,), counts = counted(tokenizer, CONTENTS["plain"], 10_000)
    (first, end_of_first), (second, end) = spans(whole)
    trained = int(whole.trained.sum())
    assert counts == TokenCounts(1, end, trained, 0, 0, 0, 0, ())
    assert counted(tokenizer, CONTENTS["plain"], end)[1] == counts

    for room in (end - 1, second + 1, second, end_of_first):
        (kept,), counts = counted(tokenizer, CONTENTS["plain"], room)
        assert kept.ids.tolist() == whole.ids[:end_of_first].tolist()
        assert counts == TokenCounts(1, end_of_first, end_of_first - first, 1, 0, 1, 0, ())
    for room in (end_of_first - 1, first + 1):
        (kept,), counts = counted(tokenizer, CONTENTS["plain"], room)
        assert kept.ids.tolist() == whole.ids[:room].tolist() and spans(kept) == [(first, room)]
        assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in kept.ids[first:]
        assert counts == TokenCounts(1, room, room - first, 1, 1, 1, 0, ())
    assert counted(tokenizer, CONTENTS["plain"], first) == ([], TokenCounts(0, 0, 0, 1, 0, 0, 1, ("c",)))


def test_turns_of_their_own_are_cut_and_dropped_each_for_itself(tokenizers: dict[str, Any]) -> None:
    example = conversation("Hello", ("Polite.", "Fine."), "And today?", ("Hm", "So."))
    both = tokenised(tokenizers["thinks"], example)
    prompt = spans(both[1])[0][0]
    kept, counts = counted(tokenizers["thinks"], example, prompt)
    assert [one.id for one in kept] == ["c#0"]
    assert (counts.examples, counts.examples_dropped, counts.first_dropped) == (1, 1, ("c#1",))


def test_few_dropped_examples_are_named_and_all_are_counted(tokenizers: dict[str, Any]) -> None:
    examples = [conversation("Hello", "Fine.", name=f"c{number}") for number in range(9)]
    kept, counts = ChatTokens(tokenizers["chatml"], 4).tokenise(examples)
    assert len(kept) == 0 and counts.examples_dropped == 9
    assert counts.first_dropped == ("c0", "c1", "c2", "c3", "c4")


def test_a_response_that_melts_into_its_prompt_stands_in_no_later_prompt() -> None:
    template = PREFILLS.replace("'<|bot|>'", "'<|bot|>He'").replace("<think>\n", "He")
    made = check_all_turns(
        byte_level(template), Shape(template, after="</s>"), conversation("x", "llo", "y", "llo", "z", "y")
    )
    assert [len(spans(one)) for one in made] == [1, 1, 1]


def test_a_tokenizer_that_marks_the_first_word_does_not_mark_the_response() -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    assert decoded(made, [*made("Fine").input_ids, *made(".").input_ids]) == "Fine .", "pieces alone are marked"
    (one,) = tokenised(made, Completion("p", "Fine", "."))
    assert marked_text(one, made) == [("Fine", False), (".</s>", True)]


def test_a_response_that_was_written_is_read_as_a_given_one() -> None:
    """Where pieces alone are marked, too; and its strings of special tokens stay text."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    made.chat_template = (
        "{% for m in messages %}{{ m.role + '\\n' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
    )
    asked = conversation("Hello")
    for said in ("Fine.", "Fine, </s> you?", ""):
        (given,) = tokenised(made, Conversation("a", (*asked.messages, Message("assistant", said))))
        for ended in (True, False):
            found = tokenised(made, WrittenResponse("a", asked, said, ended))
            learnt = [number for one in found for number in one.ids[one.trained].tolist()]
            if "</s>" in said:
                assert learnt.count(made.eos_token_id) == ended
            else:
                assert learnt == given.ids[given.trained].tolist()[: None if ended else -1]


def test_the_prompt_of_an_unanswered_conversation(tokenizers: dict[str, Any]) -> None:
    example = conversation("Hello", "Fine.", "And?")
    for tokenizer in tokenizers.values():
        ids = ChatTokens(tokenizer, 8).prompt_ids(example)
        assert decoded(tokenizer, ids.tolist()) == inference_prompt(tokenizer, example.messages)
        assert ids.tolist() == ChatTokens(tokenizer, 8).prompt_ids(conversation("Hello", "Fine.", "And?", "x")).tolist()


def test_the_end_of_a_response_is_the_last_token_that_is_learnt(tokenizers: dict[str, Any]) -> None:
    for name, tokenizer in tokenizers.items():
        tokens = ChatTokens(tokenizer, 10_000)
        answered = SHAPES[name].fitted(conversation("Hello", "Fine.", "And?", "x"))
        (*_, last), _ = tokens.tokenise([answered])
        asked = Conversation("a", answered.messages[:-1])
        assert tokens.end_id(answered) == tokens.end_id(asked) == last.ids[last.trained][-1]


def test_what_a_teacher_wrote_is_not_read_again(tokenizers: dict[str, Any]) -> None:
    shown, said = np.array([5, 6, 7], dtype=np.int32), np.array([9, 8, 9], dtype=np.int32)
    ((tokenised,), counts) = ChatTokens(tokenizers["chatml"], 8).tokenise(
        [GeneratedResponse("a", shown, said, "another text")]
    )
    assert tokenised.ids.tolist() == [5, 6, 7, 9, 8, 9] and tokenised.trained.tolist() == [False] * 3 + [True] * 3
    assert counts.trained_tokens == 3 and counts.responses_cut == 0


def test_a_tokenizer_or_template_that_cannot_serve_is_refused_with_the_fix() -> None:
    with pytest.raises(ModelError, match=r'row "c" has messages, but the tokenizer has no chat template\. Take'):
        tokenised(byte_level(None), CONTENTS["plain"])
    with pytest.raises(ModelError, match=r'row "c": the chat template writes no special token after a response'):
        tokenised(
            byte_level("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"), CONTENTS["plain"]
        )
    with pytest.raises(ModelError, match=r'row "c": the chat template does not write a response once and as it is'):
        tokenised(byte_level(CHATML.replace("m.content", "m.content | upper")), CONTENTS["plain"])
    with pytest.raises(ModelError, match=r"the tokenizer has no end-of-sequence token.*Set eos_token"):
        endless = byte_level(None)
        endless.eos_token = None
        tokenised(endless, PlainText("t", "Hello"))
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + CHATML
    tokenised(byte_level(refuses), CONTENTS["plain"])
    with pytest.raises(
        DataError, match=r'row "c": the chat template refuses the conversation: no system turns\. Change'
    ):
        tokenised(byte_level(refuses), CONTENTS["the system says the answer"])


def test_all_rows_that_the_template_refuses_come_in_one_error_with_their_texts() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + CHATML
    tokens = ChatTokens(byte_level(refuses), 64)
    bad = [conversation(f"Question {n}?", "Hello", system="Be kind.", name=f"bad{n}") for n in range(12)]
    with pytest.raises(DataError) as caught:
        tokens.tokenise([conversation("Hi", "Hello", name="good"), *bad])
    said = str(caught.value).splitlines()
    assert said[0] == "12 rows cannot be used; the first 10:" and len(said) == 11
    assert all(f'row "bad{n}": the chat template refuses' in line for n, line in enumerate(said[1:]))
    assert all(line.endswith(f"It begins: 'Question {n}? Hello'.") for n, line in enumerate(said[1:]))
    with pytest.raises(DataError, match=r'^row "bad3": .*Question 3'):
        tokens.tokenise(bad[3:4])


@pytest.mark.parametrize("name", ["chatml", "trims"])
def test_a_written_response_is_learnt_as_the_same_words_in_a_row_are(
    tokenizers: dict[str, PreTrainedTokenizerBase], name: str
) -> None:
    """For a student that reads the text with other tokens than the teacher that wrote it."""
    tokenizer = tokenizers[name]
    asked = conversation("user: what is it ?")
    answered = replace(asked, messages=(*asked.messages, Message("assistant", "it is red .")))
    [wanted] = tokenised(tokenizer, answered)
    [found] = tokenised(tokenizer, WrittenResponse("a", asked, "it is red .", ended=True))
    start, end = spans(wanted)[0]
    assert found.ids[found.trained].tolist() == wanted.ids[start:end].tolist()
    assert found.ids[:start].tolist() == wanted.ids[:start].tolist()
    [cut] = tokenised(tokenizer, WrittenResponse("a", asked, "it is red .", ended=False))
    assert cut.ids.tolist() == found.ids[:-1].tolist()


def test_a_written_completion_goes_on_after_its_prompt(tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer = tokenizers["chatml"]
    [wanted] = tokenised(tokenizer, Completion("a", "it is", " red ."))
    [found] = tokenised(tokenizer, WrittenResponse("a", Completion("a", "it is", None), " red .", ended=True))
    [cut] = tokenised(tokenizer, WrittenResponse("a", Completion("a", "it is", None), " red .", ended=False))
    assert found.ids.tolist() == wanted.ids.tolist() and found.trained.tolist() == wanted.trained.tolist()
    assert cut.ids.tolist() == found.ids[:-1].tolist()
