"""Numbers as people read them: what is shown as zero has no sign that says it is less."""

import pytest

from potstill.evaluation.advice import _figure
from potstill.evaluation.findings import _apart, _nats, _span, digits
from potstill.presentation import formats
from potstill.records import Estimate

VALUES = (-0.0, 0.0, -0.04, 0.04, -0.049999, -0.06, 0.06, -1.25, 3.0, -999.96, -1234.5)


@pytest.mark.parametrize("value", VALUES)
def test_a_number_that_is_shown_as_zero_is_not_less_than_zero(value: float) -> None:
    one = Estimate(value=value, low=value, high=value)
    signed = f"{value:+.1f}"
    if float(signed) == 0:
        signed = "+0.0"
    plain = f"{100 * value:.1f}"
    plain = "0.0" if float(plain) == 0 else plain
    four = "0" if value == 0 else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    minus = signed.replace("-", "−")
    assert formats.points(value) == minus and formats.points_span(one) == f"{minus} ({minus} to {minus})"
    assert formats.percent(value) == f"{plain} %" and formats.share(one) == f"{plain} % ({plain}–{plain})"
    assert formats.number(value) == digits(value) == four
    assert formats.number_span(one) == f"{four} ({four}–{four})"
    assert _span(one) == f"{signed} points, 95 % interval {signed} to {signed}"
    assert _apart(one) == f"{signed} points (95 % interval {signed} to {signed})"
    assert _figure(value) == ("0" if value == 0 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}")
    nats = "0.00" if value == 0 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    assert _nats(value) == nats and _nats(value, "+") == ("" if value < 0 else "+") + nats
