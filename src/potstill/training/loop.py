"""The training loop: frozen teacher, student, mixed loss, one step at a time, resumable at any of them.

What a step sees is a function of (seed, step) alone, and its gradient of the rows alone: sums over the step's
rows, divided once by their number, whether they came in one forward pass or in many, on one process or several.
Where batches come from is in `batches.py`; how processes share the work is in `engine.py`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill import stopping
from potstill.data.batches import batches_by_length
from potstill.data.encoded import BatchSource
from potstill.errors import TrainingError
from potstill.features import capture_features, features_at
from potstill.losses import LossSums, MixedLoss
from potstill.progress import Progress
from potstill.recipe import OptimiserSettings
from potstill.run_dir import SCRATCH
from potstill.schedules import learning_rate_factor
from potstill.signals import Ask, Batch, MovingTeacher, Signals, Teacher
from potstill.training.ahead import made_ahead
from potstill.training.batches import StepBatches, collate_or_masked
from potstill.training.checkpoints import Progressed, read_weights
from potstill.training.costs import StepClock, counted, counts_rows, forget_peak
from potstill.training.engine import Engine
from potstill.training.metrics import METRICS, MetricsFile, Tracker
from potstill.training.optimisers import make_optimiser
from potstill.training.passes import passes_of
from potstill.training.saving import resume, saving

LAST_BITS = ("micro_batch_size", "keep_checkpoints", "compiled", "gradient_checkpointing", "attention")
"""Settings that leave a training the same rows and steps; a checkpoint that was written under others serves."""


def no_teacher(batch: Batch) -> Signals:
    """The teacher of a training on hard labels alone."""
    return Signals()


@dataclass(frozen=True)
class Job:
    """What is trained on what; adapt, train and baseline differ only here."""

    name: str
    model: PreTrainedModel
    batches: StepBatches
    validation: BatchSource
    ask: Ask
    loss: MixedLoss
    teacher: Teacher
    criterion: MixedLoss
    """What is compared between checkpoints: its settings must not change over training."""
    total_steps: int
    seed: int
    settings: OptimiserSettings
    validation_teacher: Teacher = no_teacher
    """Speaks of the validation rows, for a criterion that needs it."""
    trackers: Sequence[Tracker] = ()
    at_step: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    """What else is done after a step; every process does it, and again where a job goes on from before it."""


class ModelWithLoss(nn.Module):
    """Model and loss in one forward, so that engines which shard or reduce see all of it."""

    def __init__(self, model: PreTrainedModel, ask: Ask, loss: MixedLoss, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model = model
        self.ask = ask
        self.loss = loss
        # One that moves is kept in the checkpoints, though nothing of it is trained.
        self.moving = teacher if isinstance(teacher, nn.Module) else None

    @property
    def still(self) -> frozenset[str]:
        """Parameters that no step changes: the frozen ones of the model, also where its moving average shares them."""
        frozen = {id(parameter) for parameter in self.model.parameters() if not parameter.requires_grad}
        named = self.named_parameters(remove_duplicate=False)
        return frozenset(name for name, parameter in named if id(parameter) in frozen)

    def forward(self, batch: Batch, teacher: Signals, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        with capture_features(self.model, self.loss.student_reads) as captured:
            outputs = self.ask(self.model, batch)
        outputs = replace(outputs, features=features_at(captured, batch))
        sums: LossSums = self.loss(outputs, teacher, batch, progress=progress)
        return sums.total, sums.parts


def fit(job: Job, folder: Path, engine: Engine, progress: Progress) -> Progressed:
    """Train `job.model` in place and leave in it the weights of its best checkpoint.

    `folder` holds metrics.jsonl and, in `scratch/`, the checkpoints from which a broken job goes on.

    Raises:
        TrainingError: the loss is not finite; nothing of that step was applied.
        Stopped: a signal arrived; a checkpoint was written first.
    """
    settings, checkpoints = job.settings, folder / SCRATCH / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(job.seed + engine.rank)
    # Losses on features leave out what lies behind them, such as the head.
    reached = job.loss.reads_outputs
    module = engine.wrap(ModelWithLoss(job.model, job.ask, job.loss, job.teacher), all_reached=reached)
    optimiser = make_optimiser(module, settings, job.seed)
    forget_peak(engine.device)
    evaluate_every = settings.evaluate_every or job.batches.steps_per_epoch
    done = resume(checkpoints, module, optimiser, engine, progress, job.name)
    # A validation of no step, of which nothing was saved, is made and written down again.
    anew = done == Progressed()
    written = -1 if anew else done.step
    with ExitStack() as stack:
        metrics = stack.enter_context(MetricsFile(folder / METRICS, written)) if engine.is_main else None
        advance = stack.enter_context(progress.task(job.name, job.total_steps, "steps"))
        stack.enter_context(stopping.deferred())
        stack.enter_context(passes_of(job.model, settings))
        job = replace(job, batches=stack.enter_context(batches_of(job, engine)))
        how = {"keep": settings.keep_checkpoints, "begun": done.step}
        saved = stack.enter_context(saving(checkpoints, module, optimiser, engine, **how))
        advance(done.step, earlier=True)
        if not job.total_steps and anew:
            # Nothing is trained, and it is known all the same how good the model is.
            found = validate(job, engine)
            done = _judged(done, found, settings)
            _log(metrics, job.trackers, {"kind": "validation", "step": 0, **asdict(found)})
            saved.save(done, metrics)
        while done.step < job.total_steps and not done.stopped_early:
            line = _step(job, module, optimiser, done.step, engine)
            done = replace(done, step=done.step + 1)
            _log(metrics, job.trackers, {"kind": "step", "step": done.step, **line})
            advance(1, f"loss {line['loss']:.3f}")
            if done.step in job.at_step:
                job.at_step[done.step]()
            evaluated = done.step % evaluate_every == 0 or done.step == job.total_steps
            if evaluated:
                found = validate(job, engine)
                done = _judged(done, found, settings)
                _log(metrics, job.trackers, {"kind": "validation", "step": done.step, **asdict(found)})
            stop = engine.any(stopping.requested())
            if evaluated or stop:
                saved.save(done, metrics)
            if stop:
                saved.finish()
                raise stopping.stop()
        saved.finish()
    engine.load_weights(module, read_weights(checkpoints, done.best_step))
    return done


def batches_of(job: Job, engine: Engine) -> AbstractContextManager[StepBatches]:
    """The batches of a job, made ahead of their steps where the engine's device works beside the host."""
    return made_ahead(job.batches, job.teacher, job.total_steps, device=engine.device)


