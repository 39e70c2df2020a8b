"""GGUF for llama.cpp, and all that is built on it: language models on laptops, phones and servers without a GPU."""

import copy
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from potstill.artefacts import llama_cpp
from potstill.artefacts.llama_cpp import LlamaModel
from potstill.capabilities import Facts
from potstill.errors import ModelError
from potstill.exporters import gguf_conversion
from potstill.exporters.exporter import ExporterSettings, Source, ends_of, versions_of
from potstill.exporters.rounding import BLOCK, Round, RoundOf, q4_0, q8_0
from potstill.run_dir import write_text

MODEL_FILE = "model.gguf"
FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What lies beside the model, where its folder has it: its own tokenizer reads the rows that it is judged on."""
SLOTS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
"""Where a file names the tokens that end a response."""
LONG_BLOCK = 256
"""Weights of a row that share a scale in Q6_K."""
PROBE_TOKENS = 64
TOLERANCE = 1e-2
"""Share of the largest logit by which llama.cpp may differ from transformers in float32. It takes some functions from
tables in half precision; a convention that was mistaken is far above it."""
PROBE = "It's 12,345.67 of naïve cafés — 日本語, Привет ☕\n\n\tdef f(x):  return x ** 2  # END"
"""What tokenizers split differently: numbers, contractions, white space, signs and other alphabets."""


class Gguf(ExporterSettings):
    """A language model for llama.cpp, in half precision or with weights in 8 or 4 bits."""

    kind: Literal["gguf"] = "gguf"
    precision: Literal["f16", "q8_0", "q4_0", "q4_k_m"] = "q8_0"
    """q8_0 is a quarter of float32 and answers nearly as it does. q4_k_m and q4_0 are half of that again: the first
    gives more bits to what loses most, the second is the fastest on many processors. f16 is the file to quantise from
    by other means."""
    runtime: ClassVar[str] = "llama_cpp"
    extra: ClassVar[str | None] = "gguf"
    libraries: ClassVar[tuple[str, ...]] = ("gguf", llama_cpp.PACKAGE, "sentencepiece")

    @property
    def form(self) -> str:
        return f"{self.kind}-{self.precision}"

    @property
    def tolerance(self) -> float | None:
        return None

    @property
    def rounds(self) -> bool:
        return self.precision in ("q8_0", "q4_0")

    def rounding(self, model: PreTrainedModel) -> RoundOf:
        """As `tensor_type` chooses: of q4_0 the head has 8 bits, or, where its rows are long enough, the 6 of Q6_K,
        whose rounding is small enough to be left out."""
        main = q4_0 if self.precision == "q4_0" else q8_0
        head = model.get_output_embeddings()

        def round_of(name: str, module: nn.Module) -> Round | None:
            weight: Any = module.weight
            columns = weight.shape[-1]
            if columns % BLOCK:
                return None
            if weight is not head.weight or main is q8_0:
                return main
            return None if columns % LONG_BLOCK == 0 else q8_0

        return round_of

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        yield from super().refusals(where, facts)
        if facts.answers != "text":
            yield (
                f"{where}: gguf is for language models, and those of {facts.task} are none. Export "
                "{kind: safetensors}, or leave it out."
            )

    def unready(self, where: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        if (why := llama_cpp.unfit()) is not None:
            yield f"{where}: {why}"
        if not gguf_conversion.installed():
            yield (
                f"{where}: gguf needs llama.cpp's converter, which is not in {gguf_conversion.converter_folder()}. "
                f"Run: {gguf_conversion.how_to_install()}"
            )
            return
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
        if architecture not in gguf_conversion.known_architectures():
            yield (
                f"{where}: llama.cpp's converter does not know models of the family {config.model_type}. Export "
                "{kind: safetensors}."
            )
            return
        try:
            _try_tokens(config, tokenizer, str(architecture))
        except ModelError as error:
            yield f"{where}: {error}"

    def export(self, source: Source, target: Path) -> None:
        """Write the folder.

        Raises:
            ModelError: the model or its tokenizer cannot be converted so that llama.cpp reads and answers as they do.
        """
        from gguf import GGUFValueType

        from potstill.exporters.gguf_file import write_rounded

        if source.own_code:
            raise ModelError(f"{source.folder}: it has code of its own, which llama.cpp does not run.")
        called, model, tokenizer = str(source.folder), source.load().eval(), source.tokenizer
        ends = ends_of(model, tokenizer)
        changed: dict[str, tuple[Any, GGUFValueType]] = {
            slot: (end, GGUFValueType.UINT32) for slot, end in zip(SLOTS, ends, strict=False)
        }
        if isinstance(tokenizer.chat_template, str):
            changed["tokenizer.chat_template"] = (tokenizer.chat_template, GGUFValueType.STRING)
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            plain = _converted(source, model, source.shared or Path(scratch))
            write_rounded(plain, target / MODEL_FILE, self.precision, changed)
        _require_ends(called, target / MODEL_FILE, ends)
        for name in FILES:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, target / name)
        model.generation_config.to_json_file(target / "generation_config.json", use_diff=True)
        write_text(target / "Modelfile", _modelfile(tokenizer, ends))
        source.described(
            model,
            kind=self.kind,
            precision=self.precision,
            runtime=self.runtime,
            model_file=MODEL_FILE,
            packages={
                **versions_of("gguf", llama_cpp.PACKAGE, "transformers"),
                gguf_conversion.PACKAGE: gguf_conversion.VERSION,
            },
        ).write(target)


def _converted(source: Source, model: PreTrainedModel, folder: Path) -> Path:
    """The model in float32 as llama.cpp reads it, in this folder: converted once, however it is rounded then.

    Raises:
        ModelError: it cannot be converted so that llama.cpp reads and answers as it does.
    """
    plain, called = folder / MODEL_FILE, str(source.folder)
    if plain.is_file():
        return plain
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unproved = Path(scratch) / MODEL_FILE
        gguf_conversion.convert(source.folder, unproved, called=called)
        texts = [*source.texts(), PROBE]
        _require_same_tokens(called, unproved, source.tokenizer, texts)
        _require_same_logits(called, unproved, model, source.tokenizer(texts[0])["input_ids"][:PROBE_TOKENS])
        unproved.rename(plain)
    return plain


def _modelfile(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> str:
    """For Ollama, which reads the template in the file itself."""
    stops = [str(tokenizer.convert_ids_to_tokens(end)) for end in ends]
    named = [stop for stop in stops if stop.isprintable() and '"' not in stop]
    return f"FROM ./{MODEL_FILE}\n" + "".join(f'PARAMETER stop "{stop}"\n' for stop in named)


def _try_tokens(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, architecture: str) -> None:
    """Raises ModelError: a student with this configuration and tokenizer could not be converted once it is trained."""
    called = "the student"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        told = copy.deepcopy(config)
        told.architectures = [architecture]
        told.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        gguf_conversion.convert(folder, folder / MODEL_FILE, called=called, only_tokens=True)
        _require_same_tokens(called, folder / MODEL_FILE, tokenizer, [PROBE])


def _require_same_tokens(called: str, file: Path, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raises ModelError: llama.cpp reads a text as other tokens."""
    reader = LlamaModel(file, threads=1, tokens=0, only_tokens=True)
    try:
        for text in texts:
            for around in (False, True):
                own = tokenizer(text, add_special_tokens=around)["input_ids"]
                other = reader.tokenize(text, around=around)
                if own != other:
                    at = next((n for n, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), None)
                    at = min(len(own), len(other)) if at is None else at
                    said, heard = (_shown(tokenizer, ids[at : at + 4]) for ids in (own, other))
                    raise ModelError(
                        f"{called}: llama.cpp reads texts as other tokens than the model's tokenizer, {heard} instead "
                        f"of {said}, so it would answer otherwise than the model. Export {{kind: safetensors}}."
                    )
    finally:
        reader.close()


