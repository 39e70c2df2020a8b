"""What `potstill bench` measures besides, at which batch sizes and lengths, and how far two runs lie apart."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from potstill.artefacts.manifest import Manifest
from potstill.cli import app
from potstill.errors import DataError
from potstill.measure import speed
from potstill.runtimes.timing import SpeedRequest
from potstill.shipping import bench
from tests.conftest import FILLERS
from tests.unit.test_speed import round_of
from tests.unit.test_speed_points import point

TEXTS = [" ".join(FILLERS[start : start + 6]) for start in range(4)]


@pytest.fixture
def benched(teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bench` on the tiny teacher, in whose place each round is told; with what was asked."""
    about = Manifest("onnx", "int8", "onnx", "m", "", "single_label", max_length=24, lengths=(6, 8))
    asked: list[SpeedRequest] = []

    def measured(request: SpeedRequest) -> dict[str, Any]:
        asked.append(request)
        took = 5.0 - len(asked)
        found = [point(size, each.length, [took * size], 7.0) for each in request.series for size in each.batch_sizes]
        return round_of([took], 1, 1, []) | {"points": found}

    monkeypatch.setattr(speed, "_in_fresh_process", measured)
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))

    def run(
        *, rows: bool = True, answers: str = "single_label", folder: Path = teacher_folder, **options: Any
    ) -> tuple[dict[str, Any], SpeedRequest]:
        asked.clear()
        monkeypatch.setattr(bench, "opened_manifest", lambda _: Manifest(**{**vars(about), "answers": answers}))
        path = tmp_path / "rows.jsonl" if rows else None
        found = bench.bench_artefact(folder, path, threads=1, rounds=2, **options)
        return found, asked[0]

    return run


def test_bench_states_how_far_two_runs_lie_apart_at_each_point(benched: Any) -> None:
    found, asked = benched(batch_sizes=[4, 2], lengths=[5, 9])
    assert asked.batch_size == 4 and found["method"]["batch_size_throughput"] == 4
    assert [(each.length, each.batch_sizes) for each in asked.series] == [(5, (4, 2)), (9, (4, 2))]
    assert asked.series[0].queries == [" ".join(text.split()[:3]) + " " for text in TEXTS]
    lines = list(bench.lines_of(found))
    assert "p50 3.00 ms (rounds 3.00 to 4.00)" in lines[0]
    assert lines[2:6] == [
        "5 tokens, batch of 4: p50 12.00 ms (rounds 12.00 to 16.00), 7/s",
        "5 tokens, batch of 2: p50 6.00 ms (rounds 6.00 to 8.00), 7/s",
        "9 tokens, batch of 4: p50 12.00 ms (rounds 12.00 to 16.00), 7/s",
        "9 tokens, batch of 2: p50 6.00 ms (rounds 6.00 to 8.00), 7/s",
    ]
    assert found["method"]["queries_of_a_length"].startswith("Rows, each cut")
    line = bench._of_point(found["points"][0] | {"latency_p95_ms": 13.0, "first_p50_ms": 40.0})
    assert line.endswith("(rounds 12.00 to 16.00), p95 13.00, to the first token 40.0 ms, 7/s")


@pytest.mark.parametrize(
    ("options", "batch_size", "expected"),
    [
        ({}, 32, []),
        ({"batch_sizes": [3]}, 3, []),
        ({"batch_sizes": [1, 4]}, 1, [(None, (1, 4))]),
        ({"lengths": [6]}, 32, [(6, (1,))]),
        ({"batch_sizes": [3], "lengths": [6]}, 3, [(6, (3,))]),
    ],
)
def test_bench_measures_besides_what_it_is_asked_for(
    benched: Any, options: dict[str, Any], batch_size: int, expected: list[Any]
) -> None:
    found, asked = benched(**options)
    assert asked.batch_size == batch_size and list(asked.queries) == TEXTS
    assert [(each.length, each.batch_sizes) for each in asked.series] == expected
    assert ("points" in found) == bool(expected)
    assert ("queries_of_a_length" in found["method"]) == ("lengths" in options)


def test_bench_refuses_what_it_cannot_measure(benched: Any) -> None:
    for options, told in (
        ({"lengths": [6], "rows": False}, "--length: queries of a length are made of rows"),
        ({"lengths": [24, 25]}, "--length: 25 tokens, and the model reads 24"),
        ({"batch_sizes": [1, 5]}, "--batch-size: 5 rows are more than the 4 to measure with"),
        ({"batch_sizes": [5], "lengths": [6]}, "--batch-size: 5 rows are more than the 4"),
        ({"batch_sizes": [1, 2], "answers": "text"}, "--batch-size: a model that writes answers one prompt after the"),
    ):
        with pytest.raises(DataError, match=told):
            benched(**options)
    # As before, a throughput is of all rows where they are fewer.
    benched(batch_sizes=[5])


def test_bench_shows_a_model_that_writes_prompts_of_a_length(benched: Any) -> None:
    _, asked = benched(answers="text", lengths=[4, 10])
    prompts = [list(ids) for ids in asked.queries]
    assert [(each.length, each.batch_sizes) for each in asked.series] == [(4, (1,)), (10, (1,))]
    assert asked.series[1].queries[0] == (prompts[0] + prompts[1])[:10]


def test_a_chat_is_shown_up_to_where_it_is_to_be_answered(
    benched: Any, chat_teacher_folder: Path, tmp_path: Path
) -> None:
    """As evaluation shows it, and not as a text."""
    said = '{"role": "user", "content": "what colour is the ball ?"}, {"role": "assistant", "content": "red"}'
    (tmp_path / "rows.jsonl").write_text(f'{{"messages": [{said}]}}\n')
    _, asked = benched(answers="text", folder=chat_teacher_folder)
    tokenizer = AutoTokenizer.from_pretrained(chat_teacher_folder)
    assert (
        tokenizer.decode(asked.queries[0])
        == "<|im_start|> user what colour is the ball ? <|im_end|> <|im_start|> assistant"
    )


def test_options_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(bench, "bench_artefact", lambda *_, **options: given.append(options) or {})
    command = ["bench", "folder", "--json"]
    for options in ([], ["--batch-size", "4", "--batch-size", "1", "--length", "16", "--length", "8"]):
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
    assert [(list(each["batch_sizes"]), list(each["lengths"])) for each in given] == [([], []), ([4, 1], [16, 8])]
    assert CliRunner().invoke(app, [*command, "--length", "0"]).exit_code == 2
