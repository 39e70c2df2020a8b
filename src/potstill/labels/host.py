"""What a teacher's device made, on its way to the memory of the processor, while the device goes on."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def to_host(answer: Any) -> Callable[[], Any]:
    """Begin to copy the tensors of an answer, which can lie in tuples and mappings; the result waits for them.

    From a CUDA device they go to pinned memory, on a stream of their own: neither the host nor the next forward pass
    waits. What lies on the host already stays where it is.
    """
    device = next((tensor.device for tensor in _tensors_of(answer) if tensor.is_cuda), None)
    if device is None:
        return lambda: answer
    stream = _stream_of(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        copies = _changed(answer, lambda tensor: _pinned_copy(tensor, stream))
        copied = stream.record_event()

    def arrived() -> Any:
        copied.synchronize()
        return copies

    return arrived


def pinned_for(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors of the host in memory from which a CUDA device copies beside its work; as they are for any other."""
    return {name: tensor.pin_memory() if device.type == "cuda" else tensor for name, tensor in tensors.items()}


def _pinned_copy(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    # Its memory is not given to a later pass before it is read.
    tensor.record_stream(stream)
    return copy


@lru_cache(maxsize=8)
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _tensors_of(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping):
        for each in answer.values():
            yield from _tensors_of(each)
    elif isinstance(answer, tuple):
        for each in answer:
            yield from _tensors_of(each)


def _changed(answer: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(answer, Tensor):
        return change(answer)
    if isinstance(answer, Mapping):
        return {name: _changed(each, change) for name, each in answer.items()}
    return tuple(_changed(each, change) for each in answer) if isinstance(answer, tuple) else answer
