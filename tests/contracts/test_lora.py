"""LoRA against its formula: what it trains, one step of it by hand, and the model into which it is merged."""

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from potstill.features import capture_features
from potstill.lora import Adapter, LoraSettings, add_adapter, choose_modules
from potstill.models import FAMILIES, Family, Part
from potstill.signals import Batch, Read, Signal
from potstill.tasks import CausalLM, Seq2Seq, TextClassification
from tests.unit.test_models import MODELS, named, tiny


def batch_for(task: Any) -> Batch:
    ids = torch.arange(2, 16).reshape(2, 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task.kind == "seq2seq":
        inputs |= {"decoder_input_ids": ids[:, :5], "decoder_attention_mask": torch.ones_like(ids[:, :5])}
    return Batch(("a", "b"), inputs, torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool))


def outputs(model: PreTrainedModel, task: Any) -> Tensor:
    with torch.no_grad():
        found = model(**batch_for(task).inputs).logits
    assert isinstance(found, Tensor)
    return found


def adapted(model: PreTrainedModel, task: Any, seed: int = 3, **settings: Any) -> Adapter:
    wanted = LoraSettings(**({"rank": 3, "alpha": 6} | settings))
    modules = choose_modules(model, wanted, where="train.lora", head_in_full=not task.generative)
    return add_adapter(model, wanted, modules, seed=seed)


def moved(adapter: Adapter) -> None:
    """As after some training."""
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize("case", MODELS, ids=named)
def test_it_begins_as_the_model_was_and_merges_into_what_it_became(case: tuple[Family, Any], tmp_path: Path) -> None:
    """Of every family: the untouched outputs at first, to the bit; at the end a plain model of the same class; and
    afterwards the adapter again, to the bit."""
    family, task = case
    model = tiny(family, task)
    names, before, kind = set(model.state_dict()), outputs(model, task), type(model)
    adapter = adapted(model, task)
    assert torch.equal(outputs(model, task), before)
    moved(adapter)
    beside, state = outputs(model, task), copy.deepcopy(model.state_dict())
    assert (beside - before).abs().max() > 1e-2
    with adapter.merged():
        assert type(model) is kind and set(model.state_dict()) == names
        torch.testing.assert_close(outputs(model, task), beside, rtol=1e-4, atol=1e-4)
        model.save_pretrained(tmp_path / "merged")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(outputs(model, task), beside)
    plain = kind.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(outputs(plain, task), beside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", MODELS, ids=named)
def test_it_trains_two_matrices_beside_each_linear_layer_but_the_head_and_the_head_of_a_task_with_classes_in_full(
    case: tuple[Family, Any],
) -> None:
    family, task = case
    model = tiny(family, task)
    # GPT-2's have what they read along their first axis.
    linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear | Conv1D)}
    if family.experts is not None:
        # peft takes a dense layer's for the experts'.
        dense = {"gate_proj", "up_proj", "down_proj"}
        linear = {name: each for name, each in linear.items() if name.rpartition(".")[2] not in dense}
    sizes = {
        name: tuple(each.weight.shape) if isinstance(each, Conv1D) else (each.in_features, each.out_features)
        for name, each in linear.items()
    }
    output = model.get_output_embeddings() if task.generative else None
    inside = {
        name: module
        for name, module in linear.items()
        if module is not output and (task.generative or name.startswith(f"{family.base}."))
    }
    expected = {f"{name}.lora_A.default.weight": (3, sizes[name][0]) for name in inside}
    expected |= {f"{name}.lora_B.default.weight": (sizes[name][1], 3) for name in inside}
    if not task.generative:
        own = {name: parameter for name, parameter in model.named_parameters() if not name.startswith(family.base)}
        expected |= {name: tuple(parameter.shape) for name, parameter in own.items()}
    adapter = adapted(model, task)
    trained = {name: tuple(each.shape) for name, each in model.named_parameters() if each.requires_grad}
    assert trained == expected
    assert adapter.modules.trained_parameters == sum(torch.Size(shape).numel() for shape in expected.values())
    model.zero_grad()
    moved(adapter)
    model(**batch_for(task).inputs).logits.square().sum().backward()
    assert {name for name, each in model.named_parameters() if each.grad is not None} == set(expected)
    assert all(each.grad.abs().max() > 0 for each in model.parameters() if each.grad is not None)


