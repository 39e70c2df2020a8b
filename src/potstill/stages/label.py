"""label: the rows once through the frozen teacher, into the label store; hidden states of its layers beside it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.capabilities import OF_LAYERS, Capability
from potstill.data.encoded import Encoded
from potstill.data.token_rows import examples_of
from potstill.given_targets import EvenTail
from potstill.labels import Auto, Dense, LabelSource, States
from potstill.labels.fidelity import Bound, temperatures_around
from potstill.labels.fitting import FitSettings, fit_encoding
from potstill.labels.labelling import label_rows, record_of
from potstill.labels.row_encoders import RowEncoder, StatesOfRows, TokensOfRows, dense_encoder, given_encoder
from potstill.labels.store import READABLE
from potstill.labels.top_k import TopK
from potstill.loaded_as import IN_FLOAT32, LoadedAs
from potstill.measure.laps import Laps
from potstill.models import Part
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelRecord
from potstill.run_dir import RunDir, fingerprint
from potstill.signals import Batch, Features, Read, Signals, Teacher
from potstill.stages.inputs import Inputs
from potstill.stages.models import load_teacher, teacher_predictor
from potstill.stages.plan import shapes_of
from potstill.stages.rendering import tokens_of, with_tokens
from potstill.stages.scaled_targets import target_scaler_of
from potstill.stages.signal_sources import build_loss
from potstill.stages.teacher_members import alone
from potstill.targets import SparseTarget
from potstill.tasks.generative import generative
from potstill.teachers import FrozenTeacher
from potstill.teachers.self_taught import is_round
from potstill.training.engine import Engine

TEACHER = "teacher"
LAST_BITS = ("label.batch_size", "label.batches_per_shard")
"""Inputs of a store that decide only in which company a row is asked about."""
PRECISION = ("label.precision", "source.precision")

Outputs = TypeVar("Outputs")


def store_of(name: str) -> str:
    """Where the labels of a teacher of this name lie in a run."""
    return f"label/{name}/logits"


def features_of(name: str, part: Part = Part.ONLY) -> str:
    """Where the hidden states of a teacher of this name lie in a run, of one of its stacks.

    Those of an encoder lie apart: they are of the source's tokens, and all others of those that are written.
    """
    return f"label/{name}/{'encoder_' if part is Part.ENCODER else ''}hidden_states"


@dataclass(frozen=True)
class _Labelling:
    """A teacher of a run, and the rows that it labels."""

    run: RunDir
    recipe: Recipe
    inputs: Inputs
    adapted: AdaptRecord
    engine: Engine
    name: str
    """Of its stores."""

    @property
    def members(self) -> Sequence["_Labelling"]:
        """The teachers of an ensemble, each of which has stores of its own; of one teacher itself."""
        return [self._member(name) for name in self.inputs.members] or [self]

    @property
    def lead(self) -> "_Labelling":
        """The member whose features the losses follow."""
        name = self.recipe.teacher.lead_member
        return self if name is None else self._member(name)

    def _member(self, name: str) -> "_Labelling":
        recipe, inputs, adapted = one_of(self.recipe, self.inputs, self.adapted, name)
        return replace(self, recipe=recipe, inputs=inputs, adapted=adapted, name=name)

    @cached_property
    def source(self) -> LabelSource:
        return label_source(self.recipe, self.inputs, self.adapted, self.engine, self.name)

    def model(self) -> PreTrainedModel:
        """The teacher, loaded to answer."""
        return load_teacher(self.recipe, self.run, self.adapted, answering(self.inputs, self.name))

    def frozen(self, model: PreTrainedModel, reads: frozenset[Read] = frozenset()) -> Teacher:
        """The teacher with this model, in the recipe's precision."""
        teacher = FrozenTeacher(model, self.engine.device, self.recipe.task.ask, reads)

        def signals_of(batch: Batch) -> Signals:
            with self.engine.autocast(self.recipe.label.precision):
                return teacher(batch)

        return signals_of

    @property
    def state_type(self) -> torch.dtype:
        """The type of the hidden states that a head is given. On a CUDA device it is that of the forward pass, as
        where the teacher answers in each step of training: sums of products are float32 there all the same, and
        factors in float32 would cost more than the whole forward pass of a small teacher.
        """
        halved = self.engine.device.type == "cuda" and self.source.precision == "bfloat16"
        return torch.bfloat16 if halved else torch.float32

    def rows_of(self, splits: Sequence[str]) -> Encoded:
        """The rows of these splits, an example in each."""
        return examples_of(*(self.inputs.encoded(self.recipe, self.inputs.splits[name].rows) for name in splits))

    def write(
        self,
        folder: Path,
        rows: Encoded,
        forward: Callable[[Batch], Outputs],
        encoder: RowEncoder[Outputs],
        title: str,
        started: float,
        before: Mapping[str, float] | None = None,
    ) -> LabelRecord:
        """Label the rows, and tell of the time since `started`; `before` is what was spent on what came before."""
        settings = self.recipe.label
        with self.run.progress.task(title, len(rows.ids), "rows") as advance:
            labelled = label_rows(
                folder,
                rows,
                forward,
                encoder,
                self.source,
                batch_size=settings.batch_size,
                batches_per_shard=settings.batches_per_shard,
                advance=advance,
            )
        record = record_of(folder, labelled, encoder.encoding, seconds=time.monotonic() - started, before=before)
        spent = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in record.seconds_of.items())
        self.run.progress.line(f"{title}: {spent}")
        return record


