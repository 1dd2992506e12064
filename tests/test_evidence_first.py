"""bnutils.evidence: intervals, the choice of settings, and claims with their verdicts."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from IPython.core.formatters import DisplayFormatter
from scipy import stats

from bnutils.evidence import (
    CLAIM_MIME,
    Claim,
    Finding,
    Interval,
    best_setting,
    exact,
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


UP = Finding("rises", effect(0.1, 0.2, 0.3))
DOWN = Finding("falls", effect(-0.3, -0.2, -0.1), "below")
FLAT = Finding("stays", effect(-0.1, 0.1, 0.3))
CERTAIN = Finding("parameters", exact(3841), "above", 3000, ",.0f")

FIELDS = {
    "name": "faster",
    "claim": "A network with BN trains faster.",
    "source": "ioffe2015",
    "said_by": "Ioffe and Szegedy 2015",
    "setting": "MNIST, 784-100-100-100-10 sigmoid, SGD",
    "seeds": 10,
    "findings": [UP],
    "refuted_by": "an interval that reaches zero",
}


def claim(**changes):
    """A valid claim, changed in some fields."""
    return Claim(**{**FIELDS, **changes})


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
    assert (result.n, result.confidence, result.symmetric, result.is_exact) == (
        n,
        confidence,
        True,
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


@given(runs, st.integers(-100, 100), st.integers(1, 100))
def test_interval_follows_shift_and_scale(values, shift, scale):
    before, after = interval(values), interval(scale * values + shift)
    for end in ("mean", "low", "high"):
        expected = scale * getattr(before, end) + shift
        assert getattr(after, end) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([1.0], {}, r"at least two runs, received values of shape \(1,\)"),
        (1.0, {}, r"at least two runs, received values of shape \(\)"),
        (np.ones((1, 5)), {}, "at least two runs"),
        ([1.0, NAN, 2.0], {}, "received 1 NaN or infinite of 3 in values: decide"),
        ([1.0, INF], {}, "received 1 NaN or infinite of 2"),
        (["a", "b"], {}, "expected numbers in values"),
        ([1.0, 2.0], {"confidence": 1}, "confidence between 0 and 1, received 1"),
        ([1.0, 2.0], {"confidence": 95}, "confidence between 0 and 1, received 95"),
    ],
)
def test_interval_refuses(values, arguments, message):
    with pytest.raises(ValueError, match=message):
        interval(values, **arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 3.0}, "expected low <= mean <= high, of one shape, received 3.0, 2.0 and 3.0"),
        ({"high": 1.0}, "expected low <= mean <= high"),
        ({"low": np.ones(2)}, "of one shape"),
        ({"high": INF}, "1 NaN or infinite of 1 in high"),
        ({"mean": None}, "NaN or infinite of 1 in mean"),
        ({"mean": {}}, "expected numbers in mean"),
        ({"n": 0}, "from 1 on, received 0"),
        ({"n": 2.5}, r"from 1 on, received 2\.5"),
        ({"n": True}, "from 1 on, received True"),
        ({"confidence": 0}, r"confidence in \(0, 1\], received 0"),
        ({"confidence": "high"}, r"confidence in \(0, 1\], received 'high'"),
    ],
)
def test_an_interval_is_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Interval(**{"mean": 2.0, "low": 1.0, "high": 3.0, "n": 5, **fields})


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (effect(0.914, 0.92, 0.926), ".3f", "0.920 ± 0.006"),
        (effect(0.914, 0.92, 0.926), ".1%", "92.0% ± 0.6%"),
        (effect(356, 384, 412), ".0f", "384 ± 28"),
        (replace(effect(6.1, 6.9, 7.8), symmetric=False), ".1f", "6.9 [6.1, 7.8]"),
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
    assert not result.symmetric


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
        assert together[1].symmetric == alone.symmetric


@pytest.mark.parametrize("pair", [paired_difference, paired_ratio])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2, 3], [1, 2], r"the same seeds in each, received \(3,\) and \(2,\)"),
        ([[1], [2]], [1, 2], "the same seeds in each"),
        ([1, INF], [1, 2], r"1 NaN or infinite of 2 in a: .*np\.minimum\(steps, last_step\)"),
        ([1, 2], [NAN, 2], "1 NaN or infinite of 2 in b"),
        ([1], [2], "at least two runs"),
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
        (np.ones((2, 3)), [1, 2], 0.5, r"received \(2, 3\) and \(2,\)"),
        (np.ones((2, 3)), [[1, 2, 3]], 0.5, r"and \(1, 3\)"),
        (np.ones((2, 0)), [], 0.5, "of shape"),
        (np.ones((2, 2)), [2, 1], 0.5, "steps that increase"),
        (np.ones((2, 2)), [1, 1], 0.5, "steps that increase"),
        (np.ones((2, 2)), [1, 2], NAN, "received NaN"),
    ],
)
def test_steps_to_refuses(values, steps, threshold, message):
    with pytest.raises(ValueError, match=message):
        steps_to(values, steps, threshold)


# --- the choice of a setting ---


@pytest.mark.parametrize(
    ("validation", "maximize", "expected"),
    [
        ([[0.1, 0.9, 0.5], [0.2, 0.8, 0.6]], True, (1,)),
        ([[0.1, 0.9, 0.5], [0.2, 0.8, 0.6]], False, (0,)),
        ([[0.5, 1.0, 0.6], [0.5, 0.0, 0.6]], True, (2,)),  # the mean, not the luckiest seed
        ([[0.5, 0.5], [0.5, 0.5]], True, (0,)),
        ([[NAN, 0.1], [1.0, 0.1]], True, (1,)),
        ([[NAN, 9.0], [1.0, 9.0]], False, (1,)),
        ([[INF, 40.0], [20.0, 40.0]], False, (1,)),  # a run that never got there
        ([[[0.1, 0.2], [0.4, 0.3]]], True, (1, 0)),
    ],
)
def test_best_setting(validation, maximize, expected):
    best = best_setting(validation, maximize=maximize)
    assert best == expected
    assert all(type(i) is int for i in best)


@given(hnp.arrays(np.float64, (3, 4, 2), elements=st.floats(0, 1)), st.permutations(range(3)))
def test_best_setting_has_the_best_mean_whatever_the_order_of_seeds(validation, order):
    best = best_setting(validation)
    means = validation.mean(axis=0)
    assert means[best] == means.max()
    assert means[best_setting(validation[order])] == pytest.approx(means.max())


def test_test_scores_of_the_best_setting_have_one_value_a_seed():
    validation = np.random.default_rng(0).uniform(size=(5, 3, 4))
    test = np.random.default_rng(1).uniform(size=(5, 3, 4))
    i, j = best = best_setting(validation)
    np.testing.assert_array_equal(test[:, *best], test[:, i, j])
    assert test[:, 0, *best_setting(validation[:, 0])].shape == (5,)


@pytest.mark.parametrize(
    ("validation", "maximize", "message"),
    [
        ([0.1, 0.2], True, r"of shape \[seeds, settings, \.\.\.\], received \(2,\)"),
        (np.ones((0, 3)), True, r"received \(0, 3\)"),
        (np.ones((3, 0)), True, r"received \(3, 0\)"),
        ([[NAN, NAN]], True, "there is no best one"),
        ([[INF, NAN]], False, "there is no best one"),
    ],
)
def test_best_setting_refuses(validation, maximize, message):
    with pytest.raises(ValueError, match=message):
        best_setting(validation, maximize=maximize)


# --- findings ---


@pytest.mark.parametrize(
    ("measured", "claimed", "threshold", "holds"),
    [
        (effect(0.1, 0.2, 0.3), "above", 0, True),
        (effect(-0.1, 0.2, 0.3), "above", 0, False),
        (effect(0.0, 0.2, 0.3), "above", 0, False),  # the end itself is not above
        (effect(0.1, 0.2, 0.3), "above", 0.1, False),
        (effect(0.1, 0.2, 0.3), "below", 0, False),
        (effect(-0.3, -0.2, -0.1), "below", 0, True),
        (effect(-0.3, -0.2, 0.1), "below", 0, False),
        (effect(-0.3, -0.2, 0.0), "below", 0, False),
        (effect(0.2, 0.2, 0.2), "above", 0.1, True),
        (exact(2), "above", 1, True),
        (exact(1), "above", 1, False),
    ],
)
def test_a_finding_holds_where_the_whole_interval_does(measured, claimed, threshold, holds):
    assert Finding("x", measured, claimed, threshold).holds is holds


@pytest.mark.parametrize(
    ("finding", "effect_text", "claim_text"),
    [
        (UP, "0.200 [0.100, 0.300]", "above 0"),
        (CERTAIN, "3,841", "above 3000"),
        (
            Finding("ratio", effect(6.12, 6.94, 7.81), "above", 1, ".1f"),
            "6.9 [6.1, 7.8]",
            "above 1",
        ),
        (
            Finding("rain", effect(6.41, 6.44, 6.47), "below", 7.67, ".2f", "mm"),
            "6.44 [6.41, 6.47] mm",
            "below 7.67 mm",
        ),
        (
            Finding("accuracy", effect(0.9127, 0.923, 0.9349), "above", 0.289, ".1%"),
            "92.3% [91.3%, 93.5%]",
            "above 28.9%",
        ),
        (
            Finding("error", exact(2.66e-7), "below", 1e-6, ".1e"),
            "2.7e-07",
            "below 1e-06",
        ),
        (
            Finding("nothing", effect(-0.0004, -0.0001, 0.0003)),
            "0.000 [0.000, 0.000]",  # no "-0.000"
            "above 0",
        ),
    ],
)
def test_what_a_finding_shows(finding, effect_text, claim_text):
    assert (finding.effect_text, finding.claim_text) == (effect_text, claim_text)


@given(
    st.tuples(*[st.floats(-10, 10)] * 3).map(sorted),
    st.integers(-20, 20).map(lambda tenths: tenths / 10),
    st.sampled_from(["above", "below"]),
    st.sampled_from([".1f", ".3f", ".1%", ".3e"]),
)
def test_rounding_never_makes_a_finding_hold(ends, threshold, claimed, spec):
    low, mean, high = ends
    finding = Finding("x", effect(low, mean, high), claimed, threshold, spec)
    truth = low > threshold if claimed == "above" else high < threshold
    assert truth or not finding.holds
    # What is judged is what is shown, and rounding it again changes nothing.
    shown = float(finding.effect_text.split()[0].rstrip("%")) / (100 if "%" in spec else 1)
    assert finding.effect.mean == pytest.approx(shown, rel=1e-12)
    assert replace(finding) == finding


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": " "}, "expected label to be a text, received ' '"),
        ({"effect": 0.2}, r"expected one Interval as effect, received 0\.2"),
        ({"effect": interval(np.eye(3))}, "expected one Interval as effect"),
        ({"claimed": "over"}, "received 'over'"),
        ({"threshold": 0.0004}, r"a threshold that '\.3f' shows in full, received 0\.0004"),
        ({"threshold": NAN}, "received nan"),
        ({"threshold": INF}, "received inf"),
        ({"threshold": None}, "received None"),
        ({"spec": "bogus"}, "expected a format code like '.3f', received 'bogus'"),
        ({"spec": "9.1f"}, "received '9.1f'"),
        ({"spec": "d"}, "received 'd'"),
        ({"spec": None}, "received None"),
        ({"unit": None}, "expected a text as unit"),
    ],
)
def test_finding_refuses(fields, message):
    arguments = {"label": "x", "effect": effect(0.1, 0.2, 0.3), **fields}
    with pytest.raises(ValueError, match=message):
        Finding(**arguments)


# --- claims ---


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([UP], "holds"),
        ([UP, DOWN, CERTAIN], "holds"),
        ([UP, FLAT], "holds in part"),
        ([FLAT, DOWN, FLAT], "holds in part"),
        ([FLAT], "does not hold here"),
        ([FLAT, FLAT], "does not hold here"),
    ],
)
def test_the_verdict_follows_from_the_findings(findings, verdict):
    result = claim(findings=findings)
    assert result.verdict == verdict
    held = sum(finding.holds for finding in findings)
    assert str(result).endswith(f"verdict: {verdict} ({held} of {len(findings)} findings)")
    assert f'data-verdict="{verdict.replace(" ", "-")}"' in result._repr_mimebundle_()["text/html"]
    assert result.to_json()["verdict"] == verdict


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            ({name: " "}, f"expected {name} to be a text")
            for name in ("name", "claim", "source", "said_by", "setting", "refuted_by")
        ),
        ({"name": "Fewer-steps"}, "received 'Fewer-steps'"),
        ({"name": "fewer steps"}, "received 'fewer steps'"),
        ({"name": "fewer--steps"}, "received 'fewer--steps'"),
        ({"name": "3-steps"}, "received '3-steps'"),
        ({"name": 3}, "expected name to be a text, received 3"),
        ({"source": "Ioffe and Szegedy"}, "expected a citation key like 'ioffe2015'"),
        ({"findings": []}, "expected a list of findings"),
        ({"findings": UP}, "expected a list of findings"),
        ({"findings": None}, "expected a list of findings, received None"),
        ({"findings": ["up"]}, "expected a list of findings"),
        ({"seeds": 10.0}, r"a whole number of seeds, received 10\.0"),
        ({"seeds": -1, "findings": [CERTAIN]}, "a whole number of seeds, received -1"),
        ({"seeds": 12}, "expected seeds=10, the fewest runs behind any finding, received 12"),
        (
            {"seeds": 4, "findings": [Finding("x", effect(1, 2, 3, n=4))]},
            "at least 5 runs a finding, received 4",
        ),
        (
            {"findings": [UP, Finding("x", replace(effect(1, 2, 3), confidence=0.9))]},
            "findings of one confidence level",
        ),
    ],
)
def test_claim_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        claim(**fields)


def test_seeds_are_the_fewest_behind_any_finding():
    more = Finding("more runs", effect(1, 2, 3, n=20))
    assert claim(findings=[more, UP, CERTAIN]).seeds == 10
    assert claim(findings=[CERTAIN], seeds=0).verdict == "holds"


def test_the_card_as_text():
    ratio = Finding("steps to 80 %, no BN ÷ BN", effect(6.1, 6.9, 7.8), "above", 1, ".1f")
    result = claim(findings=[ratio, FLAT], setting="word " * 30)
    assert str(result).splitlines() == [
        "Claim: A network with BN trains faster.",
        "  said by     Ioffe and Szegedy 2015 [ioffe2015]",
        "  setting     " + " ".join(["word"] * 16),
        "              " + " ".join(["word"] * 14),
        "  seeds       10",
        "  refuted by  an interval that reaches zero",
        "",
        "  measured here              effect [95% interval]  holds if  holds",
        "  steps to 80 %, no BN ÷ BN  6.9 [6.1, 7.8]         above 1   yes",
        "  stays                      0.100 [-0.100, 0.300]  above 0   no",
        "",
        "  verdict: holds in part (1 of 2 findings)",
    ]
    assert "interval]" not in str(claim(findings=[CERTAIN]))


class Page(HTMLParser):
    """Reads a card: checks that tags pair up, and keeps tags, attributes and text."""

    def __init__(self, text):
        """Read it all."""
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        """Open."""
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Close what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep the text."""
        if data.strip():
            self.text.append(data.strip())


