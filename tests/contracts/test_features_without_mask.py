"""Attention maps of batches for which transformers makes no mask at all, since attention is told to be causal."""

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from potstill.features import capture_features
from potstill.signals import Read, Signal
from tests.contracts.feature_reference import decoder, shape

READS = frozenset(Read(Signal.ATTENTION, layer) for layer in (1, 2, 3))


@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config])
def test_maps_of_rows_without_padding_and_packing_are_causal(family: type[LlamaConfig]) -> None:
    model = decoder(shape(3, 12, 3), 1, family)
    ids = torch.tensor([[5, 7, 2, 9, 4], [3, 8, 8, 1, 6]])
    inputs = {"input_ids": ids, "position_ids": torch.arange(5).expand(2, -1), "use_cache": False}
    with torch.no_grad(), capture_features(model, READS) as taken:
        model(**inputs)
    found = taken.at(torch.ones(2, 5, dtype=torch.bool))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True).attentions
    for read in READS:
        torch.testing.assert_close(
            found[read].exp(), expected[read.layer - 1].transpose(1, 2).flatten(0, 1), rtol=1e-6, atol=1e-7
        )
        # The first token sees itself alone.
        assert found[read][0, :, 0].exp().min() > 1 - 1e-9
