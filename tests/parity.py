"""What parity tests share: random networks of known sizes, padded rows of two segments, torch's answers to them."""

import dataclasses
import string
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tiny_models import FIRST_WORD, SPECIAL, make_example

from electra_jax.config import ModelConfig, PretrainConfig
from electra_jax.interop.huggingface import write_folder
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra, shapes_of
from electra_jax.model.inputs import create_inputs
from electra_jax.networks import NetworksConfig, TaskConfig, networks_of
from electra_jax.presets import load_preset

CONFIGS = Path(__file__).parents[1] / "configs"
LABELS = ("a", "b", "c")
TASKS = {
    "sequence_classification": TaskConfig(name="sequence_classification", labels=LABELS),
    "token_classification": TaskConfig(name="token_classification", labels=LABELS),
    "question_answering": TaskConfig(name="question_answering", labels=("start", "end")),
}
TORCH_CLASSES = {
    "discriminator": "ElectraForPreTraining",
    "generator": "ElectraForMaskedLM",
    "sequence_classification": "ElectraForSequenceClassification",
    "token_classification": "ElectraForTokenClassification",
    "question_answering": "ElectraForQuestionAnswering",
}
# A vocabulary of as many pieces as the tiny networks know, special ones at the ids of `tiny_models.SPECIAL`.
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "the", "of", "and", "."]
PIECES += [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
# Not two shapes alike: a transposed matrix or a table in the place of another cannot pass.
TINY = ModelConfig(
    vocab_size=61,
    embedding_size=20,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=44,
    max_position_embeddings=40,
)
TINY_NETWORKS = NetworksConfig(
    discriminator=TINY,
    generator=dataclasses.replace(
        TINY, hidden_size=12, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2
    ),
)


def networks_at(size: str) -> NetworksConfig:
    """The networks of a preset of the paper, or tiny ones of the same form."""
    return TINY_NETWORKS if size == "tiny" else networks_of(preset(size))


def preset(size: str) -> PretrainConfig:
    return load_preset(CONFIGS / f"{size}.py")


def random_params(networks: NetworksConfig, seed: int = 0, kernel_scale: float = 1.0) -> Any:
    """No bias zero, no scale one; matrices of `kernel_scale` / √fan-in, at .3 about as published networks begin."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        # Tables as wide as trained ones are; at twice that, base's scores of the vocabulary reach 12, and float32 ends.
        scale = 0.05
        if name in ("kernel", "bias", "scale"):
            scale = kernel_scale * leaf.shape[-2] ** -0.5 if name == "kernel" else 0.1
        return (scale * rng.standard_normal(leaf.shape, np.float32) + (name == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(Electra(networks, Kernels())))


def padded_rows(seed: int, rows: int, length: int, vocab_size: int) -> np.ndarray:
    """One example a row, of one or two segments and differing lengths; the last is full."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((rows, length), np.int32)
    for number, row in enumerate(ids):
        segments = 1 + number % 2
        room = (length - 1) // segments - 1
        words = room if number == rows - 1 else int(rng.integers(max(1, room // 4), room + 1))
        example = make_example(rng, words, vocab_size, segments)
        row[: len(example)] = example
    assert (ids[:, 0] == SPECIAL.cls).all()
    assert ids.max() >= FIRST_WORD
    inputs = create_inputs(jnp.asarray(ids), SPECIAL)
    # What torch is given too, read off the rows in another way.
    types = [[int(SPECIAL.sep in row[:at] and row[at] != SPECIAL.pad) for at in range(length)] for row in ids.tolist()]
    np.testing.assert_array_equal(inputs.token_type_ids, types)
    np.testing.assert_array_equal(inputs.attention_mask, ids != SPECIAL.pad)
    assert any(any(own) and SPECIAL.pad in row for own, row in zip(types, ids.tolist(), strict=True))
    return ids


class Step(NamedTuple):
    """One joint step's masks and draws, the same for both sides."""

    masked: np.ndarray  # ids with [MASK] written in
    slots: np.ndarray
    slot_mask: np.ndarray
    labels: np.ndarray
    corrupted: np.ndarray
    is_replaced: np.ndarray


def torch_step(
    models: dict[str, Any], inputs: Any, step: Step
) -> tuple[float, float, dict[str, dict[str, np.ndarray]]]:
    """Transformers' MLM loss, RTD loss, and every gradient of MLM + 50 · RTD by network and name."""
    import torch

    generator, discriminator = models["generator"], models["discriminator"]
    generator.electra.embeddings = discriminator.electra.embeddings  # one group for both, as ours
    generator.tie_weights()
    labels = np.full(step.masked.shape, -100)  # what their loss leaves out
    labels[np.nonzero(step.slot_mask)[0], step.slots[step.slot_mask]] = step.labels[step.slot_mask]
    mlm = generator(**torch_inputs(inputs, step.masked), labels=torch.tensor(labels)).loss
    is_replaced = torch.tensor(step.is_replaced.astype(np.int64))
    rtd = discriminator(**torch_inputs(inputs, step.corrupted), labels=is_replaced).loss
    (mlm + 50 * rtd).backward()
    grads = {
        name: {key: value.grad.numpy() for key, value in model.named_parameters()} for name, model in models.items()
    }
    return mlm.item(), rtd.item(), grads


def assert_gradients_agree(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Each tensor's to within 1e-4 of its largest entry; returns the largest such share."""
    shares = []
    assert found.keys() == expected.keys()
    for key, grad in found.items():
        # The gradient of the key's bias vanishes in exact arithmetic: what is left is rounding, beside its matrix'.
        measured = key.replace("self.key.bias", "self.key.weight")
        scale = np.abs(expected[measured]).max()
        assert scale > 0, key
        shares.append(float(np.abs(grad - expected[key]).max() / scale))
        assert shares[-1] <= 1e-4, key
    return max(shares)


def torch_model(folder: Path, networks: NetworksConfig, params: Any, network: str) -> Any:
    """Our network, opened by Transformers from the folder that we write."""
    import transformers

    from electra_jax.interop.tensors import head_of

    write_folder(folder, networks, params, network)
    cls = getattr(transformers, TORCH_CLASSES[head_of(networks, network)])
    model, report = cls.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    faults = {name: found for name, found in report.items() if found}
    assert not faults, faults
    return model.eval()


def torch_inputs(inputs: Any, ids: Any = None) -> dict[str, Any]:
    """Rows of one example each as Transformers takes them, mask and token types written out."""
    import torch

    def tensor(x: Any) -> Any:
        return torch.tensor(np.asarray(x).astype(np.int64))

    return {
        "input_ids": tensor(inputs.ids if ids is None else ids),
        "attention_mask": tensor(inputs.attention_mask),
        "token_type_ids": tensor(inputs.token_type_ids),
    }
