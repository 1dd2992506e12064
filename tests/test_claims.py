"""bnutils.evidence: findings with margins, hypotheses, claims, and their common correction."""

import json
import math
from dataclasses import FrozenInstanceError, asdict, replace
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from scipy import stats

from bnutils.evidence import (
    CLAIM_MIME,
    Claim,
    Finding,
    Hypothesis,
    Interval,
    Study,
    exact,
    holm,
    interval,
    paired_ratio,
)
from bnutils.evidence.claims import KINDS, OUTCOMES, _half_unit
from bnutils.evidence.correction import adjust

NAN, INF = float("nan"), float("inf")


def effect(low, mean, high, n=10, scale="linear"):
    """An interval as it might have been measured."""
    return Interval(mean, low, high, n, scale=scale, degrees=n - 1, method="by hand")


def ratio(low, mean, high):
    return effect(low, mean, high, scale="log")


WHY = "smaller ones are not seen"
UP = Finding("rises", effect(0.1, 0.2, 0.3), reason=WHY)
DOWN = Finding("falls", effect(-0.3, -0.2, -0.1), "below")
FLAT = Finding("stays", effect(-0.1, 0.1, 0.3), reason=WHY)
CERTAIN = Finding("parameters", exact(3841), "above", null=3000, spec=",.0f")

FIELDS = {
    "name": "faster",
    "claim": "A network with BN trains faster.",
    "kind": "measured",
    "source": "ioffe2015",
    "said_by": "Ioffe and Szegedy 2015",
    "setting": "MNIST, 784-100-100-100-10 sigmoid, SGD",
    "primary": UP,
}

CHOSEN = {
    "BN": {
        "learning_rate": {"value": 3.0, "share": 0.9, "edge": True},
        "initial_scale": {"value": 0.1, "share": 1.0, "edge": False},
    },
    "no BN": {"activation": {"value": "tanh", "share": 0.5, "edge": False}},
}


def claim(**changes):
    """A valid claim, changed in some fields."""
    return Claim(**{**FIELDS, **changes})


# --- outcomes ---

# Low, high, and the outcome of a claim of "above", "below" and "within", at margins of 1 around 0.
LINEAR = [
    (1.1, 2.0, "shown", "contrary shown", "contrary shown"),
    (1.0, 2.0, "undecided", "undecided", "undecided"),  # an end on the bound is not beyond it
    (-2.0, -1.1, "contrary shown", "shown", "contrary shown"),
    (-2.0, -1.0, "undecided", "undecided", "undecided"),
    (-0.9, 0.9, "no difference", "no difference", "shown"),
    (0.5, 0.9, "no difference", "no difference", "shown"),
    (-1.0, 0.9, "undecided", "undecided", "undecided"),
    (-0.9, 1.0, "undecided", "undecided", "undecided"),
    (0.5, 1.5, "undecided", "undecided", "undecided"),
    (-1.5, 1.5, "undecided", "undecided", "undecided"),
    (-3.0, 0.5, "undecided", "undecided", "undecided"),
]


@pytest.mark.parametrize("claimed", ["above", "below", "within"])
@pytest.mark.parametrize(("low", "high", "above", "below", "within"), LINEAR)
def test_outcomes_with_a_margin(low, high, above, below, within, claimed):
    expected = {"above": above, "below": below, "within": within}[claimed]
    middle = (low + high) / 2
    assert Finding("x", effect(low, middle, high), claimed, 1).outcome == expected
    # Elsewhere on the line,
    moved = effect(low + 8, middle + 8, high + 8)
    assert Finding("x", moved, claimed, 1, null=8).outcome == expected
    # and for ratios: powers of two, so that the bounds are exact.
    powers = ratio(2.0**low, 2.0**middle, 2.0**high)
    assert Finding("x", powers, claimed, 2).outcome == expected
    doubled = ratio(2.0 ** (low + 1), 2.0 ** (middle + 1), 2.0 ** (high + 1))
    assert Finding("x", doubled, claimed, 2, null=2).outcome == expected


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.1, 0.3, "shown", "contrary shown"),
        (-0.3, -0.1, "contrary shown", "shown"),
        (0.0, 0.3, "undecided", "undecided"),
        (-0.3, 0.0, "undecided", "undecided"),
        (-0.3, 0.3, "undecided", "undecided"),
        (0.0, 0.0, "undecided", "undecided"),
    ],
)
def test_without_a_margin_there_is_no_no_difference(low, high, above, below, scale):
    middle = (low + high) / 2
    measured = effect(low, middle, high)
    if scale == "log":
        measured = ratio(math.exp(low), math.exp(middle), math.exp(high))
    assert Finding("x", measured, "above").outcome == above
    assert Finding("x", measured, "below").outcome == below


