"""Jobs beside the work of who gives them: their order, how many wait, and where their errors are raised."""

import threading
from collections.abc import Callable

import pytest

from potstill.background import Background


def noting(done: list[int], number: int) -> Callable[[], int]:
    def job() -> int:
        done.append(number)
        return number

    return job


def failing() -> int:
    raise OSError("disk full")


def test_jobs_are_done_in_their_order_and_each_result_is_given_once() -> None:
    done: list[int] = []
    given = []
    with Background[int](waiting=2) as behind:
        for number in range(20):
            given += behind.do(noting(done, number))
        given += behind.finish()
    assert done == given == list(range(20))


def test_who_gives_more_than_may_wait_waits_for_the_first() -> None:
    may_end, done = threading.Event(), list[int]()

    def slow() -> int:
        assert may_end.wait(10)
        return 0

    with Background[int](waiting=2) as behind:
        assert behind.do(slow) == behind.do(noting(done, 1)) == []
        threading.Timer(0.05, may_end.set).start()
        # One is at work and two would wait.
        assert behind.do(noting(done, 2))[0] == 0


def test_after_a_job_that_failed_no_other_is_done_and_its_error_comes_back() -> None:
    done: list[int] = []
    with pytest.raises(OSError, match="disk full"), Background[int](waiting=5) as behind:
        behind.do(noting(done, 1))
        behind.do(failing)
        behind.do(noting(done, 2))
        behind.finish()
    assert done == [1]


def test_an_error_is_raised_at_the_end_of_the_block_too() -> None:
    with pytest.raises(OSError, match="disk full"), Background[int](waiting=5) as behind:
        behind.do(failing)


def test_jobs_that_were_given_are_done_where_the_block_fails() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Background[int](waiting=5) as behind:
        for number in range(4):
            behind.do(noting(done, number))
        raise KeyboardInterrupt
    assert done == [0, 1, 2, 3]
