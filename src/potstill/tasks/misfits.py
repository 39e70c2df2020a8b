"""What a checkpoint that does not fill its model is instead: an error with counts, first names, and a remedy."""

from collections import Counter
from collections.abc import Collection, Mapping

from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.tasks.classes import listed

SHOWN = 3
"""Names that an error lists."""
_WRAPPERS = (
    "_orig_mod.",
    "module.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "base_model.model.",
    "model.",
)
"""What torch.compile, DataParallel, FSDP, checkpointing, PEFT, and classes with an attribute `model` put into names.

Others are found where they stand at the beginning of most."""
OF_ADAPTERS = ("lora_", "modules_to_save.", "original_module.")
"""What PEFT puts into the names of weights, of which some are there twice."""


def begins_anew(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight is drawn where a head is trained: outside of the base model, or in a pooler, which a checkpoint
    of a masked language model has not."""
    base = model.base_model_prefix
    return hasattr(model, base) and (not name.startswith(f"{base}.") or name.startswith(f"{base}.pooler."))


def wrapper_of(expected: Collection[str], found: Collection[str], base: str) -> str | None:
    """What has to be taken out of the names of most weights to make them those of the model."""
    if not expected:
        return None
    wanted = {*expected, *(name.removeprefix(f"{base}.") for name in expected)}
    matching = len(wanted.intersection(found))
    for wrapper in _WRAPPERS:
        stripped = {name.replace(wrapper, "") for name in found if wrapper in name}
        doubled = {name.removeprefix(wrapper) for name in found if name.startswith(wrapper)}
        now = max(len(wanted & stripped), len(wanted & doubled))
        if now > matching and now * 2 > len(expected):
            return wrapper
    counts = Counter(
        name[: -len(rest)]
        for name in found
        for rest in (name.split(".", parts)[-1] for parts in range(1, name.count(".") + 1))
        if rest in wanted
    )
    # Of two that fit as many weights, the shorter is before the base model.
    prefix = max(counts, key=lambda each: (counts[each], -len(each)), default=None)
    return prefix if prefix and counts[prefix] > matching and counts[prefix] * 2 > len(expected) else None


def misfit(
    model: PreTrainedModel,
    location: str,
    missing: set[str],
    mismatched: Mapping[str, tuple[list[int], list[int]]],
    unexpected: set[str],
    wrapper: str | None,
    *,
    new_head: bool,
) -> ModelError:
    """The error, with counts, the first names, and what to do."""
    told = []
    if missing:
        told.append(f"{len(missing)} of {len(model.state_dict())} weights are missing ({first_of(missing)})")
    if mismatched:
        name, (theirs, ours) = sorted(mismatched.items())[0]
        told.append(f"{len(mismatched)} have another shape (first {name}: {theirs} instead of {ours})")
    if unexpected:
        told.append(f"{len(unexpected)} have no place in it ({first_of(unexpected)})")
    advice = _advice(model, missing, mismatched, unexpected, wrapper, new_head=new_head)
    return ModelError(
        f"{location}: its weights are not those of the {type(model).__name__} that its configuration describes: "
        f"{', '.join(told)}. {advice}"
    )


def _advice(
    model: PreTrainedModel,
    missing: set[str],
    mismatched: Mapping[str, tuple[list[int], list[int]]],
    unexpected: set[str],
    wrapper: str | None,
    *,
    new_head: bool,
) -> str:
    if any(part in name for name in unexpected for part in OF_ADAPTERS) or wrapper == "base_model.model.":
        return "They are those of a model with an adapter: save it again after model.merge_and_unload() of PEFT."
    if wrapper:
        return (
            f"Their names have {wrapper!r} in them, as a wrapper of the model puts it there (torch.compile, "
            "DataParallel, FSDP, or a class of your own). Save the model that it wraps, or rename them with "
            f"safetensors: save_file({{name.replace({wrapper!r}, '', 1): tensor for name, tensor in "
            "load_file(path).items()}, path)."
        )
    outputs = {theirs[0] for name, (theirs, ours) in mismatched.items() if begins_anew(model, name)}
    if len(outputs) == 1 and not missing and not unexpected and all(begins_anew(model, name) for name in mismatched):
        names = [str(name) for name in model.config.id2label.values()]
        return (
            f"The head has {outputs.pop()} outputs, and config.json names {len(names)} classes ({listed(names)}): give "
            "each output its name in id2label and label2id there."
        )
    output = model.get_output_embeddings()
    if output is not None and missing and all(model.get_submodule(_owner(name)) is output for name in missing):
        return (
            "The model has an output layer of its own, since tie_word_embeddings is false. Set it to true in "
            "config.json if the model was trained so, or take the complete checkpoint."
        )
    if (
        not new_head
        and missing
        and not mismatched
        and not unexpected
        and all(begins_anew(model, name) for name in missing)
    ):
        return "So it has no head for this task: add an adapt section to train one, or take a checkpoint that has it."
    return "Take a complete checkpoint, and the config.json that was saved with it."


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def first_of(names: Collection[str]) -> str:
    shown = sorted(names)[:SHOWN]
    return f"{'first ' if len(names) > SHOWN else ''}{', '.join(shown)}"