@pytest.mark.parametrize(
    ("value", "claimed", "outcome"),
    [
        (2, "above", "shown"),
        (1, "above", "undecided"),
        (0, "above", "contrary shown"),
        (0, "below", "shown"),
    ],
)
def test_a_level_is_judged_against_its_bound(value, claimed, outcome):
    assert Finding("x", exact(value), claimed, null=1).outcome == outcome


def test_one_run_decides_nothing():
    for measured in (interval([5.0]), paired_ratio([5.0], [1.0])):
        for claimed in ("above", "below", "within"):
            finding = Finding("x", measured, claimed, 2)
            assert (finding.outcome, finding.p_value) == ("undecided", 1)
    assert Finding("x", interval([5.0])).effect_text == "5.000 (one run: no interval)"


def test_the_outcome_is_judged_before_rounding():
    # Both ends are shown as the bound itself.
    over = Finding("x", effect(0.0104, 0.02, 0.03), margin=0.01, spec=".2f", reason=WHY)
    under = Finding("x", effect(0.0096, 0.02, 0.03), margin=0.01, spec=".2f", reason=WHY)
    assert over.effect_text == under.effect_text == "0.02 [0.01, 0.03]"
    assert (over.outcome, under.outcome) == ("shown", "undecided")
    # The outcome survives the rounding of what is stored, with a record and without.
    for finding in (over, under):
        for record in ((), "race"):
            data = claim(primary=finding, record=record).to_json()
            again = Claim.from_json(json.loads(json.dumps(data)))
            assert again.outcome == finding.outcome
            assert again.to_json() == data


# --- p-values ---


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=12), st.sampled_from([0, 0.5, 2]))
def test_p_agrees_with_the_outcome(values, margin):
    finding = Finding("x", interval(values), margin=margin)
    lower, upper = finding.bounds
    ends = finding.effect.low, finding.effect.high
    if min(abs(end - bound) for end in ends for bound in (lower, upper)) > 1e-9:
        assert (finding.p_value < 0.025) == (finding.outcome != "undecided")


def test_p_is_that_of_the_t_test():
    values = np.array([0.3, 0.5, 0.2, 0.6, 0.4, 0.35])
    ratios = np.exp(values)
    for margin, alternative, claimed in [(0.1, "greater", "above"), (0.0, "greater", "below")]:
        expected = stats.ttest_1samp(values, margin, alternative=alternative).pvalue
        assert Finding("x", interval(values), claimed, margin).p_value == pytest.approx(expected)
        measured = paired_ratio(ratios, np.ones(6))
        finding = Finding("x", measured, claimed, math.exp(margin))
        assert finding.p_value == pytest.approx(expected)


def test_p_of_no_difference_is_the_larger_of_two_tests():
    values = np.array([0.1, 0.05, -0.02, 0.08, 0.03])
    expected = max(
        stats.ttest_1samp(values, -0.2, alternative="greater").pvalue,
        stats.ttest_1samp(values, 0.2, alternative="less").pvalue,
    )
    for claimed, outcome in (("above", "no difference"), ("within", "shown")):
        finding = Finding("x", interval(values), claimed, 0.2)
        assert finding.outcome == outcome
        assert finding.p_value == pytest.approx(expected)


def test_p_without_degrees_is_normal_and_follows_the_side_that_counts():
    skewed = Interval(1.0, 0.5, 9.0, 10)
    z = stats.norm.ppf(0.975)
    assert Finding("x", skewed).p_value == pytest.approx(stats.norm.sf(1 / 0.5 * z))


@pytest.mark.parametrize(("value", "p"), [(2, 0), (1, 1), (0, 0)])
def test_p_of_what_is_exact(value, p):
    assert Finding("x", exact(value), null=1).p_value == p


@pytest.mark.parametrize(
    ("value", "claimed", "p"),
    [
        *((0, "below", 0), (1, "below", 1), (2, "below", 0)),
        *((1, "within", 0), (1.4, "within", 0), (1.5, "within", 1), (0.4, "within", 0)),
    ],
)
def test_p_of_what_is_exact_is_that_of_its_outcome(value, claimed, p):
    margin = 0.5 if claimed == "within" else None
    assert Finding("x", exact(value), claimed, margin, null=1, reason=WHY).p_value == p


@pytest.mark.parametrize(("bound", "outcome", "p"), [(0.5, "shown", 0), (2e-5, "undecided", 1)])
def test_p_of_a_ratio_that_was_rounded_to_0(bound, outcome, p):
    effect = Interval(0.0, 0.0, 1e-4, 10, scale="log")
    finding = Finding("x", effect, "below", null=bound, reason=WHY)
    assert (finding.outcome, finding.p_value) == (outcome, p)


