"""What stages know of rows whose every trained token is a position: of decoders and of encoder-decoders alike."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from potstill.data.chat_tokens import TokenCounts
from potstill.data.encoded import Encoded
from potstill.data.rows import OWN_ID
from potstill.data.tokens import TokenFile
from potstill.errors import DataError


@runtime_checkable
class TokenRows(Encoded, Protocol):
    """Rows of a task whose models write."""

    @property
    def examples(self) -> TokenFile:
        """What a model is shown and must say, one after the other; `trained` is true where it must say a token."""
        ...

    @property
    def counts(self) -> TokenCounts | None:
        """What became of the rows on their way into tokens."""
        ...

    def unpacked(self) -> "TokenRows":
        """The same examples, one in each row."""
        ...

    def followed_by(self, more: "TokenRows") -> "TokenRows":
        """These examples and then those, one in each row."""
        ...

    def examples_in(self, row: int) -> Sequence[int]:
        """The numbers of the examples that share a row, in the order of their positions."""
        ...


def examples_of(first: Encoded, *others: Encoded) -> Encoded:
    """The examples of these rows one after the other, none packed into a row with another.

    Raises:
        DataError: two examples have one id.
    """
    if not isinstance(first, TokenRows):
        assert not others, "only rows of tokens can be put one after the other"
        return first
    rows = first.unpacked()
    for more in others:
        assert isinstance(more, TokenRows)
        rows = rows.followed_by(more)
    if (repeated := rows.examples.first_repeated()) is not None:
        raise DataError(f'Duplicate id "{rows.ids[repeated]}", after long rows were cut. {OWN_ID}')
    return rows
