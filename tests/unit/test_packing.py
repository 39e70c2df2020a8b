"""Packed rows: the same loss and gradients as one example at a time, whatever shares its row."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from potstill.data.chat_tokens import Tokenised
from potstill.data.encoded import BatchSource
from potstill.data.packing import PackedRows, pack
from potstill.signals import IGNORE_INDEX, Batch

VOCABULARY = 23
EOS = 1


def example(name: str, ids: Sequence[int], trained: Sequence[int]) -> Tokenised:
    return Tokenised(name, np.array(ids, dtype=np.int32), np.array(trained, dtype=np.bool_))


def examples(count: int, *, seed: int = 0, longest: int = 12) -> list[Tokenised]:
    """Random ones that end with EOS, which is trained; at least one token of each is."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        length = draw.randint(2, longest)
        ids = [draw.randrange(VOCABULARY) for _ in range(length - 1)] + [EOS]
        made.append(example(f"e{number}", ids, [0] + [draw.randint(0, 1) for _ in range(length - 2)] + [1]))
    return made


def model(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).double().eval()


def loss_and_gradients(student: LlamaForCausalLM, batches: Sequence[Batch]) -> tuple[float, list[torch.Tensor]]:
    """The summed cross-entropy of the unmasked positions, with the labels as the batch gives them."""
    student.zero_grad()
    total = 0.0
    for batch in batches:
        logits = student(**batch.inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[batch.mask], batch.labels[batch.mask], reduction="sum")
        loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in student.parameters()]


def reference(student: LlamaForCausalLM, given: Sequence[Tokenised]) -> tuple[float, list[torch.Tensor]]:
    """Each example alone, without positions, padding or a shifted mask: every trained token by those before it."""
    student.zero_grad()
    total = 0.0
    for one in given:
        logits = student(torch.from_numpy(one.ids[None].astype(np.int64))).logits[0].log_softmax(dim=-1)
        loss = -sum(logits[place - 1, one.ids[place]] for place in np.flatnonzero(one.trained))
        loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in student.parameters()]


def batched(rows: PackedRows, size: int) -> list[Batch]:
    return [rows.collate(range(start, min(start + size, len(rows.rows)))) for start in range(0, len(rows.rows), size)]


# Eager attention makes its softmax in float32, whatever the model is in.
@pytest.mark.parametrize(("attention", "tolerance"), [("sdpa", 1e-10), ("eager", 1e-6)])
def test_packed_rows_train_as_each_example_alone_does(attention: str, tolerance: float) -> None:
    student, given = model(attention), examples(14)
    expected, gradients = reference(student, given)
    for seed, packing, pad_id, size in [(0, True, EOS, 3), (1, True, 0, 1), (2, True, 7, 9), (3, False, EOS, 4)]:
        shuffled = random.Random(seed).sample(given, len(given))
        rows = pack(shuffled, max_length=17 + seed, pad_id=pad_id, packing=packing)
        loss, found = loss_and_gradients(student, batched(rows, size))
        assert loss == pytest.approx(expected, abs=tolerance)
        for mine, theirs in zip(found, gradients, strict=True):
            torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=0)


def test_neither_value_nor_length_of_the_padding_matters() -> None:
    student, given = model("sdpa"), [*examples(5, seed=4), *examples(1, seed=5, longest=2)]
    results = []
    for pad_id in (EOS, 0):
        rows = pack(given, max_length=40, pad_id=pad_id, packing=False)
        alone = [rows.collate([number]) for number in range(len(given))]
        results += [loss_and_gradients(student, batches) for batches in (batched(rows, 6), alone)]
    for loss, gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-10)
        for mine, theirs in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)


def test_an_example_does_not_see_another_of_its_row() -> None:
    student, (first, second) = model("sdpa"), examples(2, seed=6)
    changed = example("e0", (first.ids + 1) % VOCABULARY, first.trained)
    logits = [
        student(**pack([one, second], max_length=24, pad_id=0).collate([0]).inputs, use_cache=False).logits[0]
        for one in (first, changed)
    ]
    length = len(first.ids)
    torch.testing.assert_close(logits[0][length:], logits[1][length:], atol=1e-12, rtol=0)
    assert (logits[0][:length] - logits[1][:length]).abs().max() > 1e-3


def test_a_batch_holds_shifted_labels_and_restarted_positions() -> None:
    given = [example("a", [5, 6, 7, EOS], [0, 0, 1, 1]), example("b", [8, 9], [0, 1]), example("c", [3, EOS], [0, 1])]
    rows = pack(given, max_length=6, pad_id=EOS)
    assert list(rows.rows) == [(0, 1), (2,)] and list(rows.lengths) == [6, 2]
    batch = rows.collate([1, 0])
    no = IGNORE_INDEX
    assert batch.ids == ("c", "a", "b")
    assert batch.inputs["input_ids"].tolist() == [[3, EOS, EOS, EOS, EOS, EOS], [5, 6, 7, EOS, 8, 9]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]]
    assert batch.labels.tolist() == [[EOS, no, no, no, no, no], [no, 7, EOS, no, 9, no]]
    assert batch.mask.tolist() == [[True] + [False] * 5, [False, True, True, False, True, False]]
    assert set(batch.inputs) == {"input_ids", "position_ids"}, "an attention mask would hide the restarts"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(1, 20), seed=st.integers(0, 999), max_length=st.integers(12, 40), packing=st.booleans())
def test_unmasked_positions_come_example_by_example(count: int, seed: int, max_length: int, packing: bool) -> None:
    given_examples = examples(count, seed=seed)
    by_id = {one.id: one for one in given_examples}
    rows = pack(given_examples, max_length=max_length, pad_id=EOS, packing=packing)
    assert isinstance(rows, BatchSource)
    assert sorted(number for row in rows.rows for number in row) == list(range(count))
    assert max(rows.lengths) <= max_length
    assert packing or all(len(row) == 1 for row in rows.rows)
    indices = random.Random(seed).sample(range(len(rows.rows)), len(rows.rows))
    batch = rows.collate(indices)
    stored = [one.ids[one.trained].tolist() for one in (by_id[name] for name in batch.ids)]
    assert batch.labels[batch.mask].tolist() == [token for tokens in stored for token in tokens]
    trained = dict(zip(rows.ids, rows.examples.trained_counts.tolist(), strict=True))
    assert [trained[name] for name in batch.ids] == [len(tokens) for tokens in stored]
    assert bool((batch.labels[~batch.mask] == IGNORE_INDEX).all())


def test_packing_is_a_function_of_the_examples_and_wastes_little() -> None:
    given = examples(400, seed=8, longest=60)
    rows = pack(given, max_length=64, pad_id=0)
    assert list(rows.rows) == list(pack(list(given), max_length=64, pad_id=0).rows)
    fewest = -(-sum(len(one.ids) for one in given) // 64)
    assert len(rows.rows) <= 1.05 * fewest
    assert len(pack(given, max_length=64, pad_id=0, packing=False).rows) == 400


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=40))
def test_each_example_goes_where_it_leaves_least_space(lengths: list[int]) -> None:
    rows = pack([example(str(n), [0] * size, [0] * size) for n, size in enumerate(lengths)], max_length=30, pad_id=0)
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [space for space in spaces if space >= length]
        if fitting:
            spaces.remove(min(fitting))
        spaces.append((min(fitting) if fitting else 30) - length)
    assert sorted(rows.lengths) == sorted(30 - space for space in spaces)
