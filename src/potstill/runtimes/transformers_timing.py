"""The speed of models that transformers loads: texts, documents or prompts in, decisions, tags or tokens out.

Runs in a process of its own, which prints what `measure` returns.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from potstill.measure.speed import Loading, by_token, peak_memory_bytes, timed
from potstill.runtimes.timing import SpeedRequest

Measure = Callable[[], dict[str, Any]]
"""What measures, once all is loaded."""
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
    measured = _FORMS[request.form](request)
    loaded = loading.ended()
    with torch.inference_mode():
        found = measured()
    on_device = request.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_device else peak_memory_bytes()
    return found | loaded | {"peak_memory_bytes": peak} | ({"floor_memory_bytes": 0} if on_device else {})


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


def _of_texts(request: SpeedRequest) -> Measure:
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

    return partial(timed, answer, request.queries, request.warmup, request.batch_size)


def _of_documents(request: SpeedRequest) -> Measure:
    """The windows of all documents are read together, a batch of them at a time."""
    import torch
    from transformers import AutoModelForTokenClassification

    from potstill.data.words import load_word_tokenizer, windows_of

    device = torch.device(request.device)
    tokenizer = load_word_tokenizer(request.model, trust_remote_code=request.loads.trusts(request.model))
    turns = _turns(request, _models(request, AutoModelForTokenClassification))

    def answer(documents: Sequence[Sequence[str]]) -> None:
        split = windows_of(tokenizer, documents, request.settings["max_length"], request.settings["overlap"])
        tokens = [torch.from_numpy(window.tokens).long() for windows in split for window in windows]
        for start in range(0, len(tokens), request.batch_size):
            part = tokens[start : start + request.batch_size]
            ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
            lengths = torch.tensor([len(each) for each in part])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            for model in next(turns):
                model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.argmax(dim=-1).cpu()

    return partial(timed, answer, request.queries, request.warmup, request.batch_size)


def _of_prompts(request: SpeedRequest) -> Measure:
    """`new_tokens` after each prompt, whatever they are."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from potstill.runtimes.greedy import greedy

    trusted = request.loads.trusts(request.model)
    apart = AutoConfig.from_pretrained(request.model, trust_remote_code=trusted).is_encoder_decoder
    turns = _turns(request, _models(request, AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM))
    new_tokens = request.settings["new_tokens"]

    def measured() -> dict[str, Any]:
        for prompt in request.queries[: request.warmup]:
            greedy(next(turns), prompt, min(2, new_tokens))
        return by_token([greedy(next(turns), prompt, new_tokens)[1] for prompt in request.queries])

    return measured


_FORMS: dict[str, Callable[[SpeedRequest], Measure]] = {
    "texts": _of_texts,
    "documents": _of_documents,
    "prompts": _of_prompts,
}
