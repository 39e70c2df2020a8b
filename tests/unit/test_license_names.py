"""The data and the teacher of the project license-names: the same every time, held out in full, and ready to adapt."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.data.near_copies import words_alone
from potstill.data.pairs import Pair
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects import license_names
from potstill.recipe.yaml_file import load_recipe
from potstill.tasks import Seq2Seq
from potstill.tasks.seq2seq import start_token

NAMES = {"mit": "MIT License", "zlib": "'zlib License'", "rare": "Rare License"}
COUNTS = {"mit": 60, "zlib": 60, "rare": 3}


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small rules in place of those of the package, and fewer rows of each split."""
    folder = tmp_path / "package/data/rules"
    folder.mkdir(parents=True)
    (folder.parent / "licenses").mkdir()
    for licence, name in NAMES.items():
        text = f"---\nkey: {licence}\nshort_name: x\nname: {name}\n---\n"
        (folder.parent / f"licenses/{licence}.LICENSE").write_text(text)
        for number in range(COUNTS[licence]):
            words = " ".join(f"{licence}{number}word{place}" for place in range(7))
            front = f"license_expression: {licence}\nis_license_notice: yes\n"
            (folder / f"{licence}_{number}.RULE").write_text(f"---\n{front}---\n\nUnder the {licence} terms {words}\n")
    monkeypatch.setattr(license_names, "rules_folder", lambda: folder)
    sizes = {"MIN_CLASS_ROWS": 40, "TEST_ROWS": 10, "VALIDATION_ROWS": 6, "ADAPT_ROWS": 60, "TRAIN_ROWS": 40}
    for name, value in {**sizes, "ANSWERED_ROWS": 15, "VOCABULARY": 300}.items():
        monkeypatch.setattr(license_names, name, value)
    small = {"d_model": 16, "d_kv": 4, "num_heads": 2, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}
    monkeypatch.setattr(license_names, "TEACHER", small)
    return folder


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"data/{name}.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_data_and_teacher_are_written_the_same_each_time(rules: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    report = license_names.write(tmp_path / "one", Progress())
    assert torch.equal(torch.get_rng_state(), before)
    license_names.write(tmp_path / "two", Progress())
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert "120 of one licence of 2 with 40 notices or more" in report[1]
    found = {name: rows(tmp_path / "one", name) for name in ("adapt", "train", "validation", "test")}
    assert {name: len(each) for name, each in found.items()} == {"adapt": 60, "train": 40, "validation": 6, "test": 10}
    assert sum(row["target"] is None for row in found["train"]) == 25
    targets = {row["target"] for each in found.values() for row in each} - {None}
    assert targets == {"mit: MIT License", "zlib: zlib License"}
    held_out = {words_alone(row["source"]) for name in ("validation", "test") for row in found[name]}
    taught = [words_alone(row["source"]) for name in ("adapt", "train") for row in found[name]]
    assert len(held_out) == 16 and not held_out & set(taught) and len(set(taught)) == 100
    recipe = load_recipe(tmp_path / "one/recipe.yaml")
    assert isinstance(recipe.task, Seq2Seq) and recipe.generates_responses


def test_the_teacher_is_one_that_the_task_can_read(rules: Path, tmp_path: Path) -> None:
    license_names.write(tmp_path, Progress())
    task, folder = Seq2Seq(), str(tmp_path / "teacher")
    config, tokenizer, model = task.load_config(folder), task.load_tokenizer(folder), task.load_model(folder)
    task.check_tokenizer(tokenizer, config)
    assert start_token(config) == tokenizer.pad_token_id == 0 and tokenizer.eos_token_id == 1
    assert model.config.vocab_size == len(tokenizer) == 300
    written = model.generate(**tokenizer("a text", return_tensors="pt"), max_new_tokens=2)
    assert written.shape[0] == 1
    # Bytes are known whatever they are, and the string of the token that ends a text is none.
    text = "Lizenz: naïve </s> ☂"
    ids = task.encode([Pair("a", text, "mit: MIT License")], tokenizer).collate([0])
    said = ids.inputs["input_ids"][0].tolist()
    assert said.count(1) == 1 and said[-1] == 1 and tokenizer.decode(said[:-1]) == text


def test_too_few_notices_are_refused(rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(license_names, "ADAPT_ROWS", 500)
    with pytest.raises(DataError, match="usable notices in 2 classes are too few to split"):
        license_names.write(tmp_path / "demo", Progress())
    assert not (tmp_path / "demo").exists()
