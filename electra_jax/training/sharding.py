"""The mesh, and one rule from a parameter's path and shape to its place on it.

The model knows nothing of this. The rule covers every leaf of the state, optimizer moments included.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int

from electra_jax.config import MeshConfig
from electra_jax.errors import UserError

BATCH_AXES = ("data", "fsdp")
# How [batch, length, heads, head size] lies within attention.
HEADS = P(BATCH_AXES, None, "tensor", None)
# A leaf smaller than this is not worth cutting.
FSDP_MIN_SIZE = 2**14
# Matrices cut along their columns or rows by the tensor axis (Megatron-LM, arXiv 1909.08053).
TENSOR_COLUMNS = {"query", "key", "value", "intermediate"}
TENSOR_ROWS = {"output"}
TABLES = {"word_embeddings", "position_embeddings", "token_type_embeddings"}
# All that a parameter of several axes may be called: none is left whole because nobody thought of it.
KNOWN = TABLES | {"kernel", "bias", "scale", "taps"}


def create_mesh(config: MeshConfig, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices with the axes data, fsdp and tensor.

    Raises UserError where the axes do not multiply to the devices, or the batch cannot be spread over them.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if -1 in sizes:
        known = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = max(1, len(devices) // known)
    if np.prod(sizes) != len(devices):
        raise UserError(
            f"a mesh of data {sizes[0]} × fsdp {sizes[1]} × tensor {sizes[2]} needs {int(np.prod(sizes))} devices, but "
            f"there are {len(devices)}: mend runtime.mesh"
        )
    if batch_size % (sizes[0] * sizes[1]):
        raise UserError(
            f"a batch of {batch_size} rows (per micro-batch and chunk) cannot be spread over {sizes[0] * sizes[1]} "
            "devices: mend train.batch_size, runtime.micro_batches, runtime.vocab_chunks or runtime.mesh"
        )
    axes = ("data", "fsdp", "tensor")
    return jax.make_mesh(tuple(sizes), axes, axis_types=(AxisType.Auto,) * 3, devices=devices)


def partition_spec(path: tuple, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Where a leaf lies: tensor axis by name, fsdp on the largest axis it divides, else a copy on each device.

    Tables are cut for storage only (`gather_tables`). Raises KeyError for a leaf of several axes that no table names.
    """
    spec: list[str | None] = [None] * len(shape)
    names = {str(getattr(entry, "key", "")) for entry in path}
    if len(shape) > 1 and not names & KNOWN:
        raise KeyError(f"where does {jax.tree_util.keystr(path)} lie? Name it in training/sharding.py")
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    if tensor > 1 and "kernel" in names:
        axis = len(shape) - 1 if names & TENSOR_COLUMNS else len(shape) - 2 if names & TENSOR_ROWS else None
        if axis is not None and shape[axis] % tensor == 0:
            spec[axis] = "tensor"
    if fsdp > 1 and np.prod(shape) >= FSDP_MIN_SIZE:
        axes = sorted(range(len(shape)), key=lambda axis: -shape[axis])
        free = [axis for axis in axes if spec[axis] is None and shape[axis] % fsdp == 0]
        if free:
            spec[free[0]] = "fsdp"
    return P(*spec)


def gather_tables(params: Any) -> Any:
    """The same parameters, or their gradients, within a step: each table under fsdp whole on every device.

    Else XLA would carry a table's cut over into the look-up of its rows and the scattering of their gradients, where
    it finds no way but to gather the activations ("involuntary full rematerialization"). The update stays cut.
    """
    if jax.sharding.get_abstract_mesh().shape.get("fsdp", 1) == 1:
        return params

    def gather(path: tuple, leaf: jax.Array) -> jax.Array:
        is_table = TABLES & {str(getattr(entry, "key", "")) for entry in path}
        return jax.lax.with_sharding_constraint(leaf, P()) if is_table else leaf

    return jax.tree_util.tree_map_with_path(gather, params)


def state_shardings(shapes: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of a tree of shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition_spec(path, leaf.shape, mesh)), shapes
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows spread over the data and fsdp axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def everywhere(mesh: Mesh) -> NamedSharding:
    """A copy on each device."""
    return NamedSharding(mesh, P())


def local_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " local"]:
    """Which rows of a batch lie on devices of this process, in rising order.

    Another process has the same ones where the tensor axis runs over both.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    mine = np.zeros(batch_size, bool)
    for index in places.values():
        mine[index] = True
    return np.flatnonzero(mine)


def place_batch(batch: Any, mesh: Mesh, batch_size: int | None = None) -> Any:
    """This process's rows of each array, see `local_rows`, put together with the other processes' to global arrays.

    Without `batch_size` the rows are all there are.
    """
    sharding = batch_sharding(mesh)

    def place(rows: np.ndarray) -> jax.Array:
        size = batch_size or len(rows)
        mine = local_rows(mesh, size)

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = int(np.searchsorted(mine, start))
            return rows[first : first + stop - start]

        return jax.make_array_from_callback((size, *rows.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)


def place_state(state: Any, shardings: Any) -> Any:
    """Arrays that every process holds whole, each put where its sharding says."""
    return jax.tree.map(
        lambda leaf, place: jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index]), state, shardings
    )
