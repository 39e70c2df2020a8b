"""The project support-chat: short help in questions and answers, and real chats of several turns.

The questions and answers come with the package chatterbot-corpus, the chats with the package chitchat-dataset.
"""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from potstill.data.near_copies import words_alone
from potstill.data.splits import stable_order
from potstill.errors import DataError
from potstill.progress import Advance, Progress
from potstill.projects.recipe_files import write_recipes
from potstill.projects.splitting import unlike
from potstill.run_dir import write_text

RECIPES = {
    "recipe.yaml": "support_chat.yaml",
    "recipe-layers.yaml": "support_chat_layers.yaml",
    "recipe-full.yaml": "support_chat_full.yaml",
}
TOPICS = ("tech_support", "computers", "coding", "science", "money")
"""The topics that answer questions of fact. Left out are those in which the machine speaks of itself (ai, botprofile,
emotion, food, psychology, greetings, conversations), jokes and opinions (humor, gossip, politics, literature, movies,
sports), a patient who is asked how he feels (health), two usable answers (history), and trivia, whose answers are
single names."""
MIN_ANSWER_WORDS = 8
"""Shorter answers are stubs, such as "it" or "cancer."."""
NOT_ANSWERS = frozenset(
    {"1 dollar", "can you write a promise in python", "name a computer company", "what is h2o", "what is wavelength"}
)
"""Questions whose answers are jests, garbled, wrong or code that fails, which no rule tells."""

MIN_TURNS = 4
MAX_TURNS = 10
MAX_TURN_CHARACTERS = 400
CUT_CHARACTERS = 165
"""The site of the chats cut messages between words, at 175 characters; what follows goes on in the same line."""
MIN_OPENING_WORDS = 5
MIN_LAST_WORDS = 4
MIN_PASTED_WORDS = 8
"""Shorter lines occur in two chats by chance; longer ones were pasted, or are the topic that was set."""

HELP_TEST, HELP_VALIDATION = 12, 8
CHAT_TEST, CHAT_VALIDATION = 48, 24
CHAT_TRAIN = 125
"""Chats beside all the help in train.jsonl: together about 100,000 characters, or 25,000 tokens."""
SALT = "support-chat"

DATA_CARD = """\
# Data of the project support-chat

| source | part | licence |
|---|---|---|
| chatterbot-corpus, by Gunther Cox and contributors | {help:,} questions with an answer | BSD |
| chitchat-dataset, Copyright (c) 2019 Perception, Control and Cognition Lab | {chats:,} chats | MIT |

Keep these notices with copies of the data; the licence text of the chats is installed with their package.

The answers are on technical support, computers, code, science and money. The chats are small talk of students, not
support: they teach to keep to the matter over several turns. Each is the longest part of a conversation that begins
with a question and whose answers are written in sentences. Names stand as published.

For a model that you ship, put your own conversations in place of these files.
"""

_CODE = re.compile(r"```.*?```", re.DOTALL)
_SPEAKER = re.compile(r"\b(i|my|me|we)\b", re.IGNORECASE)
# The corpus has lost some literals in brackets: `numbers =`, `for x in}`, and `pivot = arr` for `arr[0]`.
_LOST_LITERAL = re.compile(r"=\s*$|\bin\}|= arr\b(?!\[)", re.MULTILINE)

