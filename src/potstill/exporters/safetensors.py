"""The student as a Hugging Face folder: weights in safetensors, configuration and tokenizer."""

import shutil
from pathlib import Path
from typing import ClassVar, Literal

from potstill.measure.weights import saved_weights
from potstill.run_dir import atomic_folder
from potstill.settings import Settings


class Safetensors(Settings):
    """The folder that `from_pretrained` loads, in the precision of training."""

    kind: Literal["safetensors"] = "safetensors"
    runtime: ClassVar[str] = "transformers"
    tolerance: ClassVar[float] = 0.0

    def export(self, student: Path, target: Path) -> None:
        """Copy the student's files to `target`, replacing what is there."""
        with atomic_folder(target) as temporary:
            shutil.copytree(student, temporary, dirs_exist_ok=True)

    def size_bytes(self, target: Path) -> int:
        """Of the weights alone."""
        return saved_weights(target).size_bytes
