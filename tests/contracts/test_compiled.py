"""The passes of the chunked core compiled, against the same in float64 and uncompiled.

Compiled in a process of its own, since the checker of types that these tests run under cannot be traced.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.divergences import ForwardKL, ReverseKL, TotalVariation
from potstill.labels import exact_head
from potstill.labels.exact_head import CompiledTails, log_tails
from potstill.losses import chunked, kernels
from potstill.losses.chunked import logit_terms
from potstill.losses.kernels import Kernels
from potstill.losses.terms import HardTerm, SoftTerm
from tests.contracts.device_cases import CPU, HIDDEN, LABELS, VOCABULARY, WEIGHT, agree, drawn, run, said, terms_for

KINDS = ("states", "top_k", "low_rank", "sampled")
FEW_PASSES = "cpu as cuda"
"""The passes as they are written for a CUDA device, compiled for the CPU."""


@pytest.mark.long
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        FEW_PASSES,
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
    ],
)
def test_compiled_passes_give_the_same(device: str) -> None:
    # A fallback would warn, and with it the process fails.
    command = [sys.executable, "-W", "error:torch.compile failed", "-m", "tests.contracts.test_compiled", device]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [*KINDS, "narrow", "labels"]


def compare(device: torch.device) -> None:
    passes = Kernels(compiled=True)
    for kind in KINDS:
        for divergence in (ForwardKL(),) if kind == "sampled" else (ForwardKL(), ReverseKL(), TotalVariation()):
            for temperature in (1.0,) if kind == "sampled" else (1.0, 2.0):
                terms = terms_for(divergence, temperature)
                # Where p and q are nearly equal, last bits decide the sign of a total variation's gradient.
                share = 2e-3 if isinstance(divergence, TotalVariation) else 2e-5
                agree(
                    run(kind, terms, device, torch.float32, kernels=passes),
                    run(kind, terms, CPU, torch.float64),
                    share,
                )
        assert passes.compiled
        print(kind)


def compare_narrow(device: torch.device) -> None:
    """Gradients that are written in half precision at once, against those that are rounded to it."""
    # A pass is compiled for eight cases at most, and those above are some of them.
    torch.compiler.reset()
    passes, smoothed = Kernels(compiled=True), HardTerm("hard_labels", 0.4, 0.1)
    for kind in (None, *KINDS):
        soft = (SoftTerm("soft_targets", ForwardKL(), 0.7, 1.0),) if kind else ()
        target = said(kind, CPU, torch.float64) if kind else None
        there = said(kind, device, torch.float32) if kind else None
        exact = HIDDEN @ WEIGHT.T
        logits, narrow = exact.float().to(device), torch.empty_like(exact, dtype=torch.bfloat16, device=device)
        terms = (*soft, smoothed)
        sums = logit_terms(exact, LABELS, target, slice(None), terms, kernels=Kernels(compiled=False))
        how: dict[str, Any] = {"kernels": passes, "out": narrow}
        found = logit_terms(logits, LABELS.to(device), there, slice(None), terms, **how)
        torch.testing.assert_close(found.double().cpu(), sums, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(narrow.double().cpu(), exact, rtol=2**-8, atol=1e-5)
    print("narrow")


def compare_labels(device: torch.device) -> None:
    """The masses of tails, on a grid where some temperature is half of another, and chunks of several lengths."""
    tails = CompiledTails()
    for rows in (150, 150, 31):
        logits = drawn(rows, VOCABULARY, seed=rows, scale=4.0)
        head = logits.topk(20, dim=1)
        logits.scatter_(1, head.indices, -torch.inf)
        grid = (1.0, 1.5, 2.0, 3.0, 4.0)
        found = tails.tails(logits.float().to(device), head.values.float().to(device), grid)
        torch.testing.assert_close(found.double().cpu(), log_tails(logits, head.values, grid), rtol=1e-5, atol=1e-5)
    print("labels")


def as_on_cuda() -> None:
    """Let all be written as it is for a CUDA device. The gradient stays in the type of the logits."""

    def known(rows: torch.Tensor) -> None:
        if torch.compiler.is_compiling():
            torch._dynamo.mark_static(rows, 1)

    for module in (kernels, exact_head):
        module.with_known_columns = known  # type: ignore[attr-defined]
    for module in (kernels, chunked):
        module.few_passes = lambda device: True  # type: ignore[attr-defined]


if __name__ == "__main__":
    if sys.argv[1] == FEW_PASSES:
        as_on_cuda()
    where = CPU if sys.argv[1] == FEW_PASSES else torch.device(sys.argv[1])
    compare(where)
    compare_narrow(where)
    compare_labels(where)
