"""potstill push: an artefact that passed, with its card, to a repository of the Hugging Face hub."""

import os
import re
from pathlib import Path

from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.records import Artefact, ExportRecord
from potstill.run_dir import RESULT, file_digest, read_record

SCHEME = "hf:"
CARD = "MODEL_CARD.md"
CARD_ON_HUB = "README.md"
TOKEN = "HF_TOKEN"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push_artefact(run: Path, target: str, name: str | None, *, private: bool) -> str:
    """Upload one artefact of a run in one commit, and return where it lies.

    Raises:
        RecipeError: a target that is no repository, or no token in the environment.
        ModelError: the run exported nothing of that name that passed, or its files were changed since.
        PotstillError: the hub refuses.
    """
    repository = target.removeprefix(SCHEME)
    if not target.startswith(SCHEME) or not _REPOSITORY.fullmatch(repository):
        raise RecipeError(f"push: expected hf:organisation/name, got {target!r}.")
    token = os.environ.get(TOKEN)
    if not token:
        raise RecipeError(f"push: no token. Set {TOKEN} in the environment to one that may write to {repository}.")
    record = read_record(run / "export" / RESULT, ExportRecord)
    if record is None:
        raise ModelError(f"{run}: it has no export that is finished. Run: potstill export RECIPE --out {run}")
    artefact = _chosen(run, record, name)
    folder = run / artefact.folder
    files = _unchanged(run, record, artefact)
    _upload(repository, token, {path: folder / path for path in files}, artefact, private=private)
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{repository}"


def _chosen(run: Path, record: ExportRecord, name: str | None) -> Artefact:
    passed = {each.name: each for each in (*record.artefacts, *record.rivals) if each.passed}
    wanted = record.smallest if name is None else name
    if wanted in passed:
        return passed[wanted]
    there = f"passed: {', '.join(passed)}" if passed else "none passed"
    raise ModelError(f"{run}: no artefact {wanted!r} that passed; {there}." if wanted else f"{run}: {there}.")


def _unchanged(run: Path, record: ExportRecord, artefact: Artefact) -> list[str]:
    """The artefact's files, relative to its folder, all as they were when they were judged."""
    inside = artefact.folder.removeprefix("export/") + "/"
    files = {name.removeprefix(inside): digest for name, digest in record.files.items() if name.startswith(inside)}
    for name, digest in files.items():
        path = run / artefact.folder / name
        if not path.is_file() or file_digest(path) != digest:
            raise ModelError(f"{path}: changed since it was judged. Remove {run / 'export'} and export it anew.")
    return sorted(files)


def _upload(repository: str, token: str, files: dict[str, Path], artefact: Artefact, *, private: bool) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    added = [
        CommitOperationAdd(path_in_repo=CARD_ON_HUB if name == CARD else name, path_or_fileobj=path)
        for name, path in files.items()
    ]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations=added, commit_message=f"{artefact.name}, as it was judged")
    except (HfHubHTTPError, OSError) as error:
        # What a library says of a request may hold its headers.
        told = str(error).replace(token, "***").strip().splitlines()
        raise PotstillError(f"push: {repository}: {told[0] if told else type(error).__name__}") from None
