"""Students of `potstill.distill` that exist already: named by a folder or a hub id, and found from anywhere."""

from pathlib import Path
from typing import Any

import pytest

from potstill.distillation import _student


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tinybert-4", {"kind": "design", "name": "tinybert-4"}),
        ("organisation/small", {"kind": "pretrained", "model": "organisation/small"}),
        ("models", {"kind": "pretrained", "model": "HERE/models"}),
        ({"kind": "pretrained", "model": "models"}, {"kind": "pretrained", "model": "HERE/models"}),
        ({"layers": "1/2"}, {"layers": "1/2"}),
    ],
)
def test_a_student_is_a_design_or_a_model(
    given: Any, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _student(given) == {key: value.replace("HERE", str(tmp_path)) for key, value in expected.items()}
