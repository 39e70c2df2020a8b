"""Runs in which the teacher writes what its student learns."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer

from potstill.data.generated import GeneratedResponse, load_generated
from potstill.errors import DataError, LabelStoreError
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import load_recipe
from potstill.records import AdaptRecord, ResponsesRecord
from potstill.run_dir import fingerprint, open_run, write_json
from potstill.stages import generate as stage
from potstill.stages.inputs import Inputs, read_inputs
from potstill.stages.plan import example_lines, make_plan
from potstill.tasks.chat_prompts import ChatPrompts
from potstill.training.one_process import OneProcess
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import COLOURS, make_chat_project

GENERATED = "label.responses={kind: generated, per_prompt: 2, max_new_tokens: 8, batch_size: 16}"
Load = Callable[..., tuple[Recipe, Inputs]]


def without_answers(path: Path) -> None:
    """The same rows, each ending with its last question."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"messages": row["messages"][:-1]}) + "\n" for row in rows))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, chat_teacher_folder: Path) -> Path:
    """A run on prompts alone: the only true responses are those of validation, test and adapt."""
    project = make_chat_project(tmp_path_factory.mktemp("generated"), chat_teacher_folder)
    without_answers(project / "data/train.jsonl")
    potstill("run", project / "recipe.yaml", "--out", project / "run", "--set", GENERATED)
    return project


def test_a_student_learns_what_its_teacher_wrote(finished: Path) -> None:
    written = load_generated(finished / "run/label/responses/responses.parquet")
    found = record(finished / "run", "label/responses")
    splits = record(finished / "run", "plan")["splits"]
    assert found["written"] == len(written) > found["kept"] == 0
    assert found["tokens"] == sum(len(row.response) for row in written)
    # The adapted teacher knows the task, so nearly all that it writes are answers.
    answers = [row.text.split() for row in written]
    right = sum(words[:1] != [] and words[0] in COLOURS and words[1:] == ["is", "the", "colour"] for words in answers)
    assert right > 0.8 * len(written)
    labels = record(finished / "run", "label/teacher/logits")
    assert labels["positions"] == found["tokens"] + splits["validation"]["tokens"]["trained_tokens"]
    evaluation = record(finished / "run", "evaluate")
    assert evaluation["learnt_from"] == "generated"
    assert evaluation["models"]["student"]["accuracy"] > 0.8
    assert any("than on the tokens of the same text alone" in finding for finding in evaluation["findings"])


def test_what_was_written_is_kept_and_the_plan_was_an_upper_bound(finished: Path) -> None:
    recipe, run = finished / "recipe.yaml", finished / "run"
    assert stages_that_worked(potstill("run", recipe, "--out", run, "--set", GENERATED).stderr) == set()
    plan, found = record(run, "plan"), record(run, "label/responses")
    assert plan["responses_to_write"] == found["written"]
    assert plan["splits"]["train"]["tokens"]["trained_tokens"] == 8 * found["written"] >= found["tokens"]
    assert plan["steps"] >= record(run, "train/student")["steps"]


def test_the_report_counts_them(finished: Path) -> None:
    found = record(finished / "run", "label/responses")
    page = (finished / "run/report/report.html").read_text()
    assert f"{found['written']:,} responses" in page and "The teacher wrote" in page


@pytest.fixture
def load(chat_project: Path) -> Load:
    def loaded(*changes: str) -> tuple[Recipe, Inputs]:
        recipe = load_recipe(chat_project / "recipe.yaml", list(changes))
        return recipe, read_inputs(recipe, chat_project)

    return loaded


def asked(recipe: Recipe, inputs: Inputs) -> stage.Requests:
    settings = recipe.label.responses
    assert isinstance(settings, stage.Generated)
    return stage.requests(recipe, inputs, settings)


