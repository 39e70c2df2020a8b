"""Answers from a shipped folder that transformers loads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from potstill.artefacts.decisions import decision
from potstill.artefacts.manifest import Manifest
from potstill.data.words import load_word_tokenizer, windows_of
from potstill.runtimes.answering import Answer, Answerer, Row, text_of, words_of

NEW_TOKENS = 256
"""As much as a model writes after a prompt, where it does not end before."""


def open_answerer(folder: Path, manifest: Manifest, threads: int) -> Answerer:
    torch.set_num_threads(threads)
    if manifest.answers in ("text", "target"):
        return _writer(folder, manifest)
    return _tagger(folder, manifest) if manifest.answers == "tags" else _classifier(folder, manifest)


def _loaded(auto: Any, folder: Path) -> Any:
    # Half precision is as it is served; a processor that cannot compute in it is told so by torch.
    return auto.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()


def _classifier(folder: Path, manifest: Manifest) -> Answerer:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), _loaded(AutoModelForSequenceClassification, folder)

    def answer(rows: Sequence[Row]) -> list[Answer]:
        texts = [text_of(row) for row in rows]
        columns = [[text] if isinstance(text, str) else list(text) for text in texts]
        # One at a time: rows of a batch would be padded, and may be pairs or none.
        answers = []
        for column in columns:
            encoded = tokenizer(
                *column,
                truncation="longest_first",
                max_length=manifest.max_length,
                split_special_tokens=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                outputs = model(**encoded).logits[0].float().numpy()
            answers.append(decision(manifest, outputs))
        return answers

    return answer


def _tagger(folder: Path, manifest: Manifest) -> Answerer:
    tokenizer, model = load_word_tokenizer(str(folder)), _loaded(AutoModelForTokenClassification, folder)

    def answer(rows: Sequence[Row]) -> list[Answer]:
        documents = [words_of(row) for row in rows]
        answers: list[Answer] = []
        for words, windows in zip(
            documents, windows_of(tokenizer, documents, manifest.max_length, manifest.overlap), strict=True
        ):
            tags: list[str | None] = [None] * len(words)
            for window in windows:
                ids = torch.from_numpy(window.tokens).long()[None]
                with torch.inference_mode():
                    best = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].argmax(dim=-1)
                for place, word in zip(window.places.tolist(), window.words.tolist(), strict=True):
                    tags[word] = manifest.labels[int(best[place])]
            answers.append({"tags": tags})
        return answers

    return answer


def _writer(folder: Path, manifest: Manifest) -> Answerer:
    apart = manifest.answers == "target"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = _loaded(AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM, folder)

    def answer(rows: Sequence[Row]) -> list[Answer]:
        answers = []
        for row in rows:
            inputs = _prompt(tokenizer, row)
            with torch.inference_mode():
                written = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0]
            begin = 0 if apart else inputs["input_ids"].shape[1]
            answers.append({"text": tokenizer.decode(written[begin:], skip_special_tokens=True)})
        return answers

    return answer


def _prompt(tokenizer: Any, row: Row) -> Any:
    """Messages through the chat template, or a text as it is."""
    messages = row.get("messages")
    if isinstance(messages, list):
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    return tokenizer(text_of(row), return_tensors="pt")
