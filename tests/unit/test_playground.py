"""The playground without a run: queries, what is shown of answers, and what the page refuses."""

import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.artefacts.decisions import decision
from potstill.artefacts.manifest import Manifest
from potstill.data.dialogues import Completion
from potstill.errors import DataError, ModelError, PotstillError
from potstill.loaded_as import IN_FLOAT32, LoadedAs
from potstill.playground import answers, require_gradio
from potstill.playground.answers import MOST_CHARACTERS, ModelAnswer, Playground, Query, answer_of, shown, timed
from potstill.playground.cards import as_cards, as_message, as_notes
from potstill.playground.models import Opened, as_planned, opened
from potstill.playground.page import free_port, refusal
from potstill.records import WeightsRecord
from potstill.runtimes.answering import Asking
from potstill.runtimes.transformers_answering import answerer_of
from potstill.tasks.causal_lm import CausalLM
from tests.gguf_models import write_llama
from tests.pair_models import pair_model, pair_tokenizer
from tests.unit.chat_shapes import ATTACK, conversation
from tests.unit.finished_run import HOSTILE


def test_a_query_is_a_row_as_its_task_has_it() -> None:
    assert Query("a b").row("single_label") == {"text": "a b"}
    assert Query("a b", " ").row("regression") == {"text": "a b"}
    assert Query("a b", "c").row("single_label") == {"text": "a b", "text_pair": "c"}
    assert Query(" a  b ").row("tags") == {"tokens": ["a", "b"]}
    assert Query("a", as_chat=True).row("text") == {"messages": [{"role": "user", "content": "a"}]}
    assert Query("a").row("text") == {"text": "a"}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (Query(""), "empty"),
        (Query(" \n"), "empty"),
        (Query("", "b"), "empty"),
        (Query("a" * (MOST_CHARACTERS + 1)), "4,001 characters, and at most 4,000"),
        (Query("a", "b" * (MOST_CHARACTERS + 1)), "4,001 characters"),
    ],
)
def test_a_query_that_is_not_answered_is_told_why(query: Query, told: str) -> None:
    with pytest.raises(DataError, match=told):
        query.row("single_label")


def test_the_longest_query_is_answered() -> None:
    assert Query("a" * MOST_CHARACTERS).row("single_label") == {"text": "a" * MOST_CHARACTERS}


ABOUT = Manifest(
    kind="", precision="", runtime="", model_file="", task="text_classification", answers="single_label",
    labels=tuple("abcdefg"), max_length=12, temperature=2.0,
)  # fmt: skip


def test_in_detail_a_class_has_the_probabilities_of_all_others_beside_it() -> None:
    logits = torch.tensor([0.5, 3.0, -1.0, 2.5, 0.0, 1.0, 2.0])
    plain, detailed = (decision(ABOUT, logits.numpy(), all_classes=every) for every in (False, True))
    assert plain == {name: detailed[name] for name in ("label", "probability")} and plain["label"] == "b"
    expected = (logits.double() / 2).softmax(dim=0).tolist()
    assert list(detailed["probabilities"].values()) == pytest.approx(expected)
    assert list(detailed["probabilities"]) == list("abcdefg")
    # The likeliest five, of which the first is the class.
    found = ModelAnswer("student", "", **shown(detailed, {}))
    assert found.chosen == ("b",) and [name for name, _ in found.classes] == ["b", "d", "g", "f", "a"]
    assert found.classes[1][1] == pytest.approx(expected[3])


def test_every_kind_of_answer_is_shown_with_what_it_has() -> None:
    several = {"labels": ["b", "c"], "probabilities": {"a": 0.1, "b": 0.6, "c": 0.9}}
    assert shown(several, {}) == {"chosen": ("b", "c"), "classes": (("c", 0.9), ("b", 0.6), ("a", 0.1))}
    assert shown({"value": 1.5}, {}) == {"value": 1.5}
    assert shown({"tags": ["O", None, "B-x"]}, {"tokens": ["u", "v", "w"]}) == {
        "tagged": (("u", "O"), ("v", None), ("w", "B-x"))
    }
    assert shown({"text": "t", "tokens": [("t", 0.5)], "seconds": 1.0}, {}) == {"text": "t", "tokens": (("t", 0.5),)}


def test_the_time_of_an_answer_is_the_median_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of seven answers in all, the first and the two slowest are no part of it.
    clock = iter([0.0, 0.003, 1.0, 1.9, 2.0, 2.001, 3.0, 3.002, 4.0, 4.5])
    monkeypatch.setattr(answers.time, "perf_counter", lambda: next(clock))
    asked = []

    def answer(rows: Sequence[Any]) -> list[dict[str, Any]]:
        asked.append(rows)
        return [{"value": float(len(asked))}]

    assert timed(answer, {"text": "a"}) == ({"value": 1.0}, pytest.approx(3.0))
    assert asked == [[{"text": "a"}]] * 6


