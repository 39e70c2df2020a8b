"""The two graphs of an encoder-decoder answer and write as the model that they were made of."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import PreTrainedModel

from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.artefacts.standing_alone import stand_alone
from potstill.data.pairs import Pair
from potstill.errors import ModelError
from potstill.exporters import AnyExporter, Onnx, OpenVino
from potstill.exporters.shared_weights import SMALLEST
from potstill.measure.timed import Series
from potstill.runtimes.answering import Asking, open_answerer
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.graphs import model_bytes, open_named
from potstill.runtimes.predictor import Predictor, open_predictor
from potstill.runtimes.seq2seq_graphs import Seq2SeqGraphs, _Reading
from potstill.runtimes.timing import Loads, SpeedRequest
from potstill.targets import FullTarget, plain_log_sum_exp
from potstill.tasks import Seq2Seq
from tests.pair_graphs import (
    SOURCES,
    TASK,
    exported_pairs,
    loaded,
    own_greedy,
    own_logits,
    pair_folder,
    source_of_pairs,
)

FORMS: dict[str, AnyExporter] = {"onnx": Onnx(precision="float32"), "openvino": OpenVino(precision="float32")}
TARGETS = [[6], [9, 2], [12, 5, 5, 8, 20, 3, 11, 4, 7, 9, 13, 1]]
TEXTS = ["what colour is the ball ?", "the", "", "</s> the <pad> ball", "what colour is the door ? " * 9]


class Made:
    """A model, its artefact, and both opened."""

    def __init__(self, folder: Path, family: str, exporter: AnyExporter, **sizes: Any) -> None:
        self.source = pair_folder(folder / "source", family, **sizes)
        self.folder = exported_pairs(self.source, exporter, folder / "target")
        self.model: PreTrainedModel = loaded(self.source)
        self.manifest: Manifest = read_manifest(self.folder)
        self.graphs = Seq2SeqGraphs(self.folder, self.manifest, 1)

    def same(self, found: Any, expected: Any, told: str = "") -> None:
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), err_msg=told)

    def predictor(self, runtime: str, task: Seq2Seq = TASK) -> Predictor:
        return open_predictor(
            ModelFolder(self.source if runtime == "transformers" else self.folder),
            task=task,
            tokenizer=TASK.load_tokenizer(str(self.source)),
            device=torch.device("cpu"),
            batch_size=3,
            runtime=runtime,
        )


def answers_and_writes_as_its_model(made: Made) -> None:
    ends = made.manifest.end_tokens
    lengths = set()
    for source in SOURCES:
        for target in TARGETS:
            made.same(made.graphs.logits(source, target), own_logits(made.model, source, target), f"{source} {target}")
        third = own_greedy(made.model, source, 3, ())[2]
        for new_tokens, stop in ((1, ()), (9, ()), (30, [*ends, third])):
            expected = own_greedy(made.model, source, new_tokens, stop)
            tokens, seconds = made.graphs.greedy(source, new_tokens, stop)
            assert tokens == expected and len(seconds) == len(tokens)
            lengths.add(len(tokens))
    assert len(lengths) > 1


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("t5"), "t5", FORMS["onnx"], d_model=128)


def test_graphs_of_t5_answer_and_write_as_their_model(t5: Made) -> None:
    answers_and_writes_as_its_model(t5)


@pytest.mark.long
def test_graphs_of_bart_answer_and_write_as_their_model(tmp_path: Path) -> None:
    """Whose positions are counted from the tokens before, and whose logits have a bias that is no weight."""
    answers_and_writes_as_its_model(Made(tmp_path, "bart", FORMS["onnx"]))


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "form", "sizes"),
    [
        ("mt5", "onnx", {}),
        ("marian", "onnx", {}),
        ("t5", "openvino", {}),
        ("bart", "openvino", {}),
        ("marian", "openvino", {}),
        # Version 1.1, whose head is its own.
        ("t5", "onnx", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
        ("bart", "onnx", {"decoder_layers": 1, "scale_embedding": True}),
    ],
)
def test_graphs_of_all_families_answer_and_write_as_their_models(
    family: str, form: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    answers_and_writes_as_its_model(Made(tmp_path, family, FORMS[form], **sizes))


def test_tokens_are_read_after_others_as_all_of_them_at_once(t5: Made) -> None:
    source, target = SOURCES[2], [0, *TARGETS[2]]
    whole = t5.graphs.logits(source, [*target[1:], 0])
    for sizes in ([1] * 13, [5, 1, 7], [13]):
        reading = _Reading(t5.graphs._encoder, t5.graphs._decoder, source)
        ends = np.cumsum(sizes)
        parts = [reading.after(target[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
        t5.same(np.concatenate(parts), whole, str(sizes))


def test_rows_that_are_read_together_answer_as_each_alone(t5: Made) -> None:
    """Sources are padded on the right and the padding is masked, whatever token it is."""
    encoder, decoder = (
        open_named(t5.folder, name, t5.manifest, 1) for name in (t5.manifest.encoder_file, t5.manifest.model_file)
    )
    ids, mask = (np.full((len(SOURCES), 24), fill, dtype=np.int64) for fill in (17, 0))
    for row, source in enumerate(SOURCES):
        ids[row, : len(source)], mask[row, : len(source)] = source, 1
    cross = encoder({"input_ids": ids, "attention_mask": mask})
    past = {name.replace("cross", "past"): each[:, :, :0].copy() for name, each in cross.items()}
    shown = np.array([[t5.manifest.start_token, *TARGETS[2][:-1]]] * len(SOURCES), dtype=np.int64)
    found = decoder({"input_ids": shown, "attention_mask": mask, **cross, **past})["logits"]
    for row, source in enumerate(SOURCES):
        t5.same(found[row], own_logits(t5.model, source, TARGETS[2]), str(source))


def test_each_weight_lies_in_the_folder_once(t5: Made) -> None:
    """Also the embeddings, which both graphs read, and which are the head too."""
    sizes = [4 * each.numel() for each in t5.model.parameters()]
    files = {path.name: path.stat().st_size for path in t5.folder.iterdir()}
    assert files["decoder.onnx.data"] == sum(size for size in sizes if size >= SMALLEST)
    graphs = [files[name] for name in ("encoder.onnx", "decoder.onnx")]
    assert model_bytes(t5.folder, t5.manifest) == files["decoder.onnx.data"] + sum(graphs)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Made:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 256, "vocab_size": 3000, "num_decoder_layers": 1}
    return Made(tmp_path_factory.mktemp("int8"), "t5", Onnx(), **sizes)


def test_graphs_in_8_bits_are_near_their_model_and_smaller(rounded: Made) -> None:
    assert rounded.manifest.precision == "int8"
    asked = [(source, target) for source in SOURCES for target in TARGETS]
    expected = np.concatenate([own_logits(rounded.model, *each) for each in asked])
    found = np.concatenate([rounded.graphs.logits(*each) for each in asked])
    error = np.sqrt(((found - expected) ** 2).mean())
    assert 0 < error < 0.25 * expected.std(), "rounded, and no more than that"
    # The embeddings lie there as they are looked up, and as the head, whose numbers are multiplied as they are.
    held = onnx.load(rounded.folder / "decoder.onnx", load_external_data=False).graph.initializer
    matrices = [tuple(each.dims) for each in held if 3000 in each.dims and len(each.dims) == 2]
    assert sorted(matrices) == [(64, 3000), (3000, 64)]
    parameters = rounded.model.num_parameters()
    assert (rounded.folder / "decoder.onnx.data").stat().st_size < 1.1 * (parameters + 3000 * 64)


def test_an_artefact_says_what_it_takes_to_ask_it(t5: Made) -> None:
    about = t5.manifest
    assert (about.encoder_file, about.model_file, about.inputs) == (
        "encoder.onnx", "decoder.onnx", ("input_ids", "attention_mask"),
    )  # fmt: skip
    assert (about.answers, about.max_length, about.max_target_length, about.truncation_side) == (
        "target", 24, 8, "right",
    )  # fmt: skip
    assert about.start_token == 0 and about.end_tokens == (1,)
    assert about.num_parameters == t5.model.num_parameters()
    assert about.num_parameters_without_embeddings == about.num_parameters - t5.model.shared.weight.numel()
    assert "onnxruntime" in about.packages and about.runtime == "onnx"


def test_ends_are_those_of_the_tokenizer_and_of_the_models_own_settings(tmp_path: Path) -> None:
    """Which is written as another model's, without the graphs."""
    from potstill.exporters.exporter import ends_of

    folder = pair_folder(tmp_path / "model", "t5")
    model, tokenizer = loaded(folder), TASK.load_tokenizer(str(folder))
    for named, found in ((None, [1]), (1, [1]), (7, [1, 7]), ([9, 1, 7], [1, 9, 7])):
        model.generation_config.eos_token_id = named
        assert ends_of(model, tokenizer) == found


