"""A batch's rows in groups, computed one after the other."""

import math
from collections.abc import Callable
from typing import Any

import jax


def split_rows(rows: Any, groups: int) -> Any:
    """Every array of a tree as [groups, rows / groups, …]: every `groups`-th row of a batch is in the same group.

    Strided, so that each group keeps its rows spread over all devices of the batch axes.
    """
    return jax.tree.map(lambda x: x.reshape(-1, groups, *x.shape[1:]).swapaxes(0, 1), rows)


def join_rows(parts: Any) -> Any:
    """`split_rows`' inverse."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def map_rows(function: Callable[..., Any], groups: int, *rows: Any) -> Any:
    """function(*rows), whose results have a row for each row of its arguments, in that many groups of rows.

    What it computes on the way exists for one group at a time, in the backward pass too, which computes it anew.
    Where the groups do not divide the rows, there are as many as do divide both.
    """
    groups = math.gcd(groups, len(jax.tree.leaves(rows)[0]))
    if groups == 1:
        return function(*rows)
    # Without prevent_cse's barriers, which a loop's border makes needless.
    once = jax.checkpoint(lambda part: function(*part), prevent_cse=False)
    return join_rows(jax.lax.map(once, split_rows(rows, groups)))