def label(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, name: str = TEACHER
) -> LabelRecord:
    """The soft labels of every training row, labelled or not; a language model's of the validation rows too.

    Nothing is stored where the teacher answers in each step of training, or no loss reads its distributions. The record
    of an ensemble counts the stores of all its members.
    """
    members = _Labelling(run, recipe, inputs, adapted, engine, name).members
    records = [_label_logits(member) for member in members]
    return records[0] if len(records) == 1 else _together(records)


def label_features(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, name: str = TEACHER
) -> tuple[LabelRecord, ...]:
    """The stores of the hidden states that the losses read, one for each stack; none where they come from the teacher
    in each step."""
    labelling = _Labelling(run, recipe, inputs, adapted, engine, name).lead
    shapes = shapes_of(labelling.recipe, labelling.inputs, taught_by_student=is_round(labelling.name))
    reads = build_loss(recipe, shapes).teacher_reads
    if recipe.label.features == "online":
        return ()
    return tuple(
        _label_stack(labelling, features_of(labelling.name, part), States.of(of_part, shapes.teacher.width))
        for part, of_part in by_part(reads).items()
    )


def by_part(reads: Iterable[Read]) -> Mapping[Part, frozenset[Read]]:
    """The features of each stack, in the order of the stacks."""
    parts = sorted({read.part for read in reads})
    return {part: frozenset(read for read in reads if read.part is part) for part in parts}


def one_of(recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, member: str) -> tuple[Recipe, Inputs, AdaptRecord]:
    """What one member of an ensemble is asked: the rows that all are asked about, not those that it was adapted on."""
    own, files = alone(recipe, inputs, member)
    return own, replace(files, splits=inputs.splits), adapted.members[member]


def answering(inputs: Inputs, name: str) -> LoadedAs:
    """How the weights of the teacher with these stores are held while it answers: a student of an earlier round as it
    was trained."""
    return IN_FLOAT32 if is_round(name) else inputs.lead.loaded_as


def label_source(
    recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, name: str = TEACHER
) -> LabelSource:
    """What the labels of a teacher are made from, as their store names it."""
    loaded_as = answering(inputs, name)
    return LabelSource(
        teacher=adapted.digest,
        tokenizer=inputs.tokenizer_digest,
        data=recipe.task.labelled_data(inputs.splits),
        labels=tuple(inputs.labels),
        max_length=recipe.task.max_length,
        precision=loaded_as.type if loaded_as.half else engine.precision(recipe.label.precision),
        weights=loaded_as.told,
        tokens=tokens_of(recipe, inputs),
    )


