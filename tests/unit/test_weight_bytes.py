"""What of a saved model is its size, and in which type it is served."""

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig

from potstill.evaluation.evaluate import ratios
from potstill.measure.weights import SavedWeights, saved_weights
from potstill.records import AdaptRecord
from potstill.runtimes.folder import ModelFolder
from potstill.stages.evaluate import served_as
from potstill.stages.teacher_files import Files
from tests.unit.finished_run import evaluation


def save(folder: Path, dtype: torch.dtype, name: str = "model.safetensors") -> int:
    folder.mkdir(exist_ok=True)
    # A norm that is kept in float32, as many models have, does not make the model one of float32.
    save_file({f"{name}.a": torch.ones(50, 20, dtype=dtype), f"{name}.norm": torch.ones(20)}, folder / name)
    return (folder / name).stat().st_size


def test_only_the_weights_that_would_be_loaded_count(tmp_path: Path) -> None:
    size = save(tmp_path, torch.bfloat16)
    for other in ("pytorch_model.bin", "tokenizer.json", "README.md"):
        (tmp_path / other).write_bytes(b"x" * 10_000)
    save(tmp_path / "onnx", torch.float32)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "another.safetensors"}}))
    save(tmp_path, torch.float32, "another.safetensors")
    assert saved_weights(tmp_path) == SavedWeights("bfloat16", size)


def test_all_files_of_an_index_count_once(tmp_path: Path) -> None:
    names = ["model-1.safetensors", "model-2.safetensors"]
    sizes = [save(tmp_path, torch.float16, name) for name in names]
    save(tmp_path, torch.float32, "other.safetensors")
    weight_map = {"a": names[0], "b": names[1], "c": names[1]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert saved_weights(tmp_path) == SavedWeights("float16", sum(sizes))


def write_gguf(path: Path) -> int:
    writer = gguf.GGUFWriter(path, "llama")
    weights = gguf.quants.quantize(np.ones((8, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("a", weights, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("norm", np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


@pytest.mark.parametrize("names", [["m.gguf"], ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]])
def test_a_quantised_file_counts_as_it_is_with_all_its_parts(tmp_path: Path, names: list[str]) -> None:
    sizes = [write_gguf(tmp_path / name) for name in names]
    write_gguf(tmp_path / "other-00002-of-00002.gguf")
    assert saved_weights(tmp_path / names[0]) == SavedWeights("GGUF Q8_0", sum(sizes))


def test_a_teacher_is_served_in_the_type_that_it_came_in(tmp_path: Path) -> None:
    came, adapted = tmp_path / "came", tmp_path / "adapted"
    size, float32 = save(came, torch.bfloat16), save(adapted, torch.float32)
    source = Files(str(came), "", BertConfig())
    as_it_is = AdaptRecord(adapted=False, location=str(came), digest="")
    assert served_as(ModelFolder(came), as_it_is, source).served == SavedWeights("bfloat16", size)
    record = AdaptRecord(adapted=True, location="adapt/model", digest="")
    assert served_as(ModelFolder(adapted), record, source).served == SavedWeights("bfloat16", float32 // 2)
    on_hub = replace(source, location="organisation/name", config=BertConfig(dtype="float16"))
    assert served_as(ModelFolder(adapted), record, on_hub).served == SavedWeights("float16", float32 // 2)
    write_gguf(tmp_path / "m.gguf")
    file = replace(source, location=str(tmp_path / "m.gguf"))
    converted = record.model_copy(update={"adapted": False, "converted": True})
    assert served_as(ModelFolder(adapted), converted, file).served == saved_weights(tmp_path / "m.gguf")
    # One of which only the outputs are in another order is still of its own type.
    assert served_as(ModelFolder(adapted), converted, source).served == SavedWeights("bfloat16", size)
    assert served_as(ModelFolder(adapted), converted, on_hub).served == SavedWeights("float16", float32 // 2)
    # Once it is adapted it is no longer quantised.
    assert served_as(ModelFolder(adapted), record, file).served == SavedWeights("float32", float32)


def test_ratios_are_of_models_as_they_are_served_beside_those_in_float32() -> None:
    found = evaluation(with_baseline=False).models
    half = {"size_bytes": found["teacher"].size_bytes // 2, "own_type_latency_p50_ms": 5.6}
    models = {**found, "teacher": found["teacher"].model_copy(update=half)}
    scores = {name: np.full(3, 0.8) for name in models}
    found_ratios = ratios(models, scores, None)
    # The student is served in float32, so it is as fast as there.
    assert found_ratios["speedup"] == pytest.approx(10 / 1.4)
    assert found_ratios["speedup_in_own_types"] == pytest.approx(5.6 / 1.4)
    assert found_ratios["size_ratio_in_float32"] == pytest.approx(2 * found_ratios["size_ratio"], rel=1e-6)
    assert ratios(found, scores, None)["speedup_in_own_types"] is None
