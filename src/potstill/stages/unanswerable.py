"""Queries that should be declined or are nonsense, which chat models are asked beside the test rows."""

from collections.abc import Iterator
from pathlib import Path

from potstill.data.dialogues import Conversation, prompt_of
from potstill.data.reading import Reading
from potstill.data.sources import located
from potstill.data.turns import Message
from potstill.errors import DataError
from potstill.perturbations.settings import BUILT_IN
from potstill.perturbations.unanswerable import QUERIES
from potstill.recipe import Recipe

KEY = "evaluate.robustness.unanswerable"


def read_unanswerable(recipe: Recipe, base: Path) -> list[Conversation]:
    """The queries as conversations without a response, with their kind as their domain; none where nobody is asked.

    Raises:
        DataError: the file or its rows cannot be read, or a row holds no messages.
    """
    settings = recipe.evaluate.robustness
    if settings is None or settings.unanswerable is None or not recipe.task.templated:
        return []
    if settings.unanswerable == BUILT_IN:
        return list(_built_in())
    path, data = located(base, settings.unanswerable), recipe.data
    try:
        read = recipe.task.read(path, data.columns, how=Reading(frozenset(data.ignore), data.on_error))
    except DataError as error:
        raise DataError(f"{KEY}: {error}") from None
    queries: dict[str, Conversation] = {}
    for row in read:
        if not isinstance(row, Conversation):
            raise DataError(
                f'{KEY}: row "{row.id}" of {path} has no messages. Write each query as '
                '{"messages": [{"role": "user", "content": ...}]}.'
            )
        query = prompt_of(row)
        assert isinstance(query, Conversation)
        if query.labelled:
            raise DataError(f'{KEY}: row "{row.id}" of {path} asks nothing. End it with a turn of the user.')
        queries.setdefault(query.text, query)
    return list(queries.values())


def _built_in() -> Iterator[Conversation]:
    for kind, texts in QUERIES.items():
        for number, text in enumerate(texts):
            yield Conversation(f"{kind}-{number}", (Message("user", text),), domain=kind)
