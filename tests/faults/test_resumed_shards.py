"""A shard that was damaged while its job was broken off is found when the job goes on, and made anew."""

from pathlib import Path

import numpy as np
import pytest

from potstill.labels import LabelStore
from tests.faults.test_label_store import BATCHES, IDS, LOGITS, Teacher, write


def test_a_shard_that_changed_since_it_was_written_is_made_anew(tmp_path: Path) -> None:
    """Its ids and its form are as planned; of its labels one bit is another."""
    store = tmp_path / "store"
    with pytest.raises(ConnectionError):
        write(store, Teacher(patience=5))
    path = store / "shard-00000.arrow"
    content = bytearray(path.read_bytes())
    content[content.index(LOGITS[1].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    resumed = Teacher()
    write(store, resumed)
    # The first shard was damaged, the second is whole, the third was never finished.
    assert resumed.asked == [tuple(batch) for batch in BATCHES[:2] + BATCHES[4:]]
    np.testing.assert_array_equal(LabelStore(store).logits(IDS), LOGITS.numpy())
