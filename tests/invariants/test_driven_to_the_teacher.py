"""On a few rows a student of its teacher's shape can be driven to it, whoever teaches and whatever is answered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from potstill.data.encoded import EncodedRows
from potstill.data.pairs import Pair
from potstill.data.words import EncodedWords, Window
from potstill.losses import Attention, HiddenStates, MixedLoss, Relations, Shapes, SoftTargets
from potstill.progress import Progress
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant
from potstill.signals import Ask, Teacher
from potstill.stages.criteria import true_labels
from potstill.students import model_shape
from potstill.tasks import Seq2Seq
from potstill.tasks.seq2seq import ask_for_hidden_states
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import EnsembleTeacher, FrozenTeacher, Mixture, Routed
from potstill.training.batches import ShuffledRows
from potstill.training.loop import Job, fit
from potstill.training.metrics import read_metrics
from potstill.training.one_process import OneProcess
from tests.conftest import FILLERS, THINGS
from tests.pair_models import pair_model, pair_tokenizer

CPU = torch.device("cpu")
CLASSES = 5
TWO = {"a": {"model": "x"}, "b": {"model": "y"}}
Case = tuple[Any, Any, Teacher, Ask, MixedLoss]
"""A student, the rows that it learns, its teacher, how both are asked, and what is compared."""


def bert(seed: int, make: Any = BertForSequenceClassification) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    return make(config).eval()


def tokens(generator: np.random.Generator) -> Any:
    return generator.integers(1, 50, generator.integers(5, 12)).astype(np.int32)


def texts() -> EncodedRows:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, CLASSES, 8)
    return EncodedRows(tuple("abcdefgh"), [tokens(generator) for _ in labels], labels, pad_id=0, truncated=0)


def words() -> EncodedWords:
    """Windows in which the first, third and fourth piece begin a word."""
    generator = np.random.default_rng(2)
    places, numbers = np.array([0, 2, 3]), np.arange(3)
    windows = [Window(tokens(generator), places, numbers) for _ in range(6)]
    labels = [generator.integers(0, CLASSES, 3) for _ in windows]
    return EncodedWords(tuple("abcdef"), windows, labels, np.arange(6), pad_id=0, truncated=0)


def soft() -> Any:
    return SoftTargets(weight=Constant(value=1.0), temperature=Constant(value=1.0)).build()


def beside_features(student: Any, teacher: Any, *losses: Any) -> MixedLoss:
    shapes = Shapes(*(model_shape(each.config, 1, 1, 0) for each in (student, teacher)))
    torch.manual_seed(5)
    return MixedLoss([soft(), *(loss.build(shapes) for loss in losses)])


def several(settings: Mixture | Routed) -> Case:
    rows, members = texts(), {name: bert(seed) for name, seed in (("a", 7), ("b", 8))}
    frozen = {name: FrozenTeacher(model, CPU, ask_for_logits) for name, model in members.items()}
    by_domain = isinstance(settings, Routed) and settings.by == "domain"
    routes = {name: (number % 2, 1) for number, name in enumerate(rows.ids)} if by_domain else {}
    return bert(0), rows, EnsembleTeacher(settings, frozen, routes), ask_for_logits, MixedLoss([soft()])


def tagging() -> Case:
    student, teacher = bert(0, BertForTokenClassification), bert(7, BertForTokenClassification)
    loss = beside_features(student, teacher, HiddenStates(), Attention(), Relations(heads=2))
    return student, words(), FrozenTeacher(teacher, CPU, ask_for_logits, loss.teacher_reads), ask_for_logits, loss


def pairs(family: str) -> Case:
    rows = [Pair(str(n), " ".join(FILLERS[n : n + 3]), " ".join(THINGS[: 1 + n % 4])) for n in range(6)]
    student, teacher = pair_model(family, 3), pair_model(family, 9)
    features = (HiddenStates(of="encoder"), HiddenStates(of="decoder"), Attention(of="cross"))
    loss = beside_features(student, teacher, *features)
    frozen = FrozenTeacher(teacher, CPU, ask_for_hidden_states, loss.teacher_reads)
    return student, Seq2Seq(max_length=12).encode(rows, pair_tokenizer(family)), frozen, ask_for_hidden_states, loss


DOMAINS = {"a": ["x"], "b": ["y"]}
CASES: dict[str, Callable[[], Case]] = {
    "mixture": lambda: several(Mixture.model_validate({"of": TWO, "weights": {"a": 2}})),
    "by confidence": lambda: several(Routed.model_validate({"of": TWO, "by": "confidence"})),
    "by domain": lambda: several(Routed.model_validate({"of": TWO, "by": "domain", "domains": DOMAINS})),
    "tags with features": tagging,
    "T5 with features": lambda: pairs("t5"),
    "BART with features": lambda: pairs("bart"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(each, marks=pytest.mark.long) if "T" in each else each for each in CASES]
)
def test_all_that_is_compared_comes_to_a_small_part_of_its_start(tmp_path: Path, case: str) -> None:
    student, rows, teacher, ask, loss = CASES[case]()
    steps = 100
    settings = OptimiserSettings(
        batch_size=8, learning_rate=2e-2, evaluate_every=steps, epochs=1, precision="float32", weight_decay=0.0
    )
    job = Job(
        name="train/student",
        model=student,
        batches=ShuffledRows(rows, settings, 3),
        validation=rows,
        ask=ask,
        loss=loss,
        teacher=teacher,
        criterion=true_labels(),
        total_steps=steps,
        seed=3,
        settings=settings,
    )
    fit(job, tmp_path, OneProcess(CPU), Progress())
    taken = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "step"]
    for each in loss.losses:
        assert taken[-1][each.name] < 0.1 * taken[0][each.name], each.name
