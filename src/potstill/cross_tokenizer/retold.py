"""A teacher's distributions, told over the tokens of a student that reads with another tokenizer.

At each token of the student's the teacher's distributions give the mass of groups of the student's tokens. What they
cannot tell apart is one group, and how a group's mass lies within it, the student decides, so that nothing of that is
taught: each divergence here is a sum of q f(p / q), and p / q is one number within a group, so value and gradient are
those between the two distributions over groups.

- A plain token: where it begins, one of the teacher's begins, and nothing else can have been written. The groups are
  those of the two vocabularies.
- A mixed one: the teacher may also have begun a token before that goes on here, or has for sure; each has the
  probability that it has along the teacher's own tokens. What follows a token of the teacher's that would have ended
  here, and did not, is not known: its mass is that of all tokens of which nothing else is known. The token that the
  student wrote has exactly the mass that the chain rule gives it.
- Where the teacher says nothing, the student's own distribution, from which nothing is learnt.

With one tokenizer on both sides all tokens are plain, and each is a group by itself.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from potstill.cross_tokenizer.plans import AFTER, BEFORE, ENDING, Plan, joined
from potstill.cross_tokenizer.vocabularies import NONE, Ids, Vocabularies
from potstill.targets import LEAST_LOG_MASS, FullTarget, RowLogSumExp

MOST = 0.9
"""Mass of what is barred, from which on the rest is summed by itself: its difference to 1 then loses digits."""
NOISE = 1e-6
"""Share of a group's mass below which a difference of two such is taken for none, in float32."""
Positions = Float[Tensor, "positions vocabulary"]


@dataclass(frozen=True, eq=False)
class Tables:
    """Two vocabularies as tensors on a device."""

    group_of_teacher: Int[Tensor, "teacher"]
    group_of_student: Int[Tensor, "student"]
    groups: int
    silent: Int[Tensor, "_"]
    """The teacher's tokens that stand for no text, and have no role for the student: as if there were none."""
    middle: Int[Tensor, "_"]
    """Those of text that the student cannot begin to write, such as a part of a character."""
    several: Int[Tensor, "_"]
    """The teacher's tokens that are in a group with another of the teacher's."""
    single: Int[Tensor, "_"]
    """Those that are not."""
    shared: Int[Tensor, "_"]
    """The student's tokens that are in a group with another of the student's."""

    @classmethod
    def of(cls, vocabularies: Vocabularies, device: torch.device) -> "Tables":
        theirs, own = vocabularies.group_of_teacher, vocabularies.group_of_student
        counts = np.bincount(theirs[theirs >= 0], minlength=vocabularies.groups)
        within = np.where(theirs >= 0, counts[theirs], 0)
        of_text = np.array([text is not None for text in vocabularies.teacher.texts])
        unknown, shared = theirs < 0, vocabularies.tokens_in_group[own] > 1
        lists = unknown & ~of_text, unknown & of_text, within > 1, within == 1, shared
        return cls(
            torch.from_numpy(theirs).to(device),
            torch.from_numpy(own).to(device),
            vocabularies.groups,
            *(torch.from_numpy(np.flatnonzero(each)).to(device) for each in lists),
        )


