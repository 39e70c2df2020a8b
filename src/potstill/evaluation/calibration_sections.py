"""How far the probabilities of models can be believed, as sections of a page."""

from collections.abc import Iterator

from potstill.evaluation.wording import WORDING
from potstill.presentation.formats import number, percent
from potstill.presentation.tables import Cell, Reliability, Section, Table
from potstill.records import CalibrationRecord, EvaluateRecord, ReliabilityBin

AS_IT_IS, CALIBRATED = "as it is", "calibrated"


def calibration_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    """The temperature of each model, and its reliability as a diagram and as a table."""
    if not evaluation.calibration:
        return
    decision = WORDING[evaluation.answers].of_decision or (" of a word" if evaluation.test_words else " of a row")
    notes = [
        "One temperature for each model, fitted on the labelled validation rows alone by the least cross-entropy (Guo "
        "et al. 2017): dividing the logits by it changes no answer, and how sure the model is of it. Above 1, it was "
        "too sure.",
        f"The diagrams show test rows: of the decisions{decision} in each bin of confidence how many are right, with "
        "Wilson's 95 % interval. On the dashed line a model is right as often as it says.",
    ]
    head = [Cell("Model", ""), *map(Cell, ("temperature", "fitted on decisions")), Cell("", "")]
    rows = [
        [
            Cell(name, ""),
            Cell(number(each.temperature)),
            Cell(f"{each.decisions:,}"),
            Cell("" if each.reason is None else f"Not used: {each.reason}.", "text"),
        ]
        for name, each in evaluation.calibration.items()
    ]
    yield Section("Calibration", "calibration", notes, [(None, Table(head, rows))])
    yield Section(
        "Reliability",
        charts=[Reliability(f"Reliability of {name}", _series(each)) for name, each in evaluation.calibration.items()],
        tables=[(name, _table(each)) for name, each in evaluation.calibration.items()],
        summary="The diagrams as tables",
        tall=True,
    )


def _series(each: CalibrationRecord) -> dict[str, list[ReliabilityBin]]:
    """The bins as they are, and calibrated where a temperature is used."""
    return {AS_IT_IS: each.bins} | ({CALIBRATED: each.bins_calibrated} if each.bins_calibrated else {})


def _table(calibration: CalibrationRecord) -> Table:
    names = ("decisions", "mean confidence", "right (95 % interval)")
    series = _series(calibration)
    head = [Cell("Confidence", ""), *(Cell(f"{name}, {of}") for of in series for name in names)]
    by_edge = {of: {each.up_to: each for each in bins} for of, bins in series.items()}
    edges = {each.up_to: each.above for bins in series.values() for each in bins}
    rows = []
    for up_to, above in sorted(edges.items()):
        cells = [cell for of in series for cell in _cells(by_edge[of].get(up_to))]
        rows.append([Cell(f"{100 * above:.1f} to {100 * up_to:.1f} %", ""), *cells])
    return Table(head, rows)


def _cells(each: ReliabilityBin | None) -> list[Cell]:
    if each is None:
        return [Cell("0"), Cell("–"), Cell("–")]
    interval = f"{100 * each.low:.1f}–{100 * each.high:.1f}"
    return [
        Cell(f"{each.decisions:,}"),
        Cell(percent(each.confidence)),
        Cell(f"{percent(each.accuracy)} ({interval})"),
    ]
