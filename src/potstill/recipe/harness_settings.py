"""Tasks of lm-evaluation-harness that the models of a run are put to."""

from typing import Annotated

from pydantic import Field, field_validator

from potstill.settings import Settings

Count = Annotated[int, Field(ge=1)]


class HarnessSettings(Settings):
    """Which tasks, and how each model is asked (extra `harness`). Teacher and student are asked alike."""

    tasks: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """Names that the package knows, or paths of task files (.yaml), seen from the recipe."""
    limit: Count | None = None
    """Only the first documents of each task; by default all."""
    few_shot: int | None = Field(default=None, ge=0)
    """Solved examples before each document; by default as many as the task says."""
    batch_size: Count = 8
    apply_chat_template: bool = False
    """Ask as in a chat, by the template of each model's tokenizer."""
    trust_remote_code: bool = False
    """Run what task files name as Python: functions, metrics of the hub, templates without a sandbox."""

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in tasks if tasks.count(name) > 1}):
            raise ValueError(f"{twice[0]} is listed twice; name each task once.")
        return tasks
