"""The passes of the chunked core compiled, against the same in float64 and uncompiled.

Compiled in a process of its own, since the checker of types that these tests run under cannot be traced.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from potstill.divergences import ForwardKL, ReverseKL, TotalVariation
from potstill.losses.kernels import Kernels
from tests.contracts.device_cases import CPU, agree, run, terms_for

KINDS = ("states", "top_k", "low_rank", "sampled")


@pytest.mark.long
@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))],
)
def test_compiled_passes_give_the_same(device: str) -> None:
    # A fallback would warn, and with it the process fails.
    command = [sys.executable, "-W", "error:torch.compile failed", "-m", "tests.contracts.test_compiled", device]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(KINDS)


def compare(device: torch.device) -> None:
    kernels = Kernels(compiled=True)
    for kind in KINDS:
        for divergence in (ForwardKL(),) if kind == "sampled" else (ForwardKL(), ReverseKL(), TotalVariation()):
            for temperature in (1.0,) if kind == "sampled" else (1.0, 2.0):
                terms = terms_for(divergence, temperature)
                # Where p and q are nearly equal, last bits decide the sign of a total variation's gradient.
                share = 2e-3 if isinstance(divergence, TotalVariation) else 2e-5
                agree(
                    run(kind, terms, device, torch.float32, kernels=kernels),
                    run(kind, terms, CPU, torch.float64),
                    share,
                )
        assert kernels.compiled
        print(kind)


if __name__ == "__main__":
    compare(torch.device(sys.argv[1]))
