"""What the checkpoints of a training are compared by."""

from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.schedules import Constant


def true_labels() -> MixedLoss:
    """Cross-entropy with the true labels alone."""
    return MixedLoss([HardLabels(weight=Constant(value=1.0)).build()])


def kl_from_teacher() -> MixedLoss:
    """KL from the teacher at temperature 1: what a language model's student is compared by."""
    return MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0)).build()])
