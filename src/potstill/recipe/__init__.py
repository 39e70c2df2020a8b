"""The whole recipe: it only composes the components' own settings."""

from typing import Any

from pydantic import Field, model_validator

from potstill.data.prepare import DataSettings
from potstill.divergences import GaussianDivergence
from potstill.exporters import AnyExporter, Safetensors
from potstill.labels import AskedEncoding, Auto, Dense, Hidden, LowRank, Sampled
from potstill.losses import AnyLoss, HardLabels, SoftTargets, name_of
from potstill.recipe.stage_settings import (
    AdaptSettings,
    EvaluateSettings,
    GateSettings,
    LabelSettings,
    OptimiserSettings,
    TrainSettings,
)
from potstill.schedules import Constant, Schedule
from potstill.settings import Settings
from potstill.signals import Signal
from potstill.students import AnyStudent, Shrunk, TrimmedVocabulary
from potstill.tasks import AnyTask, TextClassification, TokenClassification
from potstill.teachers import (
    AnyTeacher,
    BornAgainTeacher,
    CheckpointTeacher,
    Mixture,
    MovingAverageTeacher,
    PretrainedTeacher,
    Routed,
    lead_of,
)
from potstill.teachers.responses import Generated

__all__ = [
    "AdaptSettings",
    "EvaluateSettings",
    "GateSettings",
    "LabelSettings",
    "OptimiserSettings",
    "Recipe",
    "TrainSettings",
]


