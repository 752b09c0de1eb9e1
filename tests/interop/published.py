"""The published TensorFlow 1 code's variables, written down from its names; and its checkpoints, by TensorFlow.

Run as a program, it writes checkpoints: SLOTS PREFIX..., of the arrays in each PREFIX.npz, with Adam's slots where
SLOTS is 1.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Size(NamedTuple):
    """One network's sizes; `scope` is what the names of its layers begin with, `tables` those of its embeddings."""

    scope: str
    tables: str
    vocab: int
    embedding: int
    hidden: int
    layers: int
    ffn: int
    positions: int = 512


EMBEDDINGS = {
    "embeddings/word_embeddings": "VE",
    "embeddings/position_embeddings": "PE",
    "embeddings/token_type_embeddings": "TE",
    "embeddings/LayerNorm/gamma": "E",
    "embeddings/LayerNorm/beta": "E",
}
PROJECTION = {"embeddings_project/kernel": "EH", "embeddings_project/bias": "H"}
LAYER = {
    "attention/self/query/kernel": "HH",
    "attention/self/query/bias": "H",
    "attention/self/key/kernel": "HH",
    "attention/self/key/bias": "H",
    "attention/self/value/kernel": "HH",
    "attention/self/value/bias": "H",
    "attention/output/dense/kernel": "HH",
    "attention/output/dense/bias": "H",
    "attention/output/LayerNorm/gamma": "H",
    "attention/output/LayerNorm/beta": "H",
    "intermediate/dense/kernel": "HI",
    "intermediate/dense/bias": "I",
    "output/dense/kernel": "IH",
    "output/dense/bias": "H",
    "output/LayerNorm/gamma": "H",
    "output/LayerNorm/beta": "H",
}
HEADS = {
    "discriminator": {
        "discriminator_predictions/dense/kernel": "HH",
        "discriminator_predictions/dense/bias": "H",
        "discriminator_predictions/dense_1/kernel": "H1",
        "discriminator_predictions/dense_1/bias": "1",
    },
    "generator": {
        "generator_predictions/dense/kernel": "HE",
        "generator_predictions/dense/bias": "E",
        "generator_predictions/LayerNorm/gamma": "E",
        "generator_predictions/LayerNorm/beta": "E",
        "generator_predictions/output_bias": "V",
    },
}


def variables(**sizes: Size) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the networks given, `discriminator` and `generator`."""
    found = {}
    for network, size in sizes.items():
        letters = {"V": size.vocab, "P": size.positions, "T": 2, "E": size.embedding, "H": size.hidden,
                   "I": size.ffn, "1": 1}  # fmt: skip
        names = {f"{size.tables}/{name}": form for name, form in EMBEDDINGS.items()}
        if size.embedding != size.hidden:
            names |= {f"{size.scope}/{name}": form for name, form in PROJECTION.items()}
        for layer in range(size.layers):
            names |= {f"{size.scope}/encoder/layer_{layer}/{name}": form for name, form in LAYER.items()}
        names |= HEADS[network]
        found |= {name: tuple(letters[letter] for letter in form) for name, form in names.items()}
    return found


# Where each goes here; the stacked layers' number is the match's group.
PLACES = {
    r"{tables}/embeddings/(?P<table>\w+_embeddings)": "{embeddings} {table}",
    r"{tables}/embeddings/LayerNorm/(?P<norm>\w+)": "{embeddings} layer_norm {norm}",
    r"{scope}/embeddings_project/(?P<part>\w+)": "{network}_encoder embeddings_project {part}",
    r"{layer}/attention/self/(?P<which>\w+)/(?P<part>\w+)": "{network}_encoder layer attention {which} {part}",
    r"{layer}/attention/output/dense/(?P<part>\w+)": "{network}_encoder layer attention output {part}",
    r"{layer}/attention/output/LayerNorm/(?P<norm>\w+)": "{network}_encoder layer attention_layer_norm {norm}",
    r"{layer}/intermediate/dense/(?P<part>\w+)": "{network}_encoder layer intermediate {part}",
    r"{layer}/output/dense/(?P<part>\w+)": "{network}_encoder layer output {part}",
    r"{layer}/output/LayerNorm/(?P<norm>\w+)": "{network}_encoder layer output_layer_norm {norm}",
    r"{network}_predictions/dense/(?P<part>\w+)": "{network}_predictions dense {part}",
    r"{network}_predictions/dense_1/(?P<part>\w+)": "{network}_predictions dense_prediction {part}",
    r"{network}_predictions/LayerNorm/(?P<norm>\w+)": "{network}_predictions layer_norm {norm}",
    r"{network}_predictions/output_bias": "{network}_predictions bias",
}
NORM = {"gamma": "scale", "beta": "bias"}


def place_of(params: Any, network: str, size: Size, embeddings: str, name: str) -> np.ndarray:
    """The array that one published variable must have become in a network of ours."""
    layer = f"{size.scope}/encoder/layer_(?P<number>\\d+)"
    for pattern, place in PLACES.items():
        known = {"scope": size.scope, "tables": size.tables, "layer": layer, "network": network}
        for key, value in known.items():
            pattern = pattern.replace(f"{{{key}}}", value)
        if match := re.fullmatch(pattern, name):
            groups = match.groupdict()
            found = params
            names = {**groups, "norm": NORM.get(groups.get("norm", "")), "network": network, "embeddings": embeddings}
            for key in place.format(**names).split():
                found = found[key]
            return np.asarray(found if groups.get("number") is None else found[int(groups["number"])])
    raise KeyError(name)


def random_arrays(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """No two alike, no bias zero, no scale one; matrices at 1 / √fan-in."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        scale = shape[0] ** -0.5 if name.endswith("kernel") else 0.1
        arrays[name] = (scale * rng.standard_normal(shape, np.float32) + name.endswith("gamma")).astype(np.float32)
    return arrays


def write_checkpoints(given: dict[Path, dict[str, np.ndarray]], slots: bool = True, step: int = 7) -> list[Path]:
    """Has TensorFlow 1's Saver write a checkpoint at each prefix; returns the prefixes, each ending in the step."""
    for prefix, arrays in given.items():
        prefix.parent.mkdir(parents=True, exist_ok=True)
        np.savez(f"{prefix}.npz", global_step=np.int64(step), **arrays)
    command = [sys.executable, __file__, str(int(slots)), *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [Path(f"{prefix}-{step}") for prefix in given]


def main(slots: str, *prefixes: str) -> None:
    import tensorflow.compat.v1 as tf

    for prefix in prefixes:
        arrays = dict(np.load(f"{prefix}.npz"))
        Path(f"{prefix}.npz").unlink()
        step = arrays.pop("global_step")
        if slots == "1":
            arrays |= {f"{name}/{slot}": value + 1 for name, value in arrays.items() for slot in ("adam_m", "adam_v")}
        with tf.Graph().as_default(), tf.Session() as session:
            arrays["global_step"] = step
            tf.train.create_global_step()
            given = {name: tf.placeholder(value.dtype, value.shape) for name, value in arrays.items()}
            for name, value in arrays.items():
                if name != "global_step":
                    tf.get_variable(name, value.shape, use_resource=False)
            ours = {variable.op.name: variable for variable in tf.global_variables()}
            every = [tf.assign(ours[name], placeholder).op for name, placeholder in given.items()]
            session.run(tf.group(*every), {given[name]: value for name, value in arrays.items()})
            tf.train.Saver().save(session, prefix, global_step=int(step))


if __name__ == "__main__":
    main(*sys.argv[1:])