def test_a_predictor_of_graphs_answers_as_the_one_of_their_model(t5: Made) -> None:
    own, other = t5.predictor("transformers"), t5.predictor("onnx")
    tokenizer = own.tokenizer
    pairs = [
        Pair("a", "the ball is", "red"),
        Pair("b", "what colour is the door ?", "the door is blue"),
        Pair("c", "the", ""),
    ]
    batch = TASK.encode(pairs, tokenizer).collate([0, 1, 2])
    # As where some tokens are not learnt.
    batch = replace(batch, mask=batch.mask & (torch.arange(batch.mask.shape[1]) != 1))
    expected, found = (logits_of(each.target(batch)) for each in (own, other))
    assert found.shape == expected.shape == (int(batch.mask.sum()), len(t5.model.get_output_embeddings().weight))
    t5.same(found, expected)
    for most in (1, 2, 4, 100):
        t5.same(other.first_logits(batch, most).numpy(), expected[:most], str(most))
        assert own.first_logits(batch, most).shape == expected[:most].shape
    prompts = [TASK.prompts(tokenizer).last(pair) for pair in pairs]
    told: list[int] = []
    written = other.write_all(pairs, prompts, 6, {1}, told.append)
    assert written == [own_greedy(t5.model, prompt.tolist(), 6, [1]) for prompt in prompts] and told == [1, 1, 1]
    assert other.end_tokens() == own.end_tokens() == frozenset({1})
    assert other.parameters() == own.parameters() and other.weights().type == "float32"
    assert other.weights().size_bytes == model_bytes(t5.folder, t5.manifest)
    assert other.loads() == Loads((str(t5.folder),), runtime="onnx")
    assert other.chunk_rows() == own.chunk_rows()
    other.release()