def test_the_card_as_html():
    ratio = Finding("steps to 80 %, no BN ÷ BN", effect(6.1, 6.9, 7.8), "above", 1, ".1f")
    page = Page(claim(findings=[ratio, FLAT])._repr_mimebundle_()["text/html"])
    tag, attributes = page.tags[0]
    assert (tag, attributes["class"], attributes["id"], attributes["data-verdict"]) == (
        "section",
        "bn-claim",
        "claim-faster",
        "holds-in-part",
    )
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert attributes["aria-labelledby"] in identifiers
    assert not {tag for tag, _ in page.tags} & {"h1", "h2", "h3", "h4", "h5", "h6", "style", "a"}
    assert not any("style" in attributes for _, attributes in page.tags)
    assert ("cite", {"data-key": "ioffe2015"}) in page.tags
    assert page.text == [
        *("Claim:", "A network with BN trains faster."),
        *("Said by", "Ioffe and Szegedy 2015"),
        *("measured here", "effect [95% interval]", "holds if", "holds"),
        *("steps to 80 %, no BN ÷ BN", "6.9 [6.1, 7.8]", "above 1", "yes"),
        *("stays", "0.100 [-0.100, 0.300]", "above 0", "no"),
        *("Setting", "MNIST, 784-100-100-100-10 sigmoid, SGD"),
        *("Seeds", "10"),
        *("Would have refuted it", "an interval that reaches zero"),
        *("Verdict:", "holds in part", "(1 of 2 findings)"),
    ]