def single(rank: int, **settings: Any) -> tuple[Adapter, nn.Module, Tensor, Tensor]:
    """A model in float64 of which one layer is adapted, and what that layer reads and is told at its outputs."""
    torch.manual_seed(2)
    config = BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12)
    model = BertForSequenceClassification(config).double().eval()
    wanted = LoraSettings(rank=rank, target_modules=["intermediate.dense"], **settings)
    modules = choose_modules(model, wanted, where="train.lora", head_in_full=False)
    assert modules.adapted == ("bert.encoder.layer.0.intermediate.dense",)
    adapter = add_adapter(model, wanted, modules, seed=1)
    layer = model.get_submodule(modules.adapted[0])
    seen: dict[str, Tensor] = {}

    def keep(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen["x"] = given[0].detach()
        output.register_hook(lambda gradient: seen.update(g=gradient))

    with torch.no_grad():
        # Where B is zero, A has no gradient.
        layer.get_parameter("lora_B.default.weight").normal_()
    handle = layer.register_forward_hook(keep)
    model(**batch_for(TextClassification()).inputs).logits.square().sum().backward()
    handle.remove()
    return adapter, layer, seen["x"].reshape(-1, 8), seen["g"].reshape(-1, 12)


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 10 / 4), (True, 10 / 2)])
def test_one_step_of_both_matrices_is_that_of_the_formula(stabilised: bool, scale: float) -> None:
    """y = W x + s B A x: by B the gradient is s g (A x)^T, by A it is s B^T g x^T (arXiv:2106.09685)."""
    adapter, layer, x, g = single(4, alpha=10, rank_stabilised=stabilised)
    a, b = (layer.get_parameter(f"lora_{name}.default.weight") for name in "AB")
    base = layer.get_parameter("base_layer.weight")
    first_a, first_b, weight = a.detach().clone(), b.detach().clone(), base.detach().clone()
    assert a.dtype == torch.float64
    torch.optim.SGD([each for each in adapter.model.parameters() if each.requires_grad], lr=0.1).step()
    new_a = first_a - 0.1 * scale * first_b.T @ g.T @ x
    new_b = first_b - 0.1 * scale * g.T @ (x @ first_a.T)
    torch.testing.assert_close(a.detach(), new_a, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(b.detach(), new_b, rtol=1e-10, atol=1e-12)
    assert torch.equal(base, weight)
    with adapter.merged():
        merged = adapter.model.get_parameter(f"{adapter.modules.adapted[0]}.weight").detach().clone()
    torch.testing.assert_close(merged, weight + scale * new_b @ new_a, rtol=1e-10, atol=1e-12)


def test_of_full_rank_with_the_identity_it_is_a_step_of_the_weights_themselves() -> None:
    adapter, layer, _, _ = single(8, alpha=8)
    plain = copy.deepcopy(layer.get_submodule("base_layer"))
    with torch.no_grad():
        layer.get_parameter("lora_A.default.weight").copy_(torch.eye(8))
        layer.get_parameter("lora_B.default.weight").zero_()
    x = torch.randn(5, 8, dtype=torch.float64)
    for module, parameters in (
        (layer, [layer.get_parameter("lora_B.default.weight")]),
        (plain, [plain.get_parameter("weight").requires_grad_()]),
    ):
        module.zero_grad()
        module(x).sin().sum().backward()
        torch.optim.SGD(parameters, lr=0.1).step()
    with adapter.merged():
        merged = adapter.model.get_parameter(f"{adapter.modules.adapted[0]}.weight")
        torch.testing.assert_close(merged, plain.get_parameter("weight"), rtol=1e-12, atol=1e-12)


def test_what_is_trained_in_full_keeps_its_type_beside_weights_in_half_precision() -> None:
    model = tiny(FAMILIES["bert"], TextClassification())
    with torch.no_grad():
        # A year, of which bfloat16 has none between 2000 and 2008.
        model.classifier.bias.fill_(2005.95)
    wanted = LoraSettings(rank=3, alpha=6)
    modules = choose_modules(model, wanted, where="adapt.lora", head_in_full=True)
    adapter = add_adapter(model, wanted, modules, seed=3, still=torch.bfloat16)
    assert adapter.dtype == torch.bfloat16
    with adapter.merged():
        bias = model.classifier.bias.detach().clone()
    assert bias.dtype == torch.float32 and (bias == torch.tensor(2005.95)).all()


def test_in_half_precision_the_sum_is_made_in_float32_and_rounded_once() -> None:
    task = CausalLM()
    model = tiny(FAMILIES["llama"], task).to(torch.bfloat16)
    adapter = adapted(model, task)
    moved(adapter)
    name = adapter.modules.adapted[0]
    layer = model.get_submodule(name)
    a, b = (layer.get_parameter(f"lora_{each}.default.weight").detach() for each in "AB")
    assert a.dtype == b.dtype == torch.float32
    weight = layer.get_parameter("base_layer.weight").detach().clone()
    with adapter.merged():
        merged = model.get_parameter(f"{name}.weight").detach().clone()
    exact = weight.double() + 2.0 * b.double() @ a.double()
    assert merged.dtype == torch.bfloat16 and adapter.dtype == torch.bfloat16
    # As near as bfloat16 has a number: half a unit in its eighth bit. Rounded twice, some would be farther.
    assert ((merged.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6 * exact.abs().max()).all()
    twice = weight + (2.0 * b @ a).to(torch.bfloat16)
    assert (merged.double() - exact).abs().sum() < (twice.double() - exact).abs().sum()


@pytest.mark.parametrize(
    ("family", "task", "settings", "values"),
    [
        ("bert", TextClassification(), {}, {}),
        ("electra", TextClassification(), {"rank_stabilised": True}, {}),
        ("llama", CausalLM(), {"target_modules": ["q_proj", "down_proj"]}, {}),
        ("llama", CausalLM(), {"modules_to_save": ["embed_tokens", "norm"]}, {"tie_word_embeddings": True}),
        ("llama", CausalLM(), {"modules_to_save": ["lm_head"]}, {"tie_word_embeddings": False}),
    ],
)
def test_peft_loads_the_adapter_onto_the_first_weights(
    family: str, task: Any, settings: dict[str, Any], values: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny(FAMILIES[family], task, **values)
    first = copy.deepcopy(model)
    adapter = adapted(model, task, **settings)
    moved(adapter)
    kind = "CAUSAL_LM" if task.generative else "SEQ_CLS"
    adapter.save(tmp_path, base="../base", revision=None, task=kind)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["r"], said["lora_alpha"]) == ("../base", 3, 6)
    with warnings.catch_warnings():
        # Of what peft asks of transformers.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        loaded = PeftModel.from_pretrained(first, str(tmp_path)).eval()
    torch.testing.assert_close(outputs(loaded, task), outputs(model, task), rtol=1e-5, atol=1e-5)
    again = tmp_path / "again"
    adapter.save(again, base="../base", revision=None, task=kind)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / name).read_bytes() == (again / name).read_bytes()


def test_the_seed_decides_where_it_begins_and_no_other_draw_is_moved() -> None:
    task = TextClassification()
    starts = []
    for seed in (3, 3, 4):
        model = tiny(FAMILIES["bert"], task)
        torch.manual_seed(77)
        adapter = adapted(model, task, seed)
        starts.append((model.get_parameter(f"{adapter.modules.adapted[0]}.lora_A.default.weight"), torch.rand(3)))
    assert torch.equal(starts[0][0], starts[1][0]) and not torch.equal(starts[0][0], starts[2][0])
    assert all(torch.equal(draw, starts[0][1]) for _, draw in starts)


def test_dropout_is_only_where_it_is_asked_for_and_only_in_training() -> None:
    task = TextClassification()
    for dropout in (0.0, 0.5):
        model = tiny(FAMILIES["bert"], task, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        moved(adapted(model, task, dropout=dropout))
        model.train()
        assert torch.equal(outputs(model, task), outputs(model, task)) == (dropout == 0)
        model.eval()
        assert torch.equal(outputs(model, task), outputs(model, task))


@pytest.mark.parametrize(
    ("family", "task", "part"),
    [("llama", CausalLM(), Part.ONLY), ("bert", TextClassification(), Part.ONLY), ("bart", Seq2Seq(), Part.CROSS)],
)
def test_losses_read_features_and_outputs_as_of_the_merged_model(family: str, task: Any, part: Part) -> None:
    model = tiny(FAMILIES[family], task)
    adapter = adapted(model, task)
    moved(adapter)
    stack = part.stack
    # What is written sees what is read: there queries and values are of two texts.
    signals = (Signal.ATTENTION, *(() if part is Part.CROSS else (Signal.QUERY_RELATION, Signal.VALUE_RELATION)))
    reads = {Read(Signal.HIDDEN_STATES, layer, part=stack) for layer in (0, 2)}
    reads |= {Read(signal, 2, heads=4, part=part) for signal in signals}
    batch = batch_for(task)
    if task.kind == "seq2seq":
        targets = {"target_ids": batch.inputs["decoder_input_ids"]}
        batch = replace(batch, inputs={**batch.inputs, **targets})

    def signals_of_model() -> list[Tensor]:
        with torch.no_grad(), capture_features(model, frozenset(reads)) as captured:
            found = task.ask(model, batch)
        head = found.logits if found.head is None else found.head.logits(found.hidden.reshape(-1, 24))
        tokens = torch.ones(2, 5 if task.kind == "seq2seq" else 7, dtype=torch.bool)
        return [head, *(captured.of(read, tokens) for read in sorted(reads))]

    beside = signals_of_model()
    if task.kind != "seq2seq":
        # There the task shifts the target by itself.
        torch.testing.assert_close(beside[0], outputs(model, task).reshape(beside[0].shape), rtol=1e-4, atol=1e-5)
    with adapter.merged():
        for one, other in zip(beside, signals_of_model(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
