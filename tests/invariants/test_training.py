"""The loop gives one result, however the rows come and wherever the work is broken off."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from potstill.data.encoded import BatchSource, EncodedRows
from potstill.errors import CheckpointError, Stopped, TrainingError
from potstill.labels import Dense, LabelSource, LabelStore, StoredTeacher, StoreWriter
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.progress import Progress, unseen
from potstill.recipe import OptimiserSettings
from potstill.recipe.stage_settings import Precision
from potstill.run_dir import file_digest
from potstill.signals import IGNORE_INDEX, Batch, Signals
from potstill.stages.criteria import true_labels
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from potstill.training import checkpoints as checkpointing
from potstill.training import loop
from potstill.training.batches import ShuffledRows
from potstill.training.checkpoints import is_whole, keep_newest
from potstill.training.engine import start_engine
from potstill.training.frozen_layers import FrozenLayers
from potstill.training.loop import Job, fit
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess
from potstill.training.saving import Saving

CPU = torch.device("cpu")
CLASSES = 5


def tiny(seed: int, *, layers: int = 2, dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            num_labels=CLASSES,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def encoded(count: int, seed: int, *, unlabelled_from: int | None = None) -> EncodedRows:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    if unlabelled_from is not None:
        labels[unlabelled_from:] = IGNORE_INDEX
    tokens = [generator.integers(1, 50, generator.integers(3, 12)).astype(np.int32) for _ in range(count)]
    return EncodedRows(tuple(f"{seed}-{i}" for i in range(count)), tokens, labels, pad_id=0, truncated=0)


def job(*, dropout: float = 0.1, steps: int = 21, teacher: object = None, **settings: object) -> Job:
    asked: dict[str, object] = {"batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 4}
    optimiser = OptimiserSettings(**(asked | settings))  # type: ignore[arg-type]
    return Job(
        name="train/student",
        model=tiny(0, dropout=dropout),
        batches=ShuffledRows(encoded(37, 1, unlabelled_from=20), optimiser, 3),
        validation=encoded(16, 2),
        ask=ask_for_logits,
        loss=MixedLoss([SoftTargets().build(), HardLabels().build()]),
        teacher=teacher or FrozenTeacher(tiny(9), CPU, ask_for_logits),
        criterion=true_labels(),
        total_steps=steps,
        seed=3,
        settings=optimiser,
    )


def over(rows: BatchSource, of: Job) -> Job:
    """The same job over other rows."""
    return replace(of, batches=ShuffledRows(rows, of.settings, of.seed))


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


class StopsAt:
    """A teacher that fails at its n-th batch, as a process does that is killed there."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.teacher = FrozenTeacher(tiny(9), CPU, ask_for_logits)

    def __call__(self, batch: Batch) -> Signals:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.teacher(batch)


@pytest.mark.parametrize("calls", [1, 8, 17, 22, 40, 41])
def test_training_broken_anywhere_resumes_to_bitwise_the_same_weights_and_losses(tmp_path: Path, calls: int) -> None:
    """With dropout, shuffling, two micro-batches a step and several epochs."""
    whole = job(micro_batch_size=4)
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        fit(job(micro_batch_size=4, teacher=StopsAt(calls)), tmp_path / "broken", OneProcess(CPU), Progress())
    resumed = job(micro_batch_size=4)
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert len(losses(tmp_path / "whole")) == 21
    assert torch.equal(weights(whole.model), weights(resumed.model))