@pytest.mark.parametrize(
    ("null", "text"), [(0, "within 0.1 of zero"), (0.5, "within 0.1 of 0.5"), (-2, "of -2")]
)
def test_what_is_claimed_to_be_near_a_number_says_which(null, text):
    finding = Finding("x", exact(null), "within", 0.1, null=null, reason=WHY)
    assert finding.claim_text.endswith(text)


def test_a_finding_needs_no_reason_and_shows_the_interval_of_two_runs():
    finding = Finding("x", interval([1.0, 2.0]))
    assert (finding.reason, finding.margin_text) == ("", "none")
    assert "[" in finding.effect_text
    assert Finding("x", interval([1.0])).effect_text == "1.000 (one run: no interval)"


@pytest.mark.parametrize("kind", [Hypothesis, Study])
def test_what_is_said_before_is_said_by_name(kind):
    with pytest.raises(TypeError, match="positional"):
        kind("x")


# --- the common correction ---


def one(name, p, kind="measured", **changes):
    """A claim whose primary finding has this p: its effect is above 0, with half-width 1."""
    z = stats.norm.isf(p) / stats.norm.ppf(0.975)
    finding = Finding("x", Interval(z, z - 1, z + 1, 20), reason=WHY)
    return claim(name=name, primary=finding, kind=kind, **changes)


def test_adjusted_p_values_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and never falling.
    assert adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.4, 0.7]) == pytest.approx([0.8, 0.8])
    assert adjust([0.01, 0.01]) == pytest.approx([0.02, 0.02])
    assert adjust([]).size == 0
    # Holm's family-wise property: no adjusted value is below its own, none above Bonferroni's.
    p = np.random.default_rng(0).uniform(size=40)
    assert (adjust(p) >= p).all()
    assert (adjust(p) <= np.minimum(40 * p, 1)).all()


def test_adjusted_p_values_are_of_double_precision_at_most_1_and_in_the_order_given():
    found = adjust(np.array([1, 0, 1], dtype="int8"))
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 0.0, 1.0]
    assert adjust(np.float32([0.5, 0.25])).tolist() == [0.5, 0.5]


def test_holm_steps_down():
    # Against 0.025/3, 0.025/2 and 0.025: the second fails, and so does the third.
    claims = [one("a", 0.001), one("b", 0.02), one("c", 0.015)]
    assert [each.outcome for each in claims] == ["shown"] * 3
    assert holm(claims) == {"a": "shown", "b": "undecided", "c": "undecided"}
    assert holm([claims[0], claims[1]]) == {"a": "shown", "b": "shown"}
    assert holm([claims[1]]) == {"b": "shown"}


def test_holm_counts_what_is_undecided_and_leaves_other_kinds_alone():
    claims = [one("a", 0.02), one("b", 0.3)]
    assert holm(claims) == {"a": "undecided", "b": "undecided"}
    others = [one("a", 0.02), one("b", 0.3, "version"), one("c", 0.3, "identity")]
    assert holm(others) == {"a": "shown", "b": "undecided", "c": "undecided"}


def test_holm_keeps_contrary_outcomes_and_refuses_several_confidences():
    contrary = claim(name="d", primary=Finding("x", effect(-9, -8, -7), reason=WHY))
    assert holm([contrary, one("a", 0.3)])["d"] == "contrary shown"
    other = claim(
        name="e", primary=Finding("x", replace(effect(1, 2, 3), confidence=0.9), reason=WHY)
    )
    with pytest.raises(ValueError, match=r"one confidence, got \[0.9, 0.95\]"):
        holm([contrary, other])


def test_holm_keeps_the_chance_of_any_wrong_outcome():
    # 20 effects that are nothing, 1,000 ledgers: in 5% of them some outcome may be wrong.
    rng = np.random.default_rng(0)
    means = rng.normal(size=(1000, 20))
    half = stats.norm.ppf(0.975)
    wrong, alone = 0, 0
    for ledger in means:
        claims = [
            claim(
                name=f"c{i}", primary=Finding("x", Interval(m, m - half, m + half, 20), reason=WHY)
            )
            for i, m in enumerate(ledger)
        ]
        alone += any(each.outcome != "undecided" for each in claims)
        wrong += any(outcome != "undecided" for outcome in holm(claims).values())
    assert wrong / 1000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    assert alone / 1000 > 0.5  # which is what the correction is for


# --- what a finding says, and refuses ---


