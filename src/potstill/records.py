"""What each stage leaves in the run directory, one frozen model a stage. Units are in the names.

Names of fields here are read by other programs: add fields, do not rename them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from potstill.run_dir import Record

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What is answered about a text, as transformers calls it."""


class Part(BaseModel):
    """A piece of a record."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Part):
    """A measured value with its 95 % bootstrap interval over the test rows."""

    value: float
    low: float
    high: float


class TokensRecord(Part):
    """What became of a split of a language model's rows on their way into tokens."""

    examples: int
    tokens: int
    trained_tokens: int
    responses_cut: int
    turns_dropped: int
    examples_dropped: int


class SplitCounts(Part):
    """How many rows of a split were read, used, and left out for which reason."""

    read: int
    rows: int
    labelled: int
    truncated: int
    blank_dropped: int
    duplicates_dropped: int
    near_copies_dropped: int
    fingerprint: str
    tokens: TokensRecord | None = None
    words: int | None = None
    """Of token classification: the words that are read and answered."""
    windows: int | None = None
    """The parts in which their documents are read."""


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
    warnings: list[str]


class AdaptRecord(Record):
    """The teacher as it will be distilled: a folder in the run, or where the recipe said if it was not adapted."""

    adapted: bool
    converted: bool = False
    """Not adapted, but written into the run as a folder of ordinary weights, from one quantised file."""
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


_METRICS = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "r2": "R²",
    "spearman": "Spearman's rank correlation",
    "token_accuracy": "accuracy at the next token",
    "entity_f1": "entity F1",
    "entity_f1_with_the_teacher": "entity F1 with the teacher",
}


def metric_name(metric: str) -> str:
    """A metric in words."""
    return _METRICS.get(metric, metric.replace("_", " "))


class ModelEvaluation(Part):
    """One model on the test rows and on this machine."""

    accuracy: float | None
    accuracy_interval: Estimate | None
    """Over rows; of language models at the next token, of token classification at each word. Of several labels for a
    text the share of rows that have exactly the right ones. None where labels are numbers."""
    macro_f1: float | None
    macro_f1_interval: Estimate | None
    """Of one class for each text, or of several labels."""
    scores: dict[str, Estimate] = Field(default_factory=dict)
    """What else the task measures, by name: shares that are better where they are higher."""
    rmse: Estimate | None = None
    """Where labels are numbers: the root of the mean squared error, in their unit."""
    rmse_from_teacher: Estimate | None = None
    """The same of the difference from what the teacher says."""
    cross_entropy: float | None
    expected_calibration_error: float | None
    """Both over rows, or over tokens or words; of several labels for a text over each decision about one. None where
    labels are numbers."""
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    throughput_per_s: float
    peak_memory_bytes: int
    size_bytes: int
    num_parameters: int
    num_parameters_without_embeddings: int
    perplexity: float | None = None
    """This and all that follows is of language models: exp of the cross-entropy."""
    kl_mean: float | None = None
    """KL from the teacher at temperature 1 in nats, and its quantiles over the tokens."""
    kl_median: float | None = None
    kl_p99: float | None = None
    top1_agreement: float | None = None
    """Share of tokens at which the likeliest is the teacher's."""
    rms_probability_difference: float | None = None
    """Root mean square of the difference in probability of the teacher's likeliest token."""
    time_to_first_token_ms: float | None = None
    time_per_token_ms: float | None = None
    tokens_per_s: float | None = None

    def score(self, metric: str) -> Estimate:
        """A metric of the task by name, such as its primary one."""
        found = self.scores.get(metric, self.accuracy_interval)
        assert found is not None, f"{metric} was not measured"
        return found


class Generation(Part):
    """What the models write after the same prompt, greedily."""

    id: str
    prompt: str
    truth: str
    said: dict[str, str]


class Comparison(Part):
    """Two models on the same rows, `of` minus `against` in points of 0.01, with McNemar's exact test for rows that
    are independent; the tokens of a response are not."""

    of: str
    against: str
    accuracy_points: Estimate | None
    macro_f1_points: Estimate | None
    score_points: dict[str, Estimate] = Field(default_factory=dict)
    """Of each of the `scores`."""
    only_of_right: int | None
    only_against_right: int | None
    """None where labels are numbers, of which none is right or wrong."""
    mcnemar_p: float | None

    def points(self, metric: str) -> Estimate:
        """The difference in a metric of the task by name, such as its primary one."""
        found = self.score_points.get(metric, self.accuracy_points)
        assert found is not None, f"{metric} was not compared"
        return found


class Agreement(Part):
    """How often a model says what the teacher says: the top class, on all rows and where the teacher errs.

    Where a text has several labels, each decision about one counts by itself.
    """

    all_rows: Estimate
    teacher_wrong: float | None
    teacher_wrong_rows: int
    kl_from_teacher: float


class Floor(Part):
    """TF-IDF and logistic regression on the same labelled rows: what a model must beat to be worth its cost.

    Ridge regression where labels are numbers.
    """

    labelled_rows: int
    accuracy: float | None
    macro_f1: float | None
    scores: dict[str, float] = Field(default_factory=dict)
    """What else the task measures, by name."""

    def score(self, metric: str) -> float:
        """A metric of the task by name, such as its primary one."""
        found = self.scores.get(metric, self.accuracy)
        assert found is not None, f"{metric} was not measured"
        return found


class ClassRow(Part):
    """A class, and the share of its rows that each model recognises."""

    label: str
    rows: int
    teacher_accuracy: float | None
    student_accuracy: float | None
    baseline_accuracy: float | None


class Disagreement(Part):
    id: str
    text: str
    truth: str
    teacher: str
    student: str
    baseline: str | None


class Measurement(Part):
    """How speed was measured, so that it can be measured again."""

    threads: int
    device: str
    rows: int
    rounds: int
    warmup: int
    batch_size_throughput: int


class EvaluateRecord(Record):
    """Teacher, student and baseline side by side."""

    primary_metric: str
    test_rows: int
    models: dict[str, ModelEvaluation]
    retention: Estimate
    drop_points: Estimate
    speedup: float
    throughput_ratio: float
    size_ratio: float
    gain_over_baseline_points: Estimate | None
    agreement: dict[str, Agreement]
    comparisons: list[Comparison]
    floors: dict[str, Floor]
    classes: list[ClassRow]
    disagreements: list[Disagreement]
    measurement: Measurement
    findings: list[str]
    test_tokens: int | None = None
    learnt_from: Literal["given", "generated"] = "given"
    """Of a language model: who wrote the responses that student and baseline learnt."""
    kl_gain_over_baseline: Estimate | None = None
    """KL from the teacher in nats a token, the baseline's minus the student's."""
    loss_gain_over_baseline: Estimate | None = None
    """Cross-entropy of the true responses in nats a token, the baseline's minus the student's."""
    initial_kl_mean: float | None = None
    """KL from the teacher to the student before its training."""
    generations: list[Generation] = Field(default_factory=list)
    test_words: int | None = None
    """Of token classification: the words that are classified one by one."""
    problem_type: ProblemType = "single_label_classification"
    """Of text classification: whether a text has one class, any number of labels, or a number."""

    def primary(self, model: str) -> Estimate:
        """What this task judges a model by."""
        return self.models[model].score(self.primary_metric)


def accuracy_name(evaluation: EvaluateRecord) -> str:
    """What an accuracy is of in this evaluation, in words."""
    return "all labels right" if evaluation.problem_type == "multi_label_classification" else "accuracy"


class Check(Part):
    name: str
    required: str
    measured: float | None
    passed: bool


class GateRecord(Record):
    passed: bool
    checks: list[Check]


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
