"""A tiny random encoder and a tiny random chat model, each with a small task that it can learn."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run side by side, and what they compute is too small for several threads. The commands that they run inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

CLASSES = {"fruit": ["apple", "pear", "plum"], "metal": ["iron", "tin", "zinc"], "beast": ["wolf", "bear", "lynx"]}
FILLERS = [f"w{number}" for number in range(60)]


def word_pieces() -> list[str]:
    """The vocabulary of the tiny encoder: whole words."""
    words = [word for members in CLASSES.values() for word in members] + FILLERS
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 4 x 32 BERT without a head for any task, as a folder."""
    return write_teacher(tmp_path_factory.mktemp("teacher"), word_pieces())


@pytest.fixture(scope="session")
def spelling_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with words that no row has, and single characters to spell words with."""
    return write_teacher(tmp_path_factory.mktemp("spelling"), spelling_pieces())


def spelling_pieces() -> list[str]:
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    more = [*characters, *(f"##{character}" for character in characters), *(f"other{number}" for number in range(200))]
    vocabulary = word_pieces()
    return vocabulary[:5] + more + vocabulary[5:]


def write_teacher(folder: Path, pieces: list[str]) -> Path:
    vocabulary = {token: number for number, token in enumerate(pieces)}
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    BertTokenizer(tokenizer_object=tokenizer, vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int, *, seed: int, labelled: int | None = None) -> None:
    """Rows whose class is that of the one word which is no filler."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        label = draw.choice(sorted(CLASSES))
        words = [draw.choice(FILLERS) for _ in range(draw.randint(4, 14))]
        words.insert(draw.randrange(len(words)), draw.choice(CLASSES[label]))
        known = labelled is None or number < labelled
        row = {"id": f"{path.stem}-{number}", "text": " ".join(words), "label": label if known else None}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def project(tmp_path: Path, teacher_folder: Path) -> Path:
    return make_project(tmp_path, teacher_folder)


def make_project(tmp_path: Path, teacher_folder: Path) -> Path:
    """A folder with a recipe and data; everything in it runs in seconds."""
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data/adapt.jsonl", 120, seed=1)
    write_rows(tmp_path / "data/train.jsonl", 90, seed=2, labelled=30)
    write_rows(tmp_path / "data/validation.jsonl", 30, seed=3)
    write_rows(tmp_path / "data/test.jsonl", 60, seed=4)
    (tmp_path / "recipe.yaml").write_text(f"""\
task: {{kind: text_classification, max_length: 24}}
data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  test: data/test.jsonl
  adapt: data/adapt.jsonl
teacher: {{kind: pretrained, model: "{teacher_folder}"}}
adapt: {{epochs: 16, batch_size: 16, learning_rate: 3e-3, precision: float32}}
label: {{batch_size: 8, batches_per_shard: 2, precision: float32}}
student: {{kind: shrunk, layers: 2, width: 1/2}}
train: {{epochs: 4, batch_size: 16, micro_batch_size: 4, learning_rate: 5e-3, evaluate_every: 7, precision: float32}}
evaluate: {{latency_rows: 8, rounds: 1, warmup: 1, batch_size: 4}}
gate: {{min_retention: 0.01}}
""")
    return tmp_path


CHATML = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|> ' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"""
COLOURS = ["red", "green", "blue", "white"]
THINGS = ["ball", "car", "hat", "door", "cup"]


@pytest.fixture(scope="session")
def chat_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers with a tokenizer of whole words and a chat template."""
    return write_chat_teacher(tmp_path_factory.mktemp("chat_teacher"))


def write_chat_teacher(folder: Path) -> Path:
    words = ["<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "user", "assistant", "the", "is", "what", "colour", "?"]
    words += [*COLOURS, *THINGS, *FILLERS]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True) for token in words[:4]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>", chat_template=CHATML
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=3,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_dialogues(path: Path, count: int, *, seed: int) -> None:
    """Answers tell the colour that each thing has once and for all."""
    draw = random.Random(seed)
    colours = {thing: COLOURS[number % len(COLOURS)] for number, thing in enumerate(THINGS)}
    lines = []
    for number in range(count):
        messages = []
        for _ in range(draw.randint(1, 2)):
            thing, filler = draw.choice(THINGS), " ".join(draw.choice(FILLERS) for _ in range(2))
            messages += [
                {"role": "user", "content": f"{filler} what colour is the {thing} ?"},
                {"role": "assistant", "content": f"{colours[thing]} is the colour"},
            ]
        lines.append(json.dumps({"id": f"{path.stem}-{number}", "messages": messages}))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def chat_project(tmp_path: Path, chat_teacher_folder: Path) -> Path:
    return make_chat_project(tmp_path, chat_teacher_folder)


def make_chat_project(tmp_path: Path, chat_teacher_folder: Path) -> Path:
    """A folder with a recipe for a chat model and dialogues; everything in it runs in seconds."""
    (tmp_path / "data").mkdir()
    for name, count, seed in (("adapt", 150, 1), ("train", 60, 2), ("validation", 15, 3), ("test", 30, 4)):
        write_dialogues(tmp_path / f"data/{name}.jsonl", count, seed=seed)
    (tmp_path / "recipe.yaml").write_text(f"""\
task: {{kind: causal_lm, max_length: 64}}
data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  test: data/test.jsonl
  adapt: data/adapt.jsonl
  near_copies: null
teacher: {{kind: pretrained, model: "{chat_teacher_folder}"}}
adapt: {{epochs: 25, batch_size: 4, learning_rate: 1e-2, precision: float32}}
label:
  encoding: {{kind: low_rank, head: 8, rank: 16}}
  temperatures: [1, 2]
  batch_size: 8
  batches_per_shard: 2
  precision: float32
student: {{kind: shrunk, layers: 2, width: 32}}
train: {{epochs: 8, batch_size: 4, micro_batch_size: 2, learning_rate: 1e-2, evaluate_every: 10, precision: float32}}
evaluate: {{prompts: 3, rounds: 1, warmup: 1, new_tokens: 4, generations: 2, generation_tokens: 6}}
gate: {{min_retention: 0.01}}
""")
    return tmp_path