@pytest.mark.parametrize(
    ("finding", "effect_text", "claim_text", "margin_text"),
    [
        (UP, "0.200 [0.100, 0.300]", "above 0", "none"),
        (CERTAIN, "3,841", "above 3000", "none"),
        (
            Finding("x", ratio(6.12, 6.94, 7.81), "above", 1.5, spec=".1f"),
            "6.9 [6.1, 7.8]",
            "above 1.5",
            "a factor of 1.5",
        ),
        (
            Finding("x", ratio(0.2, 0.3, 0.4), "below", 2, spec=".1f"),
            "0.3 [0.2, 0.4]",
            "below 0.5",
            "a factor of 2",
        ),
        (
            Finding("x", ratio(0.2, 0.3, 0.4), "below", 1.5, spec=".1f"),
            "0.3 [0.2, 0.4]",
            "below 0.667",
            "a factor of 1.5",
        ),
        (
            Finding("rain", effect(6.41, 6.44, 6.47), "below", 0.1, 7.67, spec=".2f", unit="mm"),
            "6.44 [6.41, 6.47] mm",
            "below 7.57 mm",
            "0.1 mm",
        ),
        (
            Finding("accuracy", effect(0.9127, 0.923, 0.9349), null=0.289, spec=".1%"),
            "92.3% [91.3%, 93.5%]",
            "above 28.9%",
            "none",
        ),
        (
            Finding("x", effect(-0.01, 0.0, 0.01), "within", 0.02),
            "0.000 [-0.010, 0.010]",
            "within 0.02 of zero",
            "0.02",
        ),
        (
            Finding("x", ratio(0.9, 1.0, 1.1), "within", 1.2, spec=".1f"),
            "1.0 [0.9, 1.1]",
            "within a factor of 1.2",
            "a factor of 1.2",
        ),
        (
            Finding("x", ratio(1.8, 2.0, 2.2), "within", 1.2, 2, spec=".1f"),
            "2.0 [1.8, 2.2]",
            "within a factor of 1.2 of 2",
            "a factor of 1.2",
        ),
        (
            Finding("x", effect(0.1, 0.2, 0.3), margin=0.2, null=0.1),
            "0.200 [0.100, 0.300]",
            "above 0.3",
            "0.2",
        ),
        (
            Finding("zero", effect(-0.0001, -0.00001, 0.0)),
            "0.000 [0.000, 0.000]",
            "above 0",
            "none",
        ),
    ],
)
def test_what_a_finding_says(finding, effect_text, claim_text, margin_text):
    assert (finding.effect_text, finding.claim_text, finding.margin_text) == (
        effect_text,
        claim_text,
        margin_text,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": " "}, "expected label to be a text, got ' '"),
        ({"label": "a\x00b"}, r"label without control characters, got 'a\\x00b'"),
        ({"label": "a\nb"}, "label without control characters"),
        ({"effect": 0.2}, r"expected one Interval as effect, got 0\.2"),
        ({"effect": interval(np.random.default_rng(0).normal(size=(5, 2)))}, "one Interval"),
        ({"claimed": "up"}, "'above', 'below' or 'within', got 'up'"),
        ({"claimed": "within"}, "expected a margin for a claim of no difference, got none"),
        ({"effect": ratio(1, 2, 3), "claimed": "within", "margin": 1}, "expected a margin"),
        ({"margin": -0.1}, r"a distance of 0 or more as margin, got -0\.1"),
        ({"margin": NAN}, "expected a number as margin, got nan"),
        ({"margin": "0.1"}, "expected a number as margin, got '0.1'"),
        ({"margin": True}, "expected a number as margin, got True"),
        ({"effect": ratio(1, 2, 3), "margin": 0.5}, r"a factor of 1 or more as margin, got 0\.5"),
        ({"null": INF}, "expected a number as null, got inf"),
        ({"effect": ratio(1, 2, 3), "null": 0}, r"a positive null for a ratio, got 0\.0"),
        ({"reason": 3}, "expected reason to be a text, got 3"),
        ({"spec": "bogus"}, "expected a format code like '.3f', got 'bogus'"),
        ({"spec": "9.1f"}, "got '9.1f'"),
        ({"spec": "d"}, "got 'd'"),
        ({"spec": None}, "got None"),
        ({"unit": None}, "expected unit to be a text"),
    ],
)
def test_finding_refuses(fields, message):
    arguments = {"label": "x", "effect": effect(0.1, 0.2, 0.3), **fields}
    with pytest.raises(ValueError, match=message):
        Finding(**arguments)


# --- hypotheses ---

SAID = {
    "name": "fewer-steps",
    "claim": "A network with BN needs fewer steps.",
    "kind": "measured",
    "source": "ioffe2015",
    "said_by": "Ioffe and Szegedy 2015",
    "label": "steps, no BN ÷ BN",
    "setting": "a small network",
    "margin": 1.5,
    "scale": "log",
    "reason": "a gain that one notices",
    "spec": ".1f",
}


