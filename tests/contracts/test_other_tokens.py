"""A teacher's distributions in the tokens of a student that has others: against distributions over whole texts."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.cross_tokenizer import AlignedRows, RetellingTeacher
from potstill.cross_tokenizer.places import MIXED, PLAIN, UNKNOWN
from potstill.cross_tokenizer.retold import RetoldTarget, _Barred
from potstill.losses.chunked import chunked_loss
from potstill.losses.kernels import Kernels
from potstill.losses.terms import SoftTerm
from potstill.targets import LEAST_LOG_MASS, Head, plain_log_sum_exp
from tests.contracts.device_cases import agree
from tests.contracts.reference import DIVERGENCES, naive_scale
from tests.two_vocabularies import AtRandom, Pair, byte_pairs, random_pair

SINGLE_DIGITS = byte_pairs([" a", " b", "ab"])
THREE_DIGITS = byte_pairs(["12", "123", "19", "45", "456", " 1", "ab", "abc", " a"])
SINGLE_SPACES, PAIRS = byte_pairs(["ab"]), byte_pairs(["  "])
RUNS = byte_pairs(["  ", "    ", "ab"])
WORDS = byte_pairs(["in", "or", "for", "infor", "ing", "ma", "mat", "informat", " d", "é", "éa"])
PIECES = byte_pairs(["in", "fo", "at", "rm"])
SURELY = {"123": 0.97, "12": 0.01, "124": 0.01, "12 1": 0.005, "1": 0.005}
"""Nearly all that comes behind 12 is what the student writes as one token with it."""
DIGITS = {"1": 0.1, "12": 0.1, "123": 0.2, "124": 0.15, "19": 0.05, "123456": 0.1, "1 2": 0.1, "129": 0.1, "a9": 0.1}
SPACES = {"a b": 0.3, "a  b": 0.2, "a    b": 0.1, "a   b": 0.1, "ab": 0.1, "a": 0.1, "a     b": 0.05, "  ab": 0.05}
ONE_WAY = {text: weight for text, weight in SPACES.items() if "   b" not in text or "    b" in text}
"""Without three spaces, which the teacher writes as two tokens, where it would have written four as one."""
LETTERS = {
    "inform": 0.2,
    "informat": 0.2,
    "ing": 0.1,
    "in form": 0.1,
    "mat de": 0.1,
    "éa": 0.1,
    "é": 0.1,
    "format": 0.1,
}
EXACT = {
    "digits, longer for the student": Pair(DIGITS, SINGLE_DIGITS, THREE_DIGITS),
    "digits that nearly always go on": Pair(SURELY, SINGLE_DIGITS, THREE_DIGITS),
    "digits, longer for the teacher": Pair(DIGITS, THREE_DIGITS, SINGLE_DIGITS),
    "white space, longer for the student": Pair(SPACES, SINGLE_SPACES, PAIRS),
    "white space, longer for the teacher": Pair(ONE_WAY, RUNS, SINGLE_SPACES),
    "one tokenizer": Pair(DIGITS, THREE_DIGITS, THREE_DIGITS),
}
WHOLE = EXACT | {
    "words, longer for the teacher": Pair(LETTERS, WORDS, PIECES),
    "words, longer for the student": Pair(LETTERS, PIECES, WORDS),
    "runs of spaces, longer for the teacher": Pair(SPACES, RUNS, SINGLE_SPACES),
    "runs of spaces, longer for the student": Pair(SPACES, SINGLE_SPACES, RUNS),
    "digits joined to what stands beside": Pair(
        {"a 123": 0.5, "a 1": 0.3, "a 12 ab": 0.2}, SINGLE_DIGITS, THREE_DIGITS
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_each_token_of_a_text_has_the_probability_that_it_has_among_all_texts(case: str) -> None:
    pair = EXACT[case]
    seen = set()
    for number in range(len(pair.texts)):
        told, true, aligned = pair.told(number)
        rows, tokens = torch.arange(len(told)), torch.from_numpy(aligned.tokens)
        seen |= set(aligned.kinds.tolist())
        torch.testing.assert_close(told[rows, tokens], true[rows, tokens], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(told.sum(dim=1), torch.ones(len(told), dtype=torch.float64), rtol=1e-6, atol=0)
    assert UNKNOWN not in seen and PLAIN in seen
    assert (MIXED in seen) == (case != "one tokenizer")


@pytest.mark.parametrize("case", WHOLE)
def test_a_text_has_the_probability_that_its_teacher_gives_it(case: str) -> None:
    """Whatever the tokens are: the product over the student's is that over the teacher's."""
    pair = WHOLE[case]
    total = sum(pair.texts.values())
    for number, (text, weight) in enumerate(pair.texts.items()):
        told, _, aligned = pair.told(number)
        found = told[torch.arange(len(told)), torch.from_numpy(aligned.tokens)]
        if UNKNOWN in aligned.kinds:
            continue
        assert float(found.prod()) == pytest.approx(weight / total, rel=1e-6), text


def test_of_languages_drawn_at_random_texts_have_their_probability_and_so_have_most_tokens() -> None:
    """The other tokens lie behind one of the teacher's that would have ended within one that it wrote."""
    errors = []
    for pair in map(random_pair, range(30)):
        for number, weight in enumerate(pair.texts.values()):
            told, true, aligned = pair.told(number)
            rows, tokens = torch.arange(len(told)), torch.from_numpy(aligned.tokens)
            if UNKNOWN not in aligned.kinds:
                assert float(told[rows, tokens].prod()) == pytest.approx(weight / sum(pair.texts.values()), rel=1e-6)
            mixed = torch.from_numpy(aligned.kinds == MIXED)
            errors.append((told[rows, tokens].log() - true[rows, tokens].log()).abs()[mixed])
    found = torch.cat(errors)
    assert len(found) > 1000
    assert float((found < 1e-6).double().mean()) > 0.885
    assert float(found.mean()) < 0.065


