"""Writes golden.npz, Transformers' answers on torch, for machines without it.

PYTHONPATH=tests python tests/interop/make_golden.py
"""

import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from parity import TASKS, Step, networks_at, padded_rows, random_params, torch_inputs, torch_model, torch_step
from tiny_models import FIRST_WORD, SPECIAL

from electra_jax.model.inputs import create_inputs
from electra_jax.networks import NetworksConfig

GOLDEN = Path(__file__).with_name("golden.npz")
ROWS, LENGTH, COLUMNS = 4, 32, 12


def make_step(ids: np.ndarray, vocab_size: int) -> Step:
    """Masks and draws from NumPy, a few a row."""
    rng = np.random.default_rng(2)
    slots = np.stack([rng.permutation(np.flatnonzero(row >= FIRST_WORD))[:3] for row in ids])
    slot_mask = np.ones(slots.shape, bool)
    slot_mask[0, 2] = False
    labels = np.take_along_axis(ids, slots, 1)
    masked, corrupted = ids.copy(), ids.copy()
    drawn = np.where(slot_mask, rng.integers(FIRST_WORD, vocab_size, slots.shape), labels)
    np.put_along_axis(masked, slots, np.where(slot_mask, SPECIAL.mask, labels), 1)
    np.put_along_axis(corrupted, slots, drawn, 1)
    return Step(masked, slots, slot_mask, labels, corrupted, corrupted != ids)


def main() -> None:
    golden: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in ("tiny", "small"):
            networks = networks_at(size)
            ids = padded_rows(1, ROWS, LENGTH, networks.main.vocab_size)
            inputs = create_inputs(jnp.asarray(ids), SPECIAL)
            params = random_params(networks)
            for name in ("discriminator", "generator"):
                model = torch_model(Path(folder, size, name), networks, params, name)
                with torch.no_grad():
                    logits = model(**torch_inputs(inputs)).logits.numpy()
                golden[f"{size}/{name}"] = logits[..., :COLUMNS] if name == "generator" else logits
        networks = networks_at("tiny")
        ids = padded_rows(1, ROWS, LENGTH, networks.main.vocab_size)
        inputs = create_inputs(jnp.asarray(ids), SPECIAL)
        for task, config in TASKS.items():
            one = NetworksConfig(discriminator=networks.discriminator, task=config)
            with torch.no_grad():
                found = torch_model(Path(folder, task), one, random_params(one), "discriminator")(
                    **torch_inputs(inputs)
                )
            logits = torch.stack([*found.values()], -1) if task == "question_answering" else found.logits
            golden[f"tiny/{task}"] = logits.numpy()
        params = random_params(networks, kernel_scale=0.3)
        models = {
            n: torch_model(Path(folder, f"step-{n}"), networks, params, n) for n in ("generator", "discriminator")
        }
        step = make_step(ids, networks.main.vocab_size)
        mlm, rtd, grads = torch_step(models, inputs, step)
        golden |= {f"step/{name}": value for name, value in step._asdict().items()}
        golden |= {"mlm_loss": np.float32(mlm), "rtd_loss": np.float32(rtd)}
        golden |= {f"grads/{name}/{key}": grad for name, tree in grads.items() for key, grad in tree.items()}
    np.savez_compressed(GOLDEN, **golden)
    print(f"{GOLDEN}: {len(golden)} arrays, {GOLDEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
