"""What encodings need of the other parts of a recipe."""

from collections.abc import Iterator

from potstill.capabilities import Capability, Facts, missing


def refused_positions(kind: str, where: str, facts: Facts, needed: Capability) -> Iterator[str]:
    """Why labels of positions do not fit, as sentences: no positions, or temperatures that are not stored."""
    if not facts.generative:
        yield f"{where}: {kind} does not fit {facts.task}; use dense."
        return
    if facts.online:
        return
    yield from missing(f"{where}: {kind}", needed, facts)
    if Capability.HIDDEN_STATES not in facts.gives and facts.grid != (1.0,):
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
