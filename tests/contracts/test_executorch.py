"""A program of ExecuTorch answers as its model, each text by itself, in as many threads as asked."""

import copy
import gc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from potstill.artefacts.manifest import Manifest
from potstill.errors import ModelError
from potstill.exporters import ExecuTorch
from potstill.exporters.rounding import int8_levels
from potstill.exporters.tracing import quietly
from potstill.models import FAMILIES
from potstill.runtimes.graph_predictor import model_bytes
from potstill.runtimes.graphs import open_graph
from tests.contracts.test_graphs import LONGEST, answers, asked, inputs_of, model_of, same, written
from tests.unit.test_models import tiny_config

pytest.importorskip("executorch")

WHOLE, ROUNDED = ExecuTorch(), ExecuTorch(precision="int8")


@dataclass(frozen=True)
class Made:
    """A model, and the folder with its program."""

    model: PreTrainedModel
    folder: Path
    manifest: Manifest


def made(model: PreTrainedModel, exporter: ExecuTorch, folder: Path) -> Made:
    plain = copy.deepcopy(model)
    return Made(plain, folder, written(model, exporter, folder))


def wide_model() -> PreTrainedModel:
    """Large enough for its weights to be more than what a program says of itself."""
    torch.manual_seed(0)
    config = tiny_config(
        FAMILIES["bert"], num_labels=3, hidden_size=128, intermediate_size=512, vocab_size=2000, initializer_range=0.1
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(model_of("bert"), WHOLE, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(wide_model(), ROUNDED, tmp_path_factory.mktemp("rounded"))


def test_a_program_answers_as_its_model(whole: Made) -> None:
    """From one token to the most that is read, alone and beside others."""
    same(whole.model, whole.folder, whole.manifest)


@pytest.mark.long
@pytest.mark.parametrize(("family", "task"), [("roberta", "text"), ("bert", "tags")])
def test_programs_of_other_families_and_heads_answer_as_their_models(family: str, task: str, tmp_path: Path) -> None:
    """Of roberta positions follow from what is padding."""
    model = model_of(family, task)
    same(model, tmp_path, written(model, WHOLE, tmp_path))


@pytest.mark.long
def test_a_program_of_pairs_is_told_which_text_a_token_is_of(tmp_path: Path) -> None:
    model = model_of("bert")
    manifest = written(model, WHOLE, tmp_path, types=True)
    assert manifest.inputs == ("input_ids", "attention_mask", "token_type_ids")
    same(model, tmp_path, manifest, types=True)
    ask, inputs = asked(tmp_path, manifest), inputs_of([12], model.config.vocab_size, 0, types=True)
    other = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    assert np.abs(ask(inputs) - ask(other)).max() > 1e-3


def test_a_program_in_8_bits_is_near_its_model_and_a_quarter_of_it(rounded: Made) -> None:
    manifest, parameters = rounded.manifest, rounded.model.num_parameters()
    assert manifest.precision == "int8"
    ask = asked(rounded.folder, manifest)
    inputs = [inputs_of([length], 2000, 0, seed=length) for length in range(1, LONGEST + 1)]
    expected = np.concatenate([answers(rounded.model, each) for each in inputs])
    found = np.concatenate([ask(each) for each in inputs])
    error = np.sqrt(((found - expected) ** 2).mean())
    assert 0 < error < 0.1 * expected.std(), "rounded, and no more than that"
    # Embeddings too, or it would be half of it.
    assert model_bytes(rounded.folder / "target", manifest) < 0.3 * 4 * parameters
    assert manifest.num_parameters == parameters
    assert manifest.num_parameters_without_embeddings == parameters - 2000 * 128


@pytest.mark.parametrize("precision", ["whole", "rounded"])
def test_a_text_is_answered_as_alone_whatever_is_beside_it(precision: str, request: pytest.FixtureRequest) -> None:
    """To the last bit: it is read without the padding that it has there."""
    program: Made = request.getfixturevalue(precision)
    ask, lengths = asked(program.folder, program.manifest), [3, 17, LONGEST, 1]
    together = inputs_of(lengths, program.model.config.vocab_size, 0)
    alone = [
        ask({name: values[row : row + 1, :length] for name, values in together.items()})[0]
        for row, length in enumerate(lengths)
    ]
    assert np.array_equal(ask(together), np.stack(alone))


def test_who_asks_the_file_itself_may_pad(whole: Made) -> None:
    from executorch.runtime import Runtime

    forward = Runtime.get().load_program(whole.folder / "target/model.pte").load_method("forward")
    inputs = inputs_of([9, 3, LONGEST, 1], whole.model.config.vocab_size, whole.model.config.pad_token_id)
    found = [forward.execute([values[row : row + 1] for values in inputs.values()])[0][0].numpy() for row in range(4)]
    np.testing.assert_allclose(np.stack(found), answers(whole.model, inputs), rtol=1e-3, atol=1e-4)


def test_weights_are_those_that_a_student_is_trained_on_with() -> None:
    """The levels in the program, before it is compiled, are those of the forward pass of such a training."""
    from transformers.exporters import DynamoConfig, DynamoExporter

    from potstill.exporters.executorch import _lengths

    model = wide_model()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[3] *= 1e-5  # below the least scale that is usual there
    inputs: dict[str, Tensor] = inputs_of([9], 2000, 0)
    linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    tables = {name: each for name, each in model.named_modules() if isinstance(each, nn.Embedding)}
    how = ROUNDED.rounding(model)
    assert all(how(name, each) is not None for name, each in (linear | tables).items())
    with quietly():
        config = DynamoConfig(dynamic_shapes=_lengths(inputs, LONGEST), quantizer=ROUNDED._quantizer(inputs))
    program, _ = DynamoExporter().export_program(model, inputs, config)
    held = [value for value in program.state_dict.values() if value.dtype == torch.int8]
    assert len(held) == len(linear)
    for name, module in linear.items():
        expected = int8_levels(module.weight.detach())[0].int()
        apart = [(each.int() - expected).abs() for each in held if each.shape == expected.shape]
        # Halves may go the other way: one multiplies by the inverse of a scale, the other divides.
        assert any(each.max() <= 1 and (each > 0).float().mean() < 1e-3 for each in apart), name


def test_threads_are_as_many_as_asked_and_are_not_changed_under_a_program(whole: Made) -> None:
    from executorch.extension.pybindings import portable_lib

    gc.collect()
    folder, manifest = whole.folder / "target", whole.manifest
    inputs = {name: values.numpy() for name, values in inputs_of([5], 30, 0).items()}
    alone = open_graph(folder, manifest, 1)
    assert portable_lib._threadpool_get_thread_count() == 1
    expected = alone(inputs)
    with pytest.raises(ModelError, match=r"has 1 thread\(s\) in this process, .* with 2 must be opened in another"):
        open_graph(folder, manifest, 2)
    beside = open_graph(folder, manifest, 1)
    assert np.array_equal(beside(inputs), expected)
    del alone, beside
    gc.collect()
    both = open_graph(folder, manifest, 2)
    assert portable_lib._threadpool_get_thread_count() == 2
    np.testing.assert_allclose(both(inputs), expected, rtol=1e-5, atol=1e-6)
    del both
    gc.collect()
    open_graph(folder, manifest, 1)
