import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from electra_jax.pretrain import health

SHAPE = (8, 64)


@st.composite
def scored(draw):
    """Log-odds, labels and a mask: from well apart to not at all, wide or narrow, with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    replaced = rng.random(SHAPE) < draw(st.floats(0.05, 0.6))
    logits = rng.normal(size=SHAPE) * draw(st.floats(0.3, 8)) + draw(st.floats(0, 6)) * replaced - draw(st.floats(0, 4))
    coarse = draw(st.booleans())
    logits = np.round(logits) if coarse else logits
    return coarse, logits.astype(np.float32), replaced, rng.random(SHAPE) < 0.8


def count(logits, replaced, mask):
    return jax.device_get(health.histogram(jnp.asarray(logits), jnp.asarray(replaced), jnp.asarray(mask)))


@settings(max_examples=60, deadline=None)
@given(scored())
def test_auc_precision_and_recall_against_scikit_learn(example):
    coarse, logits, replaced, mask = example
    counts = count(logits, replaced, mask)
    inside = logits.clip(-health.LIMIT, health.LIMIT)[mask], replaced[mask]
    # Pairs in one bin count half, which is exact for ties; else at most half of their share is wrong.
    tied = float((counts.replaced * counts.original).sum() / (counts.replaced.sum() * counts.original.sum()))
    error = abs(health.auc(counts) - roc_auc_score(inside[1], inside[0]))
    assert error <= (0 if coarse else tied / 2) + 1e-9
    assert coarse or tied < 0.05
    precision, recall = health.precision_recall(counts)
    said = logits[mask] >= 0
    assert recall == pytest.approx(recall_score(replaced[mask], said), abs=1e-12)
    if said.any():
        assert precision == pytest.approx(precision_score(replaced[mask], said), abs=1e-12)
    assert health.replaced_share(counts) == pytest.approx(replaced[mask].mean())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=8, max_size=8), st.integers(0, 255))
def test_precision_and_recall_are_exact_next_to_one_half(values, labels):
    logits = np.asarray([values], np.float32) * np.float32(1e-8)
    replaced = np.asarray([[bool(labels >> i & 1) for i in range(8)]])
    precision, recall = health.precision_recall(count(logits, replaced, np.ones((1, 8), bool)))
    said = logits >= 0
    right = (said & replaced).sum()
    np.testing.assert_equal(precision, right / said.sum() if said.any() else np.nan)
    np.testing.assert_equal(recall, right / replaced.sum() if replaced.any() else np.nan)


def test_the_histogram_s_resolution_is_enough_for_the_auc():
    rng = np.random.default_rng(0)
    replaced = rng.random((64, 512)) < 0.1
    logits = (rng.normal(size=replaced.shape) + 1.5 * replaced - 2).astype(np.float32)
    counts = count(logits, replaced, np.ones_like(replaced))
    assert abs(health.auc(counts) - roc_auc_score(replaced.ravel(), logits.ravel())) < 1e-4


def test_batches_merge_to_the_whole():
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=SHAPE).astype(np.float32), rng.random(SHAPE) < 0.2, rng.random(SHAPE) < 0.9)
             for _ in range(3)]  # fmt: skip
    merged = jax.tree.map(lambda *leaves: sum(leaves), *(count(*part) for part in parts))
    whole = count(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    np.testing.assert_array_equal(merged.replaced, whole.replaced)
    np.testing.assert_array_equal(merged.original, whole.original)


def test_extremes_and_absence():
    mask = np.ones((1, 4), bool)
    logits = np.asarray([[np.inf, 1e9, -np.inf, -1e9]], np.float32)
    counts = count(logits, np.asarray([[True, True, False, False]]), mask)
    assert health.auc(counts) == 1
    assert health.precision_recall(counts) == (1, 1)
    nothing = count(logits, np.zeros((1, 4), bool), mask)
    assert np.isnan(health.auc(nothing))
    assert np.isnan(health.precision_recall(nothing)[1])
    assert health.replaced_share(nothing) == 0
    padding = count(logits, np.ones((1, 4), bool), ~mask)
    assert padding.replaced.sum() == padding.original.sum() == 0


def test_entropy_is_in_nats():
    logits = np.random.default_rng(0).normal(size=(2, 3, 9)) * 4
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(health.entropy(jnp.asarray(logits, jnp.float32)), -(p * np.log(p)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(health.entropy(jnp.zeros((1, 1, 50))), np.log(50), rtol=1e-6)
    assert float(health.entropy(jnp.asarray([[[1e4, 0.0]]]))[0, 0]) == 0
