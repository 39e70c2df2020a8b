"""`potstill doctor` tells what there is, and each of its checks can fail."""

import math
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from potstill import doctor
from potstill.cli import app
from potstill.data.packing import PackedRows
from potstill.doctor.checks import EQUALITIES, Check, Equality
from potstill.doctor.environment import EXTRAS, environment_lines, unmet_requirements
from potstill.errors import LabelStoreError
from potstill.labels.exact_head import ExactHead
from potstill.labels.store import LabelStore
from potstill.signals import Batch
from potstill.targets import Mass
from potstill.training import batches, states

CPU = torch.device("cpu")
BY_NAME = {(equality.name, equality.model): equality for equality in EQUALITIES}


def told(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_all_holds_here() -> None:
    found = list(doctor.run_checks(CPU))
    assert [each.line for each in found if not each.holds] == []
    assert {each.name for each in found} == {
        "chunked = whole",
        "packed = not",
        "accumulated = not",
        "stored = online",
        "resumed = not",
    }
    # A bound that is far above what is found would let a mistake pass.
    assert all(each.difference < each.tolerance / 20 or each.difference == 0 for each in found)


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    code, output = told("--quick")
    assert code == 0
    lines = {line[2:22].strip(): line for line in output.splitlines() if line.startswith("  ")}
    assert torch.__version__ in lines["torch"] and metadata.version("pyarrow") in lines["pyarrow"]
    assert lines["OMP_NUM_THREADS"].endswith("7")
    assert str(tmp_path) in lines["this folder"] and "GiB" in lines["memory"] and "logical cores" in lines["cpu"]
    assert "checks on" not in output


def test_every_extra_has_a_purpose() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"])


def declare(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: list(requirements))


def line_of(name: str) -> str:
    return next(line for line in environment_lines() if line.startswith(f"  {name} "))


def test_what_is_too_old_or_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, "torch>=99", "not-there>=1", "numpy>=1", "old-python; python_version < '3'")
    assert unmet_requirements() == [
        f"torch is {torch.__version__}, and >=99 is needed",
        "not-there is not installed",
    ]
    assert line_of("torch").endswith("and >=99 is needed") and "FAILED" in line_of("torch")
    code, output = told("--quick")
    assert code == 1 and "2 failed" in output


def test_an_extra_is_there_when_all_that_it_needs_is(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch,
        "numpy>=1; extra == 'gguf'",
        "not-there; extra == 'wandb'",
        "numpy>=99; extra == 'trackio'",
        "potstill[wandb]; extra == 'demo'",
    )
    assert "yes  teachers in GGUF files" in line_of("gguf")
    assert "not-there is not installed); pip install 'potstill[wandb]'" in line_of("wandb")
    assert "and >=99 is needed); pip install 'potstill[trackio]'" in line_of("trackio")
    assert "no   teachers and texts" in line_of("demo") and "not-there" in line_of("demo")


def seen_by_all(self: PackedRows, indices: Any, collate: Any = PackedRows.collate) -> Batch:
    """Rows in which an example is the continuation of the one before."""
    batch = collate(self, indices)
    ids = batch.inputs["input_ids"]
    positions = torch.arange(ids.shape[1]).expand(len(ids), -1).clone()
    return replace(batch, inputs={"input_ids": ids, "position_ids": positions})


def first_piece(rows: list[int], size: int, pieces: Any = batches.micro_batches, **ranks: int) -> list[list[int]]:
    """Micro-batches of which all but the first are forgotten."""
    found: list[list[int]] = pieces(rows, size, **ranks)
    return found[:1]


def by_position(self: LabelStore, ids: Any, logits: Any = LabelStore.logits) -> Any:
    """Labels of the rows that were stored first, whatever rows are asked for."""
    return logits(self, [f"1-{number}" for number in range(len(ids))])


def without_tail(self: ExactHead, columns: Any, mass: Any = ExactHead.mass) -> Mass:
    """A head that has all of the mass."""
    found: Mass = mass(self, columns)
    return replace(found, log_tails=torch.full_like(found.log_tails, -80.0))


# For each equality a plausible mistake, and where it is made.
MISTAKES = {
    ("chunked = whole", "llama"): ("potstill.losses.kernels.temperature_scale", lambda divergence, temperature: 1.0),
    ("packed = not", "llama"): (PackedRows, "collate", seen_by_all),
    ("accumulated = not", "bert"): (batches, "micro_batches", first_piece),
    ("accumulated = not", "llama"): (batches, "micro_batches", first_piece),
    ("stored = online", "bert"): (LabelStore, "logits", by_position),
    ("stored = online", "llama"): (ExactHead, "mass", without_tail),
    ("resumed = not", "bert"): (torch, "set_rng_state", lambda state: None),
    ("resumed = not", "llama"): (states, "set_optimizer_state_dict", lambda *_, **__: None),
}


@pytest.mark.parametrize("which", BY_NAME, ids=" ".join)
def test_each_check_can_fail(which: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MISTAKES[which])
    found = BY_NAME[which].tried(CPU)
    assert not found.holds and not found.error
    assert found.line.startswith("FAILED") and "differs by" in found.line


def test_an_error_is_a_check_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any) -> float:
        raise LabelStoreError("labels: damaged.\nmore")

    found = Equality("stored = online", "bert", 0.1, damaged).tried(CPU)
    assert not found.holds and found.line.endswith("LabelStoreError: labels: damaged.")


def test_what_is_no_number_is_no_equality() -> None:
    assert not Check("a = b", "bert", math.nan, 1.0).holds
    assert not Check("a = b", "bert", math.inf, 1.0).holds
    assert Check("a = b", "bert", 0.0, 0.0).holds


@pytest.mark.parametrize(("difference", "code"), [(0.0, 0), (0.5, 1)])
def test_the_exit_code_tells_whether_all_holds(difference: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def checks(device: torch.device) -> Iterator[Check]:
        asked.append(device.type)
        yield Check("a = b", "bert", 0.0, 0.1)
        yield Check("c = d", "bert", difference, 0.1)

    monkeypatch.setattr(doctor, "run_checks", checks)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found, output = told()
    assert found == code and asked == ["cpu", "cuda"]
    assert ("FAILED c = d" in output) is bool(code) and output.count("ok     a = b") == 2
