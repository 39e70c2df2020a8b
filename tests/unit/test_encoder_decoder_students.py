"""Students of encoder-decoders: legal shapes, and first weights cut from the teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, BartConfig, BertConfig, PreTrainedModel, T5Config

from potstill.errors import ModelError
from potstill.models import Kind, Part, layers_of, stack_of, teaching
from potstill.records import ShapeRecord
from potstill.signals import Batch
from potstill.students import (
    Budget,
    Copy,
    Importance,
    Random,
    Shrunk,
    candidates,
    copy_from_teacher,
    copying,
    measure_importance,
    model_shape,
    shape_notes,
    student_config,
)
from potstill.tasks import Seq2Seq
from potstill.tasks.seq2seq import ask_for_hidden_states, shifted, start_token
from tests.pair_models import SIZES, pair_config, pair_model, pair_tokenizer

FAMILIES = teaching(Kind.ENCODER_DECODER)
OF_T5 = ("t5", "mt5")
SOURCE = torch.tensor([[5, 9, 7, 12, 3], [8, 6, 4, 1, 1]])
SEEN = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
SHOWN = torch.tensor([[2, 7, 9], [2, 11, 4]])
TARGET = torch.tensor([[7, 9, 2], [11, 2, 1]])
WRITTEN = torch.tensor([[1, 1, 1], [1, 1, 0]])
BATCH = Batch(
    ("a", "b"),
    {"input_ids": SOURCE, "attention_mask": SEEN, "target_ids": TARGET, "decoder_attention_mask": WRITTEN},
    TARGET,
    WRITTEN.bool(),
)


def student_of(teacher: PreTrainedModel, settings: Shrunk) -> PreTrainedModel:
    torch.manual_seed(99)
    model: PreTrainedModel = Seq2Seq().new_model(student_config(teacher.config, settings)).eval()
    if isinstance(settings.init, Copy):
        importance = importance_of(teacher) if settings.init.measures else None
        copy_from_teacher(model, teacher, settings.init, importance)
    return model


def importance_of(teacher: PreTrainedModel) -> Importance:
    return measure_importance(teacher, [BATCH], ask_for_hidden_states)


def say(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=SOURCE, attention_mask=SEEN, decoder_input_ids=SHOWN).logits
    return logits


def stacks(model: PreTrainedModel) -> tuple[torch.nn.ModuleList, torch.nn.ModuleList]:
    base = model.base_model
    encoder, decoder = base.get_encoder(), base.get_decoder()
    return (encoder.block, decoder.block) if hasattr(encoder, "block") else (encoder.layers, decoder.layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["spread", "first", "last", "block_influence"])
@pytest.mark.parametrize("width", ["slice", "project", "pruned"])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}])
def test_a_copy_in_the_teachers_own_shape_is_the_teacher(
    family: str, layers: Any, width: Any, changes: dict[str, Any]
) -> None:
    teacher = pair_model(family, 1, **changes)
    student = student_of(teacher, Shrunk(layers=4, decoder_layers=3, width=32, init=Copy(layers=layers, width=width)))
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, teacher.get_parameter(name)), name
    assert torch.equal(say(student), say(teacher))


def loaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model out of a folder, which must fill it to the last tensor."""
    model.save_pretrained(folder)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    again.eval()
    assert isinstance(again, PreTrainedModel)
    return again


