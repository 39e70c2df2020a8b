"""What evaluate leaves: teacher, student and baseline side by side, and what each quantity is called."""

from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import Field

from potstill.records.calibration import CalibrationRecord
from potstill.records.harness import HarnessRecord
from potstill.records.judgement import WritingJudgement
from potstill.records.parts import Estimate, Part
from potstill.records.robustness import OutOfDomain, Robustness
from potstill.records.slices import RegressionsRecord, SliceRow
from potstill.records.speed_points import SpeedPoint
from potstill.records.token_robustness import TokenOutOfDomain, TokenRobustness
from potstill.run_dir import Record

ProblemTypeName = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What is answered about a text, as transformers calls it."""

AnswerKind = Literal["single_label", "multi_label", "regression", "tags", "text", "target"]
"""What the models of a run answer with: one class, several labels or a number for a text; a tag for each word; text
after a prompt; or a target for a source, which is right or wrong as a whole."""
_JUDGED_BY: Mapping[str, AnswerKind] = {
    "accuracy": "single_label",
    "micro_f1": "multi_label",
    "r2": "regression",
    "entity_f1": "tags",
    "token_accuracy": "text",
    "exact_match": "target",
}
"""The kind of answers whose primary metric this is; each has one of its own."""


QUERIES_OF_A_PERCENTILE = {95: 100, 99: 662}
"""How many queries must stand behind a percentile of latency for it to be shown.

Of 100, five lie above the 95th. For the 99th it is the fewest for which MLPerf Inference stops early (its rules,
"Early stopping"): of fewer, the one that is above it by chance decides what it is.
"""


Value = TypeVar("Value")


def _by_name(scores: Mapping[str, Value], accuracy: Value | None, macro_f1: Value | None) -> dict[str, Value]:
    """The metrics of a task by name: `scores`, and those that have a field of their own, where they were measured."""
    fields = {"accuracy": accuracy, "token_accuracy": accuracy, "macro_f1": macro_f1}
    return {name: value for name, value in fields.items() if value is not None} | dict(scores)


class ModelEvaluation(Part):
    """One model on the test rows and on this machine."""

    accuracy: float | None
    accuracy_interval: Estimate | None
    """Over rows; of language models at the next token, of token classification at each word. Of several labels for a
    text the share of rows that have exactly the right ones. None where labels are numbers."""
    macro_f1: float | None
    macro_f1_interval: Estimate | None
    """Of one class for each text, or of several labels."""
    scores: dict[str, Estimate | float] = Field(default_factory=dict)
    """What else the task measures, by name; what is not resampled has no interval."""
    rmse: Estimate | None = None
    """Where labels are numbers: the root of the mean squared error, in their unit."""
    rmse_from_teacher: Estimate | None = None
    """The same of the difference from the teacher's outputs."""
    cross_entropy: float | None
    expected_calibration_error: float | None
    """Both over rows, or over tokens or words; of several labels for a text over each decision about one. None where
    labels are numbers."""
    latency_p50_ms: float
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    """None where too few queries stand behind them: a row that is timed, or all that a model writes after a prompt."""
    throughput_per_s: float
    peak_memory_bytes: int
    """These are in float32, in which all models are compared."""
    memory_above_floor_bytes: int | None = None
    """Of the peak, what the process did not hold before it loaded the model; this and the next two are None in records
    from before they were measured."""
    load_ms: float | None = None
    """Until the first query can be asked, the libraries being imported."""
    latency_p50_range_ms: tuple[float, float] | None = None
    """The lowest and the highest median of a round."""
    size_bytes: int
    """Of the weights alone, in the type that the model is served in."""
    cost_per_1000: float | None = Field(default=None, exclude_if=lambda cost: cost is None)
    """Of requests, in the currency of the recipe; this and the next are estimates from the median latency, where the
    recipe says what an hour costs."""
    energy_wh_per_1000: float | None = Field(default=None, exclude_if=lambda energy: energy is None)
    joules_per_query: float | None = Field(default=None, exclude_if=lambda joules: joules is None)
    """What the whole processor drew for one query, all of them being asked alone; then what is above is no estimate."""
    num_parameters: int
    num_parameters_without_embeddings: int
    weights_type: str | None = None
    """The type that the model is served in."""
    size_in_float32_bytes: int | None = None
    own_type_latency_p50_ms: float | None = None
    """This and the next two: in the type that it is served in, where that is not float32 and could be timed."""
    own_type_throughput_per_s: float | None = None
    own_type_peak_memory_bytes: int | None = None
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
    speed_points: list[SpeedPoint] = Field(default_factory=list, exclude_if=lambda points: not points)
    """Of all models: at the batch sizes and lengths that the recipe names beside."""

    def score(self, metric: str) -> Estimate:
        """A metric of the task by name, such as its primary one, with its interval.

        Raises:
            KeyError: it was not measured, or has no interval.
        """
        with_interval = {name: value for name, value in self.scores.items() if isinstance(value, Estimate)}
        return _by_name(with_interval, self.accuracy_interval, self.macro_f1_interval)[metric]


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

    @property
    def points_by_name(self) -> dict[str, Estimate]:
        """The differences in all metrics that were compared."""
        return _by_name(self.score_points, self.accuracy_points, self.macro_f1_points)

    def points(self, metric: str) -> Estimate:
        """The difference in a metric of the task by name, such as its primary one.

        Raises:
            KeyError: it was not compared.
        """
        return self.points_by_name[metric]


