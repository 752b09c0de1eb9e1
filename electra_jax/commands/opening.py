"""What commands share: they open a model, and tell on standard error what is no result."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from electra_jax.pretrain.pretrained import Pretrained


def report(sentence: str) -> None:
    """Tells on standard error what is no result."""
    print(f"electra-jax: {sentence}", file=sys.stderr)


def load_model(folder: Path, step: int | None) -> "Pretrained":
    """What a folder holds; of a task's head, a `FineTuned`."""
    from electra_jax.finetune.loading import load

    return load(folder, step, report=report)
