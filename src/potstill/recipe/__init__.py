"""The whole recipe: it only composes the components' own settings."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from potstill.capabilities import Facts, Part, missing_of_layers
from potstill.data.prepare import DataSettings
from potstill.exporters import AnyExporter, Safetensors
from potstill.labels import AskedEncoding, Dense, LowRank
from potstill.losses import AnyLoss, HardLabels, SoftTargets, name_of
from potstill.recipe.card_settings import CardSettings
from potstill.recipe.gate_settings import GateSettings
from potstill.recipe.stage_settings import (
    AdamWSettings,
    AdaptSettings,
    EvaluateSettings,
    LabelSettings,
    OptimiserSettings,
    TrainSettings,
)
from potstill.schedules import Constant, Schedule
from potstill.settings import Settings
from potstill.signals import Signal
from potstill.students import AnyStudent, Shrunk
from potstill.tasks import AnyTask, task_named
from potstill.tasks.loss_defaults import with_defaults
from potstill.teachers import AnyTeacher, PretrainedTeacher, lead_of

__all__ = [
    "AdamWSettings",
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
    card: CardSettings = Field(default=CardSettings(), exclude_if=lambda card: card == CardSettings())
    seed: int = Field(default=0, ge=0)
    """Decides initial weights, order of rows and dropout."""

    @model_validator(mode="before")
    @classmethod
    def _losses_have_the_defaults_of_the_task(cls, values: Any) -> Any:
        task = task_named(values.get("task")) if isinstance(values, dict) else None
        given = isinstance(values, dict) and "losses" in values
        if task is None or (values["losses"] is None if given else not task.loss_defaults):
            return values
        train = values.get("train")
        mixed = isinstance(train, dict) and train.get("alpha") is not None
        losses = with_defaults(values.get("losses"), task.loss_defaults, task.default_losses, mixed=mixed)
        return values | {"losses": losses}

    @model_validator(mode="before")
    @classmethod
    def _robustness_has_the_defaults_of_the_task(cls, values: Any) -> Any:
        task = task_named(values.get("task")) if isinstance(values, dict) else None
        evaluate = values.get("evaluate") if isinstance(values, dict) else None
        given = evaluate.get("robustness") if isinstance(evaluate, dict) else None
        if task is None or not isinstance(evaluate, dict) or not isinstance(given, dict):
            return values
        return values | {"evaluate": {**evaluate, "robustness": {**task.robustness_defaults, **given}}}

    @model_validator(mode="after")
    def _each_part_has_what_it_needs_of_the_others(self) -> "Recipe":
        facts = self.facts
        refusals = [line for where, part in self._parts() for line in part.refusals(where, facts)]
        for number, loss in enumerate(self.losses):
            if loss.reads() - {Signal.LOGITS}:
                refusals.extend(missing_of_layers(f"losses[{number}]: {loss.kind}", facts))
        if refusals:
            raise ValueError("\n  ".join(refusals))
        return self

    def _parts(self) -> Iterator[tuple[str, Part]]:
        """Every part that needs something of the others, with the key at which it stands."""
        found: dict[str, object] = {
            "label.encoding": self.encoding,
            "label.responses": self.label.responses,
            "label": self.label,
            "teacher": self.teacher,
            "student": self.student,
            "student.init": getattr(self.student, "init", None),
            "student.vocabulary": self.student.vocabulary,
            **{f"losses[{number}]": loss for number, loss in enumerate(self.losses)},
            "adapt": self.adapt,
            "train": self.train,
            "evaluate": self.evaluate,
            "gate": self.gate,
            **{f"export[{number}]": exporter for number, exporter in enumerate(self.export)},
        }
        yield from ((where, part) for where, part in found.items() if isinstance(part, Part))

    @property
    def facts(self) -> Facts:
        """What the parts say of themselves."""
        return Facts(
            task=self.task.kind,
            generative=self.task.generative,
            answers=self.task.answers,
            means=self.task.means,
            windows=self.task.windows,
            packing=self.task.packing,
            freezes_layers=self.task.freezes_layers,
            teacher=self.teacher.kind,
            rounds=self.rounds,
            gives=self.teacher.gives,
            own_ids=self.teacher.own_ids,
            online=self.label.mode == "online",
            encoding=self.encoding.kind,
            whole=self.encoding.whole,
            reads=frozenset(signal for loss in self.losses for signal in loss.reads()),
            temperatures=self.temperatures_used,
            grid=self.label.temperatures,
            bounded=self.label.max_kl is not None,
        )

    @property
    def lead(self) -> PretrainedTeacher:
        """The model whose family, tokenizer and first weights the student takes."""
        return lead_of(self.teacher)

    @property
    def rounds(self) -> int:
        """How many students are trained one after the other, each by the one before."""
        return self.teacher.rounds

    @property
    def generates_responses(self) -> bool:
        """Whether the teacher writes what the student learns."""
        return self.label.responses.writes

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
        used = [1.0, *(value for loss in self.losses for value in getattr(loss, "temperatures", ()))]
        return min(used), max(used)

    @model_validator(mode="after")
    def _one_loss_of_a_kind(self) -> "Recipe":
        names = [name_of(loss) for loss in self.losses]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"losses: {twice[0]} is listed twice; give each kind once, with its weight.")
        return self

    @model_validator(mode="after")
    def _one_exporter_of_a_kind(self) -> "Recipe":
        names = [exporter.name for exporter in self.export]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"export: {twice[0]} is listed twice, and would write its folder twice; drop one.")
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

    @model_validator(mode="after")
    def _some_loss_has_weight(self) -> "Recipe":
        if not any(value for loss in self.weighted_losses() for value in loss.weight.values()):
            raise ValueError("losses: every weight is 0 all through training. Give a loss a weight above 0.")
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


def _one_minus(schedule: Schedule) -> Schedule:
    if isinstance(schedule, Constant):
        return Constant(value=1 - schedule.value)
    return schedule.model_copy(update={"start": 1 - schedule.start, "end": 1 - schedule.end})
