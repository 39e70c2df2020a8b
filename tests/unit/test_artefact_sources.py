"""What an artefact says of itself, from what is known of the run; and texts that are made up to measure it."""

from functools import partial
from inspect import unwrap
from types import SimpleNamespace
from typing import Any

import pytest

from potstill.shipping.bench import WORD, _made_up
from potstill.stages.artefact_sources import Exporting
from potstill.tasks.text_classification import TextClassification
from tests.unit.test_artefacts import ABOUT


@pytest.mark.parametrize(
    ("name", "temperature"), [("student", 1.7), ("teacher", 0.8), ("without one", 1.0), ("unknown", 1.0)]
)
def test_the_temperature_is_that_of_the_model_that_is_exported(name: str, temperature: float) -> None:
    calibration = {
        "student": SimpleNamespace(temperature=1.7),
        "teacher": SimpleNamespace(temperature=0.8),
        "without one": SimpleNamespace(temperature=None),
    }
    exporting: Any = SimpleNamespace(
        recipe=SimpleNamespace(task=TextClassification(max_length=24)),
        evaluation=SimpleNamespace(calibration=calibration),
        inputs=SimpleNamespace(labels=["b", "a"]),
        _timed_lengths=lambda tokenizer: (3, 4),
    )
    exporting.temperature_of = partial(unwrap(Exporting.temperature_of), exporting)
    tokenizer: Any = SimpleNamespace(truncation_side="left", pad_token_id=7)
    about = unwrap(Exporting._about)(exporting, name, tokenizer)
    assert about.temperature == temperature
    # In the order of the outputs, which is not that of the alphabet.
    assert about.labels == ("b", "a") and about.max_length == 24 and about.overlap == 0
    assert (about.truncation_side, about.pad_id, about.lengths) == ("left", 7, (3, 4))


def test_texts_that_are_made_up_are_as_long_as_those_that_were_measured() -> None:
    from dataclasses import replace

    texts = _made_up(replace(ABOUT, lengths=(2, 5, 9)))
    assert [len(text.split()) for text in texts] == [1, 3, 7] and texts[0] == WORD
    documents = _made_up(replace(ABOUT, answers="tags", lengths=(2, 5)))
    assert documents == [[WORD] * 2, [WORD] * 5]
    # Without any they are as long as a text may be.
    assert len(_made_up(replace(ABOUT, lengths=()))[0].split()) == ABOUT.max_length - 2
