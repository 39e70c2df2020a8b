"""Whether a checkpoint was saved with a head of another task than the one that reads it."""

from collections.abc import Collection

from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError

HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
"""How the names of classes end whose heads have weights of like names and shapes, and mean something else."""
_WEIGHTS_OF_HEADS = ("score.", "classifier.", "qa_outputs.", "classification_head.")
"""How the weights of such heads begin in models that write. A value head (v_head), which reinforcement learning trains
beside the output layer, is none of them: the model writes with it as without."""


def require_same_head(config: PretrainedConfig, skeleton: PreTrainedModel, location: str) -> None:
    """Refuse a head for texts where one for tokens is read, and the like, by the ends of the names of classes: the rest
    differs also between a class and one that is made from it, or one of a like family.

    Raises:
        ModelError: names both classes.
    """
    saved, own = next(iter(config.architectures or []), ""), type(skeleton).__name__
    if any(saved.endswith(end) and not own.endswith(end) for end in HEADS):
        raise ModelError(
            f"{location}: it was saved as {saved}, and the task reads a {own}, whose head means something else. "
            f"{_advice(skeleton)}"
        )


def require_no_other_head(model: PreTrainedModel, unexpected: Collection[str], location: str) -> None:
    """Refuse the head of a classifier in a model that writes: what is left of it was trained for another answer.

    Raises:
        ModelError: names the first of its weights.
    """
    odd = sorted(name for name in unexpected if name.startswith(_WEIGHTS_OF_HEADS))
    if odd and model.get_output_embeddings() is not None:
        raise ModelError(
            f"{location}: it has the head of another task ({odd[0]}), and the task reads a {type(model).__name__}. "
            f"{_advice(model)}"
        )


def _advice(model: PreTrainedModel) -> str:
    if model.get_output_embeddings() is not None:
        return "Take the model that it was trained from, which writes."
    return "Set task.kind, or add an adapt section to give it another head."
