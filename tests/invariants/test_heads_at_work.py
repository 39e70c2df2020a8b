"""Heads of models whose logits are large, where bias, scale and soft cap show; those of new models are near zero."""

import pytest
import torch

from potstill.tasks.causal_lm import CausalLM, ask_for_hidden_states, head_of, require_known_head
from tests.invariants.test_language_models import FAMILIES, rows


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_makes_the_logits_of_its_model_where_they_are_large(family: str) -> None:
    torch.manual_seed(0)
    model = CausalLM().new_model(FAMILIES[family]()).double().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)
    batch = rows(5).collate([0, 1])
    with torch.no_grad():
        expected = model(**batch.inputs, use_cache=False).logits
        hidden = ask_for_hidden_states(model, batch).hidden
    assert hidden is not None and expected.abs().max() > 2
    made = head_of(model).logits(hidden.reshape(-1, hidden.shape[-1]))
    torch.testing.assert_close(made, expected.reshape(made.shape), rtol=1e-6, atol=1e-6)
    require_known_head(model.float(), family)
