"""Contracts that every encoding of a language model's labels keeps, and what each promises on its own."""

import itertools
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from potstill.divergences import ForwardKL
from potstill.errors import LabelStoreError
from potstill.labels import Fitted, LabelSource, LabelStore, PositionEncoding, StoredTeacher, StoreWriter
from potstill.labels.error import as_tensors, measure_error, stored_distribution
from potstill.labels.hidden import Hidden
from potstill.labels.low_rank import LowRank
from potstill.labels.packed_ids import id_bits, pack_ids, packed_width, require_ids, unpack_ids
from potstill.labels.positions import Codec, bytes_per_position, on_host
from potstill.labels.sampled import Sampled, threshold_sample
from potstill.labels.store import damaged_codec, read_manifest
from potstill.labels.top_k import TopK
from potstill.labels.writer import describe, repair
from potstill.losses.chunked import logit_terms
from potstill.losses.kernels import Kernels
from potstill.losses.terms import SoftTerm
from potstill.progress import unseen
from potstill.signals import Batch
from potstill.targets import Head, LogitTargets, Target
from tests.contracts.reference import FAST

GRID = (1.0, 2.0, 4.0)
VOCABULARY, WIDTH = 300, 24
ENCODINGS: tuple[Any, ...] = (TopK(k=8), Hidden(head=8), LowRank(head=8, rank=12), Sampled(k=8))
FULL = [each for each in ENCODINGS if not isinstance(each, Sampled)]


def kind(encoding: Any) -> str:
    return str(encoding.kind)


def head(*, bias: bool = True, scale: float = 1.0) -> Head:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator) * torch.linspace(2, 0.05, WIDTH)
    return Head(weight, torch.randn(VOCABULARY, generator=generator) if bias else None, scale)


def states(count: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, WIDTH, generator=generator) * torch.linspace(1.5, 0.2, WIDTH) + 0.3


def fitted(encoding: Any, grid: tuple[float, ...] = GRID) -> Codec:
    codec: Codec = encoding.fit(states(400), head(), grid)
    return codec


def through(codec: Codec, hidden: Tensor) -> Target:
    return codec.target(as_tensors(codec.encode(hidden, head().logits(hidden))))


def probabilities(target: Target, temperature: float) -> Tensor:
    return stored_distribution(target, temperature, VOCABULARY)[0].exp()


def test_every_encoding_is_under_contract() -> None:
    assert {each.kind for each in ENCODINGS} == {m.model_fields["kind"].default for m in get_args(PositionEncoding)}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=kind)
def test_columns_have_the_layout_that_was_announced(encoding: Any) -> None:
    codec = fitted(encoding)
    columns = on_host(codec.encode(states(5), head().logits(states(5))))
    assert list(columns) == list(codec.columns)
    # The plan knows the size before anything is fitted.
    assert encoding.columns(VOCABULARY, WIDTH, GRID) == codec.columns
    for name, column in codec.columns.items():
        assert columns[name].dtype == column.dtype and columns[name].shape == (5, column.width)
    assert sum(column.nbytes for column in columns.values()) == 5 * bytes_per_position(codec.columns)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=kind)
def test_a_position_is_encoded_alike_in_every_chunk(encoding: Any) -> None:
    codec, hidden = fitted(encoding), states(6).double()
    logits = Head(head().weight.double(), head().bias).logits(hidden)
    whole = codec.encode(hidden, logits.clone())
    for row in range(6):
        alone = codec.encode(hidden[row : row + 1], logits[row : row + 1].clone())
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], whole[name][row])


@pytest.mark.parametrize("encoding", FULL, ids=kind)
@pytest.mark.parametrize("temperature", GRID)
def test_head_and_tail_mass_are_those_of_the_teacher(encoding: Any, temperature: float) -> None:
    hidden = states(50, seed=3)
    exact = torch.softmax(head().logits(hidden) / temperature, dim=1)
    top = head().logits(hidden).topk(8, dim=1).indices
    stored = probabilities(through(fitted(encoding), hidden), temperature)
    torch.testing.assert_close(stored.sum(dim=1), torch.ones(50))
    # Half precision: eleven binary digits of the logit and of the log of the mass.
    torch.testing.assert_close(stored.gather(1, top), exact.gather(1, top), rtol=6e-3, atol=1e-5)
    tail, exact_tail = (each.scatter(1, top, 0.0).sum(dim=1) for each in (stored, exact))
    torch.testing.assert_close(tail, exact_tail, rtol=6e-3, atol=1e-5)


