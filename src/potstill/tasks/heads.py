"""The last layer of a classifier: where it lies, and where a new one for several labels begins."""

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from transformers import PreTrainedModel

from potstill.errors import ModelError


def start_at_shares(model: PreTrainedModel, labels: Int[np.ndarray, "rows labels"]) -> None:
    """Let a new head begin with the share of the labelled rows that have each label, as far as its bias decides.

    Labels are rare. A head that begins at one half for each first drives all of them down together, and at the rates
    that small encoders are trained with, the features of all texts become one on the way (Lin et al. 2017,
    arXiv:1708.02002, section 4.1, begin their detectors so too).

    Raises:
        ModelError: its last layer is not known.
    """
    with_label, rows = (labels == 1).sum(axis=0), (labels >= 0).sum(axis=0)
    # Half a row to each side, for labels that no row has, or all.
    log_odds = np.log(with_label + 0.5) - np.log(rows - with_label + 0.5)
    last = last_layer(model, outputs=labels.shape[1])
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(log_odds))


def last_layer(model: PreTrainedModel, *, outputs: int) -> nn.Linear:
    """The linear layer that gives so many outputs, with its bias.

    Raises:
        ModelError: there is none outside of the encoder, or it gives something else.
    """
    inside = f"{model.base_model_prefix}."
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    if not linear or linear[-1].out_features != outputs or linear[-1].bias is None:
        raise ModelError(
            f"{model.config.model_type}: its head does not end with a linear layer of {outputs} outputs with a bias, "
            "which several labels and numbers need. Take a teacher whose head has one, such as BERT's."
        )
    return linear[-1]