def loss_of(
    target: Any, hidden: Tensor, weight: Tensor, divergence: Any, temperature: float
) -> tuple[Tensor, list[Tensor]]:
    """The chunked loss of a student with these hidden states, and its gradient by them."""
    states = hidden.clone().requires_grad_()
    labels = torch.zeros(len(states), dtype=torch.int64)
    term = SoftTerm("soft_targets", divergence, 1.0, temperature)
    loss = chunked_loss(states, Head(weight), labels, target, [term], kernels=Kernels(compiled=False), rows_at_once=3)
    loss.total.backward()
    assert states.grad is not None
    return loss.total.detach(), [states.grad]


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.7


def at_random(pair: Pair) -> tuple[RetoldTarget, Tensor, Tensor, AlignedRows]:
    """A target of random teacher's distributions for all rows of a pair, and a random student."""
    rows = pair.aligned
    batch = rows.student.collate(range(len(rows.student.lengths)))
    target = RetellingTeacher(AtRandom(rows, 1), rows, torch.device("cpu"))(batch).target
    assert isinstance(target, RetoldTarget)
    return target, drawn(len(target), 6, 2), drawn(len(pair.student), 6, 3), rows


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.kind)
def test_with_one_tokenizer_it_is_the_divergence_between_tokens(divergence: Any, temperature: float) -> None:
    pair = EXACT["one tokenizer"]
    target, hidden, weight, _ = at_random(pair)
    plain = target.teacher
    agree(
        loss_of(target, hidden, weight, divergence, temperature),
        loss_of(plain, hidden, weight, divergence, temperature),
        1e-12,
    )
    agree(
        loss_of(target, hidden.float(), weight.float(), divergence, temperature),
        loss_of(plain, hidden.float(), weight.float(), divergence, temperature),
        1e-5,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.kind)
