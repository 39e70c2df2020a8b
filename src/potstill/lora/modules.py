"""Which modules of a model LoRA adapts, and which are trained in full beside them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.errors import RecipeError
from potstill.lora.settings import LoraSettings
from potstill.models import family_of

OF_EXPERTS = frozenset({"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""What matrices of experts were called, each a module of its own (peft 0.21, transformers_weight_conversion)."""
SHOWN = 24
"""Names that an error lists."""


@dataclass(frozen=True)
class LoraModules:
    """Modules by their whole names."""

    adapted: tuple[str, ...]
    """Linear layers that get two matrices."""
    full: tuple[str, ...]
    """Modules of which every weight is trained."""
    trained_parameters: int
    parameters: int
    """Of the model itself."""


def choose_modules(
    model: PreTrainedModel,
    settings: LoraSettings,
    *,
    where: str,
    head_in_full: bool,
    new: Collection[str] = (),
    frozen_layers: int = 0,
) -> LoraModules:
    """The modules that these settings, which stand at `where` in the recipe, mean in a model, which may be without
    weights.

    `head_in_full` says whether all that lies outside of the base model is trained in full, and `new` names weights that
    are drawn anew. Of the embeddings and the lowest `frozen_layers` nothing is trained.

    Raises:
        RecipeError: a name that no module has, or one that cannot be adapted; names those that can.
    """
    still = {name for name, _ in model.named_modules() if frozen_layers and _below(model, name, frozen_layers)}
    full = [*_head(model), *_modules_of(new)] if head_in_full else list(_modules_of(new))
    full += _asked_in_full(model, settings, still, where)
    full = [name for name in dict.fromkeys(full) if not _inside(name, [each for each in full if each != name])]
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not model.get_output_embeddings()
        and not _inside(name, full)
        and name not in still
        and not _taken_for_experts(model, name)
    ]
    if settings.target_modules == "all-linear":
        adapted = linear
    else:
        adapted = [name for name in linear if any(_ends(name, asked) for asked in settings.target_modules)]
        for asked in settings.target_modules:
            if not any(_ends(name, asked) for name in adapted):
                raise _no_target(model, asked, linear, f"{where}.target_modules")
    if not adapted:
        raise RecipeError(f"{where}: the model has no linear layer to adapt but its head. Leave lora out.")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return LoraModules(tuple(adapted), tuple(full), _trained(model, adapted, full, settings.rank), parameters)


def _taken_for_experts(model: PreTrainedModel, name: str) -> bool:
    """Whether peft would adapt the experts of a model in place of a layer of this name.

    Experts lie in tensors of three axes since transformers 5, and peft finds them by the names that they had before.
    """
    return name.rpartition(".")[2] in OF_EXPERTS and any(parameter.dim() == 3 for parameter in model.parameters())


def _head(model: PreTrainedModel) -> Iterator[str]:
    """What lies outside of the base model: a classifier, and what stands before it."""
    for name, module in model.named_children():
        if name != model.base_model_prefix and any(True for _ in module.parameters()):
            yield name


def _modules_of(weights: Collection[str]) -> Iterator[str]:
    yield from dict.fromkeys(name.rpartition(".")[0] for name in sorted(weights))


def _asked_in_full(model: PreTrainedModel, settings: LoraSettings, still: Collection[str], where: str) -> Sequence[str]:
    found: list[str] = []
    with_weights = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    for asked in settings.modules_to_save:
        own = [name for name in with_weights if _ends(name, asked)]
        if not own:
            raise RecipeError(
                f"{where}.modules_to_save: no module is called {asked!r}; there are {_listed(with_weights)}."
            )
        if kept := [name for name in own if _inside(name, still) or any(_inside(each, [name]) for each in still)]:
            raise RecipeError(
                f"{where}.modules_to_save: {kept[0]} would be trained, and frozen_layers keeps it as it is. Drop one."
            )
        found += own
    return found


def _no_target(model: PreTrainedModel, asked: str, linear: Sequence[str], where: str) -> RecipeError:
    output = model.get_output_embeddings()
    own = [(name, module) for name, module in model.named_modules() if _ends(name, asked)]
    if any(module is output for _, module in own):
        return RecipeError(
            f"{where}: {asked!r} is the output layer, whose weights losses read as they are. Leave it out; "
            "modules_to_save trains it in full."
        )
    if any(_taken_for_experts(model, name) for name, _ in own):
        return RecipeError(
            f"{where}: where a model has experts, peft takes layers called {asked!r} for them, and these stay as they "
            "are here. Leave it out."
        )
    if any(isinstance(module, nn.Linear | Conv1D) for _, module in own):
        return RecipeError(f"{where}: {asked!r} is trained in full, or kept as it is by frozen_layers. Leave it out.")
    if own:
        return RecipeError(
            f"{where}: {asked!r} is a {type(own[0][1]).__name__} and no linear layer. Give names of these: "
            f"{_listed(linear)}; modules_to_save trains others in full."
        )
    return RecipeError(f"{where}: no linear layer is called {asked!r}; there are {_listed(linear)}.")


def _listed(names: Sequence[str]) -> str:
    """The last parts of names, each once."""
    last = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdecimal()})
    return ", ".join(last[:SHOWN]) + (", ..." if len(last) > SHOWN else "")


def _below(model: PreTrainedModel, name: str, frozen_layers: int) -> bool:
    """Whether a module is of the embeddings or of one of the lowest layers."""
    family = family_of(model.config)
    place, slot = family.layer_of(f"{name}.weight"), family.slot(f"{name}.weight")
    return place[1] < frozen_layers if place is not None else slot is not None and slot.role.embeds


def _ends(name: str, asked: str) -> bool:
    return name == asked or name.endswith(f".{asked}")


def _inside(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _trained(model: PreTrainedModel, adapted: Sequence[str], full: Sequence[str], rank: int) -> int:
    count = sum(rank * sum(model.get_parameter(f"{name}.weight").shape) for name in adapted)
    whole = {id(each): each.numel() for name in full for each in model.get_submodule(name).parameters()}
    return int(count + sum(whole.values()))
