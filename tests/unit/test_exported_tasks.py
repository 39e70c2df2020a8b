"""Which forms there are of the models of which task: all others are refused with the recipe."""

from pathlib import Path
from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.recipe.yaml_file import load_recipe


def loaded(folder: Path, task: str, exporter: str) -> Any:
    path = folder / "recipe.yaml"
    path.write_text(f"""\
task: {{kind: {task}}}
data: {{train: train.jsonl, validation: 0.1, test: test.jsonl}}
teacher: {{kind: pretrained, model: models/teacher}}
export: [{{{exporter}}}]
""")
    return load_recipe(path, ())


@pytest.mark.parametrize(
    ("task", "exporter", "message"),
    [
        (
            "causal_lm",
            "kind: onnx",
            r"export\[0\]: graphs are .* of causal_lm are decoders alone\. Export {kind: gguf}",
        ),
        ("causal_lm", "kind: openvino, precision: float32", "those of causal_lm are decoders alone"),
        (
            "seq2seq",
            "kind: onnx, activations: static",
            r"export\[0\]: onnx-int8-static takes the scales of activations",
        ),
        ("seq2seq", "kind: openvino, quantize: full", "openvino-int8-full takes the scales of activations"),
        ("seq2seq", "kind: onnx, distil: {steps: 5}", r"export\[0\]\.distil: not for graphs of encoder-decoders yet"),
        ("seq2seq", "kind: gguf", "gguf is for language models, and those of seq2seq are none"),
        ("text_classification", "kind: gguf", "gguf is for language models"),
    ],
)
def test_a_form_that_the_models_of_a_task_do_not_have_is_refused(
    tmp_path: Path, task: str, exporter: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        loaded(tmp_path, task, exporter)


@pytest.mark.parametrize(
    ("task", "exporter", "name"),
    [
        ("seq2seq", "kind: onnx", "onnx-int8"),
        ("seq2seq", "kind: onnx, precision: float32, activations: static", "onnx-float32"),
        ("seq2seq", "kind: openvino", "openvino-int8"),
        ("seq2seq", "kind: openvino, precision: float32, quantize: full", "openvino-float32"),
        ("text_classification", "kind: onnx, activations: static", "onnx-int8-static"),
        ("token_classification", "kind: openvino, quantize: full", "openvino-int8-full"),
        ("text_classification", "kind: onnx, distil: {steps: 5}", "onnx-int8-distilled"),
        ("causal_lm", "kind: gguf", "gguf-q8_0"),
    ],
)
def test_those_that_they_have_are_taken(tmp_path: Path, task: str, exporter: str, name: str) -> None:
    (found,) = loaded(tmp_path, task, exporter).export
    assert found.name == name
