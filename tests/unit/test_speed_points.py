"""Speed at other batch sizes and lengths: what is timed, of whom, and how it is told."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, BertForTokenClassification, GPT2Config

from potstill.artefacts.manifest import Manifest
from potstill.errors import RecipeError
from potstill.evaluation import costs
from potstill.evaluation.case import Case
from potstill.evaluation.judges import JUDGES
from potstill.evaluation.queries import require_measurable
from potstill.measure import speed, timed
from potstill.measure.timed import Series
from potstill.measure.weights import SavedWeights
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.records import SpeedPoint
from potstill.runtimes import graph_timing, transformers_timing
from potstill.runtimes.predictor import Parameters, Predictor
from potstill.runtimes.timing import Loads, SpeedRequest
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.conftest import FILLERS
from tests.unit.test_speed import round_of

ROWS = [f"row {number}" for number in range(7)]


class Clock:
    """A clock that goes on by what is done: 5 ms for a batch and 1 ms for each of its rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.asked = 100.0, list[tuple[Any, ...]]()
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def answer(self, rows: Sequence[Any]) -> None:
        self.asked.append(tuple(rows))
        self.now += 0.005 + 0.001 * len(rows)

    def write(self, prompt: Sequence[int], count: int) -> list[float]:
        """A tenth of a second for each token of the prompt, and a hundredth for each further one."""
        self.asked.append((*prompt, count))
        return [0.1 * len(prompt), *[0.01] * (count - 1)]


def test_each_row_is_timed_alone_and_then_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = timed.timed(clock.answer, ROWS, 2, 3)
    alone, batches = [(row,) for row in ROWS], [tuple(ROWS[:3]), tuple(ROWS[3:6])]
    assert clock.asked == [*alone[:2], *alone, batches[0], *batches]
    assert found["latencies_ms"] == pytest.approx([6.0] * 7)
    assert found["throughput_per_s"] == pytest.approx(6 / 0.016)


def test_a_point_is_timed_in_whole_batches_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sizes: list[int] = []
    series = [Series(ROWS, (1, 3)), Series(ROWS[:4], (2,), length=16)]
    found = timed.timed_series(lambda size: sizes.append(size) or clock.answer, series, 4)  # type: ignore[func-returns-value]
    assert [(each["batch_size"], each["length"]) for each in found] == [(1, None), (3, None), (2, 16)]
    assert sizes == [1, 3, 2]
    of_three, of_two = [tuple(ROWS[:3]), tuple(ROWS[3:6])], [tuple(ROWS[:2]), tuple(ROWS[2:4])]
    alone = [(row,) for row in ROWS]
    assert clock.asked == [*alone[:4], *alone, of_three[0], *of_three, *of_two, *of_two]
    assert [each["latencies_ms"] for each in found] == [
        pytest.approx(expected) for expected in ([6.0] * 7, [8.0] * 2, [7.0] * 2)
    ]
    assert [each["throughput_per_s"] for each in found] == pytest.approx([1 / 0.006, 3 / 0.008, 2 / 0.007])


def test_of_prompts_each_token_is_timed_at_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    (found,) = timed.timed_writing_series(clock.write, [Series([[7, 8], [9, 7]], (1,), length=2)], 1, 5)
    assert clock.asked == [(7, 8, 2), (7, 8, 5), (9, 7, 5)]
    assert found == {
        "batch_size": 1,
        "length": 2,
        "first_ms": pytest.approx([200.0, 200.0]),
        "latencies_ms": pytest.approx([10.0] * 8),
        "throughput_per_s": pytest.approx(10 / 0.48),
    }


def point(size: int, length: int | None, latencies: list[float], throughput: float, **more: Any) -> dict[str, Any]:
    return {
        "batch_size": size, "length": length, "latencies_ms": latencies, "throughput_per_s": throughput, **more,
    }  # fmt: skip


def test_the_fastest_round_of_a_point_need_not_be_that_of_another() -> None:
    one = round_of([1, 2, 3], 1, 1, []) | {
        "points": [point(1, None, [9.0, 5.0, 1.0], 10.0), point(8, 16, [float(n) for n in range(1, 101)], 30.0)]
    }
    other = round_of([4, 5, 6], 1, 1, []) | {
        "points": [point(1, None, [2.0, 4.0, 9.0], 9.0), point(8, 16, [60.0] * 100, 70.0)]
    }
    found = speed._of_the_fastest([one, other])
    assert found.latency_p50_ms == 2.0
    assert found.points == (
        speed.PointSpeed(1, None, 4.0, None, (4.0, 5.0), 10.0),
        speed.PointSpeed(8, 16, 50.0, 95.0, (50.0, 60.0), 70.0),
    )
    written = round_of([1], 1, 1, [3]) | {"points": [point(1, 16, [5.0, 7.0, 9.0], 4.0, first_ms=[30.0, 10.0, 20.0])]}
    (of_prompts,) = speed._of_the_fastest([written]).points
    assert (of_prompts.latency_p50_ms, of_prompts.first_p50_ms) == (7.0, 20.0)
    assert speed._of_the_fastest([round_of([1], 1, 1, [])]).points == ()


