"""What each stage can be told."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from potstill.capabilities import Capability, Facts, missing
from potstill.labels import AskedEncoding
from potstill.lora import LoraSettings
from potstill.perturbations.settings import BUILT_IN, RobustnessSettings
from potstill.perturbations.words import OF_WORDS
from potstill.recipe.expense_settings import ExpenseSettings
from potstill.recipe.harness_settings import HarnessSettings
from potstill.recipe.writing_judges import AnyWritingJudge, ServerJudge
from potstill.schedules import Schedule
from potstill.settings import Settings
from potstill.signals import Signal
from potstill.teachers.responses import AnyResponses, Given

Positive = Annotated[float, Field(gt=0)]
FieldName = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "float32", "bfloat16"]


Share = Annotated[float, Field(ge=0, lt=1)]
States = Literal["float32", "bfloat16", "8bit"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
_MAPS = frozenset(Signal) - {Signal.LOGITS, Signal.HIDDEN_STATES}


class AdamWSettings(Settings):
    """What AdamW is told beside its rate, and how it holds its moments."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    """How much of each moment is left after a step; those of Adam (arXiv:1412.6980), as torch has them."""
    eps: Positive = 1e-8
    """What is added to the root of the second moment; likewise."""
    states: States = "float32"
    """How the two moments are held between steps: in eight bytes a trained parameter (float32), four (bfloat16) or two
    (8bit). Steps are computed in float32. bfloat16: moments are rounded at random in proportion (arXiv:2010.06192),
    for the nearest number would mostly be the old one. 8bit: block by block (arXiv:2110.02861), those of embeddings in
    float32; needs the extra `large`."""


class OptimiserSettings(Settings):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with warm-up, then decay to zero."""

    epochs: Positive = 3
    """Passes over the training rows; fractions allowed."""
    batch_size: Count = 32
    """Rows of an optimiser step, over all accumulation and all processes."""
    micro_batch_size: Count | None = None
    """Rows of a forward pass; smaller than batch_size accumulates gradients and changes only memory."""
    learning_rate: Positive = 5e-5
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises from zero; a tenth is BERT's (arXiv:1810.04805)."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(default=0.01, ge=0)
    """Not on biases and layer norms (arXiv:1810.04805)."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient."""
    evaluate_every: Count | None = None
    """Optimiser steps between evaluations, each with a checkpoint; by default one epoch. The baseline is evaluated at
    the same steps as the student, whose epochs are longer where rows are unlabelled."""
    select_by: Literal["validation_loss", "validation_accuracy"] = "validation_loss"
    """What makes a checkpoint the best; between equal accuracies the lower loss."""
    patience: Count | None = None
    """Stop after so many evaluations without a better checkpoint; by default never."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept beside the best one, until the stage is done."""
    precision: Precision = "auto"
    """auto: bfloat16 where the accelerator has it, else float32."""
    lora: LoraSettings | None = Field(default=None, exclude_if=lambda lora: lora is None)
    """Train narrow matrices beside the weights in place of the weights, which takes a fraction of the memory. Asks for
    a learning rate about ten times as high."""
    optimizer: AdamWSettings = Field(default=AdamWSettings(), exclude_if=lambda optimizer: optimizer == AdamWSettings())
    """AdamW's own settings beside the rate, among them how its moments are held, which is where memory goes."""
    compiled: bool = False
    """Compile the passes of a language model's loss: about a fifth less time in the loss, after half a minute."""
    gradient_checkpointing: bool = Field(default=False, exclude_if=lambda asked: not asked)
    """Keep of each layer only what goes into it, and compute the rest again in the backward pass (arXiv:1604.06174):
    far less memory for about a third more time. The gradients are the same."""
    attention: Attention = Field(default="auto", exclude_if=lambda asked: asked == "auto")
    """What computes the attention of the trained model. auto: what transformers takes, which is sdpa where the family
    has it, else eager."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.means and self.select_by == "validation_accuracy":
            yield f"{where}.select_by: of numbers none is right or wrong; use validation_loss."
        if self.attention == "flash_attention_2" and facts.packing:
            yield (
                f"{where}.attention: flash_attention_2 lets examples that share a row see each other. Set "
                "task.packing: false, or use sdpa."
            )
        if self.attention == "flash_attention_2" and self.precision == "float32":
            yield f"{where}.attention: flash_attention_2 does not compute in float32. Set {where}.precision: bfloat16."


class AdaptSettings(OptimiserSettings):
    """Adapt the teacher to the labelled rows first ("teacher correction", Minitron, arXiv:2408.11796)."""

    epochs: Positive = 4
    batch_size: Count = 16
    learning_rate: Positive = 2e-4
    """For small encoders; 2e-5 to 5e-5 from 100 M parameters on."""
    frozen_layers: int = Field(default=0, ge=0)
    """Lowest layers kept as they are, with the embeddings. What they compute is computed once and kept in
    memory, so a pass costs only the layers above."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from super().refusals(where, facts)
        yield from missing(where, Capability.WEIGHTS, facts)
        if self.frozen_layers and not facts.freezes_layers:
            yield f"{where}.frozen_layers: not for {facts.task} yet. Set it to 0."


