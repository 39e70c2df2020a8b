"""A graph answers as the model that it was made of, whatever the family, the length, and what it is read beside."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.data.encoded import EncodedRows
from potstill.errors import ModelError
from potstill.exporters import AnyExporter, Onnx, OpenVino, Source
from potstill.models import FAMILIES
from potstill.runtimes import graph_predictor
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.graphs import model_bytes, open_graph
from potstill.runtimes.predictor import open_predictor
from potstill.tasks.text_classification import TextClassification
from tests.unit.test_models import tiny_config

LONGEST = 26
AUTO = {"text": AutoModelForSequenceClassification, "tags": AutoModelForTokenClassification}
FORMS = {"onnx": Onnx(precision="float32"), "openvino": OpenVino(precision="float32")}


def model_of(family: str, task: str = "text") -> PreTrainedModel:
    torch.manual_seed(0)
    config = tiny_config(FAMILIES[family], num_labels=3, initializer_range=0.3)
    model: PreTrainedModel = AUTO[task].from_config(config).eval()
    return model


def inputs_of(
    lengths: list[int], vocabulary: int, pad: int, *, types: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Random rows of these lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), pad)
    mask = torch.zeros_like(ids)
    for number, length in enumerate(lengths):
        ids[number, :length] = torch.randint(pad + 1, vocabulary, (length,), generator=generator)
        mask[number, :length] = 1
    found = {"input_ids": ids, "attention_mask": mask}
    return found | ({"token_type_ids": (torch.arange(max(lengths)) % 2).expand_as(ids) * mask} if types else {})


def written(model: PreTrainedModel, exporter: AnyExporter, folder: Path, *, types: bool = False) -> Manifest:
    vocabulary, pad = model.config.vocab_size, model.config.pad_token_id or 0
    source_folder = folder / "source"
    model.save_pretrained(source_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source_folder / name).write_text("{}")

    def calibration(most: int) -> Iterator[Mapping[str, Tensor]]:
        return (inputs_of([5 + number % 20], vocabulary, pad, types=types, seed=number) for number in range(most))

    source = Source(
        folder=source_folder,
        load=lambda: model,
        inputs=inputs_of([17, 6], vocabulary, pad, types=types),
        calibration=calibration,
        embedding_parameters=lambda model: model.get_input_embeddings().weight.numel(),
        about=Manifest("", "", "", "", "text_classification", "single_label", pad_id=pad, max_length=LONGEST),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel())),
        texts=list,
        own_code=False,
    )
    target = folder / "target"
    target.mkdir()
    exporter.export(source, target)
    return read_manifest(target)


def answers(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Any:
    with torch.inference_mode():
        return model(**inputs).logits.numpy()


def asked(folder: Path, manifest: Manifest) -> Callable[[Mapping[str, Tensor]], Any]:
    graph = open_graph(folder / "target", manifest, 1)
    return lambda inputs: graph({name: inputs[name].numpy() for name in manifest.inputs})


def same(model: PreTrainedModel, folder: Path, manifest: Manifest, *, types: bool = False) -> None:
    """At lengths that the graph was not traced with, alone and beside others."""
    ask = asked(folder, manifest)
    pad = model.config.pad_token_id or 0
    for lengths in ([1], [2], [17], [LONGEST], [9, 3, 20], [4] * 5):
        inputs = inputs_of(lengths, model.config.vocab_size, pad, types=types, seed=sum(lengths))
        expected, found = answers(model, inputs), ask(inputs)
        if expected.ndim == 3:
            counted = inputs["attention_mask"].bool().numpy()
            expected, found = expected[counted], found[counted]
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=str(lengths))


@pytest.mark.parametrize(("family", "form"), [("bert", "onnx"), ("roberta", "onnx"), ("bert", "openvino")])
def test_a_graph_of_texts_answers_as_its_model(family: str, form: str, tmp_path: Path) -> None:
    """Of roberta positions follow from what is padding."""
    model = model_of(family)
    same(model, tmp_path, written(model, FORMS[form], tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", AUTO)
@pytest.mark.parametrize(
    "family",
    ["bert", "distilbert", "electra", "roberta", "camembert", "xlm-roberta", "deberta", "deberta-v2", "modernbert"],
)
def test_graphs_of_all_families_of_encoders_answer_as_their_models(
    family: str, task: str, form: str, tmp_path: Path
) -> None:
    model = model_of(family, task)
    same(model, tmp_path, written(model, FORMS[form], tmp_path))


def test_a_graph_of_pairs_is_told_which_text_a_token_is_of(tmp_path: Path) -> None:
    model = model_of("bert")
    manifest = written(model, FORMS["onnx"], tmp_path, types=True)
    assert manifest.inputs == ("input_ids", "attention_mask", "token_type_ids")
    same(model, tmp_path, manifest, types=True)
    ask, inputs = asked(tmp_path, manifest), inputs_of([12], model.config.vocab_size, 0, types=True)
    other = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    assert np.abs(ask(inputs) - ask(other)).max() > 1e-3


@pytest.mark.parametrize(
    "exporter",
    [
        Onnx(),
        OpenVino(),
        pytest.param(Onnx(activations="static", calibration_rows=8), marks=pytest.mark.long),
        pytest.param(OpenVino(quantize="full"), marks=pytest.mark.long),
    ],
)
def test_a_graph_in_8_bits_is_near_its_model_and_smaller(exporter: AnyExporter, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Large enough for its weights to be more than what a graph says of itself.
    config = tiny_config(
        FAMILIES["bert"], num_labels=3, hidden_size=128, intermediate_size=512, vocab_size=2000, initializer_range=0.1
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    manifest = written(model, exporter, tmp_path)
    assert manifest.precision == "int8"
    ask = asked(tmp_path, manifest)
    inputs = [inputs_of([length], 2000, 0, seed=length) for length in range(3, 29)]
    expected = np.concatenate([answers(model, each) for each in inputs])
    found = np.concatenate([ask(each) for each in inputs])
    error = np.sqrt(((found - expected) ** 2).mean())
    assert 0 < error < 0.25 * expected.std(), "rounded, and no more than that"
    assert model_bytes(tmp_path / "target", manifest) < 0.5 * 4 * model.num_parameters()
    assert manifest.num_parameters == model.num_parameters()
    assert manifest.num_parameters_without_embeddings == model.num_parameters() - 2000 * 128


def test_a_model_that_cannot_be_traced_is_one_clear_error(tmp_path: Path) -> None:
    model = model_of("bert")
    model.forward = lambda **inputs: (_ for _ in ()).throw(RuntimeError("no such thing\nwith a long tail"))
    with pytest.raises(ModelError, match=r"family bert could not be written as onnx: .* Leave this exporter out"):
        written(model, FORMS["onnx"], tmp_path)


def test_each_form_has_a_name_of_its_own() -> None:
    forms = [
        Onnx(), Onnx(precision="float32"), Onnx(activations="static"),
        OpenVino(), OpenVino(precision="float32"), OpenVino(quantize="full"),
    ]  # fmt: skip
    names = [form.name for form in forms]
    assert len(set(names)) == len(names) and names[0] == "onnx-int8"


def test_a_graph_in_8_bits_answers_a_row_as_it_does_alone(
    tmp_path: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is asked beside it: activations that are rounded together would be rounded otherwise."""
    model = model_of("bert")
    manifest = written(model, Onnx(), tmp_path)
    task = TextClassification(max_length=LONGEST)
    lengths = [3, 17, 9, 26, 4]
    inputs = inputs_of(lengths, 40, 1)
    rows = EncodedRows(
        ids=tuple("abcde"),
        tokens=[
            ids[:length].numpy().astype(np.int32) for ids, length in zip(inputs["input_ids"], lengths, strict=True)
        ],
        labels=np.zeros(5, dtype=np.int64),
        pad_id=1,
        truncated=0,
    )
    predictor = open_predictor(
        ModelFolder(tmp_path / "target"), task=task, tokenizer=task.load_tokenizer(str(teacher_folder)),
        device=torch.device("cpu"), batch_size=5, runtime="onnx",
    )  # fmt: skip
    opened: list[Path] = []
    real = graph_predictor.open_graph
    monkeypatch.setattr(graph_predictor, "open_graph", lambda *asked: opened.append(asked[0]) or real(*asked))
    told: list[int] = []
    found = predictor.outputs(rows, told.append)
    ask = asked(tmp_path, manifest)
    alone = np.concatenate([ask(rows.collate([number]).inputs) for number in range(5)])
    assert np.array_equal(found, alone) and told == [1] * 5
    assert not np.array_equal(alone, ask(rows.collate(range(5)).inputs)), "or this test sees nothing"
    # It leaves memory after each asking, unless it is held.
    predictor.outputs(rows, told.append)
    assert len(opened) == 2
    predictor.hold()
    for _ in range(3):
        predictor.outputs(rows, told.append)
    assert len(opened) == 3
    predictor.release()
    predictor.outputs(rows, told.append)
    predictor.outputs(rows, told.append)
    assert len(opened) == 5
    assert predictor.parameters().total == model.num_parameters()
    assert predictor.weights().type == "int8" and predictor.loads().runtime == "onnx"
