"""label/responses: where the recipe asks for it, the teacher writes what the student then learns."""

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa

from potstill.data.batches import batches_by_length, hash_seed
from potstill.data.dialogues import Completion, WrittenResponse
from potstill.data.generated import GeneratedResponse, load_generated, save_generated
from potstill.data.on_disk import place_of
from potstill.data.reading import Refusals
from potstill.data.rows import OWN_ID, DataRow
from potstill.data.tokens import Prompt
from potstill.errors import DataError, LabelStoreError
from potstill.loaded_as import placed
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, ResponsesRecord
from potstill.run_dir import SCRATCH, RunDir, file_digest
from potstill.stages.inputs import Inputs
from potstill.stages.models import load_teacher
from potstill.tasks.chat_prompts import ChatPrompts
from potstill.tasks.generative import end_tokens, ends_of, generative
from potstill.teachers.responses import Generated, write_responses
from potstill.training.engine import Engine

RESPONSES = "label/responses"
FILE = "responses.parquet"


@dataclass(frozen=True)
class Request:
    """A response to be written."""

    id: str
    prompt: Prompt
    room: int
    """How many tokens it can have."""


@dataclass(frozen=True)
class Requests:
    """All that the teacher is to write for the rows of a split."""

    open: tuple[Request, ...]
    kept: tuple[DataRow, ...]
    """Rows that stay as they are given."""
    dropped: tuple[str, ...]
    """Prompts that leave no room for a response."""
    ends: frozenset[int]
    """The tokens that end a response, by tokenizer and chat template."""
    only_shown: int = 0
    """Rows of which no turn is to be learnt."""


def requests(recipe: Recipe, inputs: Inputs, settings: Generated) -> Requests:
    """What the teacher is asked for the training rows, from the data and the settings alone.

    Raises:
        DataError: there is nothing to write, an id that would occur twice, or a row that the chat template refuses.
        ModelError: a tokenizer without a chat template or an end token, where rows need it.
    """
    prompts = generative(recipe.task).prompts(inputs.tokenizer)
    rows = inputs.splits["train"].rows
    wanted: list[Request] = []
    kept: list[DataRow] = []
    dropped: list[str] = []
    refused = Refusals()
    ends: set[int] = set()
    only_shown = 0
    for number, row in enumerate(rows):
        if not prompts.asks(row) or (settings.rows == "unanswered" and row.labelled):
            kept.append(row)
            continue
        try:
            ends.add(prompts.end_of(row))
            named = list(prompts.of(row, every=settings.rows == "all"))
        except DataError as error:
            refused.add(error, place_of(rows, number))
            continue
        only_shown += not named
        for name, prompt in named:
            room = min(settings.max_new_tokens, prompts.room(prompt))
            if room < 1:
                dropped.append(name)
                continue
            wanted.extend(Request(each, prompt, room) for each in _names(name, settings))
    refused.require_none()
    if not wanted:
        why = (
            f"{only_shown} rows have no turn to learn. Set the weight of one to 1"
            if only_shown
            else f'{len(dropped)} prompts are empty or fill task.max_length, first "{dropped[0]}". Raise it'
            if dropped
            else "its rows have no prompt, or a response already. Use label.responses: {kind: given}"
        )
        raise DataError(f"data.train: there is no response that the teacher could write: {why}.")
    _require_own_names([each.id for each in wanted] + [row.id for row in kept], inputs)
    return Requests(tuple(wanted), tuple(kept), tuple(dropped), frozenset(ends), only_shown)


def _names(name: str, settings: Generated) -> list[str]:
    """Those of all responses to a prompt."""
    if settings.per_prompt == 1:
        return [name]
    return [f"{name}@{sample}" for sample in range(settings.per_prompt)]


