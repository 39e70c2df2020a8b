"""Whether a family suits a task, and whether students can be cut from it: one sentence for what does not fit."""

from potstill.errors import ModelError
from potstill.models import Kind, teaching

_READ_BY = {
    "text_classification": Kind.ENCODER,
    "token_classification": Kind.ENCODER,
    "causal_lm": Kind.DECODER,
    "seq2seq": Kind.ENCODER_DECODER,
}
"""What each task reads."""


_SAVED_AS_ANOTHER = {
    "gemma3": (
        "gemma3_text",
        "Load it as Gemma3ForConditionalGeneration, put its model.language_model and its lm_head in the model and the "
        "lm_head of a Gemma3ForCausalLM of its config.text_config, and save that",
    ),
}
"""Models of which a part is of a family that is known, which, and how it is taken out."""


def require_cuttable(model_type: str, where: str = "teacher.model") -> None:
    """Refuse a family of which no student can be cut.

    Raises:
        ModelError: names those of which one can.
    """
    known = sorted(name for kind in Kind for name in teaching(kind))
    if model_type in _SAVED_AS_ANOTHER:
        part, how = _SAVED_AS_ANOTHER[model_type]
        raise ModelError(
            f"{where}: a {model_type} model reads images too, and cannot be shrunk; its language model can ({part}). "
            f"{how}, with the tokenizer beside it."
        )
    if model_type not in known:
        raise ModelError(f"{where}: family {model_type!r} cannot be shrunk yet; known: {', '.join(known)}.")


def require_fitting(
    model_type: str, task: str, *, where: str = "teacher.model", cut: bool = True, with_head: bool = False
) -> None:
    """Refuse a teacher of a family that the task does not read, or, where it is to be cut, of one that is not known.

    With `with_head`, a decoder or an encoder-decoder may classify texts and words, too: some have heads for it, and
    nothing but a head must be known of a model that is not cut.

    Raises:
        ModelError: names the families that can teach this task and be cut for it.
    """
    kind = _READ_BY[task]
    if model_type in teaching(kind) or (with_head and not cut and kind is Kind.ENCODER):
        return
    fitting = f"task.kind: {task} takes {kind.value} ({', '.join(teaching(kind))})"
    own = next((each for each in Kind if each is not kind and model_type in teaching(each)), None)
    if own is not None:
        instead = " or ".join(each for each, read in _READ_BY.items() if read is own)
        raise ModelError(
            f"{where}: family {model_type!r} is {own.value}, and {fitting}. Take a {where.partition('.')[0]} of one of "
            f"these families{', which can teach and be cut' if cut else ''}; for this one use task.kind: {instead}."
        )
    if cut:
        try:
            require_cuttable(model_type, where)
        except ModelError as error:
            raise error if model_type in _SAVED_AS_ANOTHER else ModelError(f"{error} Of these, {fitting}.") from None
