"""What the benchmarks build beside the package, and the one for a GPU with toy shapes."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
# The last layer attends to a window.
WINDOWED = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=3)


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (LlamaForCausalLM(LlamaConfig(**SIZES)), None),
        (Qwen2ForCausalLM(Qwen2Config(**SIZES)), ["full_attention"] * 2),
        (Qwen2ForCausalLM(WINDOWED), ["full_attention", "sliding_attention"]),
    ],
)
def test_the_student_that_trl_is_compared_on_has_layers_of_its_teacher_and_their_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, kinds: list[str] | None
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import vs_trl

    model.save_pretrained(tmp_path)
    given = {field.name: 1 for field in fields(vs_trl.Setup)}
    places = {"model": tmp_path, "data": tmp_path, "work": tmp_path, "device": torch.device("cpu")}
    student = vs_trl.Setup(**given | places | {"layers": 2}).student()
    assert getattr(student.config, "layer_types", None) == kinds
    for own, of in ((0, 0), (1, 3)):
        for name, weight in student.model.layers[own].state_dict().items():
            assert torch.equal(weight, model.model.layers[of].state_dict()[name])


def test_the_figures_of_a_gpu_are_all_measured_with_toy_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for memory, which a CPU does not tell, and for TRL where it is not installed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    machine = gpu.Machine(torch.device("cpu"), gpu.TOY, tmp_path)
    found = [*gpu.labelling(machine), *gpu.steps(machine), *gpu.training_memory(machine)]
    by_name = {each.name: each for each in found}
    for name in ("7.6 B teacher: labels low_rank / bare", "1.5 B teacher: labels low_rank / bare"):
        assert by_name[name].value > 0 and by_name[name].verdict in ("met", "missed")
    for name in ("top_k", "low_rank", "hard labels", "teacher online"):
        assert by_name[f"step: {name} / plain fine-tuning"].value > 0
    for saved in gpu.SAVING:
        figure = by_name[f"training memory of a 0.95 B student{saved}"]
        assert figure.value is None and figure.note.endswith("ms a step")
    assert [each.bar for each in found if each.bar] == [
        *(">= 0.85", "<= 1.3", ">= 0.7"),
        *("<= 1.05", ">= 2.7", "<= 1.1", ">= 2.5"),
        "<= 20",
        "<= 12",
    ]


def test_a_bar_is_met_on_its_own_side_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu import Figure

    verdicts = [Figure("", value, "", bar).verdict for bar in (">= 0.7", "<= 1.1") for value in (0.69, 0.7, 1.1, 1.11)]
    assert verdicts == ["missed", "met", "met", "met", "met", "met", "met", "missed"]


@pytest.mark.long
def test_the_benchmark_for_a_gpu_runs_as_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--toy", "--device", "cpu", "--only", "first-step"])
    gpu.main()
    assert "seconds outside steps, first command to first step" in capsys.readouterr().out
