"""Flash attention on a TPU: the library's Pallas kernel, over rows of any length and over a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, SegmentIds, flash_attention
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from electra_jax.model.implementations import FLASH_BLOCK

# Tokens a block, the first that divides a row: one large block keeps the matrix unit busier than many small ones, and
# its scores, 1 MB in float32, fit beside their gradients in the 16 MB that a TPU core's memory holds.
BLOCKS = (4 * FLASH_BLOCK, 3 * FLASH_BLOCK, 2 * FLASH_BLOCK, FLASH_BLOCK)
PADDING = -1  # no segment's number

Attention = Callable[..., Float[Array, "b l n d"]]


def flash(
    query: Float[Array, "b l n d"],
    key: Float[Array, "b l n d"],
    value: Float[Array, "b l n d"],
    segment_ids: Int[Array, "b l"],
    spread: PartitionSpec,
    interpret: bool,
) -> Float[Array, "b l n d"]:
    """softmax(QKᵀ/√d)V within each segment; the softmax and the sums are float32.

    `spread` says how the arrays lie over the mesh in force, because XLA cannot divide a kernel by itself.
    `interpret` computes the kernel's operations one by one, which is slow, on any platform.
    """
    attend: Attention = _interpreted if interpret else _kernel
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        rows, length, heads, size = tuple(spread) or (None,) * 4
        if heads is not None and query.shape[2] % mesh.shape[heads]:
            heads = None  # each device computes all of them
        arrays = PartitionSpec(rows, length, heads, size)
        attend = jax.shard_map(
            attend, in_specs=(arrays,) * 3 + (PartitionSpec(rows, length),), out_specs=arrays, check_vma=False
        )
    return attend(query, key, value, segment_ids)


def _kernel(
    query: Float[Array, "b l n d"],
    key: Float[Array, "b l n d"],
    value: Float[Array, "b l n d"],
    segment_ids: Int[Array, "b l"],
) -> Float[Array, "b l n d"]:
    """The kernel on one device; rows are padded to whole blocks by a segment that no token belongs to."""
    length, scale = query.shape[1], query.shape[3] ** -0.5
    more = -length % FLASH_BLOCK
    block = next(size for size in BLOCKS if (length + more) % size == 0)
    segment_ids = jnp.pad(segment_ids, ((0, 0), (0, more)), constant_values=PADDING)
    arrays = [jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).transpose(0, 2, 1, 3) for x in (query, key, value)]
    mixed = flash_attention(
        *arrays,
        segment_ids=SegmentIds(segment_ids, segment_ids),
        sm_scale=scale,
        block_sizes=BlockSizes(
            block_q=block,
            block_k_major=block,
            block_k=block,
            block_b=1,
            block_q_major_dkv=block,
            block_k_major_dkv=block,
            block_k_dkv=block,
            block_q_dkv=block,
            block_k_major_dq=block,
            block_k_dq=block,
            block_q_dq=block,
        ),
    )
    return mixed.transpose(0, 2, 1, 3)[:, :length]


@jax.custom_vjp
def _interpreted(
    query: Float[Array, "b l n d"],
    key: Float[Array, "b l n d"],
    value: Float[Array, "b l n d"],
    segment_ids: Int[Array, "b l"],
) -> Float[Array, "b l n d"]:
    """`_kernel` by the interpreter. The backward pass is traced later than the forward, so each asks for it itself."""
    with _interpreter():
        return _kernel(query, key, value, segment_ids)


def _interpreted_forward(query: Array, key: Array, value: Array, segment_ids: Array) -> tuple[Array, Any]:
    with _interpreter():
        return jax.vjp(lambda q, k, v: _kernel(q, k, v, segment_ids), query, key, value)


def _interpreted_backward(pull_back: Any, grad: Array) -> tuple[Array, Array, Array, None]:
    with _interpreter():
        return (*pull_back(grad), None)


_interpreted.defvjp(_interpreted_forward, _interpreted_backward)


def _interpreter() -> Any:
    """The plain one: the default simulates a TPU's memories by calls to Python, which is slow and hangs on a mesh."""
    return pltpu.force_tpu_interpret_mode(True)  # type: ignore[arg-type]
