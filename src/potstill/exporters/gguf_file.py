"""A GGUF file in float32 written anew with rounded weights, each matrix in the type that llama.cpp would choose."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

from potstill.artefacts.llama_cpp import quantised

T = GGMLQuantizationType
FILE_TYPES = {
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}
MAIN_TYPES = {"f16": T.F16, "q8_0": T.Q8_0, "q4_0": T.Q4_0, "q4_k_m": T.Q4_K}
FALLBACKS = {T.Q4_K: T.Q5_0, T.Q5_K: T.Q5_1, T.Q6_K: T.Q8_0}
"""Where rows are no multiple of 256, the block of these types."""
EXACT = re.compile(r"(_norm|ffn_gate_inp|position_embd|token_types)\.weight$")
"""Matrices that stay in float32: they are small, and routing and places hang on them."""
QUANTISATION_VERSION = 2


def tensor_type(name: str, shape: Sequence[int], precision: str, layers: int, *, tied: bool) -> T:
    """The type of a tensor, as `llama_tensor_get_type` of llama.cpp chooses it without an importance matrix.

    `shape` is as GGUF has it, the length of a row first.
    """
    if len(shape) < 2 or not name.endswith("weight") or EXACT.search(name):
        return T.F32
    main = found = MAIN_TYPES[precision]
    if main == T.F16:
        return T.F16
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        found = main if main == T.Q8_0 else T.Q6_K
    elif main == T.Q4_K:
        found = _of_mixture(name, layers)
    for each in (found, FALLBACKS.get(found)):
        if each is not None and shape[0] % GGML_QUANT_SIZES[each][0] == 0:
            return each
    return T.F16


def _of_mixture(name: str, layers: int) -> T:
    """Of Q4_K_M: more bits for what errors spread from, in the first and last eighth of the layers and each third."""
    if "attn_qkv" in name:
        return T.Q5_K
    found = re.match(r"blk\.(\d+)\.(attn_v|ffn_down)", name)
    if found is None:
        return T.Q4_K
    layer, eighth = int(found[1]), layers // 8
    more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return T.Q6_K if more else T.Q4_K


def write_rounded(plain: Path, target: Path, precision: str, changed: Mapping[str, tuple[Any, GGUFValueType]]) -> None:
    """The file `plain` in another precision, with its metadata; some of these are given anew, by name."""
    reader = GGUFReader(plain)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    own = {"general.architecture", "general.file_type", "general.quantization_version", *changed}
    for field in reader.fields.values():
        if field.name not in own and not field.name.startswith("GGUF."):
            sub = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for name, (value, kind) in changed.items():
        writer.add_key_value(name, value, kind)
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_quantization_version(QUANTISATION_VERSION)
    layers = reader.fields[f"{architecture}.block_count"].contents()
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    types = [
        tensor_type(tensor.name, [int(size) for size in tensor.shape], precision, layers, tied=tied)
        for tensor in reader.tensors
    ]
    for tensor, to in zip(reader.tensors, types, strict=True):
        _announce(writer, tensor, to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, to in zip(reader.tensors, types, strict=True):
        writer.write_tensor_data(_rounded(tensor, to))
    writer.close()


def _announce(writer: GGUFWriter, tensor: Any, to: T) -> None:
    shape = [int(size) for size in reversed(tensor.shape)]
    block, size = GGML_QUANT_SIZES[to]
    total = tensor.n_elements // block * size
    if to in (T.F32, T.F16):
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32 if to == T.F32 else np.float16), total)
    else:
        stored = [*shape[:-1], shape[-1] // block * size]
        writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), total, raw_dtype=to)


def _rounded(tensor: Any, to: T) -> Any:
    values = quants.dequantize(tensor.data, tensor.tensor_type)
    if to == T.F32:
        return np.ascontiguousarray(values)
    if to == T.F16:
        return values.astype(np.float16)
    return quantised(values.reshape(-1, int(tensor.shape[0])), int(to))
