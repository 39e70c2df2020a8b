"""potstill bench: the speed of an exported model on this machine, measured as the export stage measures it."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from potstill.artefacts.manifest import Manifest
from potstill.errors import DataError
from potstill.measure.speed import measure_speed
from potstill.presentation.formats import size
from potstill.runtimes.answering import opened_manifest, text_of, words_of
from potstill.runtimes.timing import Loads, SpeedRequest

WARMUP = 20
WORD = "the"
"""A word of one token in most vocabularies: of texts that are made up, only the length counts."""
NEW_TOKENS = 32


def bench_artefact(folder: Path, rows: Path | None, *, threads: int, rounds: int, batch_size: int) -> dict[str, Any]:
    """What was measured and how.

    Raises:
        ModelError: no exported model, or one that cannot be measured.
        DataError: rows that it cannot read.
    """
    manifest = opened_manifest(folder)
    queries = _read(rows, manifest) if rows is not None else _made_up(manifest)
    form = {"tags": "documents", "text": "prompts", "target": "prompts"}.get(manifest.answers, "texts")
    if form == "prompts":
        queries = _as_ids(folder, queries)
    request = SpeedRequest(
        loads=Loads((str(folder),), runtime=manifest.runtime),
        form=form,
        queries=queries,
        threads=threads,
        warmup=WARMUP,
        batch_size=batch_size,
        device="cpu",
        settings={"max_length": manifest.max_length, "overlap": manifest.overlap, "new_tokens": NEW_TOKENS},
    )
    speed = measure_speed({manifest.kind: request}, rounds=rounds, advance=lambda _: None)[manifest.kind]
    return {
        "artefact": f"{manifest.kind} {manifest.precision}",
        **{name: value for name, value in asdict(speed).items() if value is not None},
        "method": {
            "host": platform.node(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "runtime": manifest.runtime,
            "made_with": dict(manifest.packages),
            "threads": threads,
            "queries": len(queries),
            "queries_are": "given rows" if rows is not None else "made up, as long as the test rows",
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
    method = found["method"]
    yield (
        f"measured on {method['host']} ({method['cores']} cores), {method['threads']} thread(s), {method['queries']} "
        f"queries ({method['queries_are']}), the fastest of {method['rounds']} fresh processes"
    )


_TAILS = {"p95": "latency_p95_ms", "p99": "latency_p99_ms"}


def _read(path: Path, manifest: Manifest) -> Sequence[Any]:
    from potstill.shipping.predict import read_lines

    rows = list(read_lines(path))
    if not rows:
        raise DataError(f"{path}: no rows to measure with.")
    return [words_of(row) if manifest.answers == "tags" else text_of(row) for row in rows]


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
