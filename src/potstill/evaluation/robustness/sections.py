"""What models do with other texts than the test rows, as sections of the page."""

from collections.abc import Iterator, Mapping

from potstill.evaluation.metrics import CLASSES, LANGUAGE, name_in_words
from potstill.evaluation.robustness.token_sections import token_sections
from potstill.evaluation.robustness.words import ABOUT, head, perturbation_in_words
from potstill.presentation.formats import number, percent, points_span, sentence, share
from potstill.presentation.tables import Bars, Cell, Histogram, Section, Table
from potstill.records import (
    AttackExample,
    Attacks,
    Detection,
    Estimate,
    EvaluateRecord,
    ModelRobustness,
    OutOfDomain,
    Robustness,
)

_OF_TEXTS = ("confident (0.9 or more) on other texts",)
_OF_TAGS = ("words of other texts tagged with 0.9 or more", "other texts with an entity")
_SCORES = {"max_probability": "top probability", "energy": "negative energy"}


def robustness_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    """Changed texts, texts changed on purpose, and texts of another kind; where they were not measured it says so."""
    if evaluation.answers in LANGUAGE:
        yield from token_sections(evaluation)
    if evaluation.answers not in CLASSES | {"tags"}:
        return
    found = evaluation.robustness
    if found is None:
        empty = "Not measured: the recipe does not ask for it (evaluate.robustness)."
        yield Section("Robustness", "robustness", empty=empty)
    else:
        name = "entity_f1" if evaluation.answers == "tags" else "accuracy"
        yield _robustness(found, sentence(name_in_words(name, evaluation.answers)), _short(evaluation))
        if found.attacks is not None:
            yield _attacks(found.attacks)
    if evaluation.out_of_domain is None:
        empty = "Not measured: the recipe names no texts of another kind (evaluate.out_of_domain)."
        yield Section("Out of domain", "out-of-domain", empty=empty)
    else:
        yield _out_of_domain(evaluation.out_of_domain)


def _short(evaluation: EvaluateRecord) -> str:
    return name_in_words("entity_f1") if evaluation.answers == "tags" else "accuracy"


def _robustness(found: Robustness, accuracy: str, short: str) -> Section:
    models = found.models
    rows = [[Cell("as they are", ABOUT), *(Cell(share(each.clean_accuracy)) for each in models.values()), Cell("")]]
    ways = models["teacher"].perturbed
    for number_of_way, way in enumerate(ways):
        each_model = [each.perturbed[number_of_way] for each in models.values()]
        student = models["student"].perturbed[number_of_way].agreement
        accuracies = (Cell(share(each.accuracy)) for each in each_model)
        rows.append([Cell(perturbation_in_words(way.perturbation, way.severity), ABOUT), *accuracies, _share(student)])
    summary = [
        [
            Cell(name, ABOUT),
            Cell(share(each.clean_accuracy)),
            Cell(share(each.robust_accuracy)),
            Cell(share(each.kept)),
            Cell(points_span(each.kept_over_teacher_points)),
            _share(each.robust_agreement),
        ]
        for name, each in models.items()
    ]
    columns = head(
        "as they are",
        "changed",
        "kept",
        "kept, over the teacher, points",
        "agreement with the teacher",
        about=accuracy,
    )
    notes = [
        f"On {found.rows:,} test rows, chosen by a hash, of which each text is changed in every way, from 1 (slightly) "
        f"to 3 (strongly). Changed is the mean over all of them; kept is its share of the {short} on the same rows "
        "as they are. All with their 95 % intervals over the rows."
    ]
    whole = Table(head(*models, "agreement of student and teacher", about="Texts"), rows)
    return Section(
        "Robustness",
        "robustness",
        notes,
        [(None, Table(columns, summary)), ("By change and severity", whole)],
        tall=True,
        charts=[_kept(models, short)],
    )


def _share(value: Estimate | None) -> Cell:
    return Cell("–" if value is None else share(value))


def _kept(models: Mapping[str, ModelRobustness], short: str) -> Bars:
    return Bars(
        title=f"{sentence(short)} kept on changed texts",
        x="severity",
        y=f"of the {short} on the same rows, %",
        places=[str(each.severity) for each in models["teacher"].by_severity],
        series={
            name: [(100 * kept.value, 100 * kept.low, 100 * kept.high) for kept in (s.kept for s in each.by_severity)]
            for name, each in models.items()
        },
    )


def _attacks(found: Attacks) -> Section:
    rows = [
        [
            Cell(name, ABOUT),
            Cell(f"{each.succeeded} of {each.attacked}"),
            _share(each.success_rate),
            Cell(number(each.mean_queries)),
            Cell(percent(each.mean_changed_words)),
        ]
        for name, each in found.models.items()
    ]
    columns = head("made wrong", "success rate", "queries, mean", "words changed, mean", about="Model")
    tables: list[tuple[str | None, Table]] = [(None, Table(columns, rows))]
    if found.examples:
        names = [Cell(name, ABOUT) for name in ("Text", "changed", "truth", "model", "its answer")]
        tables.append(("What made them wrong", Table(names, [_example(each) for each in found.examples])))
    note = (
        f"On {found.rows:,} of these rows each model is shown what it may read wrong: one word after the other, the "
        "most important first, has a letter swapped, replaced, left out, doubled or drawn otherwise, and what lowers "
        f"the probability of the truth most is kept (as DeepWordBug does), with at most {found.queries:,} queries a "
        f"text and {percent(found.max_changed_words)} of its words. Only texts that a model is right about are "
        "attacked. Lower is better."
    )
    return Section("Adversarial examples", "adversarial", [note], tables, tall=True)


def _example(each: AttackExample) -> list[Cell]:
    return [
        Cell(each.before, "text", under=each.id),
        Cell(each.after, "text"),
        Cell(each.truth, "name answer"),
        Cell(each.model, ABOUT),
        Cell(each.answer, "name answer"),
    ]


def _out_of_domain(found: OutOfDomain) -> Section:
    scored = [
        (model, words, getattr(scores, name))
        for model, scores in found.models.items()
        for name, words in _SCORES.items()
    ]
    rows = [
        [Cell(f"{model}, {words}", ABOUT), Cell(share(d.auroc)), Cell(share(d.fpr95))] for model, words, d in scored
    ]
    tags = any(each.with_entities is not None for each in found.models.values())
    confident = [
        [Cell(model, ABOUT), Cell(share(each.confident)), *([_share(each.with_entities)] if tags else [])]
        for model, each in found.models.items()
    ]
    note = (
        f"{found.rows:,} texts of another kind ({found.source}) against the {found.test_rows:,} test rows. AUROC is "
        "the chance that a test row has the higher score; FPR95 the share of the other texts that pass where 95 % of "
        "the test rows do. Lower is better of FPR95."
    )
    return Section(
        "Out of domain",
        "out-of-domain",
        [note],
        [
            (None, Table(head("AUROC", "FPR95", about="Score"), rows)),
            (None, Table(head(*(_OF_TAGS if tags else _OF_TEXTS), about="Model"), confident)),
        ],
        charts=[_histogram(model, words, d) for model, words, d in scored if model != "baseline"],
    )


def _histogram(model: str, words: str, detection: Detection) -> Histogram:
    counted = detection.histogram
    counts = {"test rows": counted.in_domain, "other texts": counted.out_of_domain}
    return Histogram(f"{sentence(words)} of the {model}", words, counted.edges, counts)