def test_a_hypothesis_becomes_a_claim():
    hypothesis = Hypothesis(**SAID)
    result = hypothesis.judge(
        ratio(2, 3, 4),
        [FLAT],
        chosen=CHOSEN,
        draws=2000,
        record="race",
        note="At equal rates.",
    )
    assert (result.outcome, result.seeds, result.draws) == ("shown", 10, 2000)
    assert (result.primary.label, result.primary.bounds) == ("steps, no BN ÷ BN", (1 / 1.5, 1.5))
    assert (result.secondary, result.record, result.note) == ((FLAT,), ("race",), "At equal rates.")
    assert result.chosen == CHOSEN
    assert result.edges == [("BN", "learning_rate")]
    assert result.digest == hypothesis.digest


def test_a_hypothesis_is_plain_data_that_comes_back():
    hypothesis = Hypothesis(**SAID)
    assert Hypothesis(**json.loads(json.dumps(hypothesis.to_json()))) == hypothesis
    with pytest.raises(FrozenInstanceError):
        UP.null = 0.2
    with pytest.raises(FrozenInstanceError):
        hypothesis.margin = 1.1


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"margin": 1.4}, False),
        ({"null": 2.0}, False),
        ({"claimed": "below"}, False),
        ({"label": "steps"}, False),
        ({"name": "other"}, False),
        ({"margin": 1.5, "scale": "linear"}, False),
        ({"null": 1}, True),
        ({"reason": "another", "spec": ".3f", "setting": "elsewhere", "claim": "So."}, True),
    ],
)
def test_the_digest_is_that_of_the_margin(changes, same):
    assert (Hypothesis(**{**SAID, **changes}).digest == Hypothesis(**SAID).digest) is same


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reason": " "}, "expected a reason for the size of the margin, got none"),
        ({"scale": "square"}, "the scale 'linear' or 'log', got 'square'"),
        ({"margin": 0.5}, "a factor of 1 or more"),
        ({"kind": "law"}, "expected a kind out of .*'measured'.*, got 'law'"),
        ({"name": "Fewer"}, "expected a name like 'fewer-steps', got 'Fewer'"),
        ({"claim": "a\u202eb"}, "claim without control characters"),
    ],
)
def test_hypothesis_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Hypothesis(**{**SAID, **fields})


def test_a_hypothesis_refuses_an_effect_of_another_scale():
    with pytest.raises(ValueError, match="fewer-steps: expected an effect on the log scale"):
        Hypothesis(**SAID).judge(effect(2, 3, 4))


# --- claims ---


def test_the_primary_finding_alone_decides():
    for primary, outcome in (
        (UP, "shown"),
        (FLAT, "undecided"),
        (Finding("x", effect(-3, -2, -1), reason=WHY), "contrary shown"),
        (Finding("x", effect(-3, -2, -1), margin=5, reason=WHY), "no difference"),
    ):
        result = claim(primary=primary, secondary=[UP, DOWN, CERTAIN, FLAT])
        bundle = result._repr_mimebundle_()
        assert result.outcome == result.to_json()["outcome"] == outcome
        assert bundle["text/plain"].startswith(f"{outcome.capitalize()}: ")
        assert f'data-outcome="{outcome.replace(" ", "-")}"' in bundle["text/html"]
        assert outcome in OUTCOMES


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            ({name: " "}, f"expected {name} to be a text")
            for name in ("name", "claim", "source", "said_by", "setting")
        ),
        ({"name": "Fewer-steps"}, "got 'Fewer-steps'"),
        ({"name": "fewer steps"}, "got 'fewer steps'"),
        ({"name": "fewer--steps"}, "got 'fewer--steps'"),
        ({"name": "3-steps"}, "got '3-steps'"),
        ({"name": 3}, "expected name to be a text, got 3"),
        ({"source": "Ioffe and Szegedy"}, "expected a citation key like 'ioffe2015'"),
        ({"source": "mönch2015"}, "expected a citation key like 'ioffe2015'"),
        ({"kind": "true"}, "expected a kind"),
        ({"note": "a\x1b[0m"}, "note without control characters"),
        ({"setting": "two\nlines"}, "setting without control characters"),
        ({"primary": None}, "expected a Finding as primary, got None"),
        ({"primary": CERTAIN}, "expected an interval in a measured claim's primary finding"),
        ({"secondary": UP}, "expected a list of findings as secondary"),
        ({"secondary": ["up"]}, "expected a list of findings as secondary"),
        ({"seeds": 10.0}, r"a whole number of seeds, got 10\.0"),
        ({"draws": 0}, "a whole number of draws, got 0"),
        ({"seeds": 9}, "faster: expected at least 10 seeds, got 9"),
        (
            {"primary": Finding("x", effect(1, 2, 3, n=9), reason=WHY)},
            "at least 10 seeds, got 9; run more",
        ),
        ({"primary": replace(UP, reason="")}, "faster: expected a reason for the size"),
        (
            {"secondary": [Finding("x", replace(effect(1, 2, 3), confidence=0.9))]},
            "findings of one confidence",
        ),
        ({"record": [""]}, "expected record to be a text"),
        ({"chosen": 3}, "expected chosen settings by arm, got 3"),
        ({"chosen": {"BN": 3}}, "expected the chosen settings of 'BN', got 3"),
        ({"chosen": {"BN": {"rate": 3}}}, "expected value, share and edge of 'rate', got 3"),
        (
            {"chosen": {"BN": {"rate": {"value": 3, "share": 2, "edge": False}}}},
            "expected a share and an edge flag of 'rate'",
        ),
        (
            {"chosen": {"BN": {"rate": {"value": NAN, "share": 1, "edge": False}}}},
            "expected a value of 'rate', got nan",
        ),
        (
            {"chosen": {"BN": {"rate": {"value": "a\x07", "share": 1, "edge": False}}}},
            "value without control characters",
        ),
    ],
)
def test_claim_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        claim(**fields)


