"""Passes over tensors that torch compiles where it can, and that are used as they are where it cannot."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException


def compiled_pass(
    plain: Callable[..., Any], *, wanted: Callable[[], bool], give_up: Callable[[str], None]
) -> Callable[..., Any]:
    """`plain`, compiled as long as it is `wanted`; where the compiler fails, `give_up` hears why, and it is used as it
    is. Any other error goes to the caller: what a pass did before it cannot be taken back.
    """
    _say_nothing_of_split_sums()
    # The number of rows differs in the last chunk; one graph serves them all. It is whole, so that all of it is
    # compiled before any of it runs: a pass that writes its gradient over the logits cannot be made a second time.
    fast = torch.compile(plain, dynamic=True, fullgraph=True)

    @functools.wraps(plain)
    def call(*arguments: Any) -> Any:
        if not wanted():
            return plain(*arguments)
        before = _versions(arguments)
        try:
            return fast(*arguments)
        except (RuntimeError, FailOnRecompileLimitHit) as error:
            if not _is_of_the_compiler(error) or _versions(arguments) != before:
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        # What is wrong with the pass itself is raised here, and not taken for the compiler's.
        result = plain(*arguments)
        give_up(reason)
        return result

    return call


def _say_nothing_of_split_sums() -> None:
    """Where there are few rows, a pass finds the largest number and the sum of each in two steps, which is right there.

    Torch warns of it, and asks for an issue. The filter stays: one that is taken back would take those of other threads
    with it.
    """
    warnings.filterwarnings("ignore", message=r"\s*Online softmax is disabled on the fly", category=UserWarning)


def with_known_columns(rows: Tensor) -> None:
    """Where a pass is compiled for a CUDA device, its compiler knows how long these rows are, not how many.

    It then reads aligned lines, and may find the largest number of a row and a sum relative to it in one pass. Each
    vocabulary is compiled anew.
    """
    if torch.compiler.is_compiling() and rows.is_cuda:
        torch._dynamo.mark_static(rows, 1)


def _is_of_the_compiler(error: Exception) -> bool:
    """Whether torch could not compile, as without a C++ compiler; memory that ran out meanwhile is no such reason."""
    if isinstance(getattr(error, "inner_exception", error), torch.OutOfMemoryError | MemoryError):
        return False
    known = isinstance(error, TorchDynamoException | FailOnRecompileLimitHit)
    return known or type(error).__module__.startswith("torch._inductor.")


def _versions(arguments: Sequence[Any]) -> list[int]:
    """How often each tensor was written to. Those made in inference mode do not count it."""
    tensors = [each for argument in arguments for each in (argument if isinstance(argument, list) else [argument])]
    return [each._version for each in tensors if isinstance(each, Tensor) and not each.is_inference()]
