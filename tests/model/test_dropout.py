import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny_models import make_keys

from electra_jax.model.dropout import create_seeds, dropout

SURE = 1e-4


def kept(rows, size, site=0, rate=0.5, seed=0):
    """Which elements of each example survive."""
    ones = jnp.ones((rows, size))
    return np.asarray(dropout(ones, create_seeds(make_keys(rows, seed)), site, rate)) > 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4096)), jnp.float32)
    dropped = dropout(x, create_seeds(make_keys(64)), 3, rate)
    survives = np.asarray(dropped) != 0
    assert stats.binomtest(int(survives.sum()), survives.size, 1 - rate).pvalue > SURE
    np.testing.assert_allclose(np.asarray(dropped)[survives], np.asarray(x)[survives] / (1 - rate), rtol=1e-6)


def test_nothing_is_dropped_without_seeds_or_rate():
    x = jnp.ones((2, 8))
    assert dropout(x, None, 0, 0.5) is x
    assert dropout(x, create_seeds(make_keys(2)), 0, 0.0) is x


def test_an_example_s_draws_do_not_depend_on_its_batch():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 7)), jnp.float32)
    seeds = create_seeds(make_keys(6))
    whole = dropout(x, seeds, 2, 0.3)
    np.testing.assert_array_equal(dropout(x[4:], seeds[4:], 2, 0.3), whole[4:])
    np.testing.assert_array_equal(dropout(x[::-1], seeds[::-1], 2, 0.3), whole[::-1])
    np.testing.assert_array_equal(create_seeds(make_keys(6)[4:]), seeds[4:])


def test_elements_are_dropped_alike():
    counts = kept(4096, 256, rate=0.3).sum(axis=0)
    n, p = 4096, 0.7
    assert stats.chi2.sf(((counts - n * p) ** 2 / (n * p * (1 - p))).sum(), len(counts)) > SURE


def test_neighbours_examples_and_sites_are_dropped_independently():
    """Pairs that a weak hash would tie: elements side by side or a power of two apart, rows, sites, seeds."""
    base = kept(256, 1024)
    pairs = [(base[:, :-step], base[:, step:]) for step in (1, 2, 32, 256, 512)]
    pairs += [(base[:-1], base[1:])]
    pairs += [(base, kept(256, 1024, site)) for site in (1, 2, 4, 8, 96)]
    pairs += [(base, kept(256, 1024, seed=1))]
    for left, right in pairs:
        table = [int((left & right).sum()), int((left & ~right).sum()), int((~left & right).sum())]
        table.append(left.size - sum(table))
        assert stats.chisquare(table).pvalue > SURE


def test_close_seeds_are_as_good_as_any():
    """Seeds that differ in one bit, in either half: the hash must not depend on threefry's mixing."""
    seeds = jnp.asarray([[7, 9], [6, 9], [7, 8], [7 | 1 << 31, 9]], jnp.uint32)
    masks = np.asarray(dropout(jnp.ones((4, 2**14)), seeds, 0, 0.5)) > 0
    for i, j in [(0, 1), (0, 2), (0, 3), (1, 2)]:
        agree = int((masks[i] == masks[j]).sum())
        assert stats.binomtest(agree, 2**14, 0.5).pvalue > SURE, (i, j)


def test_the_gradient_is_the_mask():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64)), jnp.float32)
    seeds = create_seeds(make_keys(2))
    grads = jax.grad(lambda x: dropout(x, seeds, 0, 0.25).sum())(x)
    np.testing.assert_allclose(grads, (np.asarray(dropout(x, seeds, 0, 0.25)) != 0) / 0.75, rtol=1e-6)
