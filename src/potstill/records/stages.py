"""What the stages leave, all but evaluate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import Field

from potstill.records.evaluation import EvaluateRecord
from potstill.records.parts import Part
from potstill.run_dir import Record


class TokensRecord(Part):
    """What became of a split of a language model's rows on their way into tokens."""

    examples: int
    tokens: int
    trained_tokens: int
    responses_cut: int
    turns_dropped: int
    examples_dropped: int
    rows_only_shown: int = 0
    """Conversations of which no turn is to be learnt."""
    rows_rewritten: int = 0
    """Conversations whose template writes another white space around a response than the data have there."""


class SplitCounts(Part):
    """How many rows of a split were read, used, and left out for which reason."""

    read: int
    rows: int
    labelled: int
    truncated: int
    blank_dropped: int
    duplicates_dropped: int
    near_copies_dropped: int
    other_label_dropped: int = 0
    """Of the duplicates and near-copies those that are labelled otherwise than the row that they copy."""
    fingerprint: str
    tokens: TokensRecord | None = None
    words: int | None = None
    """Of token classification: the words that are read and answered."""
    windows: int | None = None
    """The parts in which their documents are read."""
    unread: dict[str, int] = Field(default_factory=dict)
    """In how many rows of its file each field is that nothing reads, the most frequent first."""
    ignored: dict[str, int] = Field(default_factory=dict)
    """The same of fields that the recipe leaves out."""
    skipped: int = 0
    """Rows that cannot be read, where the recipe skips them."""
    skipped_first: list[str] = Field(default_factory=list)
    """What is wrong with the first of them."""


class ClassCount(Part):
    """A class, or a kind of entity, in the rows."""

    name: str
    counts: dict[str, int]
    """Of each split: the rows that have it, or the entities that are of this kind."""
    example: str | None = None
    """The beginning of the first training row that has it; of a kind, the first entity."""


class ShapeRecord(Part):
    """The size of a model."""

    family: str
    layers: int
    """Of models that read with one stack and write with another, the encoder's."""
    decoder_layers: int | None = None
    width: int
    heads: int
    query_width: int | None = None
    """Channels of the queries of all heads together, where they are other than `width`."""
    key_value_width: int | None = None
    """Channels of the keys of all heads together, where they are other than `width`."""
    intermediate: int
    vocabulary: int
    classes: int
    parameters: int
    embedding_parameters: int


class SignalRecord(Part):
    """What training reads of the teacher."""

    name: str
    source: Literal["stored", "online"]
    size_bytes: int
    """On disk."""
    layers: list[int] = Field(default_factory=list)
    """Of features: 0 is the output of the embeddings."""


class PlanRecord(Record):
    """What will happen, with sizes; made without touching a model's weights."""

    labels: list[str]
    splits: dict[str, SplitCounts]
    teacher: ShapeRecord
    student: ShapeRecord
    steps: int
    generations: int = 1
    """Students trained one after the other, each by the one before, in so many steps each."""
    adapt_steps: int
    label_store_bytes: int
    signals: list[SignalRecord] = Field(default_factory=list)
    responses_to_write: int = 0
    """Where there are some, the tokens and steps of train, and all sizes, are the greatest that are possible."""
    prompts_dropped: int = 0
    """They leave no room for a response."""
    spelt_share: float | None = None
    """Of a student with a trimmed vocabulary: the share of the pieces of validation that it spells with others."""
    disk_bytes: int
    disk_free_bytes: int
    date: datetime | None = None
    """What the chat template takes for now in every stage, where it writes the date."""
    warnings: list[str]
    classes: list[ClassCount] = Field(default_factory=list)
    """In the order of their counts in train. Empty where labels are numbers or texts."""


