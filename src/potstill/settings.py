"""The base of everything that a recipe can say, and what more than one of its parts says."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Settings(BaseModel):
    """Frozen, and an unknown key is an error: a misspelt setting must never be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _as_text(value: Any) -> Any:
    """Names that YAML reads as numbers, as many heads have them."""
    if not isinstance(value, dict):
        return value
    return {_word(name): _word(label) for name, label in value.items()}


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_to_one(classes: dict[str, str]) -> dict[str, str]:
    labels = list(classes.values())
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two classes of the head are {twice[0]!r} of the data; each needs a name of its own.")
    return classes


ClassNames = Annotated[dict[str, str], BeforeValidator(_as_text), AfterValidator(_one_to_one)]
"""What the classes of a head are called in the data, such as {LABEL_0: neg, LABEL_1: pos}."""
