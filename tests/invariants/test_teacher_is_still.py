"""A teacher gives one answer to one question."""

import torch

from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from tests.invariants.test_training import CPU, encoded, tiny


def test_a_teacher_that_came_in_training_mode_gives_one_answer() -> None:
    """A model that was just built is in training mode, and its dropout would be noise in every label."""
    model = tiny(9, dropout=0.3).train()
    teacher, batch = FrozenTeacher(model, CPU, ask_for_logits), encoded(6, 1).collate(range(6))
    first, second = teacher(batch).logits, teacher(batch).logits
    assert first is not None and second is not None
    assert torch.equal(first, second) and not first.requires_grad
