"""Every code block of the pages that people read is run, or read by what would read it (`tests/doc_checks.py`)."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from potstill.cli import app
from tests.conftest import make_project
from tests.doc_checks import ROOT, Block, blocks_of, check, check_in_a_line

PAGES = [ROOT / name for name in ("README.md", "RESULTS.md", "recipes/README.md")] + sorted(ROOT.glob("docs/*.md"))
LINKED = [*PAGES, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
BLOCKS = [block for path in PAGES for block in blocks_of(str(path.relative_to(ROOT)), path.read_text())]
FENCED = [block for block in BLOCKS if block.words]


@pytest.mark.parametrize("block", FENCED, ids=[block.place for block in FENCED])
def test_a_block_is_what_it_claims_to_be(block: Block, tmp_path: Path) -> None:
    check(block, tmp_path)


@pytest.mark.parametrize(
    ("words", "text", "told"),
    [
        ("yaml recipe", "task: {kind: text_classification}", "data"),
        ("yaml part", "train: {epoch: 3}", "epoch"),
        ("yaml part", "losses: [{kind: soft_targets, divergence: jsd}]", "jsd"),
        ("yaml part", "label: {responses: {kind: generated}}", "causal|does not fit"),
        ("yaml", "train: {epochs: 3}", "not enough values"),
        ("jsonl text_classification", '{"txt": "a", "label": "b"}', "text"),
        ("jsonl causal_lm", '{"messages": "a"}', "messages"),
        ("jsonl text_classification", '{"text": "a", "label": "b", "title": "c"}', "title"),
        ("python", "from potstill import load_recipes", "load_recipes"),
        ("python", "import potstill\npotstill.run_recipes()", "run_recipes"),
        ("python", "import potstill\npotstill.load_recipe('a', [], 'b')", "too many"),
        (
            "python",
            "import potstill\nx = potstill.distill('a', {}, {}, task='c', out='b')\nprint(x.weights)",
            "weights",
        ),
        ("python", "import potstill\npotstill.distill('a', {}, {}, task='c')", "out"),
        ("sh", "potstill runs recipe.yaml --out run", "runs"),
        ("sh", "potstill run recipe.yaml", "out"),
        ("sh", "potstill run recipe.yaml --out run --fast", "fast"),
        ("sh", "potstill check recipe.yaml --set train.epoch=3", "epoch"),
        ("sh", "potstill check recipes/none.yaml", "no such file"),
        ("sh", "potstill init licence-notices demo/", "licence"),
        ("sh", "make demos", "demos"),
        ("sh", "pip install '.[demos]'", "demos"),
        ("sh", "torchrun --processes=2 -m potstill run recipe.yaml --out run", "2"),
        ("sh", "python benchmarks/demo.py --project demo", "2"),
        ("sh", "curl example.org", "curl"),
        ("toml", "a = 1", "toml"),
        ("run", "a = 1", "no test knows the language"),
    ],
)
def test_a_block_that_would_not_work_is_noticed(words: str, text: str, told: str, tmp_path: Path) -> None:
    """What a test of text must itself be tested for: that it can fail."""
    with pytest.raises((Exception, SystemExit), match=told):
        check(Block("here", tuple(words.split()), text), tmp_path)


@pytest.mark.parametrize("text", ["```sh\nmake demo", "So:\n\n    make demo"])
def test_code_that_would_not_be_found_is_noticed(text: str) -> None:
    with pytest.raises(AssertionError, match="page:"):
        blocks_of("page", text)


def test_a_fence_without_a_language_is_noticed(tmp_path: Path) -> None:
    [block] = blocks_of("page", "```\nmake demo\n```")
    with pytest.raises(AssertionError, match="no test knows the language"):
        check(block, tmp_path)


def test_commands_and_settings_within_lines_are_there(tmp_path: Path) -> None:
    wrong, seen = [], 0
    for block in BLOCKS:
        if not block.words:
            try:
                seen += check_in_a_line(block.text, tmp_path)
            except (Exception, SystemExit) as error:
                wrong.append(f"{block.place}: {block.text}: {error}")
    assert not wrong, "\n".join(wrong)
    assert seen > 50


@pytest.mark.parametrize(
    "text",
    ["potstill runs", "potstill run RECIPE --fast", "potstill init nothing", "train.epoch", "train.epochs: many"],
)
def test_a_command_or_setting_that_is_not_there_is_noticed(text: str, tmp_path: Path) -> None:
    with pytest.raises((Exception, SystemExit)):
        check_in_a_line(text, tmp_path)


@pytest.mark.parametrize("task", ["text_classification", "causal_lm"])
def test_the_recipes_of_the_readme_are_planned(
    task: str, request: pytest.FixtureRequest, tmp_path: Path, teacher_folder: Path, chat_teacher_folder: Path
) -> None:
    """On a tiny teacher and tiny data, as they are in all else."""
    request.getfixturevalue("chat_project" if task == "causal_lm" else "project")
    [block] = [block for block in FENCED if block.place.startswith("README") and f"kind: {task}" in block.text]
    (tmp_path / "recipe.yaml").write_text(block.text)
    changes = [
        f"teacher.model={chat_teacher_folder if task == 'causal_lm' else teacher_folder}",
        "data={train: data/train.jsonl, validation: data/validation.jsonl, test: data/test.jsonl, near_copies: null}",
        "task.max_length=32",
    ]
    arguments = ["check", str(tmp_path / "recipe.yaml"), *(part for each in changes for part in ("--set", each))]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.exception
    assert "student " in done.output and "trained in " in done.output


# A whole run of a tiny recipe.
@pytest.mark.long
def test_the_python_of_the_pages_runs(tmp_path: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my").mkdir()
    make_project(tmp_path / "my", teacher_folder)
    monkeypatch.chdir(tmp_path)
    ran = [block for block in FENCED if block.words == ("python", "run")]
    assert ran
    for block in ran:
        exec(compile(block.text, block.place, "exec"), {})


def anchors_of(path: Path) -> set[str]:
    """Of headings, as hosts of repositories make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings_that_are_there() -> None:
    seen = 0
    for page in LINKED:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{page}: {link}"
            assert not anchor or anchor in anchors_of(target), f"{page}: {link}"
            seen += 1
    assert seen > 20


def test_every_page_is_linked_from_the_readme_and_listed_in_the_site() -> None:
    readme = (ROOT / "README.md").read_text()
    site = YAML(typ="safe", pure=True).load((ROOT / "mkdocs.yml").read_text())
    listed = [page for entry in site["nav"] for page in entry.values()]
    assert len(listed) == len(set(listed))
    for page in ROOT.glob("docs/*.md"):
        assert f"(docs/{page.name})" in readme and page.name in listed, page
