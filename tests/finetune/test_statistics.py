"""Figures over the members of a fine-tuning."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.finetune.statistics import Summary, summarise

NAN = math.nan
values = st.lists(st.floats(-1e6, 1e6), min_size=2)


def test_by_hand():
    got = summarise(np.array([4.0, 1.0, 2.0, 3.0, 10.0]))
    assert got == Summary(5, 3.0, 4.0, pytest.approx(math.sqrt(50 / 4)), 2.0, 4.0, 1.0, 10.0, 0)


def test_quartiles_fall_between_members():
    got = summarise(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (got.q1, got.median, got.q3) == (1.75, 2.5, 3.25)


def test_one_member_has_no_spread():
    assert summarise(np.array([0.5], np.float32)) == Summary(1, 0.5, 0.5, 0.0, 0.5, 0.5, 0.5, 0.5, 0)


@pytest.mark.parametrize("lost", [NAN, math.inf, -math.inf])
def test_members_that_diverged_are_counted_and_left_out(lost):
    got = summarise(np.array([lost, 1.0, lost, 3.0]))
    assert got == summarise(np.array([1.0, 3.0]))._replace(diverged=2)


@pytest.mark.parametrize("lost", [[], [NAN], [NAN, NAN]])
def test_where_all_diverged_there_are_no_figures(lost):
    got = summarise(np.array(lost, np.float64))
    assert (got.n, got.diverged) == (0, len(lost))
    assert all(math.isnan(figure) for figure in got[1:-1])


@settings(deadline=None)
@given(values, st.randoms())
def test_it_is_pythons_statistics_whatever_the_order(members, random):
    got = summarise(np.array(members))
    assert got.low == min(members)
    assert got.high == max(members)
    assert got.median == pytest.approx(statistics.median(members))
    assert got.mean == pytest.approx(statistics.fmean(members), abs=1e-6)
    assert got.std == pytest.approx(statistics.stdev(members), rel=1e-6, abs=1e-6)
    quartiles = statistics.quantiles(members, method="inclusive")
    assert (got.q1, got.median, got.q3) == pytest.approx(tuple(quartiles), rel=1e-6, abs=1e-6)
    assert got.low <= got.q1 <= got.median <= got.q3 <= got.high
    random.shuffle(members)
    assert summarise(np.array(members)) == pytest.approx(got, abs=1e-6)
