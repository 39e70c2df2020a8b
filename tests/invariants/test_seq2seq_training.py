"""Encoder-decoders through the one loop: pieces, stored labels of each encoding, and features; one result for all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from potstill.data.pair_tokens import PairRows
from potstill.data.pairs import Pair
from potstill.labels import Fitted, LabelSource, LabelStore, StoredTeacher
from potstill.labels.hidden import Hidden
from potstill.labels.labelling import label_rows
from potstill.labels.low_rank import LowRank
from potstill.labels.row_encoders import TokensOfRows
from potstill.labels.top_k import TopK
from potstill.losses import Attention, HardLabels, HiddenStates, MixedLoss, Shapes, SoftTargets
from potstill.progress import Progress, unseen
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant, Linear
from potstill.signals import Batch, Teacher
from potstill.students import model_shape
from potstill.targets import HiddenTargets
from potstill.tasks import Seq2Seq
from potstill.tasks.seq2seq import ask_for_hidden_states, head_of
from potstill.teachers import FrozenTeacher
from potstill.training.batches import ShuffledRows
from potstill.training.loop import Job, fit
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess
from tests.conftest import FILLERS, THINGS
from tests.pair_models import SPECIAL, WORDS, pair_model, pair_tokenizer

CPU = torch.device("cpu")
VOCABULARY = len(SPECIAL["t5"]) + len(WORDS)
GRID = (1.0, 1.5, 2.0)


def rows() -> PairRows:
    pairs = [
        Pair(str(number), " ".join(FILLERS[number : number + 2 + number % 5]), " ".join(THINGS[: 1 + number % 4]))
        for number in range(16)
    ]
    return Seq2Seq(max_length=12).encode(pairs, pair_tokenizer("t5"))


def student() -> PreTrainedModel:
    return pair_model("t5", 3, num_layers=2, num_decoder_layers=1)


def online(*losses: Any) -> FrozenTeacher:
    reads = MixedLoss(losses).teacher_reads
    return FrozenTeacher(pair_model("t5", 9), CPU, ask_for_hidden_states, reads)


def trained(folder: Path, teacher: Teacher | None = None, *, features: bool = False, micro: int | None = None) -> Any:
    model, losses = (
        student(),
        [
            SoftTargets(weight=Constant(value=0.7), temperature=Linear(start=2.0, end=1.0)).build(),
            HardLabels(weight=Constant(value=0.3)).build(),
        ],
    )
    if features:
        shapes = Shapes(*(model_shape(each.config, 1, 1, 0) for each in (model, pair_model("t5", 9))))
        torch.manual_seed(1)
        losses += [HiddenStates(of="encoder").build(shapes), Attention(of="cross").build(shapes)]
    settings = OptimiserSettings(
        batch_size=8, micro_batch_size=micro, learning_rate=5e-3, evaluate_every=6, epochs=1, precision="float32"
    )
    job = Job(
        name="train/student",
        model=model,
        batches=ShuffledRows(rows(), settings, 3),
        validation=rows(),
        ask=ask_for_hidden_states,
        loss=MixedLoss(losses),
        teacher=teacher or online(*losses),
        criterion=MixedLoss([SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0)).build()]),
        validation_teacher=online(),
        total_steps=12,
        seed=3,
        settings=settings,
    )
    fit(job, folder, OneProcess(CPU), Progress())
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]


@pytest.mark.parametrize("features", [False, True])
def test_accumulation_changes_memory_and_nothing_else(tmp_path: Path, features: bool) -> None:
    whole = trained(tmp_path / "whole", features=features)
    pieces = trained(tmp_path / "pieces", features=features, micro=1)
    for one, other in zip(whole, pieces, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    names = {key for key in whole[0] if key.endswith(".weight")}
    assert ("attention_cross.weight" in names) == features and ("hidden_states_encoder.weight" in names) == features
    assert whole[-1]["loss"] < whole[0]["loss"]


def stored(folder: Path, encoding: Any) -> StoredTeacher:
    source, teacher = rows().unpacked(), pair_model("t5", 9)
    head, frozen = head_of(teacher), FrozenTeacher(teacher, CPU, ask_for_hidden_states)

    def hidden_of(batch: Batch) -> torch.Tensor:
        target = frozen(batch).target
        assert isinstance(target, HiddenTargets)
        return target.hidden

    codec = encoding.fit(hidden_of(source.collate(range(len(source.lengths)))), head, GRID)
    encoder = TokensOfRows(Fitted(encoding, codec, VOCABULARY, GRID, ()), head)
    folder.mkdir()
    about = LabelSource(teacher="t", tokenizer="k", data="d", labels=(), max_length=12, precision="float32")
    label_rows(folder, source, hidden_of, encoder, about, batch_size=5, batches_per_shard=2, advance=unseen)
    return StoredTeacher(LabelStore(folder), CPU)


@pytest.mark.parametrize(
    "encoding", [Hidden(head=16), TopK(k=VOCABULARY), LowRank(head=16, rank=32)], ids=["hidden", "top_k", "low_rank"]
)
def test_training_from_the_store_is_training_from_the_model(tmp_path: Path, encoding: Any) -> None:
    from_model = trained(tmp_path / "model")
    from_store = trained(tmp_path / "labels", stored(tmp_path / "store", encoding))
    for one, other in zip(from_model, from_store, strict=True):
        assert one["soft_targets"] == pytest.approx(other["soft_targets"], rel=3e-3, abs=3e-3)
