"""Token ids in as many bits as the vocabulary needs, packed and unpacked on the device where they lie."""

from functools import lru_cache

import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from potstill.errors import LabelStoreError


def pack_ids(ids: Int[Tensor, "positions k"], vocabulary: int) -> UInt8[Tensor, "positions bytes"]:
    """Token ids one after the other, the lowest bits first, each position filled up to a whole byte."""
    bits, k = id_bits(vocabulary), ids.shape[1]
    # A byte holds the end of an id, and what fits of those after it.
    shared = 8 // bits + 2
    padded = torch.nn.functional.pad(ids, (0, shared))
    packed = torch.zeros(len(ids), packed_width(k, vocabulary), dtype=ids.dtype, device=ids.device)
    for place in range(shared):
        which, left, right = _ids_of_bytes(k, bits, place, ids.device)
        packed |= (padded.index_select(1, which) >> right) << left
    return (packed & 255).to(torch.uint8)


def unpack_ids(packed: UInt8[Tensor, "positions bytes"], k: int, vocabulary: int) -> Int64[Tensor, "positions k"]:
    """The token ids that `pack_ids` packed.

    On an accelerator they are not looked at, for that would wait for all that it has to do: who moves them there has
    called `require_ids` before.

    Raises:
        LabelStoreError: an id beyond the vocabulary.
    """
    bits = id_bits(vocabulary)
    shared = (bits + 14) // 8
    padded = torch.nn.functional.pad(packed, (0, shared))
    ids = torch.zeros(len(packed), k, dtype=torch.int64, device=packed.device)
    first, skipped = _bytes_of_ids(k, bits, packed.device)
    for place in range(shared):
        ids |= padded.index_select(1, first + place).long() << 8 * place
    ids = (ids >> skipped) & ((1 << bits) - 1)
    if packed.device.type == "cpu" and vocabulary < 1 << bits:
        _require_known(ids, vocabulary)
    return ids


def require_ids(packed: UInt8[Tensor, "positions bytes"], k: int, vocabulary: int) -> None:
    """Look at ids in the memory of the processor.

    Raises:
        LabelStoreError: one is beyond the vocabulary.
    """
    if vocabulary < 1 << id_bits(vocabulary):
        unpack_ids(packed, k, vocabulary)


def _require_known(ids: Int64[Tensor, "positions k"], vocabulary: int) -> None:
    if ids.numel() and int(ids.max()) >= vocabulary:
        position, place = divmod(int(ids.argmax()), ids.shape[1])
        raise LabelStoreError(
            f"position {position}: token id {int(ids[position, place])} is beyond the vocabulary of {vocabulary}."
        )


def id_bits(vocabulary: int) -> int:
    return max(1, (vocabulary - 1).bit_length())


def packed_width(k: int, vocabulary: int) -> int:
    """Bytes of k packed ids."""
    return -(-k * id_bits(vocabulary) // 8)


# Made once: each would be a copy from the host. Not in inference mode, whose tensors no later training could read.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _ids_of_bytes(k: int, bits: int, place: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each byte the id that is `place` after the first of which it holds bits, and how far that one is shifted."""
    starts = 8 * torch.arange(-(-k * bits // 8))
    which = starts // bits + place
    shift = which * bits - starts
    return which.to(device), shift.clamp(min=0).to(device), (-shift).clamp(min=0).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _bytes_of_ids(k: int, bits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each id the first byte that holds some of it, and how many bits of that byte are not its own."""
    starts = bits * torch.arange(k)
    return (starts // 8).to(device), (starts % 8).to(device)
