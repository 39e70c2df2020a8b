"""Tensors that are not the weights that they stand for: quantised, not finite, of another head, two instead of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5ForSequenceClassification,
)

from potstill.checkpoints.same_rows import COMPARED_ROWS
from potstill.errors import ModelError
from potstill.tasks import AnyTask
from potstill.tasks.weights import Filled, check_weights
from tests import bad_models as bad
from tests.pair_models import pair_model
from tests.unit.test_weights import NEXT, PAIRS, SIZES, TAGS, TEXT, bert, compared, llama, saved

Weights = dict[str, torch.Tensor]


def changed(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> bad.Damage:
    """With other values or types of the weights whose names have this part."""
    return bad.with_weights(lambda weights: {n: change(w) if part in n else w for n, w in weights.items()})


def packed(name: str) -> bad.Damage:
    return bad.with_weights(lambda weights: weights | {name: torch.zeros(2, dtype=torch.int32)})


@pytest.mark.parametrize(
    ("task", "make", "damage", "told"),
    [
        (NEXT, llama, changed("down_proj", lambda weight: (weight * 100).to(torch.int8)), "down_proj.weight is I8"),
        (NEXT, llama, changed("q_proj", lambda weight: weight.to(torch.float8_e4m3fn)), "q_proj.weight is F8_E4M3"),
        (TEXT, bert, changed("classifier.weight", lambda weight: weight.to(torch.int32)), "classifier.weight is I32"),
        (NEXT, llama, packed("model.layers.0.mlp.up_proj.qweight"), "up_proj.qweight is I32"),
        (NEXT, llama, packed("model.layers.0.mlp.up_proj.weight.absmax"), "absmax is I32"),
    ],
)
def test_quantised_weights_that_no_configuration_explains(
    task: AnyTask, make: Any, damage: bad.Damage, told: str, tmp_path: Path
) -> None:
    folder = saved(make(), tmp_path / "model", damage)
    with pytest.raises(ModelError, match=rf"^{folder}: its weights are quantised \(.*{told}, .*model.dequantize"):
        compared(task, folder)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_plain_types_are_read(kind: torch.dtype, tmp_path: Path) -> None:
    assert compared(TEXT, saved(bert(), tmp_path / "model", changed("", lambda weight: weight.to(kind)))) is not None


def with_output(name: str, of: str, change: Callable[[torch.Tensor], torch.Tensor]) -> bad.Damage:
    return bad.with_weights(lambda weights: weights | {name: change(weights[of].clone())})


def one_row(matrix: torch.Tensor) -> torch.Tensor:
    """Another value in the row before the last, of more rows than are compared."""
    assert len(matrix) > COMPARED_ROWS
    matrix[-2] += 1.0
    return matrix


TIED = [
    (NEXT, lambda: llama(tie_word_embeddings=True), "lm_head.weight", "model.embed_tokens.weight"),
    (PAIRS, lambda: pair_model("t5", 3), "lm_head.weight", "shared.weight"),
    (PAIRS, lambda: pair_model("t5", 3), "encoder.embed_tokens.weight", "shared.weight"),
    (PAIRS, lambda: pair_model("bart", 3), "lm_head.weight", "model.shared.weight"),
]


@pytest.mark.parametrize(("task", "make", "output", "embeddings"), TIED)
def test_two_matrices_that_should_be_one(
    task: AnyTask, make: Any, output: str, embeddings: str, tmp_path: Path
) -> None:
    folder = saved(make(), tmp_path / "model", with_output(output, embeddings, lambda matrix: matrix.flip(0)))
    with pytest.raises(ModelError, match=f"says that {output} is {embeddings} .* set tie_word_embeddings: false "):
        compared(task, folder)
    # A copy is no other matrix.
    compared(task, saved(make(), tmp_path / "copy", with_output(output, embeddings, lambda matrix: matrix)))


def test_matrices_that_differ_in_one_row_are_seen_when_they_are_loaded(tmp_path: Path) -> None:
    folder = saved(
        llama(tie_word_embeddings=True, vocab_size=200),
        tmp_path / "model",
        with_output("lm_head.weight", "model.embed_tokens.weight", one_row),
    )
    with pytest.raises(ModelError, match=r"says that lm_head.weight is model.embed_tokens.weight"):
        NEXT.load_model(str(folder))


def test_a_t5_of_version_1_1_has_an_output_layer_of_its_own(tmp_path: Path) -> None:
    damage = with_output("lm_head.weight", "shared.weight", lambda matrix: matrix.flip(0))
    compared(PAIRS, saved(pair_model("t5", 3, tie_word_embeddings=False), tmp_path / "model", damage))
    # What the error says for one that is taken for tied.
    mended = bad.with_config(tie_word_embeddings=False, scale_decoder_outputs=False)
    compared(PAIRS, saved(pair_model("t5", 3), tmp_path / "mended", damage, mended))


@pytest.mark.parametrize(
    ("task", "make", "named"),
    [
        (NEXT, lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES, num_key_value_heads=1)), "score.weight"),
        (PAIRS, lambda: T5ForSequenceClassification(pair_model("t5", 3).config), "classification_head.dense.bias"),
    ],
)
def test_a_classifier_is_not_read_as_what_writes(task: AnyTask, make: Any, named: str, tmp_path: Path) -> None:
    tied = bad.with_config(tie_word_embeddings=True)
    folder = saved(make(), tmp_path / "model", tied)
    with pytest.raises(
        ModelError, match=r"saved as .*ForSequenceClassification, and .* Take the model that it was tra"
    ):
        compared(task, folder)
    bad.with_config(architectures=None)(folder)
    with pytest.raises(ModelError, match=rf"it has the head of another task \({named}\), and the task reads a "):
        compared(task, folder)


def test_a_value_head_beside_the_output_layer_is_passed_over(tmp_path: Path) -> None:
    damage = bad.with_weights(lambda weights: weights | {"v_head.summary.weight": torch.ones(1, 16)})
    compared(NEXT, saved(llama(), tmp_path / "model", damage))


def test_a_head_for_spans_is_not_one_for_classes(tmp_path: Path) -> None:
    folder = saved(BertForQuestionAnswering(BertConfig(**SIZES)), tmp_path / "model")
    with pytest.raises(ModelError, match=r"saved as BertForQuestionAnswering, .* Set task.kind, or add an adapt"):
        compared(TEXT, folder)
    compared(TEXT, folder, adapt=True)


def test_a_pooler_that_a_head_for_words_has_not_is_noted(tmp_path: Path) -> None:
    pooler = bad.with_weights(lambda weights: weights | {"bert.pooler.dense.weight": torch.ones(16, 16)})
    # As releases before 4 saved it.
    folder = saved(BertForTokenClassification(BertConfig(**SIZES)), tmp_path / "model", pooler)
    assert compared(TAGS, folder) == Filled(frozenset())
    bad.with_config(architectures=None)(folder)
    assert compared(TAGS, folder) == Filled(frozenset(), unread=frozenset({"bert.pooler.dense.weight"}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("task", "make"), [(TEXT, bert), (NEXT, llama), (PAIRS, lambda: pair_model("bart", 3))])
def test_weights_that_are_not_finite(task: AnyTask, make: Any, value: float, tmp_path: Path) -> None:
    def broken(weights: Weights) -> Weights:
        name = next(name for name in sorted(weights) if "embed" in name and weights[name].dim() == 2)
        weights[name][3, :2] = value
        return weights

    folder = str(saved(make(), tmp_path / "model", bad.with_weights(broken)))
    message = rf"^{folder}: 1 of its weights hold values that are not finite, first .*embed.* \(2 of [\d,]+\)"
    with pytest.raises(ModelError, match=message):
        task.load_model(folder)
    # Headers do not tell.
    assert check_weights(task.new_model, task.load_config(folder), folder, new_head=False) is not None


@pytest.mark.parametrize(
    ("damages", "adapt", "message"),
    [
        ([bad.renamed(lambda name: f"net.{name}")], True, "names have 'net.' in them, as a wrapper"),
        ([bad.renamed(lambda name: f"my.own.net.{name}")], False, "names have 'my.own.net.' in them, as a wrapper"),
        (
            [bad.renamed(lambda name: name.replace("classifier.", "classifier.modules_to_save.default."))],
            True,
            r"2 have no place in it .*merge_and_unload\(\) of PEFT",
        ),
        (
            [bad.with_config(id2label={str(n): f"c{n}" for n in range(3)})],
            False,
            r"The head has 2 outputs, and config.json names 3 classes \(c0, c1, c2\)",
        ),
    ],
)
def test_what_a_misfit_is_told_to_be(damages: list[bad.Damage], adapt: bool, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        compared(TEXT, saved(bert(), tmp_path / "model", *damages), adapt=adapt)


def test_a_number_of_labels_that_is_not_that_of_their_names(tmp_path: Path) -> None:
    folder = saved(bert(id2label={0: "no", 1: "yes"}), tmp_path / "model", bad.with_config(num_labels=3))
    config = TEXT.load_config(str(folder))
    assert TEXT.teacher_labels(config, ["no", "yes"], {}) == ["no", "yes"]
    compared(TEXT, folder)
