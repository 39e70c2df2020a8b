"""Numbers and names as people read them."""

from collections.abc import Iterator, Mapping

from potstill.recipe.requirements import in_unit, with_unit
from potstill.records import Check, Estimate, LoraRecord, WeightsRecord


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:z.1f} %"


def points(value: float | None) -> str:
    """Percentage points with their sign."""
    return "–" if value is None else f"{value:+z.1f}".replace("-", "−")


def span(estimate: Estimate) -> str:
    """The interval of a share, in per cent."""
    return f"{100 * estimate.low:z.1f}–{100 * estimate.high:z.1f}"


def share(estimate: Estimate) -> str:
    """A share in per cent with its interval."""
    return f"{percent(estimate.value)} ({span(estimate)})"


def points_span(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{points(estimate.value)} ({points(estimate.low)} to {points(estimate.high)})"


def times(ratio: float) -> str:
    return f"{ratio:.1f}×"


def size(count: int) -> str:
    """Bytes in decimal units, as disks are sold and clouds bill."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def lora_words(lora: LoraRecord) -> str:
    """How much of a model LoRA trains."""
    full = f", and {', '.join(lora.modules_to_save)} in full" if lora.modules_to_save else ""
    return (
        f"LoRA of rank {lora.rank} beside {lora.adapted_modules:,} linear layers{full}: {lora.trained_parameters:,} of "
        f"{lora.parameters:,} parameters are trained ({lora.trained_parameters / lora.parameters:.2%})"
    )


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.4g}"


def number_span(estimate: Estimate | None) -> str:
    """A number with its interval."""
    return "–" if estimate is None else f"{number(estimate.value)} ({number(estimate.low)}–{number(estimate.high)})"


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def sentence(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def readable(name: str) -> str:
    """A key of a record or recipe as words."""
    return name.replace("_", " ")


def cut(text: str, most: int = 300) -> str:
    """The beginning of a text in one line, with how many characters are missing."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]} … ({len(flat) - most:,} more characters)"


def measured(check: Check) -> str:
    """What a check of the gate compared, in the unit of its threshold, or why there is nothing to compare."""
    if check.measured is None:
        return f"not measured{f': {check.why}' if check.why else ''}"
    value = _of_check(check, check.measured)
    if check.bound is None:
        return f"{value}{f', but {check.why}' if check.why else ''}"
    side = "at least" if check.required.startswith(">") else "at most"
    return f"{value}, {side} {_of_check(check, check.bound)} (95 %)"


def _of_check(check: Check, value: float) -> str:
    return with_unit(number(in_unit(value, check.unit)), check.unit)


def weights_lines(weights: Mapping[str, WeightsRecord]) -> Iterator[str]:
    """How teachers hold their weights while they answer, each in a sentence."""
    for name, each in weights.items():
        whose = name if name == "teacher" else f"teacher {name}"
        if each.stored == each.answers:
            told = f"in {each.answers}, as its weights are stored"
        else:
            told = f"in {each.answers}, and its weights are stored in {each.stored}"
        if each.quantization is not None:
            told += f", with those of its linear layers in {each.quantization}"
        if each.spread:
            told += ", spread over the devices of this machine"
        yield f"the {whose} answers {told}{f', {each.why}' if each.why else ''}"
