"""Folders and files that look like models and are none, or not those that their configurations describe."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load, save_file

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daa\nsize {}\n"
)
Damage = Callable[[Path], None]


def copied(model: Path, folder: Path, *damages: Damage) -> Path:
    """A copy of a model with these damages, one after the other."""
    shutil.copytree(model, folder)
    for damage in damages:
        damage(folder)
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    # Not mapped: the file is written over.
    return load((folder / "model.safetensors").read_bytes())


def pointer_for(name: str) -> Damage:
    return lambda folder: write_pointer(folder / name)


def write_pointer(file: Path) -> None:
    file.write_text(POINTER.format(438_000_000))


def without(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def moved(name: str, other: str) -> Damage:
    return lambda folder: (folder / name).rename(folder / other) and None


def without_tokenizer(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name not in {"config.json", "model.safetensors"}:
            file.unlink()


def without_words(folder: Path) -> None:
    """With a vocabulary of which only the special tokens are left."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))


def written(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text) and None


def cut(name: str, share: float) -> Damage:
    """The file up to this share of it."""

    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def renamed(name: Callable[[str], str]) -> Damage:
    """With other names of the weights."""
    return with_weights(lambda weights: {name(old): tensor for old, tensor in weights.items()})


def with_weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(weights_of(folder)), file, metadata={"format": "pt"})

    return damage


def with_config(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def in_shards(absent: int = 0, *, index: bool = True, nameless: str | None = None) -> Damage:
    """In two files with an index, without the last `absent` of them; `nameless` is a weight of the index in none."""

    def damage(folder: Path) -> None:
        weights = weights_of(folder)
        (folder / "model.safetensors").unlink()
        names = sorted(weights)
        places = {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-{number:05}-of-00002.safetensors"
            places |= dict.fromkeys(part, file)
            if number <= 2 - absent:
                save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        if nameless:
            places[nameless] = "model-00001-of-00002.safetensors"
        if index:
            text = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
            (folder / "model.safetensors.index.json").write_text(text)

    return damage


def as_pickle(folder: Path) -> None:
    torch.save(weights_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_pickle_by_another_name(folder: Path) -> None:
    torch.save(weights_of(folder), folder / "model.safetensors")


def as_adapter(folder: Path) -> None:
    """The adapter alone, as PEFT saves it."""
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(8, 4)}, folder / "adapter_model.safetensors")


def broken_off(folder: Path) -> None:
    """As a download is left that was stopped."""
    (folder / "model.safetensors").unlink()
    (folder / ".cache/huggingface/download").mkdir(parents=True)
    (folder / ".cache/huggingface/download/x.incomplete").write_bytes(b"0" * 10)


LAYERS = 2


def write_gguf(
    file: Path,
    *,
    parts: int = 1,
    layers: int = LAYERS,
    more: Mapping[str, tuple[int, ...]] | None = None,
    less: Sequence[str] = (),
    kind: str = "model",
    tokenizer: bool = True,
) -> Path:
    """A tiny llama in a GGUF file whose header says `parts` and `LAYERS`, with the tensors of so many layers."""
    writer = gguf.GGUFWriter(file, "llama")
    for name, value in (("block_count", LAYERS), ("context_length", 64), ("embedding_length", 32)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.feed_forward_length", 48)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_type(kind)
    if tokenizer:
        writer.add_tokenizer_model("llama")
    writer.add_array("tokenizer.ggml.tokens", ["<unk>", *(f"w{number}" for number in range(63))])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 64)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    if parts > 1:
        writer.add_uint16("split.no", 0)
        writer.add_uint16("split.count", parts)
    draw = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (64, 32), "output_norm": (32,)}
    for layer in range(layers):
        square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (32, 32))
        others = {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48), "attn_norm": (32,), "ffn_norm": (32,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in (square | others).items()}
    named = {f"{name}.weight": shape for name, shape in shapes.items() if name not in less} | dict(more or {})
    for name, shape in named.items():
        writer.add_tensor(name, draw.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
