"""The speed of graphs: texts or documents in, decisions or tags out, or prompts in and tokens out, without torch and
without transformers.

Runs in a process of its own, which prints what `measure` returns.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import read_manifest
from potstill.artefacts.reading import Reader
from potstill.measure.speed import Loading, by_token, peak_memory_bytes, timed
from potstill.runtimes import RUNTIMES
from potstill.runtimes.graphs import Graph, open_graph
from potstill.runtimes.seq2seq_graphs import Seq2SeqGraphs
from potstill.runtimes.timing import SpeedRequest

Answer = Callable[[Sequence[Any]], None]


def measure(request: SpeedRequest) -> dict[str, Any]:
    """Load, warm up, time each query alone, then batches of them, or each token after a prompt."""
    folder = Path(request.model)
    manifest = read_manifest(folder)
    import_module("tokenizers")
    for library in RUNTIMES[manifest.runtime].libraries:
        import_module(library)
    loading = Loading.begins()
    if request.form == "prompts":
        graphs = Seq2SeqGraphs(folder, manifest, request.threads)
        loaded = loading.ended()
        found = _of_prompts(request, graphs)
    else:
        reader = Reader(folder, manifest)
        graph = open_graph(folder, manifest, request.threads)
        loaded = loading.ended()
        answer = _FORMS[request.form](request, reader, graph)
        found = timed(answer, request.queries, request.warmup, request.batch_size)
    return found | loaded | {"peak_memory_bytes": peak_memory_bytes()}


def _of_texts(request: SpeedRequest, reader: Reader, graph: Graph) -> Answer:
    several = read_manifest(Path(request.model)).answers == "multi_label"

    def answer(texts: Sequence[str | Sequence[str]]) -> None:
        logits = graph(reader.feeds([reader.encode(text) for text in texts]))
        # The decision is part of the answer.
        _ = logits > 0 if several else logits.argmax(axis=-1)

    return answer


def _of_documents(request: SpeedRequest, reader: Reader, graph: Graph) -> Answer:
    """The windows of all documents are read together, a batch of them at a time."""

    def answer(documents: Sequence[Sequence[str]]) -> None:
        windows = [window for words in documents for window in reader.encode_words(words)]
        for start in range(0, len(windows), request.batch_size):
            _ = graph(reader.feeds(windows[start : start + request.batch_size])).argmax(axis=-1)

    return answer


def _of_prompts(request: SpeedRequest, graphs: Seq2SeqGraphs) -> dict[str, Any]:
    """`new_tokens` after each prompt, whatever they are."""
    new_tokens = request.settings["new_tokens"]
    for prompt in request.queries[: request.warmup]:
        graphs.greedy(prompt, min(2, new_tokens))
    return by_token([graphs.greedy(prompt, new_tokens)[1] for prompt in request.queries])


_FORMS: dict[str, Callable[[SpeedRequest, Reader, Graph], Answer]] = {"texts": _of_texts, "documents": _of_documents}
