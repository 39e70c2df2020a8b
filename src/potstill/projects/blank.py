"""The project blank: a commented recipe of each task, for rows and a teacher that its user brings."""

from pathlib import Path

from potstill.progress import Progress
from potstill.projects.recipe_files import write_recipes

TASKS = {
    "text_classification": "one class, several labels or a number for each text",
    "token_classification": "a tag for each word of a document",
    "causal_lm": "the next token of chats, completions and texts",
    "seq2seq": "a target for each source",
}
"""Each task with what its models answer."""
RECIPES = {f"{task}.yaml": f"blank_{task}.yaml" for task in TASKS}


def write(folder: Path, progress: Progress) -> list[str]:
    """Write a recipe of each task and no data; return what each is for."""
    folder.mkdir(parents=True, exist_ok=True)
    write_recipes(folder, RECIPES)
    return [f"{name:26} {answer}" for name, answer in zip(RECIPES, TASKS.values(), strict=True)]
