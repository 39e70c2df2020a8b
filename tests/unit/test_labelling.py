"""Labelling: what is stored of a teacher's outputs, by whom it can be written, and what the record says of a store."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.data.encoded import EncodedRows
from potstill.data.packing import PackedRows, pack
from potstill.data.prepare import Split
from potstill.data.rows import Row
from potstill.data.token_rows import examples_of
from potstill.data.tokens import Tokenised
from potstill.data.words import EncodedWords, Window
from potstill.errors import DataError, LabelStoreError
from potstill.labels import Dense, DensePositions, Fitted, Hidden, LabelSource, LabelStore, States, StoreWriter
from potstill.labels.exact_head import log_sums_of_tail
from potstill.labels.fidelity import Bound, temperatures_around
from potstill.labels.labelling import Labelled, label_rows, record_of
from potstill.labels.principal_components import components
from potstill.labels.row_encoders import RowEncoder, StatesOfRows, TokensOfRows, WholeRows, WordsOfRows, dense_encoder
from potstill.labels.shards import OpenShard
from potstill.pipeline import run_recipe
from potstill.progress import Progress, unseen
from potstill.recipe.yaml_file import load_recipe
from potstill.records import LabelFidelity
from potstill.run_dir import file_digest
from potstill.signals import Batch, Features, Read, Signal
from potstill.targets import Head
from potstill.tasks import CausalLM, TextClassification, TokenClassification

CLASSES = ("a", "b", "c")
SOURCE = LabelSource(teacher="t", tokenizer="k", data="d", labels=CLASSES, max_length=16, precision="float32")
LENGTHS = (5, 2, 9, 3, 7, 4, 2)
STATE = Read(Signal.HIDDEN_STATES, 1)


def ids() -> list[str]:
    return [f"row-{number}" for number in range(len(LENGTHS))]


def texts() -> EncodedRows:
    tokens = [np.full(length, 10 + row, dtype=np.int32) for row, length in enumerate(LENGTHS)]
    return EncodedRows(tuple(ids()), tokens, np.zeros(len(LENGTHS), dtype=np.int64), pad_id=0, truncated=0)


def words() -> EncodedWords:
    """Documents of one window, in which every second token is the first of a word."""
    windows = []
    for row, length in enumerate(LENGTHS):
        places = np.arange(0, length, 2, dtype=np.int64)
        windows.append(Window(np.full(length, 10 + row, dtype=np.int32), places, np.arange(len(places))))
    labels = [np.zeros(len(window.places), dtype=np.int64) for window in windows]
    return EncodedWords(tuple(ids()), windows, labels, np.arange(len(LENGTHS)), pad_id=0, truncated=0)


def dialogues(*, name: str = "row", packing: bool = False) -> PackedRows:
    """Of each example the last half is learnt."""
    examples = []
    for row, length in enumerate(LENGTHS):
        trained = np.arange(length) >= max(1, length // 2)
        examples.append(Tokenised(f"{name}-{row}", np.full(length, 10 + row, dtype=np.int32), trained))
    return pack(examples, max_length=16, pad_id=0, packing=packing)


def output(row: int, place: int, width: int = 3) -> list[float]:
    """What the teacher gives for a token, whatever stands beside it."""
    return [row + place / 16 + number / 64 for number in range(width)]


def at_each_token(batch: Batch) -> Tensor:
    tokens = batch.inputs["input_ids"].tolist()
    return torch.tensor([[output(token - 10, place) for place, token in enumerate(row)] for row in tokens])


def at_positions(batch: Batch) -> Tensor:
    return at_each_token(batch)[batch.mask]


def labelled(
    folder: Path, rows: Any, forward: Callable[[Batch], Any], encoder: RowEncoder[Any], **changes: Any
) -> Labelled:
    folder.mkdir(exist_ok=True)
    how = {"batch_size": 2, "batches_per_shard": 1, "advance": unseen} | changes
    return label_rows(folder, rows, forward, encoder, SOURCE, **how)


def test_of_whole_rows_the_outputs_are_stored(tmp_path: Path) -> None:
    labelled(tmp_path, texts(), lambda batch: at_each_token(batch)[:, 0], WholeRows(Dense()))
    logits = LabelStore(tmp_path).logits(ids())
    assert logits.tolist() == [output(row, 0) for row in range(len(LENGTHS))]


def test_of_words_the_outputs_are_stored_with_the_number_of_words_in_each_row(tmp_path: Path) -> None:
    labelled(tmp_path, words(), at_positions, dense_encoder(Dense(), "words", len(CLASSES)), batch_size=3)
    columns, counts = LabelStore(tmp_path).positions(ids())
    expected = [output(row, place) for row, length in enumerate(LENGTHS) for place in range(0, length, 2)]
    assert list(counts) == [-(-length // 2) for length in LENGTHS]
    assert columns["logits"].tolist() == expected


def test_of_tokens_the_distributions_before_those_that_are_learnt_are_stored(tmp_path: Path) -> None:
    """In chunks of a few positions as well as in one."""
    rows, head = dialogues(), Head(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -1.0], [0.5, 0.5, 0.5]]))
    # The position before a token is about it.
    places = [
        (row, place) for row, length in enumerate(LENGTHS) for place in range(max(1, length // 2) - 1, length - 1)
    ]
    hidden = torch.tensor([output(row, place) for row, place in places])
    codec = Hidden(head=4).fit(hidden, head, (1.0, 2.0))
    encoder = TokensOfRows(Fitted(Hidden(head=4), codec, 4, (1.0, 2.0), ()), head)
    labelled(tmp_path, rows, at_positions, encoder)
    store = LabelStore(tmp_path)
    columns, counts = store.positions(ids())
    assert sum(counts) == len(places) and list(counts) == rows.positions
    expected = codec.encode(hidden, head.logits(hidden))
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)


def test_of_hidden_states_those_of_the_tokens_that_count_are_stored(tmp_path: Path) -> None:
    def forward(batch: Batch) -> Features:
        return {STATE: at_each_token(batch)[batch.tokens]}

    labelled(tmp_path, dialogues(), forward, StatesOfRows(States.of({STATE}, 3)))
    columns, counts = LabelStore(tmp_path).positions(ids())
    places = [
        (row, place) for row, length in enumerate(LENGTHS) for place in range(max(1, length // 2) - 1, length - 1)
    ]
    assert list(counts) == dialogues().positions
    np.testing.assert_allclose(columns["layer_1"], [output(*place) for place in places], rtol=2**-10)


def test_rows_are_asked_about_once_and_the_batches_follow_from_their_lengths(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    def forward(batch: Batch) -> Tensor:
        seen.append(batch.ids)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return at_each_token(batch)[:, 0]

    with pytest.raises(KeyboardInterrupt):
        labelled(tmp_path, texts(), forward, WholeRows(Dense()))
    advanced: list[tuple[int, bool]] = []

    def advance(amount: int = 1, note: str = "", *, earlier: bool = False) -> None:
        advanced.append((amount, earlier))

    done = labelled(tmp_path, texts(), forward, WholeRows(Dense()), advance=advance)
    by_length = [("row-1", "row-6"), ("row-3", "row-5"), ("row-0", "row-4"), ("row-2",)]
    assert seen == [*by_length[:3], *by_length[2:]]
    assert done.rows_asked == 3 and done.manifest.rows == 7
    assert advanced == [(4, True), (2, False), (1, False)]


@pytest.mark.parametrize("writers", [2, 3])
def test_shards_can_be_written_by_several_writers_in_any_order(tmp_path: Path, writers: int) -> None:
    rows = texts()

    def ask(indices: Sequence[int]) -> Tensor:
        return at_each_token(rows.collate(indices))[:, 0]

    batches = [[1, 6], [3, 5], [0, 4], [2]]
    (tmp_path / "alone").mkdir()
    (tmp_path / "shared").mkdir()
    alone = StoreWriter(tmp_path / "alone", Dense(), SOURCE).write(ids(), batches, 1, ask, unseen)
    main = StoreWriter(tmp_path / "shared", Dense(), SOURCE)
    plan = main.plan(ids(), batches, 1)
    assert plan.rows_held == 0 and not plan.whole
    entries = []
    for rank in reversed(range(writers)):
        other = StoreWriter(tmp_path / "shared", Dense(), SOURCE)
        entries += [other.write_shard(shard, ids(), ask, unseen) for shard in plan.missing[rank::writers]]
    assert main.complete(entries) == alone
    assert file_digest(tmp_path / "alone/manifest.json") == file_digest(tmp_path / "shared/manifest.json")


def test_a_record_counts_the_files_of_a_store_and_the_rows_that_were_asked_about(tmp_path: Path) -> None:
    encoder = WordsOfRows(DensePositions(classes=len(CLASSES), dtype="float16"))
    done = labelled(tmp_path, words(), at_positions, encoder)
    record = record_of(tmp_path, replace(done, rows_asked=5), encoder.encoding, seconds=2.0)
    there = {path.name: path for path in tmp_path.iterdir()}
    assert record.files == {name: file_digest(path) for name, path in there.items()}
    assert {"manifest.json", "manifest.json.sha256", "shard-00000.arrow", "shard-00003.arrow"} <= there.keys()
    assert record.size_bytes == sum(path.stat().st_size for path in there.values())
    assert (record.rows, record.rows_per_s) == (7, 2.5)
    assert record.positions == sum(-(-length // 2) for length in LENGTHS)
    assert record.bytes_per_position == 6
    assert record.content_digest == LabelStore(tmp_path).manifest.content_digest


def test_a_record_of_whole_rows_has_no_positions(tmp_path: Path) -> None:
    done = labelled(tmp_path, texts(), lambda batch: at_each_token(batch)[:, 0], WholeRows(Dense()))
    record = record_of(tmp_path, done, Dense(), seconds=0.0)
    assert (record.positions, record.bytes_per_position, record.rows_per_s) == (None, None, 0.0)


def error(temperature: float, kl: float | None) -> LabelFidelity:
    return LabelFidelity(temperature=temperature, kl=kl, distance=0.0, captured_mass=1.0)


def test_a_bound_holds_where_the_losses_read_the_labels() -> None:
    bound = Bound(0.1, (1.0, 1.5, 2.0))
    assert bound.exceeded_by([error(1.0, 0.1), error(2.0, 0.05), error(3.0, 5.0), error(0.5, 5.0)]) is None
    assert bound.exceeded_by([error(1.0, 0.2), error(1.7, 0.3), error(3.0, 5.0)]) == error(1.7, 0.3)
    unknown = bound.exceeded_by([error(1.0, 0.2), error(2.0, math.nan)])
    assert unknown is not None and unknown.temperature == 2.0
    # Samples are no distribution, and null accepts any error.
    assert bound.exceeded_by([error(1.0, None)]) is None and bound.exceeded_by([]) is None
    assert Bound(None, (1.0,)).exceeded_by([error(1.0, 9.0)]) is None
    with pytest.raises(LabelStoreError, match=r"0\.300 nats from the teacher at temperature 1\.7.*max_kl is 0\.1"):
        bound.require([error(1.7, 0.3)])


def test_temperatures_are_judged_with_the_nearest_of_the_grid_around_them() -> None:
    grid = (1.0, 1.5, 2.0, 3.0, 4.0)
    assert temperatures_around((1.0, 1.0), grid) == (1.0,)
    assert temperatures_around((1.2, 2.0), grid) == (1.0, 1.5, 2.0)
    assert temperatures_around((1.5, 2.5), grid) == (1.5, 2.0, 3.0)


def test_examples_follow_one_another_and_none_shares_a_row() -> None:
    rows = examples_of(dialogues(packing=True), dialogues(name="more", packing=True))
    assert list(rows.ids) == [*ids(), *(f"more-{row}" for row in range(len(LENGTHS)))]
    assert list(rows.lengths) == [*LENGTHS, *LENGTHS]
    assert list(examples_of(dialogues(packing=True)).lengths) == list(LENGTHS)
    assert examples_of(whole := texts()) is whole
    with pytest.raises(DataError, match='Duplicate id "row-0", after long rows were cut'):
        examples_of(dialogues(), dialogues())


def test_all_logits_serve_temperatures_outside_of_the_grid(project: Path) -> None:
    """The grid is that of compressed encodings, and nothing is lost here that could be judged."""
    losses = "losses=[{kind: soft_targets, temperature: 8.0}, {kind: hard_labels}]"
    recipe = load_recipe(project / "recipe.yaml", ["adapt.epochs=1", losses])
    run_recipe(recipe, project, project / "run", Progress(), "label")
    assert (project / "run/label/teacher/logits/result.json").is_file()


def split(text: str, label: str = "a") -> Split:
    return Split(rows=[Row("1", text, label)], read=1)


def test_labels_depend_on_what_decides_what_a_teacher_is_shown() -> None:
    splits = {"train": split("one"), "validation": split("two")}
    others = {"train": split("one"), "validation": split("three")}
    otherwise = {"train": split("one", "b"), "validation": split("two")}
    chat = CausalLM(max_length=64)
    assert chat.labelled_data(splits) == CausalLM(max_length=64, packing=False).labelled_data(splits)
    assert chat.labelled_data(splits) != CausalLM(max_length=32).labelled_data(splits)
    assert chat.labelled_data(splits) != chat.labelled_data(others)
    whole = TextClassification()
    assert whole.labelled_data(splits) == whole.labelled_data(others) == whole.labelled_data(otherwise)
    assert whole.labelled_data(splits) != whole.labelled_data({"train": split("two")})
    windows = TokenClassification(overlap=8)
    assert windows.labelled_data(splits) != TokenClassification(overlap=16).labelled_data(splits)
    assert windows.labelled_data(splits) == windows.labelled_data(otherwise)


def test_the_teacher_goes_on_while_answers_are_written_and_no_further_than_few_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, asked, ahead = texts(), list[int](), list[int]()
    real, may_write = OpenShard.add, threading.Event()

    def add(self: OpenShard, *given: Any) -> int:
        assert may_write.wait(10)
        return real(self, *given)

    def ask(indices: Sequence[int]) -> Tensor:
        asked.append(len(indices))
        if len(asked) == 3:
            # Three answers wait: one is being written.
            ahead.append(len(asked))
            may_write.set()
        return at_each_token(rows.collate(indices))[:, 0]

    monkeypatch.setattr(OpenShard, "add", add)
    StoreWriter(tmp_path, Dense(), SOURCE).write(ids(), [[1], [6], [3], [5], [0], [4], [2]], 4, ask, unseen)
    assert ahead == [3] and LabelStore(tmp_path).manifest.rows == 7


def test_an_answer_that_cannot_be_written_stops_the_teacher_and_leaves_no_part_of_its_shard(tmp_path: Path) -> None:
    rows, asked = texts(), list[int]()

    def ask(indices: Sequence[int]) -> Tensor:
        asked.extend(indices)
        return at_each_token(rows.collate(indices))[:, 0] * (math.nan if 3 in indices else 1)

    batches = [[1], [6], [3], [5], [0], [4], [2]]
    with pytest.raises(LabelStoreError, match="non-finite: id row-3 class 0"):
        StoreWriter(tmp_path, Dense(), SOURCE).write(ids(), batches, 2, ask, unseen)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shard-00000.arrow.json", "shard-00000.arrow"]
    assert asked[:3] == [1, 6, 3]


def test_a_record_tells_where_the_time_went(tmp_path: Path) -> None:
    def forward(batch: Batch) -> Tensor:
        time.sleep(0.02)
        return at_each_token(batch)[:, 0]

    encoder = WholeRows(Dense())
    done = labelled(tmp_path, texts(), forward, encoder)
    record = record_of(tmp_path, done, encoder.encoding, seconds=2.0, before={"load": 1.5})
    assert list(record.seconds_of) == ["load", "collate", "forward", "encode", "write"]
    assert record.seconds_of["load"] == 1.5 and 0.08 <= record.seconds_of["forward"] < 2
    assert record.seconds_of["write"] > 0
    # Of rows that were labelled before nothing is known.
    again = labelled(tmp_path, texts(), forward, encoder)
    assert record_of(tmp_path, again, encoder.encoding, seconds=0.0).seconds_of == {}


@pytest.mark.parametrize("compiling", [False, True])
def test_the_mass_of_a_tail_is_that_of_its_definition(monkeypatch: pytest.MonkeyPatch, compiling: bool) -> None:
    """As it is computed on a CPU, and as it is written for the compiler, which takes squares of what it has."""
    grid = (1.0, 1.5, 2.0, 3.0, 4.0)
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(3)) * 4
    most = logits.amax(dim=1, keepdim=True)
    logits[:, 7] = -torch.inf
    expected = [torch.logsumexp((logits.double() - most.double()) / each, dim=1) for each in grid]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    found = log_sums_of_tail(logits, most, grid)
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [16_384, 7])
def test_components_are_the_same_whatever_is_in_double_precision_at_once(rows: int) -> None:
    generator = torch.Generator().manual_seed(2)
    head = Head(torch.randn(30, 6, generator=generator), torch.randn(30, generator=generator), scale=0.5)
    states = torch.randn(50, 6, generator=generator)
    expected, found = (components(states, head, 6, rows=each) for each in (30, rows))
    for name in ("mean", "factor", "offset"):
        # The sign of a component is nobody's choice.
        torch.testing.assert_close(found[name].abs(), expected[name].abs(), rtol=1e-4, atol=1e-5)
