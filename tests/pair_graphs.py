"""Tiny encoder-decoders as graphs, and what they answer without any."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from potstill.exporters import AnyExporter, Source
from potstill.stages.artefact_sources import described
from potstill.tasks import Seq2Seq
from tests.pair_models import pair_model, pair_tokenizer

TASK = Seq2Seq(max_length=24, max_target_length=8)
SOURCES = [[7], [5, 9], [4, 8, 15, 16, 6, 11, 5], [9, 3, *range(5, 26), 7]]
"""One of them a single token, and one longer than any graph is traced with."""

FEW: dict[str, Any] = {"num_layers": 1, "num_decoder_layers": 2}
FEW_OF_BART: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2}
LAYERS = {"t5": FEW, "mt5": FEW, "bart": FEW_OF_BART, "marian": FEW_OF_BART}
"""To trace a layer takes seconds."""
OF_BART = "decoder.layers.1.final_layer_norm.weight"
OF_T5 = "decoder.final_layer_norm.weight"
LAST_NORM = {"t5": OF_T5, "mt5": OF_T5, "bart": OF_BART, "marian": OF_BART}


def pair_folder(folder: Path, family: str, **sizes: Any) -> Path:
    """A random model that was saved, with its tokenizer."""
    model = pair_model(family, 3, **LAYERS[family] | sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A head that is the embeddings too likes what it reads best, which then is written over and over.
            if name.endswith(LAST_NORM[family]):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    model.save_pretrained(folder)
    pair_tokenizer(family).save_pretrained(folder)
    return folder


def loaded(folder: Path) -> PreTrainedModel:
    return TASK.load_model(str(folder)).eval()


def source_of_pairs(folder: Path) -> Source:
    """A saved encoder-decoder as an exporter takes it."""
    tokenizer = TASK.load_tokenizer(str(folder))
    return Source(
        folder=folder,
        load=lambda: TASK.load_model(str(folder)),
        inputs={},
        calibration=lambda _: iter(()),
        embedding_parameters=TASK.embedding_parameters,
        about=replace(described(TASK, (), 1.0), pad_id=tokenizer.pad_token_id),
        tokenizer=tokenizer,
        texts=list,
    )


def exported_pairs(folder: Path, exporter: AnyExporter, target: Path) -> Path:
    """The artefact of a saved encoder-decoder."""
    target.mkdir(parents=True)
    exporter.export(source_of_pairs(folder), target)
    return target


def own_logits(model: PreTrainedModel, source: Sequence[int], target: Sequence[int]) -> Any:
    """Of each token of a target after those before it, all of them read at once and nothing kept."""
    shown = [model.config.decoder_start_token_id, *target[:-1]]
    with torch.inference_mode():
        given: Any = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([shown])}
        return model(**given, use_cache=False).logits[0].numpy()


def own_greedy(model: PreTrainedModel, source: Sequence[int], new_tokens: int, ends: Sequence[int]) -> list[int]:
    """The likeliest tokens, all that is there read anew for each."""
    written: list[int] = []
    while len(written) < new_tokens and not (written and written[-1] in ends):
        written.append(int(own_logits(model, source, [*written, 0])[-1].argmax()))
    return written
