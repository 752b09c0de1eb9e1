import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SPECIAL

from electra_jax.model.inputs import can_be_masked, create_inputs

LENGTH = 24
words = st.lists(st.sampled_from([SPECIAL.mask, 4, 5, 49]), max_size=6)
examples = st.lists(words, min_size=1, max_size=2)  # one segment, or A and B
rows = st.lists(st.lists(examples, max_size=4), min_size=3, max_size=3)


def lay_out(row):
    """A row and its structure, example by example: the definition, written as a loop."""
    ids, segments, positions, types = [], [], [], []
    for number, example in enumerate(row, start=1):
        tokens = [SPECIAL.cls, *example[0], SPECIAL.sep]
        token_types = [0] * len(tokens)
        for part in example[1:]:
            tokens += [*part, SPECIAL.sep]
            token_types += [1] * (len(part) + 1)
        ids += tokens
        segments += [number] * len(tokens)
        positions += range(len(tokens))
        types += token_types
    fill = [0] * LENGTH
    return [(part + fill)[:LENGTH] for part in (ids, segments, positions, types)]


@settings(max_examples=100, deadline=None)
@given(rows)
def test_structure_equals_a_loop_over_the_examples(packed):
    ids, segments, positions, types = np.asarray([lay_out(row) for row in packed], np.int32).swapaxes(0, 1)
    inputs = create_inputs(jnp.asarray(ids), SPECIAL)
    np.testing.assert_array_equal(inputs.ids, ids)
    np.testing.assert_array_equal(inputs.segment_ids, segments)
    np.testing.assert_array_equal(inputs.attention_mask, segments > 0)
    np.testing.assert_array_equal(inputs.positions, positions)
    np.testing.assert_array_equal(inputs.token_type_ids, types)
    np.testing.assert_array_equal(can_be_masked(inputs, SPECIAL), ~np.isin(ids, SPECIAL))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
def test_rows_come_in_any_integer_type(dtype):
    ids = np.asarray([[1, 40_000, 2, 0]], dtype)
    inputs = create_inputs(jnp.asarray(ids), SPECIAL)
    assert inputs.ids.dtype == jnp.int32
    np.testing.assert_array_equal(inputs.ids, [[1, 40_000, 2, 0]])
