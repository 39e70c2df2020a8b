"""Speed of a saved language model that writes greedily, token by token, measured in a process of its own."""

import itertools
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.measure.speed import peak_memory_bytes
from potstill.measure.weights import COMMON

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class GenerationRequest:
    """What to measure: `new_tokens` after each prompt, whatever they are."""

    model: str
    prompts: tuple[TokenIds, ...]
    new_tokens: int
    threads: int
    warmup: int
    device: str
    trust_remote_code: bool = False
    beside: tuple[str, ...] = ()
    """Further models that speak with it, where several teachers speak as one."""
    dtype: str = COMMON
    in_turn: bool = False
    """Of several, one speaks after each prompt, as where rows are routed by domain, instead of all."""


Together = Callable[[Sequence[Any]], Any]
"""The logits of the next token that several models have together, from those of each."""


def greedy(
    models: Sequence[Any],
    prompt: Sequence[int],
    new_tokens: int,
    *,
    stop: Collection[int] = (),
    together: Together | None = None,
) -> tuple[list[int], list[float]]:
    """The likeliest tokens after a prompt up to a stop token, with the seconds that each took; the first includes
    the reading of the prompt, which an encoder does where the model has one. Of several models `together` makes the
    logits that count; by default their probabilities are averaged."""
    import torch

    readers = [_Reader(model, prompt) for model in models]
    generated: list[int] = []
    seconds: list[float] = []
    with torch.inference_mode():
        for _ in range(new_tokens):
            started = time.perf_counter()
            logits = [reader.next(generated) for reader in readers]
            token = int((logits[0] if len(logits) == 1 else (together or _averaged)(logits)).argmax())
            seconds.append(time.perf_counter() - started)
            generated.append(token)
            if token in stop:
                break
    return generated, seconds


class _Reader:
    """A model on its way through a text, with what it keeps of the tokens before."""

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        self._model, self._prompt = model, prompt
        self._past: Any = None
        self._memory: Any = None

    def next(self, generated: Sequence[int]) -> Any:
        """The logits of the next token, after the prompt and the tokens since."""
        model = self._model
        if not model.config.is_encoder_decoder:
            ids = self._tensor(generated[-1:] or self._prompt)
            out = model(input_ids=ids, past_key_values=self._past, use_cache=True, logits_to_keep=1)
        else:
            if self._memory is None:
                self._memory = model.get_encoder()(input_ids=self._tensor(self._prompt))
            ids = self._tensor(generated[-1:] or [model.config.decoder_start_token_id])
            out = model(encoder_outputs=self._memory, decoder_input_ids=ids, past_key_values=self._past, use_cache=True)
        self._past = out.past_key_values
        return out.logits[0, -1]

    def _tensor(self, ids: Sequence[int]) -> Any:
        import torch

        return torch.tensor([list(ids)], device=self._model.device)


def _averaged(logits: Sequence[Any]) -> Any:
    import torch

    return torch.stack([each.softmax(dim=-1) for each in logits]).mean(dim=0)


def _measure(request: GenerationRequest) -> dict[str, Any]:
    """Runs in the fresh process."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.set_num_threads(request.threads)
    trust = {"trust_remote_code": request.trust_remote_code}
    apart = AutoConfig.from_pretrained(request.model, **trust).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM
    models = [
        kind.from_pretrained(each, dtype=getattr(torch, request.dtype), use_safetensors=True, **trust)
        .to(request.device)
        .eval()
        for each in (request.model, *request.beside)
    ]
    turns = itertools.cycle([[model] for model in models] if request.in_turn else [models])
    for prompt in request.prompts[: request.warmup]:
        greedy(next(turns), prompt, min(2, request.new_tokens))
    taken = [greedy(next(turns), prompt, request.new_tokens)[1] for prompt in request.prompts]
    peak = torch.cuda.max_memory_allocated() if request.device == "cuda" else peak_memory_bytes()
    return {
        "first_ms": [1000 * seconds[0] for seconds in taken],
        "latencies_ms": [1000 * each for seconds in taken for each in seconds[1:]],
        "throughput_per_s": sum(map(len, taken)) / sum(map(sum, taken)),
        "peak_memory_bytes": peak,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(GenerationRequest(**json.load(sys.stdin)))))
