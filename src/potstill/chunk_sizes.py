"""How many positions have their logits at a time: the memory of a chunk against what each chunk costs."""

from functools import cache

import torch

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 1024 * 2**20}
"""Logits that are held at a time at most, in float32. Larger chunks leave a CPU's cache. On a CUDA device each chunk
reads and writes the gradient of the whole head: beside the products of 430 positions that takes half as long as they
do, beside those of 1,700, which is 1 GiB of a vocabulary of 150,000, an eighth. It also starts a hundred kernels."""
CHUNK_SHARE = 64
"""Of the memory of a CUDA device, the part that a chunk may have: 1 GiB of 64. Of all of it, and not of what is free
at the moment, since sums in other chunks differ in their last bits, and a job that goes on must give what it gave."""
LEAST_CHUNK_BYTES = 256 * 2**20
"""What it may have on any accelerator."""
CHUNK_ROWS = 256
"""Positions that are taken at least: with fewer, a product waits for the head to be read (64 cost 40 % more time)."""


def chunk_rows(device: torch.device, vocabulary: int) -> int:
    """Positions whose logits are held at a time."""
    if device.type == "cpu":
        limit = CHUNK_BYTES["cpu"]
    else:
        share = memory_of(device) // CHUNK_SHARE if device.type == "cuda" else 0
        limit = min(CHUNK_BYTES["cuda"], max(LEAST_CHUNK_BYTES, share))
    return max(CHUNK_ROWS, limit // (4 * vocabulary))


@cache
def memory_of(device: torch.device) -> int:
    """All bytes of a CUDA device."""
    return int(torch.cuda.get_device_properties(device).total_memory)