_LINK_OR_NOISE = re.compile(r"https?:|www\.|@|\d{7}|[*<>{}\[\]]|(.)\1{3}|^\W+$", re.MULTILINE)
_COARSE = re.compile(
    r"\b((fuck|shit|bitch|porn|suicid|murder|kill|stupid|idiot|drunk|sex)\w*"
    r"|ass|asshole|damn|hell|crap|sucks?|rape|naked|nude|wtf|hate|jerk|trump|hitler)\b",
    re.IGNORECASE,
)
# The chats were held for a competition, of which they also speak.
_ABOUT_THE_CHAT = re.compile(
    r"\b(prompts?|competition|contest|challenge|leader ?boards?|moderator|points|discord|(chat ?)?bots?|chit ?chat"
    r"|user ?names?|on here|real (person|people)|this (app|site|website|system|program|thing))\b",
    re.IGNORECASE,
)
_REPLY = re.compile(
    r"(agreed|ah|also|and|aw+|awesome|because|but|cool|dang|dude|either|exactly|for|fun|good|gotcha|great|(ha)+h?|hm+"
    r"|how (cool|exciting|fun|funny|nice)|i|im|interesting|just|kind|like|lol|lots|maybe|me|mine|my|nah|nice|no|nope"
    r"|not|o+h|ok|okay|or|perfect|pretty|probably|really|right|same|so|sorry|sounds|sure|sweet|thanks?|too|true|um+"
    r"|very|we|well|whoa|wow|ya|yea|yeah|yep|yes|yup)\b"
)
"""How a turn begins that replies to an earlier one, without which it cannot be understood."""
_REFERENCE = re.compile(r"\b(he|she|they|them|him|her|his|their|it|its|this|that|thats|these|those|then)\b")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns of a user and an assistant in alternation, from a question of the user to an answer."""

    id: str
    turns: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.turns)


def write(folder: Path, progress: Progress) -> list[str]:
    """Write recipes, `data/{train,train-full,validation,test}.jsonl` and `DATA.md` into `folder`; return what was done.

    Raises:
        DataError: a package with the conversations is not installed, or holds others than expected.
    """
    done = write_data(folder, progress)
    write_recipes(folder, RECIPES)
    return done


def write_data(folder: Path, progress: Progress) -> list[str]:
    """The data and `DATA.md` alone; raises as `write`."""
    topics = _package_files("chatterbot_corpus", [f"data/english/{topic}.yml" for topic in TOPICS])
    (chats_file,) = _package_files("chitchat_dataset", ["dataset.json"])
    asked, answers = read_answers(topics)
    conversations = json.loads(chats_file.read_text(encoding="utf-8"))
    with progress.task("reading chats", len(conversations), "conversations") as advance:
        chats = read_chats(conversations, advance)
    helped = stable_order(answers, lambda dialogue: dialogue.id, salt=SALT)
    chatted = stable_order(chats, lambda dialogue: dialogue.id, salt=SALT)
    _check_sizes(helped, chatted)

    test = _shuffled(helped[:HELP_TEST], chatted[:CHAT_TEST])
    helped, chatted = (unlike(part, test, progress) for part in (helped[HELP_TEST:], chatted[CHAT_TEST:]))
    validation = _shuffled(helped[:HELP_VALIDATION], chatted[:CHAT_VALIDATION])
    rest = (helped[HELP_VALIDATION:], chatted[CHAT_VALIDATION:])
    taught_help, taught_chats = (unlike(part, validation, progress) for part in rest)
    splits = {
        "test": test,
        "validation": validation,
        "train": _shuffled(taught_help, taught_chats[:CHAT_TRAIN]),
        "train-full": _shuffled(taught_help, taught_chats),
    }

    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, dialogues in splits.items():
        write_text(data / f"{name}.jsonl", _lines(dialogues))
    write_text(folder / "DATA.md", DATA_CARD.format(help=len(answers), chats=len(chats)))
    near = len(answers) + len(chats) - len(test) - len(validation) - len(taught_help) - len(taught_chats)
    return [
        f"{asked:,} conversations on {len(TOPICS)} topics read from chatterbot-corpus (BSD), "
        f"{len(answers):,} different questions with a usable answer",
        f"{len(conversations):,} conversations read from chitchat-dataset (MIT), "
        f"{len(chats):,} with {MIN_TURNS} to {MAX_TURNS} usable turns",
        f"near-copies of held-out conversations dropped: {near:,}",
        *(f"{name}: {_summary(dialogues)}" for name, dialogues in splits.items()),
    ]


def read_answers(paths: Sequence[Path]) -> tuple[int, list[Dialogue]]:
    """How many conversations the files hold, and each question once, with its first usable answer.

    What follows the question in a file are other answers to it rather than more turns.
    """
    read = 0
    found: dict[str, Dialogue] = {}
    for path in paths:
        conversations = YAML(typ="safe", pure=True).load(path)["conversations"]
        read += len(conversations)
        for question, *answers in conversations:
            key = words_alone(question)
            answer = next(filter(usable_answer, answers), None)
            if answer is not None and key not in NOT_ANSWERS:
                name = f"{path.stem}/{key.replace(' ', '-')}"
                found.setdefault(key, Dialogue(name, (question.strip(), answer.strip())))
    return read, list(found.values())


def usable_answer(answer: str) -> bool:
    """Whether it says something of the matter: not of the speaker, no question back, no stub, no broken code."""
    prose = _CODE.sub("", answer)
    stub = len(words_alone(answer).split()) < MIN_ANSWER_WORDS
    return not (stub or prose.rstrip().endswith("?") or _SPEAKER.search(prose) or _LOST_LITERAL.search(answer))


def read_chats(conversations: dict[str, Any], advance: Advance) -> list[Dialogue]:
    """For each conversation its longest usable part, where it has one. Its first speaker is the user."""
    turns = {key: merged_turns(conversation["messages"]) for key, conversation in conversations.items()}
    said_in = Counter(line for chat in turns.values() for line in {key for turn in chat for key in _line_keys(turn)})
    pasted = {line for line, count in said_in.items() if count > 1 and len(line.split()) >= MIN_PASTED_WORDS}
    found = []
    for key, chat in turns.items():
        advance()
        part = longest_part(["" if pasted.intersection(_line_keys(turn)) else turn for turn in chat])
        if part:
            found.append(Dialogue(f"chat/{key}", tuple(part)))
    return found


def merged_turns(messages: Sequence[Sequence[dict[str, str]]]) -> list[str]:
    """The turns, each the lines that one speaker sent in a row; empty where they sent blanks alone."""
    turns: list[str] = []
    sender, before = "", ""
    for message in (message for group in messages for message in group):
        text = " ".join(message["text"].split())
        if message["sender"] != sender:
            turns.append(text)
        elif text:
            cut = len(before) >= CUT_CHARACTERS and before[-1] not in ".!?"
            turns[-1] = (turns[-1] + (" " if cut else "\n") + text).strip()
        sender, before = message["sender"], text
    return turns


def longest_part(turns: Sequence[str]) -> list[str]:
    """The first longest run of usable turns that opens with a question and ends with an answer, or none."""
    best: list[str] = []
    for start, turn in enumerate(turns):
        if not _opens(turn):
            continue
        end = start
        while end < min(len(turns), start + MAX_TURNS) and _usable_turn(turns[end], answers=(end - start) % 2 == 1):
            end += 1
        end -= (end - start) % 2
        while end > start and not _closes(turns[end - 1]):
            end -= 2
        if end - start >= max(MIN_TURNS, len(best) + 1) and len(turns[start + 1].split()) >= MIN_ANSWER_WORDS:
            best = list(turns[start:end])
    return best


def _opens(turn: str) -> bool:
    words = words_alone(turn)
    understood = not (_REPLY.match(words) or _REFERENCE.search(words))
    return understood and "?" in turn and len(words.split()) >= MIN_OPENING_WORDS


def _closes(turn: str) -> bool:
    return len(turn.split()) >= MIN_LAST_WORDS and not turn.endswith("?")


def _usable_turn(turn: str, *, answers: bool) -> bool:
    unwanted = (_LINK_OR_NOISE, _COARSE, _ABOUT_THE_CHAT)
    if not turn or len(turn) > MAX_TURN_CHARACTERS or not turn.isascii() or any(p.search(turn) for p in unwanted):
        return False
    # Users may write as they like. Only what a student is to say must be written well.
    return not answers or ((turn[0].isupper() or turn[0].isdigit()) and turn[-1] in ".!?")


def _line_keys(turn: str) -> set[str]:
    return {words_alone(line) for line in turn.splitlines()}


def _check_sizes(answers: Sequence[Dialogue], chats: Sequence[Dialogue]) -> None:
    for package, found, needed in (
        ("chatterbot-corpus", len(answers), HELP_TEST + HELP_VALIDATION + 1),
        ("chitchat-dataset", len(chats), CHAT_TEST + CHAT_VALIDATION + CHAT_TRAIN),
    ):
        if found < needed:
            raise DataError(
                f"{package}: {found} usable conversations are too few to split; expected {needed} or more. "
                "Run: pip install --upgrade 'potstill[demo]'"
            )


def _shuffled(*parts: Iterable[Dialogue]) -> list[Dialogue]:
    dialogues = [dialogue for part in parts for dialogue in part]
    return stable_order(dialogues, lambda dialogue: dialogue.id, salt=SALT)


def _summary(dialogues: Sequence[Dialogue]) -> str:
    turns = sum(len(dialogue.turns) for dialogue in dialogues)
    characters = sum(len(turn) for dialogue in dialogues for turn in dialogue.turns)
    return f"{len(dialogues):,} conversations, {turns:,} turns, {characters:,} characters"


def _lines(dialogues: Sequence[Dialogue]) -> str:
    return "".join(
        json.dumps({"id": dialogue.id, "messages": _messages(dialogue)}, ensure_ascii=False) + "\n"
        for dialogue in dialogues
    )


def _messages(dialogue: Dialogue) -> list[dict[str, str]]:
    return [
        {"role": "assistant" if number % 2 else "user", "content": turn} for number, turn in enumerate(dialogue.turns)
    ]


def _package_files(package: str, names: Sequence[str]) -> list[Path]:
    # Found without importing it, for only its files are wanted.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "The texts of this project come with a package that is not installed: "
            f"{package.replace('_', '-')}. Run: pip install 'potstill[demo]'"
        )
    paths = [Path(spec.submodule_search_locations[0]) / name for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"{path}: no such file, so another package or release has the name {package}. "
                "Run: pip install --upgrade 'potstill[demo]' in a fresh environment"
            )
    return paths
