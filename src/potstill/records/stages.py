"""What the stages leave, all but evaluate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import Field

from potstill.records.evaluation import EvaluateRecord, Measurement, ModelEvaluation
from potstill.records.parts import Estimate, Part
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
    pairs: int = Field(default=0, exclude_if=lambda pairs: not pairs)
    """Rows of two texts that are classified together."""
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
    source: str | None = Field(default=None, exclude_if=lambda source: source is None)
    """Where its rows are from, where that is more than one file: how many, or the revision of what a hub has."""


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
    idle_parameters: int | None = Field(default=None, exclude_if=lambda count: count is None)
    """Of models with experts: of those that a token does not use."""


class LoraRecord(Part):
    """What LoRA trains of a model."""

    rank: int
    scale: float
    """What the product of the two matrices is multiplied by."""
    adapted_modules: int
    """Linear layers that have two matrices beside them."""
    modules_to_save: list[str]
    """Modules that are trained in full."""
    trained_parameters: int
    parameters: int
    """Of the model."""


class MergedLora(LoraRecord):
    """The same of a model that was trained so."""

    dtype: str
    """The type in which the merged model is saved; the adapter is saved in float32."""
    merge_error: float
    """The largest difference between an output of the merged model and of the one with its adapter, on validation rows,
    as a share of the largest output."""


class SignalRecord(Part):
    """What training reads of the teacher."""

    name: str
    source: Literal["stored", "online"]
    size_bytes: int
    """On disk."""
    layers: list[int] = Field(default_factory=list)
    """Of features: 0 is the output of the embeddings."""


class SharedTokensRecord(Part):
    """The tokens that a student which exists already has in common with its teacher."""

    count: int
    """The ids below it stand for the same in both, and distributions are over these alone."""
    teacher_rows: int
    """Of its embedding matrix."""
    student_rows: int
    adopted: list[str] = Field(default_factory=list)
    """Tokens of the teacher that the student learns anew."""
    unknown: list[str] = Field(default_factory=list)
    """Tokens of the teacher that the student has not."""


class OtherTokensRecord(Part):
    """How the tokens of a student lie in those of its teacher, which are others."""

    teacher_tokens: int
    student_tokens: int
    alone: int
    """The student's tokens that the teacher can tell from all others of them."""
    answered: float
    """The share of the learnt tokens of validation, in the student's, of which the teacher says something."""
    plain: float
    """The share of those where a token of the teacher's begins and nothing else can have been meant."""


class WeightsRecord(Part):
    """The weights of a teacher."""

    stored: str
    """The type of most of their bytes, as torch calls it."""
    answers: str
    """The type in which they are held while it answers."""
    quantization: str | None = None
    """In how many bits those of its linear layers are held then."""
    spread: bool = False
    """Whether they are spread over several devices."""
    why: str = ""
    """Where the two are not one, or need not be."""


class PlanRecord(Record):
    """What will happen, with sizes; made without touching a model's weights."""

    labels: list[str]
    splits: dict[str, SplitCounts]
    teacher: ShapeRecord
    student: ShapeRecord
    weights: dict[str, WeightsRecord] = Field(default_factory=dict, exclude_if=lambda weights: not weights)
    """Of each teacher that is not simply in float32."""
    steps: int
    lora: LoraRecord | None = Field(default=None, exclude_if=lambda lora: lora is None)
    """Where the student is trained so."""
    adapt_lora: LoraRecord | None = Field(default=None, exclude_if=lambda lora: lora is None)
    """Where the teacher is adapted so; of several, the lead's."""
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
    shared_tokens: SharedTokensRecord | None = Field(default=None, exclude_if=lambda shared: shared is None)
    """Of a language model whose student exists already and has its teacher's tokens."""
    other_tokens: OtherTokensRecord | None = Field(default=None, exclude_if=lambda other: other is None)
    """Of one that has others."""
    student_source: str | None = Field(default=None, exclude_if=lambda source: source is None)
    """Where a student lies that exists already."""
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
    lora: MergedLora | None = Field(default=None, exclude_if=lambda lora: lora is None)
    """Where it was adapted so; `adapter/` then lies beside `model/`."""
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
    lora: MergedLora | None = Field(default=None, exclude_if=lambda lora: lora is None)
    """Where it was trained so; `adapter/` then lies beside `model/`."""


class Check(Part):
    name: str
    required: str
    measured: float | None
    bound: float | None = Field(default=None, exclude_if=lambda bound: bound is None)
    """What was compared in its place, where the check asks for a bound that holds with 95 % confidence."""
    passed: bool
    unit: str | None = Field(default=None, exclude_if=lambda unit: unit is None)
    """In which the threshold is written, where it has one; `measured` and `bound` are in the metric's own."""
    why: str | None = Field(default=None, exclude_if=lambda why: why is None)
    """Why there is nothing to compare, where there is not."""


class GateRecord(Record):
    passed: bool
    checks: list[Check]
    weak_teacher: str | None = None
    """What the verdict says first, where the teacher was not worth following."""
    degenerate: str | None = Field(default=None, exclude_if=lambda said: said is None)
    """What it says next, where the student repeats itself, or does not come to an end, and its teacher does not."""
    advice: list[str] = Field(default_factory=list, exclude_if=lambda advice: not advice)
    """What would have to change for the checks that failed, and who else would pass."""
    would_pass: list[str] = Field(default_factory=list, exclude_if=lambda names: not names)
    """The other models of the run that would pass every check in the student's place, where the student did not."""
    warnings: list[str] = Field(default_factory=list, exclude_if=lambda warnings: not warnings)
    """Of thresholds that the worst students meet; none in records from before they were kept."""


class Artefact(Part):
    """A form in which a model can be shipped, judged by itself in its own runtime."""

    kind: str
    folder: str
    size_bytes: int
    """Of the files of the model itself."""
    max_logit_difference: float
    """From the model that it was made of, over some test rows."""
    passed: bool
    name: str = ""
    """One of its own for each form; empty in records of earlier versions, which had one of each kind."""
    precision: str = "float32"
    runtime: str = "transformers"
    agreement_with_source: float | None = None
    """Share of the answers to all test rows, words or tokens that are those of the model that it was made of."""
    model: ModelEvaluation | None = None
    """What was measured of it; None where it is the student's own files, of which that is known."""
    retention: Estimate | None = None
    drop_points: Estimate | None = None
    speedup: float | None = None
    """Of the teacher as it was, in the runtime that it was trained in."""
    speedup_over_rival: float | None = None
    """Of the teacher in the same runtime and precision."""
    checks: list[Check] = Field(default_factory=list)
    why: str = ""
    """Why it is not shipped, where no check says so."""


class ExportRecord(Record):
    skipped: bool
    artefacts: list[Artefact]
    rivals: list[Artefact] = Field(default_factory=list)
    """The teacher in the same forms: what could be shipped without a student."""
    rivals_missing: dict[str, str] = Field(default_factory=dict)
    """Why it has none of a form, by its name."""
    smallest: str | None = None
    """The name of the smallest artefact that passed."""
    fastest: str | None = None
    not_worth: str | None = None
    """What the verdict says first where the teacher, in one of these forms, is better, faster and smaller."""
    measurement: Measurement | None = None

    @property
    def none_passed(self) -> bool:
        """Whether there are artefacts, and none that may be shipped."""
        return bool(self.artefacts) and not any(artefact.passed for artefact in self.artefacts)


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
