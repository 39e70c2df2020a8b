"""What a teacher's config.json says of its head: the order of its classes, their names, and the form of its answers."""

import json
import re
from pathlib import Path

import pytest

from potstill.errors import ModelError
from potstill.stages.heads import heads_told
from tests import bad_models as bad
from tests.conftest import make_project
from tests.unit.test_head_classes import NAMES, ORDERED, WITHOUT_ADAPT, read, with_head, with_lists_of_labels


def test_two_orders_of_the_classes_are_refused(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", ORDERED)
    bad.with_config(label2id={"metal": 1, "beast": 0, "fruit": 2})(folder)
    for changes in ([], WITHOUT_ADAPT):
        with pytest.raises(ModelError) as refused:
            read(project, folder, *changes)
        for part in ("0: metal, 1: beast, 2: fruit, and label2id 1: metal, 0: beast, 2: fruit", "teacher.classes: {"):
            assert part in str(refused.value)
        # As the message says it for label2id: the head's first output is the beast.
        (advice,) = re.findall(r"(\{[^}]*\}) if label2id is", str(refused.value))
        assert read(project, folder, f"teacher.classes={advice}", *changes)[1].labels == ["beast", "metal", "fruit"]
        itself = json.dumps({name: name for name in ORDERED})
        assert read(project, folder, f"teacher.classes={itself}", *changes)[1].labels == ORDERED
    # Numbers as text, and names that nobody gave, are no second order.
    for numbers in ({name: str(number) for number, name in enumerate(ORDERED)}, {"LABEL_0": 2, "LABEL_1": 0}):
        bad.with_config(label2id=numbers)(folder)
        assert read(project, folder)[1].labels == ORDERED
    # A head that is replaced has none.
    bad.with_config(id2label={"0": "x", "1": "y", "2": "z"}, label2id={"x": 1, "y": 0, "z": 2})(folder)
    assert read(project, folder)[1].labels == NAMES


def test_names_that_label2id_alone_has(tmp_path: Path, project: Path, teacher_folder: Path) -> None:
    folder = with_head(teacher_folder, tmp_path / "head", ORDERED)
    text = json.loads((folder / "config.json").read_text())
    del text["id2label"]
    (folder / "config.json").write_text(json.dumps(text))
    recipe, inputs = read(project, folder, *WITHOUT_ADAPT)
    assert inputs.labels == ORDERED
    assert list(recipe.task.load_model(str(folder)).config.id2label.values()) == ORDERED


@pytest.mark.parametrize(
    ("form", "adapt", "told"),
    [(None, False, True), ("multi_label_classification", False, False), (None, True, False)],
)
def test_outputs_that_may_not_be_several_labels(
    form: str | None, adapt: bool, told: bool, tmp_path: Path, teacher_folder: Path
) -> None:
    project = make_project(tmp_path, teacher_folder)
    with_lists_of_labels(project)
    folder = with_head(teacher_folder, tmp_path / "head", ORDERED, problem_type=form)
    changes = ["task.problem_type=multi_label_classification", *([] if adapt else WITHOUT_ADAPT)]
    found = heads_told(*read(project, folder, *changes))
    assert any("does not say problem_type" in line for line in found) is told
