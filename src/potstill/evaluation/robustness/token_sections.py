"""What language models do after changed prompts, with queries that nobody can answer and texts of another kind, as
sections of the page."""

from collections.abc import Iterator, Mapping

from potstill.evaluation.robustness.words import ABOUT, head, perturbation_in_words
from potstill.presentation.formats import number_span, readable, sentence, share
from potstill.presentation.tables import Bars, Cell, Section, Table
from potstill.records import (
    Estimate,
    EvaluateRecord,
    ModelTokenRobustness,
    QueryScores,
    TokenOutOfDomain,
    TokenRobustness,
    TokenScores,
)


def token_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    """Changed prompts, queries that nobody can answer, and texts of another kind; where they were not measured it says
    so."""
    found = evaluation.token_robustness
    if found is None:
        empty = "Not measured: the recipe does not ask for it (evaluate.robustness), or no row fits (task.max_length)."
        yield Section("Robustness", "robustness", empty=empty)
    else:
        yield _robustness(found)
        yield _queries(found)
    if evaluation.token_out_of_domain is None:
        empty = "Not measured: the recipe names no texts of another kind (evaluate.out_of_domain)."
        yield Section("Out of domain", "out-of-domain", empty=empty)
    else:
        yield _out_of_domain(evaluation.token_out_of_domain)


def _number(value: Estimate | None) -> Cell:
    return Cell(number_span(value))


def _share(value: Estimate | None) -> Cell:
    return Cell("–" if value is None else share(value))


def _robustness(found: TokenRobustness) -> Section:
    models = found.models
    summary = [
        [
            Cell(name, ABOUT),
            _number(each.clean.perplexity),
            _number(each.robust_perplexity),
            _number(each.robust_perplexity_ratio),
            _number(each.ratio_over_teacher),
            _number(each.clean.kl),
            _number(each.robust_kl),
            _share(each.clean.agreement),
            _share(each.robust_agreement),
        ]
        for name, each in models.items()
    ]
    columns = head(
        "perplexity, as they are",
        "changed",
        "changed / as they are",
        "the same, over the teacher's",
        "KL from the teacher, nats, as they are",
        "changed",
        "agreement on the likeliest token, as they are",
        "changed",
        about="Model",
    )
    note = (
        f"The true responses to {found.rows:,} test rows ({found.tokens:,} tokens), chosen by a hash, after prompts of "
        "which each turn of the user is changed in every way, from 1 (slightly) to 3 (strongly); the responses stay as "
        "they are. All models are shown the same. Changed is the mean over all of them, of perplexities the geometric "
        "one. All with their 95 % intervals over the rows."
    )
    notes = [note]
    if found.plain_texts:
        notes.append(
            f"{found.plain_texts:,} of these rows are texts without a prompt: there the text itself is changed, and "
            "what is foretold is its own tokens."
        )
    if found.left_out:
        notes.append(
            f"{found.left_out:,} rows were not taken: a changed prompt leaves less room for the response "
            "(task.max_length), or the chat template refuses it."
        )
    whole = Table(head(*_by_model(models), about="Prompts"), list(_by_way(models)))
    return Section(
        "Robustness",
        "robustness",
        notes,
        [(None, Table(columns, summary)), ("By change and severity: perplexity, and KL from the teacher", whole)],
        tall=True,
        charts=[_ratios(models)],
    )


def _by_model(models: Mapping[str, ModelTokenRobustness]) -> list[str]:
    return [*(f"{name}, perplexity" for name in models), *(f"{name}, KL" for name in models if name != "teacher")]


def _by_way(models: Mapping[str, ModelTokenRobustness]) -> Iterator[list[Cell]]:
    def row(name: str, scores: Mapping[str, TokenScores]) -> list[Cell]:
        kls = [_number(each.kl) for model, each in scores.items() if model != "teacher"]
        return [Cell(name, ABOUT), *(_number(each.perplexity) for each in scores.values()), *kls]

    yield row("as they are", {name: each.clean for name, each in models.items()})
    for place, way in enumerate(models["teacher"].perturbed):
        name = perturbation_in_words(way.perturbation, way.severity)
        yield row(name, {model: each.perturbed[place] for model, each in models.items()})


