"""A run's folder belongs to one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from electra_jax.errors import UserError


@contextmanager
def own(workdir: Path) -> Iterator[None]:
    """Holds the folder's lock; the system lets go of it when the process ends, however it ends.

    Raises UserError where another process holds it.
    """
    with open(workdir / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            who = f" (process {holder})" if holder else ""
            raise UserError(f"another process{who} is training in {workdir}: wait for it or choose another") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
