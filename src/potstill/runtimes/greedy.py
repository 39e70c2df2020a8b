"""Greedy writing, token by token, by one model or several together."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

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
