"""What encodings need of the other parts of a recipe."""

from collections.abc import Iterator

from potstill.capabilities import OF_LAYERS, Capability, Facts, missing, missing_of_layers


def refused_positions(kind: str, where: str, facts: Facts, *, fitted: bool = True) -> Iterator[str]:
    """Why labels of positions do not fit, as sentences: no positions, or temperatures that are not stored.

    `fitted` says whether the encoding is made of hidden states and the head alone; else likeliest tokens do.
    """
    if not facts.generative:
        yield f"{where}: {kind} does not fit {facts.task}; use dense."
        return
    if facts.online:
        return
    stated = f"{where}: {kind}"
    yield from missing_of_layers(stated, facts) if fitted else missing(stated, Capability.TOP_K, facts)
    if not facts.gives.issuperset(OF_LAYERS) and facts.grid != (1.0,):
        yield (
            f"label.temperatures: teacher.kind: {facts.teacher} is known at temperature 1 alone. Set it to [1], and "
            "the temperature of soft_targets to 1."
        )
        return
    (low, high), grid = facts.temperatures, facts.grid
    if list(grid) != sorted(set(grid)):
        yield "label.temperatures: expected ascending values, each once."
    elif not (grid[0] <= low and high <= grid[-1]):
        yield (
            f"losses: soft_targets uses temperatures from {low:g} to {high:g}, and label.temperatures reaches from "
            f"{grid[0]:g} to {grid[-1]:g}. Widen the grid, or change the schedule."
        )


def refused_rows(kind: str, where: str, facts: Facts) -> Iterator[str]:
    """Why labels of whole rows or words do not fit."""
    yield from missing(f"{where}: {kind}", Capability.DISTRIBUTION, facts)
    if facts.generative:
        yield f"{where}: {kind} does not fit {facts.task}; use auto, low_rank, hidden, top_k or sampled."
