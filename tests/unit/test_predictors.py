"""Predictors: whatever answers, one model or several, answers rows in their order, and is known by what it gives."""

import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.capabilities import Capability
from potstill.data.encoded import EncodedRows
from potstill.data.rows import Row
from potstill.errors import DataError
from potstill.evaluation.answers import outputs_of
from potstill.evaluation.case import Case
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.runtimes.ensemble import EnsemblePredictor
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Predictor, held, open_predictor, release_all
from potstill.runtimes.timing import SpeedRequest
from potstill.runtimes.transformers import TransformersPredictor
from potstill.runtimes.transformers_timing import _models
from potstill.tasks import TextClassification
from potstill.teachers import Mixture, PretrainedTeacher, Routed

CPU = torch.device("cpu")
TASK = TextClassification(max_length=24)
TEXTS = ["apple w1 w2", "tin", "wolf w5 w6 w7 w8 w9", "pear w3", "bear", "zinc w1"]


def rows(domains: list[str] | None = None) -> list[Row]:
    return [
        Row(str(number), text, "x", domain=domains[number] if domains else None) for number, text in enumerate(TEXTS)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> dict[str, Path]:
    """Two classifiers of three classes with random heads."""
    made = {}
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        model = TASK.load_model(str(teacher_folder), ["a", "b", "x"])
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        TASK.load_tokenizer(str(teacher_folder)).save_pretrained(folder)
        made[name] = folder
    return made


def opened(folder: Path, *, batch_size: int = 4) -> Predictor:
    tokenizer = TASK.load_tokenizer(str(folder))
    return open_predictor(ModelFolder(folder), task=TASK, tokenizer=tokenizer, device=CPU, batch_size=batch_size)


def encoded(predictor: Predictor, domains: list[str] | None = None) -> EncodedRows:
    return TASK.encode(rows(domains), predictor.tokenizer, ["a", "b", "x"])


def nothing(count: int) -> None:
    pass


def test_outputs_are_in_the_order_of_the_rows(folders: dict[str, Path]) -> None:
    """Rows are read in batches of similar length, and never mind which."""
    predictor = opened(folders["one"])
    found = predictor.outputs(encoded(predictor), nothing)
    model = TASK.load_model(str(folders["one"])).eval()
    for number, text in enumerate(TEXTS):
        with torch.no_grad():
            logits = model(**predictor.tokenizer(text, return_tensors="pt")).logits[0].numpy()
        assert found[number] == pytest.approx(logits, abs=1e-5), text


def test_rows_are_tokenized_once_for_each_tokenizer(folders: dict[str, Path]) -> None:
    """Models that read with the same one share its rows."""
    first, other = opened(folders["one"]), opened(folders["other"])
    shared = TransformersPredictor(ModelFolder(folders["other"]), TASK, first.tokenizer, CPU, 4)
    asked: list[object] = []

    def encode(tokenizer: PreTrainedTokenizerBase) -> EncodedRows:
        asked.append(tokenizer)
        return TASK.encode(rows(), tokenizer, ["a", "b", "x"])

    def untrained() -> PreTrainedModel:
        raise AssertionError("nobody asks for it here")

    data = {"train": "rows.jsonl", "validation": 0.1, "test": 0.1}
    recipe = Recipe.model_validate({"task": TASK, "data": data, "teacher": {"model": "one"}})
    names, config = ["a", "b", "x"], PretrainedConfig()
    case = Case(recipe, {}, names, first.tokenizer, config, Progress(), encode=encode, untrained=untrained)
    outputs, _ = outputs_of(case, {"teacher": first, "student": shared, "baseline": other})
    assert asked == [first.tokenizer, other.tokenizer]
    assert outputs["student"] == pytest.approx(outputs["baseline"], abs=1e-6)


def test_what_was_asked_before_is_not_asked_again(folders: dict[str, Path]) -> None:
    predictor = opened(folders["one"])
    own = encoded(predictor)
    counted: list[int] = []
    first = predictor.outputs(own, counted.append)
    assert predictor.outputs(own, counted.append) is first and sum(counted) == len(TEXTS)
    other = encoded(predictor)
    assert predictor.outputs(other, counted.append) is not first and sum(counted) == 2 * len(TEXTS)


def test_a_model_that_is_held_is_loaded_once_and_leaves_memory_at_the_end(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[ModelFolder] = []
    real = ModelFolder.load
    monkeypatch.setattr(ModelFolder, "load", lambda self, task: loaded.append(self) or real(self, task))
    predictor = opened(folders["one"])
    assert isinstance(predictor, TransformersPredictor)
    with held(predictor) as asked:
        found = [asked.outputs(encoded(predictor), nothing) for _ in range(3)]
        assert len(loaded) == 1 and predictor._model is not None
    assert predictor._model is None and all((each == found[0]).all() for each in found)
    for _ in range(2):
        predictor.outputs(encoded(predictor), nothing)
    assert len(loaded) == 3 and predictor._model is None, "as before it was held"
    with pytest.raises(KeyError), held(predictor):
        predictor.outputs(encoded(predictor), nothing)
        raise KeyError
    assert predictor._model is None


def test_members_of_an_ensemble_are_not_held_all_at_once(folders: dict[str, Path]) -> None:
    members = {name: opened(folder) for name, folder in folders.items()}
    one, other = members["one"], members["other"]
    assert isinstance(one, TransformersPredictor) and isinstance(other, TransformersPredictor)
    settings = Mixture(of={name: PretrainedTeacher(model=name) for name in members})
    together = EnsemblePredictor(settings, members, TASK, rows())
    with held(together):
        together.outputs(encoded(one), nothing)
        assert one._model is None and other._model is None


def test_a_model_that_left_memory_comes_back_where_it_was(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[torch.device] = []
    real = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: placed.append(device) or real(self, device))
    predictor = opened(folders["one"])
    assert isinstance(predictor, TransformersPredictor)
    first = predictor.outputs(encoded(predictor), nothing)
    predictor.release()
    placed.clear()
    assert not predictor.model.training and placed == [CPU]
    assert np.array_equal(first, predictor.outputs(encoded(predictor), nothing))


def test_a_model_is_frozen_once_and_let_go_at_its_release(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[torch.nn.Module] = []
    real = torch.nn.Module.requires_grad_
    monkeypatch.setattr(
        torch.nn.Module,
        "requires_grad_",
        lambda self, requires_grad=True: frozen.append(self) or real(self, requires_grad),
    )
    predictor = opened(folders["one"], batch_size=2)
    assert isinstance(predictor, TransformersPredictor)
    own = encoded(predictor)
    model = weakref.ref(predictor.model)
    first = [predictor.forward(own.collate([index])).logits for index in (0, 1)]
    assert frozen == [model()]
    frozen.clear()
    predictor.release()
    assert model() is None
    again = [predictor.forward(own.collate([index])).logits for index in (0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert frozen == [predictor.model]


@pytest.mark.parametrize(("device", "emptied"), [("cuda", ["one", "other", "cache"]), ("cpu", ["one", "other"])])
def test_memory_is_handed_back_once_all_models_are_gone(
    device: str, emptied: list[str], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("cache"))
    predictors = {name: opened(folder) for name, folder in folders.items()}
    for name, predictor in predictors.items():
        monkeypatch.setattr(predictor, "device", torch.device(device))
        monkeypatch.setattr(predictor, "release", partial(done.append, name))
    release_all(predictors.values())
    assert done == emptied


def test_an_ensemble_is_one_predictor(folders: dict[str, Path]) -> None:
    members = {name: opened(folder) for name, folder in folders.items()}
    settings = Mixture(of={name: PretrainedTeacher(model=str(folder)) for name, folder in folders.items()})
    together = EnsemblePredictor(settings, members, TASK, rows())
    own = encoded(together)
    probabilities = np.mean(
        [torch.softmax(torch.from_numpy(member.outputs(own, nothing)), dim=1).numpy() for member in members.values()],
        axis=0,
    )
    found = torch.softmax(torch.from_numpy(together.outputs(own, nothing)), dim=1).numpy()
    assert found == pytest.approx(probabilities, abs=1e-6)
    each = [member.parameters() for member in members.values()]
    assert together.parameters().total == sum(one.total for one in each)
    assert together.weights().size_bytes == sum(member.weights().size_bytes for member in members.values())
    assert together.loads().folders == tuple(str(folder) for folder in folders.values())
    assert not together.loads().in_turn and Capability.DISTRIBUTION in together.gives


@pytest.mark.parametrize("trusted", ["one", "other"])
@pytest.mark.parametrize("lead", ["one", "other"])
def test_code_beside_a_model_is_run_where_that_model_is_trusted(
    folders: dict[str, Path], lead: str, trusted: str
) -> None:
    """Also in the process that measures the speed of several together, whichever of them is the lead."""
    members = {
        name: open_predictor(
            ModelFolder(folder, trust_remote_code=name == trusted),
            task=TASK,
            tokenizer=TASK.load_tokenizer(str(folder)),
            device=CPU,
            batch_size=4,
        )
        for name, folder in folders.items()
    }
    settings = Mixture(of={name: PretrainedTeacher(model=str(folder)) for name, folder in folders.items()}, lead=lead)
    asked: dict[str, bool] = {}

    class Auto:
        @staticmethod
        def from_pretrained(folder: str, *, trust_remote_code: bool, **_: object) -> torch.nn.Module:
            asked[folder] = trust_remote_code
            return torch.nn.Identity()

    for answers in (EnsemblePredictor(settings, members, TASK, rows()), *members.values()):
        request = SpeedRequest(answers.loads(), "texts", TEXTS, threads=1, warmup=0, batch_size=1, device="cpu")
        _models(SpeedRequest.from_json(request.as_json()), Auto)
        assert asked == {folder: folder == str(folders[trusted]) for folder in request.loads.folders}
        asked.clear()


def test_an_ensemble_answers_each_row_by_the_member_of_its_domain(folders: dict[str, Path]) -> None:
    domains = ["left", "right", "right", "left", "right", "left"]
    members = {name: opened(folder) for name, folder in folders.items()}
    of = {name: PretrainedTeacher(model=str(folder)) for name, folder in folders.items()}
    settings = Routed(of=of, by="domain", domains={"one": ("left",), "other": ("right",)})
    together = EnsemblePredictor(settings, members, TASK, rows(domains))
    own = encoded(together, domains)
    found = torch.softmax(torch.from_numpy(together.outputs(own, nothing)), dim=1)
    for number, domain in enumerate(domains):
        member = members["one" if domain == "left" else "other"]
        alone = torch.softmax(torch.from_numpy(member.outputs(own, nothing)), dim=1)[number]
        assert torch.allclose(found[number], alone, atol=1e-6)
    assert together.loads().in_turn


def test_rows_are_routed_as_they_are_asked_about(folders: dict[str, Path]) -> None:
    """Test and validation rows have each their routes, and what nobody knows is found where it is asked about."""
    members = {name: opened(folder) for name, folder in folders.items()}
    own = rows(["a", "b", "a", "b", "b", "a"])
    more = [Row(f"v{row.id}", row.text, "x", domain=each) for row, each in zip(own, "babbab", strict=True)]
    unknown = Row("u", "apple", "x", domain="sea")
    teachers = {name: PretrainedTeacher(model=str(folder)) for name, folder in folders.items()}
    settings = Routed(of=teachers, by="domain", domains={"one": ("a",), "other": ("b",)})
    routed = EnsemblePredictor(settings, members, TASK, [*own, *more, unknown])
    for asked in (own, more, own):
        given = TASK.encode(asked, members["one"].tokenizer, ["a", "b", "x"])
        each = {name: member.outputs(given, nothing) for name, member in members.items()}
        found = routed.outputs(given, nothing)
        for number, row in enumerate(asked):
            logits = each["one" if row.domain == "a" else "other"][number].astype(float)
            expected = logits - np.log(np.exp(logits).sum())
            assert found[number] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="sea"):
        routed.outputs(TASK.encode([unknown], members["one"].tokenizer, ["a", "b", "x"]), nothing)
