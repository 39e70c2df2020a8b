"""Whether two matrices of a folder are copies of each other, from a few of their rows."""

from safetensors import safe_open

from potstill.checkpoints.safetensors_headers import Stored

COMPARED_ROWS = 64
"""Of each matrix, spread over all of it: two that were trained apart differ in every row that was."""


def same_rows(first: tuple[str, Stored], second: tuple[str, Stored]) -> bool:
    """Whether two stored matrices, each with its name, have the same values in the rows that are compared."""
    if first[1].shape != second[1].shape:
        return False
    rows = first[1].shape[0]
    numbers = sorted({number * (rows - 1) // (COMPARED_ROWS - 1) for number in range(COMPARED_ROWS)})
    with safe_open(first[1].file, framework="pt") as one, safe_open(second[1].file, framework="pt") as other:
        slices = one.get_slice(first[0]), other.get_slice(second[0])
        return all(
            bool((slices[0][number : number + 1].float() == slices[1][number : number + 1].float()).all())
            for number in numbers
        )
