"""The same rows in every form that is read, for tests of files."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

Rows = Sequence[dict[str, Any]]


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def names_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_list(rows: Rows) -> bytes:
    return json.dumps(list(rows), indent=1).encode()


def as_table(rows: Rows, mark: str = ",") -> bytes:
    """Null is an empty field; what is no text stands as JSON."""
    text = io.StringIO()
    table = csv.writer(text, delimiter=mark)
    table.writerow(names_of(rows))
    for row in rows:
        values = [row.get(name) for name in names_of(rows)]
        table.writerow(
            ["" if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]
        )
    return text.getvalue().encode()


def as_conll(rows: Rows) -> bytes:
    """Words with their tags, or _ where nobody tagged them; ids are left out."""
    sentences = [zip(row["tokens"], row["tags"] or ["_"] * len(row["tokens"]), strict=True) for row in rows]
    return "".join("".join(f"{word} {tag}\n" for word, tag in each) + "\n" for each in sentences).encode()


def as_arrow(rows: Rows, schema: pa.Schema | None = None) -> pa.Table:
    if schema is None:
        return pa.table({name: [row.get(name) for row in rows] for name in names_of(rows)})
    return pa.Table.from_pylist(list(rows), schema)


def as_parquet(rows: Rows, schema: pa.Schema | None = None) -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(as_arrow(rows, schema), file)
    return file.getvalue()


def as_stream(rows: Rows, schema: pa.Schema | None = None) -> bytes:
    table, file = as_arrow(rows, schema), io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def as_arrow_file(rows: Rows) -> bytes:
    table, file = as_arrow(rows), io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def write_saved(folder: Path, rows: Rows, schema: pa.Schema | None = None, shards: int = 2) -> Path:
    """A folder as `save_to_disk` of datasets writes it."""
    folder.mkdir(parents=True)
    schema = as_arrow(rows, schema).schema
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    for number, name in enumerate(names):
        part = rows[len(rows) * number // shards : len(rows) * (number + 1) // shards]
        (folder / name).write_bytes(as_stream(part, schema))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "ab12", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _file(name: str, content: Callable[[Rows], bytes]) -> Callable[[Path, Rows], Path]:
    def write(folder: Path, rows: Rows) -> Path:
        (folder / name).write_bytes(content(rows))
        return folder / name

    return write


def _shards(suffix: str, content: Callable[[Rows], bytes], path: str) -> Callable[[Path, Rows], Path]:
    def write(folder: Path, rows: Rows) -> Path:
        (folder / "shards").mkdir()
        for number, part in enumerate((rows[:2], rows[2:])):
            (folder / f"shards/part-{number}{suffix}").write_bytes(content(part))
        (folder / "shards/_SUCCESS").touch()
        (folder / "shards/README.md").write_text("of many rows")
        return folder / path

    return write


FORMS: dict[str, Callable[[Path, Rows], Path]] = {
    "lines": _file("rows.jsonl", as_lines),
    "list": _file("rows.json", as_list),
    "csv": _file("rows.csv", as_table),
    "semicolons": _file("rows.csv", lambda rows: as_table(rows, ";")),
    "tsv": _file("rows.tsv", lambda rows: as_table(rows, "\t")),
    "with a mark": _file("rows.csv", lambda rows: b"\xef\xbb\xbf" + as_table(rows)),
    "lines.gz": _file("rows.jsonl.gz", lambda rows: gzip.compress(as_lines(rows))),
    "lines.zst": _file("rows.jsonl.zst", lambda rows: zstd(as_lines(rows))),
    "list.zst": _file("rows.JSON.ZST", lambda rows: zstd(as_list(rows))),
    "csv.gz": _file("rows.csv.gz", lambda rows: gzip.compress(as_table(rows))),
    "parquet": _file("rows.parquet", as_parquet),
    "stream": _file("rows.arrow", as_stream),
    "arrow": _file("rows.arrow", as_arrow_file),
    "folder": _shards(".jsonl", as_lines, "shards"),
    "pattern": _shards(".csv", as_table, "shards/part-*.csv"),
    "folder of gz": _shards(".jsonl.gz", lambda rows: gzip.compress(as_lines(rows)), "shards"),
    "saved": lambda folder, rows: write_saved(folder / "saved", rows),
}
"""How rows are written, and the path that they are read by. Those in shards are two and the others."""

TABLES = frozenset({"csv", "semicolons", "tsv", "with a mark", "csv.gz", "pattern"})
JSON = frozenset({"lines", "list", "lines.gz", "lines.zst", "list.zst", "folder", "folder of gz"})


def place_of(form: str, number: int, count: int) -> str:
    """The file within what is named, and the place there, of a row by its number."""
    if form == "saved":
        shard, first = (0, 0) if number < count // 2 else (1, count // 2)
        return f"saved/data-0000{shard}-of-00002.arrow: row {number - first}"
    sharded = form in ("folder", "pattern", "folder of gz")
    suffix = {"folder": ".jsonl", "pattern": ".csv", "folder of gz": ".jsonl.gz"}.get(form, "")
    shard, first = (0, 0) if number < 2 else (1, 2)
    name = f"shards/part-{shard}{suffix}: " if sharded else ""
    number -= first if sharded else 0
    if form in TABLES:
        return f"{name}line {number + 2}"
    return f"{name}line {number + 1}" if form.startswith(("lines", "folder")) else f"{name}row {number}"
