"""Forms in which a model is shipped are in memory one at a time, however many a recipe asks for."""

from functools import partial
from inspect import unwrap
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from potstill.data.encoded import EncodedRows
from potstill.evaluation import shipping
from potstill.evaluation.answers import Judge
from potstill.evaluation.shipping import judge_forms
from potstill.stages.forms import _difference


class Holding:
    """A predictor that is loaded when it is asked, and knows how many others are."""

    device = torch.device("cpu")
    loaded: ClassVar[set[str]] = set()

    def __init__(self, name: str, logits: float = 1.0) -> None:
        self.name, self.value = name, logits

    def ask(self) -> None:
        self.loaded.add(self.name)

    def first_logits(self, batch: Any, most: int) -> torch.Tensor:
        self.ask()
        return torch.tensor([[2.0, self.value]])

    def release(self) -> None:
        self.loaded.discard(self.name)


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    Holding.loaded.clear()
    # These predictors do no more than is asked of them here.
    for name in ("__init__", "outputs", "write_all"):
        monkeypatch.setattr(shipping._AskedOnce, name, unwrap(getattr(shipping._AskedOnce, name)))
    monkeypatch.setattr(shipping, "_judged_as_required", lambda case: case)


def judging(answers_of: Any) -> Any:
    """A judge whose models are all asked for each form, as those are that have a head."""
    nothing = dict.fromkeys(("queries", "judged_again", "kept"), lambda *_: None)
    judge = SimpleNamespace(answers_of=answers_of, again=None, compared=None, **nothing)
    for name in ("answers_of_form", "agreement_of"):
        setattr(judge, name, partial(unwrap(getattr(Judge, name)), judge))
    return judge


def test_a_form_leaves_memory_once_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answers_of(case: Any, predictors: dict[str, Holding]) -> Any:
        for each in predictors.values():
            each.ask()
        asked.append(sorted(name for name in Holding.loaded if name.startswith("form")))
        return SimpleNamespace(agreement=lambda _: None)

    monkeypatch.setattr(shipping, "JUDGES", {"text": judging(answers_of)})
    monkeypatch.setattr(shipping, "_encoded_once", lambda case: case)
    monkeypatch.setattr(shipping, "_asks_of_other_texts", lambda case: False)
    monkeypatch.setattr(shipping, "costs_of", lambda case, timed, *_: {name: {} for name in timed})
    monkeypatch.setattr(shipping, "release_all", lambda loaded: [each.release() for each in loaded])
    for name in ("side_by_side", "measured_by", "JudgedForm"):
        monkeypatch.setattr(shipping, name, lambda *_, **__: None)
    case: Any = SimpleNamespace(recipe=SimpleNamespace(task=SimpleNamespace(answers="text")))
    models: Any = {name: Holding(name) for name in ("teacher", "student")}
    forms: Any = {name: SimpleNamespace(source="student", predictor=Holding(name)) for name in ("form 1", "form 2")}
    unwrap(judge_forms)(case, models, forms, "cpu")
    assert asked == [["form 1"], ["form 1"], ["form 2"], ["form 2"]]
    assert not Holding.loaded


def test_a_form_leaves_memory_once_it_is_compared() -> None:
    rows = SimpleNamespace(lengths=[3, 4], collate=lambda indices: list(indices))
    exporting: Any = SimpleNamespace(
        inputs=SimpleNamespace(splits={"test": SimpleNamespace(rows=[])}), encoded=lambda *_: rows
    )
    model, form = Holding("model"), Holding("form", 1.5)
    found = unwrap(_difference)(exporting, model, form, None)
    assert (found.largest, found.share) == (0.5, 0.25)
    assert Holding.loaded == {"model"}


TOKENIZER = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()))


def rows_named(name: str) -> EncodedRows:
    return EncodedRows((name,), [np.zeros(1, np.int32)], np.zeros(1, np.int64), pad_id=0, truncated=0)


class Counted(Holding):
    """A predictor that counts how often it is asked about which rows."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: list[str] = []

    def outputs(self, rows: Any, advance: Any) -> Any:
        self.asked.append(rows.ids[0])
        return f"{self.name} of {rows.ids[0]}"


def test_models_are_asked_once_about_rows_that_each_form_is_judged_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher takes minutes, and a recipe may ask for many forms."""
    told: list[dict[str, str]] = []

    def answers_of(case: Any, predictors: dict[str, Counted]) -> Any:
        rows = case.encode(TOKENIZER), case.encode_validation(TOKENIZER)
        told.append({name: each.outputs(rows[0], None) for name, each in predictors.items()})
        for each in predictors.values():
            each.outputs(rows[1], None)
        return SimpleNamespace(agreement=lambda _: None)

    monkeypatch.setattr(shipping, "JUDGES", {"text": judging(answers_of)})
    monkeypatch.setattr(shipping, "_asks_of_other_texts", lambda case: False)
    monkeypatch.setattr(shipping, "replace", lambda case, **new: SimpleNamespace(**vars(case) | new))
    monkeypatch.setattr(shipping, "costs_of", lambda case, timed, *_: {name: {} for name in timed})
    monkeypatch.setattr(shipping, "release_all", lambda loaded: None)
    for name in ("side_by_side", "measured_by", "JudgedForm"):
        monkeypatch.setattr(shipping, name, lambda *_, **__: None)
    case: Any = SimpleNamespace(
        recipe=SimpleNamespace(task=SimpleNamespace(answers="text")),
        encode=lambda tokenizer: rows_named("test"),
        encode_validation=lambda tokenizer: rows_named("validation"),
    )
    models: Any = {name: Counted(name) for name in ("teacher", "student")}
    forms: Any = {name: SimpleNamespace(source="student", predictor=Counted(name)) for name in ("one", "two")}
    forms["rival"] = SimpleNamespace(source="teacher", predictor=Counted("rival"))
    monkeypatch.setattr(shipping, "_encoded_once", unwrap(shipping._encoded_once))
    unwrap(judge_forms)(case, models, forms, "cpu")
    for each in (*models.values(), *(form.predictor for form in forms.values())):
        assert each.asked == ["test", "validation"], each.name
    assert told == [
        {"teacher": "teacher of test", "student": "one of test"},
        {"teacher": "student of test", "student": "one of test"},
        {"teacher": "teacher of test", "student": "two of test"},
        {"teacher": "student of test", "student": "two of test"},
        # A form of the teacher is compared with it anyway.
        {"teacher": "teacher of test", "student": "rival of test"},
    ]
