"""Saved models of a run: where its teachers and students lie, whether they are as they were written; writing them."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.loaded_as import IN_FLOAT32, LoadedAs
from potstill.locations import local_folder
from potstill.recipe import Recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RunDir, atomic_folder
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.stages.inputs import Inputs
from potstill.tasks.generative import GENERATION_CONFIG
from potstill.training.engine import Engine


def load_teacher(
    recipe: Recipe, run: RunDir, adapted: AdaptRecord, loaded_as: LoadedAs = IN_FLOAT32
) -> PreTrainedModel:
    """The teacher that is distilled: the adapted one of this run, or the recipe's own."""
    return teacher_folder(recipe, run, adapted, loaded_as).load(recipe.task)


def teacher_folder(recipe: Recipe, run: RunDir, adapted: AdaptRecord, loaded_as: LoadedAs = IN_FLOAT32) -> ModelFolder:
    """Where the teacher that is distilled lies; one of the hub is fetched as the recipe says."""
    if adapted.adapted or adapted.converted:
        # Of an ensemble the record's digest is that of all.
        own = next((each for each in adapted.members.values() if each.location == adapted.location), adapted)
        return ModelFolder(run.path(adapted.location), digest=own.digest, loaded_as=loaded_as)
    teacher = recipe.lead
    trusted = teacher.trust_remote_code
    path = local_folder(adapted.location, revision=teacher.revision, trust_remote_code=trusted)
    return ModelFolder(path, trusted, loaded_as=loaded_as)


def teacher_predictor(
    recipe: Recipe,
    run: RunDir,
    inputs: Inputs,
    adapted: AdaptRecord,
    engine: Engine,
    folder: ModelFolder | None = None,
) -> Predictor:
    """What answers for the teacher that is distilled: a model in a folder, or whatever its settings name."""
    return open_predictor(
        folder or teacher_folder(recipe, run, adapted, inputs.lead.loaded_as),
        task=recipe.task,
        tokenizer=inputs.tokenizer,
        device=engine.device,
        batch_size=recipe.label.batch_size,
        runtime=recipe.teacher.runtime,
        teacher=recipe.teacher,
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, engine: Engine) -> None:
    """A folder that `from_pretrained` loads, whole when this returns in any process. All of them must call it."""
    with engine.whole(model) as whole:
        if engine.is_main:
            write_model(whole, tokenizer, folder)
    engine.barrier()


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A folder that `from_pretrained` loads, written by this process alone."""
    with atomic_folder(folder) as target:
        generation = model.generation_config if model.can_generate() else None
        try:
            if generation is not None:
                model.generation_config = GenerationConfig()
            model.save_pretrained(target)
        finally:
            model.generation_config = generation
        if generation is not None:
            # As it was given: transformers may refuse to save values of which some have no effect beside others.
            generation.to_json_file(target / GENERATION_CONFIG, use_diff=True)
        tokenizer.save_pretrained(target)
