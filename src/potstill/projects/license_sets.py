"""The project license-sets: which licences does a notice name? Texts from the package licensedcode-data."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects.license_notices import MIN_WORDS, Rule, read_rules, rules_folder
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import disjoint_splits
from potstill.run_dir import write_text

MIN_LABEL_ROWS = 60
"""Fewer leave a label too few rows to learn from and to test on once they are split."""
TEST_ROWS = 2000
VALIDATION_ROWS = 500
ADAPT_ROWS = 6000
LABELLED_ROWS = 1500
SALT = "license-sets"

_KEY = re.compile(r"[a-z0-9][a-z0-9.+_-]*")


def write(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe and `data/{adapt,train,validation,test}.jsonl` into `folder`; return what was done.

    Raises:
        DataError: the package with the texts is not installed, or holds other texts than expected.
    """
    paths = sorted(rules_folder().glob("*.RULE"))
    with progress.task("reading notices", len(paths), "files") as advance:
        rules = read_rules(paths, advance)
    labels = labels_of(rules.usable)
    ordered = stable_order(rules.usable, lambda rule: rule.id, salt=SALT)
    test, validation, clean = disjoint_splits(ordered, test=TEST_ROWS, validation=VALIDATION_ROWS, progress=progress)
    if len(clean) < ADAPT_ROWS + LABELLED_ROWS:
        raise DataError(
            f"licensedcode: {len(rules.usable)} usable notices are too few to split. "
            "Run: pip install --upgrade 'potstill[demo]'"
        )
    adapt, after = clean[:ADAPT_ROWS], clean[ADAPT_ROWS:]
    labelled, pool = after[:LABELLED_ROWS], after[LABELLED_ROWS:]
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_text(data / "adapt.jsonl", _lines(adapt, labels))
    write_text(data / "train.jsonl", _lines(labelled, labels) + _lines(pool))
    write_text(data / "validation.jsonl", _lines(validation, labels))
    write_text(data / "test.jsonl", _lines(test, labels))
    write_recipes(folder, {"recipe.yaml": "license_sets.yaml"})
    sizes = Counter(len(labels & keys_of(rule)) for rule in rules.usable)
    return [
        f"{rules.read:,} rules read from licensedcode-data (CC-BY-4.0), {len(rules.usable):,} usable",
        f"dropped: {rules.not_notices:,} deprecated or neither notice nor licence text, "
        f"{rules.short:,} under {MIN_WORDS} words, {rules.duplicates:,} duplicates",
        f"{len(labels)} licences that {MIN_LABEL_ROWS} rows or more name; "
        + ", ".join(f"{count:,} rows name {size} of them" for size, count in sorted(sizes.items())),
        f"near-copies of held-out rows dropped: {len(ordered) - len(test) - len(validation) - len(clean):,}",
        f"test: {len(test):,} labelled",
        f"validation: {len(validation):,} labelled",
        f"adapt: {len(adapt):,} labelled, for the teacher",
        f"train: {len(labelled):,} labelled and {len(pool):,} unlabelled, for the student",
    ]


def keys_of(rule: Rule) -> frozenset[str]:
    """The licences and exceptions of an expression such as `(gpl-2.0 WITH classpath-exception-2.0) OR mit`."""
    return frozenset(_KEY.findall(rule.licence.lower())) - {"and", "or", "with"}


def labels_of(rules: Sequence[Rule]) -> frozenset[str]:
    """The licences that enough rules name, alone or among others."""
    counts = Counter(key for rule in rules for key in keys_of(rule))
    return frozenset(key for key, count in counts.items() if count >= MIN_LABEL_ROWS)


def _lines(rules: Sequence[Rule], labels: frozenset[str] | None = None) -> str:
    """The rows as JSON: labelled with those of the labels that they name, which can be none, or not labelled."""
    records = [
        {"id": rule.id, "text": rule.text, "label": None if labels is None else sorted(labels & keys_of(rule))}
        for rule in rules
    ]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
