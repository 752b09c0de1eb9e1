import dataclasses
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats
from tiny_models import FIRST_WORD, SPECIAL, make_example, make_keys, make_rows, quick_jit

from electra_jax.config import ObjectiveConfig, num_slots
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.corruption import (
    SAMPLING_BLOCK,
    choose_and_mask,
    count_slots,
    create_row_keys,
    invert,
    replace,
    sample,
    sample_unigram,
    write,
)

OBJECTIVE = ObjectiveConfig(mask_prob=0.15)
WITH_REPLACEMENT = dataclasses.replace(OBJECTIVE, masked_positions="with_replacement")
BOTH = pytest.mark.parametrize("objective", [OBJECTIVE, WITH_REPLACEMENT], ids=lambda o: o.masked_positions)
# The seeds are fixed, so a p-value this small is a wrong distribution, not bad luck.
SURE = 1e-4


@functools.partial(quick_jit, static_argnums=2)
def masked(ids, keys, objective):
    inputs = create_inputs(ids, SPECIAL)
    return inputs, choose_and_mask(inputs, create_row_keys(keys), objective, SPECIAL)


def mask(ids, keys=None, objective=OBJECTIVE):
    return masked(ids, make_keys(len(ids)) if keys is None else keys, objective)


def one_row(length=60):
    """Two packed examples, a stray [MASK], and padding; 42 tokens can be chosen."""
    rng = np.random.default_rng(0)
    row = make_example(rng, 12, 50, segments=2) + make_example(rng, 20, 50)
    row[4], row[30] = SPECIAL.mask, SPECIAL.mask
    return np.pad(np.asarray(row, np.int32), (0, length - len(row)))


@pytest.mark.parametrize(("length", "mask_prob", "slots"), [(128, 0.15, 19), (512, 0.15, 79), (512, 0.25, 130)])
def test_slots_of_a_row_are_the_published_code_s(length, mask_prob, slots):
    assert num_slots(ObjectiveConfig(mask_prob=mask_prob), length) == slots


@pytest.mark.parametrize(
    ("length", "mask_prob", "positions"),
    [(128, 0.15, "unique"), (512, 0.25, "unique"), (128, 0.15, "with_replacement")],
)
def test_used_slots_follow_the_number_of_real_tokens(length, mask_prob, positions):
    objective = ObjectiveConfig(mask_prob=mask_prob, masked_positions=positions)
    real = np.arange(3, length + 1)
    ids = np.where(np.arange(length) < real[:, None], FIRST_WORD, 0).astype(np.int32)
    ids[:, 0] = SPECIAL.cls
    expected = [max(1, min(num_slots(objective, length), round(int(n) * mask_prob))) for n in real]
    _, masking = mask(ids, objective=objective)
    np.testing.assert_array_equal(masking.slot_mask.sum(axis=1), expected)


def test_a_row_of_few_candidates_has_a_slot_for_each_or_with_replacement_all_its_slots():
    ids = np.asarray([[SPECIAL.cls, *[SPECIAL.mask] * 27, 7, 8, SPECIAL.sep, SPECIAL.pad]] * 50, np.int32)
    inputs = create_inputs(jnp.asarray(ids), SPECIAL)
    assert set(np.asarray(count_slots(inputs, OBJECTIVE, SPECIAL)).tolist()) == {2}
    assert set(np.asarray(count_slots(inputs, WITH_REPLACEMENT, SPECIAL)).tolist()) == {4}
    _, masking = mask(ids, objective=WITH_REPLACEMENT)
    assert masking.slot_mask.all()
    assert set(np.asarray(masking.slots).ravel().tolist()) == {28, 29}
    assert set(np.asarray(masking.labels).ravel().tolist()) == {7, 8}


