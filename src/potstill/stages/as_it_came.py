"""A student that exists already as it came: what fine-tuning and distilling must be better than."""

from pathlib import Path

from potstill.evaluation.answers import CAME
from potstill.recipe import Recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RunDir, folder_files
from potstill.runtimes.folder import model_digest
from potstill.stages.first_weights import initial_student
from potstill.stages.heads import student_has_head
from potstill.stages.inputs import Inputs
from potstill.stages.models import save_model
from potstill.stages.train_member import PLACE
from potstill.students import Pretrained
from potstill.training.engine import Engine


def as_it_came(run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine) -> AdaptRecord | None:
    """The student before training, in `train/pretrained`, ready to be judged as it will be after it.

    None of a student that is cut from its teacher, or whose head begins with random weights: its answers mean nothing.
    """
    if not isinstance(inputs.student, Pretrained) or not student_has_head(recipe, inputs):
        return None
    assert inputs.own is not None
    stage = f"train/{CAME}"

    def work(folder: Path) -> AdaptRecord:
        model = initial_student(recipe, inputs, run, adapted)
        save_model(model, inputs.of_student.tokenizer, folder / "model", engine)
        return AdaptRecord(
            adapted=False,
            converted=True,
            location=f"{stage}/model",
            digest=model_digest(folder / "model"),
            files=folder_files(folder / "model", relative_to=folder),
        )

    depends = {
        "student": inputs.student.model_dump(mode="json", exclude=PLACE),
        "own": inputs.own.files.digest,
        "tokenizer": inputs.of_student.tokenizer_digest,
        "classes": inputs.labels,
        "task": recipe.task,
        # A template ends responses with a token of its own.
        "validation": inputs.fingerprint_of("validation"),
    }
    return run.once(stage, depends, AdaptRecord, work, together=True)
