"""A task for somebody's own data, from what a command line can say of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from electra_jax.errors import UserError
from electra_jax.tasks.layouts import first_line, layout_of
from electra_jax.tasks.lines import numbered_lines
from electra_jax.tasks.task import Kind, Task, with_usual


def describe_task(kind: Kind, train: Path, dev: Sequence[Path], test: Sequence[Path] = (), **said: Any) -> Task:
    """A task whose files are named by their whole paths, for `find_files` in any folder.

    `said` are more of a Task's settings.
    Raises UserError where a file is missing, or where nothing says the training file's layout.
    """
    for path in (train, *dev, *test):
        if not path.is_file():
            raise UserError(f"there is no file {path}: check its name")
    files = {"dev": tuple(str(path.absolute()) for path in dev), "test": tuple(str(path.absolute()) for path in test)}
    task = Task(**with_usual({"name": "own", "kind": kind, "train": str(train.absolute()), **files, **said}))
    layout_of(task, train, first_line(numbered_lines(train))[0], labelled=True, said=task.layout)
    return task
