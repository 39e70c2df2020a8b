"""What every task needs to load a model: one clear error for one that is missing or unreadable."""

from potstill.errors import ModelError


class explained:
    """Turns what transformers raises for a missing or unreadable model into a ModelError."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | ValueError | ImportError):
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{self._location}: cannot be loaded: {reason}") from error
