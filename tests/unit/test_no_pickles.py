"""Weights are read from safetensors alone: a pickle that lies where they are wanted is never opened."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, LlamaConfig, T5Config

from potstill.errors import ModelError
from potstill.tasks import CausalLM, Seq2Seq, TextClassification, weights
from potstill.tasks.token_classification import TokenClassification

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 40}
TASKS: dict[str, tuple[Any, Any]] = {
    "causal_lm": (CausalLM(), LlamaConfig(**SIZES)),
    "text_classification": (TextClassification(), BertConfig(**SIZES)),
    "token_classification": (TokenClassification(), BertConfig(**SIZES)),
    "seq2seq": (
        Seq2Seq(),
        T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0),
    ),
}


@pytest.mark.parametrize("in_hub", [False, True])
@pytest.mark.parametrize("kind", TASKS)
def test_a_model_that_has_its_weights_in_a_pickle_alone_is_refused(
    kind: str, in_hub: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, config = TASKS[kind]
    model = task.new_model(config)
    model.save_pretrained(tmp_path)
    task.load_model(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    opened = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **more: opened.append(given) or load(*given, **more))
    if in_hub:
        # Files that are not here cannot be looked at before transformers is asked for them.
        monkeypatch.setattr(weights, "check_files", lambda *_, **__: None)
    with pytest.raises(ModelError):
        task.load_model(str(tmp_path))
    assert not opened, "refused when it had been read"