@pytest.mark.parametrize("saved", [False, True])
def test_a_student_of_no_steps_is_judged_once(tmp_path: Path, saved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its checkpoint is whole, or behind it, before there is a record."""

    def untrained(**settings: object) -> Job:
        return job(steps=0, patience=1, **settings)

    whole = untrained()
    expected = fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    assert expected.evaluations_without_gain == 0 and not expected.stopped_early and expected.best_step == 0
    assert [(line["kind"], line["step"]) for line in read_metrics(tmp_path / "whole/metrics.jsonl")] == [
        ("validation", 0)
    ]
    save = Saving.save

    def killed(self: Saving, *given: Any) -> None:
        if saved:
            save(self, *given)
        given[1].sync()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Saving, "save", killed)
        fit(untrained(), tmp_path / "broken", OneProcess(CPU), Progress())
    assert len(read_metrics(tmp_path / "broken/metrics.jsonl")) == 1
    resumed = untrained()
    assert fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress()) == expected
    assert read_metrics(tmp_path / "broken/metrics.jsonl") == read_metrics(tmp_path / "whole/metrics.jsonl")
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_one_batch_of_8_equals_8_batches_of_1(tmp_path: Path) -> None:
    runs = []
    for size in (8, 3, 1):
        each = job(dropout=0.0, micro_batch_size=size)
        fit(each, tmp_path / str(size), OneProcess(CPU), Progress())
        runs.append((losses(tmp_path / str(size)), weights(each.model)))
    for other_losses, other_weights in runs[1:]:
        np.testing.assert_allclose(runs[0][0], other_losses, rtol=2e-4)
        torch.testing.assert_close(runs[0][1], other_weights, rtol=1e-3, atol=1e-3)


def test_stored_labels_train_as_the_online_teacher_does(tmp_path: Path) -> None:
    rows = encoded(37, 1, unlabelled_from=20)
    teacher = FrozenTeacher(tiny(9), CPU, ask_for_logits)
    source = LabelSource(
        teacher="t", tokenizer="k", data="d", labels=tuple("abcde"), max_length=12, precision="float32"
    )
    (tmp_path / "store").mkdir()
    batches = [list(range(start, min(37, start + 5))) for start in range(0, 37, 5)]
    StoreWriter(tmp_path / "store", Dense(), source).write(
        rows.ids, batches, 2, lambda batch: teacher(rows.collate(batch)).logits.clone(), unseen
    )
    stored = StoredTeacher(LabelStore(tmp_path / "store"), CPU)
    fit(job(teacher=stored), tmp_path / "stored", OneProcess(CPU), Progress())
    fit(job(), tmp_path / "online", OneProcess(CPU), Progress())
    np.testing.assert_allclose(losses(tmp_path / "stored"), losses(tmp_path / "online"), rtol=1e-4)


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    one = job(dropout=0.0)
    fit(one, tmp_path / "one", OneProcess(CPU), Progress())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__, str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=2e-4)


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(tmp_path: Path) -> None:
    done = fit(job(patience=2, steps=60), tmp_path, OneProcess(CPU), Progress())
    seen = {
        line["step"]: line["validation_loss"]
        for line in read_metrics(tmp_path / "metrics.jsonl")
        if line["kind"] == "validation"
    }
    assert done.best_step == min(seen, key=lambda step: seen[step])
    assert done.stopped_early and done.step == done.best_step + 8
    kept = {path.name for path in (tmp_path / "scratch/checkpoints").iterdir()}
    assert f"step-{done.best_step:08d}" in kept and len(kept) <= 3


@pytest.mark.parametrize(("select_by", "best"), [("validation_loss", 8), ("validation_accuracy", 16)])
def test_the_best_checkpoint_is_the_one_that_select_by_says(
    select_by: str, best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and accuracy both rise, as in a model that grows over-confident; of equal accuracies the lower loss wins."""
    script = iter([(1.0, 0.0), (0.5, 0.6), (0.9, 0.7), (0.8, 0.7), (0.95, 0.7)])
    monkeypatch.setattr(loop, "validate", lambda *_: loop.Validation(*next(script)))
    done = fit(job(select_by=select_by, steps=20), tmp_path, OneProcess(CPU), Progress())
    assert done.best_step == best


def test_a_damaged_newest_checkpoint_is_passed_over_and_none_whole_is_an_error(tmp_path: Path) -> None:
    fit(job(), tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(10)), tmp_path / "broken", OneProcess(CPU), Progress())
    checkpoints = sorted((tmp_path / "broken/scratch/checkpoints").iterdir())
    assert len(checkpoints) == 2
    damage(checkpoints[-1])
    fit(job(), tmp_path / "broken", OneProcess(CPU), Progress())
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(10)), tmp_path / "lost", OneProcess(CPU), Progress())
    for checkpoint in (tmp_path / "lost/scratch/checkpoints").iterdir():
        damage(checkpoint)
    with pytest.raises(CheckpointError, match="none of its checkpoints is whole"):
        fit(job(), tmp_path / "lost", OneProcess(CPU), Progress())


