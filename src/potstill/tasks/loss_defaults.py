"""What losses a recipe has that names none, and what it leaves out of those that it names, by its task."""

from collections.abc import Mapping, Sequence
from typing import Any

LossDefaults = Mapping[str, Mapping[str, Any]]
"""For losses, by their kind, the settings that a task has others of than the loss itself."""

SOFT_AND_HARD = ("soft_targets", "hard_labels")


def with_defaults(losses: Any, defaults: LossDefaults, kinds: Sequence[str], *, mixed: bool) -> Any:
    """The losses of a recipe as it gives them, or None, with what the task adds.

    `kinds` are the losses of a recipe that names none; `mixed` says whether `train.alpha` weighs soft against hard.
    """
    if losses is None:
        names = SOFT_AND_HARD if mixed else kinds
        # One loss alone has no other that it could be weighed against.
        alone = {"weight": 1.0} if len(names) == 1 else {}
        return [{"kind": kind, **alone, **defaults.get(kind, {})} for kind in names]
    if not isinstance(losses, list | tuple):
        return losses
    return [{**defaults.get(str(loss.get("kind")), {}), **loss} if isinstance(loss, dict) else loss for loss in losses]