@dataclass(frozen=True)
class Validation:
    """What chooses the checkpoint, not the scheduled loss: the mean criterion in nats, and share of right answers.

    A row with several labels is right where all of them are; of numbers none is right or wrong.
    """

    validation_loss: float
    validation_accuracy: float | None


def validate(job: Job, engine: Engine) -> Validation:
    """Compare the model with the criterion, and its likeliest answers with the true labels."""
    model, rows, settings = job.model, job.validation, job.settings
    training = model.training
    model.eval()
    total = torch.zeros(4, dtype=torch.float64, device=engine.device)
    batches = batches_by_length(rows.lengths, settings.micro_batch_size or settings.batch_size)
    with torch.inference_mode(), engine.autocast(settings.precision):
        # As many in each process, for engines in which all must take part in each pass.
        for first in range(0, len(batches), engine.world_size):
            own = batches[first + engine.rank : first + engine.rank + 1]
            batch = collate_or_masked(rows, own[0] if own else []).to(engine.device)
            outputs = job.ask(model, batch)
            total[0] += job.criterion(outputs, job.validation_teacher(batch), batch, progress=1.0).total
            right, answers = _right_answers(outputs, batch)
            total[1] += right
            total[2] += answers
            total[3] += batch.mask.sum()
    model.train(training)
    loss, right, answers, count = engine.sum(total).tolist()
    if not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss is {loss}: the weights have grown out of bounds. Lower learning_rate."
        )
    return Validation(loss / count, right / answers if answers else None)


