"""What choosing and masking do to 100,000 full rows of 128, each share within five binomial standard errors."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import FIRST_WORD, SPECIAL, make_keys

from electra_jax.config import ObjectiveConfig
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.corruption import choose_and_mask, create_row_keys

ROWS, LENGTH, SLOTS = 100_000, 128, 19
ROW = np.asarray([SPECIAL.cls, *[FIRST_WORD] * 60, SPECIAL.sep, *[FIRST_WORD + 1] * 65, SPECIAL.sep], np.int32)
CANDIDATES = np.flatnonzero(~np.isin(ROW, SPECIAL))
BOTH = pytest.mark.parametrize("positions", ["unique", "with_replacement"])


class Drawn(NamedTuple):
    """What became of the rows, each array with a row for each of them."""

    slots: np.ndarray  # [rows, 19]
    hits: np.ndarray  # [rows, 128], how many slots each place has
    is_mask: np.ndarray  # [rows, 128]


@functools.cache
def draw(positions: str) -> Drawn:
    objective = ObjectiveConfig(mask_prob=0.15, masked_positions=positions)

    @jax.jit
    def mask(keys):
        inputs = create_inputs(jnp.tile(jnp.asarray(ROW), (len(keys), 1)), SPECIAL)
        return choose_and_mask(inputs, create_row_keys(keys), objective, SPECIAL)

    parts = [jax.device_get(mask(keys)) for keys in make_keys(ROWS).reshape(10, -1)]
    slots, used, ids = (np.concatenate([getattr(part, name) for part in parts])
                        for name in ("slots", "slot_mask", "ids"))  # fmt: skip
    assert used.shape == (ROWS, SLOTS)
    assert used.all()
    hits = np.bincount((np.arange(ROWS)[:, None] * LENGTH + slots).ravel(), minlength=ROWS * LENGTH)
    is_mask = ids == SPECIAL.mask
    np.testing.assert_array_equal(ids[~is_mask], np.tile(ROW, (ROWS, 1))[~is_mask])
    return Drawn(slots, hits.reshape(ROWS, LENGTH), is_mask)


def assert_share(count: int | np.ndarray, draws: int, probability: float) -> None:
    """Each count is a binomial's: within five standard errors of draws × probability."""
    error = np.sqrt(draws * probability * (1 - probability))
    assert (abs(count - draws * probability) < 5 * error).all()


@BOTH
def test_only_words_are_chosen_and_only_what_is_chosen_is_masked(positions):
    _, hits, is_mask = draw(positions)
    assert not hits[:, np.isin(ROW, SPECIAL)].any()
    assert not (is_mask & (hits == 0)).any()
    assert (hits.sum(axis=1) == SLOTS).all()
    assert hits.max() == 1 or positions == "with_replacement"


@BOTH
def test_every_place_is_as_likely_as_any_other(positions):
    _, hits, _ = draw(positions)
    counts = hits.sum(axis=0)[CANDIDATES]
    if positions == "unique":
        assert_share(counts, ROWS, SLOTS / len(CANDIDATES))
    else:
        assert_share(counts, ROWS * SLOTS, 1 / len(CANDIDATES))


@BOTH
def test_85_of_100_slots_become_mask_and_a_place_with_several_if_any_of_them_does(positions):
    _, hits, is_mask = draw(positions)
    for times in (1,) if positions == "unique" else (1, 2, 3):
        assert_share(is_mask[hits == times].sum(), (hits == times).sum(), 1 - 0.15**times)


def test_with_replacement_19_draws_hit_17_7_distinct_places():
    n, k = len(CANDIDATES), SLOTS
    expected = n * (1 - (1 - 1 / n) ** k)
    variance = n * (n - 1) * (1 - 2 / n) ** k + n * (1 - 1 / n) ** k - n**2 * (1 - 1 / n) ** (2 * k)
    distinct = (draw("with_replacement").hits > 0).sum(axis=1)
    assert round(expected, 1) == 17.7
    assert abs(distinct.mean() - expected) < 5 * np.sqrt(variance / ROWS)
    assert abs(distinct.var() / variance - 1) < 0.05
    assert ((draw("unique").hits > 0).sum(axis=1) == SLOTS).all()


def test_with_replacement_two_slots_agree_as_often_as_independent_draws_do():
    slots = draw("with_replacement").slots
    for other in (1, 9, 18):
        assert_share((slots[:, 0] == slots[:, other]).sum(), ROWS, 1 / len(CANDIDATES))
