"""How near a language model is to its teacher and to the truth, token by token, without whole logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from potstill.measure.quality import Weights, pooled_shares
from potstill.targets import FullTarget, GroupedTarget, plain_log_sum_exp


@dataclass(frozen=True)
class TokenMeasures:
    """One number for each position, in the order in which they were given."""

    loss: npt.NDArray[np.float64]
    """Negative log-likelihood of the true token in nats."""
    right: npt.NDArray[np.bool_]
    """Whether the likeliest token is the true one."""
    confidence: npt.NDArray[np.float64]
    """Probability of the likeliest token."""
    kl: npt.NDArray[np.float64]
    """KL(teacher || model) at temperature 1 in nats."""
    agrees: npt.NDArray[np.bool_]
    """Whether the likeliest token is the teacher's."""
    probability_difference: npt.NDArray[np.float64]
    """Probability of the teacher's likeliest token: the model's minus the teacher's."""


@torch.inference_mode()
def measure_tokens(
    models: Mapping[str, FullTarget], teacher: FullTarget, labels: Int[Tensor, "positions"], *, chunk_rows: int
) -> dict[str, TokenMeasures]:
    """Compare each model with the teacher and the true tokens at these positions, so many of them at a time."""
    found: dict[str, list[list[Tensor]]] = {name: [] for name in models}
    for start in range(0, len(labels), chunk_rows):
        rows = slice(start, start + chunk_rows)
        log_p = own = _log_softmax(teacher, rows)
        for name, model in models.items():
            log_q = own if model is teacher else _log_softmax(model, rows)
            if isinstance(teacher, GroupedTarget):
                # What the teacher leaves open is for each model what it makes of it.
                log_p = log_q if model is teacher else teacher.logits_beside(log_q, rows, 1.0, plain_log_sum_exp)
            found[name].append(_measured(log_q, log_p, labels[rows]))
    return {
        name: TokenMeasures(*(torch.cat(column).cpu().numpy() for column in zip(*chunks, strict=True)))
        for name, chunks in found.items()
    }


def _log_softmax(model: FullTarget, rows: slice) -> Float[Tensor, "positions vocabulary"]:
    return torch.log_softmax(model.logits_at(rows, 1.0, plain_log_sum_exp), dim=1)


def _measured(
    log_q: Float[Tensor, "positions vocabulary"],
    log_p: Float[Tensor, "positions vocabulary"],
    labels: Int[Tensor, "positions"],
) -> list[Tensor]:
    """The fields of `TokenMeasures`, in their order."""
    most, predicted = log_q.max(dim=1)
    teacher_most, teacher_predicted = log_p.max(dim=1)
    return [
        -log_q.gather(1, labels[:, None]).squeeze(1).double(),
        predicted == labels,
        most.exp().double(),
        (log_p.exp() * (log_p - log_q)).sum(dim=1).double(),
        predicted == teacher_predicted,
        (log_q.gather(1, teacher_predicted[:, None]).squeeze(1).exp() - teacher_most.exp()).double(),
    ]


def joined(parts: Sequence[TokenMeasures]) -> TokenMeasures:
    """The measures of several batches, one after the other."""
    return TokenMeasures(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


@dataclass(frozen=True)
class TokensOfRows:
    """Which row of data each token is of, with resamples of whole rows.

    Tokens of one row are not independent, and no more are its turns or the windows of a long text, though a model
    reads them one by one.
    """

    row_of: Int[np.ndarray, "tokens"]
    true_ids: Int[np.ndarray, "tokens"]
    weights: Weights
    row_ids: Sequence[str] = ()
    """Of the rows, in their order."""
    lengths: Sequence[int] = ()
    """The tokens of each row, those that are only shown too."""

    def sums(self, values: Float[np.ndarray, "tokens"] | Bool[np.ndarray, "tokens"]) -> Float[np.ndarray, "rows"]:
        """The sum over the tokens of each row."""
        return np.bincount(self.row_of, weights=values, minlength=self.weights.shape[1])

    def means(self, values: Float[np.ndarray, "tokens"] | Bool[np.ndarray, "tokens"]) -> Float[np.ndarray, "resamples"]:
        """The mean over the tokens in each resample."""
        return pooled_shares(self.sums(values), self.sums(np.ones(len(self.row_of))), self.weights)