def planned(recipe: Recipe, inputs: Inputs) -> tuple[Inputs, Requests | None]:
    """The inputs as the later stages will have them, with responses of the greatest length in place of written ones,
    and what the teacher will be asked for, where it writes them."""
    settings = recipe.label.responses
    if not isinstance(settings, Generated):
        return inputs, None
    asked = requests(recipe, inputs, settings)
    longest = [GeneratedResponse(each.id, each.prompt, np.zeros(each.room, dtype=np.int32), "") for each in asked.open]
    return _with_rows(inputs, [*asked.kept, *longest]), asked


def generate(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine
) -> tuple[Inputs, ResponsesRecord | None]:
    """The inputs with the responses that the student learns: as they are given, or as the teacher wrote them.

    Raises:
        DataError: there is nothing to write.
        LabelStoreError: the file of responses was changed since it was written.
    """
    settings = recipe.label.responses
    if not isinstance(settings, Generated):
        return inputs, None
    asked = requests(recipe, inputs, settings)
    depends: dict[str, object] = {
        "responses": settings,
        "precision": engine.precision(recipe.label.precision),
        "seed": recipe.seed,
        "teacher": adapted.digest,
        **inputs.loaded_as_in_digests,
        "tokenizer": inputs.tokenizer_digest,
        "task": recipe.task.model_dump(mode="json", exclude={"packing"}),
        "data": inputs.fingerprint_of("train"),
    }
    last_bits, auto = ["responses.batch_size"], {"precision": engine.precision("auto")}
    # What an earlier version began goes on without.
    if not run.has_begun(RESPONSES, depends, last_bits=last_bits, auto=auto):
        depends["prompts"] = _digest(asked.open)

    def work(folder: Path) -> ResponsesRecord:
        return _write(run, folder, recipe, settings, inputs, adapted, asked, engine)

    record = run.once(RESPONSES, depends, ResponsesRecord, work, last_bits=last_bits, auto=auto)
    path = run.path(RESPONSES, FILE)
    if file_digest(path) != record.files[FILE]:
        raise LabelStoreError(f"{path}: changed since it was written. Remove its folder, and the teacher writes again.")
    written = load_generated(path)
    if inputs.own is not None and inputs.own.vocabularies is not None:
        return _with_rows(inputs, [*asked.kept, *_as_texts(recipe, inputs, settings, written)]), record
    return _with_rows(inputs, [*asked.kept, *written]), record


def _as_texts(
    recipe: Recipe, inputs: Inputs, settings: Generated, written: Sequence[GeneratedResponse]
) -> list[WrittenResponse]:
    """Responses as text after the rows that asked for them, for a student with other tokens than its teacher's."""
    prompts = generative(recipe.task).prompts(inputs.tokenizer)
    assert isinstance(prompts, ChatPrompts), "such a student is a decoder"
    found: dict[str, WrittenResponse] = {}
    responses = {row.id: row for row in written}
    for row in inputs.splits["train"].rows:
        if not prompts.asks(row) or (settings.rows == "unanswered" and row.labelled):
            continue
        for name, shown in prompts.asked(row, every=settings.rows == "all"):
            asked = replace(shown, completion=None) if isinstance(shown, Completion) else shown
            for each in _names(name, settings):
                if each in responses:
                    said = responses[each]
                    found[each] = WrittenResponse(each, asked, said.whole_text, said.ended, asked.domain)
    return [found[row.id] for row in written]


