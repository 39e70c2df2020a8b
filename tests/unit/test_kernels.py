"""Compiled passes: what falls back to plain torch, and what does not."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit, TorchDynamoException, Unsupported
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

from potstill.divergences import ForwardKL
from potstill.losses.kernels import Kernels, settings_of
from potstill.losses.terms import SoftTerm

# Made without its constructor, which differs between versions of torch.
NO_COMPILER = InvalidCxxCompiler.__new__(InvalidCxxCompiler, "g++-none")
TERMS = (SoftTerm("soft_targets", ForwardKL(), 0.7, 2.0),)
OF_THE_COMPILER = [
    NO_COMPILER,
    CppCompileError(["g++"], "no such file"),
    InductorError(NO_COMPILER, None),
    BackendCompilerFailed("inductor", ValueError("no lowering"), None),
    TorchDynamoException("cannot trace"),
    FailOnRecompileLimitHit("recompiled too often"),
]


class Compiler:
    """Stands in for torch.compile: its passes write or not, then fail."""

    def __init__(self, error: Exception, *, writes: bool = False) -> None:
        self.error, self.generative, self.calls, self.options = error, writes, 0, {}

    def __call__(self, plain: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        self.options = options

        def fast(terms: Any, student: Tensor, *rest: Any) -> Any:
            self.calls += 1
            if self.generative:
                student.add_(1)
            raise self.error

        return fast


def arguments() -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(4, 7, generator=draw) for _ in range(2))
    return TERMS, student, [teacher], torch.zeros(4, dtype=torch.int64), settings_of(TERMS, student)


def expected() -> tuple[Tensor, Tensor]:
    given = arguments()
    return Kernels(compiled=False).full(*given), given[1]


@pytest.mark.parametrize("error", OF_THE_COMPILER, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("inference", [False, True])
def test_where_the_compiler_fails_the_plain_pass_gives_the_same_once_it_is_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception, inference: bool
) -> None:
    compiler = Compiler(error)
    monkeypatch.setattr(torch, "compile", compiler)
    kernels = Kernels(compiled=True)
    sums, gradient = expected()
    with torch.inference_mode(inference):
        given = arguments()
        with pytest.warns(UserWarning, match="^torch.compile failed, so losses run uncompiled and slower: ") as noted:
            assert torch.equal(kernels.full(*given), sums)
        assert len(noted) == 1 and torch.equal(given[1], gradient)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = arguments()
            assert torch.equal(kernels.full(*again), sums) and torch.equal(again[1], gradient)
    assert compiler.calls == 1 and not kernels.compiled


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes do not fit"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        torch.OutOfMemoryError("CUDA out of memory"),
        InductorError(torch.OutOfMemoryError("while choosing a kernel"), None),
        KeyError("term"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_other_error_goes_to_the_caller(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(error))
    kernels = Kernels(compiled=True)
    given = arguments()
    before = given[1].clone()
    with pytest.raises(type(error)) as raised:
        kernels.full(*given)
    assert raised.value is error and torch.equal(given[1], before) and kernels.compiled


def test_a_pass_that_has_written_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    error = InductorError(NO_COMPILER, None)
    monkeypatch.setattr(torch, "compile", Compiler(error, writes=True))
    with pytest.raises(InductorError):
        Kernels(compiled=True).full(*arguments())


def test_all_of_a_pass_is_compiled_before_any_of_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(ValueError())
    monkeypatch.setattr(torch, "compile", compiler)
    Kernels(compiled=True)
    assert compiler.options["fullgraph"] is True


@pytest.mark.parametrize(
    "message", ["Online softmax is disabled on the fly since", "\n  Online softmax is disabled on the fly"]
)
def test_torch_does_not_ask_for_issues_about_few_rows(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(ValueError()))
    with warnings.catch_warnings():
        Kernels(compiled=True)
        warnings.warn(message, stacklevel=1)
        with pytest.raises(UserWarning, match="anything else"):
            warnings.warn("anything else", stacklevel=1)


def test_what_is_wrong_with_the_pass_itself_is_not_taken_for_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(Unsupported("cannot trace what follows", gb_type="none")))
    terms, student, _, labels, settings = arguments()
    kernels = Kernels(compiled=True)
    with pytest.raises(IndexError, match="empty list"):
        kernels.full(terms, student, [], labels, settings)
    assert kernels.compiled
