"""The speed of GGUF files in llama.cpp: prompts in, tokens out, without torch and without transformers.

Runs in a process of its own, which prints what `measure` returns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.artefacts.llama_cpp import LlamaModel, library
from potstill.artefacts.manifest import read_manifest
from potstill.measure.energy import EnergyMeter
from potstill.measure.speed import Loading, peak_memory_bytes
from potstill.measure.timed import Write, timed_writing, timed_writing_series
from potstill.runtimes.timing import SpeedRequest


def measure(request: SpeedRequest) -> dict[str, Any]:
    """Load, warm up, time each token after each prompt, whatever they are; a prompt that is a text is read first."""
    library()
    folder, new_tokens = Path(request.model), request.settings["new_tokens"]
    file = folder / read_manifest(folder).model_file
    prompts = _prompts(file, request)
    loading = Loading.begins()
    model = _with_room(file, request, prompts)
    loaded = loading.ended()
    # It answers on the processor, whichever device other models do.
    found = timed_writing(_writing(model), prompts, request.warmup, new_tokens, EnergyMeter.on("cpu"))
    # What is timed beside takes a model with room for longer prompts.
    peak = peak_memory_bytes()
    model.close()
    points = []
    for series in request.series:
        model = _with_room(file, request, series.queries)
        points += timed_writing_series(_writing(model), [series], request.warmup, new_tokens)
        model.close()
    return found | loaded | {"peak_memory_bytes": peak, "points": points}


def _with_room(file: Path, request: SpeedRequest, prompts: Sequence[Sequence[int]]) -> LlamaModel:
    tokens = max(map(len, prompts)) + request.settings["new_tokens"]
    return LlamaModel(file, threads=request.threads, tokens=tokens)


def _writing(model: LlamaModel) -> Write:
    return lambda prompt, count: model.greedy(prompt, count)[1]


def _prompts(file: Path, request: SpeedRequest) -> list[list[int]]:
    reader = LlamaModel(file, threads=1, tokens=0, only_tokens=True)
    prompts = [
        reader.tokenize(query, around=True) if isinstance(query, str) else list(query) for query in request.queries
    ]
    reader.close()
    return prompts
