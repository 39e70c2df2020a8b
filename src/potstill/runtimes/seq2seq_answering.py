"""Answers from the graphs of a shipped encoder-decoder."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from potstill.artefacts.manifest import Manifest
from potstill.runtimes.answering import Answer, Answerer, Asking, Row, written
from potstill.runtimes.prompts import prompts_of
from potstill.runtimes.seq2seq_graphs import Seq2SeqGraphs


def open_answerer(folder: Path, manifest: Manifest, asking: Asking) -> Answerer:
    """Targets are written greedily, and are no longer than they were in training."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt_of = prompts_of(tokenizer, manifest)
    graphs = Seq2SeqGraphs(folder, manifest, asking.threads)
    most = min(asking.new_tokens, manifest.max_target_length or asking.new_tokens)

    def answer(rows: Sequence[Row]) -> list[Answer]:
        return [written(graphs.steps(prompt_of(row), most, manifest.end_tokens), tokenizer, asking) for row in rows]

    return answer
