"""The speed of models that transformers loads: texts, documents or prompts in, decisions, tags or tokens out.

Runs in a process of its own, which prints what `measure` returns.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.measure.energy import EnergyMeter
from potstill.measure.speed import Loading, peak_memory_bytes
from potstill.measure.timed import Answer, Answering, timed, timed_series, timed_writing, timed_writing_series
from potstill.runtimes.timing import SpeedRequest

MULTI_LABEL = "multi_label_classification"
"""As the configuration of a model calls it."""


def measure(request: SpeedRequest) -> dict[str, Any]:
    """Load, warm up, time each query alone, then batches of them, or each token after a prompt."""
    import torch
    import transformers

    # Imported when it is first named; a library is no part of what a model costs.
    _ = transformers.AutoTokenizer
    torch.set_num_threads(request.threads)
    loading = Loading.begins()
    timing = _FORMS[request.form](request)
    loaded = loading.ended()
    on_device = request.device == "cuda"
    with torch.inference_mode():
        found = timing.always()
        # The memory of what is timed beside is another, and models are compared by this one.
        peak = torch.cuda.max_memory_allocated() if on_device else peak_memory_bytes()
        points = timing.beside()
    measured = found | loaded | {"peak_memory_bytes": peak, "points": points}
    return measured | ({"floor_memory_bytes": 0} if on_device else {})


@dataclass(frozen=True)
class _Timing:
    """What times, once all is loaded."""

    always: Callable[[], dict[str, Any]]
    beside: Callable[[], list[dict[str, Any]]]
    """At other batch sizes and lengths."""


def _of_answers(request: SpeedRequest, answering: Answering) -> _Timing:
    size, meter = request.batch_size, EnergyMeter.on(request.device)
    return _Timing(
        lambda: timed(answering(size), request.queries, request.warmup, size, meter),
        lambda: timed_series(answering, request.series, request.warmup),
    )


def _models(request: SpeedRequest, auto: Any) -> list[Any]:
    import torch

    from potstill.loaded_as import LoadedAs, placed

    def loaded(folder: str) -> Any:
        held = request.loads.held.get(folder)
        how = {"dtype": getattr(torch, request.dtype)} if held is None else LoadedAs(**held).arguments
        trusted = request.loads.trusts(folder)
        model = auto.from_pretrained(folder, **how, use_safetensors=True, trust_remote_code=trusted)
        return placed(model, torch.device(request.device)).eval()

    return [loaded(folder) for folder in request.loads.folders]


def _turns(request: SpeedRequest, models: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The models that answer each query: all of them, or one after the other."""
    return itertools.cycle([[model] for model in models] if request.loads.in_turn else [models])


def _of_texts(request: SpeedRequest) -> _Timing:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    device = torch.device(request.device)
    trusted = request.loads.trusts(request.model)
    tokenizer = AutoTokenizer.from_pretrained(request.model, trust_remote_code=trusted)
    turns = _turns(request, _models(request, AutoModelForSequenceClassification))

    def answer(texts: Sequence[str | list[str]]) -> None:
        # Of pairs the first texts and the second ones.
        columns = [list(texts)] if isinstance(texts[0], str) else map(list, zip(*texts, strict=True))
        encoded = tokenizer(
            *columns, truncation=True, max_length=request.settings["max_length"], padding=True, return_tensors="pt"
        )
        inputs = encoded.to(device)
        for model in next(turns):
            logits = model(**inputs).logits
            # The decision is part of the answer.
            (logits > 0 if model.config.problem_type == MULTI_LABEL else logits.argmax(dim=-1)).cpu()

    return _of_answers(request, lambda _: answer)


def _of_documents(request: SpeedRequest) -> _Timing:
    """The windows of all documents are read together, a batch of them at a time."""
    import torch
    from transformers import AutoModelForTokenClassification

    from potstill.data.words import load_word_tokenizer, windows_of

    device = torch.device(request.device)
    tokenizer = load_word_tokenizer(request.model, trust_remote_code=request.loads.trusts(request.model))
    turns = _turns(request, _models(request, AutoModelForTokenClassification))

    def answering(batch_size: int) -> Answer:
        def answer(documents: Sequence[Sequence[str]]) -> None:
            split = windows_of(tokenizer, documents, request.settings["max_length"], request.settings["overlap"])
            tokens = [torch.from_numpy(window.tokens).long() for windows in split for window in windows]
            for start in range(0, len(tokens), batch_size):
                part = tokens[start : start + batch_size]
                ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
                lengths = torch.tensor([len(each) for each in part])
                mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
                for model in next(turns):
                    model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.argmax(dim=-1).cpu()

        return answer

    return _of_answers(request, answering)


def _of_prompts(request: SpeedRequest) -> _Timing:
    """`new_tokens` after each prompt, whatever they are."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from potstill.runtimes.greedy import greedy

    trusted = request.loads.trusts(request.model)
    apart = AutoConfig.from_pretrained(request.model, trust_remote_code=trusted).is_encoder_decoder
    turns = _turns(request, _models(request, AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM))
    new_tokens = request.settings["new_tokens"]

    def write(prompt: Sequence[int], count: int) -> Sequence[float]:
        return greedy(next(turns), prompt, count)[1]

    meter = EnergyMeter.on(request.device)
    return _Timing(
        lambda: timed_writing(write, request.queries, request.warmup, new_tokens, meter),
        lambda: timed_writing_series(write, request.series, request.warmup, new_tokens),
    )


_FORMS: dict[str, Callable[[SpeedRequest], _Timing]] = {
    "texts": _of_texts,
    "documents": _of_documents,
    "prompts": _of_prompts,
}
