"""What the chat model loses with layers or feed-forward units left out, and with its weights in 4 bits.

    potstill init support-chat demo-chat/
    potstill adapt demo-chat/recipe.yaml --out demo-chat/run
    python benchmarks/chat_layers.py --project demo-chat --teacher demo-chat/run/adapt/model

Told is the KL from the whole model on the test rows, before and after as much training for each. Layers are left out
one by one, each time the one without which the model stays nearest on training rows; units by their activations. The
teacher answers in each step, so that no encoding of labels is in the figures. It is made for a GPU; on a processor
each line takes an hour.
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from potstill import load_recipe
from potstill.exporters.rounding import RoundOf, q4_0, q8_0, with_rounded_weights
from potstill.stages.inputs import read_inputs

TOKENS_OF_A_PASS = 8192
RATE = 5e-4
RATE_OF_ROUNDING = 1e-4
WARMUP = 0.1


@dataclass(frozen=True)
class Rows:
    """Some examples together, padded on the right."""

    ids: Tensor
    mask: Tensor
    """Positions whose next token is learnt."""
    seen: Tensor

    @property
    def tokens(self) -> int:
        return int(self.seen.sum())


def batches(examples: Sequence[Any], tokens: int, device: str, order: Sequence[int] | None = None) -> Iterator[Rows]:
    """Examples in batches of at least so many tokens; the rest, where they are not drawn."""
    taken: list[Any] = []
    for number in range(len(examples)) if order is None else order:
        taken.append(examples[number])
        if sum(len(each.ids) for each in taken) >= tokens:
            yield _together(taken, device)
            taken = []
    if taken and order is None:
        yield _together(taken, device)


def _together(examples: Sequence[Any], device: str) -> Rows:
    shape = len(examples), max(len(each.ids) for each in examples)
    ids, mask, seen = np.zeros(shape, np.int64), np.zeros(shape, np.bool_), np.zeros(shape, np.int64)
    for row, each in enumerate(examples):
        length = len(each.ids)
        ids[row, :length], seen[row, :length] = each.ids, 1
        mask[row, : length - 1] = each.trained[1:]
    return Rows(*(torch.from_numpy(values).to(device) for values in (ids, mask, seen)))


def log_probs(model: Any, rows: Rows) -> Tensor:
    with torch.autocast(rows.ids.device.type, torch.bfloat16):
        hidden = model.model(input_ids=rows.ids, attention_mask=rows.seen, use_cache=False).last_hidden_state
        logits: Tensor = model.lm_head(hidden[rows.mask])
    return logits.float().log_softmax(-1)


def divergence(of: Tensor, to: Tensor) -> Tensor:
    """KL in nats at each position."""
    return (of.exp() * (of - to)).sum(-1)


@torch.no_grad()
def mean_kl(teacher: Any, model: Any, rows: Sequence[Rows]) -> float:
    return float(torch.cat([divergence(log_probs(teacher, each), log_probs(model, each)) for each in rows]).mean())


def with_layers(teacher: Any, kept: Sequence[int]) -> Any:
    model = copy.deepcopy(teacher)
    model.model.layers = nn.ModuleList(model.model.layers[number] for number in kept)
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = len(kept)
    return model


def nearest_layers(teacher: Any, rows: Sequence[Rows], least: int) -> dict[int, list[int]]:
    """By how many there are, the layers that stay."""
    kept = list(range(len(teacher.model.layers)))
    found = {len(kept): kept}
    while len(kept) > least:
        fewer = [[each for each in kept if each != number] for number in kept]
        lost = [mean_kl(teacher, with_layers(teacher, each), rows) for each in fewer]
        kept = fewer[lost.index(min(lost))]
        found[len(kept)] = kept
    return found


@torch.no_grad()
def activity(teacher: Any, rows: Sequence[Rows]) -> list[Tensor]:
    """The sum of squares of each feed-forward unit, layer by layer."""
    sums: list[Any] = [0.0] * len(teacher.model.layers)

    def add(number: int) -> Any:
        def hook(_: nn.Module, given: tuple[Tensor]) -> None:
            sums[number] = sums[number] + given[0].float().square().flatten(0, 1).sum(0)

        return hook

    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(add(number)) for number, layer in enumerate(teacher.model.layers)
    ]
    for each in rows:
        log_probs(teacher, each)
    for hook in hooks:
        hook.remove()
    return sums


def with_units(model: Any, sums: Sequence[Tensor], units: int) -> Any:
    for layer, active in zip(model.model.layers, sums, strict=True):
        kept = active.topk(units).indices.sort().values
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight = nn.Parameter(linear.weight.data[kept].clone())
        layer.mlp.down_proj.weight = nn.Parameter(layer.mlp.down_proj.weight.data[:, kept].clone())
    model.config.intermediate_size = units
    return model


def train(
    teacher: Any, model: Any, examples: Sequence[Any], tokens: int, of_a_step: int, rate: float, seed: int
) -> None:
    """KL from the teacher alone, AdamW with warm-up and a linear end."""
    drawn = np.random.default_rng(seed)
    device = next(model.parameters()).device.type
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    steps, step = max(1, tokens // of_a_step), 0
    model.train()
    while step < steps:
        for rows in batches(examples, of_a_step, device, drawn.permutation(len(examples)).tolist()):
            share = min(1.0, (step + 1) / max(1.0, WARMUP * steps)) * max(0.02, 1 - step / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            with torch.no_grad():
                target = log_probs(teacher, rows)
            divergence(target, log_probs(model, rows)).mean().backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            if step == steps:
                break
    model.eval()


def rounded_like_q4_0(model: Any) -> RoundOf:
    """As a file of that type is: the head has 8 bits."""
    head = model.get_output_embeddings().weight
    return lambda name, module: q8_0 if module.weight is head else q4_0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="*", default=[26, 24, 22, 20])
    parser.add_argument("--units", type=int, nargs="*", default=[1024, 768])
    parser.add_argument("--tokens", type=int, default=134 * 1124, help="of training, with those of prompts")
    parser.add_argument("--step-tokens", type=int, default=1124)
    parser.add_argument("--rows", type=int, help="only so many of each split")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    recipe = load_recipe(given.project / "recipe.yaml", ["data.train=data/train-full.jsonl"])
    inputs = read_inputs(recipe, given.project)
    encoded: dict[str, Any] = {name: inputs.encoded(recipe, split.rows) for name, split in inputs.splits.items()}
    examples = {name: list(each.examples)[: given.rows] for name, each in encoded.items()}
    teacher = AutoModelForCausalLM.from_pretrained(given.teacher, dtype=torch.float32).to(given.device).eval()
    test = list(batches(examples["test"], TOKENS_OF_A_PASS, given.device))
    sample = list(batches(examples["train"][:40], TOKENS_OF_A_PASS, given.device))
    whole = len(teacher.model.layers)
    print(f"{given.device}: {torch.cuda.get_device_name() if given.device == 'cuda' else torch.get_num_threads()}")
    kept, sums = nearest_layers(teacher, sample, min([*given.layers, whole])), activity(teacher, sample)
    students: dict[str, Callable[[], Any]] = {
        f"{number} of {whole} layers": lambda number=number: with_layers(teacher, kept[number])
        for number in given.layers
    } | {f"{units} units": lambda units=units: with_units(copy.deepcopy(teacher), sums, units) for units in given.units}
    how = (examples["train"], given.tokens, given.step_tokens)
    for seed in given.seeds:
        for name, made in students.items():
            model = made()
            before = mean_kl(teacher, model, test)
            train(teacher, model, *how, RATE, seed)
            print(
                f"{name}: KL {before:.3f} before training, {mean_kl(teacher, model, test):.3f} after (seed {seed})",
                flush=True,
            )
        model = copy.deepcopy(teacher)
        with with_rounded_weights(model, rounded_like_q4_0(model)):
            before = mean_kl(teacher, model, test)
            train(teacher, model, *how, RATE_OF_ROUNDING, seed)
            print(
                f"Q4_0: KL {before:.3f} rounded, {mean_kl(teacher, model, test):.3f} trained for it (seed {seed})",
                flush=True,
            )


if __name__ == "__main__":
    main()
