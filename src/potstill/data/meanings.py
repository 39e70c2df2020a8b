"""What fields of rows mean by convention, by their names, and which of their values have that meaning."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Meaning:
    """What a field tells that would be lost if it is not read."""

    words: str
    """What follows "It is" in the error, with the way to have it read where there is one."""
    of: Callable[[Any], bool]
    """The values that have it."""
    alike: bool = True
    """Whether it has it where all rows have one value, on which no answer can depend."""
    inside: bool = True
    """Whether it has it where the text that is read has the value within, as a prompt that was made of it has."""
    certain: bool = True
    """Or it is as often mere metadata, of which a warning tells."""


Meanings: TypeAlias = Mapping[str, Meaning]
"""By the names of fields without case and punctuation."""


def parts_of(value: Any) -> Iterator[Any]:
    """The values within lists and objects, in order; without recursion, since JSON can be nested deeply."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            stack.extend(reversed(each.values()))
        elif isinstance(each, list | tuple):
            stack.extend(reversed(each))
        else:
            yield each


def texts_of(value: Any) -> Iterator[str]:
    """The texts within that are not blank."""
    return (each for each in parts_of(value) if isinstance(each, str) and each.strip())


def plain(name: str) -> str:
    """Without case and punctuation: `Label_Name` and `labelName` are one name."""
    return re.sub(r"[\W_]+", "", name.casefold())