def test_a_card_says_once_what_was_drawn_for_each_seed():
    for draws, shown in ((10, "10, each with its own draw of the data"), (None, "10\n")):
        assert f"seeds         {shown}" in f"{claim(draws=draws)}\n"


def test_what_is_not_measured_needs_neither_seeds_nor_reason():
    for kind in ("identity", "version", "construction"):
        result = claim(kind=kind, primary=CERTAIN)
        assert (result.outcome, result.seeds) == ("shown", 0)
        assert "seeds" not in str(result)
        assert KINDS[kind] in str(result)


def test_choices_made_by_numpy_are_kept_as_plain_numbers():
    choice = {"value": np.float64(0.5), "share": np.float32(0.5), "edge": np.bool_(True)}
    result = claim(chosen={"BN": {"rate": choice}})
    assert json.loads(json.dumps(result.to_json()))["chosen"] == {
        "BN": {"rate": {"value": 0.5, "share": 0.5, "edge": True}}
    }


def test_a_long_claim_is_broken_and_indented_in_the_card():
    first, second, *_ = str(claim(claim="A network with BN " + "trains faster " * 10)).splitlines()
    assert first.startswith("Shown: A network with BN trains faster")
    assert second.startswith("  trains faster")
    assert max(len(first), len(second)) <= 96


def test_all_lines_of_the_card_use_their_96_columns():
    name = "the share of the " + "a " * 90 + "b"  # words that fill a line to its last column
    long = Finding(name, Interval(0.3, 0.1, 0.5, 10), "above", 0.05, reason=WHY)
    made = claim(claim="a " * 120, primary=long, secondary=[long], note="a " * 120)
    lines = str(made).splitlines()
    assert max(map(len, lines)) <= 96
    for begin in ("Shown: a", "  the share", "    the share", "  note"):
        (first, *_) = [line for line in lines if line.startswith(begin)]
        assert len(first) > 90, begin


