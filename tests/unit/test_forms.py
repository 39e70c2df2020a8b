"""Forms of student and teacher are written once for what they are made of, whatever a gate asks of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from potstill.atomic_files import share_file, share_files
from potstill.errors import ModelError
from potstill.evaluation.shipping import measured_if_required
from potstill.exporters import Onnx
from potstill.exporters.distil import RoundedTraining
from potstill.progress import Progress
from potstill.recipe import GateSettings
from potstill.records import FormsRecord
from potstill.run_dir import RunDir, folder_files, open_run
from potstill.runtimes.folder import ModelFolder
from potstill.stages import forms as forms_module
from potstill.stages.artefact_sources import SHARED, Exporting
from potstill.stages.forms import SEVERAL, Forms, measure_forms, write_forms

DISTIL = RoundedTraining(steps=3, learning_rate=1e-4)


class Counting(Onnx):
    """An exporter that writes what it is given, and tells of it."""

    def export(self, source: Any, target: Path) -> None:
        made.append((self.name, source.name, sorted(path.name for path in source.shared.glob("*"))))
        source.shared.mkdir(parents=True, exist_ok=True)
        (source.shared / self.form).touch()
        if source.name == refused:
            raise ModelError("it cannot be written")
        (target / "deep").mkdir()
        (target / "deep/model.onnx").write_text(f"{self.form} of {source.name}")


made: list[Any] = []
refused = ""


@pytest.fixture(autouse=True)
def _nothing_is_made() -> None:
    global refused
    made.clear()
    refused = ""


class Few(Exporting):
    """As much of a run as forms are written from."""

    def __init__(self, run: RunDir, *exporters: Onnx, **changes: Any) -> None:
        known: dict[str, Any] = {"student": "s", "teacher": "t", "evaluation": "e", "members": {}, "rounded": {}}
        known |= changes
        of = SimpleNamespace
        set_ = object.__setattr__
        set_(self, "run", run)
        gate = GateSettings(require=known.get("required", {}), min_retention=known.get("min_retention", 0.9))
        set_(self, "recipe", of(export=exporters, teacher=of(members=known["members"]), gate=gate))
        set_(self, "evaluation", of(fingerprint=known["evaluation"], calibration=known.get("calibration", {})))
        set_(self, "teacher", of(digest=known["teacher"]))
        set_(self, "student", of(digest=known["student"]))
        set_(self, "rounded", {name: of(digest=digest) for name, digest in known["rounded"].items()})

    def student_source(self, exporter: Any) -> Any:
        return self.named(str(self.folder_of_student(exporter).digest))

    def teacher_source(self) -> Any:
        return self.named(str(self.teacher.digest))

    def named(self, name: str) -> Any:
        return SimpleNamespace(name=name, shared=self.run.path(SHARED, name))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with open_run(tmp_path / "run", Progress()) as found:
        yield found


def told(run: RunDir, *exporters: Onnx, **changes: Any) -> tuple[list[tuple[str, str]], Forms]:
    """Which exporters were asked for which model."""
    made.clear()
    forms = write_forms(Few(run, *exporters, **changes))
    return [(name, source) for name, source, _ in made], forms


INT8, WHOLE = Counting(), Counting(precision="float32")


def test_each_form_is_written_once_and_a_new_one_beside_those_that_are_there(run: RunDir) -> None:
    of_int8, of_whole = ([(each.name, name) for name in ("s", "t")] for each in (INT8, WHOLE))
    assert told(run, INT8)[0] == of_int8
    assert told(run, INT8)[0] == []
    asked, forms = told(run, WHOLE, INT8)
    assert asked == of_whole and list(forms.all) == [
        "onnx-float32", "onnx-int8", "teacher onnx-float32", "teacher onnx-int8"
    ]  # fmt: skip
    for name, each in forms.all.items():
        source = "t" if name.startswith("teacher ") else "s"
        text = (each.folder / "model/deep/model.onnx").read_text()
        assert text == f"{each.exporter.form} of {source}" and each.source == {"t": "teacher", "s": "student"}[source]
    assert told(run, WHOLE)[0] == [] and told(run, INT8, WHOLE)[0] == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"student": "s2"}, ["s2"]),
        ({"teacher": "t2"}, ["t2"]),
        ({"evaluation": "e2"}, ["s", "t"]),
        ({"calibration": {"student": SimpleNamespace(temperature=2.0)}}, ["s"]),
        ({"calibration": {"teacher": SimpleNamespace(temperature=2.0)}}, ["t"]),
        ({"calibration": {"student": SimpleNamespace(temperature=None)}}, []),
    ],
)
def test_another_model_or_another_temperature_is_another_form(run: RunDir, change: Any, again: list[str]) -> None:
    told(run, INT8)
    assert [source for _, source in told(run, INT8, **change)[0]] == again


def test_a_student_that_was_trained_for_its_form_is_that_forms(run: RunDir) -> None:
    """And the teacher beside both is one."""
    distilled = Counting(distil=DISTIL)
    asked, forms = told(run, INT8, distilled, rounded={distilled.name: "r"})
    assert asked == [("onnx-int8", "s"), ("onnx-int8-distilled", "r"), (distilled.name, "t")]
    assert list(forms.rivals) == ["teacher onnx-int8"]
    # How it was trained is in its weights.
    other = Counting(distil=RoundedTraining(steps=4, learning_rate=1e-4))
    assert told(run, INT8, other, rounded={distilled.name: "r"})[0] == []
    assert told(run, INT8, other, rounded={distilled.name: "r2"})[0] == [("onnx-int8-distilled", "r2")]


def test_exports_of_one_model_share_what_is_there_while_they_are_made(run: RunDir) -> None:
    stale = run.path(SHARED, "s")
    stale.mkdir(parents=True)
    (stale / "of an earlier process").touch()
    told(run, INT8, WHOLE)
    assert made == [
        ("onnx-int8", "s", []),
        ("onnx-float32", "s", ["onnx-int8"]),
        ("onnx-int8", "t", []),
        ("onnx-float32", "t", ["onnx-int8"]),
    ]
    assert not run.path(SHARED).exists()


def test_what_is_shared_goes_where_an_export_fails_too(run: RunDir) -> None:
    global refused
    refused = "s"
    with pytest.raises(ModelError, match="it cannot be written"):
        told(run, INT8)
    assert not run.path(SHARED).exists() and not run.path("forms/student/onnx-int8/result.json").exists()


def test_a_teacher_that_cannot_be_written_is_told_and_not_tried_again(run: RunDir) -> None:
    global refused
    refused = "t"
    for expected in ([("onnx-int8", "s"), ("onnx-int8", "t")], []):
        asked, forms = told(run, INT8)
        assert asked == expected and forms.missing == {"onnx-int8": "it cannot be written"} and not forms.rivals
    asked, forms = told(run, WHOLE, members={"a": None})
    assert asked == [("onnx-float32", "s")] and forms.missing == {"onnx-float32": SEVERAL} and not forms.rivals


@pytest.mark.parametrize("damage", ["changed", "removed", "added"])
def test_files_that_this_run_did_not_write_are_not_shipped(run: RunDir, tmp_path: Path, damage: str) -> None:
    form = told(run, INT8)[1].artefacts["onnx-int8"]
    form.ship_to(tmp_path / "shipped")
    assert folder_files(tmp_path / "shipped", relative_to=tmp_path / "shipped").keys() == {"deep/model.onnx"}
    file = form.folder / "model/deep/model.onnx"
    match damage:
        case "changed":
            file.write_text("other weights")
        case "removed":
            file.unlink()
        case "added":
            (file.parent / "more").touch()
    with pytest.raises(ModelError, match="forms/student/onnx-int8: its files are not those that this run wrote"):
        form.ship_to(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_files_are_shared_or_copied_and_what_is_written_anew_changes_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a").write_text("a")
    (source / "deep/b").write_text("b")
    (source / "a").chmod(0o600)
    share_files(source, tmp_path / "linked")
    assert (tmp_path / "linked/deep/b").samefile(source / "deep/b")
    share_file(source / "deep/b", tmp_path / "linked/a")
    assert (source / "a").read_text() == "a" and (tmp_path / "linked/a").read_text() == "b"

    def without_links(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", without_links)
    share_files(source, tmp_path / "copied")
    share_files(source, tmp_path / "copied")
    assert not (tmp_path / "copied/a").samefile(source / "a")
    assert (tmp_path / "copied/a").read_text() == "a" and (tmp_path / "copied/deep/b").read_text() == "b"
    assert (tmp_path / "copied/a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("required", "measured"),
    [
        ({}, []),
        ({"accuracy": ">= 0"}, []),
        ({"robust_accuracy": ">= 0"}, ["robustness"]),
        ({"ood_auroc": ">= 0", "attack_success_rate": "<= 1"}, ["out_of_domain", "robustness.attacks"]),
        ({"written_accuracy": ">= 0", "robust_accuracy": ">= 0"}, ["judge", "robustness"]),
    ],
)
def test_other_thresholds_of_the_same_metrics_measure_nothing_more(required: Any, measured: list[str]) -> None:
    for _ in range(2):
        assert measured_if_required(GateSettings(require=required, min_retention=0.9)) == measured
        required = {name: text.replace("0", "0.5").replace("1", "0.5") for name, text in required.items()}


def test_forms_are_measured_anew_where_they_or_the_models_are_others_and_for_no_other_threshold(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[str]] = []

    def measure(exporting: Exporting, forms: Forms, folder: Path) -> FormsRecord:
        measured.append(list(forms.all))
        return FormsRecord()

    monkeypatch.setattr(forms_module, "_measured", measure)

    def again(*exporters: Onnx, **changes: Any) -> bool:
        measured.clear()
        few = Few(run, *exporters, **changes)
        forms = write_forms(few)
        measure_forms(few, forms)
        assert measured in ([], [list(forms.all)])
        return bool(measured)

    assert again(INT8) and not again(INT8)
    assert not again(INT8, min_retention=0.5) and not again(INT8, required={"accuracy": ">= 0.1"})
    assert again(INT8, required={"robust_accuracy": ">= 0.1"})
    assert not again(INT8, required={"robust_accuracy": ">= 0.9", "accuracy": ">= 0.1"})
    assert again(INT8, evaluation="e2") and again(INT8, student="s2", evaluation="e2")
    assert again(INT8, WHOLE, student="s2", evaluation="e2") and not again(INT8, WHOLE, student="s2", evaluation="e2")


def test_the_folder_of_a_student_is_that_of_its_training(run: RunDir) -> None:
    few = Few(run, rounded={"onnx-int8-distilled": "r"})
    plain, trained = (few.folder_of_student(each) for each in (INT8, Counting(distil=DISTIL)))
    assert plain == ModelFolder(run.path("train/student/model"), digest="s")
    assert trained == ModelFolder(run.path("train/rounded-onnx-int8-distilled/model"), digest="r")
