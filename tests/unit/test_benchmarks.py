"""What the benchmarks build beside the package."""

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
