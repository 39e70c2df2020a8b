"""A teacher of whose stream half the channels are silent is its pruned student exactly, whatever its family."""

from typing import Any

import pytest
import torch

from potstill.models import FAMILIES, Axis, Family, Part, Role, Size
from potstill.students import Copy, Importance, Shrunk, copy_from_teacher, student_config
from potstill.students.importance import OfExperts
from potstill.tasks import CausalLM
from tests.tiny_decoders import DECODERS, decoder

WIDTH, KEPT = 48, 24
"""The second half of the channels is silent."""
OUT_NORMS = (Role.ATTENTION_OUT_NORM, Role.FEED_FORWARD_OUT_NORM)
SIZES = {"hidden_size": WIDTH, "num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-12}


def silence(model: Any, family: Family) -> None:
    """Make half of the stream silent, in whatever writes to it."""
    normed = any(role in OUT_NORMS for role in family.stack(Part.ONLY).inside.values())
    for name, tensor in model.named_parameters():
        slot = family.slot(name)
        assert slot is not None
        axes = slot.role.axes(slot.leaf)
        if family.inputs_first and slot.layer is not None and len(axes) == 2:
            axes = axes[::-1]
        axis = next((number for number, each in enumerate(axes) if each in (Axis.WRITTEN, Axis.STREAM)), None)
        if slot.role in OUT_NORMS:
            # What is written has the same power in both halves, and the norm lets through the first alone.
            tensor[KEPT:] = -1 if family.norms_around_one else 0
        if slot.role is Role.ATTENTION_OUT and tensor.dim() == 2 and Size.HEAD not in family.sizes:
            # Heads times their size are the width, so the student has half of them, and the others are silent too.
            tensor.movedim(1 - (axis or 0), 0)[KEPT:] = 0
        if axis is None or slot.role is Role.HEAD:
            continue
        halves = tensor.movedim(axis, 0)
        writes = axes[axis] is Axis.WRITTEN or slot.role.embeds
        if writes and not normed:
            # Of a layer norm, the mean is taken away: there must be none.
            halves[:KEPT] -= halves[:KEPT].mean(dim=0)
        if axes[axis] is Axis.WRITTEN and normed:
            halves[KEPT:] = halves[:KEPT]
        else:
            halves[KEPT:] = 0


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_pruned_student_of_a_teacher_with_silent_channels_is_it_exactly(name: str, tied: bool) -> None:
    family = FAMILIES[name]
    teacher = decoder(name, **SIZES, tie_word_embeddings=tied).eval()
    with torch.no_grad():
        silence(teacher, family)
    zeros = torch.zeros(5, 24)
    channels = torch.cat([torch.ones(KEPT), torch.zeros(WIDTH - KEPT)])
    experts = {layer: OfExperts(torch.zeros(4), torch.zeros(4, 24)) for layer in range(5)}
    importance = Importance(
        {Part.ONLY: torch.zeros(5)}, channels, {Part.ONLY: torch.zeros(5, 6)}, {Part.ONLY: zeros}, experts
    )
    wanted: dict[str, Any] = {"layers": 5, "width": KEPT, "intermediate": 24, "init": Copy(width="pruned")}
    if Size.HEAD in family.sizes:
        wanted["heads"] = 6
    student = CausalLM().new_model(student_config(teacher.config, Shrunk.model_validate(wanted))).eval()
    copy_from_teacher(student, teacher, Copy(width="pruned"), importance)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        own, its = (model(input_ids=ids, use_cache=False).logits for model in (student, teacher))
    torch.testing.assert_close(own, its, rtol=1e-4, atol=1e-4)
    assert its.std() > 0.05
