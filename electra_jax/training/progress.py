"""The progress line of a run: alive in a terminal, a plain line now and then elsewhere."""

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Seconds between plain lines where there is no terminal.
QUIET_SECONDS = 30.0


class ProgressLine:
    """Shows the newest metrics of a run."""

    def __init__(self, console: Console, step: int, steps: int):
        self._console, self._steps, self._step = console, steps, step
        self._first: tuple[int, float] | None = None  # the first step shown, and when: compilation does not count
        self._spoke = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("compiling", total=steps, completed=step)
            self._bar.start()

    def show(self, line: dict[str, Any]) -> None:
        """Shows one line of metrics."""
        self._step = line["step"]
        self._first = self._first or (self._step, time.monotonic())
        text = describe(line)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._step, description=text)
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self._spoke = time.monotonic()
            step, began = self._first
            if self._step > step:
                rate = (self._spoke - began) / (self._step - step)
                text += f"  ETA {timedelta(seconds=round(rate * (self._steps - self._step)))}"
            self._console.print(f"step {self._step:,}/{self._steps:,}  {text}", highlight=False)

    def say(self, sentence: str) -> None:
        """Prints a sentence above the line."""
        self._console.print(sentence, highlight=False)

    def close(self) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()


def describe(line: dict[str, Any]) -> str:
    """The numbers a person wants to see, in one line."""
    shown = (
        ("loss", "train/loss", "{:.3f}"),
        ("MLM", "train/mlm_loss", "{:.3f}"),
        ("RTD", "train/rtd_loss", "{:.4f}"),
        ("AUC", "eval/rtd_auc", "{:.3f}"),
        ("masked acc", "eval/mlm_accuracy", "{:.3f}"),
        ("tok/s", "tokens_per_second", "{:,.0f}"),
        ("MFU", "mfu", "{:.1%}"),
    )
    return "  ".join(f"{name} {form.format(line[key])}" for name, key, form in shown if line.get(key) is not None)