def _right_answers(outputs: Signals, batch: Batch) -> tuple[Tensor, Tensor]:
    """How many answers have the true label as the likeliest, and how many there are.

    Each unmasked position is an answer, or all those of a row together where they are about it. A number is none.
    """
    if outputs.mean is not None:
        return batch.mask.new_zeros((), dtype=torch.int64), batch.mask.new_zeros((), dtype=torch.int64)
    if outputs.logits is not None and batch.whole_rows and batch.mask.dim() == 2:
        right = (outputs.logits.argmax(dim=-1) == batch.labels) | ~batch.mask
        counted = batch.mask.any(dim=1)
        return (right.all(dim=1) & counted).sum(), counted.sum()
    labels = batch.labels[batch.mask]
    if outputs.logits is not None:
        likeliest = outputs.logits[batch.mask].argmax(dim=-1)
    else:
        assert outputs.hidden is not None and outputs.head is not None
        likeliest = outputs.head.likeliest(outputs.hidden[batch.mask])
    return (likeliest == labels).sum(), batch.mask.sum()


def _step(job: Job, module: nn.Module, optimiser: torch.optim.Optimizer, step: int, engine: Engine) -> dict[str, float]:
    """One optimiser step; returns what to write down about it."""
    settings, clock = job.settings, StepClock(engine.device)
    progress = step / max(1, job.total_steps - 1)
    rate = settings.learning_rate * learning_rate_factor(
        step, job.total_steps, warmup=settings.warmup, decay=settings.decay
    )
    for group in optimiser.param_groups:
        group["lr"] = rate
    found = job.batches.at(step, student=job.model, rank=engine.rank, world_size=engine.world_size)
    clock.waited()
    # Counted over all pieces and processes before any gradient: a mean of means would weigh rows unequally. And where
    # they were made, since an accelerator would have to end its work first.
    normaliser, rows = engine.sum(counted(found).float()).tolist()
    batches = [batch.to(engine.device) for batch in found]
    module.train()
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        last = number == len(batches) - 1
        with engine.accumulating(module, last=last), engine.autocast(settings.precision):
            total, parts = module(batch, job.teacher(batch), progress)
            # Engines average gradients over processes; the factor makes that the sum.
            (total * (engine.world_size / normaliser)).backward()
        for name, part in {"loss": total.detach(), **parts}.items():
            sums[name] = sums.get(name, torch.zeros_like(part)) + part
    values = engine.sum(torch.stack(list(sums.values()))) / normaliser
    # Before the values are read: an accelerator is then waited for once.
    norm = engine.clip(module, settings.clip_norm)
    line = dict(zip(sums, values.tolist(), strict=True))
    if not (math.isfinite(line["loss"]) and math.isfinite(norm)):
        raise TrainingError(
            f"{job.name}: loss {line['loss']} and gradient norm {norm} at step {step + 1}; the step was not "
            f"applied. Lower {job.name.split('/')[0]}.learning_rate, or look for broken rows in the data."
        )
    optimiser.step()
    if isinstance(job.teacher, MovingTeacher):
        job.teacher.after_step(job.model)
    for loss in job.loss.losses:
        line[f"{loss.name}.weight"] = loss.weight_at(progress)
        line |= {f"{loss.name}.{key}": value for key, value in loss.settings_at(progress).items()}
    costs = clock.costs(normaliser, rows, by_rows=counts_rows(batches))
    return line | {"learning_rate": rate, "gradient_norm": norm, **costs}


def _judged(done: Progressed, found: Validation, settings: OptimiserSettings) -> Progressed:
    """The progress after an evaluation: a new best, or one more without gain."""
    loss, accuracy = found.validation_loss, found.validation_accuracy
    better = loss < done.best_validation_loss
    if settings.select_by == "validation_accuracy":
        best = done.best_validation_accuracy
        assert accuracy is not None and best is not None, "a recipe that selects by it has answers that can be right"
        # The first evaluation is the best so far even where nothing was right.
        better = accuracy > best or (accuracy == best and better)
    if better:
        return replace(
            done,
            best_step=done.step,
            best_validation_loss=loss,
            best_validation_accuracy=accuracy,
            evaluations_without_gain=0,
        )
    without = done.evaluations_without_gain + 1
    stopped = settings.patience is not None and without >= settings.patience
    return replace(done, evaluations_without_gain=without, stopped_early=stopped)


def _log(metrics: MetricsFile | None, trackers: Sequence[Tracker], line: dict[str, object]) -> None:
    if metrics is None:
        return
    metrics.log(line)
    numbers = {key: float(value) for key, value in line.items() if isinstance(value, int | float)}
    for tracker in trackers:
        tracker.log(numbers, int(numbers["step"]))
