"""What is said in other words of each kind of answer: in tables, on the page and on the card."""

from collections.abc import Mapping
from dataclasses import dataclass

from potstill.records import AnswerKind


@dataclass(frozen=True)
class Wording:
    """The words of one kind of answer."""

    pipeline: str
    """The pipeline of transformers that serves such models, and the tag of their card."""
    card_metrics: tuple[str, ...]
    """As Hugging Face calls them."""
    auto_class: str
    """The class of transformers that loads it."""
    use: str
    """Python that asks `model` with its `tokenizer`, with the settings of the task in braces."""
    is_a: str
    """What the student is; `{classes}` is the number of its classes."""
    limit: str | None
    """What it cannot do; `{classes}` as above."""
    classes: str | None
    """What its classes are called, where it has some."""
    imports: tuple[str, ...] = ()
    """What `use` needs of transformers beside them."""
    floor: str = "logistic"
    """The regression that is fitted on TF-IDF."""
    of_query: str = ""
    """Of what a latency is, if not of a row."""
    per_s: str = "rows"
    queries: str = "rows"
    """What is timed one by one."""
    of_decision: str = ""
    """Of what calibration and cross-entropy are, if not of a row."""
    decisions: str = "rows"
    """What can agree with the teacher's."""
    points: str = "points"
    labelled: str = "rows"
    """What labels are of, in the store."""
    positions: str = "tokens"
    truncated: str = "texts cut off"
    """What the plan counts of rows that are not read whole."""
    read_whole: bool = False
    """Whether rows are read in windows, so that nothing is cut."""
    rows_of_class: str = "test rows"
    recognised: str = "Share of each class's test rows that is recognised"
    disagree: str = "disagree"
    right_or_wrong: bool = True
    """Whether an answer can be right."""


_JUDGED = (
    "What it writes can be wrong, and was judged here by likeness to the teacher and by true responses, not by people."
)
_CLASSIFIER = "AutoModelForSequenceClassification"
_READ = 'inputs = tokenizer({texts}, truncation=True, max_length={max_length}, return_tensors="pt")\n'
_ALWAYS = "It always answers one of its {classes} classes, also where none fits."

WORDING: Mapping[AnswerKind, Wording] = {
    "single_label": Wording(
        pipeline="text-classification",
        card_metrics=("accuracy", "f1"),
        auto_class=_CLASSIFIER,
        use=_READ + "print(model.config.id2label[model(**inputs).logits.argmax().item()])",
        is_a="A text classifier of {classes} classes",
        limit=_ALWAYS,
        classes="classes",
    ),
    "multi_label": Wording(
        pipeline="text-classification",
        card_metrics=("accuracy", "f1"),
        auto_class=_CLASSIFIER,
        use=_READ
        + "chances = model(**inputs).logits[0].sigmoid()\n"
        + "print({{model.config.id2label[number]: chance for number, chance in enumerate(chances.tolist()) "
        + "if chance > 0.5}})",
        is_a="A text classifier that gives any of {classes} labels",
        limit="It knows {classes} labels alone, and gives those whose probability is above one half.",
        classes="labels",
        of_decision=" of a label",
        decisions="decisions",
        recognised="Share of each label's test rows that is recognised",
    ),
    "regression": Wording(
        pipeline="text-classification",
        card_metrics=("r2",),
        auto_class=_CLASSIFIER,
        use=_READ + "print(model(**inputs).logits.item())",
        is_a="A model that gives a number for a text",
        limit="It always gives a number, also for a text of another kind than it has learnt.",
        classes=None,
        floor="ridge",
        points="points of 0.01",
        disagree="are furthest apart",
        right_or_wrong=False,
    ),
    "tags": Wording(
        pipeline="token-classification",
        card_metrics=("accuracy", "f1"),
        auto_class="AutoModelForTokenClassification",
        use='find = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")\n'
        'print(find("a text of at most {max_length} tokens"))',
        imports=("pipeline",),
        is_a="A classifier of words with {classes} tags",
        limit=None,
        classes="tags",
        labelled="windows",
        positions="words",
        truncated="with words that are not read",
        read_whole=True,
        rows_of_class="entities",
        recognised="Share of the entities of each kind that are found with both their ends",
    ),
    "text": Wording(
        pipeline="text-generation",
        card_metrics=("perplexity",),
        auto_class="AutoModelForCausalLM",
        use='inputs = tokenizer("a text", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))",
        is_a="A language model",
        limit=_JUDGED,
        classes=None,
        of_query=" of a token",
        per_s="tokens",
        queries="prompts",
    ),
    "target": Wording(
        pipeline="text2text-generation",
        card_metrics=("exact_match", "perplexity"),
        auto_class="AutoModelForSeq2SeqLM",
        use=_READ
        + "written = model.generate(**inputs, max_new_tokens={max_target_length})\n"
        + "print(tokenizer.decode(written[0], skip_special_tokens=True))",
        is_a="An encoder-decoder",
        limit=_JUDGED,
        classes=None,
        of_query=" of a token",
        per_s="tokens",
        queries="prompts",
    ),
}
