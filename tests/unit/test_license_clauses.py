"""The project license-clauses: names are found whole, and no split has a notice or reference of another."""

from collections import Counter
from pathlib import Path

import pytest

from potstill.data.columns import Columns
from potstill.data.tagged import TaggedRow, read_tagged
from potstill.measure.entities import entities_of
from potstill.progress import Progress
from potstill.projects import license_clauses
from potstill.projects.license_clauses import (
    Mention,
    Notice,
    assembled,
    bare_name,
    divided,
    known_names,
    tagged,
    version_length,
)
from potstill.recipe.yaml_file import load_recipe

NAMES = {("gnu", "gpl"): "copyleft", ("gnu", "gpl", "2"): "weak-copyleft", ("mit", "license"): "permissive"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is written from the real rules."""
    folder = tmp_path_factory.mktemp("clauses")
    license_clauses.write(folder, Progress())
    return folder


def rows(project: Path, split: str) -> list[TaggedRow]:
    return list(read_tagged(project / f"data/{split}.jsonl", Columns()))


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("2", 1),
        ("v3", 1),
        (", version 2 . 0 or later .", 7),
        ("version 2 of the", 2),
        ("V 2 . 1 + ,", 5),
        ("( version 2 )", 0),
        ("or later", 0),
        ("license 2", 0),
    ],
)
def test_versions(text: str, length: int) -> None:
    assert version_length(text.split()) == length


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the MIT License .", "MIT License"),
        ("Licensed under the BSD 2 - clause license", "BSD 2 - clause license"),
        ("License : GPL version 2 or later", "GPL"),
        ("licences / LGPL", "LGPL"),
        ("see the file", ""),
    ],
)
def test_a_name_without_what_stands_around_it(text: str, name: str) -> None:
    assert bare_name(tuple(text.split())) == tuple(name.split())


def test_the_longest_name_at_each_place_is_an_entity() -> None:
    words = ["The", "GNU", "GPL", "2", "or", "GNU", "GPL", ",", "not", "GNU", "or", "the", "MIT", "License", "License"]
    assert entities_of(tagged(words, NAMES, 3)) == [("weak-copyleft", 1, 4), ("copyleft", 5, 7), ("permissive", 12, 14)]
    later = ["MIT", "License", ",", "version", "1", ".", "1", "GNU", "GPL"]
    assert entities_of(tagged(later, NAMES, 3)) == [("permissive", 0, 7), ("copyleft", 7, 9)]


def test_a_name_of_several_kinds_stands_for_the_most_frequent(tmp_path: Path) -> None:
    licence = tmp_path / "mit.LICENSE"
    licence.write_text("---\nkey: mit\nshort_name: MIT License\nname: 'X11 Style'\nspdx_license_key: MIT\n---\nText")
    mentions = [Mention(("the", "L", "licence"), kind) for kind in ("copyleft", "other", "other")]
    # Of single words, abbreviations that occur twice are names, as they are written.
    mentions += [Mention((word,), "copyleft") for word in ("GPL", "GPL", "Free", "Free", "ABC", "see")]
    assert known_names(mentions, [licence]) == {
        ("mit", "license"): "permissive",
        ("l", "licence"): "other",
        ("x11", "style"): "permissive",
        ("GPL",): "copyleft",
    }


def test_documents_are_the_same_every_time_and_made_of_their_parts() -> None:
    notices = [Notice(str(number), f"notice {number} of the GNU GPL", "copyleft") for number in range(9)]
    mentions = [Mention(("see", "Zlib", "License"), "other") for number in range(9)]
    names = NAMES | {("zlib", "license"): "other"}
    one, again = (list(assembled("test", 30, notices, mentions, names)) for _ in range(2))
    assert one == again
    for words, tags in one:
        kinds = Counter(kind for kind, _, _ in entities_of(tags))
        assert len(words) == len(tags)
        assert kinds["copyleft"] == words.count("notice") and 2 <= kinds["other"] <= 5


def test_the_recipe_and_its_data_belong_together(project: Path) -> None:
    recipe = load_recipe(project / "recipe.yaml", [])
    kinds = {"O"} | {f"{p}-{kind}" for p in "BI" for kind in ("copyleft", "other", "permissive", "weak-copyleft")}
    for split in ("train", "validation", "test", "adapt"):
        assert {tag for row in rows(project, split) for tag in row.classes} == kinds
        assert recipe.task.label_names({name: rows(project, name) for name in ("train", "validation", "test")})
    assert sum(row.labelled for row in rows(project, "train")) == license_clauses.LABELLED


def test_each_split_has_rules_of_its_own(project: Path) -> None:
    mentions = [Mention((f"M{number}",), "other") for number in range(100)]
    parts = divided(mentions, lambda mention: mention.words[0])
    assert {split: len(part) for split, part in parts.items()} == {
        "test": 20,
        "validation": 10,
        "adapt": 35,
        "train": 35,
    }
    assert {mention for part in parts.values() for mention in part} == set(mentions)
    documents = {split: {row.text for row in rows(project, split)} for split in ("test", "adapt", "train")}
    assert len(documents["test"]) == 300 and not documents["test"] & (documents["adapt"] | documents["train"])
