"""Task files of lm-evaluation-harness: they run nothing unasked, and what they read is known by its content."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.evaluation import harness_data, harness_names
from potstill.evaluation import harness_tasks as tasks_module
from potstill.evaluation.harness_tasks import HarnessTask, harness_tasks, task_given
from potstill.recipe.harness_settings import HarnessSettings
from potstill.recipe.yaml_file import load_recipe
from potstill.stages.inputs import read_inputs
from tests.conftest import make_chat_project
from tests.unit.test_harness import TASK, write_task

pytest.importorskip("lm_eval")

BOMB = "a0: &a0 [1, 2]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)) + TASK
"""A kilobyte that would be a terabyte."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TASK + "process_docs: !function evil.run\n", "has !function, which runs Python"),
        (TASK + "x: !!python/object/apply:os.system ['true']\n", "which runs Python"),
        (TASK + "class: evil.Task\n", "has class, which runs Python"),
        (TASK + "custom_dataset: evil\n", "has custom_dataset, which runs Python"),
        (TASK + "use_prompt: evil.yaml:x\n", "has use_prompt, which runs Python"),
        (TASK.replace("metric: acc", "metric: ./evil.py"), "the metric './evil.py', which is a script of a hub"),
        (TASK.replace("metric: acc", "metric: acc, hf_evaluate: true"), "the metric 'acc', which is a script of a hub"),
        (TASK.replace("path: json", "path: pandas"), "has dataset_path: pandas, which runs Python"),
        (TASK.replace("metric: acc", "metric: [acc]"), "has a metric without a name: ['acc']"),
        (TASK.replace("metric: acc", "metric: null"), "has a metric without a name: None"),
        (TASK + "doc_to_text: x\n", "gives 'doc_to_text' twice"),
        (TASK.replace("metric: acc", "metric: acc, metric: f1"), "gives 'metric' twice"),
        (BOMB, "has more than 10,000 values (aliases that expand?)"),
        (BOMB.replace("[", "{<<: [").replace("]", "]}"), "has more than 10,000 values (aliases that expand?)"),
        ("x: &a [*a]\n" + TASK, "has more than 10,000 values (aliases that expand?)"),
        ("? [1]\n: 2\n" + TASK, "is no YAML"),
        (f"include: [{', '.join(['other.yaml'] * 101)}]\n" + TASK, "is made of more than 100 files"),
        ("include: evil.yaml\n" + TASK, "has !function, which runs Python"),
        ("include: colours.yaml\n" + TASK, "includes itself"),
        ("include: none.yaml\n" + TASK, "none.yaml cannot be read (No such file"),
        ("[1, 2", "is no YAML"),
        ("[1, 2]", "is no task file"),
        ("group: all\ntask: [colours]\n", "has no task: NAME"),
        ("a: " + "b" * 2**20, "has more than 1 MiB"),
    ],
)
def test_files_that_would_run_python_are_refused(tmp_path: Path, text: str, told: str) -> None:
    write_task(tmp_path, text)
    (tmp_path / "evil.yaml").write_text("process_docs: !function evil.run\n")
    (tmp_path / "other.yaml").write_text("description: x\n")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(RecipeError, match=r"^evaluate.harness.tasks\[0\]: ") as error:
        harness_tasks(HarnessSettings(tasks=("colours.yaml",)), tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert ("evaluate.harness.trust_remote_code: true" in str(error.value)) is (
        "runs Python" in told or "script" in told
    )
    assert not (tmp_path / "ran").exists()


def test_included_files_come_first_and_data_lie_beside_their_file(tmp_path: Path) -> None:
    write_task(tmp_path / "inner", TASK.replace("right", "other"))
    write_task(tmp_path, "include: inner/colours.yaml\ntask: mine\ndoc_to_target: right\n")
    settings = HarnessSettings(tasks=("colours.yaml",))
    (mine,), known = harness_tasks(settings, tmp_path), HarnessTask("hellaswag")
    given = task_given(mine, trusted=False)
    assert isinstance(given, dict) and (given["task"], given["doc_to_target"]) == ("mine", "right")
    assert given["dataset_kwargs"] == {"data_files": {"test": [str(tmp_path / "inner/documents.jsonl")]}}
    assert "include" not in given and (task_given(known, trusted=False), known.digest) == ("hellaswag", "")


def test_another_file_is_another_task(tmp_path: Path) -> None:
    settings = HarnessSettings(tasks=("colours.yaml",))

    def digest() -> str:
        return harness_tasks(settings, tmp_path)[0].digest

    write_task(tmp_path)
    first = digest()
    assert digest() == first
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write("\n")
    second = digest()
    write_task(tmp_path, TASK + "description: x\n")
    assert len({first, second, digest()}) == 3


def test_the_package_and_the_files_are_asked_for_before_training(
    tmp_path: Path, chat_teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_chat_project(tmp_path, chat_teacher_folder)
    recipe = load_recipe(project / "recipe.yaml", ["evaluate.harness={tasks: [tasks/colours.yaml]}"])
    with pytest.raises(RecipeError, match=r"colours\.yaml cannot be read"):
        read_inputs(recipe, project)
    write_task(project / "tasks")
    assert [task.name for task in read_inputs(recipe, project).harness] == ["colours"]
    monkeypatch.setattr(tasks_module, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'potstill\[harness\]'"):
        read_inputs(recipe, project)
    assert read_inputs(load_recipe(project / "recipe.yaml"), project).harness == ()


def test_names_that_the_package_does_not_know_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    class Known:
        all_tasks = ("hellaswag", "arc_easy")

    monkeypatch.setattr(tasks, "TaskManager", Known)
    assert [each.name for each in harness_tasks(HarnessSettings(tasks=("arc_easy",)), tmp_path)] == ["arc_easy"]
    told = "evaluate.harness.tasks[1]: lm-evaluation-harness has no task 'helaswag'. Did you mean hellaswag?"
    with pytest.raises(RecipeError, match=re.escape(told)):
        harness_tasks(HarnessSettings(tasks=("arc_easy", "helaswag")), tmp_path)


def given(folder: Path, text: str, **settings: Any) -> dict[str, Any]:
    """What the harness is given of a task."""
    write_task(folder, text)
    found = HarnessSettings(tasks=("colours.yaml",), **settings)
    (task,) = harness_tasks(found, folder)
    config = task_given(task, trusted=found.trust_remote_code)
    assert isinstance(config, dict)
    return config


def read(config: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows that `datasets` reads for it, and so the harness."""
    import datasets

    found = datasets.load_dataset(config["dataset_path"], **config["dataset_kwargs"])
    return {name: [dict(row) for row in rows] for name, rows in found.items()}


def digest(folder: Path, **settings: Any) -> str:
    return harness_tasks(HarnessSettings(tasks=("colours.yaml",), **settings), folder)[0].digest


DATA = "dataset_kwargs: {data_files: {test: documents.jsonl}}"


@pytest.mark.parametrize(
    ("data", "files"),
    [
        (DATA, {"test": ["documents.jsonl"]}),
        ("dataset_kwargs: {data_files: documents.jsonl}", {"train": ["documents.jsonl"]}),
        ("dataset_kwargs: {data_files: {test: [more/b.jsonl, documents.jsonl]}}", None),
        ("dataset_kwargs: {data_files: [{split: test, path: more/b.jsonl}]}", {"test": ["more/b.jsonl"]}),
        ("dataset_kwargs: {data_files: {test: ['*.csv', more/b.jsonl]}}", {"test": ["more/b.jsonl"]}),
        ("dataset_kwargs: {data_files: {test: 'more/*.jsonl'}}", {"test": ["more/a[1].jsonl", "more/b.jsonl"]}),
        ("dataset_kwargs: {data_files: {test: '**/b.jsonl'}}", {"test": ["more/b.jsonl"]}),
        ("dataset_kwargs: {data_files: {test: more/../documents.jsonl}}", {"test": ["documents.jsonl"]}),
        ("dataset_kwargs: {data_dir: more, data_files: {test: b.jsonl}}", {"test": ["more/b.jsonl"]}),
        ("dataset_kwargs: {data_dir: split}", {"train": ["split/train.jsonl"], "test": ["split/test.jsonl"]}),
    ],
)
def test_data_are_seen_from_their_file_and_known_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, files: dict[str, list[str]] | None
) -> None:
    """In a folder whose name is a pattern, and wherever the run is started."""
    files = files or {"test": ["more/b.jsonl", "documents.jsonl"]}
    folder, elsewhere = tmp_path / "[tasks]", tmp_path / "elsewhere"
    for name in ("more/a[1].jsonl", "more/b.jsonl", "split/train.jsonl", "split/test.jsonl"):
        for root, text in ((folder, name), (elsewhere, "decoy")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(json.dumps({"name": text}) + "\n")
    (elsewhere / "documents.jsonl").write_text('{"name": "decoy"}\n')
    monkeypatch.chdir(elsewhere)
    config = given(folder, TASK.replace(DATA, data))
    assert set(config["dataset_kwargs"]) == {"data_files"}, "a folder would be seen from where the run is started"
    (folder / "documents.jsonl").write_text('{"name": "documents.jsonl"}\n')
    assert read(config) == {split: [{"name": name} for name in names] for split, names in files.items()}
    before, name = digest(folder), next(iter(files.values()))[-1]
    (elsewhere / name).write_text('{"name": "another decoy"}\n')
    assert digest(folder) == before
    (folder / name).write_text('{"name": "another"}\n')
    assert digest(folder) != before


def test_which_split_a_file_is_of_is_known(tmp_path: Path) -> None:
    write_task(tmp_path, TASK.replace(DATA, "dataset_kwargs: {data_dir: split}"))
    (tmp_path / "split").mkdir()
    (tmp_path / "split/test.jsonl").write_text("{}\n")
    before = digest(tmp_path)
    (tmp_path / "split/test.jsonl").rename(tmp_path / "split/train.jsonl")
    assert digest(tmp_path) != before


@pytest.mark.parametrize("trusted", [False, True])
def test_data_are_seen_from_the_file_that_names_them(tmp_path: Path, trusted: bool) -> None:
    """Whichever file says how they are read."""
    write_task(tmp_path / "inner", "dataset_path: json\n")
    (tmp_path / "inner/documents.jsonl").write_text("{}\n")
    outer = given(tmp_path, "include: inner/colours.yaml\n" + TASK.replace("dataset_path: json\n", ""))
    assert outer["dataset_kwargs"] == {"data_files": {"test": [str(tmp_path / "documents.jsonl")]}}
    write_task(tmp_path / "inner", TASK.replace("dataset_path: json\n", ""))
    inner = given(tmp_path, "include: inner/colours.yaml\ntask: mine\ndataset_path: json\n", trust_remote_code=trusted)
    assert inner["dataset_kwargs"] == {"data_files": {"test": [str(tmp_path / "inner/documents.jsonl")]}}
    assert (inner["task"], inner["dataset_path"], "include" in inner) == ("mine", "json", False)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("dataset_kwargs: {data_files: {test: none.jsonl}}", "names data that are not there: {'test': 'none.jsonl'}"),
        ("dataset_kwargs: {data_files: {test: '*.csv'}}", "names data that are not there"),
        ("dataset_kwargs: {data_files: {test: [none.jsonl, documents.jsonl]}}", "names data that are not there"),
        ("dataset_kwargs: {data_files: {test: documents.jsonl, train: '*.csv'}}", "names data that are not there"),
        ("dataset_kwargs: {data_dir: none}", "names data that are not there: 'none'"),
        ("dataset_kwargs: {data_files: {test: 'zip://a.jsonl::a.zip'}}", "which can change unnoticed"),
        ("dataset_kwargs: {data_files: {test: 'file:///a.jsonl'}}", "which can change unnoticed"),
        ("dataset_kwargs: {data_files: 7}", "has data_files that are no paths"),
        ("dataset_kwargs: {data_files: [{split: test}]}", "has data_files that are no paths"),
        ("dataset_kwargs: {keep_in_memory: true}", "names no data"),
        ("dataset_kwargs: [1]", "names no data"),
        ("description: x", "names no data"),
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_data_that_are_not_there_are_told_before_training(tmp_path: Path, data: str, told: str, trusted: bool) -> None:
    write_task(tmp_path, TASK.replace(DATA, data))
    with pytest.raises(RecipeError, match=r"^evaluate.harness.tasks\[0\]: .*colours\.yaml ") as error:
        digest(tmp_path, trust_remote_code=trusted)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["imagefolder", "webdataset", "./data", "/data", "~/data", "data", "in_the_way"])
def test_readers_and_folders_that_are_not_told_apart_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "tasks/data").mkdir(parents=True)
    (tmp_path / "in_the_way").mkdir()
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "tasks", TASK.replace("dataset_path: json", f"dataset_path: {path}"))
    with pytest.raises(RecipeError, match=f"has dataset_path: {re.escape(path)}.* one of json, csv"):
        digest(tmp_path / "tasks")


def test_data_that_may_not_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    write_task(tmp_path)
    monkeypatch.setattr(harness_data, "file_digest", forbidden)
    with pytest.raises(RecipeError, match=r"tasks\[0\]: .*documents\.jsonl cannot be read \(Permission denied\)\.$"):
        digest(tmp_path)


def test_data_of_a_hub_are_left_to_it(tmp_path: Path) -> None:
    for path, data in (("openai/gsm8k", "dataset_kwargs: {data_files: {test: main/*.parquet}}"), ("squad", "")):
        config = given(tmp_path, TASK.replace("dataset_path: json", f"dataset_path: {path}").replace(DATA, data))
        assert config.get("dataset_kwargs", {}) == ({"data_files": {"test": "main/*.parquet"}} if data else {})
    far = "https://host/a.jsonl"
    config = given(tmp_path, TASK.replace("documents.jsonl", far))
    assert config["dataset_kwargs"] == {"data_files": {"test": [far]}}


def test_functions_that_changed_are_another_task(tmp_path: Path) -> None:
    trusted = {"trust_remote_code": True}
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/few.py").write_text("def first(docs):\n    return docs\n")
    (tmp_path / "inner/base.yaml").write_text("process_docs: !function few.first\n")
    write_task(
        tmp_path,
        "include: inner/base.yaml\n" + TASK + "doc_to_text: !function json.dumps\n".replace("doc_to_text", "x"),
    )
    before = digest(tmp_path, **trusted)
    assert digest(tmp_path, **trusted) == before
    (tmp_path / "few.py").write_text("decoy = 1\n")
    assert digest(tmp_path, **trusted) == before
    (tmp_path / "inner/few.py").write_text("def first(docs):\n    return docs.select([0])\n")
    assert digest(tmp_path, **trusted) != before
    for name in ("nowhere.first", "first", ".first.first"):
        write_task(tmp_path, TASK + f"process_docs: !function {name}\n")
        with pytest.raises(RecipeError, match=f"!function {name}, whose module neither lies beside it nor"):
            digest(tmp_path, **trusted)


def test_what_functions_import_from_beside_them_is_theirs(tmp_path: Path) -> None:
    """However it is imported, and on from there; what Python would find elsewhere is not."""
    trusted = {"trust_remote_code": True}
    task = tmp_path / "task"
    write_task(task, TASK + "process_docs: !function few.first\nx: !function deep.more.second\n")
    (task / "deep/inner").mkdir(parents=True)
    files = {
        "few.py": "import one\nimport deep.inner.two as t\ndef first(x):\n    from three import y\n    return x\n",
        "one.py": "import few\nfrom four import *\n",
        "deep/__init__.py": "from . import five\n",
        "deep/five.py": "",
        "deep/inner/__init__.py": "",
        "deep/inner/two.py": "from ..six import name\nfrom ....seven import name\n",
        "deep/six.py": "",
        "deep/more.py": "import eight\ndef second(doc):\n    return doc\n",
        "deep/eight.py": "",
        "three.py": "if False:\n    import nine\n",
        "four.py": "",
        "nine/__init__.py": "from nine.ten import eleven\n",
        "nine/ten/eleven.py": "",
    }
    unread = {
        "five.py": "", "deep/few.py": "", "twelve.py": "", "json/more.py": "", "nine/ten/twelve.py": "",
        "../seven.py": "", "../one.py": "", "documents.py": "",
    }  # fmt: skip
    (task / "nine/ten").mkdir(parents=True)
    (task / "json").mkdir()
    for name, text in (files | unread).items():
        (task / name).write_text(text)
    before = digest(task, **trusted)
    for name, text in (files | unread).items():
        (task / name).write_text(text + "# changed\n")
        assert (digest(task, **trusted) == before) is (name in unread), name
        (task / name).write_text(text)
    assert digest(task, **trusted) == before
    (task / "four.py").write_text("def broken(:\n")
    with pytest.raises(RecipeError, match=r"tasks\[0\]: .*four\.py is no Python \(.*line 1\)\)\. Mend it\.") as error:
        digest(task, **trusted)
    assert "\n" not in str(error.value)


def test_names_are_found_without_an_index_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tasks, groups and tags, as its own index has them; what a file inherits is asked of that."""
    from lm_eval import tasks
    from lm_eval.tasks._index import TaskIndex

    package = tmp_path / "lm_eval"
    (package / "tasks/deep").mkdir(parents=True)
    for name, text in {
        "one.yaml": "task: one\ntag: [few, many]\nprocess_docs: !function some.where\n",
        "deep/two.yaml": "task: two\ntag: pair\n",
        "three.yaml": "group: three\ntask: [one, {task: four, group: five}]\n",
        "base.yaml": "tag: inherited\ndescription: six seven\n",
        "six.yaml": "include: base.yaml\ntask: six\n",
        "broken.yaml": "task: [seven\n",
        "list.yaml": "[seven]\n",
        "empty.yaml": "description: seven\n",
        "other.yml": "task: seven\n",
    }.items():
        (package / "tasks" / name).write_text(text)
    index = TaskIndex.build([package / "tasks"])
    monkeypatch.setattr(harness_names, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[package]))
    monkeypatch.setattr(tasks, "TaskManager", lambda: pytest.fail("the whole index was asked for"))
    known = ["one", "two", "three", "few", "many", "pair", "six"]
    assert sorted([*known, "inherited"]) == sorted(index)
    harness_names.require_known(dict.fromkeys(known, "key"))
    asked: list[str] = []
    monkeypatch.setattr(tasks, "TaskManager", lambda: asked.append("index") or SimpleNamespace(all_tasks=sorted(index)))
    harness_names.require_known({"inherited": "key", "one": "other"})
    for name in ("four", "five", "seven", "on", "one.yaml", "some.where"):
        with pytest.raises(RecipeError, match=f"^key: lm-evaluation-harness has no task {name!r}"):
            harness_names.require_known({"one": "other", name: "key"})
    assert len(asked) == 7


def test_tasks_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    class Known:
        all_tasks = ("hellaswag",)

    monkeypatch.setattr(tasks, "TaskManager", Known)
    write_task(tmp_path, TASK, "a.yaml")
    write_task(tmp_path, TASK + "description: x\n", "b.yaml")
    write_task(tmp_path, TASK.replace("task: colours", "task: hellaswag"), "c.yaml")
    assert len(harness_tasks(HarnessSettings(tasks=("a.yaml", "c.yaml")), tmp_path)) == 2
    told = (
        "evaluate.harness.tasks[1]: is called 'colours', as evaluate.harness.tasks[0] is. Give one another task: NAME."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(told)}$"):
        harness_tasks(HarnessSettings(tasks=("a.yaml", "b.yaml")), tmp_path)
    with pytest.raises(RecipeError, match=r"tasks\[1\]: is called 'hellaswag'"):
        harness_tasks(HarnessSettings(tasks=("c.yaml", "hellaswag")), tmp_path)
