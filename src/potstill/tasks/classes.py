"""Classes by name, as a model's configuration carries them."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from transformers import PretrainedConfig

from potstill.errors import ModelError

TEACHER = "teacher"
"""Where a recipe names its teacher; one of several is at teacher.of.NAME."""
NO_CLASSES: Mapping[str, str] = MappingProxyType({})
"""Of a head whose classes have the names of the data."""
NUMBER = re.compile(r"-?[0-9]{1,20}")
"""As Python reads them, and no longer than ids are."""
SHOWN = 12
"""Classes that an error lists."""


def ordered(names: Collection[str]) -> list[str]:
    """Names in alphabetical order; where all are whole numbers, such as the ids of classes, by their value."""
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def config_of(labels: Sequence[str], problem_type: str | None = None) -> dict[str, Any]:
    """The classes, and the form of the answer, as a model configuration carries them."""
    return {"num_labels": len(labels), **names_of(labels), "problem_type": problem_type}


def names_of(labels: Sequence[str]) -> dict[str, Any]:
    """The names of the outputs of a head, as a model configuration carries them."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def name_outputs(config: PretrainedConfig, saved: Mapping[str, Any]) -> None:
    """Take the names of the outputs from where a saved configuration has them.

    Transformers calls the outputs LABEL_0 and so on where label2id alone has names, and where num_labels is not their
    number; whether there are so many outputs, the weights tell.
    """
    named, numbers = saved.get("id2label"), saved.get("label2id")
    if isinstance(named, Mapping) and set(named) == {str(number) for number in range(len(named))}:
        if len(named) != config.num_labels:
            config.update(names_of([named[str(number)] for number in range(len(named))]))
        return
    if named is not None or not isinstance(numbers, Mapping) or not numbers:
        return
    names = {str(number): name for name, number in numbers.items()}
    if set(names) == {str(number) for number in range(len(numbers))}:
        config.update(names_of([names[str(number)] for number in range(len(numbers))]))


def labels_of(config: PretrainedConfig, where: str = TEACHER) -> list[str]:
    """What the configuration calls the outputs of the head.

    Raises:
        ModelError: an output without a name.
    """
    names = [config.id2label.get(number) for number in range(config.num_labels)]
    if None in names:
        raise ModelError(
            f"{where}.model: id2label in its config.json has no name for class {names.index(None)}; it must name the "
            f"classes 0 to {config.num_labels - 1}."
        )
    return [str(name) for name in names]


def head_names(config: PretrainedConfig, classes: Mapping[str, str], where: str = TEACHER) -> list[str]:
    """The classes of the head in the order of its outputs, under the names that the recipe gives them.

    Raises:
        ModelError: `classes` names one that the head has not.
    """
    own = labels_of(config, where)
    if unknown := [name for name in classes if name not in own]:
        raise ModelError(
            f"{where}.classes: the head has no class {unknown[0]!r}. Its classes: {listed(own)}. Name these on the "
            "left, and the classes of the data on the right."
        )
    return [classes.get(name, name) for name in own]


def classes_in_order(
    config: PretrainedConfig,
    labels: Sequence[str],
    classes: Mapping[str, str],
    *,
    new_head: bool,
    where: str = TEACHER,
) -> list[str]:
    """The classes of the data in the order of the outputs of the teacher's head.

    With `new_head`, a head of other classes is replaced: then they stay in their own order.

    Raises:
        ModelError: its classes are not those of the data, and it is not replaced, or `classes` says that they are; or
            its configuration has two orders for them.
    """
    own = head_names(config, classes, where)
    if sorted(own) == sorted(labels):
        if not classes:
            _require_one_order(config, own, where)
        return own
    if classes:
        raise ModelError(
            f"{where}.classes: with it, the head's classes are not those of the data. {_both(own, labels)} Give each "
            "class of the head the name that it has in the data."
        )
    if new_head:
        return list(labels)
    raise ModelError(
        f"{where}.model: its head has {len(own)} classes, the data {len(labels)}. {_both(own, labels)}"
        f"{named_by_hand(own, labels, where)} Add an adapt section to give it a head for these classes"
        f"{'.' if len(own) == len(labels) else ', or rename the labels.'}"
    )


def _require_one_order(config: PretrainedConfig, own: Sequence[str], where: str) -> None:
    """Refuse two maps between classes and outputs that name the same classes and are not each other's inverse: what
    follows the wrong one answers with another class, and nothing tells which it is."""
    numbers = {name: str(number) for name, number in (config.label2id or {}).items()}
    if set(numbers) != set(own) or all(numbers[name] == str(number) for number, name in enumerate(own)):
        return
    by_number = {number: name for name, number in numbers.items()}
    other = [by_number.get(str(number), "?") for number in range(len(own))]
    told = listed([f"{number}: {name}" for number, name in enumerate(own)])
    raise ModelError(
        f"{where}.model: its config.json has two orders of the classes: id2label says {told}, and label2id "
        f"{listed([f'{number}: {name}' for name, number in numbers.items()])}. Say which is right with "
        f"{where}.classes: {_mapped(own, own)} if id2label is, {_mapped(own, other)} if label2id is; or mend "
        "config.json."
    )


def _mapped(own: Sequence[str], names: Sequence[str]) -> str:
    """Names of the head and of the data, as a recipe pairs them."""
    pairs = [f"{name}: {other}" for name, other in zip(own, names, strict=True)]
    return f"{{{', '.join(pairs[:SHOWN])}{', ...' if len(pairs) > SHOWN else ''}}}"


def named_by_hand(own: Sequence[str], labels: Sequence[str], where: str = TEACHER) -> str:
    """How a recipe says which class is which, where that can be.

    Only names that are the same but for case and form are paired. Any other pair would be a guess, and a wrong one that
    is copied into the recipe turns the answers round.
    """
    if len(own) != len(labels) or len(set(own)) != len(own):
        return ""
    apart = [name for name in own if name not in labels]
    left = sorted(label for label in labels if label not in own)
    alike = [[label for label in left if _plain(label) == _plain(name)] for name in apart]
    found = [same[0] for same in alike if len(same) == 1]
    if len(set(found)) == len(apart):
        pairs = ", ".join(f"{name}: {label}" for name, label in zip(apart, found, strict=True))
        return f" If they are the same under other names, say so with {where}.classes: {{{pairs}}}."
    pairs = ", ".join(f"{name}: ..." for name in apart[:SHOWN]) + (", ..." if len(apart) > SHOWN else "")
    return (
        f" If they are the same under other names, say which is which with {where}.classes: {{{pairs}}}, with one of "
        f"these in place of each ...: {listed(left)}."
    )


def _plain(name: str) -> str:
    """A name without what two spellings of it may differ in."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def _both(own: Sequence[str], labels: Sequence[str]) -> str:
    missing, extra = sorted(set(labels) - set(own)), sorted(set(own) - set(labels))
    return (
        f"In the head: {listed(own)}; in the data: {listed(labels)} "
        f"(only in the data: {missing[:3]}, only in the head: {extra[:3]})."
    )


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first of many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def require_no_classes(classes: Mapping[str, str], why: str, where: str = TEACHER) -> None:
    """Raises ModelError: a recipe names classes where there are none."""
    if classes:
        raise ModelError(f"{where}.classes: {why}. Leave it out.")
