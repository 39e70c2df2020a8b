"""Language models after changed prompts and out of domain, against plain sums over logits in float64."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from potstill.data.dialogues import Completion, Conversation, PlainText
from potstill.data.pairs import Pair
from potstill.data.splits import stable_order
from potstill.data.turns import Message
from potstill.errors import DataError, RecipeError
from potstill.evaluation.case import Case
from potstill.evaluation.generative import GenerativeAnswers, Untrained, measured_tokens
from potstill.evaluation.queries import require_measurable
from potstill.evaluation.robustness import token_figures
from potstill.evaluation.robustness.changed_prompts import (
    TokenSums,
    blocks_of,
    sampled_prompts,
    sums_of,
    with_changed_prompt,
)
from potstill.evaluation.robustness.measured import SALT, ways
from potstill.evaluation.robustness.of_tokens import tokens_beside_the_test
from potstill.measure.language import TokenMeasures, TokensOfRows
from potstill.measure.quality import bootstrap_weights
from potstill.perturbations import NAMES
from potstill.progress import Progress
from potstill.recipe.yaml_file import load_recipe
from potstill.records import Estimate, TokenOutOfDomain, TokenRobustness
from potstill.runtimes.ensemble import EnsemblePredictor
from potstill.runtimes.predictor import Predictor
from potstill.runtimes.transformers import TransformersPredictor
from potstill.stages.inputs import read_inputs
from potstill.stages.judged_rows import case_of
from potstill.teachers import Routed
from tests.conftest import FILLERS, make_chat_project
from tests.pair_models import pair_model, pair_tokenizer

START, END = 2, 3
ASKED = "evaluate.robustness={rows: 5, perturbations: [keyboard, truncation], severities: [1, 3], unanswerable: null}"
SIMPLE = "what colour is the ball ?"


@pytest.fixture
def project(tmp_path: Path, chat_teacher_folder: Path) -> Path:
    return make_chat_project(tmp_path, chat_teacher_folder)


def case_in(project: Path, *changes: str) -> Case:
    recipe = load_recipe(project / "recipe.yaml", list(changes))
    return case_of(recipe, read_inputs(recipe, project), Progress())


def models_of(case: Case, folder: Path) -> dict[str, PreTrainedModel]:
    """A teacher, and another model as its student and its baseline."""
    teacher = LlamaForCausalLM.from_pretrained(folder)
    found = {"teacher": teacher}
    for seed, name in enumerate(("student", "baseline")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(teacher.config)
        with torch.no_grad():
            for parameter, other in zip(model.parameters(), teacher.parameters(), strict=True):
                # Large enough that a token before or after shows.
                parameter.copy_(8 * (other + 0.5 * parameter))
        found[name] = model
    return found


def predictors_of(case: Case, models: Mapping[str, PreTrainedModel]) -> dict[str, Predictor]:
    cpu, task = torch.device("cpu"), case.recipe.task
    return {
        name: TransformersPredictor(None, task, case.tokenizer, cpu, 4, model=model) for name, model in models.items()
    }


def ids_by_hand(case: Case, row: Conversation) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation in the template of the tests, and which of them the assistant says."""
    word = case.tokenizer.get_vocab().get
    ids: list[int] = []
    said: list[bool] = []
    for turn in row.messages:
        content = [int(word(each, 0) or 0) for each in turn.content.split()]
        ids += [START, int(word(turn.role, 0) or 0), *content, END]
        said += [False, False, *[turn.role == "assistant"] * (len(content) + 1)]
    return ids, said