@pytest.mark.parametrize("case", ["digits, longer for the student", "words, longer for the teacher"])
def test_it_is_the_divergence_between_groups_of_tokens(case: str, divergence: Any, temperature: float) -> None:
    """Value and gradient: groups are where the ratio of what is told to what the student says is one number."""
    target, hidden, weight, _ = at_random(WHOLE[case])
    states = hidden.clone().requires_grad_()
    logits = states @ weight.T
    with torch.no_grad():
        told = torch.softmax(target.logits_beside(logits, slice(None), temperature, plain_log_sum_exp) / temperature, 1)
    own = torch.softmax(logits / temperature, dim=1)
    total = torch.zeros((), dtype=torch.float64)
    several = 0
    for p, q in zip(told, own, strict=True):
        _, group = torch.unique((p / q.detach()).log().round(decimals=6), return_inverse=True)
        several += int(group.max()) + 1 < len(p)
        zeros = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
        total = total + value_of(divergence, zeros.index_add(0, group, p), zeros.index_add(0, group, q))
    total = total * naive_scale(divergence, temperature)
    total.backward()
    assert several and states.grad is not None
    agree(loss_of(target, hidden, weight, divergence, temperature), (total.detach(), [states.grad]), 1e-8)


def value_of(divergence: Any, p: Tensor, q: Tensor) -> Tensor:
    """By its definition."""

    def kl(first: Tensor, second: Tensor) -> Tensor:
        return (first * (first / second).log()).sum()

    match divergence.kind:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "generalised_jsd" if divergence.beta in (0, 1):
            return kl(q, p) if divergence.beta else kl(p, q)
        case "generalised_jsd":
            m = divergence.beta * p + (1 - divergence.beta) * q
            mixed = divergence.beta * kl(p, m) + (1 - divergence.beta) * kl(q, m)
            return mixed / (divergence.beta * (1 - divergence.beta))
        case "skew_kl":
            first, second = (q, p) if divergence.reverse else (p, q)
            return kl(first, divergence.skew * first + (1 - divergence.skew) * second)
    assert divergence.kind == "total_variation"
    return (p - q).abs().sum() / 2


@pytest.mark.parametrize("case", ["digits, longer for the student", "words, longer for the teacher"])
def test_plain_tokens_are_told_the_masses_of_groups(case: str) -> None:
    target, hidden, weight, rows = at_random(WHOLE[case])
    vocabularies, logits = rows.vocabularies, hidden @ weight.T
    told = torch.softmax(target.logits_beside(logits, slice(None), 1.0, plain_log_sum_exp), dim=1)
    plain = [row for row, kind in enumerate(target.plan.kinds.tolist()) if kind == PLAIN]
    assert plain
    for row in plain:
        p = torch.softmax(target.teacher.logits_at(slice(None), 1.0, plain_log_sum_exp)[target.plan.boundaries[row]], 0)
        for group in range(vocabularies.groups):
            theirs = [number for number, each in enumerate(vocabularies.group_of_teacher) if each == group]
            own = vocabularies.members[group]
            assert float(told[row, own].sum()) == pytest.approx(float(p[theirs].sum()), abs=1e-12)
            shares = torch.softmax(logits[row], 0)[own]
            torch.testing.assert_close(told[row, own] / told[row, own].sum(), shares / shares.sum())


def test_of_a_group_that_is_ruled_out_nothing_is_left() -> None:
    """Though its tokens are summed in two orders, in float32."""
    target, *_ = at_random(WHOLE["words, longer for the teacher"])
    groups = target.vocabularies.group_of_teacher
    most = int(np.bincount(groups[groups >= 0]).argmax())
    tokens = np.flatnonzero(groups == most)
    assert len(tokens) > 2
    log_p = torch.log_softmax(drawn(500, len(groups), 4).float(), dim=1)
    barred = _Barred(np.arange(500), (tokens,) * 500)
    left = target._without(barred, log_p, target._groups_of(log_p))
    assert (left[:, most] == LEAST_LOG_MASS).all()
    torch.testing.assert_close(left.exp().sum(dim=1), torch.ones(500), rtol=1e-5, atol=0)


def test_chunks_change_nothing() -> None:
    target, hidden, weight, _ = at_random(WHOLE["words, longer for the teacher"])
    logits = hidden @ weight.T
    whole = target.logits_beside(logits, slice(None), 2.0, plain_log_sum_exp)
    for size in (1, 4):
        pieces = [slice(start, start + size) for start in range(0, len(target), size)]
        parts = [target.logits_beside(logits[rows], rows, 2.0, plain_log_sum_exp) for rows in pieces]
        torch.testing.assert_close(torch.cat(parts), whole)
