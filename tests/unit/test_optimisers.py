"""AdamW whose moments lie in few bits: its step, how it rounds, and what it holds of what."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from potstill.errors import RecipeError
from potstill.recipe import AdaptSettings, OptimiserSettings
from potstill.training import optimisers
from potstill.training.optimisers import make_optimiser, require_optimiser
from potstill.training.states import load_state, state_of


class Small(nn.Module):
    """An embedding, a matrix, a vector, and something that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(80, 64)
        self.matrix = nn.Parameter(torch.randn(96, 64))
        self.bias = nn.Parameter(torch.randn(7))
        self.fixed = nn.Parameter(torch.randn(3), requires_grad=False)


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def settings(states: str = "float32", **optimizer: Any) -> OptimiserSettings:
    return OptimiserSettings.model_validate(
        {"learning_rate": 1e-2, "weight_decay": 0.1, "optimizer": {"states": states, **optimizer}}
    )


def stepped(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    count: int,
    *,
    draw: Callable[[Tensor], Tensor] = torch.randn_like,
) -> None:
    """As many steps with gradients that are a function of their number."""
    torch.manual_seed(11)
    for _ in range(count):
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = draw(parameter)
        optimiser.step()


def test_what_it_is_told_is_what_torch_computes_with() -> None:
    """Betas, eps and the decay of matrices alone; and what earlier versions used where nothing is said."""
    for given, asked in (({}, {}), ({"betas": (0.8, 0.95), "eps": 1e-3},) * 2):
        module, reference = small(), small()
        optimiser = make_optimiser(module, settings(**asked), seed=3)
        matrices = [reference.words.weight, reference.matrix]
        other = torch.optim.AdamW(
            [{"params": matrices}, {"params": [reference.bias], "weight_decay": 0.0}],
            lr=1e-2, weight_decay=0.1, fused=True, **given,
        )  # fmt: skip
        stepped(module, optimiser, 5)
        stepped(reference, other, 5)
        for one, two in zip(module.parameters(), reference.parameters(), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(("states", "near"), [("bfloat16", 0.02), ("8bit", 0.1)])
def test_a_training_in_few_bits_goes_where_that_in_float32_goes(states: str, near: float) -> None:
    """200 steps of noisy gradients towards a minimum; how far apart they end, as a share of the way."""
    ends = []
    for each in ("float32", states):
        module = small()
        optimiser = make_optimiser(module, settings(each, betas=(0.9, 0.99)), seed=3)
        stepped(
            module, optimiser, 200, draw=lambda parameter: parameter.detach() - 1 + 0.3 * torch.randn_like(parameter)
        )
        ends.append(torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]))
    start = torch.cat([p.detach().reshape(-1) for p in small().parameters() if p.requires_grad])
    assert (ends[1] - ends[0]).norm() < near * (ends[0] - start).norm()


def test_a_step_is_computed_in_float32() -> None:
    """The first one, which begins with moments of zero, is AdamW's to the last bits."""
    module, reference = small(), small()
    stepped(module, make_optimiser(module, settings("bfloat16"), seed=3), 1)
    stepped(reference, make_optimiser(reference, settings(), seed=3), 1)
    for one, two in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_second_moments_fall_and_rise_though_each_change_is_below_what_bfloat16_can_show() -> None:
    """With beta 0.999 a step lowers one without a gradient by 0.1 %, which to the nearest number is nothing."""
    nearest = torch.ones(2000, dtype=torch.bfloat16)
    for _ in range(1000):
        nearest.copy_(nearest.float() * 0.999)
    assert torch.equal(nearest, torch.ones_like(nearest))

    module = nn.Linear(2000, 1, bias=False)
    optimiser = make_optimiser(module, settings("bfloat16"), seed=3)
    stepped(module, optimiser, 1, draw=torch.ones_like)
    held = optimiser.state[module.weight]
    held["exp_avg_sq"].fill_(1.0)
    stepped(module, optimiser, 1000, draw=torch.zeros_like)
    assert held["exp_avg_sq"].dtype == torch.bfloat16
    assert held["exp_avg_sq"].float().mean().item() == pytest.approx(0.999**1000, rel=0.01)
    # And up again, by 0.1 % of the distance.
    stepped(module, optimiser, 1000, draw=torch.ones_like)
    expected = 1 - (1 - 0.999**1000) * 0.999**1000
    assert held["exp_avg_sq"].float().mean().item() == pytest.approx(expected, rel=0.01)
    assert held["exp_avg"].float().mean().item() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("value", [1.0, 1.003, -0.7013, 3e-30, 1e30])
