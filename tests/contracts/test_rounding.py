"""Numbers are rounded as the artefact holds them, and trained as if they were whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from torch import Tensor, nn

from potstill.exporters import ExecuTorch, Gguf, Onnx, OpenVino
from potstill.exporters.rounded_embedding import RoundedEmbedding, round_embeddings
from potstill.exporters.rounding import (
    int8_between_extremes,
    int8_by_channel,
    int8_levels,
    int8_of_all,
    q4_0,
    q8_0,
    with_rounded_weights,
)
from tests.tiny_decoders import decoder

OF_GGUF = {"Q8_0": q8_0, "Q4_0": q4_0}


def blocks() -> Tensor:
    """Of many scales, and where rounding is easily done otherwise: ties, halves, zeros, one value, constants."""
    generator = np.random.default_rng(0)
    rows = [generator.standard_normal((300, 32)) * scale for scale in (1, 0.02, 1e3, 1e-5, 1e-7)]
    edge = np.zeros((30, 32))
    edge[1, 3], edge[2, 3] = 1, -1
    edge[3, ::2], edge[3, 1::2] = 1, -1
    edge[4, ::2], edge[4, 1::2] = -1, 1
    edge[5], edge[6] = 0.25, -0.25
    edge[7], edge[8] = np.linspace(-8, 8, 32), np.arange(-16, 16) / 2
    edge[9, 0], edge[9, 1:] = 127, np.arange(31) + 0.5
    edge[10, 0], edge[10, 1:] = -127, -(np.arange(31) + 0.5)
    edge[11, 0], edge[11, 1:] = -8, np.arange(31) / 2 - 7.5
    edge[12:] = generator.integers(-16, 17, (18, 32)) / 2
    return torch.from_numpy(np.concatenate([*rows, edge]).astype(np.float32))


@pytest.mark.parametrize("kind", OF_GGUF)
def test_blocks_are_rounded_as_the_format_rounds_them(kind: str) -> None:
    values = blocks()
    with np.errstate(all="ignore"):
        packed = quants.quantize(values.numpy(), GGMLQuantizationType[kind])
        expected = quants.dequantize(packed, GGMLQuantizationType[kind])
    assert (OF_GGUF[kind](values).numpy() == expected).all()
    # Of a matrix, blocks are along its rows.
    matrix = values[:96].reshape(24, 128)
    assert torch.equal(OF_GGUF[kind](matrix), OF_GGUF[kind](values[:96]).reshape(24, 128))


def naive_int8(row: list[float]) -> list[float]:
    scale = max(abs(value) for value in row) / 127
    return [round(value / scale) * scale for value in row]


def test_8_bits_have_a_scale_for_each_channel_or_for_all() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 40, dtype=torch.float64) * torch.logspace(-2, 2, 6)[:, None]
    expected = torch.tensor([naive_int8(row) for row in weight.tolist()], dtype=torch.float64)
    torch.testing.assert_close(int8_by_channel(weight), expected, rtol=1e-9, atol=0)
    levels, scale = int8_levels(weight)
    assert levels.dtype == torch.int8 and levels.abs().max() == 127 and scale.shape == (6, 1)
    assert torch.equal(levels * scale, int8_by_channel(weight))
    together = torch.tensor(naive_int8(weight.flatten().tolist()), dtype=torch.float64).reshape(6, 40)
    torch.testing.assert_close(int8_of_all(weight), together, rtol=1e-9, atol=0)


def test_levels_between_extremes_hold_zero_and_reach_both() -> None:
    torch.manual_seed(0)
    weight = torch.rand(5, 40, dtype=torch.float64) * 3 - 1
    weight[0] = weight[0].abs() + 1  # all above zero
    weight[:, 0] = 0
    rounded = int8_between_extremes(weight)
    step = (weight.amax(1) - weight.amin(1).clamp(max=0)) / 255
    assert ((rounded - weight).abs() <= 0.5001 * step[:, None] + 1e-12).all()
    assert (rounded[:, 0] == 0).all()
    for row, size in zip(rounded, step, strict=True):
        assert len(torch.unique((row / size).round())) <= 256


@pytest.mark.parametrize("rounded", [int8_by_channel, int8_of_all, int8_between_extremes, q8_0, q4_0])
def test_a_row_of_zeros_stays_one(rounded: Callable[[Tensor], Tensor]) -> None:
    assert torch.equal(rounded(torch.zeros(2, 64)), torch.zeros(2, 64))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.first = nn.Linear(32, 64)
        self.norm = nn.LayerNorm(64)

    def forward(self, ids: Tensor) -> Any:
        return self.norm(self.first(self.embed(ids)))


def test_within_weights_are_rounded_where_they_are_read_and_trained_as_if_they_were_whole() -> None:
    torch.manual_seed(0)
    model, plain, ids = Small(), Small(), torch.arange(10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain.load_state_dict(before)
    with torch.no_grad():
        for each in (plain.embed, plain.first):
            each.weight.copy_(q4_0(each.weight))
    plain(ids).square().sum().backward()
    with with_rounded_weights(model, lambda name, module: q4_0):
        assert torch.equal(model(ids), plain(ids))
        model(ids).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), "after it they are whole again"
        expected = dict(plain.named_parameters())[name].grad
        torch.testing.assert_close(parameter.grad, expected, msg=name)
    assert model.state_dict().keys() == before.keys()


def test_what_a_form_does_not_round_stays_whole() -> None:
    model = Small()
    with with_rounded_weights(model, lambda name, module: q4_0 if name == "first" else None):
        assert torch.equal(model.first.weight, q4_0(model.first.weight.detach().clone()))
        assert len(torch.unique(model.embed.weight[0])) > 16


def test_tied_weights_stay_one_parameter() -> None:
    model = decoder("llama", tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    names = [name for name, _ in model.named_parameters()]
    with with_rounded_weights(model, lambda name, module: int8_by_channel):
        parameters = list(model.parameters())
        assert len(parameters) == len({id(each) for each in parameters}) == len(names)
        assert torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert [name for name, _ in model.named_parameters()] == names


def test_exporters_say_how_they_round() -> None:
    linear, embedding, model = nn.Linear(4, 4), nn.Embedding(4, 4), decoder("llama")
    of_onnx = Onnx().rounding(model)
    assert of_onnx("x", linear) is int8_by_channel and of_onnx("x", embedding) is int8_of_all
    assert OpenVino().rounding(model)("x", linear) is int8_between_extremes
    of_executorch = ExecuTorch(precision="int8").rounding(model)
    assert of_executorch("x", linear) is int8_by_channel and of_executorch("x", embedding) is int8_by_channel
    assert of_executorch("x", nn.LayerNorm(4)) is None
    assert ExecuTorch(precision="int8").rounds and not ExecuTorch().rounds
    assert Onnx().rounds and not Onnx(precision="float32").rounds
    assert Onnx(distil={"steps": 3}).name == "onnx-int8-distilled" and Onnx(distil={"steps": 3}).form == "onnx-int8"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("width", "of_head"), [(64, q8_0), (256, None)])
def test_gguf_rounds_as_its_file_does(tied: bool, width: int, of_head: Any) -> None:
    """In 4 bits the head has more; where the embeddings are the head, they have."""
    model = decoder("llama", tie_word_embeddings=tied, hidden_size=width, intermediate_size=40)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    layer = model.model.layers[0]
    four, eight = Gguf(precision="q4_0").rounding(model), Gguf(precision="q8_0").rounding(model)
    assert four("q", layer.self_attn.q_proj) is q4_0 and eight("q", layer.self_attn.q_proj) is q8_0
    assert four("lm_head", head) is of_head and eight("lm_head", head) is q8_0
    assert four("embed", embedding) is (of_head if tied else q4_0)
    # Rows that are no multiple of a block stay in half precision.
    assert four("down", layer.mlp.down_proj) is None
    assert not Gguf(precision="q4_k_m").rounds and not Gguf(precision="f16").rounds


class Positions(nn.Embedding):
    """Reads other rows than it is asked for, as some models do."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids + 2)


def test_embeddings_in_8_bits_give_the_rows_that_a_student_is_trained_on_with() -> None:
    torch.manual_seed(0)
    model = Small()
    model.inner = Small()
    model.inner.embed = model.embed
    model.positions = Positions(6, 32)
    ids = torch.tensor([[0, 9, 3], [3, 3, 1]])
    expected = int8_by_channel(model.embed.weight.detach())
    round_embeddings(model)
    table = model.embed
    assert isinstance(table, RoundedEmbedding) and model.inner.embed is table, "one table stays one"
    assert torch.equal(table(ids), expected[ids]) and torch.equal(table.weight, expected)
    assert table(ids).dtype == torch.float32 and table.levels.dtype == torch.int8
    assert not list(table.parameters()) and type(model.positions) is Positions
    assert ExecuTorch(precision="int8").rounding(decoder("llama"))("x", model.positions) is None