@BOTH
def test_rows_without_a_candidate_use_no_slot(objective):
    ids = np.zeros((2, 32), np.int32)
    ids[1, :3] = SPECIAL.cls, SPECIAL.mask, SPECIAL.sep
    inputs, masking = mask(ids, objective=objective)
    assert (masking.slots < 32).all()
    assert not masking.slot_mask.any()
    np.testing.assert_array_equal(masking.ids, ids)
    corrupted, is_replaced = replace(inputs, masking, jnp.full(masking.slots.shape, 9))
    np.testing.assert_array_equal(corrupted.ids, ids)
    assert not is_replaced.any()


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.lists(st.integers(0, 12), min_size=24, max_size=24), min_size=4, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_special_tokens_are_never_chosen_and_positions_are_unique(tokens, seed):
    ids = np.asarray(tokens, np.int32)
    _, masking = mask(ids, make_keys(4, seed), ObjectiveConfig(mask_prob=0.5))
    for row, masked, slots, used, labels in zip(ids, *map(np.asarray, (masking.ids, *masking[1:])), strict=True):
        assert len(set(slots.tolist())) == len(slots)
        assert not set(row[slots[used]].tolist()) & set(SPECIAL)
        np.testing.assert_array_equal(labels, row[slots])
        changed = np.flatnonzero(masked != row)
        assert set(changed.tolist()) <= set(slots[used].tolist())
        assert (masked[changed] == SPECIAL.mask).all()


