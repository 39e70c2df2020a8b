"""Tiny random encoder-decoders of each family, and a small task of pairs that they can learn."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from potstill.tasks import Seq2Seq
from tests.conftest import COLOURS, FILLERS, THINGS

SPECIAL = {
    "t5": ["<pad>", "</s>", "<unk>"],
    "mt5": ["<pad>", "</s>", "<unk>"],
    "bart": ["<s>", "<pad>", "</s>", "<unk>"],
    "marian": ["</s>", "<unk>", "<pad>"],
}
WORDS = ["the", "is", "what", "colour", "?", *COLOURS, *THINGS, *FILLERS]
_OF_T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 4,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
_OF_BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    # Small models learn little from BART's own.
    "init_std": 0.1,
}
# Marian begins with padding, and ends with its first token.
_OF_MARIAN = {"eos_token_id": 0, "forced_eos_token_id": 0, "pad_token_id": 2, "decoder_start_token_id": 2}
# So that its words are seen beside its positions, as in those that are published.
_OF_MARIAN |= {"scale_embedding": True}
SIZES = {"t5": _OF_T5, "mt5": _OF_T5, "bart": _OF_BART, "marian": _OF_BART | _OF_MARIAN}


def pair_tokenizer(family: str, **special: str) -> PreTrainedTokenizerFast:
    """Of whole words, with what the family puts around a text."""
    words = [*SPECIAL[family], *WORDS]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL[family]])
    around = [(token, words.index(token)) for token in ("<s>", "</s>") if token in words]
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if family == "bart" else "$A </s>", special_tokens=around
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", "attention_mask"],
        **{"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"} | special,
    )


def pair_model(family: str, seed: int, **sizes: Any) -> PreTrainedModel:
    """Random weights, all of them off their starting points, and what is made anew where a model is loaded as it is."""
    torch.manual_seed(seed)
    model = Seq2Seq().new_model(pair_config(family, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in (model._keys_to_ignore_on_save or ()):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model.eval()


def pair_config(family: str, **sizes: Any) -> PretrainedConfig:
    values = {"vocab_size": len(SPECIAL[family]) + len(WORDS)} | SIZES[family] | sizes
    config: PretrainedConfig = CONFIG_MAPPING[family](**values)
    return config


def make_pair_teacher(folder: Path, family: str) -> Path:
    """A random encoder-decoder as a folder."""
    torch.manual_seed(13)
    Seq2Seq().new_model(pair_config(family)).save_pretrained(folder)
    pair_tokenizer(family).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pair_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of 4 + 3 layers."""
    return make_pair_teacher(tmp_path_factory.mktemp("pair_teacher"), "t5")


def write_pairs(path: Path, count: int, *, seed: int, answered: int | None = None) -> None:
    """Sources name a thing among other words; targets tell its colour, which is the same each time."""
    draw = random.Random(seed)
    colours = {thing: COLOURS[number % len(COLOURS)] for number, thing in enumerate(THINGS)}
    lines = []
    for number in range(count):
        thing, fillers = draw.choice(THINGS), [draw.choice(FILLERS) for _ in range(draw.randint(1, 5))]
        source = f"{' '.join(fillers)} what colour is the {thing} ?"
        target = f"{colours[thing]} is the {thing}" if answered is None or number < answered else None
        lines.append(json.dumps({"id": f"{path.stem}-{number}", "source": source, "target": target}))
    path.write_text("\n".join(lines) + "\n")


def make_pair_project(folder: Path, teacher: Path) -> Path:
    """A folder with a recipe for an encoder-decoder and pairs; everything in it runs in seconds."""
    (folder / "data").mkdir()
    for name, count, seed in (("adapt", 240, 1), ("train", 80, 2), ("validation", 15, 3), ("test", 30, 4)):
        write_pairs(folder / f"data/{name}.jsonl", count, seed=seed)
    (folder / "recipe.yaml").write_text(f"""\
task: {{kind: seq2seq, max_length: 24, max_target_length: 8}}
data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  test: data/test.jsonl
  adapt: data/adapt.jsonl
  near_copies: null
teacher: {{kind: pretrained, model: "{teacher}"}}
adapt: {{epochs: 6, batch_size: 16, learning_rate: 1e-2, precision: float32}}
label:
  encoding: {{kind: low_rank, head: 8, rank: 16}}
  temperatures: [1, 2]
  batch_size: 8
  batches_per_shard: 2
  precision: float32
student: {{kind: shrunk, layers: 2, width: 1/2}}
train: {{epochs: 6, batch_size: 8, micro_batch_size: 4, learning_rate: 1e-2, evaluate_every: 10, precision: float32}}
evaluate: {{prompts: 3, rounds: 1, warmup: 1, new_tokens: 4, generations: 2, generation_tokens: 6}}
gate: {{min_retention: 0.01}}
""")
    return folder
