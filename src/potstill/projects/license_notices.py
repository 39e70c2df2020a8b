"""The project license-notices: which licence does a notice grant? Texts from the package licensedcode-data."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from potstill.data.near_copies import words_alone
from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Advance, Progress
from potstill.projects.docstrings import write_docstrings
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import disjoint_splits, unlike
from potstill.run_dir import write_text

MIN_WORDS = 5
"""Shorter rules are names and references, from which no notice can be told."""
MIN_CLASS_ROWS = 40
"""Fewer rows leave too few to learn from and to test on once they are split."""
TEST_ROWS = 2000
VALIDATION_ROWS = 500
ADAPT_ROWS = 4600
LABELLED_ROWS = 1000
"""What the student may see with labels: few, as where labelling is what costs."""
OTHER_ROWS = 300
"""Texts that are no notices, as stand beside them in the same files."""
SALT = "license-notices"

_KEY = re.compile(
    r"(license_expression|is_license_notice|is_license_text|is_license_reference|is_license_clue|is_deprecated):\s*(.*)"
)
_CATEGORY = re.compile(r"^category:\s*(.+)$", re.MULTILINE)
_COMBINED = re.compile(r"\b(AND|OR|WITH)\b", re.IGNORECASE)
_RECIPES = {"recipe.yaml": "license_notices.yaml", "recipe-full.yaml": "license_notices_full.yaml"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A notice or licence text, with the licence that it stands for."""

    id: str
    text: str
    licence: str


@dataclass(frozen=True)
class Rules:
    """The usable rules in the order of their files, and how many files were left out for which reason."""

    usable: list[Rule]
    read: int
    not_notices: int
    short: int
    duplicates: int


def write(folder: Path, progress: Progress) -> list[str]:
    """Write the recipes and `data/{adapt,train,validation,test,out_of_domain}.jsonl` into `folder`; return what was
    done.

    Raises:
        DataError: the package with the texts is not installed, or holds other texts than expected.
    """
    done = write_data(folder, progress)
    others = write_docstrings(folder / "data/out_of_domain.jsonl", OTHER_ROWS, progress)
    write_recipes(folder, _RECIPES)
    return [*done, others]


def write_data(folder: Path, progress: Progress) -> list[str]:
    """The notices alone; raises as `write`."""
    paths = sorted(rules_folder().glob("*.RULE"))
    with progress.task("reading notices", len(paths), "files") as advance:
        rules = read_rules(paths, advance)
    classes, chosen, others = select(rules.usable)
    if len(chosen) < TEST_ROWS + VALIDATION_ROWS + ADAPT_ROWS + LABELLED_ROWS:
        raise DataError(
            f"licensedcode: {len(chosen)} usable notices in {len(classes)} classes are too few to split. "
            "Run: pip install --upgrade 'potstill[demo]'"
        )

    ordered = stable_order(chosen, lambda rule: rule.id, salt=SALT)
    test, validation, clean = disjoint_splits(ordered, test=TEST_ROWS, validation=VALIDATION_ROWS, progress=progress)
    held_out = [*test, *validation]
    clean_others = unlike(others, held_out, progress)
    adapt, after = clean[:ADAPT_ROWS], clean[ADAPT_ROWS:]
    labelled, unlabelled = after[:LABELLED_ROWS], after[LABELLED_ROWS:]
    pool = [*unlabelled, *stable_order(clean_others, lambda rule: rule.id, salt=SALT)]

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    families = {licence: licence_category(licence) for licence in classes}
    write_text(data / "adapt.jsonl", _lines(adapt, families))
    write_text(data / "train.jsonl", _lines(labelled, families) + _lines(pool))
    write_text(data / "validation.jsonl", _lines(validation, families))
    write_text(data / "test.jsonl", _lines(test, families))
    return [
        f"{rules.read:,} rules read from licensedcode-data (CC-BY-4.0), {len(rules.usable):,} usable",
        f"dropped: {rules.not_notices:,} deprecated or neither notice nor licence text, "
        f"{rules.short:,} under {MIN_WORDS} words, {rules.duplicates:,} duplicates",
        f"{len(chosen):,} of one licence in {len(classes)} classes of {MIN_CLASS_ROWS} rows or more; "
        f"{len(others):,} of other licences or combinations",
        f"near-copies of held-out rows dropped: {len(chosen) - len(held_out) - len(clean):,} in the classes, "
        f"{len(others) - len(clean_others):,} of the others",
        f"test: {len(test):,} labelled",
        f"validation: {len(validation):,} labelled",
        f"adapt: {len(adapt):,} labelled, for the teacher",
        f"train: {len(labelled):,} labelled and {len(pool):,} unlabelled "
        f"({len(unlabelled):,} in the classes, {len(clean_others):,} others), for the student",
    ]


