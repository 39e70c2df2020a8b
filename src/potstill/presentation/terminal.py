"""The result of a run as lines and a table for a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.table import Table

from potstill.presentation import tables
from potstill.presentation.formats import lora_words, measured, weights_lines
from potstill.presentation.page import visible
from potstill.presentation.tables import Quantity
from potstill.records import ClassCount, EvaluateRecord, GateRecord, PlanRecord, ShapeRecord, SharedTokensRecord

CLASSES_SHOWN = 20
SKIPPED_SHOWN = 3
LONGEST_NAME = 40


@runtime_checkable
class Costly(Protocol):
    """What a model costs."""

    @property
    def shape(self) -> ShapeRecord: ...

    @property
    def flops_per_token(self) -> float: ...

    @property
    def latency_ms(self) -> float | None: ...

    @property
    def weight_bytes(self) -> int: ...

    @property
    def design(self) -> str | None: ...


def plan_lines(plan: PlanRecord) -> Iterator[str]:
    """What will happen, for `potstill check`."""
    for name, split in plan.splits.items():
        dropped = {
            "blank": split.blank_dropped,
            "duplicates": split.duplicates_dropped,
            "near-copies of held-out texts": split.near_copies_dropped,
            "that cannot be read": split.skipped,
        }
        losses = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        if split.other_label_dropped:
            losses += f" ({split.other_label_dropped:,} of them labelled otherwise)"
        yield (
            f"{name:12} {split.rows:7,} rows, {split.labelled:,} labelled, {split.truncated:,} "
            f"{'cut' if split.words is None else 'with words that are not read'}"
            + (", of two texts each" if split.pairs else "")
            + (f"; dropped {losses}" if losses else "")
        )
        if split.source is not None:
            yield f"{'':12} from {split.source}"
        if split.tokens is not None:
            yield f"{'':12} {split.tokens.tokens:7,} tokens, {split.tokens.trained_tokens:,} of them in responses"
        if split.words is not None:
            yield f"{'':12} {split.words:7,} words, in {split.windows:,} windows"
        for what, fields in (("not read", split.unread), ("left out, as data.ignore says", split.ignored)):
            if fields:
                yield f"{'':12} {what}: {', '.join(f'{_name(field)} ({rows:,})' for field, rows in fields.items())}"
        for problem in split.skipped_first[:SKIPPED_SHOWN]:
            yield f"{'':12} skipped: {problem}"
    if plan.responses_to_write:
        yield (
            f"{'responses':12} {plan.responses_to_write:7,} for the teacher to write; tokens and steps of train, and "
            "all sizes, are the most that can come of it"
        )
    if plan.classes:
        yield f"{'classes':12} {len(plan.labels):7,}"
        yield from _class_lines(plan.classes)
    yield f"{'teacher':12} {_shape(plan.teacher)}; adapted in {plan.adapt_steps:,} steps"
    if plan.adapt_lora is not None:
        yield f"{'':12} {lora_words(plan.adapt_lora)}"
    yield from (f"{'':12} {line}" for line in weights_lines(plan.weights))
    trained = f"trained in {plan.steps:,} steps" if plan.steps else "left as it begins"
    yield f"{'student':12} {_shape(plan.student)}; {trained}"
    if plan.student_source is not None:
        yield f"{'':12} begins with the weights of {plan.student_source}"
    if plan.lora is not None:
        yield f"{'':12} {lora_words(plan.lora)}"
    pieces = plan.student.vocabulary, plan.teacher.vocabulary
    if plan.spelt_share is not None:
        yield (
            f"{'vocabulary':12} {pieces[0]:7,} of the teacher's {pieces[1]:,} pieces; {plan.spelt_share:.1%} of those "
            "of validation are spelt with others"
        )
    if (shared := plan.shared_tokens) is not None:
        yield from _shared_lines(shared)
    if (other := plan.other_tokens) is not None:
        yield (
            f"{'vocabulary':12} {other.student_tokens:7,} tokens of the student and {other.teacher_tokens:,} of the "
            f"teacher, aligned by bytes: {other.alone:,} of the student's can be told from all others"
        )
        yield (
            f"{'':12} {other.answered:7.1%} of the learnt tokens of validation have an answer of the teacher, "
            f"{other.plain:.1%} of these one that begins with them"
        )
    yield f"{'disk':12} up to {plan.disk_bytes / 1e6:,.0f} MB, of which labels {plan.label_store_bytes / 1e6:,.1f} MB"
    for signal in plan.signals:
        of = f" of layers {', '.join(map(str, signal.layers))}" if signal.layers else ""
        how = f"stored, {signal.size_bytes / 1e6:,.1f} MB" if signal.source == "stored" else "asked in each step"
        yield f"{'signal':12} {signal.name}{of}: {how}"
    for warning in plan.warnings:
        yield f"warning: {warning}"


def _shared_lines(shared: SharedTokensRecord) -> Iterator[str]:
    """The tokens that teacher and student have in common, and what is done about the others."""
    rows = shared.teacher_rows, shared.student_rows
    padded = set(rows) != {shared.count}
    yield f"{'vocabulary':12} {shared.count:7,} tokens in common" + (
        f"; of the {rows[0]:,} logits of the teacher and {rows[1]:,} of the student, the others are left out"
        if padded
        else ""
    )
    if shared.adopted:
        yield f"{'':12} tokens that the student takes over: {_few(shared.adopted)}"
    if shared.unknown:
        yield f"{'':12} tokens that the student has not: {_few(shared.unknown)}"


def _few(tokens: Sequence[str]) -> str:
    more = f" and {len(tokens) - CLASSES_SHOWN:,} more" if len(tokens) > CLASSES_SHOWN else ""
    return ", ".join(map(_name, tokens[:CLASSES_SHOWN])) + more


def _class_lines(classes: Sequence[ClassCount]) -> Iterator[str]:
    """The most frequent classes, or kinds of entities, with their counts and an example, and the rest together."""
    shown = classes[:CLASSES_SHOWN]
    width = max((len(_name(each.name)) for each in shown), default=0)
    for each in shown:
        counts = ", ".join(f"{count:,} {split}" for split, count in each.counts.items())
        yield f"{'':12} {_name(each.name):{width}}  {counts}" + (f": {each.example}" if each.example else "")
    if rest := classes[CLASSES_SHOWN:]:
        sums = ", ".join(f"{sum(each.counts[split] for each in rest):,} {split}" for split in rest[0].counts)
        yield f"{'':12} and {len(rest):,} more, together {sums}"


def _name(name: str) -> str:
    """A name out of the rows, in quotes where it would not be seen as it is."""
    plain = name.isprintable() and name == " ".join(name.split()) and name
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return short if plain else repr(short)


def _console() -> Console:
    """A terminal that shows texts of the data, such as tags in brackets, as they are."""
    return Console(markup=False, emoji=False, highlight=False)


def result_table(evaluation: EvaluateRecord, shown: Sequence[Quantity], floors: Sequence[str]) -> None:
    """Print the comparison of all models, the floors, and what is found."""
    table = Table(title=f"{evaluation.test_rows:,} test rows, {evaluation.measurement.threads} thread(s)")
    table.add_column("")
    for name in evaluation.models:
        table.add_column("CE-only baseline" if name == "baseline" else name, justify="right")
    for each in shown:
        if each.brief:
            table.add_row(each.name, *each.values)
    console = _console()
    console.print(table)
    for line in (*floors, *evaluation.findings):
        console.print(line)


def verdict_lines(gate: GateRecord) -> None:
    """Print every check, what would have to change, warnings of thresholds, and the verdict."""
    console = _console()
    for check in gate.checks:
        word = "pass" if check.passed else "FAIL"
        console.print(f"  {word}  {check.name} {check.required}: {measured(check)}")
    for line in gate.advice:
        console.print(f"to pass: {line}")
    for warning in gate.warnings:
        console.print(f"warning: {warning}")
    verdict = f"verdict: {'passed' if gate.passed else 'FAILED'}"
    if gate.weak_teacher is not None:
        verdict += f", {'though' if gate.passed else 'for'} the teacher is too weak. {gate.weak_teacher}"
    if gate.degenerate is not None:
        verdict += f"{'.' if gate.weak_teacher is None else ''} {gate.degenerate}"
    console.print(verdict, style="bold")


def comparison_table(runs: tables.Table, lines: Iterator[str]) -> None:
    """Print several runs, a line each, and how they changed against the first."""
    table = Table()
    for each in runs.head:
        named = each is runs.head[0]
        # A figure that is cut says another one.
        table.add_column(
            each.text, justify="right" if each.style == "n" else "left", no_wrap=not named, overflow="fold"
        )
    for row in runs.rows:
        table.add_row(*(visible(each.text) for each in row))
    console = _console()
    console.width = max(console.width, 100)
    console.print(table)
    for line in lines:
        console.print(visible(line))


def artefact_verdicts(lines: Iterator[str]) -> None:
    """Print a line for each artefact, and which to ship."""
    console = _console()
    for line in lines:
        console.print(line)


def students_table(teacher: Costly, found: Sequence[tuple[Any, Costly]]) -> None:
    """Print candidates for the student under their teacher."""
    table = Table(title="candidates for the student; latency of one row, one forward pass")
    for name in ("layers x width", "parameters", "embeddings", "MFLOP/token", "fewer", "weights, MB"):
        table.add_column(name, justify="right", no_wrap=True)
    timed = teacher.latency_ms is not None
    for name in ("latency, ms", "faster") if timed else ():
        table.add_column(name, justify="right", no_wrap=True)
    for each in (teacher, *(costs for _, costs in found)):
        shape, called = each.shape, "teacher" if each is teacher else each.design
        cells = [
            _sizes(shape) + (f" ({called})" if called else ""),
            f"{shape.parameters / 1e6:,.1f} M",
            f"{shape.embedding_parameters / 1e6:,.1f} M",
            f"{each.flops_per_token / 1e6:,.1f}",
            f"{teacher.flops_per_token / each.flops_per_token:.1f}x",
            f"{each.weight_bytes / 1e6:,.1f}",
        ]
        if teacher.latency_ms is not None and each.latency_ms is not None:
            cells += [f"{each.latency_ms:.1f}", f"{teacher.latency_ms / each.latency_ms:.1f}x"]
        table.add_row(*cells)
    console = _console()
    console.width = max(console.width, 120)
    console.print(table)
    first, design = found[0][1].shape, found[0][1].design
    decoder = "" if first.decoder_layers is None else f"decoder_layers: {first.decoder_layers}, "
    sizes = f"layers: {first.layers}, {decoder}width: {first.width}"
    settings = f"kind: design, name: {design}" if design else sizes
    console.print(f"In the recipe: student: {{{settings}}}")


def _shape(shape: ShapeRecord) -> str:
    body = shape.parameters - shape.embedding_parameters
    size = f"{shape.parameters / 1e6:.1f} M parameters ({body / 1e6:.1f} M without embeddings)"
    return f"{_sizes(shape)}, {size}"


def _sizes(shape: ShapeRecord) -> str:
    stacks = f"{shape.layers}" if shape.decoder_layers is None else f"{shape.layers} + {shape.decoder_layers}"
    return f"{stacks} x {shape.width}"
