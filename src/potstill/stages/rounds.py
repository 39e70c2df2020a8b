"""Generations: a student teaches its successor, before the last of them becomes the student of the run."""

from potstill.recipe import Recipe
from potstill.records import AdaptRecord, TrainRecord
from potstill.run_dir import RunDir
from potstill.stages.inputs import Inputs
from potstill.stages.label import label, label_features
from potstill.stages.opened_teachers import Lessons
from potstill.stages.train import train_student
from potstill.teachers.self_taught import ROUND
from potstill.training.engine import Engine


def generations(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, first: Lessons, engine: Engine
) -> tuple[Lessons, dict[str, TrainRecord]]:
    """What the last student learns from, and the students before it; for one generation, `first` and none."""
    lessons, earlier = first, {}
    for number in range(1, recipe.rounds):
        name = f"{ROUND}{number}"
        record = train_student(run, recipe, inputs, adapted, lessons, engine, name)
        earlier[name] = record
        teacher = AdaptRecord(adapted=True, location=f"train/{name}/model", digest=record.digest)
        labels = label(run, recipe, inputs.of_student, teacher, engine, name)
        features = label_features(run, recipe, inputs.of_student, teacher, engine, name)
        lessons = Lessons(name, teacher, labels, features)
    return lessons, earlier