def read_rules(paths: Sequence[Path], advance: Advance) -> Rules:
    """The notices and licence texts that are current, long enough, and not the text of an earlier file."""
    usable: list[Rule] = []
    seen: set[str] = set()
    not_notices = short = duplicates = 0
    for path in paths:
        advance()
        keys, text = split_rule(path)
        if not wanted(keys):
            not_notices += 1
            continue
        key = words_alone(text)
        if len(key.split()) < MIN_WORDS:
            short += 1
        elif key in seen:
            duplicates += 1
        else:
            seen.add(key)
            usable.append(Rule(path.stem, text, keys["license_expression"]))
    return Rules(usable, len(paths), not_notices, short, duplicates)


def split_rule(path: Path) -> tuple[dict[str, str], str]:
    """The keys that are used here, and the text.

    Not with a YAML parser: tens of thousands of files take a pure Python one minutes, and these keys hold
    plain values at the top level.

    Raises:
        DataError: the file does not begin with front matter between lines of `---`.
    """
    content = path.read_text(encoding="utf-8")
    parts = content.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise DataError(f"{path}: expected front matter between two lines of ---, then the text.")
    keys = {}
    last = None
    for line in parts[1].splitlines():
        if match := _KEY.match(line):
            last = match[1]
            keys[last] = match[2].strip().strip("'\"")
        elif last and line.startswith(" "):
            # A long expression goes on in an indented line.
            keys[last] += " " + line.strip()
        else:
            last = None
    return keys, parts[2].strip()


def wanted(keys: dict[str, str]) -> bool:
    """Whether the front matter is that of a current notice or licence text."""
    true = {key for key, value in keys.items() if value.lower() in {"yes", "true", "on"}}
    notice = bool(true & {"is_license_notice", "is_license_text"})
    # Rules against false alarms name no licence.
    return notice and "is_deprecated" not in true and "license_expression" in keys


def select(rules: Sequence[Rule], least: int = MIN_CLASS_ROWS) -> tuple[list[str], list[Rule], list[Rule]]:
    """The classes, the rules of one licence that has enough of them, and all other rules."""
    counts = Counter(rule.licence for rule in rules if not _COMBINED.search(rule.licence))
    classes = {licence for licence, count in counts.items() if count >= least}
    chosen = [rule for rule in rules if rule.licence in classes]
    return sorted(classes), chosen, [rule for rule in rules if rule.licence not in classes]


@cache
def licence_category(licence: str) -> str:
    """The kind of a licence, as its own file tells: copyleft, permissive and so on."""
    path = rules_folder().parent / "licenses" / f"{licence}.LICENSE"
    found = _CATEGORY.search(path.read_text(encoding="utf-8"))
    return found[1].strip().lower() if found else "other"


def _lines(rules: Sequence[Rule], families: Mapping[str, str] | None = None) -> str:
    """The rows as JSON: with licence and family where they are labelled, else with neither, for the one tells the
    other."""
    records: list[dict[str, str | None]] = []
    for rule in rules:
        record: dict[str, str | None] = {"id": rule.id, "text": rule.text, "label": None}
        if families is not None:
            record |= {"label": rule.licence, "domain": families[rule.licence]}
        records.append(record)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def rules_folder() -> Path:
    """The folder of the rules in the installed package.

    Raises:
        DataError: it is not installed, or another package has its name.
    """
    # Found without importing it, for only its files are wanted.
    spec = importlib.util.find_spec("licensedcode")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "The texts of this project come with a package that is not installed: licensedcode-data. "
            "Run: pip install 'potstill[demo]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "rules"
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder, so another package has the name licensedcode. "
            "Run: pip install 'potstill[demo]' in a fresh environment"
        )
    return folder
