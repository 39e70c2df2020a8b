"""A student that exists already: a model with weights, and a tokenizer, of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from potstill.capabilities import Capability, Facts
from potstill.settings import ClassNames, Settings
from potstill.students.vocabulary import FullVocabulary

STUDENT_OF_RUN = Path("train", "student", "model")
"""Where a run leaves its student."""


class Pretrained(Settings):
    """A model that is there already, such as a published small one or the student of an earlier run.

    It keeps its family, its sizes and its weights. Where labels belong to rows or words, it reads with its own
    tokenizer. Where they belong to tokens, both must have the same ones, and it reads with its teacher's tokenizer.
    """

    kind: Literal["pretrained"] = "pretrained"
    model: str
    """A folder, a .gguf file, a hub id, `pkg:package/path` for a model inside an installed package, or the directory of
    an earlier run, whose student is meant."""
    revision: str | None = Field(default=None, exclude_if=lambda revision: revision is None)
    """Branch, tag or commit of a hub id."""
    trust_remote_code: bool = Field(default=False, exclude_if=lambda trusted: not trusted)
    """Run code that comes with the model. Off unless you have read that code."""
    classes: ClassNames = Field(default_factory=dict, exclude_if=lambda classes: not classes)
    """What the classes of its head are called in the data, as of a teacher. A head with other classes is replaced."""
    adopt_tokens: bool = Field(default=False, exclude_if=lambda adopted: not adopted)
    """Of language models: whether ids that stand for other special tokens in the student's tokenizer, or for none, and
    for which it has rows in its embedding matrix, are learnt with the meaning that they have for the teacher. So the
    distilled Qwen models of DeepSeek-R1 took over its turn markers (arXiv:2501.12948)."""

    vocabulary: ClassVar[FullVocabulary] = FullVocabulary()
    """Nothing is trimmed."""

    def refusals(self, where: str, facts: Facts) -> Iterator[str]:
        if Capability.STILLNESS not in facts.gives:
            yield (
                f"{where}: pretrained does not fit teacher.kind: {facts.teacher}, whose student begins as a copy of "
                "its start. Use a shrunk student, or a teacher of its own."
            )

    def folder_of(self, base: Path) -> str:
        """The model itself, where the directory of a run is named; `base` is the folder of the recipe."""
        run = base / self.model
        return (
            str(Path(self.model) / STUDENT_OF_RUN) if (run / STUDENT_OF_RUN / "config.json").is_file() else self.model
        )