def test_each_turn_is_asked_after_the_conversation_as_it_is_given(chat_project: Path, load: Load) -> None:
    words = ["what colour is the hat ?", "red is the colour", "what colour is the cup ?", "blue is the colour"]
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, words, strict=True)]
    rows = [{"id": "two", "messages": turns}, {"id": "open", "messages": turns[:3]}, {"id": "plain", "text": "w1 w2"}]
    (chat_project / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, inputs = load("label.responses={kind: generated}", "data.deduplicate=false")
    every = asked(recipe, inputs)
    assert [each.id for each in every.open] == ["two#0", "two#1", "open#0", "open#1"]
    assert [row.id for row in every.kept] == ["plain"]
    first = "<|im_start|> user what colour is the hat ? <|im_end|> <|im_start|> assistant"
    more = "red is the colour <|im_end|> <|im_start|> user what colour is the cup ? <|im_end|> <|im_start|> assistant"
    shown = [inputs.tokenizer.decode(each.prompt) for each in every.open]
    assert shown == [first, f"{first} {more}"] * 2

    last = asked(*load("label.responses={kind: generated, per_prompt: 2}", "task.train_on=last_turn"))
    assert [each.id for each in last.open] == ["two@0", "two@1", "open@0", "open@1"]

    left = asked(*load("label.responses={kind: generated, rows: unanswered}"))
    assert [each.id for each in left.open] == ["open"]
    assert [row.id for row in left.kept] == ["two", "plain"]


def test_prompts_without_room_are_dropped_and_counted(chat_project: Path, load: Load) -> None:
    long = {"id": "long", "prompt": " ".join(["w1"] * 64)}
    with (chat_project / "data/train.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n" + json.dumps({"id": "short", "prompt": "w1 w2"}) + "\n")
    recipe, inputs = load(GENERATED)
    found = asked(recipe, inputs)
    assert found.dropped == ("long",) and {"short@0", "short@1"} <= {each.id for each in found.open}
    plan = make_plan(recipe, inputs, chat_project)
    assert plan.prompts_dropped == 1 and "train: 1 prompts are left out" in plan.warnings[-1]


def test_no_response_reaches_beyond_the_greatest_length(load: Load) -> None:
    recipe, inputs = load("label.responses={kind: generated, max_new_tokens: 50, batch_size: 7}")
    wanted = asked(recipe, inputs).open
    batches = list(stage._batches(wanted, 7))
    assert all(len(batch) <= 7 for _, batch in batches)
    assert sorted(number for _, batch in batches for number in batch) == list(range(len(wanted)))
    rooms = [[min(50, 64 - len(wanted[number].prompt)) for number in batch] for _, batch in batches]
    assert all(set(each) == {room} for each, (room, _) in zip(rooms, batches, strict=True))
    assert len({room for room, _ in batches}) > 1


def test_a_turn_ends_with_the_token_of_the_template_whatever_the_end_of_a_sequence_is(
    chat_project: Path, chat_teacher_folder: Path, load: Load
) -> None:
    folder = chat_project / "teacher"
    shutil.copytree(chat_teacher_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<pad>"
    tokenizer.save_pretrained(folder)
    with (chat_project / "data/train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "open", "messages": [{"role": "user", "content": "w1"}]}) + "\n")
    assert asked(*load(GENERATED, f"teacher.model={folder}")).ends == {3}
    with (chat_project / "data/train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "short", "prompt": "w1 w2"}) + "\n")
    assert asked(*load(GENERATED, f"teacher.model={folder}")).ends == {3, 1}


def test_prompts_of_held_out_rows_are_not_answered_for_training(chat_project: Path, load: Load) -> None:
    held = json.loads((chat_project / "data/test.jsonl").read_text().splitlines()[0])
    with (chat_project / "data/train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "copy", "messages": held["messages"][:-1]}) + "\n")
        other = {"role": "assistant", "content": "w7 w8 w9"}
        file.write(json.dumps({"id": "other", "messages": [*held["messages"][:-1], other]}) + "\n")
    changes = (GENERATED, "data.near_copies={jaccard: 0.8}")
    _, inputs = load(*changes)
    names = {row.id for row in inputs.splits["train"].rows}
    assert names.isdisjoint({"copy", "other"}) and len(names) > 40
    assert inputs.splits["train"].near_copies_dropped >= 2


def test_a_name_that_two_rows_would_have_is_refused(chat_project: Path, load: Load) -> None:
    with (chat_project / "data/train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "train-0@1", "text": "w1 w2"}) + "\n")
    recipe, inputs = load(GENERATED, "task.train_on=last_turn")
    with pytest.raises(DataError, match='Duplicate id "train-0@1"'):
        asked(recipe, inputs)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"id": "a", "text": "w1 w2"}], "", "its rows have no prompt, or a response already"),
        ([{"id": "a", "prompt": "w1", "completion": "w2"}], ", rows: unanswered", "or a response already"),
        ([{"id": "a", "prompt": " ".join(["w1"] * 70)}], "", 'are empty or fill task.max_length, first "a". Raise it'),
    ],
)
def test_nothing_to_write_is_an_error(
    chat_project: Path, load: Load, rows: list[dict[str, str]], settings: str, message: str
) -> None:
    (chat_project / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, inputs = load(f"label.responses={{kind: generated{settings}}}")
    with pytest.raises(DataError, match=message):
        make_plan(recipe, inputs, chat_project)


def test_a_teacher_cannot_be_adapted_to_responses_that_nobody_gave(chat_project: Path, load: Load) -> None:
    without_answers(chat_project / "data/train.jsonl")
    with pytest.raises(DataError, match=r"adapt: no row of data\.train has a response"):
        load(GENERATED, "data.adapt=null")


def test_classifiers_write_nothing(project: Path) -> None:
    with pytest.raises(ValidationError, match=r"label\.responses: generated does not fit text_classification"):
        Recipe.model_validate(
            {
                "task": {"kind": "text_classification"},
                "data": {"train": "a", "validation": 0.1, "test": 0.1},
                "teacher": {"model": "m"},
                "label": {"responses": {"kind": "generated"}},
            }
        )


def test_check_shows_the_first_prompt(load: Load) -> None:
    recipe, inputs = load(GENERATED)
    lines = list(example_lines(recipe, inputs))
    assert "the teacher writes what is learnt after it" in lines[0] and lines[1].endswith("<|im_start|> assistant")


def test_check_shows_the_first_row_of_which_something_is_learnt(load: Load, chat_project: Path) -> None:
    path = chat_project / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()][:4]
    # Nothing to learn, and no room to learn it in.
    rows[0]["messages"] = [turn | {"weight": 0} for turn in rows[0]["messages"]]
    rows[1]["messages"][0]["content"] = " ".join(["w1"] * 200)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unanswered = GENERATED.replace("per_prompt: 2", "rows: unanswered")
    for changes in ((), (unanswered,)):
        if changes:
            rows[2]["messages"] = rows[2]["messages"][:-1]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe, inputs = load(*changes)
        lines = list(example_lines(recipe, inputs))
        assert f"The first example, {rows[3 if changes else 2]['id']}; what is learnt" in lines[0]
        assert "[[" in lines[1]
    # Of the rows that stay as they are given, none teaches.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    lines = list(example_lines(*load(unanswered)))
    assert f"The first prompt, {rows[2]['id']}" in lines[0] and lines[1].endswith("<|im_start|> assistant")


class TestWriting:
    """The stage itself, in this process, with the random teacher."""

    @pytest.fixture
    def generate(self, load: Load, chat_teacher_folder: Path) -> Callable[..., tuple[Inputs, ResponsesRecord | None]]:
        def responded(folder: Path, *changes: str) -> tuple[Inputs, ResponsesRecord | None]:
            recipe, inputs = load(GENERATED, "adapt=null", *changes)
            adapted = AdaptRecord(adapted=False, location=str(chat_teacher_folder), digest=inputs.lead.digest)
            with open_run(folder, Progress()) as run:
                return stage.generate(run, recipe, inputs, adapted, OneProcess(torch.device("cpu")))

        return responded

    def test_a_job_that_was_broken_off_goes_on_to_the_same_file(
        self,
        generate: Callable[[Path], tuple[Inputs, ResponsesRecord | None]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        _, whole = generate(tmp_path / "whole")
        assert whole is not None
        write, calls = stage.write_responses, []

        def broken(*args: object, **more: object) -> list[list[int]]:
            calls.append(more["seed"])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return write(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(stage, "write_responses", broken)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "broken")
        assert not (tmp_path / "broken/label/responses/responses.parquet").exists()
        # A batch that is not whole is written again.
        kept = sorted((tmp_path / "broken/label/responses/scratch").iterdir())
        assert len(kept) == 2
        kept[0].write_bytes(kept[0].read_bytes()[:-30])
        inputs, resumed = generate(tmp_path / "broken")
        assert resumed is not None and resumed.files == whole.files
        assert calls[3] == calls[0] and calls[4] == calls[2] and len(set(calls[3:])) == len(calls[3:])
        assert not (tmp_path / "broken/label/responses/scratch").exists()
        rows = inputs.splits["train"].rows
        assert all(isinstance(row, GeneratedResponse) for row in rows) and len(rows) == whole.written

    def test_prompts_that_are_rendered_otherwise_are_answered_anew_but_old_runs_go_on(
        self,
        generate: Callable[..., tuple[Inputs, ResponsesRecord | None]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        _, first = generate(tmp_path / "run")
        inputs = tmp_path / "run/label/responses/inputs.json"
        known = json.loads(inputs.read_text())["inputs"]
        assert len(known["prompts"]) == 64
        prompt_of = ChatPrompts.of

        def otherwise(self: ChatPrompts, *args: Any, **more: Any) -> Any:
            """As another version of transformers, or of this library, may render the same rows."""
            return [(name, np.append(prompt, prompt[-1])) for name, prompt in prompt_of(self, *args, **more)]

        monkeypatch.setattr(ChatPrompts, "of", otherwise)
        _, other = generate(tmp_path / "run")
        assert first is not None and other is not None and first.files != other.files
        # One that an earlier version wrote is kept.
        del known["prompts"]
        write_json(inputs, {"fingerprint": fingerprint(known), "inputs": known})
        result = tmp_path / "run/label/responses/result.json"
        old = json.loads(result.read_text()) | {"fingerprint": fingerprint(known), "digest_of_record": ""}
        result.write_text(json.dumps(old))
        before = result.read_text()
        assert generate(tmp_path / "run")[1] is not None and result.read_text() == before
        assert "prompts" not in json.loads(inputs.read_text())["inputs"]

    def test_a_smaller_batch_writes_only_what_is_missing(
        self,
        generate: Callable[..., tuple[Inputs, ResponsesRecord | None]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As after running out of memory, twice, the second time within the smaller batches."""
        write, sizes, seeds, most = stage.write_responses, [], [], [2, 3]

        def broken(model: object, prompts: list[object], *args: object, **more: object) -> list[list[int]]:
            if most and len(sizes) == sum(most[:1]):
                most[:] = [sum(most), *most[2:]] if len(most) > 1 else []
                raise KeyboardInterrupt
            sizes.append(len(prompts))
            seeds.append(more["seed"])
            return write(model, prompts, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(stage, "write_responses", broken)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "run")
        smaller = "label.responses.batch_size=5"
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "run", smaller)
        inputs, found = generate(tmp_path / "run", smaller)
        assert found is not None and sum(sizes) == found.written
        assert sizes[:2] == [16, 16] and max(sizes[2:]) == 5 and len(set(seeds)) == len(seeds)
        ids = [row.id for row in inputs.splits["train"].rows]
        assert len(set(ids)) == len(ids) == found.written
        # What is finished is not written again for that either.
        calls = len(sizes)
        assert generate(tmp_path / "run", "label.responses.batch_size=3")[1] == found and len(sizes) == calls

    def test_token_ids_are_learnt_as_they_were_drawn(
        self, generate: Callable[[Path], tuple[Inputs, ResponsesRecord | None]], load: Load, tmp_path: Path
    ) -> None:
        inputs, found = generate(tmp_path / "run")
        recipe, _ = load(GENERATED)
        encoded = recipe.task.encode(inputs.splits["train"].rows, inputs.tokenizer, inputs.labels)
        table = pyarrow.parquet.read_table(tmp_path / "run/label/responses/responses.parquet").to_pylist()
        stored = {row["id"]: row for row in table}
        learnt = {each.id: (each.ids[~each.trained], each.ids[each.trained]) for each in encoded.examples}
        assert learnt.keys() == stored.keys()
        for name, (shown, said) in learnt.items():
            np.testing.assert_array_equal(shown, stored[name]["prompt"])
            np.testing.assert_array_equal(said, stored[name]["response"])
        # Random weights write many responses that do not end.
        assert found is not None and 0 < found.cut < found.written
        assert found.cut == sum(row["response"][-1] != 3 for row in table)

    def test_a_file_that_was_changed_is_refused(
        self, generate: Callable[[Path], tuple[Inputs, ResponsesRecord | None]], tmp_path: Path
    ) -> None:
        generate(tmp_path / "run")
        path = tmp_path / "run/label/responses/responses.parquet"
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        path.write_bytes(content)
        with pytest.raises(LabelStoreError, match="changed since it was written"):
            generate(tmp_path / "run")
