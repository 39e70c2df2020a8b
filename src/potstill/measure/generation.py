"""Speed of a saved language model that writes greedily, token by token, measured in a process of its own."""

import json
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.measure.speed import peak_memory_bytes

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


def greedy(
    model: Any, prompt: Sequence[int], new_tokens: int, *, stop: Collection[int] = ()
) -> tuple[list[int], list[float]]:
    """The likeliest tokens after a prompt up to a stop token, with the seconds that each took; the first includes
    the reading of the prompt, which an encoder does where the model has one."""
    import torch

    apart = model.config.is_encoder_decoder
    ids = torch.tensor([[model.config.decoder_start_token_id] if apart else list(prompt)], device=model.device)
    memory, past, said, seconds = None, None, [], []
    with torch.inference_mode():
        for _ in range(new_tokens):
            started = time.perf_counter()
            if apart:
                if memory is None:
                    memory = model.get_encoder()(input_ids=torch.tensor([list(prompt)], device=model.device))
                out = model(encoder_outputs=memory, decoder_input_ids=ids, past_key_values=past, use_cache=True)
            else:
                out = model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            token = int(out.logits[0, -1].argmax())
            seconds.append(time.perf_counter() - started)
            said.append(token)
            if token in stop:
                break
            past, ids = out.past_key_values, torch.tensor([[token]], device=model.device)
    return said, seconds


def _measure(request: GenerationRequest) -> dict[str, Any]:
    """Runs in the fresh process."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    torch.set_num_threads(request.threads)
    trust = {"trust_remote_code": request.trust_remote_code}
    apart = AutoConfig.from_pretrained(request.model, **trust).is_encoder_decoder
    model = (AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM).from_pretrained(
        request.model, dtype=torch.float32, use_safetensors=True, **trust
    )
    model = model.to(request.device).eval()
    for prompt in request.prompts[: request.warmup]:
        greedy(model, prompt, min(2, request.new_tokens))
    taken = [greedy(model, prompt, request.new_tokens)[1] for prompt in request.prompts]
    peak = torch.cuda.max_memory_allocated() if request.device == "cuda" else peak_memory_bytes()
    return {
        "first_ms": [1000 * seconds[0] for seconds in taken],
        "latencies_ms": [1000 * each for seconds in taken for each in seconds[1:]],
        "throughput_per_s": sum(map(len, taken)) / sum(map(sum, taken)),
        "peak_memory_bytes": peak,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(GenerationRequest(**json.load(sys.stdin)))))