def sums_by_hand(
    case: Case, models: Mapping[str, PreTrainedModel], rows: Sequence[Conversation]
) -> dict[str, TokenSums]:
    columns: dict[str, list[list[float]]] = {name: [] for name in models}
    for row in rows:
        ids, said = ids_by_hand(case, row)
        logits = {name: model(torch.tensor([ids])).logits[0].double() for name, model in models.items()}
        logs = {name: torch.log_softmax(each, dim=-1).detach().numpy() for name, each in logits.items()}
        for name in models:
            loss = kl = agrees = tokens = 0.0
            for place in range(1, len(ids)):
                if said[place]:
                    own, teacher = logs[name][place - 1], logs["teacher"][place - 1]
                    loss -= own[ids[place]]
                    kl += float((np.exp(teacher) * (teacher - own)).sum())
                    agrees += own.argmax() == teacher.argmax()
                    tokens += 1
            columns[name].append([loss, kl, agrees, tokens])
    return {name: TokenSums(*np.array(each).T) for name, each in columns.items()}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], float(np.quantile(values[1:], 0.025)), float(np.quantile(values[1:], 0.975))


def close(found: Estimate | None, values: Sequence[float], rel: float = 1e-9) -> bool:
    assert found is not None
    return (found.value, found.low, found.high) == pytest.approx(interval(values), rel=rel, abs=1e-9)


def answers_to(case: Case, predictors: Mapping[str, Predictor]) -> GenerativeAnswers:
    tokens, drawn = measured_tokens(case, predictors)
    return GenerativeAnswers(tokens, Untrained(tokens["teacher"], 1), drawn, {}, {}, None, [])


def robustness_of(case: Case, models: Mapping[str, PreTrainedModel]) -> TokenRobustness:
    predictors = predictors_of(case, models)
    found = tokens_beside_the_test(case, predictors, answers_to(case, predictors))["token_robustness"]
    assert isinstance(found, TokenRobustness)
    return found


CHAT = Conversation(
    "row",
    (
        Message("system", SIMPLE),
        Message("user", SIMPLE),
        Message("assistant", SIMPLE, reasoning=SIMPLE),
        Message("user", SIMPLE),
        Message("tool", SIMPLE),
        Message("assistant", SIMPLE),
    ),
    domain="home",
)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_says_is_changed_and_nothing_else(name: str) -> None:
    changed = with_changed_prompt(CHAT, name, 3)
    turns = list(zip(CHAT.messages, changed.messages, strict=True))
    assert all((before == after) is (before.role != "user") for before, after in turns)
    users = [after.content for before, after in turns if before.role == "user"]
    if name not in ("truncation", "case"):
        assert users[0] != users[1], "each turn in its own way"
    assert (changed.id, changed.domain) == ("row", "home") and changed == with_changed_prompt(CHAT, name, 3)
    completion = Completion("c", SIMPLE, SIMPLE, "home")
    other = with_changed_prompt(completion, name, 3)
    assert other.prompt != SIMPLE and other == replace(completion, prompt=other.prompt)
    pair = Pair("p", SIMPLE, SIMPLE)
    source = with_changed_prompt(pair, name, 3).source
    assert source != SIMPLE and with_changed_prompt(pair, name, 3) == replace(pair, source=source)
    assert with_changed_prompt(PlainText("t", SIMPLE), name, 3).text != SIMPLE


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_prompt_stays_empty(name: str) -> None:
    assert with_changed_prompt(Completion("c", "", "red", None), name, 3) == Completion("c", "", "red", None)
    empty = Conversation("e", (Message("user", ""), Message("assistant", "red")))
    assert with_changed_prompt(empty, name, 3) == empty


