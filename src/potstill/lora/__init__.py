"""LoRA: two narrow matrices beside each linear layer are trained, and the weights themselves stay as they are."""

from potstill.lora.adapter import Adapter, add_adapter, require_peft
from potstill.lora.modules import LoraModules, choose_modules
from potstill.lora.settings import LoraSettings

__all__ = ["Adapter", "LoraModules", "LoraSettings", "add_adapter", "choose_modules", "require_peft"]
