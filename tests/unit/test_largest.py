"""The k largest numbers of long rows against a whole sort."""

import pytest
import torch
from torch import Tensor

from potstill.labels.largest import BLOCK, WORTH, largest

LONG = WORTH * BLOCK * 3
"""Numbers of a row of which the 3 largest are found by blocks."""


def rows_of(kind: str, numbers: int) -> Tensor:
    generator = torch.Generator().manual_seed(numbers)
    drawn = torch.randn(40, numbers, generator=generator)
    if kind == "ties":
        return drawn.round()
    if kind == "all equal":
        return torch.zeros(3, numbers)
    if kind == "mostly nothing":
        # Fewer than three numbers that are finite, in some rows none.
        drawn[:, 2:] = -torch.inf
        drawn[:10, 1:] = -torch.inf
        drawn[5] = -torch.inf
    if kind == "ascending":
        # All in what is left after the last block, or in the last block.
        return drawn.sort(dim=1).values
    return drawn


@pytest.mark.parametrize("strided", [None, False, True])
@pytest.mark.parametrize("numbers", [LONG, LONG + 1, LONG + BLOCK - 1, LONG * 2 + 7, LONG - 1, 50, 3])
@pytest.mark.parametrize("kind", ["drawn", "ties", "all equal", "mostly nothing", "ascending"])
def test_they_are_those_of_a_sort(kind: str, numbers: int, strided: bool | None) -> None:
    rows = rows_of(kind, numbers)
    before = rows.clone()
    values, places = largest(rows, 3, strided=strided)
    assert torch.equal(values, rows.sort(dim=1, descending=True).values[:, :3])
    assert torch.equal(rows.gather(1, places), values) and torch.equal(rows, before)
    # Of equal numbers any, but none twice.
    assert (places.sort(dim=1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("strided", [False, True])
def test_as_many_as_there_are_may_be_asked_for(strided: bool) -> None:
    rows = rows_of("drawn", 70)
    values, places = largest(rows, 70, strided=strided)
    assert torch.equal(values, rows.sort(dim=1, descending=True).values)
    assert torch.equal(places.sort(dim=1).values, torch.arange(70).expand(40, -1))


@pytest.mark.parametrize("strided", [False, True])
def test_what_is_no_number_comes_first_as_in_torch(strided: bool) -> None:
    rows = rows_of("drawn", LONG)
    rows[:, 700] = torch.nan
    values, places = largest(rows, 3, strided=strided)
    assert (places[:, 0] == 700).all()
    torch.testing.assert_close(values, rows.topk(3, dim=1).values, equal_nan=True)


def test_blocks_are_read_where_rows_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda rows, *how, **more: widths.append(rows.shape[1]) or topk(rows, *how, **more)
    )
    largest(rows_of("drawn", LONG * 4), 3)
    assert max(widths) <= LONG // 2
    largest(rows_of("drawn", LONG - 1), 3)
    assert widths[-1] == LONG - 1
