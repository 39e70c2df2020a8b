"""Passes as settings ask for them give the gradients of the usual ones, whatever is read beside, and leave nothing."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import RecipeError
from potstill.features import capture_features
from potstill.lora import LoraSettings, add_adapter, choose_modules
from potstill.models import FAMILIES, Family, Part, attention_of, layers_of
from potstill.recipe import OptimiserSettings
from potstill.signals import Batch, Read, Signal
from potstill.tasks import CausalLM, TextClassification
from potstill.training import passes
from potstill.training.passes import passes_of, require_passes
from tests.unit.test_models import MODELS, named, tiny, tiny_config

AGAIN = OptimiserSettings(gradient_checkpointing=True)
USUAL = OptimiserSettings()


def batch_for(task: Any) -> Batch:
    ids = torch.tensor([[2, 5, 7, 9, 3, 4, 8], [6, 8, 7, 3, 12, 1, 1]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    if task.kind == "seq2seq":
        inputs |= {"target_ids": ids[:, :5], "decoder_attention_mask": torch.ones_like(ids[:, :5])}
    if task.kind == "causal_lm":
        positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6]])
        inputs = {"input_ids": ids, "position_ids": positions}
    mask = {"text_classification": torch.ones(2, dtype=torch.bool), "seq2seq": ids[:, :5] != 1}.get(task.kind, ids != 1)
    return Batch(("a", "b"), inputs, torch.zeros(mask.shape, dtype=torch.long), mask)


def with_dropout(family: Family, task: Any) -> PreTrainedModel:
    """A model that draws in its layers, as in training."""
    names = [name for name in vars(tiny_config(family)) if "drop" in name and "layer" not in name]
    return small(family, task, **dict.fromkeys(names, 0.2))


def small(family: Family, task: Any, **values: Any) -> PreTrainedModel:
    return tiny(family, task, **({"decoder_start_token_id": 2} if task.kind == "seq2seq" else {}) | values)


def every_read(family: Family) -> frozenset[Read]:
    """All that losses can read of the layers of a model."""
    reads = set()
    for part in family.stacks:
        depth = 3 if part in (Part.DECODER, Part.CROSS) else 4
        if part is not Part.CROSS:
            reads |= {Read(Signal.HIDDEN_STATES, layer, part=part) for layer in range(depth + 1)}
            reads |= {Read(Signal.HIDDEN_STATES, depth, normed=True, part=part)}
        if family.without_maps is None:
            reads |= {Read(Signal.ATTENTION, layer, part=part) for layer in (1, depth)}
            reads |= {Read(signal, 2, heads=2, part=part) for signal in RELATIONS if part is not Part.CROSS}
    return frozenset(reads)


RELATIONS = (Signal.QUERY_RELATION, Signal.KEY_RELATION, Signal.VALUE_RELATION)


def passed(
    model: PreTrainedModel, task: Any, reads: frozenset[Read], settings: OptimiserSettings
) -> tuple[Tensor, dict[str, Tensor], int]:
    """A loss over outputs and all that is read, its gradients, and how often layers were computed."""
    batch, calls = batch_for(task), [0]

    def count(*_: object) -> None:
        calls[0] += 1

    hooks = [
        layer.get_submodule(stack.attention).register_forward_pre_hook(count)
        for part, stack in FAMILIES[model.config.model_type].stacks.items()
        if part is not Part.CROSS
        for layer in layers_of(model, part)
    ]
    model.train()
    model.zero_grad()
    torch.manual_seed(7)
    with passes_of(model, settings):
        with capture_features(model, reads) as captured:
            said = task.ask(model, batch)
        outputs = said.hidden if said.hidden is not None else said.logits
        total = outputs.square().mean()
        for number, (_, feature) in enumerate(sorted(captured.of_batch(batch).items())):
            seen = feature.float().clamp(min=-30)
            total = total + (seen * torch.linspace(-1, 1, seen.shape[-1]) * (1 + number)).square().mean()
        drawn = torch.rand(1)
        total.backward()
    model.eval()
    for hook in hooks:
        hook.remove()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return torch.cat([total.detach()[None], drawn]), found, calls[0]


@pytest.mark.parametrize("case", MODELS, ids=named)
def test_layers_that_are_computed_again_give_the_same_gradients_with_dropout_and_all_that_losses_read(
    case: tuple[Family, Any],
) -> None:
    """Of every family: hidden states, attention maps and relations of the layers that are computed twice."""
    family, task = case
    model = with_dropout(family, task)
    for reads in (frozenset[Read](), every_read(family)):
        total, expected, once = passed(model, task, reads, USUAL)
        again, found, twice = passed(model, task, reads, AGAIN)
        assert torch.equal(total, again) and twice == 2 * once
        assert found.keys() == expected.keys() and len(found) > 10
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    assert passed(model, task, reads, USUAL)[2] == once


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "deberta-v2"])
def test_above_frozen_weights_what_lora_trains_has_its_gradients(family: str) -> None:
    """The inputs of the first layer ask for none, for which checkpoints with reentrance lose all of it."""
    [(of, task), *_] = [(each, task) for each, task in MODELS if each.name == family]
    model = with_dropout(of, task)
    settings = LoraSettings(rank=3, alpha=6, dropout=0.1)
    modules = choose_modules(model, settings, where="train.lora", head_in_full=not task.generative)
    adapter = add_adapter(model, settings, modules, seed=3)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    reads = every_read(of)
    total, expected, _ = passed(model, task, reads, USUAL)
    again, found, _ = passed(model, task, reads, AGAIN)
    assert torch.equal(total, again) and found.keys() == expected.keys()
    assert all(("lora" in name) != name.startswith(("classifier", "pooler")) for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_in_bfloat16_too() -> None:
    model, task = with_dropout(FAMILIES["bert"], TextClassification()), TextClassification()
    reads = every_read(FAMILIES["bert"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, expected, _ = passed(model, task, reads, USUAL)
        again, found, _ = passed(model, task, reads, AGAIN)
    assert torch.equal(total, again)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_the_device_on_which_dropout_is_drawn_is_seen_where_a_layer_is_given_all_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch looks for it among what is given by place alone, and would draw other dropout the second time."""
    seen: list[Any] = []
    monkeypatch.setattr(passes, "checkpoint", lambda function, *given, use_reentrant: seen.extend(given))
    states = torch.ones(2)
    passes._computed_again(partial(lambda hidden_states: hidden_states, hidden_states=states))
    assert any(isinstance(each, dict) and each["hidden_states"] is states for each in seen)