def _together(records: Sequence[LabelRecord]) -> LabelRecord:
    return LabelRecord(
        online=records[0].online,
        asked=records[0].asked,
        rows=records[0].rows,
        content_digest=fingerprint([record.content_digest for record in records]),
        size_bytes=sum(record.size_bytes for record in records),
        rows_per_s=min(record.rows_per_s for record in records),
        seconds=sum(record.seconds for record in records),
    )


def _nothing_stored(adapted: AdaptRecord, *, asked: bool) -> LabelRecord:
    return LabelRecord(online=asked, asked=asked, rows=0, content_digest=adapted.digest, size_bytes=0, rows_per_s=0.0)


def _label_logits(labelling: _Labelling) -> LabelRecord:
    """The store of the distributions of one teacher.

    Raises:
        LabelStoreError: they are further from the teacher than the recipe accepts.
    """
    run, recipe, adapted = labelling.run, labelling.recipe, labelling.adapted
    where = store_of(labelling.name)
    if not recipe.reads_distributions or recipe.label.mode == "online":
        mode = "online" if recipe.reads_distributions else "not asked"
        made = _nothing_stored(adapted, asked=recipe.reads_distributions)
        return run.once(where, {"mode": mode, "teacher": adapted.digest}, LabelRecord, lambda _: made)
    asked = _asked_encoding(recipe)
    depends: dict[str, object] = {"judged": None, "encoding": recipe.encoding}
    read: set[str] = set()
    if isinstance(asked, FitSettings):
        read = {"temperatures", "fit_positions"}
        if isinstance(asked.encoding, Auto):
            # These decide which encoding is chosen.
            read.add("max_kl")
            depends["judged"] = asked.bound.temperatures
    record = _stored_once(labelling, where, depends, read, lambda folder: _write_logits(labelling, folder, asked))
    if isinstance(asked, FitSettings):
        # Again, for the bound or the losses can have changed since the labels were made.
        asked.bound.require(record.errors)
    return record


def _asked_encoding(recipe: Recipe) -> Dense | FitSettings:
    """The recipe's encoding, with what it must serve where it is fitted; all logits serve every temperature."""
    encoding, settings = recipe.encoding, recipe.label
    if isinstance(encoding, Dense):
        return encoding
    return FitSettings(
        encoding,
        settings.temperatures,
        Bound(settings.max_kl, temperatures_around(recipe.temperatures_used, settings.temperatures)),
        positions=settings.fit_positions,
        batch_size=settings.batch_size,
        splits=recipe.task.labelled_splits,
    )


def _write_given(labelling: _Labelling, folder: Path) -> LabelRecord:
    """The labels of a teacher of which the likeliest tokens are known, and not its layers."""
    recipe, inputs = labelling.recipe, labelling.inputs
    encoding = recipe.encoding
    assert isinstance(encoding, TopK), "all others are refused with such a teacher"
    rows = labelling.rows_of(recipe.task.labelled_splits)
    teacher = teacher_predictor(recipe, labelling.run, inputs, labelling.adapted, labelling.engine)

    def forward(batch: Batch) -> SparseTarget:
        target = teacher.target(batch)
        assert isinstance(target, EvenTail)
        return target.sparse

    started = time.monotonic()
    vocabulary = recipe.task.shared_tokens or inputs.lead.config.get_text_config().vocab_size
    encoder = given_encoder(encoding, vocabulary)
    return labelling.write(folder, rows, forward, encoder, "label", started)


