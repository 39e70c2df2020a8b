"""Answers from a shipped GGUF file, in llama.cpp."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from potstill.artefacts.llama_cpp import LlamaModel
from potstill.artefacts.manifest import Manifest
from potstill.runtimes.answering import Answer, Answerer, Asking, Row, written
from potstill.runtimes.llama_cpp import ends_in
from potstill.runtimes.prompts import prompts_of


def open_answerer(folder: Path, manifest: Manifest, asking: Asking) -> Answerer:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file, ends = folder / manifest.model_file, ends_in(folder) | {tokenizer.eos_token_id}

    prompt_of = prompts_of(tokenizer, manifest)

    def answer(rows: Sequence[Row]) -> list[Answer]:
        prompts = [prompt_of(row) for row in rows]
        model = LlamaModel(file, threads=asking.threads, tokens=max(map(len, prompts)) + asking.new_tokens)
        try:
            return [written(model.steps(each, asking.new_tokens, ends), tokenizer, asking) for each in prompts]
        finally:
            model.close()

    return answer
