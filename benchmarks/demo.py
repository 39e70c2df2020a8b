"""Rerun a project over seeds and print what holds over all of them, with 95 % t-intervals over the seeds.

Each seed has a run directory OUT/seed-N of its own, in which a finished seed is kept and a broken one goes on.
The seconds of a stage are those of its last start: less than the whole where it was broken off.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy import stats

from potstill import stopping
from potstill.cli import errors_as_messages, quiet_libraries
from potstill.pipeline import run_recipe
from potstill.progress import for_console
from potstill.recipe.yaml_file import load_recipe
from potstill.records import EvaluateRecord, ExportRecord, TrainRecord
from potstill.run_dir import RESULT, read_record, write_json
from potstill.stages.report import environment

GAIN = "gain over baseline, points"
KL_GAIN = "KL gain over baseline, nats"


def run_seed(recipe: Path, out: Path, seed: int, *, quiet: bool) -> dict[str, float]:
    """The quantities of one seed by name, in the order in which they are shown."""
    records: dict[str, Any] = run_recipe(
        load_recipe(recipe, [f"seed={seed}"]), recipe.parent, out, for_console(quiet=quiet)
    )
    measured: EvaluateRecord = records["evaluate"]
    baseline = read_record(out / "train/baseline" / RESULT, TrainRecord) if "baseline" in measured.models else None
    found = {f"accuracy: {name}": model.accuracy for name, model in measured.models.items()}
    found |= {f"agreement: {name}": each.all_rows.value for name, each in measured.agreement.items()}
    found["drop, points"] = measured.drop_points.value
    if measured.gain_over_baseline_points is not None:
        found[GAIN] = measured.gain_over_baseline_points.value
    found |= _of_tokens(measured)
    found |= {
        "speedup": measured.speedup,
        "throughput ratio": measured.throughput_ratio,
        "size ratio": measured.size_ratio,
    }
    found |= {f"TF-IDF floor: {name}": floor.accuracy for name, floor in measured.floors.items()}
    found |= _of_artefacts(records["export"], measured)
    seconds = {name: record.seconds for name, record in records.items() if name != "train"}
    seconds |= {"train/student": records["train"].seconds}
    if baseline is not None:
        seconds |= {"train/baseline": baseline.seconds}
    return found | {f"seconds: {name}": value for name, value in seconds.items()}


def _of_tokens(measured: EvaluateRecord) -> dict[str, float]:
    """What only language models have."""
    if measured.test_tokens is None:
        return {}
    found: dict[str, float | None] = {"KL before training": measured.initial_kl_mean}
    found |= {f"KL: {name}": model.kl_mean for name, model in measured.models.items()}
    found |= {f"perplexity: {name}": model.perplexity for name, model in measured.models.items()}
    gains = {KL_GAIN: measured.kl_gain_over_baseline, "loss gain, nats": measured.loss_gain_over_baseline}
    found |= {name: gain.value for name, gain in gains.items() if gain is not None}
    return {name: value for name, value in found.items() if value is not None}


def _of_artefacts(exported: ExportRecord, measured: EvaluateRecord) -> dict[str, float]:
    """What is shipped, beside the teacher as it was and, as "over rival", in the same form."""
    found: dict[str, float | None] = {}
    for each in exported.artefacts:
        if each.model is None:
            continue
        found |= {
            f"{each.name}: score": each.model.score(measured.primary_metric).value,
            f"{each.name}: KL": each.model.kl_mean,
            f"{each.name}: drop, points": each.drop_points and each.drop_points.value,
            f"{each.name}: p50, ms": each.model.latency_p50_ms,
            f"{each.name}: speedup": each.speedup,
            f"{each.name}: speedup over rival": each.speedup_over_rival,
            f"{each.name}: times smaller": measured.models["teacher"].size_bytes / each.size_bytes,
        }
    found |= {f"{each.name}: KL of rival": each.model and each.model.kl_mean for each in exported.rivals}
    return {name: value for name, value in found.items() if value is not None}


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The t-interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def summarise(values: Sequence[float]) -> dict[str, Any]:
    interval = t_interval(values)
    low, high = interval or (None, None)
    excludes = None if interval is None else not interval[0] <= 0 <= interval[1]
    return {
        "per_seed": list(values),
        "mean": statistics.fmean(values),
        "low": low,
        "high": high,
        "excludes_zero": excludes,
    }


def print_table(seeds: Sequence[int], quantities: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"{len(seeds)} seed(s)")
    table.add_column("", no_wrap=True)
    for name in (*(f"seed {seed}" for seed in seeds), "mean", "95 % t-interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in quantities.items():
        interval = "n/a" if found["low"] is None else f"{found['low']:.4g} to {found['high']:.4g}"
        table.add_row(name, *(f"{value:.4g}" for value in (*found["per_seed"], found["mean"])), interval)
    # A language model is judged by nats, for its likeliest token says little.
    gain = KL_GAIN if KL_GAIN in quantities else GAIN
    if gain in quantities:
        table.caption = f"{gain}: interval excludes zero: {_SAID[quantities[gain]['excludes_zero']]}"
    # Wide enough for a log file, where rich would otherwise assume 80 columns.
    console = Console()
    console.width = max(console.width, 70 + 12 * len(seeds))
    console.print(table)


_SAID = {True: "yes", False: "no", None: "n/a (one seed)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True, help="folder with the recipe and its data")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and summary.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", type=Path, default=Path("recipe.yaml"), help="relative to the project")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args()
    stopping.install()
    quiet_libraries()
    # A seed that is given twice would narrow the interval.
    seeds: list[int] = list(dict.fromkeys(args.seeds))
    recipe: Path = args.project / args.recipe
    found = [run_seed(recipe, args.out / f"seed-{seed}", seed, quiet=args.quiet) for seed in seeds]
    # A seed that failed its gate has no artefacts.
    of_all = [name for name in found[0] if all(name in each for each in found)]
    quantities = {name: summarise([each[name] for each in found]) for name in of_all}
    summary = {"recipe": recipe.name, "seeds": seeds, "confidence": 0.95, "quantities": quantities}
    write_json(args.out / "summary.json", summary | {"environment": environment()})
    print_table(seeds, quantities)


if __name__ == "__main__":
    with errors_as_messages():
        main()
