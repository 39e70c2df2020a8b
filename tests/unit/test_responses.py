"""What a teacher writes: drawn from its own distribution, whatever its files say and whoever shares the batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import GenerationConfig, LlamaForCausalLM

from potstill.data.generated import GeneratedResponse
from potstill.data.tokens import Prompt
from potstill.teachers.responses import Generated, write_responses

END = 3


@pytest.fixture(scope="module")
def teacher(chat_teacher_folder: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(chat_teacher_folder, dtype=torch.float32).eval()
    # Sharper than random weights are, so that a wrong distribution is seen.
    with torch.no_grad():
        model.model.norm.weight.mul_(10)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.5, repetition_penalty=1.7, no_repeat_ngram_size=2, num_beams=3
    )
    return model


def prompt(*ids: int) -> Prompt:
    return np.array(ids, dtype=np.int32)


def next_distribution(model: LlamaForCausalLM, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.inference_mode():
        return torch.softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] / temperature, dim=0)


def first_tokens(model: LlamaForCausalLM, settings: Generated, shown: Prompt, count: int) -> torch.Tensor:
    """How often each token was drawn first."""
    said = write_responses(model, [shown] * count, settings, new_tokens=1, ends={END}, seed=5)
    return torch.bincount(torch.tensor([ids[0] for ids in said]), minlength=model.config.vocab_size) / count


def test_greedy_responses_are_those_of_a_loop_without_batch_padding_or_cache(teacher: LlamaForCausalLM) -> None:
    prompts = [prompt(2, 4), prompt(2, 4, 20, 31, 8, 9, 5), prompt(40)]
    said = write_responses(teacher, prompts, Generated(temperature=0), new_tokens=9, ends={END}, seed=0)
    for shown, response in zip(prompts, said, strict=True):
        expected: list[int] = []
        while len(expected) < 9 and END not in expected:
            expected.append(int(next_distribution(teacher, [*shown.tolist(), *expected]).argmax()))
        assert response == expected


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_tokens_are_drawn_as_often_as_the_teacher_says(teacher: LlamaForCausalLM, temperature: float) -> None:
    count, shown = 4000, prompt(2, 4, 20)
    p = next_distribution(teacher, shown.tolist(), temperature)
    frequency = first_tokens(teacher, Generated(temperature=temperature), shown, count)
    # Five standard deviations at each token, and a fraction of a draw for the rare ones.
    assert ((frequency - p).abs() <= 5 * (p * (1 - p) / count).sqrt() + 1 / count).all()
    assert (frequency > 0).sum() > 10


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (Generated(top_k=5), lambda p: p >= p.topk(5).values[-1]),
        # The fewest likeliest tokens that reach the share: the mass before each of them is below it.
        (Generated(top_p=0.5), lambda p: torch.stack([p[p > each].sum() for each in p]) < 0.5),
    ],
)
def test_limits_on_sampling_are_kept_and_the_rest_stays_in_proportion(
    teacher: LlamaForCausalLM, settings: Generated, allowed: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    count, shown = 4000, prompt(2, 4, 20)
    p = next_distribution(teacher, shown.tolist())
    inside = allowed(p)
    assert 1 < inside.sum() < len(p) / 2
    q = torch.where(inside, p, 0.0) / p[inside].sum()
    frequency = first_tokens(teacher, settings, shown, count)
    assert not frequency[~inside].any()
    assert ((frequency - q).abs() <= 5 * (q * (1 - q) / count).sqrt() + 1 / count).all()


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_tokens_that_the_student_has_not_are_never_drawn(teacher: LlamaForCausalLM, temperature: float) -> None:
    shown, settings = [prompt(2, 4, number) for number in range(10, 30)], Generated(temperature=temperature)
    anything = write_responses(teacher, shown, settings, new_tokens=9, ends={END}, seed=3)
    assert max(max(ids) for ids in anything) >= 20
    of_both = write_responses(teacher, shown, settings, new_tokens=9, ends={END}, seed=3, tokens=20)
    assert max(max(ids) for ids in of_both) < 20


def test_a_response_stops_behind_the_token_that_ends_it(teacher: LlamaForCausalLM) -> None:
    prompts = [prompt(2, 4, number) for number in range(10, 40)]
    said = write_responses(teacher, prompts, Generated(), new_tokens=30, ends={END, 17, 25}, seed=1)
    ended = [ids for ids in said if ids[-1] in {END, 17, 25}]
    assert len(ended) > 0 and {len(ids) for ids in said} != {30}
    assert not any({END, 17, 25}.intersection(ids[:-1]) for ids in said)
    assert all(len(ids) == 30 for ids in said if ids not in ended)


def test_the_seed_alone_decides_and_other_draws_are_left_alone(teacher: LlamaForCausalLM) -> None:
    def drawn(seed: int) -> list[list[int]]:
        return write_responses(teacher, [prompt(2, 4)] * 4, Generated(), new_tokens=6, ends={END}, seed=seed)

    first, before = drawn(1), torch.get_rng_state()
    assert drawn(1) == first != drawn(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_greedy_responses_are_refused() -> None:
    with pytest.raises(ValidationError, match="per_prompt: at temperature 0 all responses to a prompt are the same"):
        Generated(temperature=0, per_prompt=2)


def test_the_text_of_a_response_ends_with_no_part_of_a_character() -> None:
    written = [
        GeneratedResponse("a", *[np.zeros(1, dtype=np.int32)] * 2, "so \ufffd\ufffd", ended=each)
        for each in (False, True)
    ]
    assert [each.whole_text for each in written] == ["so ", "so \ufffd\ufffd"]
