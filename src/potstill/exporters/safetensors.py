"""The student as a Hugging Face folder: weights in safetensors, configuration and tokenizer."""

import shutil
from pathlib import Path
from typing import ClassVar, Literal

from potstill.exporters.exporter import ExporterSettings, Source, versions_of


class Safetensors(ExporterSettings):
    """The folder that `from_pretrained` loads."""

    kind: Literal["safetensors"] = "safetensors"
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32 is that of training. bfloat16 has half the size, and is what vLLM and most GPUs serve."""
    runtime: ClassVar[str] = "transformers"

    @property
    def form(self) -> str:
        return self.kind if self.precision == "float32" else f"{self.kind}-{self.precision}"

    @property
    def same_files(self) -> bool:
        return self.precision == "float32"

    @property
    def tolerance(self) -> float | None:
        return 0.0 if self.same_files else None

    def export(self, source: Source, target: Path) -> None:
        shutil.copytree(source.folder, target, dirs_exist_ok=True)
        model = source.load()
        about = source.described(
            model,
            kind=self.kind,
            precision=self.precision,
            runtime=self.runtime,
            model_file="model.safetensors",
            packages=versions_of("torch", "transformers"),
        )
        if not self.same_files:
            import torch

            for weights in target.glob("model*.safetensors*"):
                weights.unlink()
            model.to(getattr(torch, self.precision)).save_pretrained(target)
        about.write(target)
