"""Answers from a shipped GGUF file, in llama.cpp."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from potstill.artefacts.llama_cpp import LlamaModel
from potstill.artefacts.manifest import Manifest
from potstill.runtimes.answering import Answer, Answerer, Row, text_of
from potstill.runtimes.llama_cpp import ends_in
from potstill.runtimes.transformers_answering import NEW_TOKENS


def open_answerer(folder: Path, manifest: Manifest, threads: int) -> Answerer:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file, ends = folder / manifest.model_file, ends_in(folder) | {tokenizer.eos_token_id}

    def prompt_of(row: Row) -> list[int]:
        """Messages through the chat template, or a text as it is."""
        messages = row.get("messages")
        if isinstance(messages, list):
            told = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            return list(told["input_ids"])
        return list(tokenizer(text_of(row))["input_ids"])

    def answer(rows: Sequence[Row]) -> list[Answer]:
        prompts = [prompt_of(row) for row in rows]
        model = LlamaModel(file, threads=threads, tokens=max(map(len, prompts)) + NEW_TOKENS)
        try:
            written = [model.greedy(prompt, NEW_TOKENS, ends)[0] for prompt in prompts]
        finally:
            model.close()
        return [{"text": tokenizer.decode(ids, skip_special_tokens=True)} for ids in written]

    return answer