@pytest.mark.parametrize("encoding", [TopK(k=64), Hidden(head=64), LowRank(head=64, rank=4)], ids=kind)
def test_a_head_as_large_as_the_vocabulary_is_exact(encoding: Any) -> None:
    small = Head(head().weight[:20])
    codec = encoding.fit(states(100), small, GRID)
    for error in measure_error(codec, states(30, seed=3), small, GRID):
        assert error.kl is not None and abs(error.kl) < 1e-4 and error.captured_mass == pytest.approx(1)


def test_more_rank_is_nearer_and_full_rank_as_near_as_8_bits_are() -> None:
    errors = [
        measure_error(fitted(LowRank(head=8, rank=rank)), states(200, seed=3), head(), (1.0,))[0].kl
        for rank in (2, 6, 12, WIDTH)
    ]
    assert all(a is not None and b is not None and a > 1.2 * b for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-3


def test_components_are_best_in_the_metric_of_the_logits() -> None:
    """Against PCA of the bare states, for a head that stretches one direction of little variance."""
    weight = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(5)) * torch.tensor(
        [0.01, 0.01, 0.01, 10]
    )
    hidden = torch.randn(500, 4, generator=torch.Generator().manual_seed(6)) * torch.tensor([5.0, 4.0, 3.0, 0.2])
    codec = LowRank(head=1, rank=1).fit(hidden, Head(weight), (1.0,))
    assert measure_error(codec, hidden, Head(weight), (1.0,))[0].kl < 0.01


@pytest.mark.parametrize("encoding", [Hidden(head=8), LowRank(head=8, rank=WIDTH)], ids=kind)
def test_the_soft_cap_of_a_head_is_put_on_what_comes_of_its_components(encoding: Any) -> None:
    capped = Head(head().weight, None, 1.0, 5.0)
    made = encoding.fit(states(400), capped, GRID)
    codec = encoding.load(dict(made.tensors), VOCABULARY, GRID)
    without = encoding.load({name: each for name, each in made.tensors.items() if name != "soft_cap"}, VOCABULARY, GRID)
    for error, other in zip(
        *(measure_error(each, states(50, 3), capped, GRID) for each in (codec, without)), strict=True
    ):
        assert error.kl < 2e-3 and other.kl > 10 * error.kl
    logits = capped.logits(states(20, seed=3))
    stored = codec.target(as_tensors(codec.encode(states(20, seed=3), logits.clone())))
    torch.testing.assert_close(probabilities(stored, 2.0), torch.softmax(logits / 2, dim=1), rtol=0.15, atol=1e-3)


@pytest.mark.parametrize("encoding", FULL, ids=kind)
def test_measured_errors_are_what_the_definitions_say(encoding: Any) -> None:
    hidden = states(70, seed=4)
    codec = fitted(encoding)
    stored_on = through(codec, hidden)
    for error in measure_error(codec, hidden, head(), GRID):
        p = torch.softmax(head().logits(hidden) / error.temperature, dim=1)
        q = probabilities(stored_on, error.temperature)
        assert error.kl == pytest.approx((p * (p / q).log()).sum(dim=1).mean().item(), rel=1e-3, abs=1e-6)
        assert error.distance == pytest.approx((p - q).norm(dim=1).mean().item(), rel=1e-3)
        assert error.captured_mass == pytest.approx(p.topk(8, dim=1).values.sum(dim=1).mean().item(), rel=1e-4)


def test_samples_have_no_kl_and_say_what_they_captured() -> None:
    (error,) = measure_error(fitted(Sampled(k=8)), states(30, seed=4), head(), (1.0,))
    assert error.kl is None and 0 < error.captured_mass < 1


@FAST
@given(seed=st.integers(0, 2**20), k=st.sampled_from([1, 2, 5, 9, 10]), scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_threshold_sampling_is_unbiased_with_weights_that_sum_to_one(seed: int, k: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(1, 10, generator=generator) * scale, dim=1)
    # All starts of a fine grid instead of random ones: the mean over them is the expectation.
    starts = (torch.arange(4000) + 0.5) / 4000
    ids, weights = threshold_sample(p.expand(4000, -1), k, starts)
    assert all(len(set(row)) == k for row in ids.tolist())
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4000))
    mean = torch.zeros(4000, 10).scatter(1, ids, weights).mean(dim=0)
    torch.testing.assert_close(mean, p[0], rtol=0, atol=2e-3)