@pytest.mark.parametrize("width", ["slice", "project", "pruned"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_student_comes_out_of_its_folder_as_it_went_in(family: str, width: Any, tmp_path: Path) -> None:
    settings = Shrunk(layers=2, decoder_layers=1, width="1/2", intermediate=20, init=Copy(width=width))
    student = student_of(pair_model(family, 1), settings)
    assert torch.isfinite(say(student)).all()
    assert torch.equal(say(loaded(student, tmp_path)), say(student))


@pytest.mark.parametrize("family", OF_T5)
def test_a_head_that_a_checkpoint_has_beside_its_embeddings_goes_into_the_student(family: str, tmp_path: Path) -> None:
    """Which transformers says is tied, in mT5 and in T5 of version 1.1, whatever their config.json says."""
    values = SIZES[family] | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    torch.manual_seed(2)
    made = AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING[family](vocab_size=50, **values)).eval()
    assert made.lm_head.weight is made.shared.weight
    made.lm_head.weight = torch.nn.Parameter(torch.randn(50, 32))
    made.save_pretrained(tmp_path / "teacher")
    teacher = Seq2Seq().load_model(str(tmp_path / "teacher")).eval()
    student = student_of(teacher, Shrunk(layers="1/1", decoder_layers="1/1", width="1/1"))
    assert torch.equal(say(made), say(teacher)) and torch.equal(say(teacher), say(student))
    narrow = student_of(teacher, Shrunk(layers=2, width="1/2"))
    assert torch.equal(narrow.lm_head.weight, teacher.lm_head.weight[:, :16])
    assert torch.equal(say(loaded(narrow, tmp_path / "student")), say(narrow))
    # Where all is tied, as in T5 of version 1, so it stays.
    assert (first := pair_model("t5", 1)).lm_head.weight is first.shared.weight
    random = student_of(teacher, Shrunk(layers=2, width="1/2", init=Random()))
    assert random.lm_head.weight is not random.shared.weight and random.lm_head.weight.std() > 0.5


@pytest.mark.parametrize(("width", "kept"), [(16, slice(0, 16, 2)), (32, slice(0, 16))])
def test_marians_positions_are_computed_and_its_channels_are_those_of_like_frequency(width: int, kept: slice) -> None:
    teacher = pair_model("marian", 1)
    student = student_of(teacher, Shrunk(layers=2, width=width))
    whole = teacher.model.encoder.embed_positions.weight
    halves = torch.arange(32).reshape(2, 16)[:, kept].reshape(-1)
    for stack in (student.model.encoder, student.model.decoder):
        torch.testing.assert_close(stack.embed_positions.weight, whole[:, halves])
        # They are multiplied by the root of the width.
        words = teacher.model.shared.weight[:, halves] * (32 / width) ** 0.5
        torch.testing.assert_close(stack.embed_tokens.weight, words)


@pytest.mark.parametrize("width", [31, 27, 20, 17, 9, 4, 3, 2, 1])
def test_each_of_these_channels_is_another_one_of_its_half(width: int) -> None:
    found = copying._of_like_frequency(width, 32).tolist()
    assert len(set(found)) == width and found == sorted(found)
    sines = found[: (width + 1) // 2]
    assert all(0 <= each < 16 for each in sines) and all(16 <= each < 32 for each in found[len(sines) :])


def test_vocabularies_of_source_and_target_that_differ_are_refused() -> None:
    config = pair_config("marian", share_encoder_decoder_embeddings=False)
    with pytest.raises(ModelError, match=r"teacher.model: .* a vocabulary each \(share_encoder_decoder_embeddings"):
        student_config(config, Shrunk())
    with pytest.raises(ModelError, match=r"teacher.model: .* a vocabulary each \(share_encoder_decoder_embeddings"):
        Seq2Seq().check_tokenizer(pair_tokenizer("marian"), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_random_weights_is_not_its_teacher(family: str) -> None:
    teacher = pair_model(family, 1)
    student = student_of(teacher, Shrunk(layers="1/1", width=32, init=Random()))
    assert not torch.allclose(say(student), say(teacher), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("layers", "chosen"), [("spread", ([0, 3], [0, 2])), ("first", ([0, 1], [0, 1])), ("last", ([2, 3], [1, 2]))]
)
def test_each_stack_has_the_chosen_layers_and_t5s_bias_of_the_first(
    family: str, layers: Any, chosen: tuple[list[int], list[int]]
) -> None:
    teacher = pair_model(family, 1)
    student = student_of(teacher, Shrunk(layers=2, width=32, init=Copy(layers=layers)))
    for own, whole, numbers in zip(stacks(student), stacks(teacher), chosen, strict=True):
        assert len(own) == 2
        for number, source in enumerate(numbers):
            given, kept = whole[source].state_dict(), own[number].state_dict()
            for name in kept:
                taken = whole[0].state_dict() if "relative_attention_bias" in name else given
                assert torch.equal(kept[name], taken[name]), (number, name)
    if family in OF_T5:
        assert any("relative_attention_bias" in name for name in stacks(student)[1][0].state_dict())
    else:
        assert torch.equal(student.final_logits_bias, teacher.final_logits_bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_stacks_can_be_of_different_depth(family: str) -> None:
    settings = Shrunk(layers="3/4", decoder_layers="1/3", width="1/2")
    shape = shape_of(student_of(pair_model(family, 1), settings))
    assert (shape.layers, shape.decoder_layers, shape.width, shape.heads, shape.intermediate) == (3, 1, 16, 2, 24)


def shape_of(model: PreTrainedModel) -> ShapeRecord:
    return model_shape(model.config, 1, 1, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", ["slice", "project", "pruned"])
def test_a_narrower_student_is_cut_deterministically_and_listens_to_source_and_target(family: str, width: Any) -> None:
    teacher = pair_model(family, 1)
    settings = Shrunk(layers="1/2", width="1/2", init=Copy(width=width))
    student = student_of(teacher, settings)
    said = say(student)
    assert torch.equal(said, say(student_of(teacher, settings))) and torch.isfinite(said).all()
    with torch.no_grad():
        other = student(input_ids=SOURCE.flip(1), attention_mask=SEEN, decoder_input_ids=SHOWN).logits
    assert not torch.allclose(said[0], other[0], atol=1e-4) and not torch.allclose(said[0], said[1], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_that_of_its_definitions_in_each_stack_and_each_attention(family: str) -> None:
    teacher = pair_model(family, 1)
    found = importance_of(teacher)
    shown = shifted(TARGET, start_token(teacher.config))
    heard: dict[tuple[Part, int, str], torch.Tensor] = {}

    def listen(part: Part, layer: int, what: str) -> Any:
        return lambda module, given, named: heard.update({(part, layer, what): (given or (named["hidden_states"],))[0]})

    for part in (Part.ENCODER, Part.DECODER, Part.CROSS):
        names = stack_of(teacher, part)
        for number, layer in enumerate(layers_of(teacher, part)):
            for what, path in (
                ("heads", names.attention_out),
                ("units", stack_of(teacher, part.stack).feed_forward_out),
                ("given", ""),
            ):
                hook = listen(part, number, what)
                layer.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)
    tops = {}
    for part in (Part.ENCODER, Part.DECODER):
        top = layers_of(teacher, part)[-1]
        top.register_forward_hook(
            lambda module, given, said, part=part: tops.update({part: said[0] if isinstance(said, tuple) else said})
        )
    with torch.no_grad():
        teacher(
            input_ids=SOURCE,
            attention_mask=SEEN,
            decoder_input_ids=shown,
            decoder_attention_mask=WRITTEN,
            use_cache=False,
        )
    channels = torch.zeros(32)
    for part, mask in ((Part.ENCODER, SEEN.bool()), (Part.DECODER, WRITTEN.bool()), (Part.CROSS, WRITTEN.bool())):
        layers = layers_of(teacher, part)
        for number, layer in enumerate(layers):
            heads = heard[part, number, "heads"][mask].reshape(-1, 4, 8)
            torch.testing.assert_close(found.heads[part][number], heads.square().mean(dim=(0, 2)).sqrt())
            if part is Part.CROSS:
                continue
            units = heard[part, number, "units"][mask]
            torch.testing.assert_close(found.units[part][number], units.square().mean(dim=0).sqrt())
            given = heard[part, number, "given"][mask]
            made = (heard[part, number + 1, "given"] if number + 1 < len(layers) else tops[part])[mask]
            turned = 1 - torch.cosine_similarity(given, made, dim=-1).mean()
            torch.testing.assert_close(found.layers[part][number], turned, rtol=1e-4, atol=1e-6)
            norm = (lambda states: states) if family not in OF_T5 else layer.get_submodule("layer.0.layer_norm")
            channels += norm(given).detach().square().mean(dim=0).sqrt()
    torch.testing.assert_close(found.channels, channels)


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_keeps_the_channels_heads_and_units_of_most_importance(family: str) -> None:
    teacher = pair_model(family, 1)
    settings = Shrunk(layers=2, width=16, init=Copy(layers="block_influence", width="pruned"))
    student, found = student_of(teacher, settings), importance_of(teacher)
    channels = best(found.channels, 16)
    embeddings = teacher.get_input_embeddings().weight
    # What a model multiplies its embeddings by, the root of its width, is made up for.
    factor = 2**0.5 if getattr(teacher.config, "scale_embedding", False) else 1.0
    assert torch.equal(student.get_input_embeddings().weight, embeddings[:, channels] * factor)
    for part in (Part.ENCODER, Part.DECODER, Part.CROSS):
        stack = Part.DECODER if part is Part.CROSS else part
        chosen = best(found.layers[stack], 2).tolist()
        # T5's layers share a bias for each head, so in all of a stack the same heads are kept.
        together = family in OF_T5 and part is not Part.CROSS
        names = stack_of(teacher, part)
        for own, source in enumerate(chosen):
            importance = found.heads[part][chosen].sum(dim=0) if together else found.heads[part][source]
            heads = best(importance, 2)
            inner = torch.cat([torch.arange(8) + 8 * head for head in heads])
            theirs = layers_of(teacher, part)[source].get_submodule(names.attention_out).weight
            mine = layers_of(student, part)[own].get_submodule(names.attention_out).weight
            torch.testing.assert_close(mine, theirs[:, inner][channels])
            units = best(found.units[stack][source], 24)
            theirs = (
                layers_of(teacher, part)[source].get_submodule(stack_of(teacher, part.stack).feed_forward_out).weight
            )
            mine = layers_of(student, part)[own].get_submodule(stack_of(teacher, part.stack).feed_forward_out).weight
            torch.testing.assert_close(mine, theirs[:, units][channels])
            if together:
                bias = "layer.0.SelfAttention.relative_attention_bias"
                first, its = layers_of(teacher, part)[0], layers_of(student, part)[0]
                assert torch.equal(its.get_submodule(bias).weight, first.get_submodule(bias).weight[:, heads])


def best(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.argsort(descending=True)[:count].sort().values


def test_the_first_heads_keep_their_bias() -> None:
    teacher = pair_model("t5", 1)
    student = student_of(teacher, Shrunk(layers=2, width=20, heads=3))
    assert student.config.d_kv == teacher.config.d_kv == 8
    bias = student.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert torch.equal(bias, teacher.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight[:, :3])


def test_what_t5_does_with_its_states_before_the_head_stays() -> None:
    """Version 1.1 does not scale them; a student that did would start far from its teacher."""
    for tied in (True, False):
        config = pair_model("t5", 1, tie_word_embeddings=tied).config
        assert student_config(config, Shrunk()).scale_decoder_outputs is tied


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("t5", {"layers": 5}, "student.layers: 5 is more than the teacher's 4"),
        ("t5", {"layers": 4}, "student.layers: 4 is more than the teacher's 3"),
        ("t5", {"layers": 2, "decoder_layers": 4}, "student.decoder_layers: 4 is more than the teacher's 3"),
        ("t5", {"heads": 5}, "student.heads: 5 is more than the teacher's 4"),
        ("bart", {"width": 20}, "student.width 20 is not 2 heads of 8"),
        ("bart", {"width": 16, "heads": 4}, "student.width 16 is not 4 heads of 8"),
    ],
)
def test_an_impossible_shape_is_refused_with_the_numbers(family: str, change: dict[str, Any], message: str) -> None:
    config = (T5Config if family == "t5" else BartConfig)(vocab_size=50, **SIZES[family])
    with pytest.raises(ModelError, match=message):
        student_config(config, Shrunk.model_validate({"width": 32} | change))


def test_shares_that_do_not_divide_are_said_of_each_stack() -> None:
    teacher = T5Config(vocab_size=60, d_model=64, d_kv=8, d_ff=96, num_heads=8, num_layers=6, num_decoder_layers=6)
    settings = Shrunk(layers="1/3", decoder_layers="1/4", width="2/3", intermediate="1/5", init=Random())
    made = student_config(teacher, settings)
    assert shape_notes(teacher, settings, made) == [
        "student.width: 2/3 of 64 is 42.6667; made 43 instead.",
        "student.intermediate: 1/5 of 96 is 19.2; made 19 instead.",
        "student.decoder_layers: 1/4 of 6 is 1.5; made 2 instead.",
        "student.heads: 5.375 would be in proportion; made 5.",
    ]


def test_stacks_that_differ_in_heads_are_refused() -> None:
    config = BartConfig(vocab_size=50, **SIZES["bart"] | {"decoder_attention_heads": 8})
    with pytest.raises(ModelError, match="encoder_attention_heads is 4 and decoder_attention_heads 8"):
        student_config(config, Shrunk())


def test_a_model_of_one_stack_has_no_decoder_layers() -> None:
    with pytest.raises(ModelError, match=r"student.decoder_layers: a teacher of the family 'bert' has one stack"):
        student_config(BertConfig(), Shrunk(decoder_layers=1))
    # What was recorded of such students before stays as it was.
    assert "decoder_layers" not in Shrunk().model_dump(mode="json")


@pytest.mark.parametrize("family", FAMILIES)
def test_budgets_know_both_stacks(family: str) -> None:
    config = pair_model(family, 1).config
    found = list(candidates(config, Budget(parameters=10**9)))
    assert len(found) > 4
    for settings, made in found:
        again = student_config(config, settings)
        assert again.to_dict() == made.to_dict()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", ["slice", "project", "pruned"])
def test_embeddings_that_are_multiplied_by_the_root_of_the_width_are_cut_as_those_that_are_not(
    width: Any, tied: bool
) -> None:
    """The same teacher in two ways: with `scale_embedding`, and with larger embeddings and a head of its own."""
    scaled = pair_model("bart", 1, scale_embedding=True, tie_word_embeddings=tied)
    plain = pair_model("bart", 1, tie_word_embeddings=False)
    plain.load_state_dict(scaled.state_dict())
    with torch.no_grad():
        for each in (plain.model.shared, plain.model.encoder.embed_tokens, plain.model.decoder.embed_tokens):
            each.weight.mul_(32**0.5)
    torch.testing.assert_close(say(scaled), say(plain))
    settings = Shrunk(layers=2, width=16, init=Copy(width=width))
    torch.testing.assert_close(say(student_of(scaled, settings)), say(student_of(plain, settings)))