def test_the_card_as_text():
    steps = Finding(
        "steps to 80 %, no BN ÷ BN",
        ratio(6.1, 6.9, 7.8),
        "above",
        1.5,
        reason=WHY,
        spec=".1f",
    )
    result = claim(
        primary=steps,
        secondary=[FLAT, CERTAIN],
        setting="word " * 30,
        chosen=CHOSEN,
        draws=2000,
        record=["race", "drift"],
        note="At equal rates.",
    )
    assert str(result).splitlines() == [
        "Shown: A network with BN trains faster.",
        "  steps to 80 %, no BN ÷ BN: 6.9 [6.1, 7.8], claimed above 1.5",
        "  said by       Ioffe and Szegedy 2015 [ioffe2015]",
        "  kind          measured",
        "  margin        a factor of 1.5: smaller ones are not seen",
        "  setting       " + " ".join(["word"] * 16),
        "                " + " ".join(["word"] * 14),
        "  chosen        BN: learning rate 3 (in 90% of replicates; often the smallest or largest "
        "tried),",
        "                initial scale 0.1 (in 100% of replicates); no BN: activation tanh (in 50% "
        "of",
        "                replicates)",
        "  seeds         10, 2,000 draws or test examples",
        "  interval      95%, by hand",
        "  record        race, drift",
        "  note          At equal rates.",
        "  also found",
        "    stays: 0.100 [-0.100, 0.300], claimed above 0: undecided",
        "    parameters: 3,841, claimed above 3000: shown",
    ]


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
    result = claim(secondary=[FLAT], chosen=CHOSEN)
    page = Page(result._repr_mimebundle_()["text/html"])
    tag, attributes = page.tags[0]
    assert (tag, attributes["class"], attributes["id"], attributes["data-outcome"]) == (
        "section",
        "bn-claim",
        "claim-faster",
        "shown",
    )
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert attributes["aria-labelledby"] in identifiers
    forbidden = {"h1", "h2", "h3", "h4", "h5", "h6", "style", "a", "table"}
    assert not {tag for tag, _ in page.tags} & forbidden
    assert not any("style" in attributes for _, attributes in page.tags)
    assert ("cite", {"data-key": "ioffe2015"}) in page.tags
    assert page.text == [
        "Shown",
        "A network with BN trains faster.",
        *("rises:", "0.200 [0.100, 0.300]", ", claimed above 0"),
        *("Said by", "Ioffe and Szegedy 2015"),
        "For BN, the choice of learning rate was often the smallest or the largest of those tried: "
        "a wider range might hold a better one.",
        "How it was measured",
        *("Kind", "measured", "Bound", "above 0: smaller ones are not seen"),
        *("Setting", "MNIST, 784-100-100-100-10 sigmoid, SGD"),
        "Chosen",
        "BN: learning rate 3 (in 90% of replicates; often the smallest or largest tried), initial "
        "scale 0.1 (in 100% of replicates); no BN: activation tanh (in 50% of replicates)",
        *("Seeds", "10", "Interval", "95%, by hand"),
        "Also found:",
        *("stays:", "0.100 [-0.100, 0.300]", ", claimed above 0:", "undecided"),
    ]


@pytest.mark.parametrize(
    ("said_by", "opening", "work"),
    [
        ("Ioffe 2017", "Said by", "Ioffe 2017"),
        ("after Ioffe 2017", "After", "Ioffe 2017"),
        ("derived in this chapter, from Ioffe 2017", "Derived in this chapter, from", "Ioffe 2017"),
    ],
)
def test_the_source_is_named_in_a_sentence(said_by, opening, work):
    result = claim(said_by=said_by)
    assert [opening, work] == Page(result._repr_mimebundle_()["text/html"]).text[5:7]
    text = " ".join(str(result).split())
    name = "said by" if opening == "Said by" else "source"
    assert f"{name} {said_by} [ioffe2015]" in text


def test_findings_stand_in_a_list_of_their_own_in_the_card():
    html = claim(secondary=[FLAT, CERTAIN])._repr_mimebundle_()["text/html"]
    start = html.index('<ul class="bn-claim-findings"><li ')
    assert html.count("<li ") == 2
    assert '</li><li data-outcome="' in html[start:]
    assert "</li></ul>" in html[start:]


def test_a_warning_names_all_arms_whose_choices_are_at_an_end():
    choice = {"learning_rate": {"value": 3.0, "share": 0.9, "edge": True}}
    result = claim(chosen={"no BN": choice, "BN": choice, "group norm": choice})
    page = result._repr_mimebundle_()["text/html"]
    assert page.count("bn-claim-edge") == 1
    assert "For no BN, BN and group norm, the choice of learning rate was often" in page


NASTY = "<script>alert('&amp;')</script> \" < & | {cite}`x` [a](b) $x$ ```"


def test_html_is_escaped():
    finding = Finding(NASTY, effect(0.1, 0.2, 0.3), unit="<b>", reason=NASTY)
    arm = {NASTY: {NASTY: {"value": NASTY, "share": 1.0, "edge": True}}}
    result = claim(
        claim=NASTY,
        said_by=NASTY,
        setting=NASTY,
        note=NASTY,
        primary=finding,
        secondary=[finding],
        record=NASTY,
        chosen=arm,
    )
    page = Page(result._repr_mimebundle_()["text/html"])
    assert not {tag for tag, _ in page.tags} & {"script", "b"}
    assert page.text.count(NASTY) == 5  # claim, source, setting, record, note
    assert "".join(page.text).count(NASTY) == 13


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
    assert Claim.from_json(read.cells[0].outputs[0].data[CLAIM_MIME]).to_json() == claim().to_json()


# --- JSON ---


def test_json_has_every_field_and_comes_back():
    original = claim(
        secondary=[DOWN, FLAT, CERTAIN, Finding("one run", interval([1.0]))],
        chosen=CHOSEN,
        record="race",
        draws=400,
    )
    data = json.loads(json.dumps(original.to_json(), allow_nan=False))
    assert data["primary"] == {
        "label": "rises",
        "effect": {**asdict(UP.effect)},
        "claimed": "above",
        "margin": 0.0,
        "null": 0.0,
        "reason": WHY,
        "spec": ".3f",
        "unit": "",
        "outcome": "shown",
    }
    assert Claim.from_json(data) == original
    assert set(data) == {
        *FIELDS,
        *("secondary", "chosen", "seeds", "draws", "record", "note", "outcome"),
    }


