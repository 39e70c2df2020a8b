"""Divergences between distributions given by logits: plain mathematics that losses and label encodings share."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """Half-precision logits to float32, so that a sum over classes keeps its digits; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def kl_divergence(
    p_logits: Float[Tensor, "*batch classes"],
    q_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, "*batch"]:
    """KL(p || q) in nats for each position, both softened: p = softmax(p_logits / T), q likewise."""
    log_p = torch.log_softmax(at_least_float32(p_logits) / temperature, dim=-1)
    log_q = torch.log_softmax(at_least_float32(q_logits) / temperature, dim=-1)
    return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