def test_positions_are_uniform_over_the_candidates_also_at_the_end_of_the_row():
    row, draws = one_row(), 20_000
    _, masking = mask(np.tile(row, (draws, 1)))
    candidates = np.flatnonzero(~np.isin(row, SPECIAL))
    used = int(masking.slot_mask[0].sum())
    counts = np.bincount(np.asarray(masking.slots)[np.asarray(masking.slot_mask)], minlength=len(row))
    assert counts.sum() == draws * used == counts[candidates].sum()
    # Draws without replacement: the counts' covariance is n/(n−1) · R·p(1−p) · (I − 1/n).
    n, p = len(candidates), used / len(candidates)
    observed = counts[candidates]
    statistic = ((observed - draws * p) ** 2).sum() / (draws * p * (1 - p) * n / (n - 1))
    assert stats.chi2.sf(statistic, n - 1) > SURE
    last = observed[-(n // 10) :]
    deviation = (last.sum() - draws * p * len(last)) / np.sqrt(
        draws * p * (1 - p) * len(last) * (n - len(last)) / (n - 1)
    )
    assert abs(deviation) < 4


def test_unused_slots_are_never_written():
    """With replacement an unused slot may stand at a used one's place; nothing of it may show there."""
    ids = np.tile(np.asarray([1, 10, 11, 12, 13, 14, 15, 16, 17, 2, *[0] * 22], np.int32), (500, 1))
    objective = dataclasses.replace(WITH_REPLACEMENT, mask_token_prob=1.0)
    inputs, masking = mask(ids, objective=objective)
    slots, used = np.asarray(masking.slots), np.asarray(masking.slot_mask)
    assert (used.sum(axis=1) == 2).all()
    assert (slots[:, 2:] == slots[:, :1]).any()
    rows = np.arange(len(ids))[:, None]
    assert (np.asarray(masking.ids)[rows, slots[:, :2]] == SPECIAL.mask).all()
    corrupted, _ = replace(inputs, masking, jnp.where(masking.slot_mask, 40, 49))
    expected = ids.copy()
    expected[rows, slots[:, :2]] = 40
    np.testing.assert_array_equal(corrupted.ids, expected)


def test_of_several_tokens_for_one_place_the_first_is_written():
    ids = jnp.asarray([[1, 10, 11, 12, 13, 2]])
    slots = jnp.asarray([[2, 4, 2, 4, 3, 2]])
    tokens = jnp.asarray([[20, 21, 22, 23, 24, 25]])

    def written(*mask):
        return write(ids, slots, tokens, jnp.asarray([mask], bool))[0].tolist()

    assert written(1, 1, 1, 1, 1, 1) == [1, 10, 20, 24, 21, 2]
    assert written(0, 1, 0, 1, 0, 1) == [1, 10, 25, 12, 21, 2]
    assert written(0, 0, 1, 1, 0, 1) == [1, 10, 22, 12, 23, 2]
    assert written(0, 0, 0, 0, 0, 0) == [1, 10, 11, 12, 13, 2]


def test_pairs_of_positions_are_uniform():
    row, draws = np.asarray([1, *range(10, 18), 2], np.int32), 20_000
    _, masking = mask(np.tile(row, (draws, 1)), objective=ObjectiveConfig(mask_prob=0.2))
    pairs = np.sort(np.asarray(masking.slots), axis=1)
    assert pairs.shape == (draws, 2)
    counts = np.unique(pairs[:, 0] * 100 + pairs[:, 1], return_counts=True)[1]
    assert len(counts) == 28
    assert stats.chisquare(counts).pvalue > SURE


def test_85_of_100_chosen_tokens_become_mask_and_the_others_stay():
    ids = np.tile(one_row(), (10_000, 1))
    _, masking = mask(ids)
    used = np.asarray(masking.slot_mask)
    written = np.take_along_axis(np.asarray(masking.ids), np.asarray(masking.slots), axis=1)
    is_mask = written == SPECIAL.mask
    kept = written == np.asarray(masking.labels)
    assert (is_mask | kept)[used].all()
    assert stats.binomtest(int(is_mask[used].sum()), int(used.sum()), 0.85).pvalue > SURE
    by_slot = is_mask.sum(axis=0)[used[0]]
    assert stats.chisquare(by_slot).pvalue > SURE


@BOTH
def test_a_row_s_masks_do_not_depend_on_the_rows_around_it(objective):
    ids, keys = make_rows(0, rows=8), make_keys(8)
    whole = mask(ids, keys, objective)[1]
    part = mask(ids[5:7], keys[5:7], objective)[1]
    for of_whole, of_part in zip(whole, part, strict=True):
        np.testing.assert_array_equal(of_whole[5:7], of_part)


def test_a_draw_that_equals_the_original_is_labelled_original():
    ids = make_rows(1)
    inputs, masking = mask(ids)
    corrupted, is_replaced = replace(inputs, masking, masking.labels)
    np.testing.assert_array_equal(corrupted.ids, ids)
    assert not is_replaced.any()
    # The first slot of each row gets a new token, the others their own.
    tokens = masking.labels.at[:, 0].set(jnp.where(masking.labels[:, 0] == 20, 21, 20))
    corrupted, is_replaced = replace(inputs, masking, tokens)
    assert (is_replaced.sum(axis=1) == masking.slot_mask[:, 0]).all()
    np.testing.assert_array_equal(is_replaced, corrupted.ids != ids)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    drawn=st.lists(st.integers(0, 49), min_size=32, max_size=32),
    objective=st.sampled_from([OBJECTIVE, WITH_REPLACEMENT]),
)
def test_labels_are_a_comparison_and_the_structure_stays_the_original_s(seed, drawn, objective):
    ids = make_rows(seed)
    inputs, masking = mask(ids, make_keys(8, seed), objective)
    tokens = jnp.asarray(drawn, jnp.int32).reshape(8, -1)
    corrupted, is_replaced = replace(inputs, masking, tokens)
    expected = ids.copy()
    for row, slots, used, new in zip(expected, masking.slots, masking.slot_mask, tokens, strict=True):
        at = np.asarray(slots)[np.asarray(used)]
        row[at[::-1]] = np.asarray(new)[np.asarray(used)][::-1]  # so that the first of a place is the last to write
    np.testing.assert_array_equal(corrupted.ids, expected)
    np.testing.assert_array_equal(is_replaced, expected != ids)
    for name in ("attention_mask", "segment_ids", "positions", "token_type_ids"):
        np.testing.assert_array_equal(getattr(corrupted, name), getattr(inputs, name), err_msg=name)


def test_a_drawn_special_token_does_not_move_the_structure():
    ids = np.asarray([[1, 10, 11, 12, 13, 14, 15, 2]], np.int32)
    inputs, masking = mask(ids, objective=ObjectiveConfig(mask_prob=0.4))
    tokens = jnp.asarray([[SPECIAL.cls, SPECIAL.sep, SPECIAL.pad]])
    corrupted, is_replaced = replace(inputs, masking, tokens)
    assert set(SPECIAL[:3]) <= set(np.asarray(corrupted.ids).ravel().tolist())
    assert is_replaced.sum() == 3
    assert corrupted.attention_mask.all()
    assert (corrupted.segment_ids == 1).all()


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def draw(logits, draws, objective, chunk=512):
    drawn = jax.jit(lambda keys: sample(jnp.broadcast_to(logits, (len(keys), 1, logits.size)), keys, objective))
    parts = [drawn(keys) for keys in make_keys(draws).reshape(-1, chunk)]
    return np.bincount(np.concatenate(parts).ravel(), minlength=logits.size)


@pytest.mark.parametrize("sampler", ["gumbel", "inverse_cdf"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_draws_follow_the_softmax(sampler, temperature):
    objective = dataclasses.replace(OBJECTIVE, sampler=sampler, temperature=temperature)
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 1.2, 40), jnp.float32)
    counts = draw(logits, 2**15, objective, chunk=2**13)
    assert stats.chisquare(counts, 2**15 * softmax(logits / temperature)).pvalue > SURE


@pytest.mark.parametrize("sampler", ["gumbel", "inverse_cdf"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_draws_follow_the_softmax_of_a_large_vocabulary(sampler, dtype):
    """In bfloat16, `jax.random.categorical` gives the rare token below more than half of the draws."""
    draws, rare = 1024, 17
    logits = np.random.default_rng(1).normal(0, 0.5, 30_522)
    logits[rare] = np.log(np.exp(logits).sum() * 0.0048)
    logits = jnp.asarray(logits, dtype)
    expected = softmax(logits)
    counts = draw(logits, draws, dataclasses.replace(OBJECTIVE, sampler=sampler))
    others = np.delete(np.argsort(expected), np.argsort(expected).tolist().index(rare))
    groups = [*np.array_split(others, 15), [rare]]
    observed = [counts[group].sum() for group in groups]
    assert stats.chisquare(observed, [draws * expected[group].sum() for group in groups]).pvalue > SURE
    assert stats.binomtest(int(counts[rare]), draws, expected[rare]).pvalue > SURE


@pytest.mark.parametrize("sampler", ["gumbel", "inverse_cdf"])
def test_draws_follow_the_softmax_across_the_blocks_they_are_made_in(sampler):
    """Two whole blocks of even weight, one of them impossible in part, and a heavy piece of a third."""
    size, draws = 2 * SAMPLING_BLOCK + 3, 2**15
    logits = np.zeros(size)
    logits[:SAMPLING_BLOCK:2] = -np.inf
    logits[-3:] = np.log([100, 200, 300])
    counts = draw(jnp.asarray(logits, jnp.float32), draws, dataclasses.replace(OBJECTIVE, sampler=sampler))
    possible = np.isfinite(logits)
    assert len(counts) == size
    assert not counts[~possible].any()
    assert stats.chisquare(counts[possible], draws * softmax(logits)[possible]).pvalue > SURE


def test_slots_and_rows_draw_independently():
    logits = jnp.zeros((2000, 2, 4))
    for sampler in ("gumbel", "inverse_cdf"):
        objective = dataclasses.replace(OBJECTIVE, sampler=sampler)
        drawn = np.asarray(
            quick_jit(lambda keys, objective=objective: sample(logits, keys, objective))(make_keys(2000))
        )
        table = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
        assert stats.chisquare(table).pvalue > SURE


def test_no_gradient_flows_through_a_draw():
    def drawn(logits, sampler):
        objective = dataclasses.replace(OBJECTIVE, sampler=sampler)
        return sample(logits, make_keys(2), objective).astype(jnp.float32).sum()

    for sampler in ("gumbel", "inverse_cdf"):
        assert not jax.grad(drawn)(jnp.ones((2, 3, 5)), sampler).any()


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(np.float32(1), np.float32(0)), 0.25])
def test_the_inverse_never_leaves_the_vocabulary_nor_draws_the_impossible(uniform):
    weights = jnp.asarray([0.0, 1.0, 0.0, 3.0, 0.0])
    token = int(invert(jnp.cumsum(weights)[None, None], jnp.full((1, 1), uniform, jnp.float32))[0, 0])
    assert weights[token] > 0
    assert token == (1 if uniform < 0.25 else 3)


def test_unigram_draws_follow_the_counts():
    counts = np.asarray([0, 5, 0, 100, 40, 0, 855, 0], np.float64)
    cumulative = jnp.asarray(np.cumsum(counts / counts.sum()), jnp.float32)
    drawn = np.bincount(np.asarray(sample_unigram(cumulative, make_keys(2000), 10)).ravel(), minlength=len(counts))
    there = counts > 0
    assert not drawn[~there].any()
    assert stats.chisquare(drawn[there], counts[there] / counts.sum() * 20_000).pvalue > SURE
