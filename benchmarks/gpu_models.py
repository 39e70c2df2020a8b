"""Models with random weights and real shapes, and rows of random tokens for them: what `gpu.py` measures on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config

from potstill.data.packing import PackedRows, pack
from potstill.data.tokens import Tokenised
from vs_trl import Setup


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder of the Qwen2 family."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def config(self) -> Qwen2Config:
        return Qwen2Config(
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            intermediate_size=self.intermediate,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )

    def model(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
        """Such a model with random weights, drawn where it lies."""
        torch.manual_seed(seed)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(self.config, dtype=dtype).eval()


@dataclass(frozen=True)
class Sizes:
    """All shapes and counts of the benchmark."""

    large: Shape
    """A teacher of 7.6 billion parameters, 15.2 GB in bfloat16: Qwen2-7B."""
    small: Shape
    """One of 1.5 billion: Qwen2-1.5B."""
    student: Shape
    """A quarter of the layers of the small one."""
    trained: Shape
    """A quarter of the layers and half the width of the large one: 0.95 billion."""
    length: int = 512
    labelled_rows: dict[str, int] = field(default_factory=dict)
    label_batch: int = 64
    batch: int = 8
    steps: int = 12
    warmup: int = 4


REAL = Sizes(
    large=Shape(28, 3584, 28, 4, 18944, 152_064, tied=False),
    small=Shape(28, 1536, 12, 2, 8960, 151_936, tied=True),
    student=Shape(7, 1536, 12, 2, 8960, 151_936, tied=True),
    trained=Shape(7, 1792, 14, 2, 9472, 152_064, tied=False),
    labelled_rows={"large": 256, "small": 512},
)
TOY = Sizes(
    large=Shape(2, 64, 4, 2, 96, 512, tied=False),
    small=Shape(2, 32, 2, 1, 64, 384, tied=True),
    student=Shape(1, 32, 2, 1, 64, 384, tied=True),
    trained=Shape(1, 32, 2, 1, 48, 512, tied=False),
    length=24,
    labelled_rows={"large": 12, "small": 12},
    label_batch=4,
    batch=2,
    steps=2,
    warmup=1,
)


def random_rows(shape: Shape, *, count: int, length: int, seed: int = 0) -> PackedRows:
    """Rows of one example each, all of this length, of which all tokens but the first are learnt."""
    generator = np.random.default_rng(seed)
    learnt = np.arange(length) > 0
    examples = [
        Tokenised(f"row-{number}", generator.integers(2, shape.vocabulary, length).astype(np.int32), learnt)
        for number in range(count)
    ]
    return pack(examples, max_length=length, pad_id=0, packing=False)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes, for what asks a model's folder for one; the embeddings have many rows more."""
    pieces = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", model_max_length=4096
    )
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class RandomSetup(Setup):
    """The setup of `vs_trl.py` with models of random weights."""

    make_teacher: Callable[[], PreTrainedModel] = field(kw_only=True)
    make_student: Callable[[], PreTrainedModel] = field(kw_only=True)
    random: PackedRows = field(kw_only=True)

    def tokens(self) -> PackedRows:
        return self.random

    def teacher(self) -> PreTrainedModel:
        return self.make_teacher()

    def student(self) -> PreTrainedModel:
        return self.make_student().train()


def step_setup(
    teacher: Shape, student: Shape, sizes: Sizes, work: Path, device: torch.device, dtype: torch.dtype
) -> RandomSetup:
    """What the contenders of a training step share. The folder `work` gets the tokenizer that TRL asks for."""
    write_tokenizer(work)
    rows = sizes.batch * (sizes.warmup + sizes.steps)
    return RandomSetup(
        model=work,
        data=work,
        work=work,
        layers=student.layers,
        batch=sizes.batch,
        length=sizes.length,
        rows=rows,
        steps=sizes.steps,
        warmup=sizes.warmup,
        device=device,
        # It takes half a minute, which would be most of a run of toy shapes.
        compiled=device.type == "cuda",
        make_teacher=lambda: teacher.model(device, dtype),
        make_student=lambda: student.model(device, torch.float32, seed=1),
        random=random_rows(teacher, count=rows, length=sizes.length),
    )
