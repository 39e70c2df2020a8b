"""How often each class is in the rows, for who looks at the plan before any work."""

from collections import Counter
from collections.abc import Mapping, Sequence

from potstill.recipe import Recipe
from potstill.records import ClassCount
from potstill.stages.inputs import Inputs

FEW = 5
"""Rows of train under which a class is rare: five folds, as scikit-learn makes, need as many."""
SMALL_SHARE = 0.001
"""The same as a share of the labelled rows: of 32 rows a step, such a class is in one step of thirty."""
NAMED = 5
"""Classes that a warning names."""
EXAMPLE_CHARACTERS = 60


def class_counts(recipe: Recipe, inputs: Inputs) -> list[ClassCount]:
    """The classes of the rows, or the kinds of entities that their tags name, the most frequent of train first."""
    if not recipe.task.named_outputs:
        return []
    found = {name: Counter[str]() for name in inputs.splits}
    examples: dict[str, str] = {}
    for name, split in inputs.splits.items():
        for row in split.rows:
            for kind, text in recipe.task.classes_in(row, inputs.labels):
                found[name][kind] += 1
                if name == "train" and kind not in examples:
                    examples[kind] = _short(text)
    known = recipe.task.classes_among(inputs.labels)
    return [
        ClassCount(name=kind, counts={name: found[name][kind] for name in found}, example=examples.get(kind))
        for kind in sorted(known, key=lambda kind: (-found["train"][kind], kind))
    ]


def _short(text: str) -> str:
    """The beginning of a text on one line, which no terminal takes for a command."""
    line = " ".join(text[: 10 * EXAMPLE_CHARACTERS].split())
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    return shown if len(shown) <= EXAMPLE_CHARACTERS else f"{shown[: EXAMPLE_CHARACTERS - 3]}..."


def doubts_about_classes(classes: Sequence[ClassCount], labelled: Mapping[str, int]) -> list[str]:
    """Warnings of classes that are too rare to be learnt or judged, where `labelled` are the rows of each split."""
    few = [
        (each.name, each.counts["train"])
        for each in classes
        if 0 < each.counts["train"] < max(FEW, SMALL_SHARE * labelled["train"])
    ]
    unjudged = [each.name for each in classes if not each.counts["test"]]
    found = []
    if few:
        found.append(
            f"{len(few)} of {len(classes)} classes are rare in train, with less than {FEW} labelled examples or "
            f"{SMALL_SHARE:.1%} of them, and may not be learnt: {_some([f'{name} ({count})' for name, count in few])}"
        )
    if unjudged:
        found.append(
            f"{len(unjudged)} of {len(classes)} classes are not in test, so nothing is measured of them: "
            f"{_some(unjudged)}"
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