def test_responses_are_scored_after_the_same_changed_prompts_by_all_models(
    project: Path, chat_teacher_folder: Path
) -> None:
    case = case_in(project, ASKED)
    models = models_of(case, chat_teacher_folder)
    found = robustness_of(case, models)
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    rows = stable_order(case.test, lambda row: row.id, salt=SALT)[:5]
    by_hand = [sums_by_hand(case, models, rows)]
    by_hand += [sums_by_hand(case, models, [with_changed_prompt(row, *way) for row in rows]) for way in ways(settings)]
    assert (found.rows, found.left_out, found.plain_texts) == (5, 0, 0)
    assert found.tokens == by_hand[0]["teacher"].tokens.sum()
    weights = bootstrap_weights(5, seed=case.recipe.seed)

    def mean(name: str, block: int, column: str) -> np.ndarray:
        sums = by_hand[block][name]
        return np.array([(drawn @ getattr(sums, column)) / (drawn @ sums.tokens) for drawn in weights.astype(float)])

    for name, model in found.models.items():
        clean, changed = (
            mean(name, 0, "loss"),
            np.mean([mean(name, block, "loss") for block in range(1, 5)], axis=0),
        )
        assert close(model.clean.perplexity, np.exp(clean).tolist(), 1e-4)
        assert close(model.robust_perplexity, np.exp(changed).tolist(), 1e-4)
        assert close(model.robust_perplexity_ratio, np.exp(changed - clean).tolist(), 1e-4)
        for block, each in enumerate(model.perturbed, start=1):
            assert (each.perturbation, each.severity) == ways(settings)[block - 1]
            loss = mean(name, block, "loss")
            assert close(each.perplexity, np.exp(loss).tolist(), 1e-4)
            assert close(each.perplexity_ratio, np.exp(loss - clean).tolist(), 1e-4)
            if name == "teacher":
                assert each.kl is None and each.agreement is None
                continue
            assert close(each.kl, mean(name, block, "kl").tolist(), 1e-3)
            assert close(each.agreement, mean(name, block, "agrees").tolist())
        if name == "teacher":
            assert model.robust_kl is model.robust_agreement is model.kl_over_clean is model.ratio_over_teacher is None
            continue
        assert close(model.clean.kl, mean(name, 0, "kl").tolist(), 1e-3)
    assert list(found.models) == ["teacher", "student", "baseline"] and found.unanswerable is None
    assert found.unanswerable_missing == "the recipe asks none (evaluate.robustness.unanswerable)"


def drawn_sums(seed: int, rows: int) -> list[TokenSums]:
    """Of a clean block and four changed ones; the responses have the same tokens in all."""
    draw = np.random.default_rng(seed)
    tokens = np.random.default_rng(99).integers(1, 9, rows).astype(float)
    return [TokenSums(*(draw.gamma(2, 1, rows) * tokens for _ in range(3)), tokens) for _ in range(5)]


def test_means_over_changes_are_paired_with_the_clean_rows_and_the_teacher() -> None:
    rows, changes = 11, [("ocr", 1), ("ocr", 3), ("case", 1), ("keyboard", 3)]
    blocks = {name: drawn_sums(seed, rows) for seed, name in enumerate(("teacher", "student"))}
    weights = bootstrap_weights(rows, seed=3, resamples=40)
    found = token_figures.token_robustness(blocks, changes, weights)
    samples = [np.repeat(np.arange(rows), each) for each in weights]

    def mean(name: str, column: str, numbers: Sequence[int]) -> list[float]:
        """Over the blocks of these numbers, of the mean over the tokens of the drawn rows."""
        return [
            float(
                np.mean(
                    [
                        sum(getattr(blocks[name][n], column)[row] for row in drawn)
                        / sum(blocks[name][n].tokens[row] for row in drawn)
                        for n in numbers
                    ]
                )
            )
            for drawn in samples
        ]

    every = [1, 2, 3, 4]
    rise = {name: np.subtract(mean(name, "loss", every), mean(name, "loss", [0])) for name in blocks}
    student = found["student"]
    assert close(student.robust_perplexity, np.exp(mean("student", "loss", every)).tolist())
    assert close(student.robust_perplexity_ratio, np.exp(rise["student"]).tolist())
    assert close(student.ratio_over_teacher, np.exp(rise["student"] - rise["teacher"]).tolist())
    assert close(student.robust_kl, mean("student", "kl", every))
    assert close(student.robust_agreement, mean("student", "agrees", every))
    assert close(student.kl_over_clean, np.subtract(mean("student", "kl", every), mean("student", "kl", [0])).tolist())
    for each, numbers in zip(student.by_severity, ([1, 3], [2, 4]), strict=True):
        assert each.severity == (1 if numbers == [1, 3] else 3)
        rises = np.subtract(mean("student", "loss", numbers), mean("student", "loss", [0]))
        assert close(each.perplexity_ratio, np.exp(rises).tolist())
        assert close(each.kl, mean("student", "kl", numbers))
    assert found["teacher"].by_severity[0].kl is None
    assert close(found["teacher"].robust_perplexity_ratio, np.exp(rise["teacher"]).tolist())