def _ratios(models: Mapping[str, ModelTokenRobustness]) -> Bars:
    return Bars(
        title="Perplexity after changed prompts",
        x="severity",
        y="of that after the prompts as they are, %",
        places=[str(each.severity) for each in models["teacher"].by_severity],
        series={
            name: [
                (100 * ratio.value, 100 * ratio.low, 100 * ratio.high)
                for ratio in (each.perplexity_ratio for each in of_model.by_severity)
            ]
            for name, of_model in models.items()
        },
    )


def _queries(found: TokenRobustness) -> Section:
    queries, title, anchor = found.unanswerable, "Queries that nobody can answer", "unanswerable"
    if queries is None:
        return Section(title, anchor, empty=f"Not asked: {found.unanswerable_missing or 'this run has none'}.")
    source = "which come with potstill" if queries.source == "built_in" else f"from {queries.source}"
    kinds = ", ".join(f"{count:,} {readable(kind)}" for kind, count in queries.counts.items())
    notes = [
        f"{queries.queries:,} queries that should be declined or are nonsense{f' ({kinds})' if kinds else ''}, "
        f"{source}. KL and agreement are at the first {queries.first_tokens} tokens of what the teacher writes. Each "
        f"model's own answer has at most {queries.answer_tokens} tokens; one of which half of the 4-grams or more "
        "occurred before goes in circles. With 95 % intervals over the queries."
    ]
    if queries.left_out:
        notes.append(
            f"{queries.left_out:,} more were not asked: the chat template refuses them, or they leave no room."
        )
    columns = head(
        "KL from the teacher, nats",
        "agreement on the likeliest token",
        "comes to an end",
        "as the teacher does",
        "goes in circles",
        "as the teacher does",
        about="Model",
    )
    rows = [_query_row(name, each) for name, each in queries.models.items()]
    for kind, models in queries.by_kind.items():
        rows += [_query_row(f"{name}, {readable(kind)}", each) for name, each in models.items()]
    tables: list[tuple[str | None, Table]] = [(None, Table(columns, rows))]
    for each in queries.examples:
        shown = [("asked", each.query), *each.said.items()]
        answers = [[Cell(name, ABOUT), Cell(text, "text", as_is=True)] for name, text in shown]
        tables.append((each.id, Table([], answers)))
    return Section(title, anchor, notes, tables, tall=True)


def _query_row(name: str, each: QueryScores) -> list[Cell]:
    return [
        Cell(name, ABOUT),
        _number(each.kl),
        _share(each.agreement),
        _share(each.ended),
        _share(each.ended_as_teacher),
        _share(each.repeats),
        _share(each.repeats_as_teacher),
    ]


def _out_of_domain(found: TokenOutOfDomain) -> Section:
    notes = [
        f"The responses of {found.rows:,} rows of another kind ({found.source}; {found.tokens:,} tokens) beside those "
        f"of the {found.test_rows:,} test rows. With 95 % intervals over the rows of each."
    ]
    if found.left_out:
        notes.append(f"{found.left_out:,} rows leave no room for a response within task.max_length.")
    rows = []
    for name, each in found.models.items():
        for words, scores in (("test rows", each.inside), ("other texts", each.outside)):
            cells = [_number(scores.perplexity), _number(scores.kl), _share(scores.agreement)]
            ratios = [each.perplexity_ratio, each.ratio_over_teacher] if scores is each.outside else [None, None]
            rows.append([Cell(f"{name}, {words}", ABOUT), *cells, *map(_number, ratios)])
    columns = head(
        "perplexity",
        "KL from the teacher, nats",
        "agreement on the likeliest token",
        "perplexity / that on the test rows",
        "the same, over the teacher's",
        about=sentence("model and rows"),
    )
    return Section("Out of domain", "out-of-domain", notes, [(None, Table(columns, rows))])
