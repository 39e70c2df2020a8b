"""Matrix products of half-precision factors whose sums stay in float32 where the device can keep them so."""

import torch
from jaxtyping import Float
from torch import Tensor


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
