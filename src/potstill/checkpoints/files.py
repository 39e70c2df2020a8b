"""Whether a folder or a GGUF file is a whole model with a tokenizer, and if not, what it is instead."""

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from potstill.checkpoints.gguf_headers import check_gguf
from potstill.checkpoints.pointers import require_no_pointer
from potstill.checkpoints.safetensors_headers import INDEX, WEIGHTS, tensor_shapes, weight_files
from potstill.errors import ModelError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
_READ = (
    *("config.json", "generation_config.json", "adapter_config.json", "added_tokens.json", "special_tokens_map.json"),
    *("tokenizer*.json", "vocab*", "merges.txt", "*.model", "*.bpe", "*.jinja"),
)
"""What is read beside the weights."""
_CLASS_MAP = '{"0": "no", "1": "yes"}'
_TYPES = ("bfloat16", "float16", "float32", "float64")
_OTHER_TYPES = ("half", "float", "double", "auto")
"""What config.json may call the type of its weights, and what else transformers takes for one."""
_VARIANT = re.compile(r"model\.([A-Za-z0-9_]+?)(-\d{5}-of-\d{5})?\.safetensors")
"""Files of a variant of a model, such as model.fp16.safetensors."""
_OTHER_FORMATS = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".ot": "Rust",
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".mlmodel": "Core ML",
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_VOCABULARY = ("tokenizer.json", "vocab.*", "*vocab*.json", "*.model", "*.bpe", "*.tiktoken", "tekken.json")
"""What a tokenizer's vocabulary is called; one of them is enough."""
_OF_BYTES = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
"""Tokenizers whose pieces are bytes or characters, and need no file."""


def check_files(location: str | Path, *, tokenizer: bool = True) -> None:
    """Refuse what is no whole model, or has no tokenizer; reads headers, never weights. A hub id has no files here and
    passes.

    Raises:
        ModelError: names the file, says what it is, and what to do.
    """
    path = Path(location)
    if path.is_file():
        check_gguf(path)
    elif path.is_dir():
        _check_folder(path, tokenizer=tokenizer)


def stated_family(location: str | Path) -> str | None:
    """The family that the configuration of a folder states; None of a file or a hub id."""
    file = Path(location) / CONFIG
    return _config(file)["model_type"] if file.is_file() else None


def _check_folder(folder: Path, *, tokenizer: bool) -> None:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    for name in names:
        if any(fnmatch(name, pattern) for pattern in _READ):
            require_no_pointer(folder / name)
    if ADAPTER in names:
        raise _adapter(folder, with_model=bool({WEIGHTS, INDEX} & set(names)))
    if CONFIG not in names:
        raise ModelError(f"{folder}: there is no {CONFIG}, so this is no model. {_instead(folder, names)}")
    _check_config(folder / CONFIG)
    _check_json(folder, names, tokenizer=tokenizer)
    if not weight_files(folder):
        raise ModelError(f"{folder}: there is no {WEIGHTS}. {_without_weights(folder, names)}")
    tensor_shapes(folder)
    if tokenizer:
        _check_tokenizer(folder, names)


def _instead(folder: Path, names: Sequence[str]) -> str:
    """What the folder without a configuration seems to be."""
    if files := [name for name in names if name.endswith(".gguf")]:
        return f"It holds GGUF files: name one of them, such as {folder / files[0]}."
    if deeper := sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}")):
        return f"There is one in {deeper[0]}: name {folder / deeper[0]} instead."
    found = f"found {', '.join(names[:5])}" if names else "the folder has no files"
    return f"Expected a folder as model.save_pretrained and tokenizer.save_pretrained write it; {found}."


def _check_json(folder: Path, names: Sequence[str], *, tokenizer: bool) -> None:
    """Each JSON file that is read must be whole: transformers does not say which one is not, or reads on without it."""
    for name in names:
        of_tokenizer = name.startswith(("tokenizer", "vocab"))
        if name.endswith(".json") and any(fnmatch(name, each) for each in _READ) and (tokenizer or not of_tokenizer):
            content = _json(folder / name)
            if not isinstance(content, dict) and not name.startswith("vocab"):
                raise ModelError(
                    f"{folder / name}: expected an object in braces, found a {type(content).__name__}. Download or "
                    "copy the file again."
                )


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not valid JSON ({error}). Mend it, or download it again.") from error