def test_html_is_escaped():
    nasty = "<script>alert('&amp;')</script> \" < &"
    finding = Finding(nasty, effect(0.1, 0.2, 0.3), unit="<b>")
    result = claim(claim=nasty, said_by=nasty, setting=nasty, refuted_by=nasty, findings=[finding])
    page = Page(result._repr_mimebundle_()["text/html"])
    assert not {tag for tag, _ in page.tags} & {"script", "b"}
    assert page.text.count(nasty) == 5


def test_a_notebook_stores_the_card_and_its_data():
    output, metadata = DisplayFormatter().format(claim())
    assert set(output) == {"text/plain", "text/html", CLAIM_MIME}
    cell = nbformat.v4.new_code_cell(
        execution_count=1,
        outputs=[
            nbformat.v4.new_output(
                "execute_result", data=output, metadata=metadata, execution_count=1
            )
        ],
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbformat.validate(notebook)
    read = nbformat.reads(nbformat.writes(notebook), as_version=4)
    assert Claim.from_json(read.cells[0].outputs[0].data[CLAIM_MIME]) == claim()


def test_json_has_every_field_and_comes_back():
    original = claim(findings=[UP, DOWN, FLAT, CERTAIN])
    data = json.loads(json.dumps(original.to_json(), allow_nan=False))
    assert set(data) == {*FIELDS, "verdict"}
    assert data["findings"][0] == {
        "label": "rises",
        "effect": {
            "mean": 0.2,
            "low": 0.1,
            "high": 0.3,
            "n": 10,
            "confidence": 0.95,
            "symmetric": True,
        },
        "claimed": "above",
        "threshold": 0.0,
        "spec": ".3f",
        "unit": "",
        "holds": True,
    }
    assert Claim.from_json(data) == original


@given(st.lists(st.tuples(*[st.floats(-10, 10)] * 3).map(sorted), min_size=1, max_size=3))
def test_last_bits_do_not_show(ends):
    def shown(nudge):
        findings = [
            Finding("x", effect(*(round(end, 3) + nudge for end in three))) for three in ends
        ]
        return claim(findings=findings)._repr_mimebundle_()

    assert shown(1e-9) == shown(0) == shown(-1e-9)
    data = json.loads(json.dumps(shown(0)[CLAIM_MIME]))
    assert Claim.from_json(data).to_json() == data


def change(path, value):
    """A claim's JSON with one entry changed."""
    data = json.loads(json.dumps(claim(findings=[UP, FLAT]).to_json()))
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (change(["verdict"], "holds"), "'faster' does not follow from its findings"),
        (change(["findings", 1, "holds"], True), "does not follow from its findings"),
        (change(["findings", 0, "effect", "mean"], 0.20001), "a rounded number was changed"),
        (change(["findings", 0, "effect", "mean"], "0.2"), "a rounded number was changed"),
        (change(["findings", 0, "effect", "low"], 0.9), "expected low <= mean <= high"),
        (change(["findings", 0, "effect"], 3), "fields of Interval, .* received 3"),
        (change(["findings", 0, "colour"], "red"), "fields of Finding, .*'colour'"),
        (change(["findings"], "none"), "expected a list of findings, received 'none'"),
        (change(["extra"], 1), "fields of Claim, .*'extra'"),
        (change(["seeds"], 11), "expected seeds=10"),
        ([], r"fields of Claim, .* received \[\]"),
        ({}, r"fields of Claim, .* received \[\]"),
    ],
)
def test_from_json_refuses(data, message):
    with pytest.raises(ValueError, match=message):
        Claim.from_json(data)
