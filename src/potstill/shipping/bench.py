"""potstill bench: the speed of an exported model on this machine, measured as the export stage measures it."""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest
from potstill.errors import DataError
from potstill.evaluation.expenses import counted_by
from potstill.evaluation.speed_points import made_of, queries_of_length
from potstill.evaluation.speed_sections import point_in_words
from potstill.measure.speed import measure_speed
from potstill.measure.timed import Series
from potstill.presentation.formats import size
from potstill.runtimes.answering import opened_manifest, text_of, words_of
from potstill.runtimes.timing import Loads, SpeedRequest

WARMUP = 20
WORD = "the"
"""A word of one token in most vocabularies: of texts that are made up, only the length counts."""
NEW_TOKENS = 32
BATCH_SIZE = 32
"""Of the throughput, where none is named."""


def bench_artefact(
    folder: Path,
    rows: Path | None,
    *,
    threads: int,
    rounds: int,
    batch_sizes: Sequence[int] = (),
    lengths: Sequence[int] = (),
) -> dict[str, Any]:
    """What was measured and how. Throughput is of the first of the batch sizes; of several, and of each length, speed
    is measured besides.

    Raises:
        ModelError: no exported model, or one that cannot be measured.
        DataError: rows that it cannot read, or too few, or a batch size or length that it cannot be asked in.
    """
    manifest = opened_manifest(folder)
    form = {"tags": "documents", "text": "prompts", "target": "prompts"}.get(manifest.answers, "texts")
    if lengths and rows is None:
        raise DataError("--length: queries of a length are made of rows. Name a file of them with --rows.")
    queries = _read(rows, folder, manifest) if rows is not None else _made_up(manifest)
    if form == "prompts" and rows is None:
        queries = _as_ids(folder, queries)
    batch_size = batch_sizes[0] if batch_sizes else BATCH_SIZE
    series = _series(form, queries, folder, manifest, batch_sizes, lengths)
    request = SpeedRequest(
        loads=Loads((str(folder),), runtime=manifest.runtime),
        form=form,
        queries=queries,
        threads=threads,
        warmup=WARMUP,
        batch_size=batch_size,
        device="cpu",
        settings={"max_length": manifest.max_length, "overlap": manifest.overlap, "new_tokens": NEW_TOKENS},
        series=series,
    )
    speed = measure_speed({manifest.kind: request}, rounds=rounds, advance=lambda _: None)[manifest.kind]
    return {
        "artefact": f"{manifest.kind} {manifest.precision}",
        **{name: value for name, value in asdict(speed).items() if value not in (None, ())},
        "method": {
            "host": platform.node(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "runtime": manifest.runtime,
            "made_with": dict(manifest.packages),
            "threads": threads,
            "queries": len(queries),
            "queries_are": "given rows" if rows is not None else "made up, as long as the test rows",
            **({"queries_of_a_length": made_of(form)} if lengths else {}),
            **({"energy": counted_by()} if speed.joules_per_query is not None else {}),
            "warmup": WARMUP,
            "rounds": rounds,
            "batch_size_throughput": batch_size,
        },
    }


def lines_of(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    low, high = found["latency_p50_range_ms"]
    tails = ", ".join(f"{name} {found[key]:,.2f}" for name, key in _TAILS.items() if key in found)
    yield f"{found['artefact']}: p50 {found['latency_p50_ms']:,.2f} ms (rounds {low:,.2f} to {high:,.2f})" + (
        f", {tails}" if tails else ""
    )
    if "first_p50_ms" in found:
        yield f"time to the first token {found['first_p50_ms']:,.1f} ms"
    yield (
        f"throughput {found['throughput_per_s']:,.0f}/s, loaded in {found['load_ms']:,.0f} ms, peak memory "
        f"{size(found['peak_memory_bytes'])}, {size(found['memory_above_floor_bytes'])} of it above its libraries"
    )
    if "joules_per_query" in found:
        yield f"energy {found['joules_per_query']:,.3g} J a query, of the whole processor (measured)"
    for each in found.get("points", ()):
        yield _of_point(each)
    method = found["method"]
    yield (
        f"measured on {method['host']} ({method['cores']} cores), {method['threads']} thread(s), {method['queries']} "
        f"queries ({method['queries_are']}), the fastest of {method['rounds']} fresh processes"
    )


_TAILS = {"p95": "latency_p95_ms", "p99": "latency_p99_ms"}


def _of_point(point: Mapping[str, Any]) -> str:
    low, high = point["latency_p50_range_ms"]
    line = f"{point_in_words(point['batch_size'], point['length'])}: p50 {point['latency_p50_ms']:,.2f} ms (rounds "
    line += f"{low:,.2f} to {high:,.2f})"
    if point["latency_p95_ms"] is not None:
        line += f", p95 {point['latency_p95_ms']:,.2f}"
    if point["first_p50_ms"] is not None:
        line += f", to the first token {point['first_p50_ms']:,.1f} ms"
    return f"{line}, {point['throughput_per_s']:,.0f}/s"


def _series(
    form: str,
    queries: Sequence[Any],
    folder: Path,
    manifest: Manifest,
    batch_sizes: Sequence[int],
    lengths: Sequence[int],
) -> tuple[Series, ...]:
    """What is timed beside."""
    if form == "prompts" and len(batch_sizes) > 1:
        raise DataError("--batch-size: a model that writes answers one prompt after the other. Name --length instead.")
    sizes = (1,) if form == "prompts" else tuple(batch_sizes) or (1,)
    if (beside := len(batch_sizes) > 1 or bool(lengths)) and max(sizes) > len(queries):
        raise DataError(
            f"--batch-size: {max(sizes)} rows are more than the {len(queries)} to measure with. Lower it, or name more "
            "with --rows."
        )
    for length in lengths:
        if manifest.max_length and length > manifest.max_length:
            raise DataError(f"--length: {length} tokens, and the model reads {manifest.max_length}. Lower it.")
    if not lengths:
        return (Series(queries, sizes),) if beside else ()
    tokenizer = _tokenizer(folder, manifest)
    return tuple(Series(queries_of_length(form, queries, tokenizer, each), sizes, each) for each in lengths)


def _read(path: Path, folder: Path, manifest: Manifest) -> Sequence[Any]:
    from potstill.shipping.predict import read_lines

    rows = list(read_lines(path))
    if not rows:
        raise DataError(f"{path}: no rows to measure with.")
    if manifest.answers == "tags":
        return [words_of(row) for row in rows]
    if manifest.answers in ("text", "target"):
        from potstill.runtimes.prompts import prompts_of

        return list(map(prompts_of(_tokenizer(folder, manifest), manifest), rows))
    return [text_of(row) for row in rows]


def _made_up(manifest: Manifest) -> Sequence[Any]:
    """Texts of the lengths that the artefact was measured with."""
    lengths = manifest.lengths or (manifest.max_length,)
    if manifest.answers == "tags":
        return [[WORD] * max(1, length) for length in lengths]
    # Two tokens stand around most texts.
    return [" ".join([WORD] * max(1, length - 2)) for length in lengths]


def _as_ids(folder: Path, texts: Sequence[str]) -> Sequence[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts]


def _tokenizer(folder: Path, manifest: Manifest) -> Any:
    from transformers import AutoTokenizer

    from potstill.data.words import load_word_tokenizer

    return (load_word_tokenizer if manifest.answers == "tags" else AutoTokenizer.from_pretrained)(str(folder))
