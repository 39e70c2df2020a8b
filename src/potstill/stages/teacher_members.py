"""Recipe and inputs as they are for one member of an ensemble."""

from collections.abc import Sequence
from dataclasses import replace

from potstill.data.prepare import Split
from potstill.errors import DataError
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs


def alone(recipe: Recipe, inputs: Inputs, name: str) -> tuple[Recipe, Inputs]:
    """Recipe and inputs as they are for one member of an ensemble, which is adapted on the rows of its domains."""
    splits = dict(inputs.splits)
    if (domains := recipe.teacher.member_domains.get(name)) is not None:
        source = splits.get("adapt", splits["train"])
        splits["adapt"] = _of_domains(source, domains)
        splits["validation"] = _of_domains(splits["validation"], domains)
        for split in ("adapt", "validation"):
            if not any(row.labelled for row in splits[split].rows):
                raise DataError(
                    f"teacher.domains.{name}: no labelled row of {split} is of {', '.join(domains)}. Add some, or "
                    "name other domains."
                )
    own = recipe.model_copy(update={"teacher": recipe.teacher.members[name]})
    return own, replace(inputs, splits=splits, lead=inputs.members[name], members={})


def _of_domains(split: Split, domains: Sequence[str]) -> Split:
    return replace(split, rows=[row for row in split.rows if row.domain in domains])
