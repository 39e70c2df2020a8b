"""The student as a Hugging Face folder: weights in safetensors, configuration and tokenizer."""

import shutil
from pathlib import Path
from typing import Literal

from potstill.run_dir import atomic_folder
from potstill.settings import Settings


class Safetensors(Settings):
    """The folder that `from_pretrained` loads, in the precision of training."""

    kind: Literal["safetensors"] = "safetensors"

    def export(self, student: Path, target: Path) -> None:
        """Copy the student's files to `target`, replacing what is there."""
        with atomic_folder(target) as temporary:
            shutil.copytree(student, temporary, dirs_exist_ok=True)