def test_nothing_is_left_of_it_in_the_model_or_in_what_is_saved(tmp_path: Path) -> None:
    model = tiny(FAMILIES["llama"], CausalLM())
    model.save_pretrained(tmp_path / "before")
    before = [vars(module).keys() - {"_parameters"} for module in model.modules()]
    with passes_of(model, OptimiserSettings(gradient_checkpointing=True, attention="eager")):
        assert model.config._attn_implementation == "eager" and model.model.layers[0].gradient_checkpointing
        model.save_pretrained(tmp_path / "within")
    model.save_pretrained(tmp_path / "after")
    assert model.config._attn_implementation == "sdpa" and not model.model.layers[0].gradient_checkpointing
    assert before == [vars(module).keys() - {"_parameters"} for module in model.modules()]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "within", "after")]
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.parametrize("case", [case for case in MODELS if case[1].kind != "token_classification"], ids=named)
def test_eager_attention_gives_the_gradients_of_the_usual_one(case: tuple[Family, Any]) -> None:
    family, task = case
    model = small(family, task)
    usual = [each.config._attn_implementation for each in model.modules() if isinstance(each, PreTrainedModel)]
    total, expected, _ = passed(model, task, frozenset(), USUAL)
    eager: list[str] = []

    def note(module: nn.Module, *_: object) -> None:
        config = next(each for each in vars(module).values() if hasattr(each, "_attn_implementation"))
        eager.append(config._attn_implementation)

    part = next(iter(family.stacks))
    attention = attention_of(model, 0, part)
    noted = any(hasattr(each, "_attn_implementation") for each in vars(attention).values())
    hook = attention.register_forward_pre_hook(note) if noted else None
    again, found, _ = passed(model, task, frozenset(), OptimiserSettings(attention="eager"))
    assert set(eager) <= {"eager"} and bool(eager) == noted
    torch.testing.assert_close(total, again, rtol=1e-4, atol=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-5, msg=name)
    if hook is not None:
        hook.remove()
    after = [each.config._attn_implementation for each in model.modules() if isinstance(each, PreTrainedModel)]
    assert after == usual


def test_models_and_machines_that_cannot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    llama, deberta = tiny(FAMILIES["llama"], CausalLM()), tiny(FAMILIES["deberta"], TextClassification())
    for model in (llama, deberta):
        require_passes(model, OptimiserSettings(gradient_checkpointing=True, attention="eager"), "train")
    with pytest.raises(
        RecipeError, match=r"^adapt\.attention: transformers has no sdpa for a deberta model\..* which is eager here\.$"
    ):
        require_passes(deberta, OptimiserSettings(attention="sdpa"), "adapt")
    flash = OptimiserSettings(attention="flash_attention_2")
    with pytest.raises(RecipeError, match=r"train\.attention: flash_attention_2 needs a CUDA device"):
        require_passes(llama, flash, "train")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RecipeError, match=r"train\.attention: flash_attention_2 needs the package flash-attn"):
        require_passes(llama, flash, "train")
    monkeypatch.setattr(passes, "find_spec", lambda name: object())
    with pytest.raises(RecipeError, match=r"transformers has no flash_attention_2 for a deberta model"):
        require_passes(deberta, flash, "train")
    with pytest.raises(RecipeError, match=r"^train\.attention: flash_attention_2 cannot be used here: "):
        require_passes(llama, flash, "train")
    monkeypatch.setattr(type(llama), "supports_gradient_checkpointing", False)
    with pytest.raises(RecipeError, match=r"train\.gradient_checkpointing: transformers cannot compute the layers of"):
        require_passes(llama, AGAIN, "train")
