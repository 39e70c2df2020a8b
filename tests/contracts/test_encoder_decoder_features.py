"""Losses on features of encoder-decoders: against eager attention's own output and plain numbers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data.pair_tokens import PairRows
from potstill.data.pairs import Pair
from potstill.errors import RecipeError
from potstill.features import capture_features, features_at
from potstill.labels.states import States
from potstill.losses import Attention, Cosine, Embeddings, HiddenStates, MixedLoss, Relations, Shapes, name_of
from potstill.models import Part, attention_of, layers_of
from potstill.recipe import Recipe
from potstill.signals import Batch, Read, Signal
from potstill.stages.signal_sources import planned_signals
from potstill.students import model_shape
from potstill.tasks import Seq2Seq
from potstill.tasks.seq2seq import ask_for_hidden_states, shifted, start_token
from potstill.teachers import FrozenTeacher
from tests.contracts.feature_reference import shape
from tests.pair_models import SPECIAL, pair_model, pair_tokenizer

CPU = torch.device("cpu")
FAMILIES = ("t5", "mt5", "bart", "marian")
_OF_T5 = {"num_layers": 2, "num_decoder_layers": 1, "d_model": 16, "num_heads": 2}
_OF_BART = {"encoder_layers": 2, "decoder_layers": 1, "d_model": 16}
_OF_BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
SMALL: dict[str, dict[str, Any]] = {"t5": _OF_T5, "mt5": _OF_T5, "bart": _OF_BART, "marian": _OF_BART}
LOSSES = [
    HiddenStates(of="encoder"),
    HiddenStates(of="decoder", final_norm="before", distance="normalised_mse"),
    Attention(of="encoder"),
    Attention(of="decoder", distance="mse"),
    Attention(of="cross"),
    Attention(of="cross", heads="learned"),
    Relations(stack="encoder", heads=4),
    Relations(stack="decoder", heads=2, of=("query", "value")),
    Embeddings(of="decoder"),
    Cosine(of="decoder", projection="learned"),
]
NAMED = [pytest.param(loss, id=f"{name_of(loss)}-{number}") for number, loss in enumerate(LOSSES)]
PAIRS = [
    Pair("a", "what colour is the hat ?", "red is the hat"),
    Pair("b", "w1 hat", "blue"),
    Pair("c", "w3 w4 w5 is", "the the cup"),
]


def rows(family: str) -> PairRows:
    encoded = Seq2Seq(max_length=12, max_target_length=8).encode(PAIRS, pair_tokenizer(family))
    return replace(encoded, pad_id=len(SPECIAL[family]))


def models(family: str) -> tuple[PreTrainedModel, PreTrainedModel, Shapes]:
    """A student, a larger teacher and their shapes."""
    student, teacher = pair_model(family, 1, **SMALL[family]).double(), pair_model(family, 2).double()
    return student, teacher, Shapes(*(model_shape(each.config, 1, 1, 0) for each in (student, teacher)))


def built(settings: Any, shapes: Shapes) -> MixedLoss:
    torch.manual_seed(3)
    return MixedLoss([settings.build(shapes)]).double()


def value(loss: MixedLoss, student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch) -> Tensor:
    said = FrozenTeacher(teacher, CPU, ask_for_hidden_states, loss.teacher_reads)(batch)
    with capture_features(student, loss.student_reads) as taken:
        own = ask_for_hidden_states(student, batch)
    total: Tensor = loss(replace(own, features=features_at(taken, batch)), said, batch, progress=0.0).total
    return total


def eager(model: PreTrainedModel, batch: Batch) -> Any:
    """What transformers itself gives."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return model(
                input_ids=batch.inputs["input_ids"],
                attention_mask=batch.inputs["attention_mask"],
                decoder_input_ids=shifted(batch.inputs["target_ids"], start_token(model.config)),
                decoder_attention_mask=batch.inputs["decoder_attention_mask"],
                use_cache=False,
                output_attentions=True,
                output_hidden_states=True,
            )
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_that_transformers_gives_with_eager_attention(family: str) -> None:
    model, batch = pair_model(family, 2), rows(family).collate([0, 1, 2])
    layers = {Part.ENCODER: 4, Part.DECODER: 3, Part.CROSS: 3}
    reads = [Read(Signal.ATTENTION, layer, part=part) for part in layers for layer in range(1, layers[part] + 1)]
    stacks = (Part.ENCODER, Part.DECODER)
    normed = family in ("t5", "mt5")
    reads += [
        Read(Signal.HIDDEN_STATES, layer, normed=normed and layer == layers[part], part=part)
        for part in stacks
        for layer in range(layers[part] + 1)
    ]
    with torch.no_grad(), capture_features(model, frozenset(reads)) as taken:
        ask_for_hidden_states(model, batch)
    found = features_at(taken, batch)
    assert set(found) == set(reads)
    said = eager(model, batch)
    maps = {
        Part.ENCODER: said.encoder_attentions,
        Part.DECODER: said.decoder_attentions,
        Part.CROSS: said.cross_attentions,
    }
    states = {Part.ENCODER: said.encoder_hidden_states, Part.DECODER: said.decoder_hidden_states}
    for read in reads:
        tokens = batch.inputs["attention_mask"].bool() if read.part is Part.ENCODER else batch.mask
        if read.signal is Signal.ATTENTION:
            expected = maps[read.part][read.layer - 1].transpose(1, 2)[tokens]
            torch.testing.assert_close(found[read].exp(), expected, rtol=1e-5, atol=1e-6)
        else:
            assert len(states[read.part]) == layers[read.part] + 1
            expected = states[read.part][read.layer][tokens]
            torch.testing.assert_close(found[read], expected, rtol=1e-4, atol=1e-4)
    for config in (model.config, model.get_encoder().config, model.get_decoder().config):
        assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", NAMED)
