"""Foreign tensors by name ↔ a model's parameters, every one of them accounted for."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from electra_jax.errors import UserError
from electra_jax.interop.names import Head, Leaf, build, leaves_of, take
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra, shapes_of
from electra_jax.model.sharing import Network, separate
from electra_jax.networks import NetworksConfig

SHOWN = 4  # names a list of errors gives in full


class Foreign(NamedTuple):
    """How a foreign format names a leaf, and in which way it keeps it."""

    name: Callable[[Leaf], str]
    is_transposed: Callable[[Leaf], bool]

    def turn(self, leaf: Leaf, value: np.ndarray) -> np.ndarray:
        """From here to there, and from there to here."""
        return value.T if self.is_transposed(leaf) else value


def read_networks(
    networks: NetworksConfig,
    formats: Mapping[str, Foreign],
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]],
    read: Callable[[str, str], np.ndarray],
    where: str,
) -> dict[str, Network]:
    """Builds each network from `read(network, name)`, float32.

    `shapes` gives, by network, the name and shape of every tensor that the file holds and that must be used.
    Raises UserError that lists both sides where one is unknown, missing or of another shape.
    """
    blank = separate(blank_params(networks), networks)
    wanted = {
        (network, formats[network].name(leaf)): leaf
        for network in blank
        for leaf in leaves_of(networks.each[network], head_of(networks, network))
    }
    found = {(network, name): shape for network, held in shapes.items() for name, shape in held.items()}
    expected = {key: formats[key[0]].turn(leaf, take(blank[key[0]], leaf)).shape for key, leaf in wanted.items()}
    _account_for(expected, found, where)
    values: dict[str, dict[Leaf, np.ndarray]] = {network: {} for network in blank}
    for (network, name), leaf in wanted.items():
        value = np.asarray(read(network, name), np.float32)
        if not np.isfinite(value).all():
            raise UserError(f"{where}: {name} holds NaN or infinity, with which no network works: take another copy")
        values[network][leaf] = np.ascontiguousarray(formats[network].turn(leaf, value))
    return {network: build(leaves) for network, leaves in values.items()}


def write_network(networks: NetworksConfig, params: Any, network: str, foreign: Foreign) -> dict[str, np.ndarray]:
    """One network's tensors under their foreign names."""
    own = separate(params, networks)[network]
    leaves = leaves_of(networks.each[network], head_of(networks, network))
    return {foreign.name(leaf): np.ascontiguousarray(foreign.turn(leaf, take(own, leaf))) for leaf in leaves}


def head_of(networks: NetworksConfig, network: str) -> Head:
    """Which head a network of the model wears."""
    if network == "generator":
        return "generator"
    return "discriminator" if networks.task is None else networks.task.name


def blank_params(networks: NetworksConfig) -> Any:
    """Zeros in the shape of every parameter, which take no memory."""
    shapes = shapes_of(Electra(networks, Kernels()))
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)


def _account_for(
    expected: Mapping[tuple[str, str], tuple[int, ...]], found: Mapping[tuple[str, str], tuple[int, ...]], where: str
) -> None:
    faults = []
    if missing := [name for _, name in expected.keys() - found.keys()]:
        faults.append(f"missing there: {_listed(missing)}")
    if unknown := [name for _, name in found.keys() - expected.keys()]:
        faults.append(f"unknown here: {_listed(unknown)}")
    shapes = [
        f"{key[1]} is {list(found[key])} there and {list(shape)} here"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if shapes:
        faults.append(f"of another shape: {_listed(shapes)}")
    if faults:
        raise UserError(f"{where} does not hold the tensors that its sizes describe ({'; '.join(faults)})")


def _listed(names: Iterable[str]) -> str:
    every = sorted(set(names))  # what two networks share is one tensor there
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
