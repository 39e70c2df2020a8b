"""Matrix products of half-precision factors whose sums stay in float32 where the device can keep them so."""

import torch
from jaxtyping import Float
from torch import Tensor

BIAS_COLUMNS = 3
"""Numbers of bfloat16, with 8 digits each, that have the 24 of one of float32."""


def wide_product(
    first: Float[Tensor, "rows inner"], second: Float[Tensor, "inner columns"], *, out: Tensor | None = None
) -> Float[Tensor, "rows columns"]:
    """`first @ second` in float32 at least, into `out` where it is given.

    A CUDA device sums products of half precision in float32 and rounds at the end; there the rounding is left out,
    which costs nothing. Elsewhere the product is rounded to the type of its factors first.
    """
    if first.dtype.itemsize >= 4:
        return torch.mm(first, second) if out is None else torch.mm(first, second, out=out)
    if first.is_cuda and (out is None or out.dtype == torch.float32):
        if out is None:
            return torch.mm(first, second, out_dtype=torch.float32)
        return torch.mm(first, second, out_dtype=torch.float32, out=out)
    product = torch.mm(first, second)
    return product.float() if out is None else out.copy_(product)


def bias_in_columns(
    inputs: Float[Tensor, "rows inner"], weight: Float[Tensor, "columns inner"], bias: Float[Tensor, "columns"]
) -> tuple[Float[Tensor, "rows wider"], Float[Tensor, "columns wider"]]:
    """Factors in half precision of which the product has the bias: no pass over the product adds it.

    Each column of the weight has the digits of the bias that those before it have not.
    """
    left, columns = bias.float(), []
    for _ in range(BIAS_COLUMNS):
        columns.append(left.to(weight.dtype))
        left = left - columns[-1].float()
    # Factors of a width that is no multiple of 8 are multiplied slowly.
    columns += [torch.zeros_like(columns[0])] * (-(weight.shape[1] + BIAS_COLUMNS) % 8)
    ones = inputs.new_ones(len(inputs), len(columns))
    return torch.cat([inputs, ones], dim=1), torch.cat([weight, torch.stack(columns, dim=1)], dim=1)


def add_product(
    total: Float[Tensor, "rows columns"],
    first: Float[Tensor, "rows inner"],
    second: Float[Tensor, "inner columns"],
) -> None:
    """`total += first @ second`, in the type of `total`."""
    if total.dtype == first.dtype:
        total.addmm_(first, second)
    elif first.is_cuda and total.dtype == torch.float32:
        torch.addmm(total, first, second, out_dtype=total.dtype, out=total)
    else:
        total += first @ second
