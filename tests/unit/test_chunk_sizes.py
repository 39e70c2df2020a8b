"""How many positions have their logits at a time."""

import pytest
import torch

from potstill import chunk_sizes
from potstill.chunk_sizes import chunk_rows
from potstill.targets import Head

GIB = 2**30
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("memory", "vocabulary", "rows"),
    [
        # No more than 1 GiB where a 64th of the memory is more.
        (140 * GIB, 151_936, GIB // (4 * 151_936)),
        (80 * GIB, 151_936, GIB // (4 * 151_936)),
        (32 * GIB, 151_936, GIB // 2 // (4 * 151_936)),
        # No less than 256 MiB, nor than 256 positions.
        (8 * GIB, 32_000, GIB // 4 // (4 * 32_000)),
        (8 * GIB, 400_000, 256),
    ],
)
def test_a_chunk_has_its_share_of_a_device(
    monkeypatch: pytest.MonkeyPatch, memory: int, vocabulary: int, rows: int
) -> None:
    monkeypatch.setattr(chunk_sizes, "memory_of", lambda device: memory)
    assert chunk_rows(CUDA, vocabulary) == rows


def test_elsewhere_a_chunk_is_what_it_was() -> None:
    assert chunk_rows(torch.device("cpu"), 32_000) == 32 * 2**20 // (4 * 32_000)
    assert chunk_rows(torch.device("meta"), 32_000) == GIB // 4 // (4 * 32_000)
    assert Head(torch.zeros(40_000, 2)).chunk_rows == 256
