"""Work that is done beside the work of who gives it: one thread, one job after the other, errors brought back."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Does jobs in their order while who gave them goes on; only so many wait, and then who gives the next one waits.

    The first job that fails is the last that is done: what follows builds on it. Its error is raised where the next
    job is given, or all are awaited. Where the block ends with an error, the jobs that were given are still done.
    """

    def __init__(self, *, waiting: int) -> None:
        self._waiting = waiting
        self._given: deque[Future[Result]] = deque()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._failed = False

    def do(self, job: Callable[[], Result]) -> list[Result]:
        """Take a job; returns what jobs gave that were finished since the last call.

        Raises:
            BaseException: whatever an earlier job raised.
        """
        self._given.append(self._pool.submit(self._run, job))
        return self._take(leave=self._waiting)

    def finish(self) -> list[Result]:
        """Wait for all jobs; returns what was not yet returned.

        Raises:
            BaseException: whatever one of them raised.
        """
        return self._take(leave=0)

    def _take(self, *, leave: int) -> list[Result]:
        taken = []
        while self._given and (len(self._given) > leave or self._given[0].done()):
            taken.append(self._given.popleft().result())
        return taken

    def _run(self, job: Callable[[], Result]) -> Result:
        if self._failed:
            raise RuntimeError("a job before this one failed")
        self._failed = True
        result = job()
        self._failed = False
        return result

    def __enter__(self) -> "Background[Result]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self.finish()
