"""The student as a Hugging Face folder: weights in safetensors, configuration and tokenizer."""

import shutil
from pathlib import Path
from typing import Literal

from potstill.settings import Settings


class Safetensors(Settings):
    """The folder that `from_pretrained` loads, in the precision of training."""

    kind: Literal["safetensors"] = "safetensors"

    def export(self, student: Path, target: Path) -> None:
        """Copy the student's files to `target`, replacing what a broken attempt left there."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(student, target)
