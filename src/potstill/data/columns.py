"""What the columns of rows are called, and which of them can share a name."""

from collections.abc import Callable
from typing import Any

from pydantic import model_serializer, model_validator

from potstill.settings import Settings

KINDS = ("messages", "prompt", "text")
"""The columns of which a row for a language model has one."""
OPTIONAL = ("completion", "input", "tools", "chat_template_kwargs")
"""What it may have beside one of them."""
REQUIRED = (("text", "label"), ("tokens", "tags"), ("source", "target"))
"""Of these each task reads both, whatever they are called."""


class Columns(Settings):
    """The names of the columns, by the conventions of Hugging Face datasets."""

    id: str = "id"
    """Rows without this column are named by a hash of their content."""
    text: str = "text"
    text_pair: str = "text_pair"
    """May be missing in all rows: a second text, read with the first as a pair, as the tokenizer encodes pairs: premise
    and hypothesis, question and passage, two sentences."""
    label: str = "label"
    """May be missing or null: such a row is unlabelled. A class, or as the task says: a list of them, which is empty
    for a text that is labelled with none, or a number."""
    tokens: str = "tokens"
    """For token classification: a list of words."""
    tags: str = "tags"
    """A list with a tag for each word. May be missing or null: such a row is unlabelled."""
    spans: str = "spans"
    """In place of words and tags, beside a `text`: a list of objects with `start` and `end` in characters and `label`
    (or `tag`, `type`); it may also be called `entities`. May be missing or null: such a row is unlabelled."""
    domain: str = "domain"
    """May be missing or null: of what kind a row is, for several teachers that know different kinds."""
    messages: str = "messages"
    """For language models: a list of turns, each with `role`, `content` and, for an assistant, perhaps
    `reasoning_content` (or `reasoning`, `thinking`) and `weight` (or `loss`, `train`, `trainable`): 0 for a turn that
    is shown and not learnt."""
    tools: str = "tools"
    """May be missing or null: a list of the tools that the chat template is given, or its JSON text."""
    chat_template_kwargs: str = "chat_template_kwargs"
    """May be missing or null: what else the chat template is given, such as `enable_thinking`, by name."""
    prompt: str = "prompt"
    input: str = "input"
    """May be missing or null: put after the prompt, with a blank line between them, as Alpaca's rows have it."""
    completion: str = "completion"
    """May be missing or null: the teacher writes it."""
    source: str = "source"
    """For encoder-decoder models: the text that is read."""
    target: str = "target"
    """May be missing or null: the teacher writes it."""

    @model_validator(mode="after")
    def _one_name_each(self) -> "Columns":
        renamed: dict[str, str] = {}
        for role in (*KINDS, *OPTIONAL):
            name = getattr(self, role)
            if name != role and renamed.setdefault(name, role) != role:
                raise ValueError(
                    f'{renamed[name]} and {role} are both "{name}"; expected a column for each. Drop one of the two'
                )
        if "text_pair" in self.model_fields_set and not self.of_pairs:
            raise ValueError(f'text_pair is "{self.text_pair}", as another column is. Drop one of the two')
        for roles in REQUIRED:
            one, other = (getattr(self, role) for role in roles)
            if one == other:
                own = next((role for role in roles if role == one), None)
                how = f"Set data.columns.{own} to the one that holds the {own}" if own else "Drop one of the two"
                raise ValueError(f'{" and ".join(roles)} are both "{one}"; expected a column for each. {how}')
        return self

    @property
    def of_pairs(self) -> frozenset[str]:
        """The column of a second text, where no other has its name."""
        return frozenset({self.text_pair}) - {self.id, self.text, self.label, self.domain}

    @property
    def given_away(self) -> frozenset[str]:
        """The columns for language models that no row has: they have their default name, and by the recipe another has
        it too."""
        renamed = {getattr(self, role) for role in (*KINDS, *OPTIONAL) if getattr(self, role) != role}
        # A text may be the id as well; what only goes with it is not.
        others = {name for name in (self.id, self.domain) if name in OPTIONAL}
        return frozenset(
            [role for role in (*KINDS, *OPTIONAL) if getattr(self, role) == role and role in renamed | others]
        )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without the columns of later versions where they have their names, so that a run from before goes on."""
        values = handler(self)
        for name in ("tools", "chat_template_kwargs", "input", "text_pair", "spans"):
            if values[name] == name:
                del values[name]
        return values
