"""What a recipe names as its rows: folders and patterns of files, folders of `datasets`, and rows of the hub."""

import json
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from potstill.data.columns import Columns
from potstill.data.hub_rows import HubName
from potstill.data.prepare import DataSettings, prepare
from potstill.data.reading import Reading
from potstill.data.rows import class_in, classes_in, read_rows
from potstill.data.sources import source_at
from potstill.data.tagged import read_tagged
from potstill.errors import DataError
from tests.row_forms import as_lines, as_parquet, as_stream, as_table, write_saved
from tests.unit.test_conll import REAL

ROWS = [{"text": f"text {number}", "label": "xy"[number % 2]} for number in range(6)]


def files(folder: Path, **contents: Any) -> Path:
    """A folder of files, whose names are given with `__` in place of a point."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = folder / name.replace("__", ".").replace("_of_", "-of-")
        path.write_bytes(content if isinstance(content, bytes) else as_lines(content))
    return folder


def test_shards_are_read_in_the_order_of_their_names_wherever_the_system_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"part-{number:02}.jsonl" for number in range(6)]
    for name, row in zip(names, ROWS, strict=True):
        (tmp_path / name).write_bytes(as_lines([row]))
    listed = list(tmp_path.iterdir())
    for seed in range(4):
        shuffled = random.Random(seed).sample(listed, len(listed))
        monkeypatch.setattr(Path, "iterdir", lambda self, shuffled=shuffled: iter(shuffled))
        monkeypatch.setattr(Path, "glob", lambda self, pattern, shuffled=shuffled: iter(shuffled))
        for path in (tmp_path, tmp_path / "part-*.jsonl"):
            rows = read_rows(path, Columns())
            assert [row.text for row in rows] == [row["text"] for row in ROWS]
            assert rows.place(4) == f"{tmp_path}/part-04.jsonl: line 1"


def test_an_id_does_not_depend_on_the_shard_or_its_place(tmp_path: Path) -> None:
    one = files(tmp_path / "one", a__jsonl=ROWS)
    other = files(tmp_path / "other", a__jsonl=ROWS[4:], b__jsonl=ROWS[:1], c__jsonl=ROWS[1:4])
    ids = [{row.text: row.id for row in read_rows(path, Columns())} for path in (one, other)]
    assert ids[0] == ids[1] and len(ids[0]) == 6


def test_two_rows_of_one_id_are_named_with_their_files(tmp_path: Path) -> None:
    named = [row | {"id": str(number % 5)} for number, row in enumerate(ROWS)]
    path = files(tmp_path, a__jsonl=named[:4], b__jsonl=named[4:])
    with pytest.raises(DataError, match=r'Duplicate id "0": a\.jsonl: line 1, b\.jsonl: line 2\.'):
        read_rows(path, Columns())


@pytest.mark.parametrize(
    ("contents", "path", "message"),
    [
        ({"README__md": b"x"}, "", "a folder without files of rows; expected .jsonl"),
        (
            {"rows__xlsx": b"PK"},
            "",
            "a folder without files of rows.*rows.xlsx is none of them. With pandas: read_excel",
        ),
        ({"a__jsonl": ROWS, "b__csv": as_table(ROWS)}, "", r"several forms, JSON lines \(a.jsonl\) and CSV \(b.csv\)"),
        ({"a__jsonl": ROWS, "b__csv": as_table(ROWS)}, "*", "several forms"),
        ({"a__jsonl": ROWS, "b__xlsx": b"PK"}, "", r"b.xlsx beside a.jsonl cannot be read.*a pattern: here/\*\.jsonl"),
        ({"train__jsonl": ROWS, "test__jsonl": ROWS}, "", r"several splits, test.jsonl, train.jsonl.*test\*\.jsonl"),
        (
            {"train-00000_of_00001__parquet": as_parquet(ROWS), "validation-00000_of_00001__parquet": as_parquet(ROWS)},
            "*.parquet",
            r"several splits, train-0.*validation-0.*such as train\*\.parquet",
        ),
        ({"a__jsonl": ROWS, "a__jsonl__gz": b"\x1f\x8b"}, "", "a.jsonl and a.jsonl.gz are one file"),
        ({"a__jsonl": ROWS}, "b-*.jsonl", "no file has such a name"),
        ({"a__jsonl": ROWS}, "[b].jsonl", "no file has such a name"),
        ({"a__jsonl": b"", "b__jsonl": b"\n"}, "", "0 rows. Nothing written"),
        ({"a__jsonl": ROWS, "b__jsonl": b"{"}, "", r"here/b\.jsonl: line 1: expecting"),
        ({"a__parquet": as_parquet(ROWS), "b__parquet": b"PAR1"}, "", r"here/b\.parquet: not a readable Parquet"),
        ({"notes__txt": b"a plain text\n"}, "", "a folder without files of rows.*Write one row a line"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, contents: dict[str, Any], path: str, message: str
) -> None:
    files(tmp_path / "here", **contents)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / "here" / path, Columns())
    assert "\n" not in str(caught.value)


def test_a_folder_of_folders_says_how_they_are_named(tmp_path: Path) -> None:
    files(tmp_path / "here/one", a__csv=as_table(ROWS[:3]))
    files(tmp_path / "here/two", a__csv=as_table(ROWS[3:]))
    with pytest.raises(DataError, match=r"named by a pattern: here/\*/\*\.csv"):
        read_rows(tmp_path / "here", Columns())
    assert len(read_rows(tmp_path / "here/*/*.csv", Columns())) == len(read_rows(tmp_path / "here/**/*.csv", Columns()))


def test_what_lies_beside_shards_is_none_and_empty_shards_are_read(tmp_path: Path) -> None:
    aside = {"_SUCCESS": b"", "__part-0__jsonl__crc": b"crc", "README__md": b"# rows", "dataset_infos__json": b"{}"}
    path = files(tmp_path, **aside, LICENSE=b"", a__jsonl=ROWS, b__jsonl=b"")
    assert len(read_rows(path, Columns())) == 6


def test_a_file_with_the_name_of_a_pattern_is_that_file(tmp_path: Path) -> None:
    odd = files(tmp_path / "data[1]", rows__jsonl=ROWS)
    assert len(read_rows(odd / "rows.jsonl", Columns())) == 6
    assert len(read_rows(odd / "*.jsonl", Columns())) == 6
    (odd / "a[b].jsonl").write_bytes(as_lines(ROWS[:2]))
    assert len(read_rows(odd / "a[b].jsonl", Columns())) == 2


def test_sentences_are_read_of_folders(tmp_path: Path) -> None:
    path = files(tmp_path, a__conll=REAL.encode(), b__conll=b"more O\n", c__txt=REAL.replace("EU", "UN").encode())
    assert len(read_tagged(path, Columns())) == 7


def settings(**named: Any) -> DataSettings:
    return DataSettings(**{"train": "train.jsonl", "validation": 0.2, "test": "test.jsonl", **named}, near_copies=None)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"train": "*.jsonl"}, "several splits"),
        (
            {"train": "t*.jsonl", "test": "ta.jsonl"},
            r"data.test: .*ta\.jsonl is a file of data.train too. Name another",
        ),
        ({"train": ".", "test": "ta.jsonl"}, "data.test: .*ta.jsonl is a file of data.train too"),
        ({"train": "t?.jsonl", "test": "./t*.jsonl"}, "data.test: .*/ta.jsonl is a file of data.train too"),
        ({"train": "link", "test": "ta.jsonl"}, "data.test: .*/ta.jsonl is a file of data.train too"),
        ({"train": "ta.jsonl", "test": "ta.jsonl"}, "data.test: .*/ta.jsonl is the file of data.train too"),
        ({"train": "hf:o/n::train", "test": "hf:o/n::train"}, "data.test: hf:o/n::train is the file of data.train too"),
        ({"train": "none", "test": "nothing"}, r"none: no such file(.|\n)*nothing: no such file"),
    ],
)
def test_no_file_is_of_two_splits(tmp_path: Path, named: dict[str, Any], message: str) -> None:
    files(tmp_path, ta__jsonl=ROWS[:3], tb__jsonl=ROWS[3:])
    (tmp_path / "link").symlink_to(tmp_path)
    if named["train"] == "*.jsonl":
        files(tmp_path, train__jsonl=ROWS, test__jsonl=ROWS)
    with pytest.raises(DataError, match=message):
        prepare(settings(**named), tmp_path, read_rows)


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    "many": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "List"},
    "old": [{"names": ["a", "b"], "_type": "ClassLabel"}],
    "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    "ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "length": -1, "_type": "Sequence"},
    "in": {"label": {"names": ["p", "q"], "_type": "ClassLabel"}, "n": {"dtype": "int64", "_type": "Value"}},
    "each": {"feature": {"k": {"names": ["p", "q"], "_type": "ClassLabel"}}, "_type": "Sequence"},
}
SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "label": pa.int64(),
        "many": pa.list_(pa.int64()),
        "old": pa.list_(pa.int64()),
        "tokens": pa.list_(pa.string()),
        "ner_tags": pa.list_(pa.int64()),
        "in": pa.struct({"label": pa.int64(), "n": pa.int64()}),
        "each": pa.struct({"k": pa.list_(pa.int64())}),
    },
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)
IDS = [
    {
        "text": f"text {number}",
        "label": label,
        "many": [0, 1],
        "old": [] if number else [1],
        "tokens": ["Ann", "came"],
        "ner_tags": tags,
        "in": {"label": 1, "n": 1},
        "each": {"k": [0, 1]},
    }
    for number, (label, tags) in enumerate([(0, [1, 0]), (1, [0, 0]), (-1, [-1, -1]), (None, None)])
]


@pytest.mark.parametrize("form", ["parquet", "arrow", "saved"])
def test_classes_have_the_names_that_features_give_them(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"rows.{form}"
    if form == "saved":
        write_saved(path, IDS, SCHEMA)
    else:
        path.write_bytes({"parquet": as_parquet, "arrow": as_stream}[form](IDS, SCHEMA))
    ignored = Reading(ignore=frozenset({"many", "old", "ner_tags", "in", "each", "label"}))
    assert [row.label for row in read_rows(path, Columns(), how=Reading())] == ["neg", "pos", None, None]
    many = read_rows(path, Columns(label="many"), classes_in, how=ignored_but(ignored, "many"))
    assert many[0].label == ("a", "b")
    old = read_rows(path, Columns(label="old"), classes_in, how=ignored_but(ignored, "old"))
    assert [row.label for row in old] == [("b",), (), (), ()]
    tagged = read_tagged(path, Columns(tags="ner_tags"), how=ignored_but(ignored, "ner_tags"))
    assert [row.tags for row in tagged] == [("B-PER", "O"), ("O", "O"), None, None]


def ignored_but(how: Reading, name: str) -> Reading:
    return Reading(ignore=how.ignore - {name})


def test_classes_inside_of_objects_have_their_names_too() -> None:
    from potstill.data.class_names import namings

    named = namings(FEATURES)
    assert named["in"]({"label": 1, "n": 1}) == {"label": "q", "n": 1}
    assert named["each"]({"k": [0, -1]}) == {"k": ["p", None]}
    assert named["each"]([{"k": 1}]) == [{"k": "q"}]
    assert set(named) == {"label", "many", "old", "ner_tags", "in", "each"}


def test_a_class_without_a_name_and_a_word_without_a_tag_are_errors_of_their_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(as_parquet([*IDS[:2], IDS[2] | {"label": 2}], SCHEMA))
    with pytest.raises(DataError, match=r'row 2 "label": class 2, and the file names 2 classes, from 0 on\.'):
        read_rows(path, Columns())
    assert len(read_rows(path, Columns(), how=Reading(on_error="skip"))) == 2
    path.write_bytes(as_parquet([IDS[0] | {"ner_tags": [1, -1]}], SCHEMA))
    with pytest.raises(DataError, match=r'row 0 "ner_tags": expected text, found NoneType at word 1\. Write O'):
        read_tagged(path, Columns(tags="ner_tags"), how=Reading(ignore=frozenset({"label", "many"})))


@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b'{"info": 3}', b'{"info": {"features": []}}', b"null"])
def test_features_that_are_none_give_no_names(tmp_path: Path, metadata: bytes) -> None:
    schema = pa.schema({"text": pa.string(), "label": pa.int64()}, metadata={b"huggingface": metadata})
    (tmp_path / "a.parquet").write_bytes(as_parquet([{"text": "a", "label": 1}], schema))
    assert read_rows(tmp_path / "a.parquet", Columns())[0].label == "1"


def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-X"])),
        }
    )
    values = {"text": ["a", "b", "c"], "label": [0, 1, -1], "tags": [[0, 1], [1], [0]]}
    whole = datasets.Dataset.from_dict(values, features=features)
    datasets.DatasetDict(train=whole, test=whole.select([2, 1])).save_to_disk(tmp_path / "all")
    whole.to_parquet(tmp_path / "whole.parquet")
    expected = [("a", "neg"), ("b", "pos"), ("c", None)]
    for path in (tmp_path / "all:train", tmp_path / "all/train", tmp_path / "whole.parquet"):
        assert [(row.text, row.label) for row in read_rows(path, Columns(), how=only_text())] == expected
    assert [row.text for row in read_rows(tmp_path / "all:test", Columns(), how=only_text())] == ["c", "b"]
    assert (source_at(tmp_path / "all:train").about or "").startswith("1 file, fingerprint ")
    for name, message in (
        ("all", "holds several splits; there are: train, test. Name one, such as all:train"),
        ("all:dev", "there is no split 'dev'; there are: train, test"),
        ("all/train:train", "it holds the rows of one split. Leave :train out"),
    ):
        with pytest.raises(DataError, match=message):
            read_rows(tmp_path / name, Columns())


def only_text() -> Reading:
    return Reading(ignore=frozenset({"tags"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "data-00001-of-00002.arrow").unlink(), "data-00001-of-00002.arrow is missing"),
        (lambda folder: (folder / "state.json").write_text("{"), "state.json: not readable as JSON"),
        (lambda folder: (folder / "state.json").write_text("{}"), "every file of rows is missing"),
        (
            lambda folder: (folder / "state.json").write_text('{"_data_files": [{"filename": "../secret.arrow"}]}'),
            "secret.arrow is missing",
        ),
        (lambda folder: cut(folder / "data-00000-of-00002.arrow", 8), r"its end is missing \(file truncated\?\)"),
        (lambda folder: cut(folder / "data-00000-of-00002.arrow", 100), "its end is missing"),
        (
            lambda folder: (folder / "state.json").write_text(
                (folder / "state.json").read_text().replace("{", '{"_indices_data_files": [{"filename": "i"}], ', 1)
            ),
            "only some of its rows count",
        ),
    ],
)
def test_a_saved_folder_that_is_not_whole_is_named(tmp_path: Path, change: Any, message: str) -> None:
    folder = write_saved(tmp_path / "saved", ROWS)
    (tmp_path / "secret.arrow").write_bytes(as_stream(ROWS))
    change(folder)
    with pytest.raises(DataError, match=message):
        read_rows(folder, Columns())


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:-size])


def test_no_flipped_byte_of_an_arrow_file_is_anything_else_than_rows_or_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    whole = as_stream([{"text": f"{n} text", "label": "xy"[n % 2]} for n in range(30)])
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0x2A
        path.write_bytes(damaged)
        try:
            assert len(read_rows(path, Columns())) <= 30
        except DataError as error:
            assert str(error).startswith(str(path))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that is a folder: rows in two configs, the first with two splits."""
    monkeypatch.chdir(files(tmp_path / "elsewhere"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files(
        tmp_path / "hub/org/name/first",
        train__parquet=as_parquet(IDS, SCHEMA),
        test__parquet=as_parquet(IDS[:2], SCHEMA),
    )
    files(tmp_path / "hub/org/name/second", train__parquet=as_parquet(ROWS))
    (tmp_path / "hub/org/name/README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files:\n  - {split: train, path: first/train.parquet}\n"
        "  - {split: test, path: first/test.parquet}\n- config_name: second\n  data_files: second/train.parquet\n---\n"
    )
    load = datasets.load_dataset

    def of_folder(name: str, config: str | None, **given: Any) -> Any:
        revision = given.pop("revision")
        assert revision in (None, "v1")
        return load(str(tmp_path / "hub" / name), config, cache_dir=str(tmp_path / "cache"), **given)

    monkeypatch.setattr(datasets, "load_dataset", of_folder)
    return tmp_path


def test_rows_of_the_hub_are_read_with_the_names_of_their_classes(hub: Path) -> None:
    how = only_text()
    how = Reading(ignore=frozenset({"many", "old", "ner_tags", "in", "each", "tokens"}))
    path = Path("hf:org/name@v1:first:train")
    rows = read_rows(path, Columns(), how=how)
    assert [(row.text, row.label) for row in rows] == [
        ("text 0", "neg"),
        ("text 1", "pos"),
        ("text 2", None),
        ("text 3", None),
    ]
    assert rows.place(2) == "hf:org/name@v1:first:train: row 2"
    assert (how.files[path].source or "").startswith("fingerprint ")
    assert len(read_rows(Path("hf:org/name:second"), Columns())) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:org/name:first", "it has several splits: train, test. Name one, such as hf:org/name:first:train"),
        ("hf:org/name:train", "BuilderConfig 'train' not found.*a split alone is named hf:org/name::train"),
        ("hf:org/name:first:dev", 'cannot be loaded: Unknown split "dev"'),
        ("hf:org/other", "hf:org/other: cannot be loaded: "),
        ("hf:name", r"hf:name: not rows of the hub; expected hf:organisation/name\[:config\[:split\]\]"),
        ("hf:https://x/y", "not rows of the hub"),
        ("hf:../name", "cannot be loaded|not rows of the hub|lies in the working directory"),
        ("hf:here/name", "here/name lies in the working directory too"),
    ],
)
def test_rows_of_the_hub_that_are_not_there_are_one_error(hub: Path, name: str, message: str) -> None:
    (hub / "elsewhere/here/name").mkdir(parents=True)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(Path(name), Columns())
    assert "\n" not in str(caught.value)


def test_the_hub_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"rows of the hub need an extra: pip install 'potstill\[datasets\]'"):
        read_rows(Path("hf:org/name"), Columns())


def test_what_a_name_of_the_hub_says() -> None:
    found = HubName.of("hf:org/na.me@refs/pr/1:config:train[:10%]")
    assert (found.id, found.revision, found.config, found.split) == ("org/na.me", "refs/pr/1", "config", "train[:10%]")
    assert HubName.of("hf:a/b::test").config is None and HubName.of("hf:a/b::test").split == "test"


def test_a_bad_row_of_the_hub_is_named(hub: Path) -> None:
    files(hub / "hub/org/bad", train__jsonl=[{"text": "a", "label": "x"}, {"text": None, "label": "x"}])
    with pytest.raises(DataError, match='hf:org/bad: row 1 "text": expected text, found NoneType'):
        read_rows(Path("hf:org/bad"), Columns(), class_in)
