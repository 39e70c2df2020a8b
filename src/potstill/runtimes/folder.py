"""The folder of a saved model, and whether it is as this run wrote it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.loaded_as import IN_FLOAT32, LoadedAs
from potstill.measure.weights import SavedWeights
from potstill.run_dir import file_digest, fingerprint, folder_files
from potstill.tasks import AnyTask


@dataclass(frozen=True)
class ModelFolder:
    """A saved model, and whether code that lies beside its weights may run."""

    path: Path
    trust_remote_code: bool = False
    served: SavedWeights | None = None
    """Its weights as they are served, which may be in another type than those in the folder."""
    digest: str | None = None
    """Of all its files, where this run wrote them."""
    loaded_as: LoadedAs = IN_FLOAT32

    def require_unchanged(self) -> None:
        """Raises ModelError: its files are not those that this run wrote."""
        if self.digest is not None and model_digest(self.path) != self.digest:
            raise ModelError(
                f"{self.path}: its files are not those that this run wrote, so what was measured and learnt is not of "
                f"this model. Restore them, or remove {self.path.parent} and run again, to make it anew."
            )

    def load(self, task: AnyTask) -> PreTrainedModel:
        """The model.

        Raises:
            ModelError: it cannot be loaded, or was changed since this run wrote it.
        """
        self.require_unchanged()
        return task.load_model(str(self.path), how=self.loaded_as.arguments, trust_remote_code=self.trust_remote_code)


def model_digest(folder: Path, digest: Callable[[Path], str] = file_digest) -> str:
    """Digest of all files of a saved model: weights, configuration and tokenizer. `digest` gives that of each."""
    return fingerprint(folder_files(folder, relative_to=folder, digest=digest))