def _check_config(file: Path) -> None:
    """What transformers meets with an error of Python where it has another form than it should."""
    config = _config(file)
    names = config.get("id2label")
    numbered = isinstance(names, dict) and all(re.fullmatch(r"-?\d+", str(number)) for number in names)
    if names is not None and not numbered:
        found = "a list" if isinstance(names, list) else "names on the left" if isinstance(names, dict) else repr(names)
        raise ModelError(
            f"{file}: id2label must give the name of each class by its number, as in {_CLASS_MAP}; found {found}. "
            "Write it so, in the order of the head's outputs."
        )
    for key in ("dtype", "torch_dtype"):
        kind = config.get(key)
        if isinstance(kind, str) and kind.removeprefix("torch.") not in _TYPES + _OTHER_TYPES:
            raise ModelError(
                f"{file}: {key} {kind!r} is no type of weights that is read; expected one of "
                f"{', '.join(_TYPES)}, as torch names them. Name the one that the weights have."
            )


def _config(file: Path) -> dict[str, Any]:
    config = _json(file)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{file}: it has no model_type, so it is not the configuration of a transformers model. Take a folder as "
            "model.save_pretrained writes it; checkpoints in another format must be converted first."
        )
    return config


def _adapter(folder: Path, *, with_model: bool) -> ModelError:
    try:
        settings: dict[str, Any] = dict(json.loads((folder / ADAPTER).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        settings = {}
    base = settings.get("base_model_name_or_path")
    kind = str(settings.get("peft_type") or "PEFT").replace("LORA", "LoRA")
    beside = (
        " beside a model, which would be read without it" if with_model else ", of which the base model is not here"
    )
    return ModelError(
        f"{folder}: this is a {kind} adapter{f' of {base}' if base else ''}{beside}. Merge the two first: "
        "model = peft.PeftModel.from_pretrained(base, folder).merge_and_unload(), then model.save_pretrained and "
        "tokenizer.save_pretrained into one folder, and name that."
    )


def _without_weights(folder: Path, names: Sequence[str]) -> str:
    """What there is instead of the file of weights."""
    if any(folder.rglob("*.incomplete")):
        return "A download was broken off (files named *.incomplete). Download the model again."
    tensors = [name for name in names if name.endswith(".safetensors")]
    if adapters := [name for name in tensors if name.startswith("adapter_")]:
        return (
            f"Found {adapters[0]}, the weights of an adapter, and no {ADAPTER}. Find that and the base model, merge "
            "the two with model.merge_and_unload() of PEFT, and save the merged model with model.save_pretrained."
        )
    if variants := [match for name in tensors if (match := _VARIANT.fullmatch(name))]:
        kind = variants[0][1]
        return (
            f"Found {variants[0][0]}, which is the model's variant {kind!r}. Load it in transformers with "
            f"variant={kind!r} and save it with model.save_pretrained, or download the model without the variant."
        )
    if any("-of-" in name for name in tensors):
        return f"It is in several files ({', '.join(tensors[:3])}), and {INDEX} is missing. Download that too."
    if tensors:
        return f"Found {', '.join(tensors[:3])}: rename the one that is the whole model to {WEIGHTS}."
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        return (
            f"Found {', '.join(pickles[:3])}, and pickles are never read, for they can run any code. Where you trust "
            "the file, load it with transformers and save it with model.save_pretrained, which writes safetensors."
        )
    for name in names:
        if other := next((_OTHER_FORMATS[end] for end in _OTHER_FORMATS if name.endswith(end)), None):
            return (
                f"Found {name}, weights of {other}, which are not read. Take a version of the model with safetensors, "
                "or load the file with the library that wrote it, and save the model as safetensors."
            )
    return f"Found {', '.join(names[:5])}; download or copy the weights too."


def _check_tokenizer(folder: Path, names: Sequence[str]) -> None:
    if any(fnmatch(name, pattern) for name in names for pattern in _VOCABULARY):
        return
    settings = _json(folder / "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    if settings.get("tokenizer_class") in _OF_BYTES or "auto_map" in settings:
        return
    raise ModelError(
        f"{folder}: there is no tokenizer: none of tokenizer.json, vocab.txt, vocab.json, *.model. Copy the "
        "tokenizer's files from the model that it was trained from, or write them with tokenizer.save_pretrained."
    )
