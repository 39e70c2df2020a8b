"""Several teachers as one predictor: what they answer together, at temperature 1."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.capabilities import Capability
from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.measure.weights import SavedWeights
from potstill.runtimes.greedy import greedy
from potstill.runtimes.predictor import Advance, Outputs, Parameters, Predictor, write_one_by_one
from potstill.runtimes.timing import Loads
from potstill.runtimes.transformers import TransformersPredictor, first_logits
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget, LogitTargets, plain_log_sum_exp
from potstill.tasks import AnyTask
from potstill.tasks.problem_types import HeadTask
from potstill.teachers import Mixture, Routed, Routes, combined, route_numbers, routes_of


class EnsemblePredictor:
    """The predictors of several teachers, combined as the student learns from them; `rows` are those it answers."""

    asks_others = True

    def __init__(
        self, settings: Mixture | Routed, members: Mapping[str, Predictor], task: AnyTask, rows: Sequence[Any]
    ) -> None:
        self._settings = settings
        self._members = {name: members[name] for name in settings.of}
        self._lead = members[settings.lead_member]
        self._task = task
        self._rows = rows
        self._routes: tuple[Encoded, Routes] | None = None

    @property
    def gives(self) -> frozenset[Capability]:
        return frozenset.intersection(*(member.gives for member in self._members.values()))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._lead.tokenizer

    def parameters(self) -> Parameters:
        """Those of all of them together."""
        each = [member.parameters() for member in self._members.values()]
        return Parameters(sum(one.total for one in each), sum(one.without_embeddings for one in each))

    def weights(self) -> SavedWeights:
        each = [member.weights() for member in self._members.values()]
        types = sorted({one.type for one in each})
        return SavedWeights(" and ".join(types), sum(one.size_bytes for one in each))

    @property
    def by_domain(self) -> bool:
        """Whether each row is answered by one of them, that of its domain."""
        return isinstance(self._settings, Routed) and self._settings.by == "domain"

    def loads(self) -> Loads:
        others = [member for member in self._members.values() if member is not self._lead]
        each = [member.loads() for member in (self._lead, *others)]
        return Loads(
            tuple(folder for one in each for folder in one.folders),
            trusted=tuple(folder for one in each for folder in one.trusted),
            held={folder: held for one in each for folder, held in one.held.items()},
            in_turn=self.by_domain,
        )

    @property
    def device(self) -> torch.device:
        return self._lead.device

    def chunk_rows(self) -> int:
        return self._lead.chunk_rows()

    def end_tokens(self) -> frozenset[int]:
        return frozenset[int]().union(*(member.end_tokens() for member in self._members.values()))

    def first_logits(self, batch: Batch, most: int) -> Tensor:
        return first_logits(self.forward(batch), most)

    def answers_rows(self, rows: Encoded) -> None:
        if self._routes is None or self._routes[0] is not rows:
            asked = set(rows.row_ids)
            self._routes = rows, routes_of(self._settings, rows, (row for row in self._rows if row.id in asked))

    def forward(self, batch: Batch) -> Signals:
        return Signals(target=self.target(batch))

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        self.answers_rows(rows)
        assert self._routes is not None and isinstance(self._task, HeadTask)
        problem, shape = self._task.problem, torch.Size()
        targets = []
        for member in self._members.values():
            logits = problem.signals(torch.from_numpy(member.outputs(rows, advance))).logits
            assert logits is not None
            shape = logits.shape
            targets.append(LogitTargets(logits.reshape(-1, shape[-1])))
        numbers = route_numbers(self._routes[1])
        together = combined(self._settings, targets, numbers).logits_at(slice(None), 1.0, plain_log_sum_exp)
        outputs: Outputs = problem.outputs(Signals(logits=together.reshape(shape))).numpy()
        return outputs

    def target(self, batch: Batch) -> FullTarget:
        routes = self._routes[1] if self._routes else {}
        numbers = route_numbers({name: routes[name] for name in batch.ids} if routes else {})
        return combined(self._settings, [member.target(batch) for member in self._members.values()], numbers)

    def write(self, row: Any, prompt: Sequence[int], new_tokens: int, ends: Collection[int]) -> list[int]:
        """Greedily, by the distribution that they have together at each token; routed by domain, the row's own writes.

        Raises:
            DataError: a row of a domain that no teacher knows.
        """
        models = [_model_of(member) for member in self._members.values()]
        if isinstance(self._settings, Routed) and self.by_domain:
            models = [models[self._settings.member_for(row.domain, row.id)]]
        together = partial(_next_token, self._settings)
        return greedy(models, prompt, new_tokens, stop=ends, together=together)[0]

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        return write_one_by_one(self, rows, prompts, new_tokens, ends, advance)

    def hold(self) -> None:
        """Its members are asked one after the other, and memory may not have room for all of them."""

    def release(self) -> None:
        for member in self._members.values():
            member.release()


def _model_of(member: Predictor) -> Any:
    assert isinstance(member, TransformersPredictor), "teachers that write together are asked for logits at each token"
    return member.model


def _next_token(settings: Mixture | Routed, logits: Sequence[Tensor]) -> Tensor:
    """The logits of the next token that several models have together."""
    target = combined(settings, [LogitTargets(each[None]) for each in logits])
    return target.logits_at(slice(None), 1.0, plain_log_sum_exp)[0]