class AdaptRecord(Record):
    """The teacher as it will be distilled: a folder in the run, or where the recipe said if it was not adapted."""

    adapted: bool
    converted: bool = False
    """Not adapted, but written into the run as a folder of ordinary weights: from one quantised file, or with its
    outputs in the order of those of the other teachers."""
    location: str
    digest: str
    steps: int = 0
    best_step: int = 0
    best_validation_loss: float | None = None
    best_validation_accuracy: float | None = None
    members: dict[str, "AdaptRecord"] = Field(default_factory=dict)
    """All teachers by name, where there are several; the rest is then of the lead, but for the digest, of all."""


class ResponsesRecord(Record):
    """What the teacher wrote for the student to learn."""

    written: int
    tokens: int
    cut: int
    """Responses that did not end within the greatest length."""
    kept: int
    """Rows that stay as they were given."""
    prompts_dropped: int
    """They leave no room for a response."""
    tokens_per_s: float


class LabelFidelity(Part):
    """How far stored labels are from the teacher at one temperature, as means over positions."""

    temperature: float
    kl: float | None
    """KL(p || stored) in nats: how far from the teacher a student would be that had learnt the labels perfectly.
    A bucket is spread evenly over its tokens. None for samples, which are no distribution."""
    distance: float
    """The Euclidean length of p - stored."""
    captured_mass: float
    """Probability of the tokens that are stored one by one."""


class LabelRecord(Record):
    """The label store: its content digest is the same however often labelling was broken off."""

    online: bool = False
    """The teacher answers in each step of training; nothing is stored, and the digest is the teacher's."""
    asked: bool = True
    """Whether training reads the teacher's distributions. Where it does not, nothing is stored either."""
    rows: int
    content_digest: str
    size_bytes: int
    rows_per_s: float
    positions: int | None = None
    """Of a language model: the tokens that have a label."""
    bytes_per_position: int | None = None
    errors: tuple[LabelFidelity, ...] = ()
    """How far the stored labels are from the teacher at each temperature, on positions of no fit."""
    seconds_of: dict[str, float] = Field(default_factory=dict, exclude_if=lambda parts: not parts)
    """Where the time went: loading the teacher, fitting the encoding, and of the rows that were asked about now
    `collate`, `forward`, `encode` and `write`, the last of which is done beside the others."""


class TrainRecord(Record):
    """A trained model in `model/`, with the weights of its best checkpoint."""

    digest: str
    initial_digest: str
    steps: int
    planned_steps: int
    best_step: int
    best_validation_loss: float
    best_validation_accuracy: float | None
    """None where labels are numbers."""
    stopped_early: bool
    train_rows: int
    labelled_rows: int


class Check(Part):
    name: str
    required: str
    measured: float | None
    bound: float | None = Field(default=None, exclude_if=lambda bound: bound is None)
    """What was compared in its place, where the check asks for a bound that holds with 95 % confidence."""
    passed: bool


class GateRecord(Record):
    passed: bool
    checks: list[Check]
    weak_teacher: str | None = None
    """What the verdict says first, where the teacher was not worth following."""
    warnings: list[str] = Field(default_factory=list, exclude_if=lambda warnings: not warnings)
    """Of thresholds that the worst students meet; none in records from before they were kept."""


class Artefact(Part):
    kind: str
    folder: str
    size_bytes: int
    max_logit_difference: float
    passed: bool


class ExportRecord(Record):
    skipped: bool
    artefacts: list[Artefact]


class ReportRecord(Record):
    html: Literal["report.html"] = "report.html"
    model_card: Literal["MODEL_CARD.md"] = "MODEL_CARD.md"


@dataclass(frozen=True)
class FinishedRun:
    """All that a run found, for who presents it."""

    plan: PlanRecord
    adapt: AdaptRecord
    label: LabelRecord
    student: TrainRecord
    baseline: TrainRecord | None
    evaluation: EvaluateRecord
    gate: GateRecord
    export: ExportRecord
    responses: ResponsesRecord | None = None
    earlier: Mapping[str, TrainRecord] = field(default_factory=dict)
    """Students of earlier generations, each the teacher of the next."""
