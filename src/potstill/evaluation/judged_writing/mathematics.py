"""Mathematical answers in texts, compared by what they mean with math-verify (extra `math`)."""

import signal
import threading
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, TypeVar

from potstill.evaluation.judged_writing.exchanges import NotJudged

PACKAGE = "math_verify"
TIMEOUT_S = 5
"""For reading one answer or comparing two, as math-verify has it: simple answers take milliseconds, and a tower of
powers would never end."""
TOO_LONG = "its answer was not computed in time"
NOT_HERE = "mathematical answers are computed in the main thread alone"

Result = TypeVar("Result")


def mathematical_answer(text: str, *, alone: bool = False) -> list[Any]:
    """What math-verify reads in a text, as expressions and as it is written; empty where there is no answer. `alone` is
    a text that is nothing but the answer, which may be LaTeX without the dollar signs around it.

    Raises:
        NotJudged: it took too long.
    """
    import math_verify  # half a second, which others need not wait

    if alone:
        text = f"${text}$"
    found: list[Any] = _bounded(
        lambda: math_verify.parse(text, parsing_timeout=TIMEOUT_S, raise_on_error=True), otherwise=[]
    )
    return found


def answers_equally(right: list[Any], given: list[Any]) -> bool:
    """Whether one of what is given equals one of what is right.

    Raises:
        NotJudged: none was found to, and one took too long.
    """
    import math_verify

    late = None
    for one, other in product(right, given):
        try:
            verify = partial(math_verify.verify, one, other, timeout_seconds=TIMEOUT_S, raise_on_error=True)
            if _bounded(verify, otherwise=False):
                return True
        except NotJudged as reason:
            late = reason
    if late is not None:
        raise late
    return False


def _bounded(work: Callable[[], Result], *, otherwise: Result) -> Result:
    """What the work gives, and `otherwise` where it fails at what a model wrote."""
    from math_verify.errors import TimeoutException

    if threading.current_thread() is not threading.main_thread():
        # It is stopped by a signal, which only the main thread hears.
        raise NotJudged(NOT_HERE)
    before = signal.getsignal(signal.SIGALRM)
    try:
        return work()
    except TimeoutException:
        raise NotJudged(TOO_LONG) from None
    except (ImportError, MemoryError):
        # Of this machine, and not of what was written.
        raise
    except Exception:  # whatever sympy makes of a text that a model wrote
        return otherwise
    finally:
        signal.signal(signal.SIGALRM, before)
