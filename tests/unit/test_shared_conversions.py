"""A language model is converted for llama.cpp once, in however many precisions it is shipped."""

from pathlib import Path

import pytest

from potstill.errors import ModelError
from potstill.exporters import gguf, gguf_conversion
from tests.gguf_models import converted_once, exported, write_llama


def test_one_conversion_is_rounded_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same bytes as if each were converted by itself; one that was refused is none to go on from."""
    folder = write_llama(tmp_path / "model")
    converted_once(monkeypatch, folder, tmp_path)
    copied, conversions = gguf_conversion.convert, []

    def convert(source: Path, file: Path, *, called: str, only_tokens: bool = False) -> None:
        conversions.append(file)
        copied(source, file, called=called, only_tokens=only_tokens)

    monkeypatch.setattr(gguf_conversion, "convert", convert)
    shared = tmp_path / "not there yet/shared"
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "TOLERANCE", -1.0)
        with pytest.raises(ModelError, match="answers otherwise"):
            exported(folder, tmp_path / "refused", "q8_0", shared=shared)
    assert len(conversions) == 1 and not list(shared.iterdir())
    together = exported(folder, tmp_path / "together", "q8_0", "q4_0", shared=shared)
    assert len(conversions) == 2 and [path.name for path in shared.iterdir()] == ["model.gguf"]
    alone = exported(folder, tmp_path / "alone", "q8_0", "q4_0")
    assert len(conversions) == 4
    for precision, target in together.items():
        files = {path.name: path.read_bytes() for path in target.iterdir()}
        assert files == {path.name: path.read_bytes() for path in alone[precision].iterdir()}
        assert "model.gguf" in files
