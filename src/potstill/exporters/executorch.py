"""ExecuTorch for phones and other small devices, on their processors through XNNPACK."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from potstill.capabilities import Facts
from potstill.exporters.exporter import GraphExporter, Inputs, Source, versions_of
from potstill.exporters.rounded_embedding import is_table, round_embeddings
from potstill.exporters.rounding import RoundOf, int8_by_channel
from potstill.exporters.tracing import quietly, write_graph

LEAST_SCALE = 1e-12
"""As in `int8_by_channel`; XNNPACK's own, 2^-12, leaves rows of small weights few levels."""


class ExecuTorch(GraphExporter):
    """A program for ExecuTorch, in float32 or with weights in 8 bits. It reads one text at a time, of any length."""

    kind: Literal["executorch"] = "executorch"
    precision: Literal["float32", "int8"] = "float32"
    """8 bits scale activations as they come, so that no rows are needed."""
    runtime: ClassVar[str] = "executorch"
    extra: ClassVar[str | None] = "executorch"
    libraries: ClassVar[tuple[str, ...]] = ("executorch", "torchao")

    @property
    def form(self) -> str:
        return f"{self.kind}-{self.precision}"

    @property
    def scaled_on_rows(self) -> bool:
        return False

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.generative:
            yield (
                f"{where}: programs for ExecuTorch are of models with a head, and those of {facts.task} write. Export "
                "{kind: safetensors}, or leave it out."
            )
            return
        yield from super().refusals(where, facts)

    @property
    def rounds(self) -> bool:
        return self.precision == "int8"

    def rounding(self, model: PreTrainedModel) -> RoundOf:
        return lambda name, module: int8_by_channel if isinstance(module, nn.Linear) or is_table(module) else None

    @property
    def tolerance(self) -> float | None:
        return 1e-3 if self.precision == "float32" else None

    def export(self, source: Source, target: Path) -> None:
        with quietly():
            from transformers.exporters import ExecutorchConfig, ExecutorchExporter

            longest = source.about.max_length
            inputs = _one_text(source.inputs, longest)
            config = ExecutorchConfig(dynamic_shapes=_lengths(inputs, longest), quantizer=self._quantizer(inputs))
            exporter = ExecutorchExporter()
        write_graph(
            exporter,
            config,
            source,
            target,
            # Fused attention is taken apart into more steps than its plain form has.
            attention="eager",
            inputs=inputs,
            prepare=round_embeddings if self.precision == "int8" else None,
            kind=self.kind,
            precision=self.precision,
            runtime=self.runtime,
            model_file="model.pte",
            packages=versions_of("executorch", "torchao", "transformers"),
        )

    def _quantizer(self, inputs: Inputs) -> Any:
        if self.precision == "float32":
            return None
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e import PerChannelMinMaxObserver
        from transformers.exporters import PT2EQuantizer

        rounding = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        observer = PerChannelMinMaxObserver.with_args(eps=LEAST_SCALE)
        rounding = replace(rounding, weight=replace(rounding.weight, observer_or_fake_quant_ctr=observer))
        quantizer: Any = XNNPACKQuantizer().set_global(rounding)
        # Numbers in a graph become floats there, also those that are added to indices. Linear layers alone are rounded.
        quantizer.transform_for_annotation = lambda graph: graph
        # The weights are all that is observed.
        return PT2EQuantizer(quantizer, calibration_dataset=[dict(inputs)])


def _one_text(inputs: Inputs, longest: int) -> dict[str, torch.Tensor]:
    """Of half the length that is read at most: what is traced at one token, or at the limit, is true of that alone."""
    length = max(2, longest // 2)
    return {name: _repeated(values[:1], length) for name, values in inputs.items()}


def _repeated(row: torch.Tensor, length: int) -> torch.Tensor:
    return row.repeat(1, -(-length // row.shape[1]))[:, :length].contiguous()


def _lengths(inputs: Inputs, longest: int) -> dict[str, Any]:
    """The length alone is free: memory is laid out for the longest text, and a batch would take as much for each."""
    length = torch.export.Dim("length", min=1, max=longest)
    return {name: {1: length} for name in inputs}
