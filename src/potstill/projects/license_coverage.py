"""The project license-coverage: how much of a licence rule must be found for it to count? From licensedcode-data.

Its authors give 6,400 rules a `minimum_coverage`, from 10 to 100 per cent of the rule's words: a short notice that only
counts as a whole has 100, a long text of which parts are telling has less.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.data.near_copies import words_alone
from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Advance, Progress
from potstill.projects.license_notices import rules_folder
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import disjoint_splits, unlike
from potstill.run_dir import write_text

TEST_ROWS = 900
VALIDATION_ROWS = 300
ADAPT_ROWS = 2400
LABELLED_ROWS = 700
POOL_ROWS = 6000
"""Of the rules without a number; all of them would be ten times the others."""
SALT = "license-coverage"

_COVERAGE = re.compile(r"^minimum_coverage:\s*['\"]?(\d+)", re.MULTILINE)
_UNUSED = re.compile(r"^(is_deprecated|is_false_positive): yes", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CoverageRule:
    """A rule's text, and its number where it has one."""

    id: str
    text: str
    coverage: int | None


def write(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe and `data/{adapt,train,validation,test}.jsonl` into `folder`; return what was done.

    Raises:
        DataError: the package with the texts is not installed, or holds other texts than expected.
    """
    paths = sorted(rules_folder().glob("*.RULE"))
    with progress.task("reading rules", len(paths), "files") as advance:
        rules = read_rules(paths, advance)
    ordered = stable_order(rules, lambda rule: rule.id, salt=SALT)
    known = [rule for rule in ordered if rule.coverage is not None]
    test, validation, clean = disjoint_splits(known, test=TEST_ROWS, validation=VALIDATION_ROWS, progress=progress)
    held_out = [*test, *validation]
    others = [rule for rule in ordered if rule.coverage is None][:POOL_ROWS]
    pool = unlike(others, held_out, progress)
    if len(clean) < ADAPT_ROWS + LABELLED_ROWS:
        raise DataError(
            f"licensedcode: {len(known)} rules with a minimum_coverage are too few to split. "
            "Run: pip install --upgrade 'potstill[demo]'"
        )
    adapt, after = clean[:ADAPT_ROWS], clean[ADAPT_ROWS:]
    labelled, unlabelled = after[:LABELLED_ROWS], [*after[LABELLED_ROWS:], *pool]
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_text(data / "adapt.jsonl", _lines(adapt, known=True))
    write_text(data / "train.jsonl", _lines(labelled, known=True) + _lines(unlabelled, known=False))
    write_text(data / "validation.jsonl", _lines(validation, known=True))
    write_text(data / "test.jsonl", _lines(test, known=True))
    write_recipes(folder, {"recipe.yaml": "license_coverage.yaml"})
    return [
        f"{len(paths):,} rules read from licensedcode-data (CC-BY-4.0), {len(rules):,} current and without a double",
        f"{len(known):,} say which share of their words must be found; {len(others):,} of the others are taken",
        f"near-copies of held-out rows dropped: {len(known) - len(held_out) - len(clean):,} of those that say it, "
        f"{len(others) - len(pool):,} of the others",
        f"test: {len(test):,} labelled",
        f"validation: {len(validation):,} labelled",
        f"adapt: {len(adapt):,} labelled, for the teacher",
        f"train: {len(labelled):,} labelled and {len(unlabelled):,} unlabelled, for the student",
    ]


def read_rules(paths: Sequence[Path], advance: Advance) -> list[CoverageRule]:
    """The rules that are in use, without those whose text an earlier file has.

    Raises:
        DataError: a file does not begin with front matter between lines of `---`.
    """
    found: list[CoverageRule] = []
    seen: set[str] = set()
    for path in paths:
        advance()
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        if len(parts) != 3 or parts[0].strip():
            raise DataError(f"{path}: expected front matter between two lines of ---, then the text.")
        text = parts[2].strip()
        key = words_alone(text)
        if _UNUSED.search(parts[1]) or not key or key in seen:
            continue
        seen.add(key)
        coverage = _COVERAGE.search(parts[1])
        found.append(CoverageRule(path.stem, text, int(coverage[1]) if coverage else None))
    return found


def _lines(rules: Sequence[CoverageRule], *, known: bool) -> str:
    records = [{"id": rule.id, "text": rule.text, "label": rule.coverage if known else None} for rule in rules]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
