"""Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344): BART's layers, without a norm of the embeddings, and with
positions that are computed.

Of a narrower student they are those of its own width, so that its stream is made of the channels that hold the same
frequencies in its teacher's (`students/copying.py`). A small Marian of a toy task before any training, all layers, KL
from the teacher at widths 24, 16 and 8 of 32: 0.59, 2.00 and 3.10 so; 1.61, 2.35 and 3.74 of the first channels.
"""

from collections.abc import Mapping
from dataclasses import replace

from potstill.models import bart
from potstill.models.family import Positions, Stack
from potstill.models.roles import Part, Role


def _without_norm(stacks: Mapping[Part, Stack]) -> dict[Part, Stack]:
    return {
        part: replace(
            stack, around={name: role for name, role in stack.around.items() if role is not Role.EMBEDDING_NORM}
        )
        for part, stack in stacks.items()
    }


FAMILY = replace(
    bart.FAMILY,
    name="marian",
    stacks=_without_norm(bart.FAMILY.stacks),
    positions=Positions.SINUSOIDAL,
    not_cut=lambda config: (
        None
        if config.share_encoder_decoder_embeddings
        else "its sources and its targets have a vocabulary each (share_encoder_decoder_embeddings is false)"
    ),
)
