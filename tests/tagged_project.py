"""Documents whose spans name fruit, metals and beasts, tagged word by word, for tests of token classification."""

import json
import random
from pathlib import Path

from tests.conftest import CLASSES, FILLERS


def write_documents(path: Path, count: int, *, seed: int, labelled: int | None = None) -> None:
    """Documents of 5 to 60 words. An entity is a word of a kind, and perhaps one of the words that follow it alone."""
    draw = random.Random(seed)
    lines = []
    for number in range(count):
        tokens: list[str] = []
        tags: list[str] = []
        length = draw.randint(5, 60)
        while len(tokens) < length:
            if draw.random() < 0.7:
                tokens.append(draw.choice(FILLERS[10:]))
                tags.append("O")
                continue
            place, kind = draw.choice(list(enumerate(sorted(CLASSES))))
            tokens.append(draw.choice(CLASSES[kind]))
            tags.append(f"B-{kind}")
            if draw.random() < 0.5:
                tokens.append(FILLERS[place])
                tags.append(f"I-{kind}")
        known = labelled is None or number < labelled
        lines.append(json.dumps({"id": f"{path.stem}-{number}", "tokens": tokens, "tags": tags if known else None}))
    path.write_text("\n".join(lines) + "\n")


def make_tagged_project(folder: Path, teacher: Path) -> Path:
    """A folder with a recipe and data; everything in it runs in seconds."""
    (folder / "data").mkdir()
    write_documents(folder / "data/adapt.jsonl", 160, seed=1)
    write_documents(folder / "data/train.jsonl", 60, seed=2, labelled=20)
    write_documents(folder / "data/validation.jsonl", 20, seed=3)
    write_documents(folder / "data/test.jsonl", 40, seed=4)
    (folder / "recipe.yaml").write_text(f"""\
task: {{kind: token_classification, max_length: 24, overlap: 6}}
data:
  train: data/train.jsonl
  validation: data/validation.jsonl
  test: data/test.jsonl
  adapt: data/adapt.jsonl
teacher: {{model: "{teacher}"}}
adapt: {{epochs: 8, batch_size: 16, learning_rate: 3e-3, precision: float32}}
label: {{batch_size: 8, batches_per_shard: 2, precision: float32}}
student: {{kind: shrunk, layers: 2, width: 1/2}}
losses: [{{kind: soft_targets, temperature: 2}}, {{kind: hard_labels}}]
train: {{epochs: 4, batch_size: 16, learning_rate: 5e-3, evaluate_every: 16, precision: float32, alpha: 0.7}}
evaluate: {{latency_rows: 8, rounds: 1, warmup: 1, batch_size: 4}}
gate: {{min_retention: 0.01}}
""")
    return folder