@FAST
@given(
    vocabulary=st.sampled_from([2, 3, 300, 49_152, 65_536, 65_537, 129_280]),
    k=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_packed_ids_come_back(vocabulary: int, k: int, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(0, vocabulary, (7, k))
    ids[0] = vocabulary - 1
    packed = pack_ids(torch.from_numpy(ids), vocabulary)
    assert packed.shape == (7, packed_width(k, vocabulary)) == (7, math.ceil(k * id_bits(vocabulary) / 8))
    # As in stores that were written before: the lowest bit of the first id first.
    spread = (ids[:, :, None] >> np.arange(id_bits(vocabulary))) & 1
    expected = np.packbits(spread.astype(np.uint8).reshape(7, -1), axis=1, bitorder="little")
    np.testing.assert_array_equal(packed.numpy(), expected)
    np.testing.assert_array_equal(unpack_ids(packed, k, vocabulary), ids)


def test_a_packed_id_beyond_the_vocabulary_is_named() -> None:
    packed = pack_ids(torch.tensor([[3, 7], [1, 5]]), 8)
    for read in (unpack_ids, require_ids):
        with pytest.raises(LabelStoreError, match="position 0: token id 7 is beyond the vocabulary of 6"):
            read(packed, 2, 6)


# The store that holds them.

SOURCE = LabelSource(teacher="t" * 64, tokenizer="k" * 64, data="d" * 64, labels=(), max_length=64, precision="float32")
IDS = [f"row {number}" for number in range(9)]
COUNTS = [3, 1, 4, 1, 5, 9, 2, 6, 0]
HIDDEN = [states(count, seed=10 + number) for number, count in enumerate(COUNTS)]
BATCHES = [[8, 0, 1], [2, 3], [4, 5], [6, 7]]


def write(folder: Path, encoding: Any, spoil: int | None = None) -> Codec:
    codec = fitted(encoding)
    errors = measure_error(codec, states(20, seed=4), head(), (1.0,))

    def ask(rows: Any) -> tuple[list[int], Any]:
        hidden = torch.cat([HIDDEN[row] for row in rows])
        logits = head().logits(hidden)
        columns = on_host(codec.encode(hidden, logits))
        if spoil is not None and spoil in rows:
            name = next(name for name, column in columns.items() if column.dtype.kind == "f")
            columns[name][-1] = np.nan
        return [COUNTS[row] for row in rows], columns

    folder.mkdir(exist_ok=True)
    writer = StoreWriter(folder, Fitted(encoding, codec, VOCABULARY, GRID, errors), SOURCE)
    writer.write(IDS, BATCHES, 2, ask, unseen)
    return codec


def batch_of(rows: list[int]) -> Batch:
    trained = sum(COUNTS[row] for row in rows)
    mask = torch.zeros(2, trained + 1, dtype=torch.bool)
    mask.view(-1)[:trained] = True
    return Batch(tuple(IDS[row] for row in rows), {}, torch.zeros_like(mask, dtype=torch.long), mask)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=kind)
def test_a_stored_teacher_says_what_was_encoded_in_the_order_of_the_batch(tmp_path: Path, encoding: Any) -> None:
    codec = write(tmp_path / "store", encoding)
    teacher = StoredTeacher(LabelStore(tmp_path / "store"), torch.device("cpu"))
    rows = [7, 0, 8, 5]
    said = teacher(batch_of(rows)).target
    direct = through(codec, torch.cat([HIDDEN[row] for row in rows]))
    assert said is not None and len(said) == len(direct) == 18
    student = head().logits(states(18, seed=77))
    term = (SoftTerm("soft_targets", ForwardKL(), 1.0, 1.0),)
    gradients = []
    for target in (said, direct):
        logits = student.clone()
        logit_terms(
            logits, torch.zeros(18, dtype=torch.long), target, slice(None), term, kernels=Kernels(compiled=False)
        )
        gradients.append(logits)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("encoding", FULL, ids=kind)
def test_the_gradient_from_the_store_is_near_that_from_the_teacher(tmp_path: Path, encoding: Any) -> None:
    write(tmp_path / "store", encoding)
    rows = [2, 4, 5]
    said = StoredTeacher(LabelStore(tmp_path / "store"), torch.device("cpu"))(batch_of(rows)).target
    hidden = torch.cat([HIDDEN[row] for row in rows])
    student = head().logits(states(len(hidden), seed=78))
    term = (SoftTerm("soft_targets", ForwardKL(), 1.0, 1.0),)
    gradients = []
    for target in (said, LogitTargets(head().logits(hidden))):
        logits = student.clone()
        labels = torch.zeros(len(hidden), dtype=torch.long)
        logit_terms(logits, labels, target, slice(None), term, kernels=Kernels(compiled=False))
        gradients.append(logits)
    cosine = torch.nn.functional.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)
    assert cosine > math.cos(math.radians(15))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_stored_states_are_right_also_where_they_are_beyond_all_that_was_fitted_on(temperature: float) -> None:
    codec = fitted(Hidden(head=8))
    for scale in (1.0, 3.0):
        hidden = states(40, seed=5) * scale
        exact = torch.log_softmax(head().logits(hidden) / temperature, dim=1)
        stored = probabilities(through(codec, hidden), temperature)
        log_stored = stored.log().clamp(min=-200)
        assert (exact.exp() * (exact - log_stored)).sum(dim=1).max() < 1e-3 * scale


