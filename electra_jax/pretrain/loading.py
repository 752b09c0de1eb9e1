"""From a folder, whatever it holds, to networks ready for use."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from electra_jax.config import ObjectiveConfig, read_config
from electra_jax.errors import UserError
from electra_jax.interop.portable import MODEL, Portable, read_huggingface, read_imported
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra, create_model, shapes_of
from electra_jax.pretrain.pretrained import EVAL_BATCH, Pretrained
from electra_jax.text.tokenizer import load_tokenizer
from electra_jax.training.checkpoint import read_params

MASK_PROB = 0.15  # of a model whose own is not known: the paper's for small and base


def load(
    path: Path | str,
    step: int | None = None,
    generator: Path | str | None = None,
    report: Callable[[str], None] | None = None,
) -> Pretrained:
    """Loads a run, an imported model, or a Hugging Face folder of ELECTRA.

    Of a run, the newest whole checkpoint or that of `step`; the run may be training at this moment. A damaged newest
    checkpoint is reported, by a warning unless `report` is given, and the one before is used. `generator` is the
    Hugging Face folder of the generator that belongs to a discriminator's.
    Raises UserError where there is nothing to load, MachineError where all there is is damaged.
    """
    path = Path(path)
    found = _load(path, step, generator, report or partial(warnings.warn, stacklevel=3))
    pieces, vocab_size = found.tokenizer.vocab_size, found.model.networks.main.vocab_size
    if pieces != vocab_size:
        raise UserError(
            f"the tokenizer in {path} has {pieces:,} pieces, but the model there a vocabulary of {vocab_size:,}: they "
            "do not belong together, so copy the folder again"
        )
    return found


def _load(path: Path, step: int | None, generator: Path | str | None, report: Callable[[str], None]) -> Pretrained:
    if generator is not None or _is_huggingface(path):
        if step is not None:
            raise UserError(f"{path} is a Hugging Face folder, which has no steps: leave the step out")
        return _of_portable(read_huggingface(path, None if generator is None else Path(generator)))
    if (path / MODEL).is_file():
        if step:
            raise UserError(f"{path} is an imported model, which has no step {step}: leave the step out")
        return _of_portable(read_imported(path))
    return _load_run(path, step, report)


def _load_run(run: Path, step: int | None, report: Callable[[str], None]) -> Pretrained:
    config = read_config(run / "config.json")
    tokenizer = load_tokenizer(run / "tokenizer")
    model = create_model(config)
    found, params = read_params(run / "checkpoints", shapes_of(model), step, report)
    rows_at_once = min(EVAL_BATCH, config.train.batch_size)
    return Pretrained(model, params, tokenizer, config.data.length, config.objective, rows_at_once, found, config)


def _of_portable(portable: Portable) -> Pretrained:
    networks = portable.networks
    objective = ObjectiveConfig(name="mlm" if networks.discriminator is None else "electra", mask_prob=MASK_PROB)
    length = networks.main.max_position_embeddings
    params = jax.device_put(portable.params, jax.local_devices()[0])
    return Pretrained(Electra(networks, Kernels()), params, portable.tokenizer, length, objective)


def _is_huggingface(path: Path) -> bool:
    """Whether the folder's config.json is Hugging Face's: a run's own has no `model_type`, nor a broken one."""
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and bool({"model_type", "architectures"} & values.keys())
