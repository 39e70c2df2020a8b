"""The speed of graphs: texts or documents in, decisions or tags out, or prompts in and tokens out, without torch and
without transformers.

Runs in a process of its own, which prints what `measure` returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.artefacts.reading import Reader
from potstill.measure.energy import EnergyMeter
from potstill.measure.speed import Loading, peak_memory_bytes
from potstill.measure.timed import Answer, Answering, timed, timed_series, timed_writing, timed_writing_series
from potstill.runtimes import RUNTIMES
from potstill.runtimes.graphs import Graph, open_graph
from potstill.runtimes.seq2seq_graphs import Seq2SeqGraphs
from potstill.runtimes.timing import SpeedRequest


def measure(request: SpeedRequest) -> dict[str, Any]:
    """Load, warm up, time each query alone, then batches of them, or each token after a prompt."""
    folder = Path(request.model)
    manifest = read_manifest(folder)
    import_module("tokenizers")
    for library in RUNTIMES[manifest.runtime].libraries:
        import_module(library)
    loading = Loading.begins()
    timing = (_prompts if request.form == "prompts" else _rows)(request, folder, manifest)
    loaded = loading.ended()
    found = timing.standard(EnergyMeter.on(request.device))
    # The memory of what is timed beside is another, and models are compared by this one.
    peak = peak_memory_bytes()
    return found | loaded | {"peak_memory_bytes": peak, "points": timing.further()}


@dataclass(frozen=True)
class _Timing:
    """What is timed of a graph once it is loaded."""

    standard: Callable[[EnergyMeter], dict[str, Any]]
    further: Callable[[], list[dict[str, Any]]]


def _rows(request: SpeedRequest, folder: Path, manifest: Manifest) -> _Timing:
    """Each query alone, then batches of them."""
    reader = Reader(folder, manifest)
    answering = _FORMS[request.form](request, reader, open_graph(folder, manifest, request.threads))
    size = request.batch_size
    return _Timing(
        lambda meter: timed(answering(size), request.queries, request.warmup, size, meter),
        lambda: timed_series(answering, request.series, request.warmup),
    )


def _prompts(request: SpeedRequest, folder: Path, manifest: Manifest) -> _Timing:
    """Each token after a prompt, whatever they are."""
    graphs, new_tokens = Seq2SeqGraphs(folder, manifest, request.threads), request.settings["new_tokens"]

    def write(prompt: Sequence[int], count: int) -> Sequence[float]:
        return graphs.greedy(prompt, count)[1]

    return _Timing(
        lambda meter: timed_writing(write, request.queries, request.warmup, new_tokens, meter),
        lambda: timed_writing_series(write, request.series, request.warmup, new_tokens),
    )


def _of_texts(request: SpeedRequest, reader: Reader, graph: Graph) -> Answering:
    several = read_manifest(Path(request.model)).answers == "multi_label"

    def answer(texts: Sequence[str | Sequence[str]]) -> None:
        logits = graph(reader.feeds([reader.encode(text) for text in texts]))
        # The decision is part of the answer.
        _ = logits > 0 if several else logits.argmax(axis=-1)

    return lambda _: answer


def _of_documents(request: SpeedRequest, reader: Reader, graph: Graph) -> Answering:
    """The windows of all documents are read together, a batch of them at a time."""

    def answering(batch_size: int) -> Answer:
        def answer(documents: Sequence[Sequence[str]]) -> None:
            windows = [window for words in documents for window in reader.encode_words(words)]
            for start in range(0, len(windows), batch_size):
                _ = graph(reader.feeds(windows[start : start + batch_size])).argmax(axis=-1)

        return answer

    return answering


_FORMS: dict[str, Callable[[SpeedRequest, Reader, Graph], Answering]] = {
    "texts": _of_texts,
    "documents": _of_documents,
}
