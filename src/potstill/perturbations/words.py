"""Changes of documents that are given as words with a tag each, so that every word keeps its own tag."""

from collections.abc import Sequence

from potstill.perturbations import NAMES, PerturbationName, Severity, perturbed

OF_WORDS: tuple[PerturbationName, ...] = tuple(name for name in NAMES if name != "white_space")
"""Those that words have; what stands between them is not theirs."""
BOILERPLATE: tuple[PerturbationName, ...] = ("boilerplate_before", "boilerplate_after")
"""Those that bring words of their own, which are outside of all that is tagged."""


def perturbed_words(
    words: Sequence[str], tags: Sequence[str], name: PerturbationName, severity: Severity, key: str, *, outside: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words as this perturbation changes them, with their tags; `outside` is that of words which it brings.

    A text is changed as a whole, so that as much of it is as of other texts. A word that would be left out, such as a
    sign that is a word by itself, stays as it is. What is cut off takes its tags along.
    """
    if not words:
        return (), ()
    text = perturbed(" ".join(words), name, severity, key)
    if name in BOILERPLATE:
        found = tuple(text.split())
        brought = (outside,) * (len(found) - len(words))
        return found, (*brought, *tags) if name == "boilerplate_before" else (*tags, *brought)
    changed = text.split(" ")
    kept = tuple(new or old for new, old in zip(changed, words, strict=False))
    assert len(changed) <= len(words), "no change puts a space into a word"
    return kept, tuple(tags[: len(kept)])
