"""One network's parameters under the names that Hugging Face and the published code give them.

Both build their names from the same modules; they differ in how a leaf is called and in which way a matrix lies.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from electra_jax.config import ModelConfig
from electra_jax.model.sharing import Network, Tree

Head = Literal["discriminator", "generator", "sequence_classification", "token_classification", "question_answering"]
Room = Literal["embeddings", "encoder", "head"]
Kind = Literal["dense", "norm"]
Modules = dict[tuple[str, ...], tuple[str, Kind]]

TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
# Path here → the published module and what it is.
LAYER: Modules = {
    ("attention", "query"): ("attention/self/query", "dense"),
    ("attention", "key"): ("attention/self/key", "dense"),
    ("attention", "value"): ("attention/self/value", "dense"),
    ("attention", "output"): ("attention/output/dense", "dense"),
    ("attention_layer_norm",): ("attention/output/LayerNorm", "norm"),
    ("intermediate",): ("intermediate/dense", "dense"),
    ("output",): ("output/dense", "dense"),
    ("output_layer_norm",): ("output/LayerNorm", "norm"),
}
HEADS: dict[Head, Modules] = {
    "discriminator": {
        ("dense",): ("discriminator_predictions/dense", "dense"),
        ("dense_prediction",): ("discriminator_predictions/dense_prediction", "dense"),
    },
    "generator": {
        ("dense",): ("generator_predictions/dense", "dense"),
        ("layer_norm",): ("generator_predictions/LayerNorm", "norm"),
    },
    "sequence_classification": {
        ("dense",): ("classifier/dense", "dense"),
        ("output",): ("classifier/out_proj", "dense"),
    },
    "token_classification": {("output",): ("classifier", "dense")},
    "question_answering": {("output",): ("qa_outputs", "dense")},
}
PARTS = {"dense": ("kernel", "bias"), "norm": ("scale", "bias")}


class Leaf(NamedTuple):
    """One foreign tensor: where it stands in a `Network`, and which part of which published module it is."""

    room: Room
    path: tuple[str, ...]
    layer: int | None  # its place in the stack of layers
    module: str
    part: str  # kernel, bias, scale, table


def leaves_of(config: ModelConfig, head: Head) -> Iterator[Leaf]:
    """Every tensor of a network of this size with this head."""
    for table in TABLES:
        yield Leaf("embeddings", (table,), None, f"embeddings/{table}", "table")
    yield from _parts("embeddings", ("layer_norm",), None, "embeddings/LayerNorm", "norm")
    if config.embedding_size != config.hidden_size:
        yield from _parts("encoder", ("embeddings_project",), None, "embeddings_project", "dense")
    for layer in range(config.num_hidden_layers):
        for path, (module, kind) in LAYER.items():
            yield from _parts("encoder", ("layer", *path), layer, f"encoder/layer_{layer}/{module}", kind)
    for path, (module, kind) in HEADS[head].items():
        yield from _parts("head", path, None, module, kind)
    if head == "generator":
        yield Leaf("head", ("bias",), None, "generator_lm_head", "bias")


def _parts(room: Room, path: tuple[str, ...], layer: int | None, module: str, kind: Kind) -> Iterator[Leaf]:
    for part in PARTS[kind]:
        yield Leaf(room, (*path, part), layer, module, part)


def take(network: Network, leaf: Leaf) -> np.ndarray:
    """The leaf's own array, a dense layer's matrix as [inputs, outputs]."""
    found: Any = getattr(network, leaf.room)
    for name in leaf.path:
        found = found[name]
    return np.asarray(found if leaf.layer is None else found[leaf.layer])


def build(values: Mapping[Leaf, np.ndarray]) -> Network:
    """`take`'s inverse over all leaves of a network: the layers are stacked again."""
    stacks: dict[tuple[Room, tuple[str, ...]], dict[int, np.ndarray]] = {}
    for leaf, value in values.items():
        stacks.setdefault((leaf.room, leaf.path), {})[-1 if leaf.layer is None else leaf.layer] = value
    rooms: dict[Room, Tree] = {"embeddings": {}, "encoder": {}, "head": {}}
    for (room, path), layers in stacks.items():
        tree = rooms[room]
        for name in path[:-1]:
            tree = tree.setdefault(name, {})
        tree[path[-1]] = layers[-1] if -1 in layers else np.stack([layers[at] for at in sorted(layers)])
    return Network(**rooms)