def test_rows_have_the_loss_that_each_has_by_itself(family: str, settings: Any) -> None:
    """Whatever padding the others bring; a row that does not count adds nothing, to values and gradients."""
    student, teacher, shapes = models(family)
    loss, encoded = built(settings, shapes), rows(family)
    apart = [value(loss, student, teacher, encoded.collate([number])).item() for number in range(3)]
    batch = encoded.collate([2, 0, 1])
    assert value(loss, student, teacher, batch).item() == pytest.approx(sum(apart), rel=1e-9)
    assert min(apart) > 1e-6
    mask = batch.mask.clone()
    mask[1] = False
    left = value(loss, student, teacher, replace(batch, mask=mask))
    assert left.item() == pytest.approx(apart[2] + apart[1], rel=1e-9)
    nothing = value(loss, student, teacher, replace(batch, mask=torch.zeros_like(mask)))
    assert nothing.item() == 0
    nothing.backward()
    assert all(each.grad is None or not each.grad.any() for each in student.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("of", ["encoder", "decoder", "cross"])
def test_attention_agrees_with_loops_over_eager_maps(family: str, of: Any) -> None:
    student, teacher, shapes = models(family)
    batch = rows(family).collate([0, 1, 2])
    found = value(built(Attention(of=of), shapes), student, teacher, batch).item()
    own, followed = (
        [
            np.asarray(layer)
            for layer in getattr(
                eager(model, batch), f"{of}_attentions".replace("cross_attentions", "cross_attentions")
            )
        ]
        for model in (student, teacher)
    )
    pairs = [(1, 2), (2, 4)] if of == "encoder" else [(1, 3)]
    sources, targets = batch.inputs["attention_mask"].sum(1).tolist(), batch.mask.sum(1).tolist()
    total = 0.0
    for row in range(3):
        queries, keys = (sources if of == "encoder" else targets)[row], (targets if of == "decoder" else sources)[row]
        # A source token weighs such that the row's add up to the positions of its target.
        weight = targets[row] / sources[row] if of == "encoder" else 1.0
        for query in range(queries):
            for mine, theirs in pairs:
                # Two heads against four: the mean of each.
                q, p = (
                    maps[layer - 1][row, :, query, :keys].mean(0) for maps, layer in ((own, mine), (followed, theirs))
                )
                seen = p > 0
                total += weight * (p[seen] * np.log(p[seen] / q[seen])).sum() / len(pairs)
    assert found == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_relations_agree_with_loops_over_the_vectors_of_each_row_alone(family: str, stack: Any) -> None:
    """Of the last layers; a source token sees all of its row, a target token those up to itself."""
    student, teacher, shapes = models(family)
    encoded, heads = rows(family), 4
    batch = encoded.collate([0, 1, 2])
    found = value(built(Relations(stack=stack, heads=heads), shapes), student, teacher, batch).item()
    total = 0.0
    for row in range(3):
        alone = encoded.collate([row])
        mine, theirs = (vectors_of(model, stack, alone) for model in (student, teacher))
        sources, targets = alone.inputs["input_ids"].shape[1], alone.mask.shape[1]
        length, weight = (sources, targets / sources) if stack == "encoder" else (targets, 1.0)
        for own, followed in zip(mine, theirs, strict=True):
            assert len(own) == len(followed) == length
            for query in range(length):
                seen = length if stack == "encoder" else query + 1
                p, q = (relation(each, query, seen, heads) for each in (followed, own))
                total += weight * (p * np.log(p / q)).sum() / heads
    assert found == pytest.approx(total, rel=1e-6)


def vectors_of(model: PreTrainedModel, stack: str, batch: Batch) -> list[np.ndarray]:
    """Queries, keys and values of the top layer of a stack, of one row without padding."""
    attention = attention_of(model, len(layers_of(model, Part(stack))) - 1, Part(stack))
    heard: dict[str, np.ndarray] = {}
    names = ("q", "k", "v") if hasattr(attention, "q") else ("q_proj", "k_proj", "v_proj")
    handles = [
        attention.get_submodule(name).register_forward_hook(
            lambda module, given, said, name=name: heard.update({name: said[0].detach().numpy()})
        )
        for name in names
    ]
    with torch.no_grad():
        ask_for_hidden_states(model, batch)
    for handle in handles:
        handle.remove()
    return [heard[name] for name in names]


def relation(vectors: np.ndarray, query: int, seen: int, heads: int) -> np.ndarray:
    """heads x keys: how alike the vector of a token is to those that it sees."""
    cut = vectors.reshape(len(vectors), heads, -1)
    scores = np.einsum("hc,khc->hk", cut[query], cut[:seen]) / cut.shape[2] ** 0.5
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", NAMED)
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(family: str, settings: Any) -> None:
    teacher, student = pair_model(family, 2).double(), pair_model(family, 2).double()
    alike = model_shape(teacher.config, 1, 1, 0)
    if isinstance(settings, Attention):
        settings = settings.model_copy(update={"heads": "matched"})
    loss = built(settings, Shapes(alike, alike))
    for part in loss.losses:
        for projection in getattr(part, "projections", ()):
            torch.nn.init.eye_(projection.weight)
    batch = rows(family).collate([0, 1])
    assert value(loss, student, teacher, batch).item() == pytest.approx(0, abs=1e-9)
    other = rows(family).collate([2, 1])
    assert value(loss, pair_model(family, 5).double(), teacher, other).item() > 1e-3


def test_decoder_states_are_stored_under_a_name_of_their_own() -> None:
    _, teacher, shapes = models("t5")
    batch = rows("t5").collate([0, 1, 2])
    reads = built(HiddenStates(of="decoder"), shapes).teacher_reads
    said = FrozenTeacher(teacher, CPU, ask_for_hidden_states, reads)(batch).features
    encoding = States.of(reads, 32)
    assert list(encoding.columns) == ["decoder_layer_3_normed"]
    assert States.model_validate(encoding.model_dump(mode="json")) == encoding
    for read, feature in encoding.decode(encoding.encode(said), CPU).items():
        torch.testing.assert_close(feature.double(), said[read], rtol=2**-10, atol=1e-6)
    # What models of one stack have stored keeps its digest.
    plain = States.of([Read(Signal.HIDDEN_STATES, 2)], 8).model_dump(mode="json")
    assert plain["states"] == [{"layer": 2, "normed": False}]
    assert HiddenStates().model_dump(mode="json").keys() == {
        "kind", "weight", "layers", "distance", "projection", "final_norm",
    }  # fmt: skip


ONE_STACK = Shapes(student=shape(2, 8, 2), teacher=shape(4, 12, 3))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (HiddenStates(), r"hidden_states does not say what it reads.*\(t5\).*one of encoder, decoder;"),
        (Attention(), "Set its of to one of encoder, decoder, cross"),
        (Relations(heads=4), "relations does not say what it reads.*Set its stack to one of encoder, decoder;"),
        (Relations(heads=4, stack="decoder", layers=(1, 4)), "the teacher has layers 1 to 3"),
        (Attention(of="cross", layers=((1, 4),)), r"pairs \[1, 4\], and the teacher has layers 1 to 3"),
        (HiddenStates(of="encoder", projection="none"), "without a projection"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(settings: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        settings.build(models("t5")[2])


def test_a_model_of_one_stack_has_no_other() -> None:
    with pytest.raises(RecipeError, match=r"attention\.of is cross, and a model of the family 'bert' has one stack"):
        Attention(of="cross").build(ONE_STACK)
    with pytest.raises(RecipeError, match=r"relations\.stack is encoder, and a model of the family 'bert'"):
        Relations(heads=4, stack="encoder").build(ONE_STACK)


def recipe(*losses: dict[str, Any], **label: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "task": {"kind": "seq2seq"},
            "data": {"train": "a", "validation": "b", "test": "c"},
            "teacher": {"model": "t"},
            "losses": [{"kind": "soft_targets", "temperature": 1.0}, *losses],
            "label": label,
        }
    )


def test_the_plan_knows_each_stack_and_what_cannot_be_stored() -> None:
    shapes, encoded = models("t5")[2], rows("t5")
    asked = recipe(
        {"kind": "hidden_states", "of": "decoder"},
        {"kind": "attention", "of": "cross"},
        {"kind": "attention", "of": "encoder"},
    )
    found = {each.name: each for each in planned_signals(asked, shapes, encoded, 7)}
    assert set(found) == {"logits", "decoder_hidden_states", "cross_attention", "encoder_attention"}
    stored = recipe({"kind": "hidden_states", "of": "decoder"}, features="stored")
    [_, states] = planned_signals(stored, shapes, encoded, 7)
    assert states.size_bytes == 2 * 32 * int(encoded.examples.trained_counts.sum())
    of_encoder = recipe({"kind": "hidden_states", "of": "encoder", "layers": [[2, 4]]}, features="stored")
    [_, states] = planned_signals(of_encoder, shapes, encoded, 7)
    sources = encoded.examples.lengths - encoded.examples.trained_counts
    assert (states.source, states.size_bytes) == ("stored", 2 * 32 * int(sources.sum()))
    with pytest.raises(RecipeError, match="losses read attention of layers 3"):
        planned_signals(recipe({"kind": "attention", "of": "cross"}, features="stored"), shapes, encoded, 7)
    with pytest.raises(ValueError, match="attention_cross is listed twice"):
        recipe({"kind": "attention", "of": "cross"}, {"kind": "attention", "of": "cross"})