class Agreement(Part):
    """How often a model predicts what the teacher predicts: the top class, on all rows and where the teacher errs.

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
    margin: Estimate | None = None
    """The primary metric of the model whose labels these are, minus the floor's, in points."""

    @property
    def scores_by_name(self) -> dict[str, float]:
        """All metrics that were measured of it."""
        return _by_name(self.scores, self.accuracy, self.macro_f1)

    def score(self, metric: str) -> float:
        """A metric of the task by name, such as its primary one.

        Raises:
            KeyError: it was not measured.
        """
        return self.scores_by_name[metric]


class Reference(Part):
    """Something simple that a teacher must be better than to be worth following, on the same test rows."""

    name: str
    metric: str
    value: float
    teacher: float
    margin: Estimate | None
    """How much better the teacher is, in points; of perplexity in nats a token, by their cross-entropies."""


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
    """The queries: rows that are timed one by one, or prompts."""
    rounds: int
    warmup: int
    batch_size_throughput: int
    queries_of_a_length: str | None = Field(default=None, exclude_if=lambda made: made is None)
    """How queries of so many tokens were made, where the recipe names some lengths."""
    energy: str | None = Field(default=None, exclude_if=lambda energy: energy is None)
    """How energy was measured, or why it was not."""


class EvaluateRecord(Record):
    """Teacher, student and baseline side by side."""

    primary_metric: str
    test_rows: int
    models: dict[str, ModelEvaluation]
    retention: Estimate
    drop_points: Estimate
    speedup: float
    """In float32, all of them."""
    throughput_ratio: float
    size_ratio: float
    """Each in the type that it is served in."""
    speedup_in_own_types: float | None = None
    """Each in the type that it is served in, where one is served in another than float32."""
    size_ratio_in_float32: float | None = None
    gain_over_baseline_points: Estimate | None
    agreement: dict[str, Agreement]
    comparisons: list[Comparison]
    floors: dict[str, Floor]
    floors_missing: dict[str, str] = Field(default_factory=dict)
    """Why one could not be fitted, by its name."""
    references: list[Reference] = Field(default_factory=list)
    """What the teacher must be better than; empty in records from before there were any."""
    classes: list[ClassRow]
    disagreements: list[Disagreement]
    measurement: Measurement
    findings: list[str]
    test_tokens: int | None = None
    tokens_without_answer: int | None = Field(default=None, exclude_if=lambda count: count is None)
    """Of a student with other tokens than its teacher: how many of its tokens are left out, since the teacher says
    nothing of them."""
    learnt_from: Literal["given", "generated"] = "given"
    """Of a language model: who wrote the responses that student and baseline learnt."""
    kl_gain_over_baseline: Estimate | None = None
    """KL from the teacher in nats a token, the baseline's minus the student's."""
    loss_gain_over_baseline: Estimate | None = None
    """Cross-entropy of the true responses in nats a token, the baseline's minus the student's."""
    initial_kl_mean: float | None = None
    """KL from the teacher to the student before its training."""
    kl_gain_over_start: Estimate | None = None
    """How much nearer the student came, in nats a token."""
    generations: list[Generation] = Field(default_factory=list)
    written_prompts: int | None = Field(default=None, exclude_if=lambda count: count is None)
    """Of a language model: after how many prompts it was measured what the models write."""
    judgement: WritingJudgement | None = Field(default=None, exclude_if=lambda judgement: judgement is None)
    """Of what they write there, where the recipe names a judge."""
    harness: HarnessRecord | None = Field(default=None, exclude_if=lambda harness: harness is None)
    """In tasks of lm-evaluation-harness, where the recipe names some."""
    test_words: int | None = None
    """Of token classification: the words that are classified one by one."""
    problem_type: ProblemTypeName = "single_label_classification"
    """Of text classification: whether a text has one class, any number of labels, or a number."""
    calibration: dict[str, CalibrationRecord] = Field(default_factory=dict)
    """Of each model that gives probabilities of classes."""
    slices: list[SliceRow] = Field(default_factory=list)
    """The worst first: by the lower end of the drop's interval, small ones after all others."""
    regressions: RegressionsRecord | None = None
    """None where no row is right or wrong as a whole."""
    robustness: Robustness | None = None
    """On changed texts, where the recipe asks for it."""
    out_of_domain: OutOfDomain | None = None
    """On texts of another kind, where the recipe names some."""
    token_robustness: TokenRobustness | None = Field(default=None, exclude_if=lambda found: found is None)
    """Of language models: after changed prompts, and on queries that nobody can answer."""
    token_out_of_domain: TokenOutOfDomain | None = Field(default=None, exclude_if=lambda found: found is None)
    """Of language models: on texts of another kind."""

    def primary(self, model: str) -> Estimate:
        """What this task judges a model by."""
        return self.models[model].score(self.primary_metric)

    @property
    def answers(self) -> AnswerKind:
        """What the models answer with, found out from what they are judged by.

        Raises:
            KeyError: no kind of answers is judged by it.
        """
        return _JUDGED_BY[self.primary_metric]

    def tail_ms(self, model: str, percentile: Literal[95, 99]) -> float | None:
        """A high percentile of a model's latency; None where too few queries stand behind it."""
        if self.measurement.rows < QUERIES_OF_A_PERCENTILE[percentile]:
            return None
        found = self.models[model]
        return found.latency_p95_ms if percentile == 95 else found.latency_p99_ms
