"""Speed of a saved model that tags words, documents in and tags out, measured in a process of its own."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.data.words import load_word_tokenizer, windows_of
from potstill.measure.speed import timed
from potstill.measure.weights import COMMON


@dataclass(frozen=True)
class WordRequest:
    """What to measure. `documents` are those of test rows: how many windows they take is what latency depends on."""

    model: str
    documents: tuple[tuple[str, ...], ...]
    max_length: int
    overlap: int
    threads: int
    warmup: int
    batch_size: int
    device: str
    trust_remote_code: bool = False
    beside: tuple[str, ...] = ()
    """Further models that are loaded and answer with it, where several teachers speak as one."""
    dtype: str = COMMON
    in_turn: bool = False
    """Of several, documents are answered by one, as where they are routed by domain, instead of by all."""


def _measure(request: WordRequest) -> dict[str, Any]:
    """Runs in the fresh process. The windows of all documents are read together, a batch of them at a time."""
    import torch
    from transformers import AutoModelForTokenClassification

    torch.set_num_threads(request.threads)
    device = torch.device(request.device)
    trust = {"trust_remote_code": request.trust_remote_code}
    tokenizer = load_word_tokenizer(request.model, **trust)
    models = [
        AutoModelForTokenClassification.from_pretrained(
            each, dtype=getattr(torch, request.dtype), use_safetensors=True, **trust
        )
        .to(device)
        .eval()
        for each in (request.model, *request.beside)
    ]

    turns = itertools.cycle(models)

    def answer(documents: Sequence[Sequence[str]]) -> None:
        split = windows_of(tokenizer, documents, request.max_length, request.overlap)
        tokens = [torch.from_numpy(window.tokens).long() for windows in split for window in windows]
        for start in range(0, len(tokens), request.batch_size):
            part = tokens[start : start + request.batch_size]
            ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
            lengths = torch.tensor([len(each) for each in part])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            for model in [next(turns)] if request.in_turn else models:
                model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.argmax(dim=-1).cpu()

    return timed(answer, request.documents, request.warmup, request.batch_size, device)


if __name__ == "__main__":
    print(json.dumps(_measure(WordRequest(**json.load(sys.stdin)))))
