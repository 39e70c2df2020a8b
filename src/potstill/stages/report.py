"""report: the page and the model card, from records alone."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from potstill.errors import TrainingError
from potstill.evaluation.artefact_sections import artefact_section
from potstill.evaluation.card import card_of
from potstill.evaluation.sections import comparison_sections, detail_sections, page_words
from potstill.presentation.page import render_html, render_model_card
from potstill.recipe import Recipe
from potstill.recipe.yaml_file import dump_recipe
from potstill.records import FinishedRun, ReportRecord, TrainRecord
from potstill.run_dir import RunDir, file_digest, fingerprint, write_text
from potstill.training.metrics import METRICS, read_metrics

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "potstill",
)


def report(run: RunDir, recipe: Recipe, finished: FinishedRun) -> ReportRecord:
    """`report.html` and `MODEL_CARD.md`.

    Raises:
        TrainingError: the metrics of a training are not those that it wrote.
    """
    depends = {
        "recipe": recipe,
        "records": {name: fingerprint(record) for name, record in vars(finished).items()},
    }

    def work(folder: Path) -> ReportRecord:
        student, evaluation = finished.plan.student, finished.evaluation
        facts: dict[str, Any] = {
            "title": f"{recipe.teacher.title} to {student.layers} x {student.width}",
            "words": page_words(evaluation),
            "recipe_yaml": dump_recipe(recipe),
            "environment": environment(),
        }
        trained = {"student": finished.student} | ({"baseline": finished.baseline} if finished.baseline else {})
        metrics = {name: _metrics(run.path("train", name, METRICS), record) for name, record in trained.items()}
        page = render_html(
            finished,
            comparison=comparison_sections(evaluation),
            artefacts=artefact_section(finished.export, evaluation),
            details=detail_sections(evaluation),
            metrics=metrics,
            seconds=list(run.seconds.items()),
            **facts,
        )
        card = card_of(evaluation, finished.plan, recipe.task.model_dump(), recipe.teacher.described)
        write_text(folder / "report.html", page)
        write_text(folder / "MODEL_CARD.md", render_model_card(finished, card=card, **facts))
        return ReportRecord(files={name: file_digest(folder / name) for name in ("report.html", "MODEL_CARD.md")})

    return run.once("report", depends, ReportRecord, work)


def _metrics(path: Path, record: TrainRecord) -> list[dict[str, Any]]:
    # Earlier versions recorded no digest of it.
    if METRICS in record.files and file_digest(path) != record.files[METRICS]:
        raise TrainingError(
            f"{path}: changed since it was written. Restore it, or remove {path.parent} to train again."
        )
    return read_metrics(path)


def environment() -> dict[str, str]:
    """Versions and machine, as far as they decide a result; never a variable of the environment."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "processor": _processor(),
        "git_revision": _git_revision(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_revision() -> str:
    """The revision that potstill itself runs from, where it is a checkout."""
    done = (
        subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        if _has_git()
        else None
    )
    return (
        done.stdout.strip() if done and done.returncode == 0 else f"installed package, Python {sys.version_info.major}"
    )


def _has_git() -> bool:
    import shutil

    return shutil.which("git") is not None
