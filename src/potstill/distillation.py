"""Distilling from Python: models, names and rows go in, a transformers model and the records of its run come out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from potstill.data.sources import is_of_hub
from potstill.errors import DataError, RecipeError
from potstill.pipeline import run_prepared
from potstill.progress import Progress, for_console
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import recipe_of
from potstill.records import EvaluateRecord, ExportRecord, GateRecord, ReportRecord, TrainRecord
from potstill.run_dir import Record, RunDir, atomic_file
from potstill.runtimes.folder import ModelFolder
from potstill.settings import Settings
from potstill.stages.models import write_model
from potstill.stages.plan import GIVEN_TEACHER

DATA = "data"
"""The folder of the run directory for rows that were given as such."""
SPLITS = ("train", "validation", "test", "adapt")
SOURCE = "distill"
"""What errors call a recipe that is in no file."""

Values = Mapping[str, Any]
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Distilled:
    """A student with its verdict. One that failed its gate is here too: ask `passed` before you ship it."""

    passed: bool
    """Whether the student met every threshold, and its artefacts predict as it does: exit code 0 of a run."""
    model: PreTrainedModel = field(repr=False)
    """The student on the CPU, in the precision of training, ready to predict."""
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    """The student's, which is another than its teacher's where its vocabulary was trimmed."""
    recipe: Recipe = field(repr=False)
    """What was run, every default included; `potstill run` does the same with `recipe.yaml` in the run directory."""
    evaluation: EvaluateRecord = field(repr=False)
    """What was measured of teacher, student and baseline."""
    gate: GateRecord = field(repr=False)
    """Every threshold with what was measured."""
    export: ExportRecord = field(repr=False)
    """The artefacts of a student that passed."""
    folder: Path
    """The student as `from_pretrained` loads it: the exported one if it passed, else the trained one."""
    report: Path
    """The page that shows all of it."""


def distill(
    teacher: str | Path | PreTrainedModel | Values | Settings,
    student: str | Values | Settings | None,
    data: Values | Settings,
    *,
    task: str | Values | Settings,
    out: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | bool = False,
    **settings: Any,
) -> Distilled:
    """Distil a teacher into a student, measure both, and return the student with its verdict.

    This is `potstill run` for a recipe that is given as arguments, with the same keys, defaults and errors:

    >>> import potstill
    >>> distilled = potstill.distill(
    ...     "models/teacher",
    ...     {"layers": 2, "width": "1/2"},
    ...     {"train": "data/train.jsonl", "validation": "data/validation.jsonl", "test": "data/test.jsonl"},
    ...     task={"kind": "text_classification", "max_length": 64},
    ...     out="run",
    ...     train={"epochs": 4, "learning_rate": 5e-3},
    ...     gate={"min_retention": 0.9},
    ... )
    >>> type(distilled.model).__name__, distilled.model.config.num_hidden_layers
    ('BertForSequenceClassification', 2)
    >>> sorted(distilled.evaluation.models)
    ['baseline', 'student', 'teacher']

    Args:
        teacher: a folder, hub id or other location; settings of any teacher; or a loaded model, with its `tokenizer`.
            A loaded model is saved as `teacher` in the run directory and read from there.
        student: settings, the name of a published design such as "tinybert-4", a model that exists already as a folder
            or hub id with a slash, or None for half of the teacher's layers and width.
        data: for each of `train`, `validation`, `test` and, if the teacher is adapted on rows of its own, `adapt`: a
            file, or the rows themselves as dicts, which are saved as `data` in the run directory. `validation` and
            `test` can be shares of train. Beside them the other keys of `data`, such as `columns`.
        task: its kind, such as "causal_lm", or its settings.
        out: the run directory, and the only place that is written to. It must be new, empty or of an earlier run, of
            which all stages are kept whose inputs are the same.
        tokenizer: that of a teacher that is given as a loaded model.
        progress: True shows bars or lines on stderr.
        **settings: the other keys of a recipe: `adapt`, `label`, `losses`, `train`, `evaluate`, `gate`, `export` and
            `seed`.

    Files are looked for from the working directory. Under torchrun every process calls this with the same arguments,
    and gets the same student.

    Raises:
        PotstillError: as `potstill run`: what is wrong with the arguments, by key, or with rows, models or the run.
    """
    root = Path(out).absolute()
    named, rows = _data(data, root / DATA)
    loaded = teacher if isinstance(teacher, PreTrainedModel) else None
    if (loaded is None) != (tokenizer is None):
        raise RecipeError(
            f"{SOURCE}: tokenizer is for a teacher that is a loaded model; one that is named brings its own. Drop it."
            if loaded is None
            else f"{SOURCE}: teacher is a loaded model, and its tokenizer is missing. Give it as tokenizer=."
        )
    values = {
        "task": {"kind": task} if isinstance(task, str) else _as_given(task),
        "data": named,
        "teacher": {"model": str(root / GIVEN_TEACHER)} if loaded is not None else _teacher(teacher),
        **({} if student is None else {"student": _student(student)}),
        **{name: _as_given(value) for name, value in settings.items()},
    }
    recipe = recipe_of(values, SOURCE)
    if isinstance(progress, bool):
        progress = for_console(quiet=not progress)

    def prepare(run: RunDir) -> None:
        for split, given in rows.items():
            _save_rows(run.path(DATA, f"{split}.jsonl"), split, given)
        if loaded is not None and tokenizer is not None:
            write_model(loaded, tokenizer, run.path(GIVEN_TEACHER))

    with _without_bars():
        records = run_prepared(prepare, recipe, Path.cwd(), root, progress)
        return _distilled(recipe, root, records)


def _distilled(recipe: Recipe, root: Path, records: Mapping[str, Record]) -> Distilled:
    """The student of a finished run.

    Raises:
        ModelError: it was changed since this run trained it.
    """
    record = partial(_record, records)
    folder = root / "train/student/model"
    model = ModelFolder(folder, digest=record("train", TrainRecord).digest).load(recipe.task)
    tokenizer = recipe.task.load_tokenizer(str(folder))
    verdict, exported = record("gate", GateRecord), record("export", ExportRecord)
    loadable = {exporter.kind for exporter in recipe.export if exporter.runtime == "transformers"}
    shipped = [root / each.folder for each in exported.artefacts if each.passed and each.kind in loadable]
    return Distilled(
        passed=verdict.passed and not exported.none_passed,
        model=model.eval(),
        tokenizer=tokenizer,
        recipe=recipe,
        evaluation=record("evaluate", EvaluateRecord),
        gate=verdict,
        export=exported,
        folder=shipped[0] if shipped else folder,
        report=root / "report" / record("report", ReportRecord).html,
    )


def _record(records: Mapping[str, Record], stage: str, kind: type[R]) -> R:
    found = records[stage]
    assert isinstance(found, kind)
    return found


def _as_given(value: Any) -> Any:
    """Settings as a recipe would say them: what was set and no more, for a default can depend on other keys."""
    if isinstance(value, Settings):
        given = {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
        kind = getattr(value, "kind", None)
        return _as_given(({} if kind is None else {"kind": kind}) | given)
    if isinstance(value, Mapping):
        return {str(key): _as_given(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_given(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _teacher(teacher: Any) -> Any:
    """The teacher's settings. A folder or file goes before a hub id of the same name, as in a recipe."""
    return _located({"model": str(teacher)} if isinstance(teacher, str | Path) else _as_given(teacher))