def test_a_request_says_in_another_process_what_it_said_here() -> None:
    series = (Series(("a", "b"), (1, 8), length=16), Series((["c", "d"],), (2,)))
    request = SpeedRequest(Loads(("m",)), "texts", ("a",), 1, 0, 1, "cpu", {"max_length": 8}, series=series)
    again = SpeedRequest.from_json(request.as_json())
    assert [(list(each.queries), each.batch_sizes, each.length) for each in again.series] == [
        (["a", "b"], (1, 8), 16),
        ([["c", "d"]], (2,), None),
    ]
    # In the type that a model is served in, what all are compared by is enough.
    assert request.in_type("bfloat16").series == () and request.in_type("bfloat16").queries == ("a",)


def watching(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[tuple[int, ...]]:
    """The shapes of the batches that models of a class are shown."""
    seen: list[tuple[int, ...]] = []
    forward = model.forward

    def watched(self: Any, *args: Any, **given: Any) -> Any:
        seen.append(tuple(given["input_ids"].shape))
        return forward(self, *args, **given)

    monkeypatch.setattr(model, "forward", watched)
    return seen


TEXTS = [" ".join(FILLERS[start : start + 6]) for start in range(4)]


def text_request(folder: Path, *series: Series, runtime: str = "transformers") -> SpeedRequest:
    loads = Loads((str(folder),), runtime=runtime)
    return SpeedRequest(loads, "texts", TEXTS, 1, 0, 2, "cpu", {"max_length": 24}, series=series)


def test_models_are_shown_batches_of_each_size_after_all_that_they_are_compared_by(
    teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watching(monkeypatch, BertForSequenceClassification)
    monkeypatch.setattr(transformers_timing, "peak_memory_bytes", lambda: len(seen))
    short = [" ".join(FILLERS[:3])] * 4
    found = transformers_timing.measure(text_request(teacher_folder, Series(TEXTS, (4,)), Series(short, (1, 2), 5)))
    always = [(1, 8)] * 4 + [(2, 8)] * 3
    beside = [(4, 8)] * 2 + [(1, 5)] * 5 + [(2, 5)] * 3
    assert seen == always + beside
    assert found["peak_memory_bytes"] == len(always)
    assert [len(each["latencies_ms"]) for each in found["points"]] == [1, 4, 2]
    assert transformers_timing.measure(text_request(teacher_folder))["points"] == []


def test_windows_of_documents_are_read_as_many_at_a_time_as_a_batch_has(
    tmp_path: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BertForTokenClassification.from_pretrained(teacher_folder)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(tmp_path)
    seen = watching(monkeypatch, BertForTokenClassification)
    documents = [FILLERS[start : start + 4] for start in range(6)]
    settings = {"max_length": 24, "overlap": 2}
    series = (Series(documents, (3,), 6),)
    request = SpeedRequest(Loads((str(tmp_path),)), "documents", documents[:2], 1, 0, 2, "cpu", settings, series=series)
    transformers_timing.measure(request)
    assert seen == [(1, 6)] * 2 + [(2, 6)] * 2 + [(3, 6)] * 3


@pytest.mark.parametrize("kind", ["texts", "documents"])
def test_graphs_are_given_batches_of_each_size(
    teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    about = Manifest("onnx", "int8", "onnx", "model.onnx", "", "single_label", max_length=24, inputs=("input_ids",))
    seen: list[tuple[int, ...]] = []

    def graph(feeds: Mapping[str, Any]) -> Any:
        seen.append(feeds["input_ids"].shape)
        return torch.zeros(*feeds["input_ids"].shape, 3).numpy()

    monkeypatch.setattr(graph_timing, "read_manifest", lambda _: about)
    monkeypatch.setattr(graph_timing, "open_graph", lambda *_: graph)
    monkeypatch.setattr(graph_timing, "import_module", lambda _: None)
    monkeypatch.setattr(graph_timing, "peak_memory_bytes", lambda: len(seen))
    rows: list[Any] = TEXTS if kind == "texts" else [text.split() for text in TEXTS]
    loads = Loads((str(teacher_folder),), runtime="onnx")
    series = (Series(rows, (3, 1), 8),)
    found = graph_timing.measure(SpeedRequest(loads, kind, rows, 1, 0, 2, "cpu", {}, series=series))
    assert seen == [(1, 8)] * 4 + [(2, 8)] * 3 + [(3, 8)] * 2 + [(1, 8)] * 5
    assert found["peak_memory_bytes"] == 7 and len(found["points"]) == 2


def loaded(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return case_of(recipe, read_inputs(recipe, project), Progress())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("batch_sizes=[1, 9]", r"batch_sizes: 9 rows are more than the 8 that are timed \(evaluate.latency_rows is 8"),
        ("lengths=[24, 25]", r"lengths: 25 tokens, and no more than 24 are read \(task.max_length\). Lower it, or"),
        ("lengths=[2]", r"lengths: 2 tokens have no room for a text beside those that stand around it. Give 3 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_works(project: Path, change: str, told: str) -> None:
    with pytest.raises(RecipeError, match=rf"^evaluate\.{told}"):
        require_measurable(loaded(project, f"evaluate.{change}"))
    require_measurable(loaded(project, "evaluate.batch_sizes=[1, 8]", "evaluate.lengths=[3, 24]"))


def test_of_a_pair_the_first_text_needs_room_too(project: Path) -> None:
    case = loaded(project, "evaluate.lengths=[4]")
    require_measurable(case)
    for path in (project / "data").iterdir():
        path.write_text(path.read_text().replace('"label"', '"text_pair": "w1", "label"'))
    pairs = loaded(project, "evaluate.lengths=[4]")
    around = pairs.tokenizer.num_special_tokens_to_add(pair=True)
    with pytest.raises(RecipeError, match=f"Give {2 * around} or more"):
        require_measurable(pairs)


def test_sizes_and_lengths_that_no_recipe_means_are_refused(project: Path, tmp_path: Path) -> None:
    for change, told in (
        ("batch_sizes=[8, 1, 8]", "8 is listed twice; name each once"),
        ("lengths=[16, 16]", "16 is listed twice; name each once"),
        ("batch_sizes=[0]", "greater than or equal to 1"),
    ):
        with pytest.raises(RecipeError, match=told):
            load_recipe(project / "recipe.yaml", [f"evaluate.{change}"])


def test_prompts_need_positions_for_what_is_written_after_them(chat_project: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.batch_sizes: models of causal_lm are timed one prompt after the"):
        load_recipe(chat_project / "recipe.yaml", ["evaluate.batch_sizes=[2]"])
    case = loaded(chat_project, "evaluate.lengths=[1, 64]")
    require_measurable(case)
    with pytest.raises(RecipeError, match="65 tokens, and no more than 64 are read"):
        require_measurable(loaded(chat_project, "evaluate.lengths=[65]"))
    # Of the tiny teacher positions are computed. Of 67, four are for what is written.
    for name in ("config", "own_config"):
        limited = replace(case, **{name: GPT2Config(n_positions=67)})
        with pytest.raises(RecipeError, match=r"after 64 tokens 4 are to be written .* there are positions for 67"):
            require_measurable(limited)
        require_measurable(replace(case, **{name: GPT2Config(n_positions=68)}))


def test_of_a_student_that_exists_already_its_positions_are_known(project: Path, teacher_folder: Path) -> None:
    case = loaded(project, f"student={{kind: pretrained, model: '{teacher_folder}'}}")
    assert case.own_config is not None and case.own_config.max_position_embeddings == 64
    assert loaded(project).own_config is None


def requests_of(case: Case, monkeypatch: pytest.MonkeyPatch, **tokenizers: Any) -> dict[str, SpeedRequest]:
    """What each model would be asked, the second of which is served in bfloat16."""
    asked: dict[str, SpeedRequest] = {}

    def measured(requests: Mapping[str, SpeedRequest], own_types: Mapping[str, SpeedRequest], **_: Any) -> Any:
        asked.update(requests)
        assert all(each.series == () for each in own_types.values()) and len(own_types) == 1
        found = speed.Speed(1.0, None, None, 1.0, 1, 1, 1.0, (1.0, 1.0), points=(FOUND,))
        return dict.fromkeys(requests, found)

    monkeypatch.setattr(costs, "measure_speed", measured)
    nothing = {name: (lambda *_: None) for name in vars(Predictor) if not name.startswith("_")}

    def predictor(number: int, name: str, tokenizer: Any) -> Any:
        given = {
            "loads": lambda: Loads((name,)),
            "tokenizer": tokenizer,
            "weights": lambda: SavedWeights("bfloat16" if number else "float32", 1),
            "parameters": lambda: Parameters(1, 1),
        }
        return SimpleNamespace(**nothing | given)

    predictors = {
        name: predictor(number, name, tokenizer) for number, (name, tokenizer) in enumerate(tokenizers.items())
    }
    queries = JUDGES[case.recipe.task.answers].queries(case)
    found = costs.costs_of(case, predictors, queries, "cpu")
    of_model = SpeedPoint(
        batch_size=8, length=16, latency_p50_ms=2.0, latency_p95_ms=None, latency_p50_range_ms=(2.0, 3.0),
        throughput_per_s=9.0, time_to_first_token_ms=7.0,
    )  # fmt: skip
    assert all(each["speed_points"] == [of_model] for each in found.values())
    return asked


FOUND = speed.PointSpeed(8, 16, 2.0, None, (2.0, 3.0), 9.0, 7.0)


def test_all_models_are_shown_the_same_queries(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = loaded(project, "evaluate.batch_sizes=[2, 8]", "evaluate.lengths=[5, 20]")
    asked = requests_of(case, monkeypatch, teacher=case.tokenizer, student=AutoTokenizer.from_pretrained)
    assert asked["teacher"].series == asked["student"].series
    assert [(each.length, each.batch_sizes) for each in asked["teacher"].series] == [(5, (2, 8)), (20, (2, 8))]
    for each in asked["teacher"].series:
        lengths = [len(case.tokenizer(text)["input_ids"]) for text in each.queries]
        assert lengths == [each.length] * 8
        own = [row.text for row in case.timed_rows]
        assert all(text.startswith(other[: len(text)]) for text, other in zip(each.queries, own, strict=True))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], []),
        (["evaluate.batch_sizes=[1, 4]"], [(None, (1, 4))]),
        (["evaluate.lengths=[6]"], [(6, (1,))]),
    ],
)
def test_nothing_is_measured_that_no_recipe_names(
    project: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str], expected: list[Any]
) -> None:
    case = loaded(project, *changes)
    asked = requests_of(case, monkeypatch, teacher=case.tokenizer, student=case.tokenizer)["student"]
    assert [(each.length, each.batch_sizes) for each in asked.series] == expected
    if changes == ["evaluate.batch_sizes=[1, 4]"]:
        assert asked.series[0].queries == asked.queries
    # What is always measured is as it was.
    assert asked.queries == tuple(row.text for row in case.timed_rows) and asked.batch_size == 4
    named = costs.measurement(case, JUDGES["single_label"].queries(case), "cpu").queries_of_a_length
    assert (named is not None) == ("evaluate.lengths=[6]" in changes)
    assert named is None or named.startswith("Rows, each cut to so many tokens, with those that stand around a text")


def test_prompts_of_a_length_are_of_whole_prompts(chat_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = loaded(chat_project, "evaluate.lengths=[5, 40]")
    asked = requests_of(case, monkeypatch, teacher=case.tokenizer, student=case.tokenizer)["teacher"]
    whole = [list(ids) for ids in asked.queries]
    assert [each.length for each in asked.series] == [5, 40] and len(whole) == 3
    for each in asked.series:
        for start, ids in enumerate(each.queries):
            endless = (whole[start:] + whole * each.length)[: 2 * each.length]
            assert ids == [token for prompt in endless for token in prompt][: each.length]
    # A model with other tokens is shown as many of its own, of the same rows.
    other = AutoTokenizer.from_pretrained(case.recipe.teacher.model)
    other.add_bos_token = True
    mixed = replace(case, own_tokenizer=other)
    both = requests_of(mixed, monkeypatch, teacher=case.tokenizer, student=other)
    assert [each.length for each in both["student"].series] == [5, 40]
    assert both["student"].series is not both["teacher"].series
    made = costs.measurement(mixed, JUDGES["text"].queries(mixed), "cpu").queries_of_a_length
    assert made is not None and "Prompts of rows" in made and "as many of their own" in made


def test_plain_texts_are_joined_whole(chat_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is always timed is their first tokens."""
    lines = [f'{{"id": "{n}", "text": "{" ".join(FILLERS[n : n + 20])}"}}\n' for n in range(5)]
    (chat_project / "data/test.jsonl").write_text("".join(lines))
    case = loaded(chat_project, "evaluate.lengths=[30]")
    (series,) = requests_of(case, monkeypatch, teacher=case.tokenizer, student=case.tokenizer)["teacher"].series
    told = case.tokenizer.decode(series.queries[1]).replace("<|im_end|>", "").split()
    assert told[:20] == FILLERS[1:21] and told[20:25] == FILLERS[2:7]