@dataclass(frozen=True, eq=False)
class RetoldTarget:
    """`teacher`, told over the tokens of its student as `plan` says."""

    teacher: FullTarget
    plan: Plan
    vocabularies: Vocabularies
    tables: Tables

    def __len__(self) -> int:
        return len(self.plan.kinds)

    def with_products_in(self, dtype: torch.dtype) -> "RetoldTarget":
        return replace(self, teacher=self.teacher.with_products_in(dtype))

    def logits_at(self, rows: slice, temperature: float, log_sum_exp: RowLogSumExp) -> Positions:
        """Logits with the mass of a group spread evenly over it."""
        first, last, _ = rows.indices(len(self))
        size = last - first, len(self.tables.group_of_student)
        even = torch.zeros(size, device=self.tables.group_of_student.device)
        return self.logits_beside(even, rows, temperature, log_sum_exp)

    def logits_beside(
        self, student: Positions, rows: slice, temperature: float, log_sum_exp: RowLogSumExp
    ) -> Positions:
        """Logits with the mass of a group spread over it as the student does; `student` are its logits."""
        plan = self.plan.of(rows)
        log_q = torch.log_softmax(student if temperature == 1 else student / temperature, dim=1)
        told = log_q.clone()
        asked = _Asked.of(plan)
        looked_up = self._ask(plan, asked, told, temperature, log_sum_exp)
        self._share(told, log_q, _on(np.flatnonzero(plan.boundaries >= 0), log_q))
        if plan.mixed:
            self._mix(told, log_q, plan, _Sums(plan, asked, *looked_up, told.shape[1]))
        return told if temperature == 1 else told * temperature

    def _ask(
        self, plan: Plan, asked: "_Asked", told: Tensor, temperature: float, log_sum_exp: RowLogSumExp
    ) -> tuple[Tensor, Tensor]:
        """Look up the log-probabilities that are asked for, and for each term those of all but what is barred, and fill
        in the groups' masses where a token of the teacher's begins. Its distributions are held a few at a time."""
        barred, silent, middle = asked.barred, self.tables.silent, self.tables.middle
        values, rests = told.new_empty(len(asked.place)), told.new_zeros(len(barred.place))
        starting = np.flatnonzero(plan.boundaries >= 0)
        wanted = np.concatenate([plan.boundaries[starting], asked.place, barred.place])
        step = max(16, len(plan.kinds))
        for first in range(int(wanted.min(initial=0)), int(wanted.max(initial=-1)) + 1, step):
            here, begun, without = (
                np.flatnonzero((places >= first) & (places < first + step))
                for places in (asked.place, plan.boundaries[starting], barred.place)
            )
            begun = starting[begun]
            some = np.concatenate([asked.place[here], plan.boundaries[begun], barred.place[without]])
            if not len(some):
                continue
            start = int(some.min())
            logits = self.teacher.logits_at(slice(start, int(some.max()) + 1), temperature, log_sum_exp)
            logits = (logits if temperature == 1 else logits / temperature).index_fill(1, silent, -torch.inf)
            log_p = torch.log_softmax(logits, dim=1).to(told.dtype)
            values[_on(here, told)] = log_p[_on(asked.place[here] - start, told), _on(asked.token[here], told)]
            there = barred.of(without, start)
            rests[_on(without, told)] = there.rest(log_p)
            if len(middle):
                log_p = torch.log_softmax(log_p.index_fill(1, middle, -torch.inf), dim=1)
            masses = self._groups_of(log_p)
            of_rows = masses[_on(plan.boundaries[begun] - start, told)]
            rows = np.flatnonzero(asked.barred_at[begun] >= 0)
            if len(rows):
                numbers = np.searchsorted(without, asked.barred_at[begun[rows]])
                of_rows[_on(rows, told)] = self._without(there.of(numbers), log_p, of_rows[_on(rows, told)])
            told[_on(begun, told)] = of_rows.index_select(1, self.tables.group_of_student)
        return values, rests

    def _without(self, barred: "_Barred", log_p: Tensor, masses: Tensor) -> Tensor:
        """The log of the mass of each group, without tokens that are barred."""
        rows, tokens, held = barred.held(log_p)
        taken = torch.zeros_like(masses).index_put((rows, self.tables.group_of_teacher[tokens]), held, accumulate=True)
        whole = masses.exp()
        left = (whole - taken).masked_fill_(taken > whole * (1 - NOISE), 0.0).log_() - barred.rest(log_p)[:, None]
        # Where little else is left, differences of what is nearly equal are noise.
        if len(few := _on(np.flatnonzero(barred.most(log_p).cpu().numpy()), masses)):
            own = barred.of(few.cpu().numpy()).out_of(log_p)
            left[few] = self._groups_of(torch.log_softmax(own, dim=1))
        return left.clamp_(min=LEAST_LOG_MASS)

    def _groups_of(self, log_p: Tensor) -> Float[Tensor, "positions groups"]:
        """The log of the mass of each group."""
        tables = self.tables
        groups = log_p.new_zeros(len(log_p), tables.groups)
        if len(tables.several):
            where = tables.group_of_teacher[tables.several].expand(len(log_p), -1)
            groups.scatter_add_(1, where, log_p.index_select(1, tables.several).exp())
        groups = groups.log_()
        # As it is, so that nothing is lost where both have the same tokens.
        groups.index_copy_(1, tables.group_of_teacher[tables.single], log_p.index_select(1, tables.single))
        return groups.clamp_(min=LEAST_LOG_MASS)

    def _share(self, told: Tensor, log_q: Tensor, rows: Tensor) -> None:
        """Spread the mass of groups over their tokens."""
        shared = self.tables.shared
        if not len(shared) or not len(rows):
            return
        own = log_q[rows[:, None], shared]
        groups = self.tables.group_of_student[shared].expand_as(own)
        sums = _log_sums(own, groups, self.tables.groups)
        told[rows[:, None], shared] += own - sums.gather(1, groups)

    def _mix(self, told: Tensor, log_q: Tensor, plan: Plan, sums: "_Sums") -> None:
        """Put together what mixed positions are told."""
        numbers = np.array([each.row for each in plan.mixed])
        rows = _on(numbers, log_q)
        mixed = told[rows] + (sums.at_boundary - sums.before)[:, None]
        within = sums.at_boundary == -torch.inf
        # As good as nothing, in the shares of the student.
        mixed[within] = LEAST_LOG_MASS + log_q[rows][within]
        mixed.view(-1).scatter_(
            0, sums.cells, torch.logaddexp(mixed.view(-1)[sums.cells], sums.of_cells - sums.before[sums.of_row])
        )
        self._spread_ending(mixed, log_q[rows], sums)
        mass = (sums.after - sums.before).clamp(LEAST_LOG_MASS, 0.0)
        self._set_apart(mixed, _on(plan.tokens[numbers], log_q), mass, self._sources(plan))
        told[rows] = mixed

    def _spread_ending(self, mixed: Tensor, log_q: Tensor, sums: "_Sums") -> None:
        """Give what ends here to the tokens of which nothing else is known, as the student does."""
        here = (sums.ending > -torch.inf).nonzero().squeeze(1)
        if not len(here):
            return
        others = log_q.clone().view(-1)
        others[sums.cells] = -torch.inf
        others = others.view_as(log_q)[here]
        mass = (sums.ending - sums.before)[here]
        told = others - torch.logsumexp(others, dim=1, keepdim=True) + mass[:, None]
        mixed[here] = torch.logaddexp(mixed[here], told.clamp(min=LEAST_LOG_MASS))

    def _sources(self, plan: Plan) -> list[Ids]:
        """For each mixed position the student's tokens whose mass holds that of the token that it wrote."""
        found = []
        for each in plan.mixed:
            theirs, own = int(plan.following[each.row]), int(plan.tokens[each.row])
            if each.step is None:
                held = [theirs] if theirs >= 0 else NONE
            else:
                group = self.vocabularies.group_of_teacher[theirs]
                held = self.vocabularies.members[group] if group >= 0 else NONE
            # A longer token than it has what may have been meant for either.
            found.append(np.union1d(self.vocabularies.longer_than(own), held).astype(np.int64))
        return found

    def _set_apart(self, mixed: Tensor, tokens: Tensor, mass: Tensor, sources: list[Ids]) -> None:
        """Give the tokens that the student wrote this mass, and take the difference from the others of its source."""
        rows = torch.arange(len(tokens), device=tokens.device)
        slots = _on(np.repeat(np.arange(len(sources)), [len(each) for each in sources]), mixed)
        ids = _on(joined(sources), mixed)
        others = ids != tokens[slots]
        slots, ids = slots[others], ids[others]
        if len(slots):
            held = _log_sums(mixed[slots, ids][None], slots[None], len(tokens))[0]
            more = mass.exp() - mixed[rows, tokens].exp()
            left = (held.exp() - more).clamp(min=0).log().clamp(min=LEAST_LOG_MASS)
            mixed[slots, ids] += (left - held)[slots]
        mixed[rows, tokens] = mass
        # A teacher that cuts a text as its tokenizer never would has mass that belongs nowhere.
        mixed -= mixed.logsumexp(dim=1, keepdim=True)


