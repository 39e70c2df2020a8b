"""What a run kept of its models' answers, against its record: each metric once more, by other code."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, r2_score

from potstill.run_dir import file_digest
from tests.commands import record

Rows = list[dict[str, Any]]


def kept(run: Path, stage: str = "evaluate") -> Rows:
    """The rows of a file, which is the one that the record names."""
    path = run / stage / "answers.parquet"
    assert record(run, stage)["files"]["answers.parquet"] == file_digest(path)
    with pq.ParquetFile(path) as file:
        found: Rows = file.read().to_pylist()
    return found


def assert_metrics_add_up(run: Path) -> None:
    """Of every model of a run, from its rows."""
    evaluation, rows = record(run, "evaluate"), kept(run)
    assert set(rows[0]["models"]) == set(evaluation["models"])
    for name, figures in evaluation["models"].items():
        assert_figures_add_up(figures, [row["models"][name] for row in rows], [row.get("truth") for row in rows])


def assert_figures_add_up(figures: dict[str, Any], said: Rows, truth: list[Any]) -> None:
    """Of one model."""
    scores = {name: each["value"] if isinstance(each, dict) else each for name, each in figures["scores"].items()}

    def total(name: str) -> float:
        return float(sum(row[name] for row in said))

    if "kl" in said[0]:
        assert figures["accuracy"] == pytest.approx(total("right_tokens") / total("tokens"))
        assert figures["cross_entropy"] == pytest.approx(total("loss") / total("tokens"))
        assert figures["kl_mean"] is None or figures["kl_mean"] == pytest.approx(
            total("kl") / total("tokens"), abs=1e-9
        )
        if "exact_match" in scores:
            assert scores["exact_match"] == pytest.approx(np.mean([row["right"] for row in said]))
            assert [row["right"] for row in said] == [a["said"] == b.strip() for a, b in zip(said, truth, strict=True)]
    elif "words" in said[0]:
        assert figures["accuracy"] == pytest.approx(total("right_words") / total("words"))
        assert scores["entity_f1"] == pytest.approx(2 * total("hits") / max(1.0, total("given") + total("true")))
        assert scores["entity_precision"] == pytest.approx(total("hits") / max(1.0, total("given")))
        assert [row["right"] for row in said] == [row["right_words"] == row["words"] for row in said]
        assert [row["given"] for row in said] == [count(row["said"]) for row in said]
        assert [row["true"] for row in said] == list(map(count, truth))
    elif "value" in said[0]:
        assert scores["r2"] == pytest.approx(r2_score([row["true"] for row in said], [row["value"] for row in said]))
        assert [f"{row['true']:.4g}" for row in said] == truth
    elif "hits" in said[0]:
        sets = [(names(row["said"]), names(true)) for row, true in zip(said, truth, strict=True)]
        hits, both = sum(len(a & b) for a, b in sets), sum(len(a) + len(b) for a, b in sets)
        assert scores["micro_f1"] == pytest.approx(2 * hits / max(1, both))
        assert (total("hits"), total("given") + total("true")) == (hits, both)
        assert [row["right"] for row in said] == [a == b for a, b in sets]
        assert all(0 < row["confidence"] <= 1 for row in said)
    else:
        answers = [row["said"] for row in said]
        assert [row["right"] for row in said] == [a == b for a, b in zip(answers, truth, strict=True)]
        assert figures["accuracy"] == pytest.approx(np.mean([row["right"] for row in said]))
        macro = f1_score(truth, answers, average="macro", labels=sorted(set(truth)), zero_division=0)
        assert figures["macro_f1"] == pytest.approx(macro)
        assert all(1 / 3 <= row["confidence"] <= 1 for row in said)


def names(text: str) -> set[str]:
    return set() if text == "(none)" else set(text.split(", "))


def count(text: str) -> int:
    return 0 if text == "nothing" else len(text.split("; "))