def is_empty(value: Any) -> bool:
    """Whether it says as little as null does: blank, NaN, or an empty list."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, list | dict | tuple | bytes) and not value)


def stands_in(value: Any, text: str) -> bool:
    """Whether every text of a value is within `text` as whole words, but for white space."""
    # As it stands first: most is there as it is, and to compare it otherwise takes longer than to read the row.
    others = [each for each in texts_of(value) if not _is_part(each.strip(), text)]
    return not others or all(_is_part(_spaced(each), _spaced(text)) for each in others)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _is_part(part: str, text: str) -> bool:
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        # Within a word it is chance: the choice "a" in any text.
        before = text[start - 1 : start].isalnum() and part[0].isalnum()
        after = text[end : end + 1].isalnum() and part[-1].isalnum()
        if not before and not after:
            return True
        start = text.find(part, start + 1)
    return False


def _has_value(value: Any) -> bool:
    return any(not is_empty(each) for each in parts_of(value))


def _has_text(value: Any) -> bool:
    return next(texts_of(value), None) is not None


def _has_prose(value: Any) -> bool:
    return any(len(each.split()) > 1 for each in texts_of(value))  # an address or a name of a file is one word


def _is_shown(value: Any) -> bool:
    return _has_value(value) and not isinstance(value, int | float | Decimal)  # the number of an image is metadata


def _is_weight(value: Any) -> bool:
    return any(map(_weighs, parts_of(value)))


def _weighs(value: Any) -> bool:
    """Whether a value weighs a row otherwise than one: not 1, nor what a thing weighs, such as 2.5 kg."""
    if is_empty(value) or not isinstance(value, bool | int | float | Decimal | str):
        return False
    try:
        number = float(value)
    except OverflowError:
        return True
    except ValueError:
        return isinstance(value, str) and re.search(r"\d", value) is None
    return number != 1 and not math.isnan(number)


def _leaves_out(value: Any) -> bool:
    return any(each is not None and each != 1 for each in parts_of(value))  # a mask of ones alone leaves nothing out


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_is_number, parts_of(value)))


def _is_distribution(value: Any) -> bool:
    return isinstance(value, dict | list) and len(value) > 1 and any(map(_is_number, parts_of(value)))


WEIGHT = Meaning(
    "how much the row counts in training (sample_weight of scikit-learn); all rows count the same here", _is_weight
)
TOOLS = Meaning("the functions that the model may call (tools of chat templates)", _has_value)
NAMED_TOOLS = Meaning(f"{TOOLS.words}. Name it in data.columns.tools", _has_value)
"""Of rows with turns, of which tools are read."""
REASONING = Meaning("what was thought before the answer (reasoning_content of chat templates)", _has_value)
SEEN = Meaning("what the model is shown beside the text; only text is read", _is_shown)
LEARNT = Meaning("which tokens are to be learnt; all are learnt here", _leaves_out)
_OF_TWO = (
    "a second text, which the answer may depend on; one text is read. Write both into that one, as the teacher is to "
    "see them"
)
SECOND = Meaning(
    "a second text, which the answer may depend on. Name it in data.columns.text_pair, and the two are read as a pair; "
    "what is more than two, write into one of them, as the teacher is to see it",
    _has_text,
    alike=False,
)
PART = Meaning(_OF_TWO, _has_text, alike=False, inside=False)
"""A second text beside one that is often made of it."""
PART_OF_PROMPT = Meaning(
    f"{_OF_TWO}, or name it in data.columns.input, which is put after a prompt",
    _has_text,
    alike=False,
    inside=False,
)
LONG_PART = Meaning(_OF_TWO, _has_prose, alike=False, inside=False)
CHOICES = Meaning(
    "what the answer is chosen from (choices of a multiple choice); write it into the text that is read",
    _has_text,
    alike=False,
    inside=False,
)
ABOUT = Meaning(
    "what the answer is about (target of a stance, aspect, entities of a relation); write it into the text that is "
    "read, as the teacher is to see it",
    _is_shown,
    alike=False,
)
SOFT = "a soft label; here the teacher of the recipe gives its own"
MAY_BELONG = Meaning("a text that may belong to the one that is read", _has_text, False, False, certain=False)
TOPIC = Meaning(ABOUT.words, _has_text, False, False, certain=False)
"""What a text is about; where the classes are stances, it is what they are towards."""
STANCES = frozenset({"favor", "favour", "against", "pro", "con", "support", "oppose", "agree", "disagree"})


def _named(names: str, meaning: Meaning) -> dict[str, Meaning]:
    return dict.fromkeys(names.split(), meaning)


_IMAGES = _named("image images imagepath pixelvalues video videos audio audios audiopath", SEEN)
_MASKS = _named("lossmask labelmask labelsmask completionmask assistantmask assistantmasks", LEARNT)
_CHOICES = _named("choices options answerchoices answeroptions", CHOICES)
_SOFT = {
    **_named(
        "softlabel softlabels softtarget softtargets labeldistribution logits teacherlogits probs "
        "probabilities labelprobs teacherprobs classprobabilities",
        Meaning(SOFT, _is_distribution),
    ),
    "scores": Meaning(SOFT, _is_vector),
}

EVERYWHERE: Meanings = {
    **_named("weight sampleweight exampleweight instanceweight lossweight tokenweight", WEIGHT),
    **_named("weights sampleweights exampleweights lossweights tokenweights", WEIGHT),
    "tools": TOOLS,
    **_named("reasoning reasoningcontent thinking", REASONING),
    "chattemplatekwargs": Meaning("arguments of the chat template (transformers, TRL)", _has_value),
}
"""What fields mean whatever the task."""

IN_TEXTS: Meanings = {**EVERYWHERE, **_IMAGES, **_SOFT}
IN_TAGS: Meanings = {
    **IN_TEXTS,
    **_MASKS,
    **_named(
        "bbox bboxes boxes boundingboxes",
        Meaning("where the words stand on a page; only words are read", _has_value),
    ),
}
IN_CHATS: Meanings = {
    **EVERYWHERE,
    **_IMAGES,
    **_MASKS,
    **_CHOICES,
    **_named("functioncall functioncalls toolcalls toolchoice", TOOLS),
    **_named("functions tooldefinitions availabletools", NAMED_TOOLS),
    **_named(
        "system systemprompt systemmessage",
        Meaning("the system turn; write it as the first of messages", _has_value, inside=False),
    ),
    "history": Meaning("the turns before (history of Alpaca's rows); write them as messages", _has_value, inside=False),
    **_named(
        "chosen rejected chosenresponse rejectedresponse",
        Meaning("a response that is better, or worse, than another (TRL's preferences)", _has_value),
    ),
    **_named("thought thoughts", REASONING),
    "documents": Meaning(
        "what the answer is found in (documents of chat templates); write it into the prompt", _has_text, inside=False
    ),
    **_named("context contexts", PART_OF_PROMPT),
    **_named(
        "suffix middle",
        Meaning(
            "what stands after or in a gap of the prompt (fill in the middle); write it into prompt or completion, "
            "with the tokens that the teacher has for it",
            _has_text,
            alike=False,
            inside=False,
        ),
    ),
    "enablethinking": Meaning(
        "an argument of the chat template; write it into chat_template_kwargs", lambda value: not is_empty(value)
    ),
    "label": Meaning(
        "whether the response is a good one (TRL's KTO); all are learnt here", lambda value: isinstance(value, bool)
    ),
}
IN_PAIRS: Meanings = {
    **EVERYWHERE,
    **_IMAGES,
    **_MASKS,
    **_CHOICES,
    **_named("system systemprompt", Meaning("what the model is told before the source", _has_value, inside=False)),
    "history": Meaning("the turns before the source", _has_value, inside=False),
    "instruction": Meaning(
        "what is to be done with the source (instruction of Alpaca's rows)", _has_value, inside=False
    ),
    "input": Meaning("what the instruction is about (input of Alpaca's rows)", _has_value, inside=False),
    "prefix": Meaning(
        "what stands before the source (prefix of T5's rows); write it there", _has_text, alike=True, inside=False
    ),
    "task": Meaning("what is to be done with the source; write it there", _has_text, alike=False, inside=False),
    **_named(
        "tgtlang targetlang tgtlanguage targetlanguage langpair languagepair",
        Meaning(
            "the language of the target; write it into the source, as the teacher is to see it", _has_text, False, False
        ),
    ),
}

BESIDE_TEXT: Meanings = {
    **_named(
        "textpair text2 textb sentence2 sentenceb question2 hypothesis premise context contexts "
        "passage passages question query",
        SECOND,
    ),
    **_CHOICES,
    **_named(
        "target targetentity aspect aspectterm aspectcategory entity mention head tail headentity "
        "tailentity subj obj entity1 entity2 ent1 ent2 e1 e2",
        ABOUT,
    ),
    **_named(
        "history dialoghistory dialoguehistory chathistory conversationhistory previousturns previousutterances",
        Meaning(
            "the turns before the text; write them into it, as the teacher is to see them", _has_text, False, False
        ),
    ),
    "topic": TOPIC,
    **_named(
        "title subject subjectline headline subtitle description body content abstract",
        MAY_BELONG,
    ),
}
"""Beside any first text that is classified."""
BESIDE_SOURCE: Meanings = {
    **_named("textpair text2 sentence2 context contexts passage passages question query", PART),
    **_named("document documents", LONG_PART),
}
BESIDE_PROMPT: Meanings = _named("passage passages question query input instruction prefix", PART_OF_PROMPT)


def _pairs(*pairs: str) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in map(str.split, pairs))


FIRST_AND_SECOND = _pairs(
    *("premise hypothesis", "question passage", "question context", "query passage", "query context"),
    *("sentence sentence2", "question sentence", "question answer", "question document", "query document"),
    *("query answer", "query text", "query product", "claim evidence", "claim document", "prompt response"),
    *("instruction response", "instruction output", "instruction input", "input output", "post comment"),
    *("comment parent", "comment parentcomment", "headline body", "anchor positive", "source target", "src mt"),
    *("src tgt", "reference candidate", "reference prediction", "tweet target", "argument topic"),
)
"""First and second text of data sets for pairs (GLUE, SNLI, FEVER, MS MARCO, reward models)."""
PAIRS_OF_TEXTS = frozenset(map(frozenset, FIRST_AND_SECOND))
"""The same in either order."""
PAIRS_OF_PROMPTS = frozenset(map(frozenset, _pairs("question document", "query document")))