def logits_of(target: FullTarget) -> Any:
    return target.logits_at(slice(None), 1.0, plain_log_sum_exp).float().numpy()


def test_distributions_are_over_the_tokens_that_are_shared(t5: Made) -> None:
    batch = TASK.encode([Pair("a", "the ball", "red")], TASK.load_tokenizer(str(t5.source))).collate([0])
    few = t5.predictor("onnx", TASK.model_copy(update={"shared_tokens": 30})).target(batch)
    assert np.array_equal(logits_of(few), logits_of(t5.predictor("onnx").target(batch))[:, :30])


def test_rows_are_answered_here_and_elsewhere_as_their_model_writes(t5: Made, tmp_path: Path) -> None:
    stand_alone(t5.folder, t5.manifest, "# a card\n")
    tokenizer = TASK.load_tokenizer(str(t5.source))
    prompts = [TASK.prompts(tokenizer).last(Pair("a", text, None)).tolist() for text in TEXTS]
    assert len(prompts[-1]) == 24, "cut"
    expected = [own_greedy(t5.model, prompt, 8, [1]) for prompt in prompts]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert len(set(texts)) > 2
    rows = [{"text": text} for text in TEXTS]
    assert open_answerer(t5.folder, Asking())(rows) == [{"text": text} for text in texts]
    (short,) = open_answerer(t5.folder, Asking(new_tokens=2))(rows[:1])
    assert short["text"] == tokenizer.decode(expected[0][:2], skip_special_tokens=True)
    (told,) = open_answerer(t5.folder, Asking(in_detail=True))(rows[:1])
    logits = own_logits(t5.model, prompts[0], expected[0])
    chances = torch.from_numpy(logits).softmax(dim=-1)[range(len(logits)), expected[0]]
    assert [each[1] for each in told["tokens"]] == pytest.approx(chances.tolist(), rel=1e-3)
    assert [each[0] for each in told["tokens"]] == [tokenizer.decode([token]) for token in expected[0]]
    # The library of tokenizers alone takes the name of a special token for it.
    plain = [number for number, text in enumerate(TEXTS) if "</s>" not in text]
    lines = "".join(json.dumps(rows[number]) + "\n" for number in plain)
    barred = "import sys, runpy\nfor name in ('potstill', 'torch', 'transformers'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", barred + f"runpy.run_path({str(t5.folder / 'predict.py')!r}, run_name='__main__')"],
        input=lines, capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [texts[number] for number in plain]


def test_each_token_after_each_prompt_is_timed_without_torch(t5: Made) -> None:
    request = SpeedRequest(
        loads=Loads((str(t5.folder),), runtime="onnx"), form="prompts", queries=SOURCES, threads=1, warmup=1,
        batch_size=1, device="cpu", settings={"new_tokens": 5}, series=(Series([[3, 4, 5]] * 2, (1,), 3),),
    )  # fmt: skip
    code = (
        "import sys, json\nfrom potstill.runtimes.graph_timing import measure\n"
        "from potstill.runtimes.timing import SpeedRequest\n"
        "found = measure(SpeedRequest.from_json(sys.stdin.read()))\n"
        "print(json.dumps(found | {'held': sorted({'torch', 'transformers'} & set(sys.modules))}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=request.as_json(), capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["held"] == []
    assert len(found["first_ms"]) == len(SOURCES) and len(found["latencies_ms"]) == 4 * len(SOURCES)
    assert min(found["first_ms"]) > 0 and min(found["latencies_ms"]) > 0
    total = (sum(found["first_ms"]) + sum(found["latencies_ms"])) / 1000
    assert found["throughput_per_s"] == pytest.approx(5 * len(SOURCES) / total)
    assert found["peak_memory_bytes"] > 0 and found["load_ms"] > 0
    (point,) = found["points"]
    assert (point["length"], point["batch_size"]) == (3, 1)
    assert len(point["first_ms"]) == 2 and len(point["latencies_ms"]) == 8


def test_an_encoder_decoder_that_cannot_be_traced_is_one_clear_error(tmp_path: Path) -> None:
    source = source_of_pairs(pair_folder(tmp_path / "model", "t5"))
    model = source.load()
    model.encoder.forward = lambda **inputs: (_ for _ in ()).throw(RuntimeError("no such thing\nwith a tail"))
    with pytest.raises(ModelError, match=r"family t5 could not be written as onnx: .* Leave this exporter out"):
        FORMS["onnx"].export(replace(source, load=lambda: model), tmp_path)
