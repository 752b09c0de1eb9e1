"""Presets: small Python files whose `get_config()` says a run's settings."""

import dataclasses
import runpy
from pathlib import Path
from typing import Literal

from electra_jax.config import PretrainConfig
from electra_jax.errors import UserError


def load_preset(path: Path) -> PretrainConfig:
    """Runs a preset file's `get_config()`. The file is the user's own program, as a training script is.

    Raises UserError where the file is missing, is not Python, or has no `get_config`.
    """
    if not path.is_file():
        beside = sorted(p.stem for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        known = f"; {path.parent} holds {', '.join(beside)}" if beside else ""
        raise UserError(f"there is no preset {path}{known}")
    try:
        space = runpy.run_path(str(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        raise UserError(f"{path} is not a preset: {type(error).__name__}: {error}") from None
    if "get_config" not in space:
        raise UserError(f"{path} is not a preset: it defines no get_config()")
    try:
        config = space["get_config"]()
    except Exception as error:
        raise UserError(f"{path}: get_config() failed: {error}") from None
    if not isinstance(config, PretrainConfig):
        raise UserError(f"{path}: get_config() must return a PretrainConfig, not {type(config).__name__}")
    return config


def with_objective(config: PretrainConfig, name: Literal["electra", "mlm"]) -> PretrainConfig:
    """The preset's twin under another objective."""
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, name=name))
