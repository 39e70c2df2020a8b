"""The data of the projects support-chat and python-code: the same every time, well formed, and held out in full."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.near_copies import words_alone
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects import docstrings, python_code, support_chat
from potstill.projects.splitting import disjoint_splits, unlike
from potstill.recipe.yaml_file import load_recipe
from potstill.students import Shrunk

SPLITS = ("train", "train-full", "validation", "test")
MODULES = ("argparse", "calendar", "glob", "heapq", "html", "operator", "statistics", "textwrap", "threading")
Rows = dict[str, list[dict[str, Any]]]


def read(folder: Path) -> Rows:
    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / f"data/{name}.jsonl").read_text().split("\n") if line]

    return {name: rows(name) for name in SPLITS}


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def chat(number: int) -> dict[str, Any]:
    """Six turns, two of them sent in two pieces, with a pasted link before them."""
    turns = [
        ("a", "See www.example.org"),
        ("b", f"Where did you travel in summer {number}?"),
        ("a", f"Over the hills to the {number}th lake,"),
        ("a", f"and then home along river {number} in the rain."),
        ("b", f"was road {number} dry"),
        ("b", f"or wet, all {number} miles"),
        ("a", f"It was wet for most of the {number} miles."),
        ("b", "thanks"),
        ("a", "Sure!"),
    ]
    messages = [[{"text": text, "sender": sender, "timestamp": ""}] for sender, text in turns]
    return {"messages": messages, "start": ""}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small packages in place of those with the conversations: one chat in two is a copy or unusable."""
    root = tmp_path / "packages"
    topics = root / "chatterbot_corpus/data/english"
    topics.mkdir(parents=True)
    for topic in support_chat.TOPICS:
        entries = [
            (f"What does {topic} {number} do?", f"The part number {number} of {topic} keeps the others running.")
            for number in range(10)
        ]
        pairs = [f"- - {question}\n  - Well?\n  - {answer}\n" for question, answer in entries]
        (topics / f"{topic}.yml").write_text("conversations:\n" + "".join(pairs * 2))
    chats = {f"good-{number}": chat(number) for number in range(220)}
    chats |= {f"bad-{number}": {"messages": chat(number)["messages"][:number]} for number in range(4)}
    (root / "chitchat_dataset").mkdir()
    (root / "chitchat_dataset/dataset.json").write_text(json.dumps(chats))
    for package in ("chatterbot_corpus", "chitchat_dataset"):
        (root / package / "__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(root)
    return root


def test_chats_are_written_the_same_each_time_and_held_out(packages: Path, tmp_path: Path) -> None:
    report = support_chat.write(tmp_path / "one", Progress())
    support_chat.write(tmp_path / "two", Progress())
    assert written(tmp_path / "one") == written(tmp_path / "two")
    assert "220 with 4 to 10 usable turns" in report[1] and "MIT" in (tmp_path / "one/DATA.md").read_text()

    rows = read(tmp_path / "one")
    texts = {
        name: [words_alone(" ".join(m["content"] for m in row["messages"])) for row in rows[name]] for name in rows
    }
    held_out = [*texts["test"], *texts["validation"]]
    assert len(rows["test"]) == support_chat.HELP_TEST + support_chat.CHAT_TEST
    assert not set(held_out) & set(texts["train-full"]) and len(set(held_out)) == len(held_out)
    assert set(texts["train"]) < set(texts["train-full"]), "the demo learns from a part of the full data"
    for row in (row for name in SPLITS for row in rows[name]):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(message["content"].strip() for message in row["messages"])


def test_a_question_is_kept_once_with_its_first_usable_answer(packages: Path) -> None:
    read, answers = support_chat.read_answers([packages / "chatterbot_corpus/data/english/coding.yml"])
    assert read == 20 and len(answers) == 10
    assert answers[3].id == "coding/what-does-coding-3-do"
    assert answers[3].turns == ("What does coding 3 do?", "The part number 3 of coding keeps the others running.")


@pytest.mark.parametrize(
    "answer",
    [
        "cancer.",
        "I have read just about everything there is to read.",
        "So you want to know how all of that works?",
        "Here's a map:\n\n```\nnumbers =\nsquared = map(lambda x: x * x, numbers)\n```\n",
    ],
)
def test_stubs_the_speaker_questions_and_broken_code_are_no_answers(answer: str) -> None:
    assert not support_chat.usable_answer(answer)


def test_lines_of_one_speaker_are_one_turn_and_a_part_ends_with_an_answer() -> None:
    turns = support_chat.merged_turns(chat(7)["messages"])
    assert len(turns) == 7 and turns[3] == "was road 7 dry\nor wet, all 7 miles"
    part = support_chat.longest_part(turns)
    assert part == turns[1:5]
    assert support_chat.longest_part([*turns[:4], "it was wet"]) == [], "the second answer is not written well"
    assert support_chat.longest_part(["Well, " + turns[1], *turns[2:5]]) == [], "a reply opens nothing"


def test_a_message_that_the_site_cut_goes_on_in_its_line() -> None:
    pieces = ["word " * 34 + "and", "so on.", "Another one."]
    (turn,) = support_chat.merged_turns([[{"text": text, "sender": "a"} for text in pieces]])
    assert turn.endswith("word and so on.\nAnother one.")


def test_lines_that_stand_in_two_chats_are_taken_for_pasted() -> None:
    one, two, three = chat(1), chat(2), chat(3)
    two["messages"][6] = one["messages"][6]
    found = support_chat.read_chats({"one": one, "two": two, "three": three}, lambda amount=1, note="": None)
    assert [dialogue.id for dialogue in found] == ["chat/three"]


def test_near_copies_of_held_out_chats_are_dropped() -> None:
    answer = "Check the cable first, then the power supply, and restart the router last."
    held_out = [support_chat.Dialogue("one", ("Why is my internet so slow today?", answer))]
    copy = support_chat.Dialogue("two", ("why is my internet so slow today", answer.upper()))
    other = support_chat.Dialogue("three", ("How far is the moon from here?", "About a quarter of a million miles."))
    assert unlike([copy, other], held_out, Progress()) == [other]


def test_no_row_nearly_copies_one_of_a_split_before_its_own() -> None:
    def said(name: str, *words: str) -> support_chat.Dialogue:
        return support_chat.Dialogue(name, (" ".join(f"{word}{n}" for n in range(30) for word in words),))

    one, two, three, four = said("one", "a"), said("two", "b"), said("three", "c"), said("four", "d")
    copy_of_one, copy_of_two, copy_of_three = said("1", "A"), said("2", "B"), said("3", "C")
    ordered = [one, copy_of_one, two, copy_of_two, three, copy_of_three, four]
    found = disjoint_splits(ordered, test=1, validation=1, progress=Progress())
    # Rows of one split may copy each other.
    assert found == ([one], [two], [three, copy_of_three, four])


@pytest.mark.parametrize("name", ["chatterbot_corpus", "chitchat_dataset"])
def test_a_missing_package_is_named(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    find = support_chat.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == name else find(wanted))
    with pytest.raises(DataError, match=f"not installed: {name.replace('_', '-')}. Run: pip install"):
        support_chat.write(tmp_path / "demo", Progress())


def test_another_release_of_a_package_is_refused(packages: Path, tmp_path: Path) -> None:
    (packages / "chitchat_dataset/dataset.json").write_text(json.dumps({"one": chat(1)}))
    with pytest.raises(DataError, match="chitchat-dataset: 1 usable conversations are too few to split"):
        support_chat.write(tmp_path / "demo", Progress())
    (packages / "chitchat_dataset/dataset.json").unlink()
    with pytest.raises(DataError, match="no such file, so another package or release has the name chitchat_dataset"):
        support_chat.write(tmp_path / "demo", Progress())


def test_functions_are_written_the_same_each_time_and_held_out_by_module(tmp_path: Path) -> None:
    python_code.write(tmp_path / "one", Progress(), modules=MODULES)
    python_code.write(tmp_path / "two", Progress(), modules=MODULES)
    assert written(tmp_path / "one") == written(tmp_path / "two")
    assert "PSF-2.0" in (tmp_path / "one/DATA.md").read_text()
    whole, layers = (load_recipe(tmp_path / "one" / name) for name in ("recipe.yaml", "recipe-layers.yaml"))
    # All of the teacher for a file in 4 bits, and a third of its layers.
    (form,) = whole.export
    assert (whole.train.epochs, form.form, form.distil is None) == (0, "gguf-q4_0", False)
    sizes = [recipe.student.layers for recipe in (whole, layers) if isinstance(recipe.student, Shrunk)]
    assert sizes == [30, 10] and layers.train.epochs > 0

    rows = read(tmp_path / "one")
    modules = {name: {row["id"].split(":")[0].split(".")[0] for row in rows[name]} for name in rows}
    assert all(modules.values()) and set().union(*modules.values()) <= set(MODULES)
    assert not (modules["test"] | modules["validation"]) & modules["train-full"]
    assert not modules["test"] & modules["validation"]
    assert len({row["id"] for row in rows["train-full"]}) == len(rows["train-full"])
    for row in (row for name in SPLITS for row in rows[name]):
        (function,) = ast.parse(row["prompt"] + row["completion"]).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        (alone,) = ast.parse(row["prompt"]).body
        assert isinstance(alone, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(alone) == ast.get_docstring(function), "the prompt ends with the docstring"
        assert len(alone.body) == 1 and 2 <= row["completion"].count("\n") <= 40


def test_a_function_is_cut_after_its_docstring() -> None:
    source = (
        'class A:\n    def f(self):\n        """Give the answer here."""\n'
        "        # Why.\n        return (\n            42)\n"
    )
    (outer,) = ast.parse(source).body
    assert isinstance(outer, ast.ClassDef) and isinstance(outer.body[0], ast.FunctionDef)
    function = python_code.cut("a.b:A.f", outer.body[0], source.split("\n"))
    assert function is not None and function.module == "a"
    assert function.prompt == 'def f(self):\n    """Give the answer here."""'
    assert function.completion == "\n    # Why.\n    return (\n        42)"


def test_unknown_modules_and_an_empty_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the modules no_such_module"):
        python_code.write(tmp_path, Progress(), modules=["no_such_module"])
    with pytest.raises(DataError, match="no function of the 1 files falls into it"):
        python_code.write(tmp_path, Progress(), modules=["heapq"])
    assert not list(tmp_path.iterdir())


def test_docstrings_are_texts_alone_and_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "MODULES", frozenset({"argparse", "statistics"}))
    said = docstrings.write_docstrings(tmp_path / "out_of_domain.jsonl", 12, Progress())
    assert said.startswith("out_of_domain: 12 docstrings")
    rows = [json.loads(line) for line in (tmp_path / "out_of_domain.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in rows}) == len({row["id"] for row in rows}) == 12
    assert {row["id"].partition(":")[0] for row in rows} <= {"argparse", "statistics"}
    known = {ast.get_docstring(node) for name in ("argparse", "statistics") for node in functions_of(name)}
    assert all(row.keys() == {"id", "text"} and row["text"] in known for row in rows)
    docstrings.write_docstrings(tmp_path / "again.jsonl", 12, Progress())
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out_of_domain.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"docstrings in 2 files, and 9000 are wanted"):
        docstrings.write_docstrings(tmp_path / "many.jsonl", 9000, Progress())


def functions_of(module: str) -> list[ast.FunctionDef]:
    (path,) = python_code.source_files({module})
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
