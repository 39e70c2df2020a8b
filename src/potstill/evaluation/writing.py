"""What the models write after the prompts of test rows, greedily: measured over all of them, and the first shown."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from potstill.capabilities import Capability
from potstill.data.special_tokens import token_ids
from potstill.data.splits import stable_order
from potstill.data.tokens import Prompt
from potstill.evaluation.answers import SHOWN_CHARACTERS
from potstill.evaluation.case import Case
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.judged_writing.exchanges import Exchange
from potstill.evaluation.queries import PLAIN_PROMPT, prompted_rows, room_after
from potstill.measure import quality
from potstill.measure.writing import distinct_share, repeated_share
from potstill.records import Generation
from potstill.runtimes.predictor import Advance, Predictor
from potstill.tasks.generative import GenerativeTask, Prompts, end_tokens, generative

Ids = list[int]


@dataclass(frozen=True)
class Written:
    """What the models wrote after the same prompts, by model."""

    tokens: Mapping[str, Sequence[Ids]]
    """Of each response, without the token that ended it. Of all models in the teacher's tokens: n-grams of shorter
    tokens repeat more often, so what a model with others wrote is read by the teacher's tokenizer."""
    came_to_end: Mapping[str, npt.NDArray[np.bool_]]
    """Whether the model ended it within the tokens that it was given."""
    weights: quality.Weights
    """How often each prompt was drawn, in each resample."""
    exchanges: Sequence[Exchange] = ()
    """The same as texts, with what was asked and what is right."""

    def repeated(self, model: str) -> Resampled | None:
        """The mean over prompts of the share of 4-grams that occurred in the response before."""
        return self._means(model, [repeated_share(ids) for ids in self.tokens.get(model, ())])

    def distinct(self, model: str) -> float | None:
        """Without an interval: a resample holds some responses twice, and has fewer distinct n-grams for that alone."""
        return distinct_share(self.tokens[model]) if model in self.tokens else None

    def ended(self, model: str) -> Resampled | None:
        return self._means(model, self.came_to_end.get(model, ()))

    def lengths(self, model: str) -> Resampled | None:
        """The mean length of a response, in the teacher's tokens."""
        return self._means(model, [len(ids) for ids in self.tokens.get(model, ())])

    def length_ratios(self, model: str) -> Resampled | None:
        """Mean length / the teacher's; not measured where the teacher writes nothing."""
        own, teachers = self.lengths(model), self.lengths("teacher")
        if own is None or teachers is None or teachers[0] == 0:
            return None
        # A resample of prompts after which the teacher writes nothing counts as the sample does.
        ratios = np.divide(own, teachers, out=np.full_like(own, own[0] / teachers[0]), where=teachers > 0)
        return np.asarray(ratios)

    def _means(self, model: str, values: Any) -> Resampled | None:
        if model not in self.tokens:
            return None
        sums = quality.drawn_sums(self.weights, np.asarray(values, dtype=np.float64))
        return np.asarray(sums / self.weights.sum(axis=1))


@dataclass(frozen=True)
class Reader:
    """How the models with one tokenizer are asked."""

    prompts: Prompts
    ends: frozenset[int]
    """What ends a response of any of them, since models that are compared stop at the same."""
    tokenizer: PreTrainedTokenizerBase
    read: Callable[[Any], Prompt]
    """All tokens of a row."""

    def prompt(self, row: Any) -> Prompt:
        """What is shown before the last response; of a plain text, which has none, its beginning."""
        return self.prompts.last(row) if self.prompts.asks(row) else self.read(row)[:PLAIN_PROMPT]

    def ends_of(self, row: Any) -> frozenset[int]:
        return self.ends | {self.prompts.end_of(row)} if self.prompts.asks(row) else self.ends

    def shown(self, row: Any) -> tuple[str, str]:
        """For people: what is asked, and what is right."""
        if self.prompts.asks(row):
            return self.prompts.shown(row)
        ids = self.read(row).tolist()
        asked, rest = (
            str(self.tokenizer.decode(part, skip_special_tokens=True))
            for part in (ids[:PLAIN_PROMPT], ids[PLAIN_PROMPT:])
        )
        return asked, rest


def readers_of(case: Case, predictors: Mapping[str, Predictor]) -> dict[int, Reader]:
    """By tokenizer."""
    found = {}
    for tokenizer in (each.tokenizer for each in predictors.values()):
        alike = [each.end_tokens() for each in predictors.values() if each.tokenizer is tokenizer]
        task = generative(case.recipe.task)
        ends = frozenset(end_tokens(alike, tokenizer))
        found[id(tokenizer)] = Reader(task.prompts(tokenizer), ends, tokenizer, partial(_whole, task, tokenizer))
    return found


def _whole(task: GenerativeTask, tokenizer: PreTrainedTokenizerBase, row: Any) -> Prompt:
    return next((example.ids for example in task.encode([row], tokenizer).examples), np.empty(0, dtype=np.int32))


