"""What tiny language models write, measured by the judge; and one that says one word for ever."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.evaluation.evaluate import evaluate_models
from potstill.measure.writing import repeated_share
from potstill.progress import Progress
from potstill.recipe import GateSettings
from potstill.recipe.yaml_file import load_recipe
from potstill.records import EvaluateRecord, HarnessRecord
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import open_predictor
from potstill.stages.gate import judge
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.commands import ENVIRONMENT, potstill
from tests.conftest import make_chat_project
from tests.unit.test_harness import TASK, write_task
from tests.unit.test_served_judge import says, server

SHORT = ["evaluate.prompts=2", "evaluate.generations=2", "evaluate.written=12", "evaluate.generation_tokens=20"]
STUDENT = ["student.layers=2", "train.epochs=2", "train.baseline=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, chat_teacher_folder: Path) -> Path:
    project = make_chat_project(tmp_path_factory.mktemp("writing"), chat_teacher_folder)
    changes = [part for change in STUDENT for part in ("--set", change)]
    potstill("train", project / "recipe.yaml", "--out", project / "run", *changes)
    return project


def evaluated(project: Path, student: Path, *changes: str) -> EvaluateRecord:
    """The teacher of the run beside a student from a folder."""
    recipe = load_recipe(project / "recipe.yaml", [*STUDENT, *SHORT, *changes])
    inputs = read_inputs(recipe, project)
    untrained = recipe.task.load_model(str(student))
    case = case_of(recipe, inputs, Progress(), untrained=lambda: untrained)
    folders = {"teacher": project / "run/adapt/model", "student": student}
    cpu = torch.device("cpu")
    predictors = {
        name: open_predictor(
            ModelFolder(folder), task=recipe.task, tokenizer=inputs.tokenizer, device=cpu, batch_size=5
        )
        for name, folder in folders.items()
    }
    return evaluate_models(case, predictors, "cpu")


def stuck(project: Path) -> Path:
    """The student with nothing behind its last norm: all tokens are as likely, and the first is said for ever."""
    folder = project / "stuck"
    if not folder.exists():
        shutil.copytree(project / "run/train/student/model", folder)
        model = load_recipe(project / "recipe.yaml").task.load_model(str(folder))
        with torch.no_grad():
            model.model.norm.weight.zero_()
        model.save_pretrained(folder)
    return folder


def test_a_model_that_says_one_word_for_ever_fails_the_gate(trained: Path) -> None:
    found = evaluated(trained, stuck(trained))
    assert found.written_prompts == 12 and len(found.generations) == 2
    teacher, student = (found.models[name].scores for name in ("teacher", "student"))
    # Of twenty tokens there are seventeen runs of four, of which all but the first occurred before.
    assert student["repeated_ngrams"].value == pytest.approx(16 / 17)  # type: ignore[union-attr]
    assert student["distinct_ngrams"] == pytest.approx(1 / (12 * 19))
    assert student["ended"].value == 0 and student["response_tokens"].value == 20  # type: ignore[union-attr]
    # What the teacher has learnt to say is four words and an end.
    assert teacher["repeated_ngrams"].value == 0 and teacher["ended"].value == 1  # type: ignore[union-attr]
    assert teacher["response_tokens"].value == 4  # type: ignore[union-attr]
    assert student["response_length_ratio"].value == 5 and "response_length_ratio" not in teacher  # type: ignore[union-attr]
    verdict = judge(GateSettings(min_retention=None), found)
    assert not verdict.passed
    assert {check.name for check in verdict.checks if not check.passed} == {
        "repetition_over_teacher_points",
        "unended_over_teacher_points",
    }
    said = (
        "the same four words again 94.1 % of the time, its teacher 0.0 % and comes to an end after 0.0 % of the prompts"
    )
    assert said in str(verdict.degenerate)
    assert judge(GateSettings(min_retention=None, allow_degenerate_writing=True), found).passed


def test_a_student_that_writes_as_its_teacher_does_passes(trained: Path) -> None:
    found = evaluated(trained, trained / "run/adapt/model")
    verdict = judge(GateSettings(min_retention=0.5), found)
    assert verdict.passed and verdict.degenerate is None
    assert found.models["student"].scores["repeated_ngrams"] == found.models["teacher"].scores["repeated_ngrams"]
    assert found.models["student"].scores["response_length_ratio"].value == 1  # type: ignore[union-attr]
    # What is shown is the first of what is measured, and is what a model writes one prompt at a time.
    assert [set(each.said) for each in found.generations] == [{"teacher", "student"}] * 2
    assert all(each.said["teacher"] == each.truth for each in found.generations)


def test_answers_are_judged_by_those_of_the_rows(trained: Path) -> None:
    """A student that says one word for ever has none of what its teacher has right."""
    found = evaluated(trained, stuck(trained), "evaluate.judge={kind: exact_match}", "evaluate.generations=12")
    judgement = found.judgement
    assert judgement is not None and (judgement.kind, judgement.prompts) == ("exact_match", 12)
    assert set(judgement.models) == {"teacher", "student"} and len(found.generations) == 12
    right = sum(each.said["teacher"].strip() == each.truth for each in found.generations)
    teacher, student = judgement.models["teacher"], judgement.models["student"]
    assert right > 3 and teacher.judged == student.judged == 12
    assert teacher.accuracy is not None and teacher.accuracy.value == pytest.approx(right / 12)
    assert student.accuracy is not None and student.as_good is not None
    assert student.accuracy.value == student.as_good.value == 0
    assert (student.of, student.losses, student.ties) == (right, right, 12 - right)


@pytest.mark.long
def test_answers_are_judged_by_a_field_of_the_rows(trained: Path, tmp_path: Path) -> None:
    """Which says of each other row that its response is wrong, and of one in three nothing."""
    project = tmp_path / "fields"
    shutil.copytree(trained, project)
    path = project / "data/test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        if number % 3:
            row["result"] = row["messages"][-1]["content"] if number % 2 else "no"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = "evaluate.judge={kind: exact_match, answer: result}"
    found = evaluated(project, project / "run/adapt/model", judge, "evaluate.written=30", "evaluate.generations=30")
    assert found.judgement is not None and len(rows) == found.judgement.prompts == 30
    teacher, student = (found.judgement.models[name] for name in ("teacher", "student"))
    results = {row["id"]: row["result"] for row in rows if "result" in row}
    assert teacher.judged == len(results) == 20 and teacher.not_judged == {"no right answer in the row": 10}
    right = sum(each.said["teacher"].strip() == results.get(each.id) for each in found.generations)
    assert right > 3 and teacher.accuracy is not None and teacher.accuracy.value == pytest.approx(right / 20)
    assert student.as_good is not None and (student.as_good.value, student.of) == (1, right)


@pytest.mark.long
def test_answers_are_compared_by_a_server(trained: Path) -> None:
    """What it is shown is the prompt, and both responses in either order."""

    def answer(body: dict[str, Any]) -> Any:
        first = body["messages"][0]["content"].split("===== answer A =====")[1].split("===== answer B =====")[0]
        return says("[[A]]" if "is the colour" in first else "[[B]]")

    with server(answer) as running:
        judge = f"evaluate.judge={{kind: server, url: '{running.url}', model: m}}"
        found = evaluated(trained, stuck(trained), judge)
    assert found.judgement is not None
    student = found.judgement.models["student"]
    assert (student.judged, student.losses, student.wins, student.ties) == (12, 12, 0, 0)
    assert len(running.asked) == 24
    for sample in found.generations:
        shown = [each["messages"][0]["content"] for each in running.asked]
        assert sum(all(text in each for text in (sample.prompt, *sample.said.values())) for each in shown) >= 2
    same = evaluated(trained, trained / "run/adapt/model", judge)
    assert same.judgement is not None and same.judgement.models["student"].ties == 12


@pytest.mark.long
def test_a_run_is_judged_and_put_to_tasks(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From recipe to report; a task file that changed is asked about again, and costs no other measurement."""
    pytest.importorskip("lm_eval")
    project = tmp_path / "judged"
    shutil.copytree(trained, project)
    write_task(project / "tasks")
    changes = [
        "evaluate.judge={kind: exact_match}",
        "evaluate.harness={tasks: [tasks/colours.yaml], limit: 10}",
        "gate.as_good_as_teacher='>= 0'",
        "gate.min_retention=null",
        "gate.allow_degenerate_writing=true",
        "export=[{kind: safetensors}]",
    ]
    set_ = [part for change in (*STUDENT, *SHORT, *changes) for part in ("--set", change)]
    # Where data sets are kept that were read.
    monkeypatch.setitem(ENVIRONMENT, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    told = potstill("report", project / "recipe.yaml", "--out", project / "run", *set_, check=None)
    assert told.returncode in (0, 3), told.stderr
    assert "Written answers as good as" in told.stdout
    record = EvaluateRecord.model_validate_json((project / "run/evaluate/result.json").read_text())
    assert record.judgement is not None and set(record.judgement.models) == {"teacher", "student"}
    harness = HarnessRecord.model_validate_json((project / "run/harness/result.json").read_text())
    assert harness.limit == 10
    assert [(each.task, set(each.models)) for each in harness.scores] == [("colours", {"teacher", "student"})]
    checks = json.loads((project / "run/gate/result.json").read_text())["checks"]
    assert "as_good_as_teacher" in {each["name"] for each in checks}
    page = (project / "run/report/report.html").read_text()
    assert "Tasks of lm-evaluation-harness" in page and "As good as the teacher in what it writes" in page
    results = [project / f"run/{stage}/result.json" for stage in ("evaluate", "harness")]
    first, asked = (path.read_bytes() for path in results)
    again = [*set_, "--set", "evaluate.harness.batch_size=3"]
    potstill("evaluate", project / "recipe.yaml", "--out", project / "run", *again)
    assert [path.read_bytes() for path in results] == [first, asked]
    write_task(project / "tasks", TASK + "description: 'the '\n")
    potstill("evaluate", project / "recipe.yaml", "--out", project / "run", *set_)
    assert results[0].read_bytes() == first and results[1].read_bytes() != asked
    # One that cannot be run ends it, and takes nothing away.
    write_task(project / "tasks", TASK.replace("test_split: test", "test_split: none"))
    told = potstill("evaluate", project / "recipe.yaml", "--out", project / "run", *set_, check=None)
    assert told.returncode != 0 and "could not be put to its tasks" in told.stderr
    assert results[0].read_bytes() == first


@pytest.mark.long
def test_nothing_is_measured_where_nothing_is_written(trained: Path) -> None:
    found = evaluated(trained, stuck(trained), "evaluate.written=0")
    assert found.written_prompts is None and len(found.generations) == 2
    assert "repeated_ngrams" not in found.models["student"].scores
    assert judge(GateSettings(min_retention=None), found).passed
    few = evaluated(trained, stuck(trained), "evaluate.written=3", "evaluate.generations=0")
    assert (few.written_prompts, few.generations) == (3, [])
    assert not judge(GateSettings(min_retention=None), few).passed


@pytest.mark.long
def test_plain_texts_are_gone_on_with(trained: Path, tmp_path: Path) -> None:
    project = tmp_path / "texts"
    shutil.copytree(trained, project)
    words = [f"w{number}" for number in range(1, 30)]
    rows = [{"id": f"{n}", "text": " ".join(words[n : n + 22])} for n in range(7)]
    (project / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluated(project, stuck(trained))
    assert found.written_prompts == 7
    assert found.models["student"].scores["repeated_ngrams"].value == pytest.approx(16 / 17)  # type: ignore[union-attr]
    for sample in found.generations:
        whole = next(row["text"] for row in rows if row["id"] == sample.id)
        assert len(sample.prompt.split()) == 16 and f"{sample.prompt} {sample.truth}" == whole
    said = [each.said["teacher"].split() for each in found.generations]
    assert all(0 <= repeated_share(each) < 16 / 17 for each in said)