ends = st.tuples(*[st.floats(-10, 10)] * 3).map(sorted)


@given(ends, st.sampled_from([".3f", ".1%", ".2e", ".3g", ",.0f"]))
def test_json_keeps_every_outcome(three, spec):
    finding = Finding("x", effect(*three), margin=0.5, spec=spec, reason=WHY)
    original = claim(primary=finding)
    data = json.loads(json.dumps(original.to_json()))
    again = Claim.from_json(data)
    assert again.outcome == original.outcome
    assert again.to_json() == data


@pytest.mark.parametrize("null", [1e-5, 1.0, 1e5])
def test_an_outcome_comes_back_where_rounding_moves_an_end_onto_the_bound(null):
    near = effect(null * (1 + 2e-9), null * 1.1, null * 1.2)
    result = claim(primary=Finding("x", near, "above", null=null, reason=WHY))
    assert result.outcome == "shown"
    assert Claim.from_json(result.to_json()).outcome == "shown"


@pytest.mark.parametrize(
    ("number", "spec", "half"),
    [
        (0.1234, ".3f", 0.0005),
        (-123.4, ".0f", 0.5),
        (0.1234, ".1%", 0.0005),
        (123.4, ".3g", 0.5),
        (0.01234, ".3g", 0.00005),
        (123.4, ".0g", 50),
        (123.4, ".1g", 50),
        (123.4, ".2e", 0.5),
        (0.0, ".3g", 0.0),
        (math.inf, ".3g", 0.0),
    ],
)
def test_a_rounded_number_may_be_off_by_half_a_unit_of_its_last_digit(number, spec, half):
    found = _half_unit(number, spec)
    assert found == pytest.approx(half, rel=1e-6)
    assert found > half or half == 0  # so that a number half-way is not refused for its last bit


@given(ends)
def test_last_bits_do_not_show(three):
    def shown(nudge):
        # Far from the bound, where the last bits could decide.
        finding = Finding("x", effect(*(round(end, 3) + 20 + nudge for end in three)), reason=WHY)
        return claim(primary=finding)._repr_mimebundle_()

    assert shown(1e-9) == shown(0) == shown(-1e-9)


def change(path, value):
    """A claim's JSON with one entry changed."""
    data = json.loads(json.dumps(claim(primary=UP, secondary=[FLAT]).to_json()))
    *parents, last = path
    place = data
    for key in parents:
        place = place[key]
    place[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (change(["outcome"], "undecided"), "'faster' does not follow from its findings"),
        (change(["primary", "outcome"], "undecided"), "'undecided' of 'rises' does not follow"),
        (change(["primary", "outcome"], "holds"), "'holds' of 'rises' does not follow"),
        (change(["secondary", 0, "outcome"], "shown"), "'shown' of 'stays' does not follow"),
        (change(["primary", "effect", "low"], -0.1), "'shown' of 'rises' does not follow"),
        (change(["primary", "margin"], 0.2), "'shown' of 'rises' does not follow"),
        (change(["primary", "claimed"], "below"), "'shown' of 'rises' does not follow"),
        (
            # A tenth of what is shown is enough.
            change(["primary", "effect", "low"], -0.0001),
            "'shown' of 'rises' does not follow",
        ),
        (change(["primary", "effect", "low"], -1e-5), "'shown' of 'rises' does not follow"),
        (change(["primary", "effect", "mean"], 0.2000000000012), "a rounded number was changed"),
        (change(["primary", "effect", "mean"], "0.2"), "a rounded number was changed"),
        (change(["primary", "effect", "low"], 0.9), "expected low <= mean <= high"),
        (change(["primary", "effect"], 3), "fields of Interval, .* got 3"),
        (change(["primary", "colour"], "red"), "fields of Finding, .*'colour'"),
        (change(["primary"], None), "fields of Finding, .* got None"),
        (change(["secondary"], "none"), "expected a list of findings, got 'none'"),
        (change(["extra"], 1), "fields of Claim, .*'extra'"),
        (change(["seeds"], 3), "at least 10 seeds, got 3"),
        (change(["claim"], "a\x00"), "claim without control characters"),
        ([], r"fields of Claim, .* got \[\]"),
        ({}, r"fields of Claim, .* got \[\]"),
    ],
)
def test_from_json_refuses(data, message):
    with pytest.raises(ValueError, match=message):
        Claim.from_json(data)
