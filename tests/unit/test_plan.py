"""What the plan says before any work: doubts about the student, what is asked of its teachers, and who cannot teach."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaForCausalLM

from potstill.errors import DataError, ModelError, RecipeError
from potstill.presentation.terminal import plan_lines
from potstill.recipe.yaml_file import load_recipe
from potstill.records import PlanRecord
from potstill.stages.inputs import read_inputs
from potstill.stages.plan import make_plan
from tests.commands import potstill
from tests.conftest import CLASSES
from tests.pair_models import SIZES, make_pair_project, make_pair_teacher

HARD = "losses=[{kind: hard_labels, weight: 1}]"
HIDDEN = "losses=[{kind: hard_labels, weight: 1}, {kind: hidden_states}]"


def planned(project: Path, *changes: str) -> PlanRecord:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return make_plan(recipe, read_inputs(recipe, project), project / "run")


def doubts(project: Path, *changes: str) -> list[str]:
    return [warning for warning in planned(project, *changes).warnings if "expect it to lose more" in warning]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ("layers: 1, width: 32", []),  # a quarter of 4 layers
        ("layers: 2, width: 16", []),
        ("layers: 2, width: 8", ["under a third of its width", "of its parameters without embeddings"]),
        ("layers: 1, width: 24, intermediate: 1", []),
    ],
)
def test_where_a_student_may_be_too_small_is_said_with_what_helps(project: Path, sizes: str, said: list[str]) -> None:
    found = doubts(project, f"student={{kind: shrunk, {sizes}}}")
    assert len(found) == bool(said)
    for part in [*said, "More steps", "teacher assistant", "teacher.kind: checkpoint"] if said else []:
        assert part in found[0]


def test_depth_under_a_quarter_and_few_parameters_are_doubted(tmp_path: Path, project: Path) -> None:
    deep = tmp_path / "deep"
    shutil.copytree(load_recipe(project / "recipe.yaml", []).lead.model, deep)
    config = BertConfig.from_pretrained(deep)
    config.num_hidden_layers = 24
    BertForSequenceClassification(config).save_pretrained(deep)
    (doubt,) = doubts(project, f"teacher.model={deep}", "student.layers=5", "student.width=32")
    assert "under a quarter of its depth" in doubt and "width" not in doubt and "parameters" not in doubt
    (doubt,) = doubts(project, f"teacher.model={deep}", "student={kind: shrunk, layers: 6, width: 16, intermediate: 1}")
    assert "% of its parameters without embeddings" in doubt and "depth" not in doubt


@pytest.mark.parametrize(
    ("losses", "changes", "signals"),
    [
        (HARD, [], []),
        (HIDDEN, [], [("hidden_states", "online", False)]),
        (HIDDEN, ["label.features=stored"], [("hidden_states", "stored", True)]),
        ("losses=[{kind: soft_targets, weight: 1}]", [], [("logits", "stored", True)]),
        ("losses=[{kind: soft_targets, weight: 1}]", ["label.mode=online"], [("logits", "online", False)]),
    ],
)
def test_what_is_asked_of_the_teacher_follows_from_the_losses(
    project: Path, losses: str, changes: list[str], signals: list[tuple[str, str, bool]]
) -> None:
    plan = planned(project, losses, *changes)
    assert [(each.name, each.source, each.size_bytes > 0) for each in plan.signals] == signals
    assert (plan.label_store_bytes > 0) == any(takes for *_, takes in signals)


@pytest.mark.parametrize(
    ("losses", "said"),
    [(HIDDEN, "cannot name them: beast"), ("losses=[{kind: soft_targets}]", "from the teacher alone: beast")],
)
def test_a_class_without_a_labelled_row_is_learnt_from_the_teachers_answers_or_not_at_all(
    project: Path, losses: str, said: str
) -> None:
    path = project / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {"label": None if row["label"] == "beast" else row["label"]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert any(said in warning for warning in planned(project, losses).warnings)


def test_too_few_classes_for_copies_with_another_label_are_told_as_such(project: Path) -> None:
    rows = [{"text": f"w{number} w1", "label": label} for label in ("beast", "metal") for number in range(5)]
    (project / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"1 class .*\. 5 rows were left out, since they copy a row with another label"):
        planned(project, "adapt=null", "data.adapt=null")


def test_many_copies_and_copies_with_another_label_are_warned_of_with_examples(project: Path) -> None:
    path = project / "data/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert not any("copies" in warning for warning in planned(project).warnings)
    other = next(row["label"] for row in rows if row["label"] != rows[0]["label"])
    again = [rows[0] | {"id": "again", "label": other}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + again))
    plan = planned(project)
    (warning,) = (warning for warning in plan.warnings if "copies" in warning)
    assert (
        warning.startswith("train: 1 of the copies") and f'again of {rows[0]["id"]} ("{rows[0]["text"][:20]}' in warning
    )
    assert plan.splits["train"].other_label_dropped == plan.splits["train"].duplicates_dropped == 1
    assert "1 duplicates (1 of them labelled otherwise)" in "\n".join(plan_lines(plan))

    again = [row | {"id": f"again-{number}"} for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows + again))
    (warning,) = (warning for warning in planned(project).warnings if "copies" in warning)
    assert f"train: {len(rows)} of {2 * len(rows)} rows (50%) are left out" in warning
    assert f"again-2 of {rows[2]['id']}" in warning and "again-3" not in warning


def test_of_several_teachers_each_stores_distributions_and_the_lead_its_features(project: Path) -> None:
    both = "losses=[{kind: soft_targets, weight: 1}, {kind: hidden_states}]"
    model = load_recipe(project / "recipe.yaml", []).lead.model
    several = f"teacher={{kind: mixture, of: {{a: {{model: '{model}'}}, b: {{model: '{model}'}}}}}}"
    plan = planned(project, both, "label.features=stored", several)
    sizes = {each.name: each.size_bytes for each in plan.signals}
    assert plan.label_store_bytes == 2 * sizes["logits"] + sizes["hidden_states"]


def test_a_run_whose_losses_read_no_distributions_stores_none(project: Path) -> None:
    changes = ["--set", HIDDEN, "--set", "adapt.epochs=1", "--set", "train.epochs=1", "--set", "evaluate.floor=false"]
    changes += ["--set", "gate.allow_weak_teacher=true"]
    potstill("run", project / "recipe.yaml", "--out", project / "run", *changes)
    assert not list((project / "run/label").rglob("*.safetensors"))
    assert "No loss reads the teacher's distributions" in (project / "run/report/report.html").read_text()
    steps = [json.loads(line) for line in (project / "run/train/student/metrics.jsonl").read_text().splitlines()]
    first = next(line for line in steps if line["kind"] == "step")
    assert {key.removesuffix(".weight") for key in first if key.endswith(".weight")} == {"hard_labels", "hidden_states"}


def with_positions(folder: Path, teacher: Path, most: int) -> Path:
    """A copy of a teacher that was made for texts of so many tokens."""
    shutil.copytree(teacher, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"max_position_embeddings": most}))
    return folder


def test_examples_longer_than_a_teacher_of_computed_positions_was_made_for_are_told(
    chat_project: Path, chat_teacher_folder: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(chat_project / "recipe.yaml", [])
    rows: Any = recipe.task.encode(
        read_inputs(recipe, chat_project).splits["train"].rows, AutoTokenizer.from_pretrained(chat_teacher_folder), []
    )
    longest = int(rows.examples.lengths.max())
    assert max(rows.lengths) > longest, "rows are packed"

    def told(most: int) -> list[str]:
        teacher = with_positions(tmp_path / f"made-for-{most}", chat_teacher_folder, most)
        return [each for each in planned(chat_project, f"teacher.model={teacher}").warnings if "was made" in each]

    assert not told(longest)
    (train,) = [each for each in told(longest - 1) if each.startswith("train: ")]
    count = (rows.examples.lengths == longest).sum()
    assert (
        f"{count} examples are longer (up to {longest} tokens) than the {longest - 1} positions for which teacher"
        in train
    )
    assert f"Set task.max_length to {longest - 1}." in train


def test_sources_and_targets_are_not_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "bart", SIZES["bart"] | {"max_position_embeddings": 16})
    project = make_pair_project(tmp_path, make_pair_teacher(tmp_path / "bart", "bart"))
    recipe = load_recipe(project / "recipe.yaml", ["task.max_length=16"])
    inputs = read_inputs(recipe, project)
    rows: Any = inputs.encoded(recipe, inputs.splits["train"].rows)
    assert rows.examples.lengths.max() > 16
    assert not [each for each in make_plan(recipe, inputs, project / "run").warnings if "was made" in each]


def test_of_several_teachers_each_is_told_that_was_made_for_shorter_examples(
    chat_project: Path, chat_teacher_folder: Path, tmp_path: Path
) -> None:
    short = with_positions(tmp_path / "short", chat_teacher_folder, 10)
    several = f"teacher={{kind: mixture, of: {{a: {{model: '{chat_teacher_folder}'}}, b: {{model: '{short}'}}}}}}"
    told = [each for each in planned(chat_project, several).warnings if "was made" in each]
    assert len(told) == 4 and all("for which teacher.of.b was made" in each for each in told)


class TestSeveralTeachers:
    """Teachers whose answers could not be mixed are refused before any of them is asked."""

    def refusal(self, project: Path, other: Path, *changes: str) -> str:
        model = load_recipe(project / "recipe.yaml", []).lead.model
        several = f"teacher={{kind: mixture, of: {{a: {{model: '{model}'}}, b: {{model: '{other}'}}}}}}"
        with pytest.raises(ModelError) as caught:
            planned(project, several, *changes)
        return str(caught.value)

    def test_that_read_other_tokens(self, project: Path, spelling_teacher_folder: Path) -> None:
        said = self.refusal(project, spelling_teacher_folder)
        assert "teacher.of.b: its tokenizer is not that of a" in said

    def test_that_have_other_classes(self, project: Path, tmp_path: Path) -> None:
        first, other = tmp_path / "first", tmp_path / "other"
        for folder, names in ((first, sorted(CLASSES)), (other, ["x", *sorted(CLASSES)[1:]])):
            shutil.copytree(load_recipe(project / "recipe.yaml", []).lead.model, folder)
            config = BertConfig.from_pretrained(folder)
            config.id2label, config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
            BertForSequenceClassification(config).save_pretrained(folder)
        recipe = project / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(str(load_recipe(recipe, []).lead.model), str(first)))
        assert "only in the head: ['x']" in self.refusal(project, other, "adapt=null")

    def test_that_have_other_numbers_of_embeddings(
        self, chat_project: Path, chat_teacher_folder: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "padded"
        model: Any = LlamaForCausalLM.from_pretrained(chat_teacher_folder)
        model.resize_token_embeddings(model.config.vocab_size + 3)
        model.save_pretrained(other)
        AutoTokenizer.from_pretrained(chat_teacher_folder).save_pretrained(other)
        said = self.refusal(chat_project, other)
        assert "rows of embeddings" in said and "though their tokenizers are equal" in said


def test_a_teacher_within_the_run_directory_is_refused_and_keeps_its_weights(
    project: Path, teacher_folder: Path
) -> None:
    """Training would put the student in its place."""
    teacher = project / "run/train/student/model"
    shutil.copytree(teacher_folder, teacher)
    (project / "run/lock").touch()  # as of an earlier run
    before = (teacher / "model.safetensors").read_bytes()
    changes = ["--set", f"teacher.model={teacher}"]
    refused = potstill("run", project / "recipe.yaml", "--out", project / "run", *changes, check=1)
    assert "lies in the run directory" in refused.stderr and "--out another folder" in refused.stderr
    assert (teacher / "model.safetensors").read_bytes() == before


def test_the_disk_that_checkpoints_take_is_that_of_the_moments_they_hold(project: Path) -> None:
    plain = planned(project)
    copies = 2 + 1 + 1
    for states, held in (("bfloat16", 4.0), ("8bit", 2 + 8 / 256)):
        narrow = planned(project, f"train.optimizer={{states: {states}}}")
        # In 8 bits, but for embeddings.
        narrowed = plain.student.parameters - (plain.student.embedding_parameters if states == "8bit" else 0)
        assert plain.disk_bytes - narrow.disk_bytes == pytest.approx(copies * (8 - held) * narrowed, abs=copies)
    adapted = planned(project, "adapt.optimizer={states: bfloat16}")
    assert plain.disk_bytes - adapted.disk_bytes == copies * 4 * plain.teacher.parameters


def test_a_store_that_does_not_fit_on_the_disk_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.stages.plan.shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(RecipeError, match=r"writes up to .* MB and 0\.0 MB are free"):
        planned(project)
