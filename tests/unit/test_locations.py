"""Where a model lies, and what is fetched of it."""

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from transformers import AutoConfig

from potstill.errors import ModelError
from potstill.locations import local_folder, resolve
from potstill.tasks.loading import load_config


def test_a_folder_a_package_path_and_a_hub_id(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert Path(resolve("pkg:potstill/projects")).name == "projects"
    assert resolve("organisation/name") == "organisation/name"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("./no/such/folder", "no such folder, and not a hub id"),
        ("pkg:no_such_package/model", "'no_such_package' is not installed. Run: pip install no-such-package"),
        ("pkg:potstill/no-such-folder", "has no folder or .gguf file 'no-such-folder'"),
        ("pkg:potstill/../..", "the package has no folder or .gguf file"),
    ],
)
def test_what_is_nowhere_is_said_with_the_remedy(location: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(location)


def test_what_is_neither_a_folder_nor_in_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def from_pretrained(location: str, **where: Any) -> Any:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s")
        raise OSError("no connection.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    with pytest.raises(
        ModelError, match=r"^models/mine: there is no such folder, and as a hub id it cannot .* no conn"
    ):
        load_config("models/mine")
    assert not caplog.records
    # A folder that is there has another trouble.
    (tmp_path / "models/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"^models/mine: cannot be loaded: no connection\.$"):
        load_config("models/mine")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=f"this is a file. Name the folder that it lies in, {tmp_path}"):
        resolve(str(tmp_path / "model.safetensors"))


def test_a_hub_model_is_fetched_at_its_revision_and_without_pickles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **given: Any) -> str:
        asked.update(given, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert local_folder("org/name", revision="abc", trust_remote_code=False) == tmp_path
    assert asked["repository"] == "org/name" and asked["revision"] == "abc"
    patterns = set(asked["allow_patterns"])
    assert "*.safetensors" in patterns and not patterns & {"*", "*.bin", "*.pt", "*.pkl", "*.py"}
    local_folder("org/name", revision=None, trust_remote_code=True)
    assert "*.py" in asked["allow_patterns"]


def test_a_folder_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert local_folder(str(tmp_path), revision=None, trust_remote_code=False) == tmp_path


def test_a_hub_that_cannot_be_reached_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, **given: Any) -> str:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=r"org/name: cannot be fetched: no route to host$"):
        local_folder("org/name", revision=None, trust_remote_code=False)