def test_what_is_written_is_asked_once_and_says_itself_how_long_it_took() -> None:
    asked = []

    def answer(rows: Sequence[Any]) -> list[dict[str, Any]]:
        asked.append(rows)
        return [{"text": "t", "tokens": [("t", 0.5), ("u", 0.5)], "seconds": 0.25}]

    found = answer_of(Opened("student", "", answer), {"text": "a"})
    assert len(asked) == 1 and found.ms == 250 and found.tokens_per_s == 8


def test_a_model_that_cannot_answer_says_so_in_its_place() -> None:
    def refuses(rows: Any) -> Any:
        raise IndexError("index out of range in self\nmore")

    def knows(rows: Any) -> Any:
        raise DataError("a sentence.")

    def broken() -> Any:
        raise ModelError("model.onnx: another file.")

    models = (
        Opened("one", "", refuses),
        Opened("two", "", knows),
        opened("three", "int8", broken),
        Opened("four", "", lambda rows: [{"value": 2.0}]),
    )
    found = Playground(Path("run"), "regression", (), models, pairs=False, chat=False).ask(Query("a"))
    assert [each.error for each in found] == [
        "It cannot answer: IndexError index out of range in self",
        "a sentence.",
        "model.onnx: another file.",
        "",
    ]
    assert [each.name for each in found] == ["one", "two", "three", "four"] and found[3].value == 2.0
    assert models[2] == Opened("three", "int8", None, "model.onnx: another file.")


def test_whatever_is_written_or_called_stays_text() -> None:
    hostile = HOSTILE
    cards = as_cards(
        [
            ModelAnswer(hostile, hostile, error=hostile),
            ModelAnswer("a", hostile, ms=1.0, chosen=(hostile,), classes=((hostile, 0.5),)),
            ModelAnswer("b", "", ms=1.0, tagged=((hostile, "B-" + hostile), (hostile, "O"))),
            ModelAnswer("c", "", ms=1.0, text=hostile, tokens=((hostile, 0.5), (hostile, None))),
        ]
    )
    for page in (cards, as_notes([hostile]), as_message(hostile)):
        assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        # Nothing that a browser would run stands in a tag.
        assert not re.search(r"<[^>]*\bon\w+=", page)
        # Nor anything that turns the direction of what follows.
        assert "\u202e" not in page and "{{ 7 * 7 }}" in page
    assert cards.count("&lt;script&gt;") == 12


def test_a_card_says_what_was_answered_and_how_fast() -> None:
    page = as_cards(
        [
            ModelAnswer("student", "int8, in onnx", ms=1.26, chosen=("b",), classes=(("b", 0.987), ("a", 0.013))),
            ModelAnswer("number", "", ms=1.0, value=2.34567),
            ModelAnswer("none", "", ms=1.0, classes=(("a", 0.1),)),
            ModelAnswer("writer", "", ms=500.0, text="t", tokens=(("t", 0.5),) * 4),
        ]
    )
    words = " ".join(re.sub("<[^>]*>", " ", page).split())
    assert "student int8, in onnx 1.3 ms b b 98.7 % a 1.3 %" in words
    assert "number 1.0 ms 2.346" in words and "none of the labels a 10.0 %" in words
    assert "writer 500.0 ms, 8.0 tokens/s t 4 tokens, each with its probability t 50 %" in words


@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
def test_in_detail_each_token_that_is_written_has_its_probability(family: str, chat_teacher_folder: Path) -> None:
    """Beside one reading of all of them, in double precision."""
    if family == "llama":
        model: Any = AutoModelForCausalLM.from_pretrained(chat_teacher_folder)
        tokenizer, text = AutoTokenizer.from_pretrained(chat_teacher_folder), "the white door is"
    else:
        model, tokenizer, text = pair_model(family, 3), pair_tokenizer(family), "w1 w2 w3"
    about = Manifest(
        kind="", precision="", runtime="", model_file="", task="", answers="text" if family == "llama" else "target"
    )
    asked = {"text": text}
    (plain,) = answerer_of(model, tokenizer, about, Asking(new_tokens=6))([asked])
    (found,) = answerer_of(model, tokenizer, about, Asking(new_tokens=6, in_detail=True))([asked])
    assert set(plain) == {"text"} and found["text"] == plain["text"] and found["seconds"] > 0
    prompt = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        begun = model.generate(prompt, max_new_tokens=6, do_sample=False)
        double = model.double()
        if family == "llama":
            first, logits = prompt.shape[1], double(input_ids=begun).logits[0]
        else:
            first, logits = 1, double(input_ids=prompt, decoder_input_ids=begun).logits[0]
    ids = begun[0, first:].tolist()
    assert [token for token, _ in found["tokens"]] == [tokenizer.decode([each]) for each in ids] and ids
    expected = logits[first - 1 : -1].softmax(dim=-1)[range(len(ids)), ids]
    assert [chance for _, chance in found["tokens"]] == pytest.approx(expected.tolist(), rel=1e-3)