def test_a_damaged_best_checkpoint_never_becomes_the_model(tmp_path: Path) -> None:
    script = iter([(0.5, 0.9), (0.9, 0.7), (0.8, 0.7), (0.95, 0.7), (1.0, 0.7), (1.1, 0.7)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "validate", lambda *_: loop.Validation(*next(script)))
        with pytest.raises(KeyboardInterrupt):
            fit(job(teacher=StopsAt(18)), tmp_path, OneProcess(CPU), Progress())
        damage(tmp_path / "scratch/checkpoints/step-00000004")
        with pytest.raises(CheckpointError, match="step-00000004: the best checkpoint is damaged"):
            fit(job(), tmp_path, OneProcess(CPU), Progress())


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_does_not_count_among_the_newest(tmp_path: Path, keep: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(14), keep_checkpoints=9), tmp_path, OneProcess(CPU), Progress())
    checkpoints = tmp_path / "scratch/checkpoints"
    assert names(checkpoints) == ["step-00000004", "step-00000008", "step-00000012"]
    damage(checkpoints / "step-00000012")
    keep_newest(checkpoints, keep, best_step=4)
    assert names(checkpoints) == ["step-00000004", "step-00000008"]
    damage(checkpoints / "step-00000004")
    damage(checkpoints / "step-00000008")
    keep_newest(checkpoints, keep, best_step=4)
    # Where nothing is whole, nothing is removed that someone might still save.
    assert names(checkpoints) == ["step-00000004", "step-00000008"]


