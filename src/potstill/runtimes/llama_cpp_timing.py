"""The speed of GGUF files in llama.cpp: prompts in, tokens out, without torch and without transformers.

Runs in a process of its own, which prints what `measure` returns.
"""

from pathlib import Path
from typing import Any

from potstill.artefacts.llama_cpp import LlamaModel, library
from potstill.artefacts.manifest import read_manifest
from potstill.measure.speed import Loading, by_token, peak_memory_bytes
from potstill.runtimes.timing import SpeedRequest


def measure(request: SpeedRequest) -> dict[str, Any]:
    """Load, warm up, time each token after each prompt, whatever they are; a prompt that is a text is read first."""
    library()
    folder, new_tokens = Path(request.model), request.settings["new_tokens"]
    file = folder / read_manifest(folder).model_file
    prompts = _prompts(file, request)
    loading = Loading.begins()
    model = LlamaModel(file, threads=request.threads, tokens=max(map(len, prompts)) + new_tokens)
    loaded = loading.ended()
    for prompt in prompts[: request.warmup]:
        model.greedy(prompt, min(2, new_tokens))
    found = by_token([model.greedy(prompt, new_tokens)[1] for prompt in prompts])
    return loaded | found | {"peak_memory_bytes": peak_memory_bytes()}


def _prompts(file: Path, request: SpeedRequest) -> list[list[int]]:
    reader = LlamaModel(file, threads=1, tokens=0, only_tokens=True)
    prompts = [
        reader.tokenize(query, around=True) if isinstance(query, str) else list(query) for query in request.queries
    ]
    reader.close()
    return prompts