class Recipe(Settings):
    """From a teacher and data to a student with a verdict."""

    task: AnyTask
    data: DataSettings
    teacher: AnyTeacher
    adapt: AdaptSettings | None = None
    """Fine-tune the teacher first; without it the teacher must bring a head for the classes of the data."""
    label: LabelSettings = LabelSettings()
    student: AnyStudent = Shrunk()
    losses: tuple[AnyLoss, ...] = Field(default=(SoftTargets(), HardLabels()), min_length=1)
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: GateSettings = GateSettings()
    export: tuple[AnyExporter, ...] = (Safetensors(),)
    seed: int = Field(default=0, ge=0)
    """Decides initial weights, order of rows and dropout."""

    @model_validator(mode="before")
    @classmethod
    def _language_models_match_the_distribution(cls, values: Any) -> Any:
        """Unless the recipe says otherwise: softening loses more than it teaches where the tail is nearly all.

        So also in a list of losses: one of soft targets that says no temperature has 1.
        """
        task = values.get("task") if isinstance(values, dict) else None
        if not (isinstance(task, dict) and task.get("kind") in ("causal_lm", "seq2seq")):
            return values
        if "losses" not in values:
            train = values.get("train")
            mixed = isinstance(train, dict) and train.get("alpha") is not None
            soft: dict[str, Any] = {"kind": "soft_targets", "temperature": 1.0} | ({} if mixed else {"weight": 1.0})
            return values | {"losses": [soft, {"kind": "hard_labels"}] if mixed else [soft]}
        if isinstance(values["losses"], list | tuple):
            return values | {"losses": [_at_temperature_1(loss) for loss in values["losses"]]}
        return values

    @model_validator(mode="after")
    def _the_encoding_fits_the_task(self) -> "Recipe":
        dense = isinstance(self.encoding, Dense)
        if dense == self.task.generative:
            wanted = "auto, low_rank, hidden, top_k or sampled" if dense else "dense"
            raise ValueError(f"label.encoding: {self.encoding.kind} does not fit {self.task.kind}; use {wanted}.")
        return self

    @model_validator(mode="after")
    def _only_language_models_write(self) -> "Recipe":
        if self.generates_responses and not self.task.generative:
            raise ValueError(f"label.responses: generated does not fit {self.task.kind}; use given.")
        return self

    @model_validator(mode="after")
    def _stored_features_go_with_stored_labels(self) -> "Recipe":
        if self.label.mode == "online" and self.label.features == "stored":
            raise ValueError(
                "label.features: stored, while label.mode is online: the teacher runs in each step anyway."
            )
        return self

    @model_validator(mode="after")
    def _the_grid_covers_the_losses(self) -> "Recipe":
        if isinstance(self.encoding, Dense) or self.label.mode == "online":
            return self
        low, high = self.temperatures_used
        grid = self.label.temperatures
        if list(grid) != sorted(set(grid)):
            raise ValueError("label.temperatures: expected ascending values, each once.")
        if not (grid[0] <= low and high <= grid[-1]):
            raise ValueError(
                f"losses: soft_targets uses temperatures from {low:g} to {high:g}, and label.temperatures reaches from "
                f"{grid[0]:g} to {grid[-1]:g}. Widen the grid, or change the schedule."
            )
        if isinstance(self.encoding, Auto) and self.label.max_kl is None:
            raise ValueError("label.encoding: auto chooses by label.max_kl, which is null. Set it.")
        if isinstance(self.encoding, Sampled) and (low, high) != (1, 1):
            raise ValueError("label.encoding: sampled serves temperature 1 alone, and the losses use another.")
        return self

    @model_validator(mode="after")
    def _the_teacher_fits_how_it_is_asked(self) -> "Recipe":
        moving, online = isinstance(self.teacher, MovingAverageTeacher), self.label.mode == "online"
        if moving and not online:
            raise ValueError("teacher: ema changes while it teaches, so it cannot be stored. Set label.mode: online.")
        if self.generates_responses and not isinstance(self.teacher, PretrainedTeacher | CheckpointTeacher):
            raise ValueError(
                f"label.responses: generated needs one teacher that writes, and teacher is {self.teacher.kind}."
            )
        return self

    @model_validator(mode="after")
    def _several_teachers_are_mixed_whole(self) -> "Recipe":
        whole = self.label.mode == "online" or isinstance(self.encoding, Dense | LowRank | Hidden)
        if self.ensemble and not whole:
            raise ValueError(
                f"label.encoding: {self.encoding.kind} holds no whole distributions, and those of several teachers are "
                "mixed. Use low_rank or hidden, or label.mode: online."
            )
        return self

    @model_validator(mode="after")
    def _a_trimmed_vocabulary_reads_as_the_teacher_does(self) -> "Recipe":
        vocabulary = self.student.vocabulary
        if not isinstance(vocabulary, TrimmedVocabulary):
            return self
        if self.task.generative:
            raise ValueError(
                f"student.vocabulary: trimmed does not fit {self.task.kind}, whose labels are over the whole "
                "vocabulary. Use full."
            )
        online = self.label.mode == "online" and not isinstance(self.teacher, MovingAverageTeacher)
        on_features = any(loss.reads() - {Signal.LOGITS} for loss in self.losses)
        in_windows = isinstance(self.task, TokenClassification)
        if vocabulary.min_count > 1 and (online or on_features or in_windows):
            what = "label.mode: online shows" if online else "losses on features compare"
            if in_windows:
                what = "windows are cut by the teacher's pieces, which compares"
            raise ValueError(
                f"student.vocabulary.min_count: {vocabulary.min_count} leaves out pieces of train, and {what} the "
                "teacher's pieces to the student's one by one. Set it to 1."
            )
        return self

    @model_validator(mode="after")
    def _numbers_are_gaussians(self) -> "Recipe":
        if not (isinstance(self.task, TextClassification) and self.task.problem_type == "regression"):
            return self
        for number, loss in enumerate(self.losses):
            if isinstance(loss, SoftTargets) and not isinstance(loss.divergence, GaussianDivergence):
                raise ValueError(
                    f"losses[{number}].divergence: {loss.divergence.kind} is of distributions over classes, and "
                    "task.problem_type is regression; use forward_kl or reverse_kl."
                )
            if isinstance(loss, HardLabels) and loss.label_smoothing:
                raise ValueError(
                    f"losses[{number}].label_smoothing: numbers have no other classes to share with. Drop it."
                )
        for name, trained in (("adapt", self.adapt), ("train", self.train)):
            if trained is not None and trained.select_by == "validation_accuracy":
                raise ValueError(f"{name}.select_by: of numbers none is right or wrong; use validation_loss.")
        if self.ensemble:
            raise ValueError(
                f"teacher: {self.teacher.kind} mixes distributions over classes, and task.problem_type is regression. "
                "Name one teacher."
            )
        if isinstance(self.encoding, Dense) and self.encoding.dtype == "float16":
            raise ValueError("label.encoding: float16 rounds numbers far from zero to a few; use float32.")
        if self.gate.min_agreement is not None:
            raise ValueError("gate.min_agreement: numbers that are near each other do not agree. Drop it.")
        return self

    @property
    def ensemble(self) -> Mixture | Routed | None:
        """The settings of several teachers, where there are several."""
        return self.teacher if isinstance(self.teacher, Mixture | Routed) else None

    @property
    def lead(self) -> PretrainedTeacher:
        """The model whose family, tokenizer and first weights the student takes."""
        return lead_of(self.teacher)

    @property
    def teacher_title(self) -> str:
        """Who teaches, in a few words."""
        return self.lead.model if self.ensemble is None else " and ".join(self.ensemble.of)

    @property
    def generations(self) -> int:
        """How many students are trained one after the other, each by the one before."""
        return self.teacher.generations if isinstance(self.teacher, BornAgainTeacher) else 1

    @property
    def generates_responses(self) -> bool:
        """Whether the teacher writes what the student learns."""
        return isinstance(self.label.responses, Generated)

    @property
    def reads_distributions(self) -> bool:
        """Whether training asks for the teacher's distributions: for a loss, or to compare checkpoints by them."""
        return self.task.generative or any(Signal.LOGITS in loss.reads() for loss in self.losses)

    @property
    def encoding(self) -> AskedEncoding:
        """How soft labels are stored."""
        if self.label.encoding is not None:
            return self.label.encoding
        return LowRank() if self.task.generative else Dense()

    @property
    def temperatures_used(self) -> tuple[float, float]:
        """The lowest and the highest temperature of the soft losses, and 1, at which checkpoints are compared."""
        used = [1.0]
        for loss in self.losses:
            if isinstance(loss, SoftTargets):
                used.extend(loss.temperature.values())
        return min(used), max(used)

    @model_validator(mode="after")
    def _one_loss_of_a_kind(self) -> "Recipe":
        names = [name_of(loss) for loss in self.losses]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"losses: {twice[0]} is listed twice; give each kind once, with its weight.")
        return self

    @model_validator(mode="after")
    def _alpha_and_weights_exclude_each_other(self) -> "Recipe":
        if self.train.alpha is not None:
            for number, loss in enumerate(self.losses):
                if "weight" in loss.model_fields_set and loss.kind in ("soft_targets", "hard_labels"):
                    raise ValueError(
                        f"train.alpha and losses[{number}].weight both set the weight of {loss.kind}. Drop one."
                    )
        return self

    @model_validator(mode="after")
    def _alpha_weighs_soft_against_hard(self) -> "Recipe":
        kinds = sorted(loss.kind for loss in self.losses)
        if self.train.alpha is not None and not {"hard_labels", "soft_targets"} <= set(kinds):
            raise ValueError(
                f"train.alpha weighs soft_targets against hard_labels, and losses lists {', '.join(kinds)}. "
                "Give each loss its weight instead."
            )
        return self

    @model_validator(mode="after")
    def _weights_stay_between_0_and_1(self) -> "Recipe":
        if self.train.alpha is not None and not all(0 <= value <= 1 for value in self.train.alpha.values()):
            raise ValueError("train.alpha: expected values from 0 (hard labels alone) to 1 (teacher alone).")
        return self

    def weighted_losses(self) -> tuple[AnyLoss, ...]:
        """The losses with `train.alpha` written into their weights, where the recipe uses it."""
        alpha = self.train.alpha
        if alpha is None:
            return self.losses
        shares: dict[str, Schedule] = {"soft_targets": alpha, "hard_labels": _one_minus(alpha)}
        return tuple(
            loss.model_copy(update={"weight": shares[loss.kind]}) if loss.kind in shares else loss
            for loss in self.losses
        )


def _at_temperature_1(loss: Any) -> Any:
    """A loss as the recipe gives it; of soft targets with temperature 1, if it gives none."""
    if isinstance(loss, dict) and loss.get("kind") == "soft_targets":
        return {"temperature": 1.0} | loss
    return loss


def _one_minus(schedule: Schedule) -> Schedule:
    if isinstance(schedule, Constant):
        return Constant(value=1 - schedule.value)
    return schedule.model_copy(update={"start": 1 - schedule.start, "end": 1 - schedule.end})
