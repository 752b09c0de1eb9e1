"""Metrics on disk: one JSON object a line, and TensorBoard's event files."""

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from electra_jax.errors import MachineError
from electra_jax.files import write_file


class MetricsLog:
    """Appends to RUN/metrics.jsonl and RUN/tensorboard. Each line is whole on disk before the next is begun."""

    def __init__(self, run: Path, step: int, tensorboard: bool, report: Callable[[str], None] = print):
        """Continues after `step`: later lines, and a half-written last one, are dropped.

        Without tensorboardX the event files are left out, and that is reported.
        """
        if tensorboard and find_spec("tensorboardX") is None:
            report("no TensorBoard files are written, because tensorboardX is not installed")
            tensorboard = False
        path = run / "metrics.jsonl"
        write_file(path, "".join(json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 closed by close()
        self._events = _open_events(run / "tensorboard", step) if tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        """Writes one line. NaN and infinity, which JSON does not have, become null.

        Raises MachineError where the disk takes no more.
        """
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
        }
        try:
            self._file.write(json.dumps(clean) + "\n")
            self._file.flush()
            if self._events is not None:
                _write_events(self._events, clean)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise MachineError(f"{self._file.name} cannot be written ({why}): make room and start again") from None

    def close(self) -> None:
        """Lets go of the files; every line is on its way to the disk already."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
            self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The whole lines of RUN/metrics.jsonl; none where it is not there."""
    path = run / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break  # the kill came in the middle of this line
    return lines


def _open_events(folder: Path, step: int) -> Any:
    # The writer without a thread of its own, so that a full disk is an error here and not a traceback there.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"))
    # TensorBoard drops what an earlier process wrote after the step that this one continues from.
    writer.write_event(Event(session_log=SessionLog(status=SessionLog.START), step=step + 1))
    return writer


def _write_events(writer: Any, line: dict[str, Any]) -> None:
    import time

    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    for key, value in line.items():
        if key != "step" and value is not None:
            writer.write_event(Event(wall_time=time.time(), step=line["step"], summary=scalar(key, value)))
    writer.flush()
