"""Answers from a shipped GGUF file, in llama.cpp."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from potstill.artefacts.decisions import probabilities
from potstill.artefacts.llama_cpp import LlamaModel
from potstill.artefacts.manifest import Manifest
from potstill.runtimes.answering import Answer, Answerer, Asking, Row
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
            return [after(model, prompt) for prompt in prompts]
        finally:
            model.close()

    def after(model: LlamaModel, prompt: Sequence[int]) -> Answer:
        ids: list[int] = []
        seconds, chances = 0.0, []
        for token, took, logits in model.steps(prompt, asking.new_tokens, ends):
            ids.append(token)
            seconds += took
            if asking.in_detail:
                chances.append(float(probabilities(logits, 1.0)[token]))
        answer: Answer = {"text": tokenizer.decode(ids, skip_special_tokens=True)}
        if asking.in_detail:
            pieces = [tokenizer.decode([token]) for token in ids]
            answer |= {"tokens": list(zip(pieces, chances, strict=True)), "seconds": seconds}
        return answer

    return answer
