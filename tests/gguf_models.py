"""Tiny language models that llama.cpp can run: with a tokenizer of bytes, as it knows them, and a chat template."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from potstill.artefacts.manifest import Manifest
from potstill.exporters import Gguf, Source, gguf_conversion
from tests.conftest import CHATML, COLOURS, FILLERS, THINGS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["user", "assistant", "the", "is", "what", "colour", "?", *COLOURS, *THINGS, *FILLERS]


def byte_tokenizer(*, digits: bool = False, begins: bool = False) -> PreTrainedTokenizerFast:
    """Of bytes, with pieces learnt of the words of the chat project; `digits` stand alone, as in SmolLM2's, and a text
    `begins` with a token of its own."""
    core = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level]) if digits else level
    core.decoder = decoders.ByteLevel()
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=12)) for _ in range(400)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, special_tokens=SPECIAL)
    )
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if begins:
        core.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL[0] if begins else None,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def write_llama(
    folder: Path, *, digits: bool = False, begins: bool = False, width: int = 256, layers: int = 3, **more: Any
) -> Path:
    """A random Llama with rows of 256, the block of the types with most to choose; what it says is decided clearly."""
    tokenizer = byte_tokenizer(digits=digits, begins=begins)
    tokenizer.save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    tokens: dict[str, Any] = {"bos_token_id": None, "eos_token_id": [2, 0], "pad_token_id": 0}
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=len(tokenizer), **{**sizes, **tokens, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


TEXTS = [
    "<|im_start|>user what colour is the ball ?<|im_end|> <|im_start|>assistant red is the colour<|im_end|> ",
    "w12 w5 the white door, and 1234 more: it's naïve…\n\n  é",
]
PRECISIONS = ("f16", "q8_0", "q4_0", "q4_k_m")


def source_of(folder: Path, **changes: Any) -> Source:
    """A saved model as an exporter takes it."""
    source = Source(
        folder=folder,
        load=lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        inputs={},
        calibration=lambda _: iter(()),
        embedding_parameters=lambda model: model.get_input_embeddings().weight.numel(),
        about=Manifest(
            kind="", precision="", runtime="", model_file="", task="causal_lm", answers="text", max_length=128
        ),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        texts=lambda: TEXTS,
    )
    return replace(source, **changes)


CONVERT = gguf_conversion.convert


def converted_once(patch: pytest.MonkeyPatch, folder: Path, scratch: Path) -> Path:
    """The model in float32; conversions from here on are copies of this one, for each takes seconds."""
    plain = scratch / "plain.gguf"
    CONVERT(folder, plain, called=str(folder))
    patch.setattr(gguf_conversion, "convert", lambda _, file, **how: shutil.copyfile(plain, file))
    return plain


def exported(folder: Path, target: Path, *precisions: str, shared: Path | None = None) -> dict[str, Path]:
    """The artefacts of a model in some precisions."""
    made = {}
    for precision in precisions:
        made[precision] = target / precision
        made[precision].mkdir(parents=True)
        Gguf(precision=precision).export(source_of(folder, shared=shared), made[precision])
    return made