def test_what_was_just_saved_takes_the_place_of_newer_ones_that_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed from before a damaged checkpoint and stopped again before its step: the newest by name is not the one
    to go on from."""
    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(10), keep_checkpoints=2), tmp_path, OneProcess(CPU), Progress())
    checkpoints = tmp_path / "scratch/checkpoints"
    damage(checkpoints / "step-00000008")
    looked_at: list[str] = []
    monkeypatch.setattr(checkpointing, "is_whole", lambda path: looked_at.append(path.name) or is_whole(path))
    monkeypatch.setattr(loop.stopping, "requested", lambda: True)
    with pytest.raises(Stopped):
        fit(job(keep_checkpoints=1), tmp_path, OneProcess(CPU), Progress())
    # The best one stays too, and what this process wrote is not read again.
    assert names(checkpoints) == ["step-00000004", "step-00000005"]
    assert looked_at == ["step-00000008", "step-00000004", "step-00000008"]
    monkeypatch.undo()
    whole = job()
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    resumed = job(keep_checkpoints=1)
    fit(resumed, tmp_path, OneProcess(CPU), Progress())
    assert torch.equal(weights(whole.model), weights(resumed.model))


def names(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def test_every_flipped_bit_of_the_state_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(job(teacher=StopsAt(5)), tmp_path, OneProcess(CPU), Progress())
    checkpoint = tmp_path / "scratch/checkpoints/step-00000004"
    state = checkpoint / "state.json"
    content = state.read_bytes()
    assert is_whole(checkpoint)
    before = json.loads(content)
    for offset in range(len(content)):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << (offset % 5)
        state.write_bytes(flipped)
        try:
            same = json.loads(flipped) == before
        except ValueError:
            same = False
        # Of white space another kind means the same.
        assert not is_whole(checkpoint) or same, offset
    # One that an earlier version wrote, and one that tells of no files, or of others.
    del before["digest"]
    state.write_text(json.dumps(before))
    assert is_whole(checkpoint)
    for files in ({}, {"../../../metrics.jsonl": file_digest(tmp_path / "metrics.jsonl")}):
        state.write_text(json.dumps(before | {"files": files}))
        assert not is_whole(checkpoint)


def test_a_training_goes_on_in_smaller_pieces_from_where_it_was(tmp_path: Path) -> None:
    whole = job(dropout=0.0)
    fit(whole, tmp_path / "whole", OneProcess(CPU), Progress())
    with pytest.raises(KeyboardInterrupt):
        fit(job(dropout=0.0, teacher=StopsAt(10)), tmp_path / "broken", OneProcess(CPU), Progress())
    teacher = StopsAt(1000)
    resumed = job(dropout=0.0, teacher=teacher, micro_batch_size=4)
    fit(resumed, tmp_path / "broken", OneProcess(CPU), Progress())
    steps = len(losses(tmp_path / "broken")) - 8
    # 37 rows in steps of 8: the fifth of each epoch has 5, and all of them two pieces.
    assert 1000 - teacher.left == 2 * steps == 2 * 13
    np.testing.assert_allclose(losses(tmp_path / "broken"), losses(tmp_path / "whole"), rtol=2e-4)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("device", "has_it", "asked", "expected"),
    [
        ("cpu", True, "auto", "float32"),
        ("cuda", True, "auto", "bfloat16"),
        ("cuda", False, "auto", "float32"),
        ("cuda", True, "float32", "float32"),
        ("cpu", False, "bfloat16", "bfloat16"),
    ],
)
def test_precision_is_what_is_computed_in(
    monkeypatch: pytest.MonkeyPatch, device: str, has_it: bool, asked: Precision, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_it)
    assert OneProcess(torch.device(device)).precision(asked) == expected


def damage(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-5] ^= 16
    (checkpoint / "model.safetensors").write_bytes(content)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    def poisoned(batch: Batch) -> Signals:
        return Signals(logits=torch.full((len(batch.ids), CLASSES), float("nan")))

    broken = job(teacher=poisoned)
    before = weights(broken.model).clone()
    with pytest.raises(TrainingError, match="step 1; the step was not applied"):
        fit(broken, tmp_path, OneProcess(CPU), Progress())
    assert torch.equal(before, weights(broken.model))


def test_a_validation_loss_that_is_not_finite_is_an_error_and_no_checkpoint(tmp_path: Path) -> None:
    broken = job(learning_rate=1e30, evaluate_every=1)
    with pytest.raises(TrainingError, match=r"^the validation loss is nan"):
        fit(broken, tmp_path, OneProcess(CPU), Progress())
    assert not (tmp_path / "scratch/checkpoints").exists()


def test_trackers_get_what_metrics_jsonl_gets(tmp_path: Path) -> None:
    class WidthProjection:
        def __init__(self) -> None:
            self.lines: list[tuple[int, dict[str, float]]] = []

        def log(self, values: Mapping[str, float], step: int) -> None:
            self.lines.append((step, dict(values)))

        def close(self) -> None:
            pass

    kept = WidthProjection()
    fit(replace(job(), trackers=[kept]), tmp_path, OneProcess(CPU), Progress())
    written = read_metrics(tmp_path / "metrics.jsonl")
    assert len(written) == 21 + 6
    assert kept.lines == [(line["step"], {key: line[key] for key in line if key != "kind"}) for line in written]


def test_kept_activations_give_the_logits_of_the_whole_model() -> None:
    model = tiny(4, layers=3).eval()
    rows = encoded(9, 5)
    batch = rows.collate(range(9))
    with torch.no_grad():
        whole = model(**batch.inputs).logits
        frozen = FrozenLayers(model, 2)
        kept = frozen.keep(rows, CPU, 4, lambda amount=1, note="": None)
        frozen.detach()
        upper = model(**kept.collate(range(9)).inputs).logits
        frozen.restore()
        again = model(**batch.inputs).logits
    torch.testing.assert_close(whole, upper, rtol=1e-5, atol=1e-6)
    assert torch.equal(whole, again)


if __name__ == "__main__":
    with start_engine() as engine:
        fit(job(dropout=0.0), Path(sys.argv[1]), engine, Progress())
