"""The student before training: the weights that it starts from, drawn or copied from its teacher."""

import hashlib

import torch
from torch import nn
from transformers import PreTrainedModel

from potstill.data.batches import batches_by_length
from potstill.data.splits import stable_order
from potstill.loaded_as import IN_FLOAT32, LoadedAs
from potstill.recipe import Recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RunDir, fingerprint
from potstill.stages.heads import has_head, student_has_head
from potstill.stages.inputs import Inputs
from potstill.stages.models import load_teacher, teacher_folder
from potstill.students import Copy, Importance, Pretrained, copy_from_teacher, measure_importance
from potstill.tasks.generative import generation_config_in, generative


def initial_student(recipe: Recipe, inputs: Inputs, run: RunDir, adapted: AdaptRecord) -> PreTrainedModel:
    """The student before training: a function of recipe, teacher and seed; or of the student, where it exists."""
    torch.manual_seed(recipe.seed)
    if isinstance(inputs.student, Pretrained):
        student = _own(recipe, inputs, inputs.student)
        if student.can_generate():
            _stop_where_responses_end(student, recipe, inputs)
        return student
    config = inputs.student_config
    config = type(config).from_dict(config.to_dict() | recipe.task.config_values(inputs.labels))
    student = recipe.task.new_model(config)
    if student.can_generate():
        if (known := generation_config_in(teacher_folder(recipe, run, adapted).path)) is not None:
            # It must stop where its teacher does.
            student.generation_config = known
        _stop_where_responses_end(student, recipe, inputs)
    init = inputs.student.init
    if isinstance(init, Copy):
        # What is cut is made float32 tensor by tensor; what is measured is computed in it, and a run writes in it.
        exact = recipe.adapt is None and not adapted.converted and not init.measures
        held = inputs.lead.as_stored if exact else IN_FLOAT32
        original = init.of == "original"
        source = _original(recipe, inputs, held) if original else load_teacher(recipe, run, adapted, held)
        importance = _importance(recipe, inputs, source, init.sample) if init.measures else None
        pieces = None if inputs.vocabulary is None else inputs.vocabulary.kept
        copy_from_teacher(student, source, init, importance, pieces)
    return student


def _own(recipe: Recipe, inputs: Inputs, student: Pretrained) -> PreTrainedModel:
    """A student that exists already as it is; the head for classes that it lacks is drawn from torch's generator."""
    assert inputs.own is not None
    return recipe.task.load_model(
        inputs.own.files.location,
        inputs.labels,
        student.classes,
        revision=student.revision,
        trust_remote_code=student.trust_remote_code,
    )


def _stop_where_responses_end(student: PreTrainedModel, recipe: Recipe, inputs: Inputs) -> None:
    """Add to the tokens that end what it writes those that its rows end in, which a teacher need not name: a template
    can end turns with another token than the model ends a text with."""
    assert student.generation_config is not None
    prompts = generative(recipe.task).prompts(inputs.of_student.tokenizer)
    answered = next((row for row in inputs.splits["validation"].rows if prompts.asks(row)), None)
    learnt = {inputs.of_student.tokenizer.eos_token_id, None if answered is None else prompts.end_of(answered)}
    named = student.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    if missing := learnt - {*ends, None}:
        student.generation_config.eos_token_id = [*(end for end in ends if end is not None), *sorted(missing)]


def has_learnt_head(recipe: Recipe, inputs: Inputs) -> bool:
    """Whether a student's first head has learnt the form of answer before, as one that was copied has."""
    if isinstance(inputs.student, Pretrained):
        return student_has_head(recipe, inputs)
    init = inputs.student.init
    return isinstance(init, Copy) and (init.of == "teacher" or recipe.adapt is None or has_head(recipe, inputs))


def _importance(recipe: Recipe, inputs: Inputs, teacher: PreTrainedModel, sample: int) -> Importance:
    """What of the teacher matters on a sample of the training rows."""
    rows = stable_order(inputs.splits["train"].rows, lambda row: row.id, salt="importance")[:sample]
    encoded = recipe.task.encode(rows, inputs.tokenizer, inputs.labels)
    size = recipe.train.micro_batch_size or recipe.train.batch_size
    batches = (encoded.collate(indices) for indices in batches_by_length(encoded.lengths, size))
    return measure_importance(teacher, batches, recipe.task.ask)


def _original(recipe: Recipe, inputs: Inputs, held: LoadedAs) -> PreTrainedModel:
    """The lead teacher before it was adapted; the head that it lacks is drawn anew."""
    lead = recipe.lead
    labels = inputs.labels if recipe.adapt else None
    return recipe.task.load_model(
        inputs.lead.location,
        labels,
        lead.classes,
        how=held.arguments,
        revision=lead.revision,
        trust_remote_code=lead.trust_remote_code,
    )


def weights_digest(model: nn.Module) -> str:
    """Digest of all weights by name, to show that two trainings started from the same."""
    return fingerprint(
        {
            name: hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()
            for name, tensor in model.state_dict().items()
        }
    )
