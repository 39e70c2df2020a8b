"""LoRA in the stages that train: what it will train, the adapter in a model, and what is left of it at the end."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePath

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from potstill.data.encoded import BatchSource
from potstill.errors import RecipeError, TrainingError
from potstill.locations import is_hub_id
from potstill.lora import Adapter, LoraModules, LoraSettings, add_adapter, choose_modules, require_peft
from potstill.lora.settings import TIMES_FULL, usual_rate
from potstill.recipe import OptimiserSettings, Recipe
from potstill.records import LoraRecord, MergedLora, ShapeRecord
from potstill.run_dir import atomic_folder
from potstill.signals import Batch
from potstill.stages.inputs import Inputs
from potstill.stages.student_search import skeleton_of
from potstill.stages.teacher_files import Files
from potstill.students import FactorisedVocabulary, Pretrained, Random
from potstill.training.engine import Engine

ADAPTER = "adapter"
"""The folder of a stage in which the adapter lies."""
BASE = "base"
"""The folder of a student's weights before training, beside which its adapter stands."""
PROBED = 4
"""Validation rows on which the merged model is compared with the one that was trained."""
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Share of the largest output by which they may differ. Arithmetic in another order is far below it."""
_TASKS: Mapping[str, str] = {
    "text_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq": "SEQ_2_SEQ_LM",
}
"""What peft calls each task."""


def planned_lora(recipe: Recipe, inputs: Inputs) -> tuple[LoraRecord | None, LoraRecord | None]:
    """What LoRA will train of the teacher, of several the lead, and of the student; found without weights.

    Raises:
        RecipeError: settings that mean nothing in these models, or peft is not installed.
    """
    teacher = student = None
    if recipe.adapt is not None and recipe.adapt.lora is not None:
        for files in (*inputs.members.values(), inputs.lead):
            teacher = _counts(recipe, inputs, files.config, recipe.adapt.lora, "adapt.lora", _frozen(recipe), files)
    if recipe.train.lora is not None:
        _require_weights_worth_keeping(inputs, recipe.train.lora)
        config = inputs.student_config
        student = _counts(recipe, inputs, config, recipe.train.lora, "train.lora", 0, _student_files(inputs))
    return teacher, student


def _counts(
    recipe: Recipe,
    inputs: Inputs,
    config: PretrainedConfig,
    settings: LoraSettings,
    where: str,
    frozen_layers: int,
    files: Files,
) -> LoraRecord:
    require_peft(where)
    model = skeleton_of(recipe, config, inputs.labels)
    return _record(settings, _modules(recipe, model, settings, where, frozen_layers, files))


def _record(settings: LoraSettings, modules: LoraModules) -> LoraRecord:
    return LoraRecord(
        rank=settings.rank,
        scale=settings.scale,
        adapted_modules=len(modules.adapted),
        modules_to_save=list(modules.full),
        trained_parameters=modules.trained_parameters,
        parameters=modules.parameters,
    )


def _modules(
    recipe: Recipe, model: PreTrainedModel, settings: LoraSettings, where: str, frozen_layers: int, files: Files
) -> LoraModules:
    # A pooler that the checkpoint has not is drawn, as a head is.
    new = files.filled.new if files.filled is not None and not recipe.task.generative else ()
    return choose_modules(
        model,
        settings,
        where=where,
        head_in_full=not recipe.task.generative,
        new=[name for name in new if name in dict(model.named_parameters())],
        frozen_layers=frozen_layers,
    )


def _frozen(recipe: Recipe) -> int:
    return recipe.adapt.frozen_layers if recipe.adapt else 0


def _require_weights_worth_keeping(inputs: Inputs, settings: LoraSettings) -> None:
    """Raises RecipeError: the student begins with weights that must be trained themselves."""
    if not isinstance(inputs.student, Pretrained) and isinstance(inputs.student.init, Random):
        raise RecipeError(
            "train.lora: the student begins with random weights (student.init), which would stay as they are. Leave "
            "train.lora out, or copy the teacher's (init: {kind: copy})."
        )
    if isinstance(inputs.student.vocabulary, FactorisedVocabulary) and not {
        "embeddings",
        "embeddings_project",
    } <= set(settings.modules_to_save):
        raise RecipeError(
            "train.lora: factorised embeddings begin as a coarse picture of the teacher's, and would stay so. Train "
            "them in full (train.lora.modules_to_save: [embeddings, embeddings_project]), or leave train.lora out."
        )


def doubts_about_rates(recipe: Recipe, teacher: ShapeRecord, student: ShapeRecord) -> Iterator[str]:
    """Where a learning rate is nearer to that of training all weights than to that of LoRA."""
    asked: list[tuple[str, OptimiserSettings | None, ShapeRecord]] = [
        ("adapt", recipe.adapt, teacher),
        ("train", recipe.train, student),
    ]
    for where, settings, shape in asked:
        if settings is None or settings.lora is None:
            continue
        usual = usual_rate(shape.width)
        if settings.learning_rate < usual / TIMES_FULL**0.5:
            yield (
                f"{where}.learning_rate: {settings.learning_rate:g} looks like the rate of training all weights. LoRA "
                f"asks for about {TIMES_FULL:g} times that; at a width of {shape.width:,} usual rates are near "
                f"{usual:.0e}."
            )


def begin_lora(
    recipe: Recipe, inputs: Inputs, model: PreTrainedModel, settings: OptimiserSettings, where: str, engine: Engine
) -> Adapter | None:
    """The adapter that is trained in place of the model's weights, put into it; None where these are trained.

    A teacher whose weights bfloat16 holds exactly is held in it, where it computes in it: so its weights take half.
    """
    if settings.lora is None:
        return None
    of_teacher = where == "adapt"
    frozen = _frozen(recipe) if of_teacher else 0
    files = inputs.lead if of_teacher else _student_files(inputs)
    modules = _modules(recipe, model, settings.lora, f"{where}.lora", frozen, files)
    narrow = of_teacher and engine.precision(settings.precision) == "bfloat16" and _held_exactly(model, modules)
    still = torch.bfloat16 if narrow else None
    return add_adapter(model, settings.lora, modules, seed=recipe.seed, still=still)


def _held_exactly(model: PreTrainedModel, modules: LoraModules) -> bool:
    """Whether bfloat16 holds all weights that are not trained in full."""
    return all(
        torch.equal(weight, weight.to(torch.bfloat16).to(weight.dtype))
        for name, weight in model.named_parameters()
        if not name.startswith(tuple(f"{each}." for each in modules.full))
    )


def merged(adapter: Adapter | None) -> AbstractContextManager[None]:
    """Within it a model with an adapter is the plain one that is saved."""
    return nullcontext() if adapter is None else adapter.merged()


def leave_adapter(
    recipe: Recipe,
    adapter: Adapter,
    validation: BatchSource,
    folder: Path,
    engine: Engine,
    *,
    base: str,
    revision: str | None = None,
) -> MergedLora:
    """Write the adapter into `folder`, and say how far its merged model is from it. All processes must call it.

    `base` is what the model is called beside whose weights it stands.

    Raises:
        TrainingError: the merged model is another one.
    """
    model, dtype = adapter.model, adapter.dtype
    batch = validation.collate(range(min(PROBED, len(validation.lengths)))).to(engine.device)
    trained = _outputs(recipe, model, batch, dtype)
    with adapter.merged():
        plain = _outputs(recipe, model, batch, dtype)
    error = ((plain - trained).abs().max() / trained.abs().max().clamp(min=1)).item()
    if not error <= TOLERANCE[dtype]:
        raise TrainingError(
            f"{folder.parent}: merged into the weights, the adapter gives other outputs than beside them: they differ "
            f"by {error:.2g} of the largest. Lower the learning rate, or set precision: float32."
        )
    if engine.is_main:
        with atomic_folder(folder) as target:
            adapter.save(target, base=base, revision=revision, task=_TASKS[recipe.task.kind])
    engine.barrier()
    record = _record(adapter.settings, adapter.modules)
    return MergedLora(**record.model_dump(), dtype=str(dtype).removeprefix("torch."), merge_error=error)


def _outputs(recipe: Recipe, model: PreTrainedModel, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Logits, or numbers, for a batch."""
    model.eval()
    # Half precision as in training; everything else without it, so that the comparison is sharp.
    narrow = torch.autocast(batch.mask.device.type, dtype=dtype, enabled=dtype.itemsize < 4)
    with torch.no_grad(), narrow:
        found = recipe.task.ask(model, batch)
        if found.hidden is not None and found.head is not None:
            return found.head.logits(found.hidden[batch.mask][: found.head.chunk_rows]).float()
    outputs = found.logits if found.logits is not None else found.mean
    assert outputs is not None
    return outputs.float()


def _student_files(inputs: Inputs) -> Files:
    """Those that the student's first weights come from."""
    return inputs.lead if inputs.own is None else inputs.own.files


def base_of_student(inputs: Inputs) -> tuple[str, str | None] | None:
    """The hub id and the revision of the model beside whose weights a student's adapter stands; None of any other,
    whose weights the run keeps itself: peft could not find them by what a recipe calls them."""
    student = inputs.student
    if not isinstance(student, Pretrained) or inputs.own is None or inputs.own.files.location != student.model:
        return None
    of_hub = is_hub_id(student.model) and not Path(student.model).exists()
    return (student.model, student.revision) if of_hub else None


def base_name(model: str) -> str:
    """What a recipe calls a model; of a path on this machine its last part."""
    return PurePath(model).name if PurePath(model).is_absolute() else model
