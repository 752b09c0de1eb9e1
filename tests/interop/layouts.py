"""What tests of the published checkpoints share: networks in each of their layouts, and what must become of them."""

from pathlib import Path

import jax
import numpy as np
import pytest
from published import Size, place_of, variables

from electra_jax.errors import UserError

# Not two sizes alike.
DISCRIMINATOR = Size("electra", "electra", 61, 20, 24, 3, 44, 40)
GENERATOR = Size("generator", "electra", 61, 20, 12, 2, 28, 40)
WIDE = {"scope": "electra", "tables": "electra", "vocab": 30522}
SMALL = Size(embedding=128, hidden=256, layers=12, ffn=1024, **WIDE)
BASE = Size(embedding=768, hidden=768, layers=12, ffn=3072, **WIDE)
LARGE = Size(embedding=1024, hidden=1024, layers=24, ffn=4096, **WIDE)
PUBLISHED = {
    "small": (SMALL, SMALL._replace(scope="generator", hidden=64, ffn=256)),
    "small++": (SMALL, SMALL._replace(scope="generator")),
    "base": (BASE, BASE._replace(scope="generator", hidden=256, ffn=1024)),
    "large": (LARGE, LARGE._replace(scope="generator", hidden=256, ffn=1024)),
}
# Untied, the published code makes the generator's tables as wide as its layers.
UNTIED = SMALL._replace(scope="generator", tables="generator", embedding=256)
LAYOUTS = {
    "tied": {"discriminator": DISCRIMINATOR, "generator": GENERATOR},
    "as wide": {"discriminator": DISCRIMINATOR, "generator": DISCRIMINATOR._replace(scope="generator")},
    "untied": {
        "discriminator": DISCRIMINATOR,
        "generator": GENERATOR._replace(tables="generator", embedding=12),
    },
    "untied, with a projection": {
        "discriminator": DISCRIMINATOR,
        "generator": GENERATOR._replace(tables="generator", embedding=18),
    },
    "one encoder for both": {
        "discriminator": DISCRIMINATOR,
        "generator": DISCRIMINATOR,
    },
    "no projection": {
        "discriminator": DISCRIMINATOR._replace(embedding=24),
        "generator": GENERATOR._replace(embedding=24),
    },
    "discriminator alone": {"discriminator": DISCRIMINATOR},
    "generator alone": {"generator": GENERATOR},
    "untied generator alone": {"generator": GENERATOR._replace(tables="generator")},
    "masked language model": {"generator": DISCRIMINATOR},
}
HEAD_SIZE = 6


def assert_every_array_in_place(networks, params, layout, arrays):
    """Each network reads each of its variables, and the parameters hold nothing else."""
    places = {}
    for network, size in layout.items():
        own_tables = network == "discriminator" and networks.generator is not None and networks.sharing != "all"
        embeddings = "discriminator_embeddings" if own_tables else "embeddings"
        for name in variables(**{network: size}):
            place = places[network, name] = place_of(params, network, size, embeddings, name)
            assert place.dtype == np.float32
            np.testing.assert_array_equal(place, arrays[name], err_msg=name)
    shared = {}
    for (network, name), place in places.items():
        is_table = "/embeddings/" in name and networks.sharing == "all"
        shared[name if is_table else (network, name)] = place.size
    assert sum(shared.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))


def refused(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def vocabulary(path: Path, pieces: int) -> Path:
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    path.write_text("\n".join([*special, *(f"w{number}" for number in range(pieces - len(special)))]) + "\n")
    return path