def _located(teacher: Any) -> Any:
    """A teacher's settings, or those of a member, with each path that is there named from anywhere."""
    if not isinstance(teacher, dict):
        return teacher
    located: dict[str, Any] = {}
    for key, value in teacher.items():
        if key in ("model", "run") and isinstance(value, str) and Path(value).exists():
            located[key] = _from_anywhere(value)
        elif key == "of" and isinstance(value, dict):
            located[key] = {name: _located(member) for name, member in value.items()}
        else:
            located[key] = _located(value) if key == "start" else value
    return located


def _student(student: Any) -> Any:
    if isinstance(student, str):
        # The names of designs have no slash, as folders and hub ids have.
        exists = "/" in student or Path(student).is_dir()
        student = {"kind": "pretrained", "model": student} if exists else {"kind": "design", "name": student}
    return _located(_as_given(student))


def _data(data: Values | Settings, folder: Path) -> tuple[dict[str, Any], dict[str, Iterable[Any]]]:
    """The settings of the data, and the rows that will lie in `folder`, by split."""
    named: dict[str, Any] = {}
    rows: dict[str, Iterable[Any]] = {}
    for key, value in (_as_given(data) if isinstance(data, Settings) else data).items():
        if key in SPLITS and isinstance(value, str | Path):
            named[key] = _from_anywhere(value)
        elif key in SPLITS and isinstance(value, Iterable):
            named[key], rows[key] = str(folder / f"{key}.jsonl"), value
        else:
            named[key] = _as_given(value)
    return named, rows


def _from_anywhere(path: str | Path) -> str:
    """Names the file from any working directory, so that the recipe in the run directory can be run as it is."""
    return path if isinstance(path, str) and is_of_hub(path) else str(Path(path).absolute())


def _save_rows(path: Path, split: str, rows: Iterable[Any]) -> None:
    """Rows as JSON lines.

    Raises:
        DataError: one that is no dict, or holds what JSON has not.
    """
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for number, row in enumerate(rows):
            where = f"data.{split}[{number}]"
            if not isinstance(row, Mapping):
                raise DataError(
                    f"{where}: expected a row as a dict, found {type(row).__name__}. Give a list of dicts, or a file."
                )
            try:
                line = json.dumps(dict(row), ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{where}: cannot be saved as JSON: {error}. Give plain Python values, and None for a missing one."
                ) from None
            file.write(line + b"\n")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the bars of transformers for each model that is loaded or saved, which would break those of the run."""

    def unseen(make: Any, positional: Sequence[Any], named: Values) -> Any:
        return make(*positional, **{**named, "disable": True})

    before = logging.set_tqdm_hook(unseen)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
