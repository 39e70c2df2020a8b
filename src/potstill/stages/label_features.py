"""label, for losses on features: hidden states of the teacher's layers, stored where the recipe says so."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from potstill.data.batches import batches_by_length
from potstill.data.token_rows import TokenRows
from potstill.families import Part
from potstill.labels import States, StoreWriter, bytes_per_position
from potstill.labels.positions import Columns
from potstill.labels.store import READABLE
from potstill.labels.writer import stored_positions
from potstill.recipe import Recipe
from potstill.records import AdaptRecord, LabelRecord
from potstill.run_dir import RunDir, file_digest
from potstill.signals import Read
from potstill.stages.common import Inputs
from potstill.stages.label import LAST_BITS, PRECISION, TEACHER, is_round, label_source, one_of
from potstill.stages.models import load_teacher
from potstill.stages.plan import shapes_of
from potstill.stages.rendering import with_tokens
from potstill.stages.signal_sources import build_loss
from potstill.teachers import FrozenTeacher, lead_name
from potstill.training.engine import Engine


def features_of(name: str, part: Part = Part.ONLY) -> str:
    """Where the hidden states of a teacher of this name lie in a run, of one of its stacks.

    Those of an encoder lie apart: they are of the source's tokens, and all others of those that are written.
    """
    return f"label/{name}/{'encoder_' if part is Part.ENCODER else ''}hidden_states"


def label_features(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, name: str = TEACHER
) -> tuple[LabelRecord, ...]:
    """The stores of the hidden states that the losses read, one for each stack; none where they come from the teacher
    in each step."""
    if recipe.ensemble:
        # Losses follow the features of the lead.
        name = lead_name(recipe.ensemble)
        recipe, inputs, adapted = one_of(recipe, inputs, adapted, name)
    shapes = shapes_of(recipe, inputs, taught_by_student=is_round(name))
    reads = build_loss(recipe, shapes).teacher_reads
    if recipe.label.features == "online":
        return ()
    return tuple(
        _label_stack(
            run, recipe, inputs, adapted, engine, features_of(name, part), States.of(of_part, shapes.teacher.width)
        )
        for part, of_part in by_part(reads).items()
    )


def by_part(reads: Iterable[Read]) -> Mapping[Part, frozenset[Read]]:
    """The features of each stack, in the order of the stacks."""
    parts = sorted({read.part for read in reads})
    return {part: frozenset(read for read in reads if read.part is part) for part in parts}


def _label_stack(
    run: RunDir, recipe: Recipe, inputs: Inputs, adapted: AdaptRecord, engine: Engine, where: str, encoding: States
) -> LabelRecord:
    source = label_source(recipe, inputs, adapted, engine)
    depends: dict[str, object] = {
        # The oldest that is read: a store of it holds the same as a new one.
        "format": READABLE[0],
        "label": recipe.label.model_dump(mode="json", include={"batch_size", "batches_per_shard"})
        | {"precision": source.precision},
        "encoding": encoding,
        "source": source.model_copy(update={"tokens": None}),
    }
    auto = dict.fromkeys(PRECISION, engine.precision("auto"))
    depends = with_tokens(depends, source.tokens, run, where, recipe, inputs, last_bits=LAST_BITS, auto=auto)

    def work(folder: Path) -> LabelRecord:
        rows = inputs.encoded(recipe, inputs.splits["train"].rows)
        rows = rows.unpacked() if isinstance(rows, TokenRows) else rows
        reads = frozenset(state.read for state in encoding.states)
        teacher = FrozenTeacher(load_teacher(recipe, run, adapted), engine.device, recipe.task.ask, reads)
        asked = 0

        def ask(indices: Sequence[int]) -> tuple[list[int], Columns]:
            nonlocal asked
            batch = rows.collate(indices)
            with engine.autocast(recipe.label.precision):
                features = teacher(batch).features
            counts: list[int] = batch.tokens_of(encoding.part).sum(dim=1).tolist()
            asked += len(indices)
            return counts, encoding.encode(features)

        started = time.monotonic()
        with run.progress.task("label: hidden states", len(rows.ids), "rows") as advance:
            plan = batches_by_length(rows.lengths, recipe.label.batch_size)
            manifest = StoreWriter(folder, encoding, source).write(
                rows.ids, plan, recipe.label.batches_per_shard, ask, advance
            )
        seconds = time.monotonic() - started
        names = ["manifest.json", "manifest.json.sha256", *(shard.file for shard in manifest.shards)]
        return LabelRecord(
            rows=manifest.rows,
            content_digest=manifest.content_digest,
            size_bytes=sum((folder / name).stat().st_size for name in names),
            rows_per_s=round(asked / seconds, 1) if seconds else 0.0,
            positions=stored_positions(folder, manifest),
            bytes_per_position=bytes_per_position(encoding.columns),
            files={name: file_digest(folder / name) for name in names},
        )

    return run.once(where, depends, LabelRecord, work, last_bits=LAST_BITS, auto=auto)