def _chosen(case: Case, readers: Collection[Reader], count: int) -> list[Any]:
    """Test rows by stable hash: those with a prompt, or where none has one, plain texts with a beginning."""
    if prompted := prompted_rows(case, case.tokenizer, count, salt="generations"):
        return [row for row, _ in prompted]
    ordered = stable_order(case.test, lambda row: row.id, salt="generations")
    plain = (row for row in ordered if all(not each.prompts.asks(row) and len(each.read(row)) for each in readers))
    return list(islice(plain, count))


@dataclass(frozen=True)
class Response:
    """What one model wrote after a prompt."""

    ids: Ids
    """In the tokens of the model that wrote it, with the one that ended it."""
    ended: bool


def responses_of(
    case: Case, predictors: Mapping[str, Predictor], readers: Mapping[int, Reader]
) -> tuple[Written | None, list[Generation]]:
    """What each model writes after the same prompts, where there are only plain texts after their beginnings: the first
    `evaluate.written` measured, and the first `evaluate.generations` as they are shown."""
    settings = case.recipe.evaluate
    chosen = _chosen(case, readers.values(), max(settings.written, settings.generations))
    writers = {name: each for name, each in predictors.items() if Capability.TEXT in each.gives}
    with case.progress.task("evaluate: responses", len(chosen) * len(writers), "responses") as advance:
        responses = {
            name: responses_after(case, each, readers[id(each.tokenizer)], chosen, advance)
            for name, each in writers.items()
        }
    generations = []
    for number, row in enumerate(chosen[: settings.generations]):
        asked, truth = readers[id(case.tokenizer)].shown(row)
        said = {
            name: str(writers[name].tokenizer.decode(each[number].ids, skip_special_tokens=True))
            for name, each in responses.items()
        }
        generations.append(
            Generation(id=row.id, prompt=asked[-SHOWN_CHARACTERS:], truth=truth[:SHOWN_CHARACTERS], said=said)
        )
    measured = len(chosen[: settings.written])
    if not measured:
        return None, generations
    written = Written(
        {name: [as_teacher_reads(case, writers[name], r) for r in each[:measured]] for name, each in responses.items()},
        {name: np.array([response.ended for response in each[:measured]]) for name, each in responses.items()},
        quality.bootstrap_weights(measured, seed=case.recipe.seed),
        _exchanges(case, writers, readers[id(case.tokenizer)], responses, chosen[:measured]),
    )
    return written, generations


def _exchanges(
    case: Case,
    writers: Mapping[str, Predictor],
    reader: Reader,
    responses: Mapping[str, Sequence[Response]],
    rows: Sequence[Any],
) -> list[Exchange]:
    """What a judge is given, where the recipe names one."""
    if case.recipe.evaluate.judge is None:
        return []

    def text(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    found = []
    for number, row in enumerate(rows):
        asks = reader.prompts.asks(row)
        found.append(
            Exchange(
                id=row.id,
                asked=text(case.tokenizer, reader.prompt(row).tolist()),
                truth=reader.shown(row)[1] if asks else "",
                truth_as_read=text(case.tokenizer, reader.prompts.reference(row)) if asks else "",
                said={name: text(writers[name].tokenizer, each[number].ids) for name, each in responses.items()},
            )
        )
    return found


def responses_after(
    case: Case, predictor: Predictor, reader: Reader, chosen: Sequence[Any], advance: Advance
) -> list[Response]:
    """What one model writes after each prompt, those together that have as much room and end alike."""
    together = defaultdict(list)
    for number, row in enumerate(chosen):
        prompt = reader.prompt(row)
        left, most = room_after(tuple(prompt.tolist()), case), case.recipe.evaluate.generation_tokens
        together[most if left is None else min(left, most), reader.ends_of(row)].append((number, row, prompt))
    found = {}
    for (room, ends), asked in together.items():
        numbers, rows, prompts = zip(*asked, strict=True)
        if ends:
            written = predictor.write_all(rows, prompts, room, ends, advance)
        else:
            # Of models that nothing ends, one after the other: several together need a token to stand behind an end.
            written = [predictor.write(row, prompt.tolist(), room, ends) for _, row, prompt in asked]
        for number, ids in zip(numbers, written, strict=True):
            found[number] = Response(ids, bool(ids) and ids[-1] in ends)
    return [found[number] for number in range(len(chosen))]


def as_teacher_reads(case: Case, predictor: Predictor, response: Response) -> Ids:
    """A response in the teacher's tokens, without the one that ended it."""
    ids = response.ids[:-1] if response.ended else response.ids
    if predictor.tokenizer is case.tokenizer or case.own_tokenizer is None:
        return ids
    text = str(predictor.tokenizer.decode(ids, skip_special_tokens=True))
    return token_ids(case.tokenizer, text, split_special_tokens=True)
