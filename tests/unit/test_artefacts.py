"""What a shipped folder says of itself, and how its texts are read without the libraries of training."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from potstill.artefacts.checksums import CHECKSUMS, require_whole, write_checksums
from potstill.artefacts.decisions import decision
from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.artefacts.reading import Reader
from potstill.artefacts.standing_alone import needs_of, requirements, script_for, stand_alone
from potstill.data.rows import Row
from potstill.data.words import load_word_tokenizer, windows_of
from potstill.errors import ModelError
from potstill.run_dir import file_digest
from potstill.runtimes.answering import opened_manifest
from potstill.tasks.text_classification import TextClassification

ABOUT = Manifest(
    kind="onnx",
    precision="int8",
    runtime="onnx",
    model_file="model.onnx",
    task="text_classification",
    answers="single_label",
    labels=("a", "b", "c"),
    max_length=12,
    inputs=("input_ids", "attention_mask"),
)
TEXTS = [
    "w1 w2 iron w3",
    "",
    "[CLS] w1 [SEP] [PAD] [MASK] w2",
    "w1 " * 40,
    "🦊\x00\u202e<|end|>",
    "Iron  w1\tw2\nw3",
]


@pytest.fixture
def tokenizer(teacher_folder: Path) -> PreTrainedTokenizerBase:
    return TextClassification(max_length=12).load_tokenizer(str(teacher_folder))


def test_a_folder_says_what_was_written_of_it(tmp_path: Path) -> None:
    about = replace(ABOUT, lengths=(3, 4), packages={"onnx": "1"}, temperature=1.5)
    about.write(tmp_path)
    assert read_manifest(tmp_path) == about


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no artefact.json, so it is no exported model"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 2}', "format 2, and this version reads 1"),
        ('{"format": 1, "kind": "onnx"}', "cannot be read"),
    ],
)
def test_a_folder_that_is_no_artefact_is_one_clear_error(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "artefact.json").write_text(text)
    with pytest.raises(ModelError, match=told):
        read_manifest(tmp_path)


@pytest.mark.parametrize("second", [None, "w4 iron w5 w6 w7 w8 w9 w1 w2 w3 w4"])
def test_texts_are_read_as_in_training(teacher_folder: Path, tokenizer: PreTrainedTokenizerBase, second: str) -> None:
    """Also strings that look like control tokens, texts that are cut, and pairs, of which the longer is cut first."""
    reader = Reader(teacher_folder, replace(ABOUT, inputs=(*ABOUT.inputs, "token_type_ids")))
    for text in TEXTS:
        whole = text if second is None else f"{text}\n\n{second}"
        row = Row("r", whole, None, second_at=None if second is None else len(text) + 2)
        expected = TextClassification(max_length=12).encode([row], tokenizer, []).collate([0]).inputs
        feeds = reader.feeds([reader.encode(text if second is None else (text, second))])
        for name, found in feeds.items():
            if name in expected:
                assert found.tolist() == expected[name].tolist(), (text, name)


def test_texts_that_are_read_together_are_padded_on_the_right(teacher_folder: Path) -> None:
    reader = Reader(teacher_folder, replace(ABOUT, pad_id=7))
    one, other = (reader.encode(text) for text in ("w1", "w1 w2 w3 iron"))
    feeds = reader.feeds([one, other])
    shape = (2, len(other.ids))
    assert feeds["input_ids"].shape == feeds["attention_mask"].shape == shape
    assert feeds["input_ids"][0].tolist() == [*one.ids, *[7] * (shape[1] - len(one.ids))]
    assert feeds["attention_mask"].sum(axis=1).tolist() == [len(one.ids), len(other.ids)]


@pytest.mark.parametrize("overlap", [0, 3, 6])
@pytest.mark.parametrize("words", [0, 1, 5, 9, 40])
def test_documents_are_read_in_the_windows_of_training(teacher_folder: Path, overlap: int, words: int) -> None:
    document = [f"w{number % 9}iron" if number % 3 else "w1" for number in range(words)]
    reader = Reader(teacher_folder, replace(ABOUT, overlap=overlap))
    (expected,) = windows_of(load_word_tokenizer(str(teacher_folder)), [document], 12, overlap)
    found = reader.encode_words(document)
    assert [each.ids for each in found] == [window.tokens.tolist() for window in expected]


def test_decisions_are_those_of_the_outputs() -> None:
    logits = np.array([1.0, 3.0, -2.0], dtype=np.float32)
    warm = replace(ABOUT, temperature=2.0)
    chances = np.exp(logits.astype(np.float64) / 2) / np.exp(logits.astype(np.float64) / 2).sum()
    assert decision(warm, logits) == {"label": "b", "probability": pytest.approx(chances[1])}
    several = decision(replace(warm, answers="multi_label"), logits)
    assert several["labels"] == ["a", "b"]
    assert several["probabilities"]["c"] == pytest.approx(1 / (1 + np.exp(1.0)))
    assert decision(replace(warm, answers="regression"), logits[:1]) == {"value": 1.0}


def test_large_logits_have_probabilities() -> None:
    assert decision(ABOUT, np.array([1e4, 0, 0], dtype=np.float32))["probability"] == 1.0


def test_checksums_are_of_all_files_and_can_be_checked_without_this_package(tmp_path: Path) -> None:
    ABOUT.write(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"weights")
    for _ in range(2):  # written again, they are of the same files
        stand_alone(tmp_path, ABOUT, "# a card\n")
    lines = (tmp_path / CHECKSUMS).read_text().splitlines()
    named = {line.partition("  ")[2]: line.partition("  ")[0] for line in lines}
    assert named.keys() == {path.name for path in tmp_path.iterdir()} - {CHECKSUMS}
    assert all(file_digest(tmp_path / name) == digest for name, digest in named.items())
    assert subprocess.run(["sha256sum", "-c", "--quiet", CHECKSUMS], cwd=tmp_path, check=False).returncode == 0
    needed = (tmp_path / "requirements.txt").read_text()
    assert "onnxruntime==" in needed and "torch" not in needed and "potstill" not in needed


def test_what_reads_and_answers_holds_neither_torch_nor_transformers() -> None:
    """What a process imports counts as its memory, and an edge device has none of it."""
    code = (
        "import sys, potstill.runtimes.graph_timing, potstill.runtimes.answering\n"
        "import potstill.runtimes.onnx, potstill.runtimes.executorch\n"
        "print(sorted({'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_manifest_is_plain_json(tmp_path: Path) -> None:
    ABOUT.write(tmp_path)
    assert json.loads((tmp_path / "artefact.json").read_text())["labels"] == ["a", "b", "c"]


def whole_folder(folder: Path) -> Path:
    folder.mkdir()
    ABOUT.write(folder)
    (folder / "model.onnx").write_bytes(b"weights")
    stand_alone(folder, ABOUT, "# a card\n")
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "artefact.json", "predict.py"])
@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_a_folder_that_is_not_as_it_was_judged_is_not_answered_from(tmp_path: Path, name: str, damage: str) -> None:
    folder = whole_folder(tmp_path / "shipped")
    require_whole(folder)
    path = folder / name
    content = path.read_bytes()
    match damage:
        case "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut":
            path.write_bytes(content[:-1])
        case "removed":
            path.unlink()
    with pytest.raises(ModelError, match=rf"{name}: (another file than|not there, and it was) when it was judged"):
        require_whole(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no checksums.sha256 that can be read"),
        ("0" * 64 + "  ../outside\n", "'../outside' is no file of this folder"),
        ("short\n", "is no file of this folder"),
    ],
)
def test_checksums_that_cannot_be_are_one_clear_error(tmp_path: Path, text: str | None, told: str) -> None:
    folder = whole_folder(tmp_path / "shipped")
    if text is None:
        (folder / CHECKSUMS).unlink()
    else:
        (folder / CHECKSUMS).write_text(text)
    with pytest.raises(ModelError, match=told):
        require_whole(folder)


def test_a_runtime_that_is_not_there_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = whole_folder(tmp_path / "shipped")
    assert opened_manifest(folder) == ABOUT
    monkeypatch.setattr("potstill.runtimes.answering.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"by onnxruntime, which is not installed. Run: pip install -r .*requirements"):
        opened_manifest(folder)


def test_a_program_of_executorch_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not installed: its module is none of its own, but one of a package."""
    about = replace(ABOUT, kind="executorch", runtime="executorch", model_file="model.pte")
    script = script_for(about)
    assert script is not None and '"model.pte"' in script and "onnx" not in script
    compile(script, "predict.py", "exec")
    told = needs_of(about)
    assert "`model.pte`" in told and "`forward(input_ids, attention_mask)`" in told and "at most 12 tokens" in told
    assert needs_of(ABOUT) == "It needs neither PyTorch nor transformers."
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2+{name}")
    assert requirements(about) == "executorch==1.2\ntorch==1.2\ntokenizers==1.2\nnumpy==1.2\n"
    folder = tmp_path / "shipped"
    folder.mkdir()
    about.write(folder)
    write_checksums(folder)
    monkeypatch.setattr("potstill.runtimes.answering.find_spec", lambda name: None if name == "executorch" else 1 / 0)
    with pytest.raises(ModelError, match=r"by executorch, which is not installed. Run: pip install -r"):
        opened_manifest(folder)


def test_an_artefact_of_a_runtime_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = whole_folder(tmp_path / "shipped")
    other = replace(ABOUT, runtime="later")
    other.write(folder)
    write_checksums(folder)
    with pytest.raises(ModelError, match="it is for 'later', and there are: transformers, onnx"):
        opened_manifest(folder)
