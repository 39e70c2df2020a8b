"""Tiny language models that llama.cpp can run: with a tokenizer of bytes, as it knows them, and a chat template."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from tests.conftest import CHATML, COLOURS, FILLERS, THINGS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = ["user", "assistant", "the", "is", "what", "colour", "?", *COLOURS, *THINGS, *FILLERS]


def byte_tokenizer(*, digits: bool = False) -> PreTrainedTokenizerFast:
    """Of bytes, with pieces learnt of the words of the chat project; `digits` stand alone, as in SmolLM2's."""
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
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def write_llama(folder: Path, *, digits: bool = False, width: int = 256, layers: int = 3, **more: Any) -> Path:
    """A random Llama with rows of 256, the block of the types with most to choose; what it says is decided clearly."""
    tokenizer = byte_tokenizer(digits=digits)
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
