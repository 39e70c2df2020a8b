"""What is no whole model is refused from its headers, and named for what it is."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from potstill.checkpoints import check_files, tensor_shapes
from potstill.errors import ModelError
from tests import bad_models as bad


@pytest.mark.parametrize(
    ("damages", "message"),
    [
        (
            [bad.pointer_for("model.safetensors")],
            r"model.safetensors: this is a git-lfs pointer of \d+ bytes, not the file of 438.0 MB .*git lfs pull",
        ),
        ([bad.pointer_for("tokenizer.json")], r"tokenizer.json: this is a git-lfs pointer"),
        ([bad.pointer_for("config.json")], r"config.json: this is a git-lfs pointer"),
        ([bad.in_shards(), bad.pointer_for("model-00002-of-00002.safetensors")], r"-00002-of-.*git-lfs pointer"),
        ([bad.written("model.safetensors", "<!DOCTYPE html><html>404</html>")], "a web page that was saved"),
        ([bad.cut("model.safetensors", 0.8)], r"the file is cut: it has [\d,]+ bytes, and its header says [\d,]+"),
        ([bad.cut("model.safetensors", 0.01)], r"the file is cut: it has [\d,]+ bytes, fewer than its header alone"),
        ([bad.written("model.safetensors", "")], "model.safetensors: not a safetensors file"),
        ([bad.as_pickle_by_another_name], "a file of torch.save, .* pickles that are never read"),
        ([bad.in_shards(absent=1)], r"1 of the 2 files that .* names are not there: model-00002-of-00002.safetensors"),
        ([bad.in_shards(index=False)], r"in several files \(model-00001.*index.json is missing"),
        ([bad.in_shards(nameless="a.b")], r"1 weights that .* names are in none of its files, first a.b"),
        ([bad.in_shards(), bad.written("model.safetensors.index.json", "[]")], "not the index of a model"),
        ([bad.in_shards(), bad.cut("model-00002-of-00002.safetensors", 0.9)], "-00002-of-.*the file is cut"),
        ([bad.as_pickle], r"Found pytorch_model.bin, and pickles are never read"),
        ([bad.as_adapter], r"this is a LoRA adapter of org/base, .*merge_and_unload"),
        ([bad.written("adapter_config.json", "{}")], "PEFT adapter beside a model, which would be read without it"),
        ([bad.broken_off], r"there is no model.safetensors. A download was broken off"),
        ([bad.without("model.safetensors")], r"there is no model.safetensors. Found config.json"),
        ([bad.without("config.json")], "there is no config.json, so this is no model. Expected a folder as"),
        ([bad.written("config.json", "{")], "config.json: not valid JSON"),
        ([bad.written("config.json", '{"hidden_size": 8}')], "config.json: it has no model_type"),
        ([bad.written("config.json", "[]")], "config.json: it has no model_type"),
        ([bad.with_config(id2label=["no", "yes"])], r"config.json: id2label must give .*; found a list\. Write it so"),
        ([bad.with_config(id2label={"no": 0, "yes": 1})], r"config.json: id2label must .*; found names on the left"),
        ([bad.with_config(dtype="fp16")], "config.json: dtype 'fp16' is no type .* bfloat16, float16, float32, float6"),
        ([bad.with_config(torch_dtype="q4")], "config.json: torch_dtype 'q4' is no type of weights"),
        ([bad.cut("tokenizer.json", 0.5)], "/tokenizer.json: not valid JSON"),
        ([bad.written("tokenizer_config.json", "[1")], "/tokenizer_config.json: not valid JSON"),
        ([bad.written("tokenizer_config.json", "[1]")], "/tokenizer_config.json: expected an object .* found a list"),
        ([bad.written("generation_config.json", '{"eos_token_id": ')], "/generation_config.json: not valid JSON"),
        ([bad.written("special_tokens_map.json", "{'a': 1}")], "/special_tokens_map.json: not valid JSON"),
        (
            [bad.moved("model.safetensors", "tf_model.h5")],
            "Found tf_model.h5, weights of TensorFlow, which are not read",
        ),
        ([bad.moved("model.safetensors", "flax_model.msgpack")], "Found flax_model.msgpack, weights of Flax"),
        (
            [bad.moved("model.safetensors", "adapter_model.safetensors")],
            r"the weights of an adapter, and no adapter_config.json. .*merge_and_unload\(\)",
        ),
        ([bad.moved("model.safetensors", "model.fp16.safetensors")], "the model's variant 'fp16'. Load it .* variant="),
        (
            [bad.moved("model.safetensors", "model.fp16-00001-of-00002.safetensors")],
            "Found model.fp16-00001-of-00002.safetensors, which is the model's variant 'fp16'",
        ),
        ([bad.without_tokenizer], "there is no tokenizer: none of tokenizer.json"),
    ],
)
def test_a_folder_that_is_no_whole_model(
    damages: list[bad.Damage], message: str, tmp_path: Path, teacher_folder: Path
) -> None:
    folder = bad.copied(teacher_folder, tmp_path / "model", *damages)
    with pytest.raises(ModelError, match=f"^{folder}.*{message}"):
        check_files(folder)


def test_where_a_model_may_lie_instead(tmp_path: Path, teacher_folder: Path) -> None:
    with pytest.raises(ModelError, match="the folder has no files"):
        check_files(tmp_path)
    bad.copied(teacher_folder, tmp_path / "checkpoint-500")
    with pytest.raises(ModelError, match=f"There is one in checkpoint-500: name {tmp_path}/checkpoint-500"):
        check_files(tmp_path)
    bad.write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match=f"It holds GGUF files: name one of them, such as {tmp_path}/tiny.gguf"):
        check_files(tmp_path)


def test_whole_models_pass(tmp_path: Path, teacher_folder: Path, chat_teacher_folder: Path) -> None:
    check_files(teacher_folder)
    check_files(chat_teacher_folder)
    check_files("organisation/name")
    for kind in ("float16", "torch.bfloat16", "half", None):
        check_files(bad.copied(teacher_folder, tmp_path / str(kind), bad.with_config(dtype=kind, id2label=None)))
    check_files(bad.write_gguf(tmp_path / "tiny.gguf"))
    shards = bad.copied(teacher_folder, tmp_path / "shards", bad.in_shards())
    check_files(shards)
    assert tensor_shapes(shards) == tensor_shapes(teacher_folder)
    # What is not read does no harm.
    for name in ("pytorch_model.bin", "README.md", "data.json"):
        bad.write_pointer(shards / name)
    check_files(shards)


def test_a_tokenizer_of_bytes_needs_no_file(tmp_path: Path, teacher_folder: Path) -> None:
    folder = bad.copied(teacher_folder, tmp_path / "model", bad.without_tokenizer)
    check_files(folder, tokenizer=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    check_files(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    with pytest.raises(ModelError, match="there is no tokenizer"):
        check_files(folder)


def test_shapes_are_those_of_the_weights(tmp_path: Path, teacher_folder: Path) -> None:
    weights = load_file(teacher_folder / "model.safetensors")
    assert tensor_shapes(teacher_folder) == {name: list(tensor.shape) for name, tensor in weights.items()}
    # A file with more than its header says is not what was saved.
    save_file(weights, tmp_path / "model.safetensors")
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"0000")
    with pytest.raises(ModelError, match="the file is damaged"):
        tensor_shapes(tmp_path)


def test_a_gguf_file_that_is_no_whole_model(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    bad.write_pointer(file)
    with pytest.raises(ModelError, match=r"tiny.gguf: this is a git-lfs pointer"):
        check_files(file)
    file.write_text("no GGUF file, but long enough for a header")
    with pytest.raises(ModelError, match="not a GGUF file: it does not begin with GGUF"):
        check_files(file)
    whole = bad.write_gguf(file).read_bytes()
    for size in (30, 400, 1500):
        file.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="the file is cut or damaged: its header goes beyond"):
            check_files(file)
    file.write_bytes(whole[:-64])
    with pytest.raises(ModelError, match=r"the file is cut: it has [\d,]+ bytes, and its header says"):
        check_files(file)
    for changes, message in (
        ({"kind": "adapter"}, r"this is an adapter \(of an unknown kind\), .* llama-export-lora"),
        ({"kind": "mmproj"}, "its header says that it is a mmproj, not a model"),
        ({"tokenizer": False}, r"it has no tokenizer \(tokenizer.ggml.model\)"),
    ):
        with pytest.raises(ModelError, match=message):
            check_files(bad.write_gguf(file, **changes))
    bad.write_gguf(file, layers=1)
    with pytest.raises(ModelError, match=r"its header says 2 layers, and the file holds the tensors of 1 .* number 1"):
        check_files(file)


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("tiny-00001-of-00002.gguf", 2, r"one part of a model in 2 \(split.count; tiny-00001-of-00002.gguf to -00002-"),
        ("tiny.gguf", 2, r"one part of a model in 2 \(split.count; 2 files\).*--merge tiny.gguf merged.gguf"),
        # As other tools split files, without a word in the header.
        ("tiny-00002-of-00003.gguf", 1, r"one part of a model in 3 .*--merge tiny-00001-of-00003.gguf merged.gguf"),
    ],
)
def test_a_gguf_file_in_parts(name: str, parts: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        check_files(bad.write_gguf(tmp_path / name, parts=parts, layers=1))
