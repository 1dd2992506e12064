"""bnutils.evidence.intervals: intervals, paired effects, steps to a level."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from bnutils.evidence import (
    Interval,
    exact,
    expected_half_width,
    interval,
    paired_difference,
    paired_ratio,
    steps_to,
)

NAN, INF = float("nan"), float("inf")

runs = hnp.arrays(
    np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3).map(lambda v: round(v, 3))
)


def effect(low, mean, high, n=10):
    """An interval as it might have been measured."""
    return Interval(mean, low, high, n)


# --- interval ---


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_interval_agrees_with_scipy(n, confidence):
    values = np.random.default_rng(n).normal(3, 2, n)
    low, high = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
    result = interval(values, confidence)
    assert (result.low, result.high) == pytest.approx((low, high), rel=1e-10)
    assert result.mean == pytest.approx(values.mean())
    assert result.half_width == pytest.approx((high - low) / 2, rel=1e-10)
    assert (result.n, result.confidence, result.scale, result.is_exact) == (
        n,
        confidence,
        "linear",
        False,
    )


def test_interval_by_hand():
    # Mean 2, s = 1, s / sqrt(3) = 0.57735, t(0.975, 2 degrees of freedom) = 4.30265.
    result = interval([1, 2, 3])
    assert (result.mean, result.low, result.high) == pytest.approx((2, -0.48413, 4.48413), abs=1e-5)
    assert all(type(end) is float for end in (result.mean, result.low, result.high))


def test_interval_over_an_axis_is_one_interval_a_column():
    values = np.random.default_rng(0).normal(size=(6, 2, 3))
    together = interval(values)
    moved = interval(np.moveaxis(values, 0, -1), axis=-1)
    assert together.mean.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = interval(values[:, *index])
        for result in (together[index], moved[index]):
            assert isinstance(result.mean, float)
            assert (result.mean, result.low, result.high) == pytest.approx(
                (alone.mean, alone.low, alone.high)
            )
    assert together[1].mean.shape == (3,)
    assert together[1].n == 6


def test_interval_of_float32_is_computed_in_float64():
    values = np.float32(1e4) + np.arange(4, dtype=np.float32)
    assert interval(values).mean == 1e4 + 1.5


def test_intervals_cover_the_truth_as_often_as_they_say():
    values = np.random.default_rng(0).normal(size=(5, 20_000))
    result = interval(values, 0.9)
    covered = ((result.low < 0) & (result.high > 0)).mean()
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 20_000))


def test_one_replicate_says_that_nothing_can_be_concluded():
    alone = interval([0.91])
    assert (alone.mean, alone.low, alone.high, alone.n) == (0.91, -INF, INF, 1)
    assert f"{alone:.2f}" == "0.91 (one run: no interval)"
    ratio = paired_ratio([3.0], [2.0])
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((1.5, 0, INF))
    assert interval(np.ones((1, 3))).low.tolist() == [-INF] * 3


def test_an_interval_tells_its_standard_error_and_method():
    values = np.random.default_rng(3).normal(size=8)
    result = interval(values)
    assert (result.standard_error, result.degrees) == (pytest.approx(stats.sem(values)), 7)
    assert result.method == "Student's t over 8 replicates"
    a, b = np.random.default_rng(4).uniform(1, 2, size=(2, 8))
    ratio = paired_ratio(a, b)
    assert ratio.standard_error == pytest.approx(stats.sem(np.log(a / b)))
    assert ratio.method == "Student's t of the logarithm over 8 replicates"
    certain = exact(3)
    assert (certain.standard_error, certain.degrees, certain.method) == (None, None, "exact")


def test_splits_of_one_pool_widen_the_interval():
    # Nadeau and Bengio 2003: the variance of the mean is s² (1/n + n_test / n_train).
    values = np.random.default_rng(5).normal(size=10)
    free, corrected = interval(values), interval(values, overlap=0.25)
    assert corrected.half_width == pytest.approx(free.half_width * math.sqrt(1 + 10 * 0.25))
    assert corrected.mean == free.mean
    assert "corrected for splits of one pool (test/training 0.25)" in corrected.method
    a, b = np.random.default_rng(6).uniform(1, 2, size=(2, 10))
    for pair in (paired_difference, paired_ratio):
        assert pair(a, b, overlap=0.5).standard_error == pytest.approx(
            pair(a, b).standard_error * math.sqrt(1 + 10 * 0.5)
        )


@given(runs, st.integers(-100, 100), st.integers(1, 100))
def test_interval_follows_shift_and_scale(values, shift, scale):
    before, after = interval(values), interval(scale * values + shift)
    for end in ("mean", "low", "high"):
        expected = scale * getattr(before, end) + shift
        assert getattr(after, end) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([], {}, r"expected values \[replicates, \.\.\.\], got the shape \(0,\)"),
        (1.0, {}, r"got the shape \(\)"),
        (np.ones((0, 5)), {}, r"got the shape \(0, 5\)"),
        ([1.0, 2.0], {"axis": 1}, r"axis, a whole number from -1 to 0 .* \(2,\), got 1"),
        ([[1.0, 2.0]], {"axis": -3}, "axis, a whole number from -2 to 1"),
        ([1.0, 2.0], {"axis": 0.0}, r"axis, a whole number .*, got 0\.0"),
        ([1.0, 2.0], {"overlap": -0.1}, r"overlap of 0 or more, got -0\.1"),
        ([1.0, 2.0], {"overlap": NAN}, "overlap of 0 or more, got nan"),
        ([1.0, NAN, 2.0], {}, "got 1 NaN or infinite of 3 in values: decide"),
        ([1.0, INF], {}, "got 1 NaN or infinite of 2"),
        (["a", "b"], {}, "expected numbers in values"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), {}, "expected values without a mask"),
        ([1.0, 2.0], {"confidence": 0}, "confidence between 0 and 1, got 0"),
        ([1.0, 2.0], {"confidence": "95%"}, "confidence between 0 and 1, got '95%'"),
        ([1.7e308, 1.7e308, -1.7e308, -1.7e308] * 4, {}, "sums and squares fit float64"),
        ([1.0, 2.0], {"confidence": 1}, "confidence between 0 and 1, got 1"),
        ([1.0, 2.0], {"confidence": 95}, "confidence between 0 and 1, got 95"),
    ],
)
def test_interval_refuses(values, arguments, message):
    with pytest.raises(ValueError, match=message):
        interval(values, **arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 3.0}, "expected low <= mean <= high, of one shape, got 3.0, 2.0 and 3.0"),
        ({"high": 1.0}, "expected low <= mean <= high"),
        ({"low": np.ones(2)}, "of one shape"),
        ({"high": NAN}, "expected low <= mean <= high"),
        ({"scale": "ratio"}, "expected the scale 'linear' or 'log', got 'ratio'"),
        ({"mean": None}, "NaN or infinite of 1 in mean"),
        ({"mean": {}}, "expected numbers in mean"),
        ({"n": 0}, "from 1 on, got 0"),
        ({"n": 2.5}, r"from 1 on, got 2\.5"),
        ({"n": True}, "from 1 on, got True"),
        ({"confidence": 1.5}, r"confidence in \(0, 1\], got 1.5"),
        ({"confidence": 0}, r"confidence in \(0, 1\], got 0"),
        ({"confidence": "high"}, r"confidence in \(0, 1\], got 'high'"),
    ],
)
def test_an_interval_is_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Interval(**{"mean": 2.0, "low": 1.0, "high": 3.0, "n": 5, **fields})


def test_the_width_to_expect_is_that_of_interval():
    values = np.random.default_rng(0).normal(size=12)
    sd = values.std(ddof=1)
    assert expected_half_width(sd, 12) == pytest.approx(interval(values).half_width)
    for options in ({"confidence": 0.5}, {"overlap": 0.25}, {"confidence": 0.9, "overlap": 1.0}):
        half = interval(values, **options).half_width
        assert expected_half_width(sd, 12, **options) == pytest.approx(half)
        assert half != pytest.approx(interval(values).half_width)
    np.testing.assert_allclose(
        expected_half_width([sd, 2 * sd], 12)[1], 2 * interval(values).half_width
    )


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (effect(0.914, 0.92, 0.926), ".3f", "0.920 ± 0.006"),
        (effect(0.914, 0.92, 0.926), ".1%", "92.0% ± 0.6%"),
        (effect(356, 384, 412), ".0f", "384 ± 28"),
        (replace(effect(6.1, 6.9, 7.8), scale="log"), ".1f", "6.9 [6.1, 7.8]"),
        (exact(3841), ",.0f", "3,841"),
        (exact(1e-7), ".1e", "1.0e-07"),
    ],
)
def test_format(value, spec, text):
    assert f"{value:{spec}}" == text


def test_str_and_several_intervals():
    assert str(effect(0.914, 0.92, 0.926)) == "0.92 ± 0.006"
    several = interval(np.random.default_rng(0).normal(size=(5, 3)))
    with pytest.raises(ValueError, match=r"intervals of shape \(3,\): index one"):
        format(several, ".2f")


def test_one_of_several_intervals_is_that_of_its_column():
    values = np.random.default_rng(0).normal(size=(5, 3))
    one, alone = interval(values, overlap=0.1)[1], interval(values[:, 1], overlap=0.1)
    for part in ("mean", "low", "high", "standard_error", "half_width"):
        assert getattr(one, part) == pytest.approx(getattr(alone, part)), part
    for part in ("n", "confidence", "scale", "degrees", "method"):
        assert getattr(one, part) == getattr(alone, part), part


# --- differences and ratios ---


def test_paired_difference_is_tighter_than_two_intervals():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, 10)
    a, b = shared + 0.5 + rng.normal(0, 0.1, 10), shared + rng.normal(0, 0.1, 10)
    result = paired_difference(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert result.low > 0
    assert interval(a).low < interval(b).high  # which the two arms alone would not have shown


@given(runs)
def test_paired_difference_of_swapped_arms_is_its_negative(a):
    b = a[::-1] / 2
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_paired_ratio_by_hand():
    # Ratios 1, 2 and 4: mean log2 is 1, its standard deviation 1.
    result = paired_ratio([3, 4, 20], [3, 2, 5])
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (result.mean, result.low, result.high) == pytest.approx(
        (2, 2 ** (1 - half), 2 ** (1 + half)), rel=1e-9
    )
    assert result.scale == "log"


@given(hnp.arrays(np.float64, (2, 6), elements=st.floats(0.01, 100)))
def test_paired_ratio_of_swapped_arms_is_its_inverse(arms):
    forth, back = paired_ratio(*arms), paired_ratio(*arms[::-1])
    assert (forth.mean, forth.low, forth.high) == pytest.approx(
        (1 / back.mean, 1 / back.high, 1 / back.low), rel=1e-9
    )


def test_pairs_over_an_axis():
    a, b = np.random.default_rng(0).uniform(1, 2, size=(2, 6, 3))
    for pair in (paired_difference, paired_ratio):
        together, alone = pair(a, b), pair(a[:, 1], b[:, 1])
        assert together[1].low == pytest.approx(alone.low)
        assert together[1].scale == alone.scale


@pytest.mark.parametrize("pair", [paired_difference, paired_ratio])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2, 3], [1, 2], r"the same seeds in each, got \(3,\) and \(2,\)"),
        ([[1], [2]], [1, 2], "the same seeds in each"),
        ([1, INF], [1, 2], r"1 NaN or infinite of 2 in a: .*np\.minimum\(steps, last_step\)"),
        ([1, 2], [NAN, 2], "1 NaN or infinite of 2 in b"),
        ([], [], r"got the shape \(0,\)"),
    ],
)
def test_pairs_refuse(pair, a, b, message):
    with pytest.raises(ValueError, match=message):
        pair(a, b)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_ratio_needs_positive_values(bad):
    for arms in ([[1, bad], [1, 2]], [[1, 2], [1, bad]]):
        with pytest.raises(ValueError, match="expected positive values"):
            paired_ratio(*arms)


# --- steps to a threshold ---


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        ([0.1, 0.5, 0.9], 0.5, 20),  # at the threshold is there
        ([0.1, 0.5, 0.9], 0.6, 40),
        ([0.9, 0.1, 0.9], 0.5, 0),  # there at once, whatever follows
        ([0.1, 0.2, 0.3], 0.5, INF),
        ([NAN, NAN, 0.9], 0.5, 40),
        ([NAN, NAN, NAN], 0.5, INF),
    ],
)
def test_steps_to(values, threshold, expected):
    assert steps_to([values], [0, 20, 40], threshold) == [expected]


def test_steps_to_keeps_leading_axes_and_turns_for_a_loss():
    values = np.random.default_rng(0).uniform(size=(4, 3, 5))
    steps = np.arange(5) * 10
    result = steps_to(values, steps, 0.7)
    assert result.shape == (4, 3)
    for index in np.ndindex(4, 3):
        there = [step for step, v in zip(steps, values[index], strict=True) if v >= 0.7]
        assert result[index] == min(there, default=INF)
    assert steps_to([-3.0, -2.0, -1.0][::-1], [1, 2, 3], -2.0) == 1
    falling = np.array([3.0, 2.0, 1.0])
    assert steps_to(-falling, [1, 2, 3], -2.0) == 2


def test_a_run_that_never_got_there_bounds_the_ratio_from_below():
    steps = np.array([0, 100, 200])
    slow = steps_to([[0.1, 0.2, 0.9], [0.1, 0.2, 0.3]], steps, 0.8)
    quick = steps_to([[0.1, 0.9, 0.9], [0.1, 0.8, 0.9]], steps, 0.8)
    with pytest.raises(ValueError, match="in a"):
        paired_ratio(slow, quick)
    assert paired_ratio(np.minimum(slow, steps[-1]), quick).mean == pytest.approx(2)


@pytest.mark.parametrize(
    ("values", "steps", "threshold", "message"),
    [
        (np.ones((2, 3)), [1, 2], 0.5, r"got \(2, 3\) and \(2,\)"),
        (np.ones((2, 3)), [[1, 2, 3]], 0.5, r"and \(1, 3\)"),
        (np.ones((2, 0)), [], 0.5, "of shape"),
        (np.ones((2, 2)), [2, 1], 0.5, "steps that increase"),
        (np.ones((2, 2)), [1, 1], 0.5, "steps that increase"),
        (np.ones((2, 2)), [1, 2], NAN, "got NaN"),
        (np.ones((2, 2)), ["a", "b"], 0.5, "numbers in steps"),
        ([["a", "b"]], [1, 2], 0.5, "numbers in values"),
        (np.ma.masked_array(np.ones((2, 2))), [1, 2], 0.5, "values without a mask"),
    ],
)
def test_steps_to_refuses(values, steps, threshold, message):
    with pytest.raises(ValueError, match=message):
        steps_to(values, steps, threshold)
