"""adapt: fine-tune the teacher on labelled rows, with the same loop and hard labels alone."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from potstill.capabilities import Capability
from potstill.data.rows import labelled_rows
from potstill.locations import GGUF
from potstill.recipe import AdaptSettings, Recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RunDir, file_digest, fingerprint, folder_files
from potstill.runtimes.folder import model_digest
from potstill.stages.criteria import true_labels
from potstill.stages.heads import begin_head, has_head, in_another_order, replaced_head
from potstill.stages.inputs import Inputs
from potstill.stages.lora import ADAPTER, base_name, begin_lora, leave_adapter, merged
from potstill.stages.models import save_model, write_model
from potstill.stages.plan import adapt_split, total_steps
from potstill.stages.scaled_targets import target_scaler_of, with_scaled_targets
from potstill.stages.teacher_members import alone
from potstill.tasks.heads import in_order
from potstill.training.batches import ShuffledRows
from potstill.training.engine import Engine
from potstill.training.frozen_layers import FrozenLayers
from potstill.training.loop import LAST_BITS, Job, fit, no_teacher
from potstill.training.metrics import METRICS


def adapt(run: RunDir, recipe: Recipe, inputs: Inputs, engine: Engine) -> AdaptRecord:
    """The teacher that will be distilled; of an ensemble, the lead, with all of them in `members`."""
    if not inputs.members:
        return _adapt_one(run, recipe, inputs, engine, "adapt")
    members = {name: _adapt_one(run, *alone(recipe, inputs, name), engine, f"adapt/{name}") for name in inputs.members}
    lead = members[str(recipe.teacher.lead_member)]
    digest = fingerprint({name: member.digest for name, member in members.items()})
    return lead.model_copy(update={"digest": digest, "members": members})


def depends_of(recipe: Recipe, inputs: Inputs, engine: Engine) -> dict[str, Any]:
    """What decides the weights of an adapted teacher."""
    settings = recipe.adapt
    precision = engine.precision(settings.precision) if settings else None
    depends = {
        "adapt": settings and settings.model_dump(mode="json") | {"precision": precision},
        "teacher": inputs.lead.digest,
        "labels": inputs.labels,
        "data": {"adapt": adapt_split(inputs).fingerprint, "validation": inputs.fingerprint_of("validation")},
        "task": recipe.task,
        "seed": recipe.seed,
    }
    replaced = replaced_head(recipe, recipe.lead, inputs.lead, inputs.labels)
    if replaced is not None and len(replaced) == len(inputs.labels):
        # Once such a head went on under the names of the data. One of another size was always replaced.
        depends["head"] = "new"
    if recipe.lead.classes:
        depends["classes"] = recipe.lead.classes
    return depends


def _adapt_one(run: RunDir, recipe: Recipe, inputs: Inputs, engine: Engine, stage: str) -> AdaptRecord:
    depends = depends_of(recipe, inputs, engine)
    settings = recipe.adapt
    if settings is None:
        return run.once(stage, depends, AdaptRecord, lambda folder: _unchanged(folder, stage, recipe, inputs))

    def work(folder: Path) -> AdaptRecord:
        return _train(run, folder, stage, recipe, settings, inputs, engine)

    last_bits = [f"adapt.{name}" for name in LAST_BITS]
    auto = {"adapt.precision": engine.precision("auto")}
    return run.once(stage, depends, AdaptRecord, work, together=True, last_bits=last_bits, auto=auto)


def _unchanged(folder: Path, stage: str, recipe: Recipe, inputs: Inputs) -> AdaptRecord:
    """The teacher where it lies; one in a quantised file as a folder of weights, which every stage can read fast, and
    a member of an ensemble whose classes are in another order than the lead's as one of weights in the lead's order."""
    reordered, lead = in_another_order(recipe, inputs), recipe.lead
    if not reordered and not inputs.lead.location.endswith(GGUF):
        digest = inputs.lead.digest
        if Capability.WEIGHTS not in recipe.teacher.gives:
            # What answers is not the model whose files these are.
            digest = fingerprint({"teacher": recipe.teacher, "lead": digest})
        return AdaptRecord(adapted=False, location=inputs.lead.location, digest=digest)
    model = recipe.task.load_model(
        inputs.lead.location, revision=lead.revision, trust_remote_code=lead.trust_remote_code
    )
    if reordered:
        in_order(model, lead.classes, inputs.labels)
    write_model(model, inputs.tokenizer, folder / "model")
    return AdaptRecord(
        adapted=False,
        converted=True,
        location=f"{stage}/model",
        digest=model_digest(folder / "model"),
        files=folder_files(folder / "model", relative_to=folder),
    )


def _train(
    run: RunDir, folder: Path, stage: str, recipe: Recipe, settings: AdaptSettings, inputs: Inputs, engine: Engine
) -> AdaptRecord:
    import torch

    task, teacher = recipe.task, recipe.lead
    torch.manual_seed(recipe.seed)  # the new head
    model = task.load_model(
        inputs.lead.location,
        inputs.labels,
        teacher.classes,
        revision=teacher.revision,
        trust_remote_code=teacher.trust_remote_code,
    )
    labelled = labelled_rows(adapt_split(inputs).rows)
    scaler = target_scaler_of(recipe, labelled)
    begin_head(recipe, inputs, model, labelled, known=has_head(recipe, inputs))
    adapter = begin_lora(recipe, inputs, model, settings, "adapt", engine)
    rows = with_scaled_targets(recipe, inputs, labelled, scaler)
    validation = with_scaled_targets(recipe, inputs, inputs.splits["validation"].rows, scaler)
    job = Job(
        name=stage,
        model=model,
        batches=ShuffledRows(rows, settings, recipe.seed),
        validation=validation,
        ask=task.ask,
        loss=true_labels(),
        teacher=no_teacher,
        criterion=true_labels(),
        total_steps=total_steps(settings, len(rows.lengths)),
        seed=recipe.seed,
        settings=settings,
    )
    if settings.frozen_layers:
        frozen = FrozenLayers(model, settings.frozen_layers)
        total = len(rows.ids) + len(validation.ids)
        with run.progress.task("adapt: frozen layers", total, "rows") as advance:
            kept = [frozen.keep(each, engine.device, recipe.label.batch_size, advance) for each in (rows, validation)]
        frozen.detach()
        batches = ShuffledRows(kept[0], settings, recipe.seed)
        done = fit(replace(job, batches=batches, validation=kept[1]), folder, engine, run.progress)
        frozen.restore()
    else:
        done = fit(job, folder, engine, run.progress)
    lora = None
    with scaler.unscaled_outputs(model) if scaler else nullcontext():
        if adapter is not None:
            base = base_name(teacher.model)
            at = folder / ADAPTER
            lora = leave_adapter(recipe, adapter, validation, at, engine, base=base, revision=teacher.revision)
        with merged(adapter):
            save_model(model, inputs.tokenizer, folder / "model", engine)
    return AdaptRecord(
        adapted=True,
        location=f"{stage}/model",
        digest=model_digest(folder / "model"),
        steps=done.step,
        best_step=done.best_step,
        best_validation_loss=done.best_validation_loss,
        best_validation_accuracy=done.best_validation_accuracy,
        lora=lora,
        files=folder_files(folder / "model", relative_to=folder)
        | (folder_files(folder / ADAPTER, relative_to=folder) if lora else {})
        | {METRICS: file_digest(folder / METRICS)},
    )