def _write(
    run: RunDir,
    folder: Path,
    recipe: Recipe,
    settings: Generated,
    inputs: Inputs,
    adapted: AdaptRecord,
    asked: Requests,
    engine: Engine,
) -> ResponsesRecord:
    model = placed(load_teacher(recipe, run, adapted, inputs.lead.loaded_as), engine.device).eval()
    ends = asked.ends | end_tokens([ends_of(model)], inputs.tokenizer)
    done = folder / SCRATCH
    done.mkdir(exist_ok=True)
    started, drawn = time.monotonic(), 0
    found, taken = _finished(done, {request.id for request in asked.open})
    with run.progress.task(RESPONSES, len(asked.open), "responses") as advance:
        advance(len(found), earlier=True)
        # Under an unchanged plan the free numbers are those of the batches that are missing.
        free = (number for number in count() if number not in taken)
        for room, batch in _batches(asked.open, settings.batch_size):
            each = [asked.open[index] for index in batch if asked.open[index].id not in found]
            if not each:
                continue
            number = next(free)
            seed = hash_seed(recipe.seed, number)
            # A model in half precision computes in its own type.
            with nullcontext() if inputs.lead.loaded_as.half else engine.autocast(recipe.label.precision):
                drafts = write_responses(
                    model,
                    [request.prompt for request in each],
                    settings,
                    new_tokens=room,
                    ends=ends,
                    seed=seed,
                    tokens=recipe.task.shared_tokens,
                )
            rows = [
                GeneratedResponse(
                    id=request.id,
                    prompt=request.prompt,
                    response=np.array(ids, dtype=np.int32),
                    text=inputs.tokenizer.decode(ids, skip_special_tokens=True),
                    ended=ids[-1] in ends,
                    seed=seed,
                )
                for request, ids in zip(each, drafts, strict=True)
            ]
            save_generated(done / f"{number:06}.parquet", rows)
            drawn += sum(map(len, drafts))
            found |= {row.id: row for row in rows}
            advance(len(each), f"{drawn / (time.monotonic() - started):,.0f} tokens/s")
    seconds = time.monotonic() - started
    written = [found[request.id] for request in asked.open]
    save_generated(folder / FILE, written)
    return ResponsesRecord(
        prompts_dropped=len(asked.dropped),
        kept=len(asked.kept),
        written=len(written),
        tokens=sum(len(row.response) for row in written),
        cut=sum(not row.ended for row in written),
        tokens_per_s=round(drawn / seconds, 1) if seconds else 0.0,
        files={FILE: file_digest(folder / FILE)},
    )


def _digest(asked: Sequence[Request]) -> str:
    """sha256 of the prompts as token ids, in their order, with the names and the room of their responses."""
    digest = hashlib.sha256()
    for request in asked:
        digest.update(f"{json.dumps(request.id)} {request.room} {len(request.prompt)} ".encode())
        digest.update(request.prompt.astype("<i4").tobytes())
    return digest.hexdigest()


def _require_own_names(names: Sequence[str], inputs: Inputs) -> None:
    """Labels are found by id, so nothing that is learnt may share one with another row of any split."""
    taken = Counter(names)
    for split, held in inputs.splits.items():
        if split != "train":
            taken.update(row.id for row in held.rows)
    name, times = taken.most_common(1)[0]
    if times > 1:
        raise DataError(
            f'Duplicate id "{name}": a response of data.train gets this name, and another row has it. {OWN_ID}'
        )


def _finished(folder: Path, wanted: Set[str]) -> tuple[dict[str, GeneratedResponse], set[int]]:
    """What a job that was broken off wrote, in whatever batches, and the numbers of these."""
    found: dict[str, GeneratedResponse] = {}
    taken: set[int] = set()
    for path in sorted(folder.glob("*.parquet")):
        try:
            rows = load_generated(path)
        except (OSError, pa.ArrowException):
            continue
        names = {row.id for row in rows}
        if path.stem.isdecimal() and names <= wanted and names.isdisjoint(found):
            found |= {row.id: row for row in rows}
            taken.add(int(path.stem))
    return found, taken


def _batches(asked: Sequence[Request], size: int) -> Iterator[tuple[int, list[int]]]:
    """How long the responses of a batch can be, and which they are: prompts of similar length with the same room."""
    by_room: dict[int, list[int]] = defaultdict(list)
    for number, request in enumerate(asked):
        by_room[request.room].append(number)
    for room, numbers in by_room.items():
        for batch in batches_by_length([len(asked[number].prompt) for number in numbers], size):
            yield room, [numbers[place] for place in batch]


def _with_rows(inputs: Inputs, rows: Sequence[DataRow]) -> Inputs:
    train = replace(inputs.splits["train"], rows=rows)
    return replace(inputs, splits={**inputs.splits, "train": train})
