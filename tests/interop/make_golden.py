"""Writes what Transformers answers on torch, for machines without it: golden.npz, golden.json.

PYTHONPATH=tests:. python tests/interop/make_golden.py
"""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from parity import (
    TASKS,
    TORCH_CLASSES,
    Step,
    networks_at,
    padded_rows,
    random_params,
    torch_inputs,
    torch_model,
    torch_step,
)
from safetensors.numpy import load_file
from test_hf_tokenizer import ODD
from tiny_models import FIRST_WORD, SPECIAL

from electra_jax.interop.huggingface import SHARED
from electra_jax.model.inputs import create_inputs
from electra_jax.networks import NetworksConfig
from tests.text.conftest import DOCUMENTS, trained

GOLDEN, TEXT = (Path(__file__).with_name(name) for name in ("golden.npz", "golden.json"))
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


def saved_folders() -> dict[str, dict]:
    """config.json and the tensors' shapes as `save_pretrained` writes them, for each class."""
    found = {}
    values = {key: getattr(networks_at("tiny").discriminator, key) for key in SHARED}
    for head, cls in TORCH_CLASSES.items():
        labels = {"num_labels": 3} if head in ("sequence_classification", "token_classification") else {}
        with tempfile.TemporaryDirectory() as folder:
            getattr(transformers, cls)(transformers.ElectraConfig(**values, **labels)).save_pretrained(folder)
            config = json.loads(Path(folder, "config.json").read_text())
            tensors = load_file(Path(folder, "model.safetensors"))
        found[head] = {"config": config, "tensors": {name: list(tensors[name].shape) for name in sorted(tensors)}}
    return found


def tokens() -> dict[str, object]:
    """A small vocabulary, lines, and the ids and offsets of BERT's tokenizer."""
    tokenizer = trained(tokenizer="wordpiece", vocab_size=400)
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
    lines = [*ODD, " ".join(ODD), *(line for document in DOCUMENTS[:12] for line in document.split("\n")[:12])]
    found: dict[str, object] = {"pieces": pieces, "lines": lines}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        for name, lower in (("uncased", True), ("cased", False)):
            theirs = transformers.BertTokenizer(str(Path(folder, "vocab.txt")), do_lower_case=lower)
            answers = [theirs(line, add_special_tokens=False, return_offsets_mapping=True) for line in lines]
            found[name] = [[answer["input_ids"], answer["offset_mapping"]] for answer in answers]
    return found


def main() -> None:
    golden: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in ("tiny", "small", "base"):
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
    golden["drawn"] = np.asarray(jax.tree.leaves(params)[0])
    np.savez_compressed(GOLDEN, **golden)
    TEXT.write_text(json.dumps({"folders": saved_folders(), "tokens": tokens()}, ensure_ascii=False) + "\n")
    print(f"{TEXT}: {TEXT.stat().st_size:,} bytes")
    print(f"{GOLDEN}: {len(golden)} arrays, {GOLDEN.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
