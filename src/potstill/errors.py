"""What potstill raises. Every message says what is wrong, where, what was expected and how to fix it.

PotstillError                 exit 1: something the user can put right
├── RecipeError               the recipe, or a value given with --set
├── DataError                 the rows of a data set
├── ModelError                a teacher or student that cannot be loaded, built or matched
├── TrainingError             a run that must not go on (a non-finite loss)
├── LabelStoreError           stored soft labels that are damaged or belong to something else
├── CheckpointError           no checkpoint that can be resumed from
├── RunDirError               a folder that is no run directory, or a record in one that was changed
├── LockedError               another process is writing to the run directory
└── Stopped                   exit 75: a signal arrived, all was saved, the same command goes on
"""


class PotstillError(Exception):
    """Base of all errors that are shown to the user as one message without a traceback."""

    exit_code = 1


class RecipeError(PotstillError):
    """A recipe that is not valid, or that asks for something impossible."""


class DataError(PotstillError):
    """Rows that cannot be read, or not used as they are."""


class ModelError(PotstillError):
    """A teacher or student that cannot be loaded, built or matched with the other."""


class TrainingError(PotstillError):
    """Training that must not go on, such as a non-finite loss."""


class LabelStoreError(PotstillError):
    """Soft labels that are damaged, incomplete, or made by another teacher, tokenizer or data set."""


class CheckpointError(PotstillError):
    """No checkpoint is whole enough to resume from."""


class RunDirError(PotstillError):
    """A folder that is no run directory, or a record in one that is not as it was written."""


class LockedError(PotstillError):
    """Another process is writing to this run directory."""


class Stopped(PotstillError):
    """A signal arrived; everything was saved and the same command resumes (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75
