"""Energy by the counters of processors, in folders as Linux shows them."""

import time
from collections.abc import Mapping, Sequence
from inspect import unwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from potstill.artefacts.manifest import Manifest
from potstill.evaluation import costs
from potstill.evaluation.expenses import energy_method, expenses_of
from potstill.evaluation.sections import comparison_sections
from potstill.evaluation.tables import quantities
from potstill.measure import energy, speed, timed
from potstill.measure.energy import EnergyMeter, Package, packages_in
from potstill.recipe.expense_settings import ExpenseSettings
from potstill.records import EvaluateRecord
from potstill.runtimes import graph_timing, transformers_timing
from potstill.runtimes.predictor import Queries
from potstill.runtimes.timing import Loads, SpeedRequest
from potstill.shipping import bench
from tests.unit.finished_run import evaluation
from tests.unit.test_speed import round_of

RANGE = 262_143_328_850


def zone(powercap: Path, name: str, kind: str, energy_uj: object, range_uj: object = RANGE) -> Path:
    """A zone of powercap with its counter."""
    folder = powercap / name
    folder.mkdir(parents=True)
    for file, value in (("name", kind), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, with what lies within them, and what counts them once more."""
    folder = tmp_path / "powercap"
    zone(folder, "intel-rapl:0", "package-0", 1_000_000)
    zone(folder, "intel-rapl:0:0", "core", 5)
    zone(folder, "intel-rapl:0:1", "package-of-its-own", 5)
    zone(folder, "intel-rapl:1", "package-1", 2_000_000, 9_000_000)
    zone(folder, "intel-rapl:2", "psys", 5)
    zone(folder, "intel-rapl-mmio:0", "package-0", 5)
    (folder / "intel-rapl").mkdir()
    return folder


def test_packages_are_counted_once(powercap: Path) -> None:
    found = packages_in(powercap)
    assert found.missing is None
    assert found.found == (
        Package(powercap / "intel-rapl:0/energy_uj", RANGE),
        Package(powercap / "intel-rapl:1/energy_uj", 9_000_000),
    )


def count(powercap: Path, *energies: int) -> None:
    for number, each in enumerate(energies):
        (powercap / f"intel-rapl:{number}/energy_uj").write_text(str(each))


def test_all_packages_together_are_measured_from_begin_to_end(powercap: Path) -> None:
    meter = EnergyMeter(packages_in(powercap).found)
    meter.begin()
    count(powercap, 4_000_000, 2_500_000)
    assert meter.ended() == pytest.approx(3.5)
    # What was counted before does not count again.
    meter.begin()
    count(powercap, 4_000_001, 2_500_000)
    assert meter.ended() == pytest.approx(1e-6)


def test_a_counter_that_comes_round_has_gone_on(powercap: Path) -> None:
    meter = EnergyMeter(packages_in(powercap).found)
    count(powercap, RANGE - 1_000_000, 8_500_000)
    meter.begin()
    count(powercap, 3_000_000, 250_000)
    assert meter.ended() == pytest.approx(4.0 + 0.75)


def test_a_counter_that_comes_round_several_times_is_looked_at_between(
    powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, reads, read = [50.0], [], Package.energy_uj
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = EnergyMeter(packages_in(powercap).found)
    monkeypatch.setattr(Package, "energy_uj", lambda self: reads.append(now[0]) or read(self))
    meter.begin()
    # 6 J in each ten seconds, of a counter that begins anew after 9 J: 5 J, then 2 J, 8 J, 5 J.
    for second, counted in ((9.9, 7_900_000), (10.0, 8_000_000), (19.0, 0), (20.0, 5_000_000), (25.0, 2_000_000)):
        now[0] = 50.0 + second
        count(powercap, 1_000_000, counted)
        meter.between()
    assert meter.ended() == pytest.approx(6 + 6 + 6)
    # No more often than that, for to look takes time.
    assert reads == [50.0, 50.0, 60.0, 60.0, 70.0, 70.0, 75.0, 75.0]


@pytest.mark.parametrize("lost", ["energy_uj", "max_energy_range_uj", "name"])
def test_a_package_that_cannot_be_read_leaves_no_measurement(powercap: Path, lost: str) -> None:
    """As where its counter is for root alone; a folder in its place is as unreadable, also to root."""
    path = powercap / "intel-rapl:1" / lost
    path.unlink()
    path.mkdir()
    found = packages_in(powercap)
    assert found.found == () and found.missing is not None
    assert "intel-rapl:1/energy_uj cannot be read (Is a directory)" in found.missing
    meter = EnergyMeter(found.found)
    meter.begin()
    meter.between()
    assert meter.ended() is None


def test_a_counter_that_is_no_number_is_none(powercap: Path) -> None:
    (powercap / "intel-rapl:0/energy_uj").write_text("")
    found = packages_in(powercap)
    assert found.found == () and "invalid literal" in str(found.missing)


def test_machines_without_counters_say_so(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert packages_in(folder).missing == "this machine shows no counters of its processors' energy"
    # None of the whole board alone, which some machines have.
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    assert packages_in(tmp_path).missing is not None


@pytest.mark.parametrize("when", ["at the end", "between"])
def test_a_counter_that_goes_away_leaves_no_measurement(
    powercap: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = EnergyMeter(packages_in(powercap).found)
    meter.begin()
    count(powercap, 2_000_000, 3_000_000)
    counter = powercap / "intel-rapl:1/energy_uj"
    counter.unlink()
    if when == "between":
        now[0] = 11.0
        meter.between()
        counter.write_text("4000000")
    assert meter.ended() is None


def test_a_counter_that_stands_still_has_counted_nothing(powercap: Path) -> None:
    meter = EnergyMeter(packages_in(powercap).found)
    meter.begin()
    assert meter.ended() is None


class Drawing:
    """What answers and writes, and draws 2 J for each query and 1 J for each batch or prompt."""

    def __init__(self, powercap: Path) -> None:
        self.counter, self.joules = powercap / "intel-rapl:0/energy_uj", 7

    def answer(self, rows: Sequence[Any]) -> None:
        self.joules += 2 * len(rows) + 1
        self.counter.write_text(str(self.joules * 1_000_000))

    def write(self, prompt: Sequence[int], count: int) -> list[float]:
        self.answer(prompt)
        return [1.0] * count


def test_energy_is_of_the_queries_that_are_asked_one_by_one(powercap: Path) -> None:
    """Neither of those that warm up, nor of batches."""
    drawing = Drawing(powercap)
    found = timed.timed(drawing.answer, range(5), 3, 2, EnergyMeter(packages_in(powercap).found))
    assert found["joules_per_query"] == pytest.approx(3.0)
    assert "joules_per_query" not in timed.timed(drawing.answer, range(5), 3, 2)
    prompts = [[1, 2], [3, 4, 5, 6]]
    written = timed.timed_writing(drawing.write, prompts, 1, 4, EnergyMeter(packages_in(powercap).found))
    assert written["joules_per_query"] == pytest.approx((5 + 9) / 2)
    assert "joules_per_query" not in timed.timed_writing(drawing.write, prompts, 1, 4)


class Looked(EnergyMeter):
    """Counts how often it is looked at between."""

    looks = 0

    def between(self) -> None:
        self.looks += 1


def test_counters_are_looked_at_after_each_query(powercap: Path) -> None:
    for ask in (
        lambda meter: timed.timed(lambda rows: None, range(5), 3, 2, meter),
        lambda meter: timed.timed_writing(lambda prompt, count: [1.0] * count, [[1]] * 5, 1, 4, meter),
    ):
        meter = Looked(packages_in(powercap).found)
        ask(meter)
        assert meter.looks == 5


def test_a_model_is_measured_with_the_counters_of_this_machine(
    teacher_folder: Path, powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", powercap)
    counted = iter(range(1, 1000))
    monkeypatch.setattr(Package, "energy_uj", lambda self: next(counted) * 3_000_000)
    request = SpeedRequest(Loads((str(teacher_folder),)), "texts", ["w1"] * 4, 1, 0, 2, "cpu", {"max_length": 8})
    # Of two packages: 6 J and 6 J from the first reading to the second.
    assert transformers_timing.measure(request)["joules_per_query"] == pytest.approx(12 / 4)
    assert EnergyMeter.on("cuda").ended() is None and EnergyMeter.on("cuda")._packages == ()
    assert len(EnergyMeter.on("cpu")._packages) == 2


class Always(EnergyMeter):
    """42 J, whatever is done."""

    def ended(self) -> float:
        return 42.0


def metered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EnergyMeter, "on", classmethod(lambda cls, device: Always(()) if device == "cpu" else cls(())))


def test_each_form_of_queries_is_measured(
    chat_teacher_folder: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered(monkeypatch)
    loads = Loads((str(chat_teacher_folder),))
    prompts = SpeedRequest(loads, "prompts", [[4, 5], [6]], 1, 0, 1, "cpu", {"new_tokens": 2})
    assert transformers_timing.measure(prompts)["joules_per_query"] == 21.0
    about = Manifest("onnx", "int8", "onnx", "model.onnx", "", "single_label", max_length=24, inputs=("input_ids",))
    monkeypatch.setattr(graph_timing, "read_manifest", lambda _: about)
    monkeypatch.setattr(graph_timing, "import_module", lambda _: None)
    monkeypatch.setattr(graph_timing, "open_graph", lambda *_: lambda feeds: np.zeros((len(feeds["input_ids"]), 3)))
    texts = SpeedRequest(Loads((str(teacher_folder),), "onnx"), "texts", ["w1"] * 3, 1, 0, 2, "cpu")
    assert graph_timing.measure(texts)["joules_per_query"] == 14.0


def test_energy_is_that_of_the_round_whose_latencies_count() -> None:
    slow, fast = round_of([9, 9, 9], 1, 1, []), round_of([1, 2, 3], 1, 1, [])
    rounds = [slow | {"joules_per_query": 1.0}, fast | {"joules_per_query": 4.0}]
    assert speed._of_the_fastest(rounds).joules_per_query == 4.0
    assert speed._of_the_fastest([rounds[0], fast]).joules_per_query is None


def test_counted_joules_take_the_place_of_the_estimate() -> None:
    # 7.2 J a query are 7,200 J for a thousand, which are 2 Wh.
    found = expenses_of(ExpenseSettings(price_per_hour=5.0, watts=20.0), 36.0, 7.2)
    assert found == {
        "cost_per_1000": pytest.approx(0.05),
        "energy_wh_per_1000": pytest.approx(2.0),
        "joules_per_query": 7.2,
    }
    assert expenses_of(None, 36.0, 7.2) == {"energy_wh_per_1000": pytest.approx(2.0), "joules_per_query": 7.2}


@pytest.mark.parametrize("joules", [(3.6, 1.8), (3.6, None)])
def test_what_is_counted_of_one_model_is_not_set_beside_an_estimate(
    monkeypatch: pytest.MonkeyPatch, joules: tuple[float | None, ...]
) -> None:
    names = ("teacher", "student")

    def speeds(*_: Any) -> Mapping[str, speed.Speed]:
        one = [speed.Speed(3600.0, None, None, 1.0, 1, 1, 1.0, (1.0, 1.0), joules_per_query=each) for each in joules]
        return dict(zip(names, one, strict=True))

    monkeypatch.setattr(costs, "_speeds", speeds)
    monkeypatch.setattr(costs, "_fields", lambda *_: {})
    settings = SimpleNamespace(evaluate=SimpleNamespace(expenses=ExpenseSettings(watts=10.0)))
    model: Any = SimpleNamespace(weights=lambda: None, parameters=lambda: None)
    queries: Any = Queries("texts", ["a"])
    case: Any = SimpleNamespace(recipe=settings)
    found: Any = unwrap(costs.costs_of)(case, dict.fromkeys(names, model), queries, "cpu")
    # A thousand hours' thousandth at 10 W are 10 Wh.
    expected = [1.0, 0.5] if None not in joules else [10.0, 10.0]
    assert [found[name]["energy_wh_per_1000"] for name in names] == pytest.approx(expected)
    assert ("joules_per_query" in found["teacher"]) == (None not in joules)


def with_energy(*, counted: bool, told: str | None) -> EvaluateRecord:
    found = evaluation(with_baseline=True)
    more = {"energy_wh_per_1000": 0.5} | ({"joules_per_query": 1.8} if counted else {})
    models = {name: each.model_copy(update=more) for name, each in found.models.items()}
    measured = found.measurement.model_copy(update={"energy": told})
    return found.model_copy(update={"models": models, "measurement": measured})


def test_page_and_terminal_say_whether_energy_was_measured(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", powercap)
    told = energy_method(None, "cpu", counted=True)
    assert told is not None and "the whole processor drew by its own counters (RAPL, 2 package(s))" in told
    for counted, title in ((True, "measured, whole processor"), (False, "estimate")):
        found = with_energy(counted=counted, told=told if counted else None)
        names = [each.name for each in quantities(found)]
        assert f"Energy of a thousand requests, Wh ({title})" in names
        assert sum("Energy" in name for name in names) == 1
        (first, *_) = comparison_sections(found)
        assert first.after is not None and (told in first.after) == counted


def test_an_estimate_says_why_nothing_was_counted(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", powercap)
    watts = ExpenseSettings(watts=5.0)
    for settings, device, expected in (
        (watts, "cuda", "that of an accelerator is not read"),
        (watts, "cpu", "a counter stood still or could not be read"),
        (ExpenseSettings(price_per_hour=1.0), "cpu", None),
        (None, "cpu", None),
    ):
        told = energy_method(settings, device, counted=False)
        assert told == (expected and f"Energy is estimated from evaluate.expenses.watts: {expected}.")
    monkeypatch.setattr(energy, "POWERCAP", powercap / "none")
    assert "no counters of its processors' energy" in str(energy_method(watts, "cpu", counted=False))


def test_bench_tells_what_was_counted() -> None:
    found: dict[str, Any] = {
        "artefact": "onnx int8", "latency_p50_ms": 1.0, "latency_p50_range_ms": (1.0, 2.0), "throughput_per_s": 1.0,
        "load_ms": 1.0, "peak_memory_bytes": 1, "memory_above_floor_bytes": 1, "method": {
            "host": "h", "cores": 1, "threads": 1, "queries": 1, "queries_are": "given rows", "rounds": 1,
        },
    }  # fmt: skip
    assert not any("energy" in line for line in bench.lines_of(found))
    assert "energy 0.0123 J a query, of the whole processor (measured)" in bench.lines_of(
        found | {"joules_per_query": 0.01234}
    )