def _write_outputs(labelling: _Labelling, folder: Path, asked: Dense) -> LabelRecord:
    """The labels of a teacher that gives whole distributions, and not its weights: in the unit in which it answers."""
    recipe, inputs, task = labelling.recipe, labelling.inputs, labelling.recipe.task
    rows = labelling.rows_of(task.labelled_splits)
    teacher = teacher_predictor(recipe, labelling.run, inputs, labelling.adapted, labelling.engine)

    def forward(batch: Batch) -> Tensor:
        return task.outputs(teacher.forward(batch), batch).float()

    started = time.monotonic()
    encoder = dense_encoder(asked, task.label_positions, len(inputs.labels))
    return labelling.write(folder, rows, forward, encoder, "label", started)


def _write_logits(labelling: _Labelling, folder: Path, asked: Dense | FitSettings) -> LabelRecord:
    gives = labelling.recipe.teacher.gives
    if isinstance(asked, FitSettings) and not gives.issuperset(OF_LAYERS):
        return _write_given(labelling, folder)
    if isinstance(asked, Dense) and Capability.WEIGHTS not in gives:
        return _write_outputs(labelling, folder, asked)
    recipe, inputs, task = labelling.recipe, labelling.inputs, labelling.recipe.task
    rows = labelling.rows_of(task.labelled_splits)
    laps = Laps(on_cuda=False)
    with laps.lap("load"):
        model = labelling.model()
    scaler = target_scaler_of(recipe, inputs.splits["train"].rows)
    if scaler:
        # In half precision numbers far from zero would lose what tells them apart.
        scaler.standardise(model)
    teacher = labelling.frozen(model)
    of_states = labelling.state_type if isinstance(asked, FitSettings) else torch.float32

    def forward(batch: Batch) -> Tensor:
        outputs = task.outputs(teacher(batch), batch).to(of_states)
        return scaler.unscaled(outputs) if scaler else outputs

    started = time.monotonic()
    encoder: RowEncoder[Tensor]
    if isinstance(asked, Dense):
        encoder = dense_encoder(asked, task.label_positions, len(inputs.labels))
    else:
        head = generative(task).head_of(model).on(labelling.engine.device).with_wide_sums()
        if head.weight.dtype.itemsize > of_states.itemsize:
            # Once, and not at each piece of the states.
            head = replace(head, weight=head.weight.to(of_states))
        with laps.lap("fit"):
            fitted = fit_encoding(folder, rows, forward, head, asked, labelling.run.progress)
        encoder = TokensOfRows(fitted, head)
    return labelling.write(folder, rows, forward, encoder, "label", started, laps.seconds)


def _label_stack(labelling: _Labelling, where: str, encoding: States) -> LabelRecord:
    """The store of hidden states of one stack of a teacher."""

    def work(folder: Path) -> LabelRecord:
        rows = labelling.rows_of(("train",))
        model = labelling.model()
        teacher = labelling.frozen(model, frozenset(state.read for state in encoding.states))

        def forward(batch: Batch) -> Features:
            return teacher(batch).features

        started = time.monotonic()
        return labelling.write(folder, rows, forward, StatesOfRows(encoding), "label: hidden states", started)

    return _stored_once(labelling, where, {"encoding": encoding}, set(), work)


def _stored_once(
    labelling: _Labelling,
    where: str,
    depends: Mapping[str, object],
    read: Set[str],
    work: Callable[[Path], LabelRecord],
) -> LabelRecord:
    """The record of a store, which is written where there is none for these inputs; `read` names label settings."""
    run, recipe, inputs, source = labelling.run, labelling.recipe, labelling.inputs, labelling.source
    settings = recipe.label.model_dump(mode="json", include={"batch_size", "batches_per_shard", *read})
    whole: dict[str, object] = {
        **depends,
        # The oldest that is read: a store of it holds the same as a new one.
        "format": READABLE[0],
        "label": settings | {"precision": source.precision},
        "source": source.model_copy(update={"tokens": None}),
    }
    auto = dict.fromkeys(PRECISION, labelling.engine.precision("auto"))
    whole = with_tokens(whole, source.tokens, run, where, recipe, inputs, last_bits=LAST_BITS, auto=auto)
    return run.once(where, whole, LabelRecord, work, last_bits=LAST_BITS, auto=auto)
