"""The project license-names: write the key and the name of the licence that a notice grants, as one line of text.

No encoder-decoder comes as a package that could be installed. So the project writes a small T5 of random weights with
a tokenizer that is trained on the notices, and the recipe adapts it until it is worth distilling.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.projects.byte_pieces import byte_pieces
from potstill.projects.license_notices import Rule, read_rules, rules_folder, select
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import disjoint_splits
from potstill.run_dir import atomic_folder, write_text

MIN_CLASS_ROWS = 80
"""A model that begins with nothing needs more rows of a licence than a pre-trained one to know it."""
TEST_ROWS = 400
VALIDATION_ROWS = 150
ADAPT_ROWS = 5000
ANSWERED_ROWS = 800
"""What the student may see with targets; the teacher writes the others."""
TRAIN_ROWS = 3000
SALT = "license-names"

VOCABULARY = 4000
"""Tokens, 256 of which are bytes: nothing that a notice can hold is unknown."""
TEACHER = {"d_model": 192, "d_kv": 32, "num_heads": 6, "d_ff": 512, "num_layers": 4, "num_decoder_layers": 4}
SEED = 0
SPECIAL_TOKENS = ("<pad>", "</s>")

_NAME = re.compile(r"^name:\s*(.+)$", re.MULTILINE)
_RECIPES = {"recipe.yaml": "license_names.yaml"}


def write(folder: Path, progress: Progress) -> list[str]:
    """Write the recipe, `data/{adapt,train,validation,test}.jsonl` and `teacher/`; return what was done.

    Raises:
        DataError: the package with the texts is not installed, or holds other texts than expected.
    """
    paths = sorted(rules_folder().glob("*.RULE"))
    with progress.task("reading notices", len(paths), "files") as advance:
        rules = read_rules(paths, advance)
    classes, chosen, _ = select(rules.usable, MIN_CLASS_ROWS)
    ordered = stable_order(chosen, lambda rule: rule.id, salt=SALT)
    test, validation, clean = disjoint_splits(ordered, test=TEST_ROWS, validation=VALIDATION_ROWS, progress=progress)
    if len(clean) < ADAPT_ROWS + TRAIN_ROWS:
        raise DataError(
            f"licensedcode: {len(clean)} usable notices in {len(classes)} classes are too few to split. "
            "Run: pip install --upgrade 'potstill[demo]'"
        )
    adapt, train = clean[:ADAPT_ROWS], clean[ADAPT_ROWS : ADAPT_ROWS + TRAIN_ROWS]
    names = {licence: _name(licence) for licence in classes}
    targets = {licence: f"{licence}: {name}" for licence, name in names.items()}

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, rows in (("adapt", adapt), ("validation", validation), ("test", test)):
        write_text(data / f"{name}.jsonl", "".join(_line(rule, targets[rule.licence]) for rule in rows))
    answered = [_line(rule, targets[rule.licence]) for rule in train[:ANSWERED_ROWS]]
    write_text(data / "train.jsonl", "".join([*answered, *(_line(rule, None) for rule in train[ANSWERED_ROWS:])]))
    taught = [*(rule.text for rule in (*adapt, *train)), *(targets[rule.licence] for rule in adapt)]
    progress.line("teacher: a tokenizer from the notices, and random weights")
    parameters = write_teacher(folder / "teacher", taught)
    write_recipes(folder, _RECIPES)
    return [
        f"{rules.read:,} rules read from licensedcode-data (CC-BY-4.0), {len(rules.usable):,} usable",
        f"{len(chosen):,} of one licence of {len(classes)} with {MIN_CLASS_ROWS} notices or more",
        f"near-copies of held-out rows dropped: {len(chosen) - len(test) - len(validation) - len(clean):,}",
        f"test: {len(test):,}, validation: {len(validation):,}, all with targets",
        f"adapt: {len(adapt):,} with targets, for the teacher",
        f"train: {ANSWERED_ROWS:,} with targets and {len(train) - ANSWERED_ROWS:,} without, for the student",
        f"teacher: a T5 of {parameters:,} random weights, which the recipe adapts",
    ]


def write_teacher(folder: Path, texts: Sequence[str]) -> int:
    """A T5 of random weights and a tokenizer that is trained on the texts; returns its number of parameters."""
    import torch
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    pad, end = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(texts),
        pad_token=pad,
        eos_token=end,
        # Without the types of tokens, which a T5 does not take.
        model_input_names=["input_ids", "attention_mask"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        config = T5Config(
            vocab_size=len(tokenizer), decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **TEACHER
        )
        model = T5ForConditionalGeneration(config)
    with atomic_folder(folder) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return int(model.num_parameters())


def _tokenizer(texts: Iterable[str]):  # type: ignore[no-untyped-def]
    """Byte-level BPE that ends each text, as T5's does."""
    from tokenizers import processors

    core = byte_pieces(texts, VOCABULARY, SPECIAL_TOKENS)
    end = SPECIAL_TOKENS[1]
    core.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, core.token_to_id(end))]
    )
    return core


def _name(licence: str) -> str:
    """The canonical name of a licence, as its own file tells."""
    path = rules_folder().parent / "licenses" / f"{licence}.LICENSE"
    found = _NAME.search(path.read_text(encoding="utf-8"))
    if found is None:
        raise DataError(f"{path}: no line with its name. Run: pip install --upgrade 'potstill[demo]'")
    return found[1].strip().strip("'\"")


def _line(rule: Rule, target: str | None) -> str:
    return json.dumps({"id": rule.id, "source": rule.text, "target": target}, ensure_ascii=False) + "\n"
