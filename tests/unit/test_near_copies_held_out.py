"""No row that teaches nearly copies a held-out row, of whichever split that is."""

from pathlib import Path

import pytest

from potstill.data.prepare import DataSettings, prepare
from potstill.data.rows import read_rows
from tests.unit.test_rows import lines

FILES = DataSettings(train="train.jsonl", validation="validation.jsonl", test="test.jsonl", adapt="adapt.jsonl")


def words(start: int) -> str:
    return " ".join(f"word{number}" for number in range(start, start + 60))


@pytest.mark.parametrize("held_out", ["test", "validation"])
@pytest.mark.parametrize("taught", ["train", "adapt"])
def test_near_copies_of_test_and_of_validation_leave_train_and_adapt(
    tmp_path: Path, held_out: str, taught: str
) -> None:
    """Near-copies of validation would choose the checkpoint that knows them by heart."""
    files = {
        name: [{"text": words(1000 * number), "label": "x"}]
        for number, name in enumerate(("test", "validation", "train", "adapt"))
    }
    files[taught].append({"text": f"{files[held_out][0]['text']} more", "label": "x"})
    for name, records in files.items():
        lines(tmp_path / f"{name}.jsonl", *records)
    splits = prepare(FILES, tmp_path, read_rows)
    assert {name: split.near_copies_dropped for name, split in splits.items() if split.near_copies_dropped} == {
        taught: 1
    }
    assert all(len(split.rows) == 1 for split in splits.values())
