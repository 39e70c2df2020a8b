"""Responses that a teacher wrote, as token ids, and the Parquet files that keep them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Int32

from potstill.run_dir import atomic_file

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("prompt", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("response", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("ended", pa.bool_(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
UNFINISHED = "\ufffd"
"""What a tokenizer decodes a part of a character as."""


@dataclass(frozen=True, eq=False, slots=True)
class GeneratedResponse:
    """What a teacher was shown and what it wrote.

    Never made of text again: a text has many readings as tokens, and a teacher does not always write the one that its
    tokenizer would choose.
    """

    id: str
    prompt: Int32[np.ndarray, "shown"]
    response: Int32[np.ndarray, "tokens"]
    """With the token that ended it, where there was one."""
    text: str
    """For people to read."""
    ended: bool = True
    """Or it was cut at the greatest length."""
    seed: int = 0
    """What its batch was drawn with."""

    @property
    def own_text(self) -> str:
        return self.text

    @property
    def whole_text(self) -> str:
        """Without a part of a character, within which a response can be cut."""
        return self.text if self.ended else self.text.rstrip(UNFINISHED)

    @property
    def label(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return True

    @property
    def content(self) -> list[Any]:
        return [self.id, self.prompt.tolist(), self.response.tolist()]


def save_generated(path: Path, rows: Sequence[GeneratedResponse]) -> None:
    """Write the file so that a reader sees all of it or none."""
    table = pa.table(
        {
            "id": [row.id for row in rows],
            "seed": [row.seed for row in rows],
            "prompt": [row.prompt for row in rows],
            "response": [row.response for row in rows],
            "ended": [row.ended for row in rows],
            "text": [row.text for row in rows],
        },
        schema=SCHEMA,
    )
    with atomic_file(path, private=True) as temporary:
        pa.parquet.write_table(table, temporary)


def load_generated(path: Path) -> list[GeneratedResponse]:
    """What `save_generated` wrote.

    Raises:
        pyarrow.ArrowException: the file is damaged.
    """
    return [
        GeneratedResponse(
            id=row["id"],
            prompt=np.array(row["prompt"], dtype=np.int32),
            response=np.array(row["response"], dtype=np.int32),
            text=row["text"],
            ended=row["ended"],
            seed=row["seed"],
        )
        for row in pa.parquet.read_table(path, schema=SCHEMA).to_pylist()
    ]
