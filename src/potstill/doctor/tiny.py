"""Models of a few thousand random weights, and rows for them: what the checks run on, made in memory."""

from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from potstill.data.encoded import EncodedRows
from potstill.data.packing import PackedRows, pack
from potstill.data.tokens import Tokenised
from potstill.losses import HardLabels, MixedLoss, SoftTargets
from potstill.recipe import OptimiserSettings
from potstill.schedules import Constant, Linear
from potstill.signals import Ask
from potstill.tasks.causal_lm import ask_for_hidden_states
from potstill.tasks.text_classification import ask_for_logits
from potstill.teachers import FrozenTeacher
from potstill.training.batches import ShuffledRows
from potstill.training.loop import Job

VOCABULARY, CLASSES = 61, 5
STEPS, BATCH = 6, 8
SEED = 3
LONGEST = 30


def bert(seed: int, *, dropout: float = 0.0) -> PreTrainedModel:
    """A classifier of two layers."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            num_labels=CLASSES,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            # Far from uniform, so that there is something to learn.
            initializer_range=0.3,
        )
    )


def llama(seed: int) -> PreTrainedModel:
    """A language model of two layers."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            pad_token_id=0,
            initializer_range=0.3,
        )
    )


def texts(count: int, seed: int) -> EncodedRows:
    """Rows of 3 to 11 tokens with a class each."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(1, VOCABULARY, generator.integers(3, 12)).astype(np.int32) for _ in range(count)]
    labels = generator.integers(0, CLASSES, count)
    return EncodedRows(tuple(f"{seed}-{number}" for number in range(count)), tokens, labels, pad_id=0, truncated=0)


def dialogues(count: int, seed: int, *, packing: bool = True) -> PackedRows:
    """Prompts of 2 to 5 tokens, which are not learnt, and responses of 3 to 9."""
    generator = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        prompt, response = generator.integers(2, 6), generator.integers(3, 10)
        ids = generator.integers(1, VOCABULARY, prompt + response).astype(np.int32)
        examples.append(Tokenised(f"{seed}-{number}", ids, np.arange(len(ids)) >= prompt))
    return pack(examples, max_length=LONGEST, pad_id=0, packing=packing)


def mixed_loss(*, temperature: float = 2.0) -> MixedLoss:
    """Soft targets and hard labels, both of which count."""
    soft = SoftTargets(weight=Constant(value=0.7), temperature=Linear(start=temperature, end=1.0))
    return MixedLoss([soft.build(), HardLabels(weight=Constant(value=0.3)).build()])


def ask_of(family: str) -> Ask:
    return ask_for_logits if family == "bert" else ask_for_hidden_states


def job(family: str, device: torch.device, *, dropout: float = 0.0, **settings: Any) -> Job:
    """A short training of a student of this family from a teacher of its shape."""
    ask = ask_of(family)
    student = bert(0, dropout=dropout) if family == "bert" else llama(0)
    teacher = bert(9) if family == "bert" else llama(9)
    asked = {"batch_size": BATCH, "learning_rate": 3e-3, "evaluate_every": 2, "precision": "float32"}
    optimiser = OptimiserSettings.model_validate(asked | settings)
    rows, validation = (texts(37, 1), texts(9, 2)) if family == "bert" else (dialogues(48, 1), dialogues(9, 2))
    return Job(
        name="doctor",
        model=student,
        batches=ShuffledRows(rows, optimiser, SEED),
        validation=validation,
        ask=ask,
        loss=mixed_loss(),
        teacher=FrozenTeacher(teacher, device, ask),
        criterion=MixedLoss([HardLabels(weight=Constant(value=1.0)).build()]),
        total_steps=STEPS,
        seed=SEED,
        settings=optimiser,
    )
