"""Tagged documents, changed or of another kind: words stay with their tags, and figures are those of counting."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.data.encoded import Encoded
from potstill.data.tagged import TaggedRow
from potstill.data.words import EncodedWords
from potstill.errors import RecipeError
from potstill.evaluation.case import Case
from potstill.evaluation.findings import findings
from potstill.evaluation.metrics import metric
from potstill.evaluation.queries import require_measurable
from potstill.evaluation.robustness.measured import sampled_rows, ways
from potstill.evaluation.robustness.of_tags import changed_document, tags_beside_the_test
from potstill.evaluation.robustness.sections import robustness_sections
from potstill.evaluation.tags import TagAnswers
from potstill.measure.quality import bootstrap_weights
from potstill.perturbations import SEVERITIES, PerturbationName, Severity
from potstill.perturbations.words import BOILERPLATE, OF_WORDS, perturbed_words
from potstill.progress import Progress, unseen
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Estimate, OutOfDomain, Robustness
from potstill.runtimes.predictor import Advance, Outputs
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from tests.tagged_project import make_tagged_project
from tests.unit.finished_run import evaluation, robustness

WORDS = ("Molly", "bought", "twelve", "Oranges", "in", "Torino", "a", ",", "I", "7")
SIGNS = ("a", ",", "I", ";", "7", ".")
LENGTH = (*BOILERPLATE, "truncation")


def tags_of(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"B-{number}" for number in range(len(words)))


@pytest.mark.parametrize("words", [WORDS, SIGNS, ("Torino",), ("a",), ("ß", "ﬁ", "İ", "\u0301x")])
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", OF_WORDS)
def test_every_word_keeps_its_tag(words: tuple[str, ...], severity: Severity, name: PerturbationName) -> None:
    tags = tags_of(words)
    found, named = perturbed_words(words, tags, name, severity, "key", outside="O")
    assert (found, named) == perturbed_words(words, tags, name, severity, "key", outside="O")
    assert len(found) == len(named) and all(len(each.split()) == 1 for each in found)
    if name == "boilerplate_before":
        brought = len(found) - len(words)
        assert found[brought:] == words and named == ("O",) * brought + tags and brought > 2
    elif name == "boilerplate_after":
        brought = len(found) - len(words)
        assert found[: len(words)] == words and named == tags + ("O",) * brought and brought > 2
    elif name == "truncation":
        kept = max(1, len(words) - max(1, round((0.25, 0.5, 0.75)[severity - 1] * len(words))))
        assert named == tags[:kept]
        assert found == words[:kept] or (len(words) == 1 and words[0].startswith(found[0]))
    else:
        assert named == tags


@pytest.mark.parametrize("name", [each for each in OF_WORDS if each not in LENGTH])
def test_so_much_of_a_document_is_changed_as_of_a_text(name: PerturbationName) -> None:
    draw = random.Random(1)
    words = tuple("".join(draw.choices("abcdefghIJKLrnmst", k=5)) for _ in range(200))
    shares = []
    for severity in SEVERITIES:
        found, _ = perturbed_words(words, tags_of(words), name, severity, "key", outside="O")
        shares.append(sum(a != b for a, b in zip(found, words, strict=True)) / len(words))
    # Word by word, at least one character of each would be.
    assert 0 < shares[0] < shares[1] < shares[2] <= 1 and shares[0] < 0.3
    other, _ = perturbed_words(words, tags_of(words), name, 3, "another key", outside="O")
    assert other != found


def test_what_is_between_words_is_no_change_of_theirs_and_nothing_stays_nothing() -> None:
    assert "white_space" not in OF_WORDS and len(OF_WORDS) == 8
    for name in OF_WORDS:
        assert perturbed_words((), (), name, 3, "key", outside="O") == ((), ())
    untagged = TaggedRow("a", WORDS, None, "home")
    changed = changed_document(untagged, "boilerplate_before", 1)
    assert changed.tags is None and len(changed.tokens) > len(WORDS) and changed.domain == "home"
    assert changed_document(untagged, "keyboard", 3) != changed_document(replace(untagged, id="b"), "keyboard", 3)


class Looking(TransformersPredictor):
    """A model whose logits at a word are those of its first piece, from a table."""

    def __init__(self, case: Case, seed: int) -> None:
        super().__init__(None, case.recipe.task, case.tokenizer, torch.device("cpu"), 1)
        self.table = np.random.default_rng(seed).normal(size=(len(case.tokenizer), len(case.class_names))) * 3
        self.held = 0

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        assert isinstance(rows, EncodedWords)
        return np.concatenate([self.table[window.tokens[window.places]] for window in rows.windows]).astype(np.float32)

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1

    def of(self, word: str) -> np.ndarray:
        return np.float32(
            self.table[self.tokenizer([word], is_split_into_words=True, add_special_tokens=False).input_ids[0]]
        )


@pytest.fixture
def project(tmp_path: Path, teacher_folder: Path) -> Path:
    return make_tagged_project(tmp_path, teacher_folder)


def case_in(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return case_of(recipe, read_inputs(recipe, project), Progress())


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Entities in IOB2, counted in the plainest way; an I after another kind begins one."""
    found = set()
    place = 0
    while place < len(tags):
        if tags[place] == "O":
            place += 1
            continue
        kind, end = tags[place][2:], place + 1
        while end < len(tags) and tags[end] == f"I-{kind}":
            end += 1
        found.add((kind, place, end))
        place = end
    return found