def test_rows_whose_response_would_be_cut_are_left_out_counted_and_replaced(project: Path) -> None:
    asked = "evaluate.robustness={rows: 8, perturbations: [boilerplate_after, keyboard], unanswerable: null}"
    case = case_in(project, asked, "task.max_length=90")
    settings = case.recipe.evaluate.robustness
    assert settings is not None

    def fits(row: Conversation) -> bool:
        return all(len(ids_by_hand(case, with_changed_prompt(row, *way))[0]) <= 90 for way in ways(settings))

    order = stable_order(case.test, lambda row: row.id, salt=SALT)
    sample = sampled_prompts(case, [row.id for row in order])
    fitting = [row for row in order if fits(row)]
    last = order.index(fitting[7])
    assert [row.id for row in sample.rows] == [row.id for row in fitting[:8]]
    assert sample.left_out == last - 7 > 0
    clean, *changed = (
        {
            name: example.ids[example.trained].tolist()
            for name, example in zip(block.rows.row_ids, block.rows.examples, strict=True)
        }
        for block in blocks_of(case, sample.rows)
    )
    assert len(changed) == 6 and all(block == clean for block in changed)
    assert sampled_prompts(case, [order[last].id, "another"]).rows == [order[last]], "those that are read at all"


def test_without_room_for_any_row_nothing_is_measured(project: Path, chat_teacher_folder: Path) -> None:
    asked = "evaluate.robustness={rows: 3, perturbations: [boilerplate_after], severities: [3], unanswerable: null}"
    case = case_in(project, asked, "task.max_length=24")
    predictors = predictors_of(case, models_of(case, chat_teacher_folder))
    answers = answers_to(case, predictors)
    assert tokens_beside_the_test(case, predictors, answers) == {"token_robustness": None}