class LabelSettings(Settings):
    """One pass of the frozen teacher over all rows that the student is trained on."""

    mode: Literal["stored", "online"] = "stored"
    """stored: the teacher's distributions are stored in one pass, and training reads them, as often as it likes.
    online: the teacher answers in each step of training, and nothing is stored."""
    features: Literal["online", "stored"] = "online"
    """Where the teacher's hidden states, attention maps and relations come from, if losses read them. online: the
    teacher also runs in each step of training. stored: hidden states are stored in the labelling pass, in two bytes a
    channel for each layer and token; maps are not."""
    responses: AnyResponses = Given()
    """For language models: what the student learns to write, and the teacher is asked about."""
    encoding: AskedEncoding | None = None
    """By default all logits of a row for classification, and low_rank for language models."""
    batch_size: Count = 64
    batches_per_shard: Count = 16
    """A killed labelling job loses at most one shard."""
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """The grid that a compressed encoding must serve; dense labels serve every temperature."""
    max_kl: Positive | None = 0.25
    """For language models: the KL in nats from the teacher to its stored labels that labelling accepts, at every
    temperature that the losses use. A student that learnt the labels perfectly would still be that far away. Sampled
    labels are no distribution and are not judged. Null accepts any error."""
    fit_positions: Count = 3000
    """Positions that an encoding is fitted on, and a third as many on which its error is measured."""
    precision: Precision = "auto"

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if self.mode == "online" and self.features == "stored":
            yield f"{where}.features: stored, while {where}.mode is online: the teacher runs in each step anyway."


class TrainSettings(OptimiserSettings):
    """The student, and beside it the baseline."""

    epochs: float = Field(default=10, ge=0)
    """Passes over the rows. None leaves the student as it begins: one that exists already, or a copy of its teacher,
    that is only to be trained for the rounding of what it is exported as."""
    learning_rate: Positive = 5e-4
    """A narrow student takes a higher rate than its teacher."""
    alpha: Schedule | None = None
    """Weight of the soft loss, 1 - alpha of the hard one: in place of weights in `losses`."""
    baseline: bool = True
    """Train the same student on hard labels alone for as many steps: what distilling must beat. Its checkpoint is
    the one with the highest validation accuracy, whatever select_by says."""
    snapshots: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Shares of the steps after which the student is also kept as it is then, for a teacher of kind checkpoint."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Beside metrics.jsonl, which is always written. Each is an extra of the package."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from super().refusals(where, facts)
        if self.epochs == 0 and self.baseline:
            yield f"{where}.baseline: in 0 epochs it would stay as it begins, as the student does. Set it to false."
        if self.epochs == 0 and self.snapshots:
            yield f"{where}.snapshots: in 0 epochs the student stays as it begins. Leave them out."
        if self.epochs == 0 and facts.rounds > 1:
            yield f"{where}.epochs: in 0 epochs all {facts.rounds} generations would stay as they begin. Raise it."
        if self.attention in ("eager", "flash_attention_2") and facts.reads & _MAPS:
            yield (
                f"{where}.attention: losses read attention maps or relations, which are taken beside sdpa and not "
                f"beside {self.attention}. Set it to auto, or leave these losses out."
            )