ASKED = "evaluate.robustness={rows: 7, perturbations: [keyboard, truncation, boilerplate_before], severities: [1, 3]}"


def close(found: Estimate | None, values: Sequence[float]) -> bool:
    assert found is not None
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return (found.value, found.low, found.high) == pytest.approx((values[0], low, high), abs=1e-9)


def answers_to(case: Case, models: Mapping[str, Looking]) -> TagAnswers:
    assert case.encode_rows is not None
    encoded = case.encode_rows(case.tokenizer, case.test)
    assert isinstance(encoded, EncodedWords)
    logits = {name: model.outputs(encoded, unseen) for name, model in models.items()}
    weights = bootstrap_weights(len(case.test), seed=0)
    return TagAnswers(logits, list(case.test), encoded, case.class_names, weights)


def models_of(case: Case) -> dict[str, Looking]:
    return {name: Looking(case, seed) for seed, name in enumerate(("teacher", "student", "baseline"))}


def test_f1_and_agreement_on_changed_documents_are_those_of_counting(project: Path) -> None:
    case = case_in(project, ASKED)
    models, settings = models_of(case), case.recipe.evaluate.robustness
    assert settings is not None
    found = tags_beside_the_test(case, models, answers_to(case, models))["robustness"]
    assert isinstance(found, Robustness) and found.rows == 7 and found.attacks is None
    rows: Sequence[Any] = sampled_rows(case)
    blocks = [list(rows), *([changed_document(row, *way) for row in rows] for way in ways(settings))]
    samples = [np.repeat(np.arange(7), each) for each in bootstrap_weights(7, seed=case.recipe.seed)]

    def tagged(name: str, row: TaggedRow) -> list[str]:
        return [case.class_names[int(models[name].of(word).argmax())] for word in row.tokens]

    counts: dict[str, list[Any]] = {name: [] for name in models}
    same: dict[str, list[Any]] = {name: [] for name in models}
    for block in blocks:
        for name in models:
            told = [tagged(name, row) for row in block]
            teachers = [tagged("teacher", row) for row in block]
            pairs = [(spans(row.tags or ()), spans(tags)) for row, tags in zip(block, told, strict=True)]
            counts[name].append(np.array([(len(a & b), len(a), len(b)) for a, b in pairs]))
            alike = [sum(a == b for a, b in zip(*each, strict=True)) for each in zip(told, teachers, strict=True)]
            same[name].append(np.array([alike, [len(row.tokens) for row in block]]).T)

    def f1(name: str, block: int) -> np.ndarray:
        return np.array(
            [2 * c[0] / (c[1] + c[2]) for c in (counts[name][block][drawn].sum(axis=0) for drawn in samples)]
        )

    def agreement(name: str, block: int) -> np.ndarray:
        sums = [same[name][block][drawn].sum(axis=0) for drawn in samples]
        return np.array([alike / words for alike, words in sums])

    every = range(1, len(blocks))
    kept = {}
    for name, model in found.models.items():
        clean, robust = f1(name, 0), np.mean([f1(name, block) for block in every], axis=0)
        kept[name] = np.where(clean > 0, robust / np.maximum(clean, 1e-300), 0)
        assert close(model.clean_accuracy, clean.tolist()) and close(model.robust_accuracy, robust.tolist())
        assert close(model.kept, kept[name].tolist())
        for block, each in enumerate(model.perturbed, start=1):
            assert (each.perturbation, each.severity) == ways(settings)[block - 1]
            assert close(each.accuracy, f1(name, block).tolist())
            if name != "teacher":
                assert close(each.agreement, agreement(name, block).tolist())
        if name != "teacher":
            assert close(model.robust_agreement, np.mean([agreement(name, b) for b in every], axis=0).tolist())
            assert close(model.kept_over_teacher_points, (100 * (kept[name] - kept["teacher"])).tolist())
    assert 0 < found.models["student"].clean_accuracy.value < 1
    assert all(model.held == 0 for model in models.values())