def test_of_a_search_in_beams_no_probability_is_told(chat_teacher_folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(chat_teacher_folder)
    model.generation_config.num_beams = 3
    about = Manifest(kind="", precision="", runtime="", model_file="", task="", answers="text")
    tokenizer = AutoTokenizer.from_pretrained(chat_teacher_folder)
    (found,) = answerer_of(model, tokenizer, about, Asking(new_tokens=6, in_detail=True))([{"text": "the white"}])
    assert found["tokens"] and all(chance is None for _, chance in found["tokens"])


def test_a_teacher_is_held_as_the_plan_says() -> None:
    assert as_planned(None) == IN_FLOAT32
    assert as_planned(WeightsRecord(stored="bfloat16", answers="bfloat16")) == LoadedAs("bfloat16")
    held = as_planned(WeightsRecord(stored="float32", answers="float16", quantization="4bit", spread=True))
    assert held == LoadedAs("float16", "4bit", spread=True)


def test_without_gradio_the_command_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.playground.find_spec", lambda name: None)
    with pytest.raises(PotstillError, match=re.escape("gradio is not installed. Run: pip install 'potstill[playgrou")):
        require_gradio()


def test_a_port_that_is_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PotstillError, match=rf"--port {port}: Address already in use. Give another"):
            free_port(port)
        assert free_port(None) != port
    assert free_port(port) == port


@pytest.mark.parametrize(
    ("path", "origin", "told"),
    [
        ("/gradio_api/upload", None, "no files"),
        ("/gradio_api/upload_progress", "http://127.0.0.1:1", "no files"),
        ("/gradio_api/queue/join", "http://evil.example", "itself alone"),
        ("/gradio_api/queue/join", "http://127.0.0.1.evil.example", "itself alone"),
        ("/gradio_api/queue/join", "null", "itself alone"),
        ("/gradio_api/queue/join", "", "itself alone"),
        ("/gradio_api/queue/join", "http://", "itself alone"),
        ("/gradio_api/queue/join", "http://[::1", "itself alone"),
        ("/gradio_api/queue/join", "http://\xff", "itself alone"),
        # Other pages of this machine.
        ("/gradio_api/queue/join", "http://127.0.0.1", "itself alone"),
        ("/gradio_api/queue/join", "http://127.0.0.1:8888", "itself alone"),
        ("/gradio_api/queue/join", "http://localhost:7860", "itself alone"),
        ("/gradio_api/queue/join", "https://127.0.0.1:7860", "itself alone"),
        ("/gradio_api/queue/join", "http://127.0.0.1:7860", None),
        ("/gradio_api/queue/join", None, None),
    ],
)
def test_files_and_other_pages_are_refused(path: str, origin: str | None, told: str | None) -> None:
    headers = [(b"host", b"127.0.0.1:7860")]
    headers += [(b"origin", origin.encode("latin-1"))] if origin is not None else []
    found = refusal({"type": "http", "path": path, "headers": headers})
    assert (told is None and found is None) or (told is not None and found is not None and told in found)
    assert refusal({"type": "lifespan"}) is None


def test_a_page_answers_itself_under_the_name_by_which_it_was_opened() -> None:
    headers = [(b"host", b"localhost:7860"), (b"origin", b"http://localhost:7860")]
    assert refusal({"type": "http", "path": "/", "headers": headers}) is None
    # Without the name of its own, it is not known who asks.
    assert refusal({"type": "http", "path": "/", "headers": headers[1:]}) is not None


def test_what_a_person_types_never_ends_its_turn(tmp_path: Path) -> None:
    folder = write_llama(tmp_path, width=32, layers=1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    about = Manifest(kind="", precision="", runtime="", model_file="", task="", answers="text", max_length=128)
    answer = answerer_of(model, tokenizer, about, Asking(new_tokens=8, in_detail=True))
    playground = Playground(Path("run"), "text", (), (Opened("student", "", answer),), pairs=False, chat=True)
    for as_chat in (True, False):
        (found,) = playground.ask(Query(ATTACK, as_chat=as_chat))
        row = conversation(ATTACK) if as_chat else Completion("c", ATTACK, None)
        prompt = torch.from_numpy(CausalLM().prompts(tokenizer).last(row)).long()[None]
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        assert found.error == "" and found.text
        assert found.text == tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