def test_of_plain_texts_the_text_itself_is_changed_and_it_is_said(project: Path, chat_teacher_folder: Path) -> None:
    texts = [{"id": f"t{number}", "text": f"w{number} is the colour what ball " * 20} for number in range(4)]
    (project / "data/test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts))
    case = case_in(project, ASKED.replace("truncation", "boilerplate_before"))
    found = robustness_of(case, models_of(case, chat_teacher_folder))
    assert (found.rows, found.plain_texts, found.left_out) == (4, 4, 0)
    # All tokens but the first of the text; boilerplate brings more.
    assert found.tokens == sum(len(str(each["text"]).split()) for each in texts)


def write_others(project: Path, *rows: dict[str, Any]) -> None:
    (project / "data/others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


OTHERS = "evaluate.out_of_domain=data/others.jsonl"


def test_rows_out_of_domain_stand_beside_the_test_rows(project: Path, chat_teacher_folder: Path) -> None:
    rows = [
        {"id": f"o{n}", "messages": [{"role": "user", "content": f"w{n} ?"}, {"role": "assistant", "content": said}]}
        for n, said in enumerate(("red w1", "w2", "the hat is green and w9"))
    ]
    long = {"role": "user", "content": "w1 " * 70}
    write_others(project, *rows, {"id": "long", "messages": [long, {"role": "assistant", "content": "red"}]})
    case = case_in(project, OTHERS)
    models = models_of(case, chat_teacher_folder)
    predictors = predictors_of(case, models)
    answers = answers_to(case, predictors)
    drawn = answers.drawn
    found = tokens_beside_the_test(case, predictors, answers)["token_out_of_domain"]
    assert isinstance(found, TokenOutOfDomain)
    assert (found.source, found.rows, found.left_out, found.test_rows) == ("data/others.jsonl", 3, 1, 30)
    outside = sums_by_hand(case, models, [row for row in case.out_of_domain if row.id != "long"])
    inside = sums_by_hand(case, models, case.test)
    assert found.tokens == outside["teacher"].tokens.sum() == 12
    within, without = drawn.weights.astype(float), bootstrap_weights(3, seed=case.recipe.seed + 1).astype(float)

    def mean(sums: TokenSums, weights: np.ndarray, column: str) -> np.ndarray:
        return np.array([(each @ getattr(sums, column)) / (each @ sums.tokens) for each in weights])

    rises = {name: mean(outside[name], without, "loss") - mean(inside[name], within, "loss") for name in models}
    for name, each in found.models.items():
        assert close(each.outside.perplexity, np.exp(mean(outside[name], without, "loss")).tolist(), 1e-4)
        assert close(each.inside.perplexity, np.exp(mean(inside[name], within, "loss")).tolist(), 1e-4)
        assert close(each.perplexity_ratio, np.exp(rises[name]).tolist(), 1e-4)
        if name == "teacher":
            assert each.ratio_over_teacher is each.outside.kl is each.inside.agreement is None
            continue
        assert close(each.outside.kl, mean(outside[name], without, "kl").tolist(), 1e-3)
        assert close(each.inside.kl, mean(inside[name], within, "kl").tolist(), 1e-3)
        assert close(each.outside.agreement, mean(outside[name], without, "agrees").tolist())
        assert close(each.ratio_over_teacher, np.exp(rises[name] - rises["teacher"]).tolist(), 1e-4)


def test_rows_out_of_domain_that_cannot_be_foretold_are_refused(project: Path) -> None:
    asked = {"role": "user", "content": "w1"}
    write_others(project, {"id": "silent", "messages": [asked]})
    with pytest.raises(DataError, match=r'evaluate\.out_of_domain: row "silent" of .* has no response'):
        case_in(project, OTHERS)
    row = json.loads((project / "data/test.jsonl").read_text().splitlines()[2])
    write_others(project, row | {"id": "copy"})
    with pytest.raises(DataError, match=rf"the text of row {row['id']} of data.test is in .*others.jsonl too"):
        case_in(project, OTHERS)
    long = {"role": "user", "content": "w1 " * 70}
    write_others(project, {"id": "long", "messages": [long, {"role": "assistant", "content": "red"}]})
    with pytest.raises(RecipeError, match=r"evaluate\.out_of_domain: data: no row has a token to learn within 64"):
        require_measurable(case_in(project, OTHERS))


def test_teachers_that_are_routed_by_domain_answer_changed_rows_of_their_own(
    project: Path, chat_teacher_folder: Path
) -> None:
    lines = [json.loads(line) for line in (project / "data/test.jsonl").read_text().splitlines()]
    rows = [row | {"domain": "ab"[number % 2]} for number, row in enumerate(lines)]
    (project / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    case = case_in(project, ASKED)
    of = "{a: {model: a}, b: {model: b}}"
    routed = f"teacher={{kind: routed, by: domain, of: {of}, domains: {{a: [a], b: [b]}}}}"
    teacher = load_recipe(project / "recipe.yaml", [routed, "adapt=null"]).teacher
    assert isinstance(teacher, Routed)
    first, second, third = models_of(case, chat_teacher_folder).values()
    found = predictors_of(case, {"a": first, "b": second, "student": third})
    ensemble = EnsemblePredictor(teacher, found, case.recipe.task, case.test)
    together: dict[str, Predictor] = {"teacher": ensemble, "student": found["student"]}
    told = tokens_beside_the_test(case, together, answers_to(case, together))
    robust = told["token_robustness"]
    assert isinstance(robust, TokenRobustness)
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    sample = stable_order(case.test, lambda row: row.id, salt=SALT)[:5]
    assert {row.domain for row in sample} == {"a", "b"}
    for block, way in enumerate(ways(settings)):
        loss = kl = tokens = 0.0
        for row in sample:
            models = {"teacher": {"a": first, "b": second}[row.domain], "student": third}
            sums = sums_by_hand(case, models, [with_changed_prompt(row, *way)])
            loss, tokens = loss + sums["teacher"].loss.sum(), tokens + sums["teacher"].tokens.sum()
            kl += sums["student"].kl.sum()
        scores = {name: each.perturbed[block] for name, each in robust.models.items()}
        assert scores["teacher"].perplexity.value == pytest.approx(np.exp(loss / tokens), rel=1e-3)
        assert scores["student"].kl is not None and scores["student"].kl.value == pytest.approx(kl / tokens, rel=1e-3)


def test_of_encoder_decoders_the_source_is_changed_and_the_target_stays(tmp_path: Path) -> None:
    pairs, words = tmp_path / "data", " ".join(FILLERS[:6])
    pairs.mkdir()
    for name in ("train", "validation", "test"):
        rows = [{"id": f"{name}{n}", "source": f"{words} {name} {n}", "target": f"w{n} red"} for n in range(8)]
        (pairs / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair_model("t5", 0).save_pretrained(tmp_path / "teacher")
    pair_tokenizer("t5").save_pretrained(tmp_path / "teacher")
    data = {name: f"data/{name}.jsonl" for name in ("train", "validation", "test")} | {"near_copies": None}
    asked = {"rows": 4, "perturbations": ["truncation", "boilerplate_before"], "severities": [3]}
    recipe = {
        "task": {"kind": "seq2seq", "max_length": 16},
        "data": data,
        "teacher": {"model": str(tmp_path / "teacher")},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | {"evaluate": {"robustness": asked}}))
    case = case_in(tmp_path)
    models = {"teacher": pair_model("t5", 0), "student": pair_model("t5", 1)}
    found = robustness_of(case, models)
    assert (found.rows, found.left_out, found.plain_texts) == (4, 0, 0), "a source that is too long is cut, no target"
    assert found.unanswerable_missing == "they are put to chat models, and this is seq2seq"
    rows: list[Pair] = stable_order(case.test, lambda row: row.id, salt=SALT)[:4]
    vocabulary = case.tokenizer.get_vocab()
    for name in ("truncation", "boilerplate_before"):
        loss = kl = tokens = 0.0
        for row in rows:
            changed = with_changed_prompt(row, name, 3)
            source = [*[vocabulary.get(word, 2) for word in changed.source.split()][:15], 1]
            target = [*(vocabulary.get(word, 2) for word in str(row.target).split()), 1]
            logs = {
                each: torch.log_softmax(
                    model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *target[:-1]]]))
                    .logits[0]
                    .double(),
                    dim=-1,
                )
                for each, model in models.items()
            }
            for place, token in enumerate(target):
                teacher, student = logs["teacher"][place], logs["student"][place]
                loss -= float(student[token])
                kl += float((teacher.exp() * (teacher - student)).sum())
                tokens += 1
        scores = next(each for each in found.models["student"].perturbed if each.perturbation == name)
        assert scores.perplexity.value == pytest.approx(np.exp(loss / tokens), rel=1e-4)
        assert scores.kl is not None and scores.kl.value == pytest.approx(kl / tokens, rel=1e-3)


def test_sums_stand_at_the_places_of_their_rows() -> None:
    """Rows may come in another order, and one may have no token of which the teacher says anything."""
    draw = np.random.default_rng(0)
    values = [draw.random(6) for _ in range(4)]
    tokens = TokenMeasures(values[0], values[1] > 0.5, values[1], values[2], values[3] > 0.5, values[3])
    drawn = TokensOfRows(np.array([0, 0, 1, 1, 1, 0]), np.arange(6), np.ones((2, 2)), ["c", "a"])
    found = sums_of(tokens, drawn, ["a", "b", "c"])
    assert found.loss.tolist() == pytest.approx([values[0][[2, 3, 4]].sum(), 0, values[0][[0, 1, 5]].sum()])
    assert found.kl.tolist() == pytest.approx([values[2][[2, 3, 4]].sum(), 0, values[2][[0, 1, 5]].sum()])
    assert found.agrees.tolist() == [sum(values[3][[2, 3, 4]] > 0.5), 0, sum(values[3][[0, 1, 5]] > 0.5)]
    assert found.tokens.tolist() == [3, 0, 3]