@dataclass(frozen=True, eq=False)
class _Barred:
    """Tokens of the teacher's that cannot come at some of its places."""

    place: Ids
    tokens: tuple[Ids, ...]

    def of(self, numbers: Ids, start: int = 0) -> "_Barred":
        """Some of them, with places counted from `start`."""
        return _Barred(self.place[numbers] - start, tuple(self.tokens[each] for each in numbers.tolist()))

    def held(self, log_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The number, the token and the probability of each, in distributions by place."""
        numbers = np.repeat(np.arange(len(self.tokens)), [len(each) for each in self.tokens])
        tokens = _on(joined(self.tokens), log_p)
        return _on(numbers, log_p), tokens, log_p[_on(self.place[numbers], log_p), tokens].exp()

    def _total(self, log_p: Tensor) -> Float[Tensor, "barred"]:
        numbers, _, held = self.held(log_p)
        return log_p.new_zeros(len(self.tokens)).index_add(0, numbers, held)

    def most(self, log_p: Tensor) -> Bool[Tensor, "barred"]:
        """Where they have nearly all of the mass, so that the rest must be summed by itself."""
        return self._total(log_p) > MOST

    def rest(self, log_p: Tensor) -> Float[Tensor, "barred"]:
        """The log of the mass of all others."""
        found = torch.log1p(-self._total(log_p).clamp(max=1.0))
        if len(few := np.flatnonzero(self.most(log_p).cpu().numpy())):
            found[_on(few, log_p)] = self.of(few).out_of(log_p).logsumexp(dim=1)
        return found

    def out_of(self, log_p: Tensor) -> Tensor:
        """Distributions, one for each, without these tokens."""
        numbers = np.repeat(np.arange(len(self.tokens)), [len(each) for each in self.tokens])
        left = log_p[_on(self.place, log_p)]
        left[_on(numbers, log_p), _on(joined(self.tokens), log_p)] = -torch.inf
        return left


@dataclass(frozen=True, eq=False)
class _Asked:
    """The log-probabilities that are looked up, each for one step of a mixed position, or for one of its terms."""

    place: Ids
    token: Ids
    mixed: Ids
    """The number of the mixed position."""
    term: Ids
    """The number of the term among those of all positions; -1 of a token of the row."""
    step: Ids
    cell: Ids
    """The student's next token; -1 where there is none."""
    barred: _Barred
    """What terms are about all but, each once: a token of the student's begins where the one before it ends."""
    barred_by: Ids
    """The number of each term among these; -1 of one that is about all, or about what it asks for."""
    barred_at: Ids
    """The number of each position among these; -1 where all can begin."""

    @classmethod
    def of(cls, plan: Plan) -> "_Asked":
        barred: dict[tuple[int, bytes], tuple[int, Ids]] = {}
        barred_by: list[int] = []
        barred_at = np.full(len(plan.kinds), -1, dtype=np.int64)
        parts: list[tuple[int, Ids, int, int, int, Ids | int]] = []
        count = 0
        for number, each in enumerate(plan.mixed):
            # What lies behind the last step at which something is asked needs no look.
            last = max(term.step for term in each.terms)
            parts += [
                (each.first + step, np.array([token]), number, -1, step, -1)
                for step, token in enumerate(each.tokens[:last])
            ]
            for term in each.terms:
                cells = -1 if term.cells is None or term.side != BEFORE else term.cells
                if not term.all_but:
                    parts.append((each.first + term.step, term.tokens, number, count, term.step, cells))
                barred_by.append(-1)
                if term.all_but and len(term.tokens):
                    key = each.first + term.step, term.tokens.tobytes()
                    barred.setdefault(key, (len(barred), term.tokens))
                    barred_by[-1] = barred[key][0]
                    if term.side == BEFORE:
                        barred_at[each.row] = barred_by[-1]
                count += 1
        sizes = [len(tokens) for _, tokens, *_ in parts]

        def spread(place: int) -> Ids:
            return np.repeat(np.array([part[place] for part in parts], dtype=np.int64), sizes)

        cells = joined([np.broadcast_to(part[5], size) for part, size in zip(parts, sizes, strict=True)])
        without = _Barred(
            np.array([place for place, _ in barred], dtype=np.int64), tuple(each for _, each in barred.values())
        )
        tokens = joined([tokens for _, tokens, *_ in parts])
        by = np.array(barred_by, dtype=np.int64)
        return cls(spread(0), tokens, spread(2), spread(3), spread(4), cells, without, by, barred_at)


class _Sums:
    """The probabilities of what is written at mixed positions, as logarithms, from what was looked up."""

    def __init__(self, plan: Plan, asked: _Asked, values: Tensor, rests: Tensor, vocabulary: int) -> None:
        count, width = len(plan.mixed), 2 + max((len(each.tokens) for each in plan.mixed), default=0)
        path = np.flatnonzero(asked.term < 0)
        steps = values.new_zeros(count, width)
        steps[_on(asked.mixed[path], values), _on(asked.step[path] + 1, values)] = values[_on(path, values)]
        along = steps.cumsum(dim=1)
        terms = [(number, term) for number, each in enumerate(plan.mixed) for term in each.terms]
        row = np.array([number for number, _ in terms], dtype=np.int64)
        side = np.array([term.side for _, term in terms])
        inside = np.flatnonzero(asked.term >= 0)
        sums = _log_sums(values[_on(inside, values)][None], _on(asked.term[inside], values)[None], len(terms))[0]
        all_but = _on(np.array([term.all_but for _, term in terms], dtype=np.bool_), values)
        limited = np.flatnonzero(asked.barred_by >= 0)
        rest = torch.zeros_like(sums)
        rest[_on(limited, values)] = rests[_on(asked.barred_by[limited], values)]
        begun = along[_on(row, values), _on(np.array([term.step for _, term in terms], dtype=np.int64), values)]
        each_term = begun + torch.where(all_but, rest, sums)

        def of(*sides: int) -> Tensor:
            chosen = np.flatnonzero(np.isin(side, sides))
            return _log_sums(each_term[_on(chosen, values)][None], _on(row[chosen], values)[None], count)[0]

        self.before, self.after, self.ending = of(BEFORE, ENDING), of(AFTER), of(ENDING)
        whole = np.flatnonzero([term.all_but and term.side == BEFORE for _, term in terms])
        self.at_boundary = along.new_full((count,), -torch.inf)
        self.at_boundary[_on(row[whole], values)] = each_term[_on(whole, values)]
        going = np.flatnonzero(asked.cell >= 0)
        keys, number = np.unique(asked.mixed[going] * vocabulary + asked.cell[going], return_inverse=True)
        held = values[_on(going, values)] + begun[_on(asked.term[going], values)]
        self.of_cells = _log_sums(held[None], _on(number.reshape(-1), values)[None], len(keys))[0]
        self.of_row = _on(keys // vocabulary, values)
        self.cells = _on(keys, values)
        """Where the student's next tokens lie in mixed positions of so many tokens each."""


def _log_sums(
    logs: Float[Tensor, "rows some"], where: Int[Tensor, "rows some"], size: int
) -> Float[Tensor, "rows size"]:
    """log(sum(exp(x))) over those with each number, -inf where there are none."""
    empty = logs.new_full((len(logs), size), -torch.inf)
    most = empty.scatter_reduce(1, where, logs, "amax")
    level = most.clamp(min=torch.finfo(logs.dtype).min)
    sums = torch.zeros_like(empty).scatter_add_(1, where, (logs - level.gather(1, where)).exp())
    return sums.log() + level


def _on(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
