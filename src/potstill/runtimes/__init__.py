"""Who answers: each runtime loads what lies in a folder, says what it gives, and is timed in a process of its own.

A runtime is two modules. `predictor` makes a `Predictor` of a folder; `timing` measures its speed, and imports little,
since what it imports counts as memory. Runtimes of graphs share both, and each has a module that opens a graph. All are
named here and imported where they are used.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """The modules of a runtime."""

    predictor: str
    """With `open_predictor(folder, task, tokenizer, device, batch_size, teacher) -> Predictor`."""
    timing: str
    """With `measure(request) -> dict`, what a process that measures prints."""
    graph: str = ""
    """Of one that answers from graphs: with `open_graph(folder, manifest, threads) -> Graph`, and `open_named`."""
    answering: str = ""
    """With `open_answerer(folder, manifest, asking) -> Answerer`; of graphs, for models that write."""
    libraries: tuple[str, ...] = ()
    """The modules that it imports to answer, by which a process without a model is known."""


_GRAPHS = ("potstill.runtimes.graph_predictor", "potstill.runtimes.graph_timing")
_WRITING = "potstill.runtimes.seq2seq_answering"
RUNTIMES = {
    "transformers": Runtime(
        "potstill.runtimes.transformers",
        "potstill.runtimes.transformers_timing",
        answering="potstill.runtimes.transformers_answering",
    ),
    "onnx": Runtime(*_GRAPHS, graph="potstill.runtimes.onnx", answering=_WRITING, libraries=("onnxruntime",)),
    "openvino": Runtime(*_GRAPHS, graph="potstill.runtimes.openvino", answering=_WRITING, libraries=("openvino",)),
    "executorch": Runtime(*_GRAPHS, graph="potstill.runtimes.executorch", libraries=("executorch.runtime",)),
    "llama_cpp": Runtime(
        "potstill.runtimes.llama_cpp",
        "potstill.runtimes.llama_cpp_timing",
        answering="potstill.runtimes.llama_cpp_answering",
    ),
}
