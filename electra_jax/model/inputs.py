"""Everything a network needs to know about a row, computed on the device from its token ids alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer

from electra_jax.config import SpecialTokens


class Inputs(NamedTuple):
    """Rows and their structure. Corrupting a row changes `ids` and nothing else."""

    ids: Int[Array, "b l"]
    attention_mask: Bool[Array, "b l"]  # True at real tokens
    segment_ids: Int[Array, "b l"]  # which example of the row, from 1; 0 is padding
    positions: Int[Array, "b l"]  # restart at each [CLS]
    token_type_ids: Int[Array, "b l"]  # 1 in segment B of an example `[CLS] A [SEP] B [SEP]`


def create_inputs(ids: Integer[Array, "b l"], special: SpecialTokens) -> Inputs:
    """Reads the structure off rows in which every example begins with [CLS] and 0 is padding."""
    ids = ids.astype(jnp.int32)
    attention_mask = ids != special.pad
    is_start = ids == special.cls
    segment_ids = jnp.where(attention_mask, jnp.cumsum(is_start, axis=1), 0)
    column = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :]
    start = jax.lax.cummax(jnp.where(is_start, column, 0), axis=1)
    is_sep = (ids == special.sep).astype(jnp.int32)
    seps_before = jnp.cumsum(is_sep, axis=1) - is_sep
    seps_in_example = seps_before - jnp.take_along_axis(seps_before, start, axis=1)
    return Inputs(
        ids=ids,
        attention_mask=attention_mask,
        segment_ids=segment_ids,
        positions=jnp.where(attention_mask, column - start, 0),
        token_type_ids=jnp.where(attention_mask, (seps_in_example > 0).astype(jnp.int32), 0),
    )


def can_be_masked(inputs: Inputs, special: SpecialTokens) -> Bool[Array, "b l"]:
    """True where a token may be chosen for prediction: not [CLS], [SEP], [MASK] or padding."""
    ids = inputs.ids
    return inputs.attention_mask & (ids != special.cls) & (ids != special.sep) & (ids != special.mask)
