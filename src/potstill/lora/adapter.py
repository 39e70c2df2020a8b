"""An adapter in a model: put in, merged into the weights for the time of a saving, and written as a folder."""

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.errors import RecipeError
from potstill.lora.modules import LoraModules
from potstill.lora.settings import LoraSettings
from potstill.run_dir import write_json

_NAME = "default"
"""What peft calls an adapter that has no name."""
_PREFIX = "base_model.model."
"""How the names in peft's files begin."""


def require_peft(where: str) -> None:
    """Ask for the package without importing it.

    Raises:
        RecipeError: it is not installed; says how to.
    """
    if find_spec("peft") is None:
        raise RecipeError(f"{where}: peft is not installed. Run: pip install 'potstill[lora]'")


def _peft() -> Any:
    """The package, without what another that it imports where it is there says of kernels that nothing here uses."""
    other = logging.getLogger("bitsandbytes")
    level = other.level
    other.setLevel(logging.ERROR)
    try:
        return importlib.import_module("peft")
    finally:
        other.setLevel(level)


def add_adapter(
    model: PreTrainedModel, settings: LoraSettings, modules: LoraModules, *, seed: int, still: torch.dtype | None = None
) -> "Adapter":
    """Put an adapter into a model, which stays what it is: of its class, with its parts under their names.

    Only its matrices, and the modules that are trained in full, ask for gradients; they are in float32 at least. A is a
    function of the seed and B is zero, so at first the model gives what it gave. `still` is the type in which all other
    weights are held, and the model is saved; by default they stay as they are.
    """
    peft = _peft()
    saved_as = {name: parameter.dtype for name, parameter in _of(model, modules.full)}
    if still is not None:
        # What is trained in full is no sum beside weights of this type, and keeps its own.
        in_full = {id(parameter) for _, parameter in _of(model, modules.full)}
        _cast((each for each in model.parameters() if id(each) not in in_full), still)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilised,
        target_modules=list(modules.adapted),
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in modules.adapted),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft speaks of experts for every model that can have some, whether they are adapted or not.
        warnings.filterwarnings("ignore", message=".*(rank|alpha)_pattern keys", category=RuntimeWarning)
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    for parameter in _trained(model, modules):
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.requires_grad_()
    return Adapter(model, settings, modules, config, saved_as)


@dataclass(frozen=True)
class Adapter:
    """What `add_adapter` put into a model."""

    model: PreTrainedModel
    settings: LoraSettings
    modules: LoraModules
    config: Any
    """peft's own."""
    saved_as: Mapping[str, torch.dtype]
    """The types of the weights that are trained in full, as they are saved with the model."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights beside which it stands, in which the merged model is saved."""
        weight = self.model.get_submodule(self.modules.adapted[0]).weight
        assert isinstance(weight, Tensor)
        return weight.dtype

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within it the model is a plain one, whose weights are the sums; afterwards all is as it was, bit by bit.

        A sum is made in float32 at least, and then rounded to the type of its weight.
        """
        layers = {name: self.model.get_submodule(name) for name in self.modules.adapted}
        before: dict[str, Tensor] = {}
        full = {name: parameter.data for name, parameter in _of(self.model, self.modules.full)}
        try:
            for name, layer in layers.items():
                base = layer.get_submodule("base_layer")
                # Out of an accelerator's memory, which may not hold all weights twice.
                before[name] = base.weight.data.to("cpu", copy=True)
                base.weight.data.copy_(_sum(base.weight.data, layer.get_delta_weight(_NAME)))
                self.model.set_submodule(name, base)
            for name, parameter in _of(self.model, self.modules.full):
                parameter.data = parameter.data.to(self.saved_as[name])
            yield
        finally:
            for name, weight in before.items():
                layers[name].get_submodule("base_layer").weight.data.copy_(weight)
                self.model.set_submodule(name, layers[name])
            for name, parameter in _of(self.model, self.modules.full):
                parameter.data = full[name]

    def save(self, folder: Path, *, base: str, revision: str | None, task: str) -> None:
        """Write it as files of peft, for the model that is called `base`; `task` is the type that peft has for it."""
        tensors = {}
        for name in self.modules.adapted:
            for matrix in ("lora_A", "lora_B"):
                tensors[f"{_PREFIX}{name}.{matrix}.weight"] = self.model.get_parameter(
                    f"{name}.{matrix}.{_NAME}.weight"
                )
        full = {id(parameter) for _, parameter in _of(self.model, self.modules.full)}
        # Also under the other names of a matrix that has several, such as that of an output layer: peft asks for them.
        named = self.model.named_parameters(remove_duplicate=False)
        in_full = {name: parameter for name, parameter in named if id(parameter) in full}
        tensors |= {f"{_PREFIX}{name}": parameter for name, parameter in in_full.items()}
        owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(owned, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = _peft().LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,
            lora_dropout=self.settings.dropout,
            use_rslora=self.settings.rank_stabilised,
            # As few names as mean the same.
            target_modules=self.config.target_modules,
            fan_in_fan_out=self.config.fan_in_fan_out,
            modules_to_save=list(self.modules.full) or None,
            # Else peft would part the embeddings from an output layer that is the same matrix.
            ensure_weight_tying=len(in_full) > len(full),
            base_model_name_or_path=base,
            revision=revision,
            task_type=task,
            inference_mode=True,
        )
        # Sets in an order of their own: peft writes them in one that differs from process to process.
        values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
        write_json(folder / "adapter_config.json", values)


def _sum(weight: Tensor, change: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32)) + change


def _of(model: nn.Module, modules: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of these modules by their whole names."""
    for module in modules:
        for name, parameter in model.get_submodule(module).named_parameters():
            yield f"{module}.{name}", parameter


def _trained(model: nn.Module, modules: LoraModules) -> Iterator[nn.Parameter]:
    yield from (parameter for parameter in model.parameters() if parameter.requires_grad)
    yield from (parameter for _, parameter in _of(model, modules.full))


def _cast(parameters: Iterator[nn.Parameter], dtype: torch.dtype) -> None:
    # Not the model as a whole: rotary positions are buffers, and lose much in half precision.
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)