def test_numbers_are_rounded_up_as_often_as_they_lie_above_the_one_below(value: float) -> None:
    values = torch.full((200_000,), value)
    drawn = torch.empty_like(values, dtype=torch.int32).random_(generator=torch.Generator().manual_seed(1))
    for bits in (drawn, drawn >> 15):
        found = optimisers._rounded(values, bits)
        assert torch.equal(found, found.bfloat16().float())
        assert len(found.unique()) == (1 if value == 1.0 else 2)
        # A spacing is at most 2^-7 of the number, of which a mean of so many is off by a hundredth.
        assert found.double().mean().item() == pytest.approx(value, rel=2**-7 / 100)


def test_both_moments_are_rounded_by_draws_of_their_own() -> None:
    module = nn.Linear(50_000, 1, bias=False)
    optimiser = make_optimiser(module, settings("bfloat16"), seed=3)
    stepped(module, optimiser, 1, draw=lambda parameter: torch.full_like(parameter, 0.7013))
    held = optimiser.state[module.weight]
    up = [held[name].float()[0] > held[name].float().mean() for name in ("exp_avg", "exp_avg_sq")]
    assert abs(torch.corrcoef(torch.stack(up).float())[0, 1].item()) < 0.02


def test_large_matrices_are_stepped_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = small(), small()
    stepped(whole, make_optimiser(whole, settings("bfloat16"), seed=3), 1)
    monkeypatch.setattr(optimisers, "_PIECE", 64 * 30)
    stepped(cut, make_optimiser(cut, settings("bfloat16"), seed=3), 1)
    for one, two in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(one, two)


def test_what_is_drawn_depends_on_seed_step_and_parameter_and_not_on_the_generator_of_dropout() -> None:
    def moments(seed: int, *, before: int = 0, alike: bool = False) -> list[Tensor]:
        module = nn.ParameterList([torch.ones(400, 5), torch.ones(400, 5)])
        optimiser = make_optimiser(module, settings("bfloat16"), seed=seed)
        for _ in range(3):
            torch.rand(before)
            for parameter in module:
                parameter.grad = torch.full_like(parameter, 0.7013)
            optimiser.step()
        return [optimiser.state[parameter]["exp_avg_sq"] for parameter in module]

    first, second = moments(3)
    assert not torch.equal(first, second)
    assert torch.equal(first, moments(3, before=5)[0])
    assert not torch.equal(first, moments(4)[0])


@pytest.mark.parametrize("states", ["bfloat16", "8bit"])
def test_what_it_holds_is_small_and_comes_back_to_the_bit_as_it_was(states: str) -> None:
    whole, half, again = small(), small(), small(seed=5)
    stepped(whole, make_optimiser(whole, settings(states), seed=3), 6)
    first = make_optimiser(half, settings(states), seed=3)
    torch.manual_seed(11)
    for number in range(6):
        if number == 4:
            state = state_of(half, first)
            first = make_optimiser(again, settings(states), seed=3)
            load_state(again, first, state)
            half = again
        for parameter in half.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        first.step()
    for one, two in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(one, two)
    assert state.moments.keys() == {"words.weight", "matrix", "bias"}
    sizes = {
        name: sum(tensor.nbytes for tensor in held.values() if tensor.shape == half.get_parameter(name).shape)
        / half.get_parameter(name).numel()
        for name, held in state.moments.items()
    }
    # Embeddings, and what is too small to gain by it, are in float32.
    expected = {"bfloat16": (4, 4, 4), "8bit": (8, 2, 8)}[states]
    assert (sizes["words.weight"], sizes["matrix"], sizes["bias"]) == expected
    assert [group["params"] for group in state.groups] == [["matrix", "words.weight"], ["bias"]]


def test_eight_bits_without_the_package_are_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require_optimiser(settings("8bit"), "train")
    monkeypatch.setattr(optimisers, "find_spec", lambda name: None)
    require_optimiser(settings("bfloat16"), "train")
    with pytest.raises(
        RecipeError, match=r"^adapt\.optimizer\.states: 8bit needs the package bitsandbytes.*potstill\[large\]"
    ):
        require_optimiser(settings("8bit"), "adapt")


def test_recipes_that_do_not_speak_of_it_are_as_they_were() -> None:
    for kind in (OptimiserSettings, AdaptSettings):
        new = {"optimizer", "gradient_checkpointing", "attention"}
        assert new.isdisjoint(kind().model_dump(mode="json"))
        told = kind(gradient_checkpointing=True, attention="eager", optimizer={"eps": 1e-6})  # type: ignore[arg-type]
        assert new <= told.model_dump(mode="json").keys()
    assert math.isclose(settings().optimizer.betas[1], 0.999)
