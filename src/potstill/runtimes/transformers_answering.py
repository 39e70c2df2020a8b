"""Answers from a shipped folder that transformers loads."""

import time
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
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from potstill.artefacts.decisions import decision
from potstill.artefacts.manifest import Manifest
from potstill.data.words import load_word_tokenizer, windows_of
from potstill.runtimes.answering import Answer, Answerer, Asking, Row, text_of, words_of
from potstill.runtimes.prompts import prompts_of

_READS = {
    "text": AutoModelForCausalLM,
    "target": AutoModelForSeq2SeqLM,
    "tags": AutoModelForTokenClassification,
}


def open_answerer(folder: Path, manifest: Manifest, asking: Asking) -> Answerer:
    auto: Any = _READS.get(manifest.answers, AutoModelForSequenceClassification)
    # Half precision is as it is served; a processor that cannot compute in it is told so by torch.
    model = auto.from_pretrained(folder, dtype="auto", use_safetensors=True)
    return answerer_of(model, load_reader(folder, manifest), manifest, asking)


def load_reader(folder: Path, manifest: Manifest, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, as answers need it."""
    if manifest.answers == "tags":
        return load_word_tokenizer(str(folder), **where)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **where)
    return tokenizer


def answerer_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, asking: Asking
) -> Answerer:
    """What answers rows with a model that is in memory."""
    torch.set_num_threads(asking.threads)
    model.eval()
    if manifest.answers in ("text", "target"):
        return _writer(model, tokenizer, manifest, asking)
    if manifest.answers == "tags":
        return _tagger(model, tokenizer, manifest)
    return _classifier(model, tokenizer, manifest, asking)


def _classifier(model: Any, tokenizer: Any, manifest: Manifest, asking: Asking) -> Answerer:
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
            answers.append(decision(manifest, outputs, all_classes=asking.in_detail))
        return answers

    return answer


def _tagger(model: Any, tokenizer: Any, manifest: Manifest) -> Answerer:
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


def _writer(model: Any, tokenizer: Any, manifest: Manifest, asking: Asking) -> Answerer:
    apart, prompt_of = manifest.answers == "target", prompts_of(tokenizer, manifest)
    # Of a search in several beams, logits are not of the tokens that it chose.
    greedy = (model.generation_config.num_beams or 1) == 1
    told = {"return_dict_in_generate": True, "output_logits": asking.in_detail and greedy}

    def answer(rows: Sequence[Row]) -> list[Answer]:
        answers = []
        for row in rows:
            prompt = torch.tensor([prompt_of(row)], dtype=torch.long)
            started = time.perf_counter()
            with torch.inference_mode():
                found = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=asking.new_tokens,
                    do_sample=False,
                    **told,
                )
            seconds = time.perf_counter() - started
            # A decoder of its own begins with one token that nobody wrote.
            written = found.sequences[0][1 if apart else prompt.shape[1] :]
            each: Answer = {"text": tokenizer.decode(written, skip_special_tokens=True)}
            if asking.in_detail:
                each |= {"tokens": _with_probabilities(tokenizer, written, found.logits), "seconds": seconds}
            answers.append(each)
        return answers

    return answer


def _with_probabilities(tokenizer: Any, written: torch.Tensor, logits: Sequence[torch.Tensor] | None) -> list[Any]:
    """Each token that was written, with its probability among all that could have been, where that is known."""
    if logits is None:
        return [(tokenizer.decode([token]), None) for token in written.tolist()]
    return [
        (tokenizer.decode([token]), float(each[0].float().softmax(dim=-1)[token]))
        for token, each in zip(written.tolist(), logits, strict=True)
    ]