def test_an_error_of_nothing_is_not_negative() -> None:
    hidden = states(200, seed=8)
    codec = fitted(TopK(k=VOCABULARY))
    for error in measure_error(codec, hidden, head(), GRID):
        assert error.kl is not None and 0 <= error.kl < 1e-3


def test_labels_of_other_tokens_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "store", TopK(k=8))
    teacher = StoredTeacher(LabelStore(tmp_path / "store"), torch.device("cpu"))
    other = batch_of([1, 2])
    short = Batch(other.ids, {}, other.labels, other.mask & (torch.arange(other.mask.shape[1]) > 0))
    with pytest.raises(LabelStoreError, match=r"labels of \d positions of row 'row [12]', of which \d count"):
        teacher(short)
    nothing = Batch(other.ids, {}, other.labels, torch.zeros_like(other.mask))
    assert teacher(nothing).target is None


@pytest.mark.parametrize("encoding", ENCODINGS, ids=kind)
def test_a_label_that_is_not_finite_is_never_written(tmp_path: Path, encoding: Any) -> None:
    with pytest.raises(LabelStoreError, match="non-finite: id row 5, position 8"):
        write(tmp_path / "store", encoding, spoil=5)
    assert not (tmp_path / "store/manifest.json").exists()


@pytest.mark.parametrize("encoding", [LowRank(head=8, rank=12), Hidden(head=8)], ids=kind)
def test_a_damaged_codec_is_refused(tmp_path: Path, encoding: Any) -> None:
    write(tmp_path / "store", encoding)
    path = tmp_path / "store/codec.safetensors"
    assert path.stat().st_mode & 0o777 == 0o600
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(LabelStoreError, match=r"codec\.safetensors: damaged"):
        LabelStore(tmp_path / "store")
    assert damaged_codec(tmp_path / "store", read_manifest(tmp_path / "store"))
    path.unlink()
    with pytest.raises(LabelStoreError, match=r"codec\.safetensors: damaged \(missing"):
        LabelStore(tmp_path / "store")
    removed = repair(tmp_path / "store")
    assert "codec.safetensors" in removed and not list((tmp_path / "store").glob("*.arrow"))
    write(tmp_path / "store", encoding)
    assert len(LabelStore(tmp_path / "store")) == len(IDS)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=kind)
def test_a_store_tells_its_error_and_has_a_digest_of_its_content(tmp_path: Path, encoding: Any) -> None:
    write(tmp_path / "one", encoding)
    write(tmp_path / "two", encoding)
    one, two = LabelStore(tmp_path / "one"), LabelStore(tmp_path / "two")
    assert one.manifest.content_digest == two.manifest.content_digest
    known = one.manifest.positions
    assert known is not None and known.positions == sum(COUNTS) and known.vocabulary == VOCABULARY
    shown = dict(describe(tmp_path / "one"))
    assert shown["positions"] == "31" and "distance" in shown["error at T=1"]


def test_a_store_is_read_by_other_programs(tmp_path: Path) -> None:
    """Plain Arrow: lists of numbers whose lengths say how many each position has."""
    import pyarrow as pa

    write(tmp_path / "store", LowRank(head=8, rank=12))
    table = pa.ipc.open_file(tmp_path / "store/shard-00000.arrow").read_all()
    assert table.column_names == ["id", "positions", "codes", "head_ids", "head_logits", "log_tails"]
    columns = (table[name].to_pylist() for name in ("positions", "codes", "log_tails"))
    for positions, codes, tails in zip(*columns, strict=True):
        assert len(codes) == 12 * positions and len(tails) == 3 * positions