class EvaluateSettings(Settings):
    """How quality, speed and memory are measured, for all models alike."""

    threads: Count = 1
    """Threads of the measured process. One is how small models are served: a process for each core."""
    latency_rows: Count = 200
    """Test rows timed one by one in each round. The 95th percentile is shown from 100 on, the 99th from 662."""
    rounds: Count = 3
    """Fresh processes for each model, alternated, of which the fastest counts. More make the figures surer on a machine
    that others use too."""
    warmup: Count = 20
    batch_size: Count = 32
    """Batch size of the throughput measurement."""
    batch_sizes: tuple[Count, ...] = Field(default=(), exclude_if=lambda sizes: not sizes)
    """Batch sizes at which speed is measured besides, such as [1, 8, 32]; a row of the report for each. None, since
    each takes time, and gates go by one figure. Language models answer one prompt after the other."""
    lengths: tuple[Count, ...] = Field(default=(), exclude_if=lambda lengths: not lengths)
    """Lengths of queries at which speed is measured besides, such as [32, 128]: tokens of a text, with those that stand
    around it, or of a prompt; at each of `batch_sizes`, or else one by one. Queries of a length are made of test rows,
    cut or joined end to end. None: they are as long as the test rows."""
    prompts: Count = 16
    """Prompts of test rows after which a language model's speed is measured. Each is one query of a percentile."""
    new_tokens: Count = 32
    """Tokens that a language model writes after each prompt, where its speed is measured."""
    generations: int = Field(default=8, ge=0)
    """Prompts whose responses by all models the report shows, at most `generation_tokens` long."""
    written: int = Field(default=32, ge=0)
    """Prompts, those that are shown first, after which it is measured whether a language model repeats itself and comes
    to an end. Of 32, a difference of 0.25 in a share leaves out zero, whatever the share; 0 measures nothing."""
    generation_tokens: Count = 64
    """The most that a language model writes after each of these prompts."""
    judge: AnyWritingJudge | None = Field(default=None, exclude_if=lambda judge: judge is None)
    """Who says of what language models write after the `written` prompts whether it is right, or as good as what the
    teacher writes. null: nobody."""
    floor: bool = True
    """Fit TF-IDF with logistic regression on the labelled rows, as the floor. A teacher that is not above it fails the
    gate."""
    sample_disagreements: int = Field(default=20, ge=0)
    sample_regressions: int = Field(default=50, ge=0)
    """Test rows that the report lists of those which the teacher has right and the student wrong: about as many as
    somebody reads."""
    expenses: ExpenseSettings | None = Field(default=None, exclude_if=lambda expenses: expenses is None)
    """What an hour costs in money or in power, from which a thousand requests are estimated."""
    slices: tuple[FieldName, ...] = ()
    """Fields of rows by whose values the test rows are told apart, such as `domain`, beside their class and length."""
    harness: HarnessSettings | None = Field(default=None, exclude_if=lambda harness: harness is None)
    """Of decoders alone: tasks of lm-evaluation-harness that all models are put to. null: none."""
    robustness: RobustnessSettings | None = None
    """Of classes, tags and language models: how models answer where texts, or prompts, are changed. null, for it asks
    each model about thousands of texts."""
    out_of_domain: str | None = None
    """Of classes, tags and language models: rows of texts of another kind than the data, as `data.test` names its own.
    How well classifiers tell them from the test rows, for which labels are not read; or how well language models
    foretell their responses. Without any, nothing is measured of it."""

    @property
    def kept_fields(self) -> tuple[str, ...]:
        """The fields that are kept beside the rows: what models read does not depend on them."""
        judge = self.judge
        answer = None if judge is None or isinstance(judge, ServerJudge) else judge.answer
        return self.slices if answer is None or answer in self.slices else (*self.slices, answer)

    @field_validator("slices", "batch_sizes", "lengths")
    @classmethod
    def _each_once(cls, named: tuple[FieldName | int, ...]) -> tuple[FieldName | int, ...]:
        if twice := sorted({each for each in named if named.count(each) > 1}):
            raise ValueError(f"{twice[0]} is listed twice; name each once.")
        return named

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if facts.means and self.slices:
            yield f"{where}.slices: numbers are near or far, and never right, so no slice has a share of them. Drop it."
        if self.batch_sizes and facts.generative:
            yield (
                f"{where}.batch_sizes: models of {facts.task} are timed one prompt after the other, never in batches. "
                f"Drop it; {where}.lengths are for them."
            )
        if self.judge is not None and not facts.generative:
            yield f"{where}.judge: judges what language models write, and {facts.task} writes nothing. Drop it."
        elif self.judge is not None and not self.written:
            yield f"{where}.judge: judges what is written after {where}.written prompts, and it is 0. Raise it."
        if self.harness is not None and facts.task != "causal_lm":
            yield f"{where}.harness: its tasks are for task.kind: causal_lm, and this one is {facts.task}. Drop it."
        if self.harness is not None and facts.teacher in ("mixture", "routed"):
            yield f"{where}.harness: asks one model, and teacher.kind: {facts.teacher} is several. Drop it."
        for name in ("robustness", "out_of_domain"):
            if getattr(self, name) is not None and facts.means:
                yield (
                    f"{where}.{name}: measured where a text has one class or several labels, where words have tags, "
                    "and where models write; of numbers it is not. Drop it."
                )
        if self.robustness is not None:
            yield from self._refusals_of_robustness(f"{where}.robustness", self.robustness, facts)

    def _refusals_of_robustness(self, where: str, settings: RobustnessSettings, facts: Facts) -> Iterator[str]:
        if settings.attacks and (facts.generative or facts.windows):
            yield f"{where}.attacks: classifiers of texts are attacked, for they can be made wrong. Set it to 0."
        if facts.windows:
            for name in settings.perturbations:
                if name not in OF_WORDS:
                    yield (
                        f"{where}.perturbations: {name} changes what stands between words, and here words are given "
                        f"one by one. Leave it out; there are {', '.join(OF_WORDS)}."
                    )
        if settings.unanswerable not in (None, BUILT_IN) and facts.task != "causal_lm":
            yield (
                f"{where}.unanswerable: queries are put to chat models (task.kind: causal_lm), and this is "
                f"{facts.task}. Drop it."
            )
