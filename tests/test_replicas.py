"""Merged statistics against those of all rows, and the time of an all-reduce step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnutils.replicas import ALGORITHMS, Link, merge


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
    means = [[1.0, np.nan], [99, 5], [3, 1]]
    variances = [[1.0, np.nan], [-1, 2], [1, 0]]
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


def swaps_by_hand(devices, size, latency, bandwidth, halving):
    """Let devices swap, round after round: all that they have, or half of what they still sum."""
    paired = 1 << (devices.bit_length() - 1)
    sums = np.eye(devices)[:, None, :].repeat(paired, axis=1)  # [device, piece, who is in it]
    mine = np.ones((devices, paired), bool)  # pieces that a device still sums, or has the sum of
    seconds, whole = 0.0, latency + size / bandwidth
    if devices > paired:
        sums[: devices - paired] += sums[paired:]
        seconds += whole
    near = [1 << i for i in range(paired.bit_length() - 1)]
    for step in reversed(near) if halving else near:
        old = sums.copy()
        for d in range(paired):
            if halving:
                mine[d] &= (np.arange(paired) & step) == (d & step)
            sums[d, mine[d]] += old[d ^ step, mine[d]]
        seconds += latency + mine[0].mean() * size / bandwidth
    for step in near if halving else []:
        old, had = sums.copy(), mine.copy()
        seconds += latency + mine[0].mean() * size / bandwidth
        for d in range(paired):
            sums[d, had[d ^ step]] = old[d ^ step, had[d ^ step]]
            mine[d] |= had[d ^ step]
    if devices > paired:
        sums[paired:] = sums[: devices - paired]
        seconds += whole
    assert (sums == 1).all()
    return seconds


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 7, 8, 12])
def test_an_all_reduce_takes_what_its_rounds_take(devices):
    link, given = Link(latency=3.0, bandwidth=5.0), (devices, 700, 3.0, 5.0)
    taken = {algorithm: link.all_reduce(700, devices, algorithm) for algorithm in ALGORITHMS}
    assert taken["ring"] == pytest.approx(ring_by_hand(*given))
    assert taken["doubling"] == pytest.approx(swaps_by_hand(*given, halving=False))
    assert taken["halving"] == pytest.approx(swaps_by_hand(*given, halving=True))
    assert link.all_reduce(700, devices) == min(taken.values())


@pytest.mark.parametrize("devices", [2, 4, 64, 1024])
def test_halving_sends_no_more_than_the_ring_in_fewer_messages(devices):
    """Of powers of two: 2 log p messages, 2 (p - 1) / p of the numbers (Thakur and others)."""
    bits, messages = Link(0.0, 1.0), Link(1.0, np.inf)
    assert bits.all_reduce(1, devices, "halving") == 2 * (devices - 1) / devices
    assert bits.all_reduce(1, devices, "ring") == 2 * (devices - 1) / devices
    assert messages.all_reduce(1, devices, "halving") == 2 * np.log2(devices)
    assert messages.all_reduce(1, devices, "ring") == 2 * (devices - 1)
    assert messages.all_reduce(1, devices, "doubling") == np.log2(devices)


def test_the_best_depends_on_the_message_and_on_the_number_of_devices():
    link = Link(latency=1e-5, bandwidth=1e9)

    def best(size, devices):
        return min(ALGORITHMS, key=lambda each: link.all_reduce(size, devices, each))

    assert best(8, 64) == "doubling"
    assert best(1e8, 64) == "halving"
    assert best(1e8, 6) == "ring"  # no power of two: the others would send all, twice


def test_one_device_has_nothing_to_send():
    assert [Link(1.0, 1.0).all_reduce(8, 1, each) for each in (*ALGORITHMS, "best")] == [0] * 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("latency", [2e-4, 0.0])
def test_a_link_is_found_from_two_of_its_own_times(algorithm, latency):
    link = Link(latency=latency, bandwidth=3e8)
    times = [link.all_reduce(size, 6, algorithm) for size in (8, 1e7)]
    found = Link.fitted([8, 1e7], times, devices=6, algorithm=algorithm)
    assert found.latency == pytest.approx(latency, abs=1e-12)
    assert found.bandwidth == pytest.approx(3e8)


def test_what_cannot_be_a_link_is_refused():
    for latency in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="expected latency in seconds, 0 or more, got"):
            Link(latency, 1.0)
    for bandwidth in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="expected bandwidth in bytes a second, above 0, got"):
            Link(1.0, bandwidth)
    link = Link(1.0, 1.0)
    for size in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="expected size in bytes, 0 or more, got"):
            link.all_reduce(size, 2)
    for devices in (0, -2, 1.5, np.inf, np.nan, "2"):
        with pytest.raises(ValueError, match="expected devices as a whole number from 1, got"):
            link.all_reduce(1, devices)
    known = "expected algorithm as one of ring, doubling, halving"
    with pytest.raises(ValueError, match=f"{known}, best, got 'tree'"):
        link.all_reduce(1, 2, "tree")
    with pytest.raises(ValueError, match=f"{known}, got 'best'"):
        Link.fitted([8, 4000], [1.0, 2.0], devices=2, algorithm="best")
    for times, devices, told in (
        ([2.0, 1.0], 2, "a longer one that took longer, got 8 and 4000 bytes in 2 and 1 s"),
        ([1.0, 1.0], 2, "a longer one that took longer, got"),
        ([1.0, 501.0], 2, "grow no faster than the sizes, got .* measure a shorter message"),
        ([1.0, 2.0], 1, "expected two devices or more, got 1"),
    ):
        with pytest.raises(ValueError, match=told):
            Link.fitted([8, 4000], times, devices=devices, algorithm="ring")
