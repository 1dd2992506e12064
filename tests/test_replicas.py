"""Merged statistics against those of all rows, and the time of an all-reduce step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnutils.replicas import WAYS, Link, merge


def described(parts):
    return [len(p) for p in parts], [p.mean(axis=0) for p in parts], [p.var(axis=0) for p in parts]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    features=st.integers(1, 4),
    offset=st.sampled_from([0.0, 1e3, 1e8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_merging_parts_gives_what_all_rows_give(sizes, features, offset, seed):
    rng = np.random.default_rng(seed)
    parts = [offset + rng.normal(rng.normal(0, 5), 2, size=(size, features)) for size in sizes]
    x = np.concatenate(parts)
    count, mean, variance = merge(*described(parts))
    assert np.array_equal(count, np.full(features, len(x)))
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var(axis=0), rtol=1e-6, atol=1e-12 * (1 + offset))


def test_equal_parts_give_the_mean_of_variances_plus_the_variance_of_means():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(8, 3)), rng.uniform(1, 2, size=(8, 3))
    _, _, variance = merge(np.full(8, 5), means, variances)
    np.testing.assert_allclose(variance, variances.mean(axis=0) + means.var(axis=0))


def test_a_part_without_values_changes_nothing_even_in_some_features():
    counts = [[2, 0], [0, 3], [2, 1]]
    means = [[1.0, 99], [99, 5], [3, 1]]
    variances = [[1.0, 99], [99, 2], [1, 0]]
    count, mean, variance = merge(counts, means, variances)
    assert count.tolist() == [4, 4]
    assert mean.tolist() == [2, 4]
    assert variance.tolist() == [2, 4.5]


def test_merging_in_two_stages_is_merging_at_once():
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=(size, 3)) for size in (1, 4, 2, 6)]
    two = [merge(*described(pair)) for pair in (parts[:2], parts[2:])]
    for staged, at_once in zip(
        merge(*zip(*two, strict=True)), merge(*described(parts)), strict=True
    ):
        np.testing.assert_allclose(staged, at_once)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([1, 1], [0.0, 1.0], [1.0, 1.0]), r"one shape \[parts, features\], got \(2,\) and \(2,\)"),
        (([1, 1], [[0.0], [1]], [[1.0]]), r"got \(2, 1\) and \(1, 1\)"),
        (([1, 1, 1], [[0.0], [1]], [[1.0], [1]]), r"expected counts as \(2,\) or \(2, 1\), got"),
        ((3, [[0.0], [1]], [[1.0], [1]]), r"expected counts as \(2,\) or \(2, 1\), got \(\)"),
        (([1, -1], [[0.0], [1]], [[1.0], [1]]), "expected counts of 0 or more, got -1"),
        (([1, 1], [[0.0], [1]], [[1.0], [-2]]), "expected variances of 0 or more, got -2"),
        (([1, 1], [[0.0], [np.nan]], [[1.0], [1]]), "expected finite means, got nan"),
        (([0, 0], [[0.0], [1]], [[1.0], [1]]), "got a feature with a count of 0"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        merge(*arguments)


def ring_by_hand(devices, size, latency, bandwidth):
    """Let the pieces travel, one round after the other."""
    seconds, sums = 0.0, np.eye(devices)[:, None, :].repeat(devices, axis=1)  # who is in it
    pieces = [{piece: sums[device, piece] for piece in range(devices)} for device in range(devices)]
    for phase in ("sum", "hand out"):
        for turn in range(devices - 1):
            start = 0 if phase == "sum" else 1
            sent = [(d, (d - turn + start) % devices) for d in range(devices)]
            moved = [((d + 1) % devices, piece, pieces[d][piece].copy()) for d, piece in sent]
            for to, piece, values in moved:
                pieces[to][piece] = values + (pieces[to][piece] if phase == "sum" else 0)
            seconds += latency + size / devices / bandwidth
    assert all((value == 1).all() for held in pieces for value in held.values())
    return seconds


@pytest.mark.parametrize("devices", [2, 3, 4, 7])
def test_the_ring_takes_what_its_rounds_take(devices):
    link = Link(latency=3.0, bandwidth=5.0)
    assert link.all_reduce(700, devices) == pytest.approx(ring_by_hand(devices, 700, 3.0, 5.0))


@pytest.mark.parametrize(
    ("devices", "rounds"), [(1, 0), (2, 1), (3, 3), (4, 2), (6, 4), (8, 3), (1000, 11), (1024, 10)]
)
def test_doubling_swaps_all_numbers_once_a_round(devices, rounds):
    link = Link(latency=3.0, bandwidth=5.0)
    assert link.all_reduce(700, devices, "doubling") == rounds * (3.0 + 700 / 5.0)


def test_short_messages_go_faster_by_doubling_and_long_ones_around_the_ring():
    link = Link(latency=1e-5, bandwidth=1e9)
    short, long = (min(WAYS, key=lambda way: link.all_reduce(size, 64, way)) for size in (8, 1e8))
    assert (short, long) == ("doubling", "ring")


def test_one_device_has_nothing_to_send():
    assert [Link(1.0, 1.0).all_reduce(8, 1, way) for way in WAYS] == [0, 0]


def test_a_link_is_found_from_two_of_its_own_times():
    link = Link(latency=2e-4, bandwidth=3e8)
    found = Link.between([8, 1e7], [link.all_reduce(size, 2) for size in (8, 1e7)])
    assert (found.latency, found.bandwidth) == pytest.approx((2e-4, 3e8))


def test_what_cannot_be_a_link_is_refused():
    for latency in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="expected latency in seconds, 0 or more, got"):
            Link(latency, 1.0)
    for bandwidth in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="expected bandwidth in bytes a second, above 0, got"):
            Link(1.0, bandwidth)
    link = Link(1.0, 1.0)
    for size in (-1, np.nan):
        with pytest.raises(ValueError, match="expected size in bytes, 0 or more, got"):
            link.all_reduce(size, 2)
    for devices in (0, -2, 1.5):
        with pytest.raises(ValueError, match="expected devices as a whole number from 1, got"):
            link.all_reduce(1, devices)
    with pytest.raises(ValueError, match="expected way as one of ring, doubling, got 'tree'"):
        link.all_reduce(1, 2, "tree")
    for times in ([2.0, 1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="a longer one that took longer, got"):
            Link.between([8, 4000], times)
