"""The folder of an artefact, completed once it was judged: its card, its script, its checksums."""

from dataclasses import replace
from pathlib import Path

from potstill.artefacts.manifest import read_manifest
from potstill.artefacts.standing_alone import commands_for, needs_of, script_for, stand_alone
from potstill.evaluation.card import card_of, loading_code
from potstill.evaluation.tables import quantities
from potstill.presentation.artefact_card import Asking, Licences, Origin, render_artefact_card
from potstill.recipe import Recipe
from potstill.records import Artefact, EvaluateRecord, PlanRecord

OF_WORDS = '{"tokens": ["a", "text"]}'
OF_TEXT = '{"text": "a text"}'
OF_PAIR = '{"text": "a text", "text_pair": "a second one"}'


def complete(
    folder: Path,
    artefact: Artefact,
    recipe: Recipe,
    planned: PlanRecord,
    evaluation: EvaluateRecord,
    *,
    origin: Origin,
) -> None:
    """Write into the folder all that goes with the model. In `evaluation` it is the student, whatever its origin."""
    manifest = read_manifest(folder)
    task = recipe.task.model_dump()
    pairs = planned.splits["test"].pairs > 0
    measured = evaluation.measurement
    names = ["this model" if name == "student" else name for name in evaluation.models]
    licences, title = Licences(**recipe.card.model_dump()), recipe.teacher.title
    if origin == "teacher":
        licences = replace(licences, license=licences.teacher_license)
    else:
        title += f" to {planned.student.layers} x {planned.student.width}"
    card = render_artefact_card(
        artefact,
        title=title,
        card=card_of(evaluation, planned, task, recipe.teacher.described),
        plan=planned,
        comparison=[each for each in quantities(evaluation) if each.brief],
        models=names,
        tested=(
            f"On {evaluation.test_rows:,} test rows, with 95 % bootstrap intervals over them. Speed: "
            f"{measured.device}, {measured.threads} thread(s), {measured.rows} queries one by one, each model in a "
            f"process of its own, the fastest of {measured.rounds} rounds. The teacher is as it was, in PyTorch."
        ),
        licences=licences,
        asking=Asking(
            script=script_for(manifest) is not None,
            example=OF_WORDS if manifest.answers == "tags" else OF_PAIR if pairs else OF_TEXT,
            loading=loading_code(evaluation.answers, task, pairs=pairs),
            commands=commands_for(manifest),
            needs=needs_of(manifest),
        ),
        temperature=manifest.temperature,
        versions=manifest.packages,
        origin=origin,
    )
    stand_alone(folder, manifest, card)