def _shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return repr(tokenizer.convert_ids_to_tokens(list(ids)))


def _require_same_logits(called: str, file: Path, model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Raises ModelError: in float32, before anything is rounded, llama.cpp answers otherwise."""
    import torch

    with torch.inference_mode():
        own: Any = model(input_ids=torch.tensor([list(ids)])).logits[0].float().numpy()
    opened = LlamaModel(file, threads=torch.get_num_threads(), tokens=PROBE_TOKENS, exact=True)
    try:
        other = opened.logits(ids)
    finally:
        opened.close()
    share = abs(own - other).max() / max(1e-30, abs(own).max()) if own.shape == other.shape else float("inf")
    if not share <= TOLERANCE:
        raise ModelError(
            f"{called}: converted for llama.cpp, a model of the family {model.config.model_type} answers otherwise, by "
            f"{share:.2%} of its largest logit before anything is rounded. Export {{kind: safetensors}}."
        )


def _require_ends(called: str, file: Path, ends: Sequence[int]) -> None:
    """Raises ModelError: a server would not stop where the model ends its responses."""
    reader = LlamaModel(file, threads=1, tokens=0, only_tokens=True)
    try:
        missed = [end for end in ends if not reader.ends_with(end)]
    finally:
        reader.close()
    if missed:
        raise ModelError(
            f"{called}: responses end with {len(ends)} tokens, and a GGUF file names {len(SLOTS)}: at {missed[0]} no "
            "server would stop. Name fewer in eos_token_id of generation_config.json."
        )
