"""Weights of a narrower encoder against those of its teacher, cut by hand."""

import math

import pytest
import torch

from potstill.students import Copy, Shrunk, copy_from_teacher, student_config
from potstill.tasks import TextClassification
from tests.unit.test_students import teacher_of


@pytest.mark.parametrize("width", [12, 18])
def test_what_an_encoder_reads_of_a_narrower_stream_is_made_up_for_the_channels_that_are_missing(width: int) -> None:
    """Where a matrix reads it: not in the embeddings, not in what is written to the stream, not in biases."""
    teacher = teacher_of("bert")
    config = student_config(teacher.config, Shrunk(layers=4, width=width))
    student = TextClassification().new_model(config)
    copy_from_teacher(student, teacher, Copy(width="slice"))
    gain = math.sqrt(24 / width)
    own, whole = student.bert.encoder.layer[1], teacher.bert.encoder.layer[1]
    units = config.intermediate_size
    for mine, its in (
        (own.attention.self.query, whole.attention.self.query),
        (own.attention.self.value, whole.attention.self.value),
    ):
        torch.testing.assert_close(mine.weight, its.weight[:width, :width] * gain)
        torch.testing.assert_close(mine.bias, its.bias[:width])
    torch.testing.assert_close(own.intermediate.dense.weight, whole.intermediate.dense.weight[:units, :width] * gain)
    torch.testing.assert_close(own.output.dense.weight, whole.output.dense.weight[:width, :units])
    torch.testing.assert_close(own.attention.output.dense.weight, whole.attention.output.dense.weight[:width, :width])
    torch.testing.assert_close(student.classifier.weight, teacher.classifier.weight[:, :width] * gain)
    words = teacher.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(student.bert.embeddings.word_embeddings.weight, words[:, :width])
