"""The k largest numbers of rows as long as a vocabulary: one pass over them, where a selection makes many."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 64
"""Numbers of a block. About the root of vocabulary / k, where blocks and candidates are few alike."""
WORTH = 8
"""How many times as many numbers as candidates a row must have: with fewer, little is saved."""


def largest(
    rows: Float[Tensor, "rows numbers"], k: int, *, strided: bool | None = None
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """The k largest of each row in descending order, and where they are; of equal ones any. As `torch.topk`.

    The k blocks with the largest maxima have them: a number elsewhere is no larger than k maxima, one of each of these
    blocks. `strided` blocks lie across the row, so that a CUDA device reads whole lines for the maxima; a CPU reads the
    candidates faster where blocks are in one piece.
    """
    blocks = rows.shape[1] // BLOCK
    if rows.shape[1] < WORTH * BLOCK * k:
        top = rows.topk(k, dim=1)
        return top.values, top.indices
    across = rows.is_cuda if strided is None else strided
    # What is left of the row after its last block has candidates alone.
    whole, rest = rows[:, : blocks * BLOCK], rows[:, blocks * BLOCK :]
    # One block is a column or a row of this view.
    shape, within = ((BLOCK, blocks), 1) if across else ((blocks, BLOCK), 2)
    grid = whole.view(len(rows), *shape)
    chosen = grid.amax(dim=within).topk(k, dim=1, sorted=False).indices.unsqueeze(within)
    numbers = torch.arange(BLOCK, device=rows.device).view((BLOCK, 1) if across else (1, BLOCK))
    candidates = grid.gather(3 - within, chosen.expand(-1, *((BLOCK, k) if across else (k, BLOCK)))).flatten(1)
    places = (numbers * blocks + chosen if across else chosen * BLOCK + numbers).flatten(1)
    top = torch.cat([candidates, rest], dim=1).topk(k, dim=1)
    # A place among the candidates, or in the rest.
    beyond = top.indices - candidates.shape[1]
    found = places.gather(1, top.indices.clamp(max=candidates.shape[1] - 1))
    return top.values, torch.where(beyond >= 0, beyond + blocks * BLOCK, found)