def test_documents_of_another_kind_are_told_by_the_mean_over_their_words(project: Path) -> None:
    words = [["w1", "w2", "iron"], ["w50"], ["apple", "w3", "w4", "w5"], ["w9", "w9"]]
    rows = [{"id": f"o{n}", "tokens": each, "tags": ["X"] * len(each)} for n, each in enumerate(words)]
    (project / "data/others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    case = case_in(project, "evaluate.out_of_domain=data/others.jsonl")
    assert all(row.tags is None for row in case.out_of_domain), "labels are not read"
    models = models_of(case)
    found = tags_beside_the_test(case, models, answers_to(case, models))["out_of_domain"]
    assert isinstance(found, OutOfDomain)
    assert (found.source, found.rows, found.test_rows) == ("data/others.jsonl", 4, 40)

    def chances(name: str, word: str) -> np.ndarray:
        values = np.exp(models[name].of(word).astype(np.float64))
        return np.asarray(values / values.sum())

    def top(name: str, word: str) -> float:
        return float(chances(name, word).max())

    def energy(name: str, word: str) -> float:
        return float(np.log(np.exp(models[name].of(word).astype(np.float64)).sum()))

    def auroc(name: str, score: Callable[[str, str], float]) -> float:
        inside = [np.mean([score(name, word) for word in row.tokens]) for row in case.test]
        outside = [np.mean([score(name, word) for word in each]) for each in words]
        return float(np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside]))

    every = [word for each in words for word in each]
    for name, scores in found.models.items():
        assert scores.max_probability.auroc.value == pytest.approx(auroc(name, top), abs=1e-9)
        assert scores.energy.auroc.value == pytest.approx(auroc(name, energy), abs=1e-9)
        assert scores.confident.value == pytest.approx(np.mean([top(name, word) >= 0.9 for word in every]))
        told = [any(case.class_names[int(chances(name, word).argmax())] != "O" for word in each) for each in words]
        assert scores.with_entities is not None and scores.with_entities.value == np.mean(told)


def test_without_settings_nothing_is_asked(project: Path) -> None:
    case = case_in(project)
    models = models_of(case)
    assert tags_beside_the_test(case, models, answers_to(case, models)) == {}


def test_tags_have_defaults_of_their_own_and_refuse_what_they_do_not_have(project: Path) -> None:
    settings = load_recipe(project / "recipe.yaml", ["evaluate.robustness={}"]).evaluate.robustness
    assert settings is not None and (settings.rows, settings.attacks, settings.perturbations) == (300, 0, OF_WORDS)
    for change, message in (
        ("{attacks: 5}", r"evaluate\.robustness\.attacks: classifiers of texts are attacked.* Set it to 0"),
        (
            "{perturbations: [ocr, white_space]}",
            r"evaluate\.robustness\.perturbations: white_space changes what stands between words.* Leave it out; there "
            "are keyboard, ocr",
        ),
        ("{unanswerable: x.jsonl}", r"evaluate\.robustness\.unanswerable: queries are put to chat models"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(project / "recipe.yaml", [f"evaluate.robustness={change}"])


def test_words_that_are_brought_need_a_tag(project: Path) -> None:
    case = case_in(project, "evaluate.robustness={}")
    require_measurable(case)
    inside = [name for name in case.class_names if name != "O"]
    with pytest.raises(RecipeError, match=r"boilerplate_after and boilerplate_before bring words .* Leave them out"):
        require_measurable(replace(case, class_names=inside))
    changed = replace(
        case, class_names=inside, recipe=case_in(project, ASKED.replace("boilerplate_before", "ocr")).recipe
    )
    require_measurable(changed)


def test_what_tags_are_required_to_keep_is_their_f1(project: Path) -> None:
    asked = [
        "evaluate.robustness={rows: 9}",
        "gate.require={robust_entity_f1: '>= 0.5 (95%)', robust_agreement: '>= 0.5'}",
    ]
    require_measurable(case_in(project, *asked))
    with pytest.raises(RecipeError, match="'robust_accuracy' is not measured of this task"):
        require_measurable(case_in(project, "gate.require={robust_accuracy: '>= 0.5'}"))
    record = evaluation(with_baseline=True)
    assert record.robustness is not None
    assert metric("robust_entity_f1").in_record(record) == record.robustness.models["student"].robust_accuracy


def test_the_page_calls_it_entity_f1() -> None:
    lost = Estimate(value=-9.1, low=-14.0, high=-1.0)
    made = evaluation(with_baseline=True).model_copy(update={"primary_metric": "entity_f1", "out_of_domain": None})
    models = {
        name: each.model_copy(update={"scores": {"entity_f1": each.accuracy_interval}})
        for name, each in made.models.items()
    }
    record = made.model_copy(update={"robustness": robustness("x", lost=lost), "models": models})
    section = next(iter(robustness_sections(record)))
    assert section.tables[0][1].head[0].text == "Entity F1" and "share of the entity F1" in section.notes[0]
    assert section.charts[0].title == "Entity F1 kept on changed texts"
    classes = next(iter(robustness_sections(evaluation(with_baseline=True))))
    assert "share of the accuracy" in classes.notes[0]
    told = [each for each in findings(record.model_copy(update={"comparisons": []})) if "less robust" in each]
    assert len(told) == 1 and "of its entity F1, and" in told[0]
    assert record.robustness is not None
    nothing = record.robustness.models["student"].model_copy(
        update={"clean_accuracy": Estimate(value=0, low=0, high=0)}
    )
    changed = record.robustness.model_copy(update={"models": record.robustness.models | {"student": nothing}})
    assert not any(
        "less robust" in each for each in findings(record.model_copy(update={"robustness": changed, "comparisons": []}))
    )
