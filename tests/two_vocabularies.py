"""Small tokenizers that cut the same texts into different tokens, and teachers that are distributions over texts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from potstill.cross_tokenizer import AlignedRows, RetellingTeacher, TokenTexts, Vocabularies
from potstill.cross_tokenizer.places import Aligned
from potstill.data.packing import PackedRows, pack
from potstill.data.tokens import Tokenised
from potstill.signals import Batch, Signals
from potstill.targets import GroupedTarget, LogitTargets, plain_log_sum_exp

CHARACTER = bytes_to_unicode()
IMPOSSIBLE = -1e4


def byte_pairs(joined: Sequence[str], *, first: Sequence[str] = ("<s>", "</s>")) -> PreTrainedTokenizerFast:
    """Byte-level BPE that joins what is named, each of two pieces that are there already, in this order."""
    pieces = [*sorted(CHARACTER.values())]
    merges = []
    for text in joined:
        piece = "".join(CHARACTER[byte] for byte in text.encode())
        split = next(n for n in range(1, len(piece)) if piece[:n] in pieces and piece[n:] in pieces)
        merges.append((piece[:split], piece[split:]))
        pieces.append(piece)
    names = {piece: number for number, piece in enumerate([*first, *pieces])}
    core = Tokenizer(models.BPE(names, merges))
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    core.add_special_tokens([AddedToken(each, special=True) for each in first])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=first[0], eos_token=first[1], pad_token=first[0])


def vocabularies(teacher: PreTrainedTokenizerFast, student: PreTrainedTokenizerFast) -> Vocabularies:
    theirs, own = (TokenTexts.of(each, len(each), "here") for each in (teacher, student))
    return Vocabularies(theirs, own, [(teacher.eos_token_id, student.eos_token_id)])


def rows_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> PackedRows:
    """Each text between the first token, which is shown, and the last, which is learnt as it is."""
    examples = []
    for number, text in enumerate(texts):
        ids = np.array(
            [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id],
            dtype=np.int32,
        )
        examples.append(Tokenised(f"row-{number}", ids, np.arange(len(ids)) > 0))
    return pack(examples, max_length=64, pad_id=tokenizer.bos_token_id, packing=False)


@dataclass(frozen=True)
class OfTexts:
    """What a model of this tokenizer would say if these texts were all there are, each with its probability."""

    texts: Mapping[str, float]
    tokenizer: PreTrainedTokenizerFast

    def after(self, prefix: Sequence[int]) -> Tensor:
        """The probability of each next token, in float64."""
        found = torch.zeros(len(self.tokenizer), dtype=torch.float64)
        for text, weight in self.texts.items():
            ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
            if ids[: len(prefix)] == list(prefix) and len(ids) > len(prefix):
                found[ids[len(prefix)]] += weight
        return found / found.sum()

    def __call__(self, batch: Batch) -> Signals:
        """The distributions at the positions that count, as a teacher gives them."""
        rows = []
        for ids, mask in zip(batch.inputs["input_ids"].tolist(), batch.mask.tolist(), strict=True):
            rows += [self.after(ids[1 : place + 1]) for place, counts in enumerate(mask) if counts]
        return Signals(target=LogitTargets(torch.stack(rows).log().clamp(min=IMPOSSIBLE)))


@dataclass(frozen=True)
class AtRandom:
    """A teacher that says something at each learnt token of its rows, whatever they are."""

    rows: AlignedRows
    seed: int

    @property
    def logits(self) -> Tensor:
        count, width = int(self.rows.starts[-1]), len(self.rows.vocabularies.teacher)
        generator = torch.Generator().manual_seed(self.seed)
        return 3 * torch.randn(count, width, dtype=torch.float64, generator=generator)

    def __call__(self, batch: Batch) -> Signals:
        numbers = {name: number for number, name in enumerate(self.rows.teacher.ids)}
        starts = self.rows.starts
        places = [range(starts[numbers[name]], starts[numbers[name] + 1]) for name in batch.ids]
        return Signals(target=LogitTargets(self.logits[[place for each in places for place in each]]))


@dataclass(frozen=True)
class Pair:
    """Texts that a teacher knows by heart, in its own tokens and in its student's."""

    texts: Mapping[str, float]
    teacher: PreTrainedTokenizerFast
    student: PreTrainedTokenizerFast

    @cached_property
    def aligned(self) -> AlignedRows:
        listed = list(self.texts)
        rows = [rows_of(listed, each) for each in (self.teacher, self.student)]
        return AlignedRows(vocabularies(self.teacher, self.student), rows[0], rows[1], frozenset())

    def retelling(self, rows: AlignedRows) -> RetellingTeacher:
        return RetellingTeacher(OfTexts(self.texts, self.teacher), rows, torch.device("cpu"))

    def told(self, number: int) -> tuple[Tensor, Tensor, Aligned]:
        """Of a text the distributions that are told, and those of a model with the student's tokens."""
        rows = self.aligned
        batch = rows.student.collate([number])
        target = self.retelling(rows)(batch).target
        assert isinstance(target, GroupedTarget)
        even = torch.zeros(len(target), len(self.student), dtype=torch.float64)
        told = torch.log_softmax(target.logits_beside(even, slice(None), 1.0, plain_log_sum_exp), dim=1)
        ids = batch.inputs["input_ids"][0].tolist()
        true = [OfTexts(self.texts, self.student).after(ids[1 : place + 1]) for place in range(len(ids) - 1)]
        return told.exp(), torch.stack(true), rows.of(f"row-{number}")


def random_pair(seed: int) -> Pair:
    """A few short texts of three letters, and two tokenizers that join what they like."""
    drawn = random.Random(seed)

    def tokenizer() -> PreTrainedTokenizerFast:
        pieces = list("abc")
        while len(pieces) < 8:
            piece = drawn.choice(pieces) + drawn.choice(pieces)
            if len(piece) <= 4 and piece not in pieces:
                pieces.append(piece)
        return byte_pairs(pieces[3:])

    texts = {"".join(drawn.choices("abc", [5, 3, 2], k=drawn.randint(2, 7))): drawn.random() for _ in range(16)}
    return Pair(texts, tokenizer(), tokenizer())
