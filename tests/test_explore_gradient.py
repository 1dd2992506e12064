"""The gradient through the batch: numbers are bnutils.norm's, stories and words are true."""

import re

import numpy as np
import pytest
from browser import NO_BROWSER
from explore import extension, stories

from bnutils import norm

START = {"x": [3, 9, 11, 17], "dy": [1, 0, 0, 0], "gamma": 1, "epsilon": 1e-3, "stage": 0}
STATES = "return cases.map((one) => gradientState({ ...one, stage: 12 }));"


def by_numpy(x, dy, gamma, epsilon):
    """`dx`, `dgamma`, `dbeta` and the cache of `bnutils.norm`, for one neuron."""
    x, dy = (np.array(values, float)[:, None] for values in (x, dy))
    _, cache = norm.batch_norm(x, np.array([float(gamma)]), np.zeros(1), epsilon=epsilon)
    dx, dgamma, dbeta = norm.batch_norm_grad(dy, cache)
    return dx[:, 0], dgamma[0], dbeta[0], cache


def batches():
    rng = np.random.default_rng(4)
    return [
        {
            "x": (scale * (rng.normal(size=m) + 0.3)).tolist(),
            "dy": rng.normal(size=m).tolist(),
            "gamma": rng.normal(),
            "epsilon": epsilon,
        }
        for m in (2, 3, 4, 8, 32, 256)
        for scale in (1e-3, 1, 1e3)
        for epsilon in (1e-5, 1e-3)
    ]


def test_the_parts_of_each_node_add_up_to_the_gradient_of_numpy(js):
    cases = batches()
    for case, state in zip(cases, js(["gradient.js"], STATES, cases=cases), strict=True):
        x, dy, gamma = np.array(case["x"]), np.array(case["dy"]), case["gamma"]
        dx, dgamma, dbeta, cache = by_numpy(**case)
        got = state["values"]
        size = np.abs(gamma * got["s"] * dy).max()
        close = (1e-6 if len(x) == 2 else 1e-9) * size
        parts = {name: np.array(value) for name, value in got.items()}
        np.testing.assert_allclose(parts["ofCenter"] + parts["ofMean"], dx, atol=close)
        np.testing.assert_allclose(parts["dx"], dx, atol=close)
        np.testing.assert_allclose(state["dx"], dx, atol=close)
        np.testing.assert_allclose(np.array(state["left"]) * state["factor"], dx, atol=close)
        np.testing.assert_allclose(parts["ofDivide"] + parts["ofVariance"], parts["dr"])
        np.testing.assert_allclose([got["dgamma"], got["dbeta"]], [dgamma, dbeta], atol=1e-9)
        # What each node is given, from the values of the forward pass alone.
        r, s = x - x.mean(), 1 / np.sqrt(x.var() + case["epsilon"])
        np.testing.assert_allclose(parts["ofDivide"], s * gamma * dy)
        np.testing.assert_allclose(got["dVariance"], -0.5 * s**3 * gamma * (dy @ r), rtol=1e-9)
        np.testing.assert_allclose(got["dMean"], -s * gamma * dy.sum(), atol=1e-9 * s)
        np.testing.assert_allclose(got["mean"], cache.mean[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got["variance"], cache.variance[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-0.5 * s ** 3 * ds", "0.5 * s ** 3 * ds"),
        ("(2 / m) * value * dVariance", "(2 / (m - 1)) * value * dVariance"),
        ("dMean = -sumOf(dr)", "dMean = sumOf(dr)"),
        ("value + ofVariance[i]", "value"),
        ("value - xHat[i] * alongXHat", "value + xHat[i] * alongXHat"),
    ],
)
def test_a_slip_in_a_node_is_noticed(js, monkeypatch, old, new):
    explorables = extension("explorables")
    read = explorables.source_of
    assert read("gradient.js").count(old) == 1
    slip = read("gradient.js").replace(old, new)
    monkeypatch.setattr(
        explorables, "source_of", lambda file: slip if file == "gradient.js" else read(file)
    )
    with pytest.raises(AssertionError):
        test_the_parts_of_each_node_add_up_to_the_gradient_of_numpy(js)


def test_the_numbers_of_three_batches(js):
    cases = [
        {**START, "x": x, "dy": dy}
        for x, dy in [
            ([3, 9, 11, 17], [1, 0, 0, 0]),
            ([3, 9, 11, 17], [-3, -1, 1, 3]),
            ([3, 9, 11, 100], [1, 0, 0, 0]),
        ]
    ]
    one, stretched, outlier = js(["gradient.js"], STATES, cases=cases)
    np.testing.assert_allclose(one["dx"], [0.0520, -0.0640, -0.0360, 0.0480], atol=5e-5)
    np.testing.assert_allclose(stretched["dx"], [0.0160, -0.1120, 0.1120, -0.0160], atol=5e-5)
    np.testing.assert_allclose(outlier["dx"], [0.0157, -0.0086, -0.0084, 0.0012], atol=5e-5)


# What each story says, of a gradient `dx` and its company.
STORIES = {
    "one": lambda dx, _: (np.abs(dx) > 0.03).all(),
    "alike": lambda dx, _: (np.abs(dx) < 1e-12).all(),
    "stretch": lambda dx, _: (np.abs(dx).max() > 0) and (np.abs(dx) < 5e-5).all(),
    "two": lambda dx, _: len(dx) == 2 and (np.abs(dx) < 5e-5).all(),
    "outlier": lambda dx, _: 0.25 < dx[0] / 0.052 < 0.4,
    "gamma-zero": lambda dx, dgamma: (dx == 0).all() and abs(dgamma) > 1,
}


def test_each_story_is_true_in_both_languages(js):
    told = stories(js, "gradient")
    assert set(told) == set(STORIES)
    for name, story in told.items():
        dx, dgamma, _, _ = by_numpy(**{k: story[k] for k in ("x", "dy", "gamma", "epsilon")})
        assert STORIES[name](np.array(story["dx"]), story["dgamma"]), name
        assert STORIES[name](dx, dgamma), name
        np.testing.assert_allclose(story["dx"], dx, atol=1e-9)
        np.testing.assert_allclose(story["sumDx"], 0, atol=1e-12)
        np.testing.assert_allclose(story["dotXHat"], 0, atol=5e-5)
    assert told["one"]["sentence"] == (
        "The loss cares about 1 of 4 examples. A gradient reaches 4 of 4 x: "
        "dx = 0.052, −0.064, −0.036, 0.048. Their sum is 0.000."
    )
    assert "dx is 0 for all 2 examples" in told["two"]["sentence"]
    assert told["two"]["sentence"].endswith("Only γ and β get something: dγ = −1.000, dβ = 1.000.")
    assert told["alike"]["sentence"].endswith("places. Only β gets something: dβ = 4.000.")
    assert told["stretch"]["sentence"].endswith("places. Only γ gets something: dγ = 4.000.")
    outlier, one = told["outlier"], told["one"]
    assert "8 times as wide" in outlier["says"]
    assert round(np.std(outlier["x"]) / np.std(one["x"])) == 8
    assert round(one["factor"] / outlier["factor"]) == 8
    assert outlier["left"][0] > 2 * one["left"][0]
    assert told["gamma-zero"]["sentence"].endswith("γ itself does, −1.400.")


def test_each_stage_is_told_with_its_numbers(js):
    body = """
      return Array.from({ length: 13 }, (_, stage) => {
        const state = { ...start, stage, ...gradientState({ ...start, stage }) };
        return [stageName(stage), stageSentence(state)];
      });"""
    told = js(["gradient.js"], body, start=START)
    names, says = zip(*told, strict=True)
    steps = ["mean", "center", "variance", "inverse sd", "divide", "scale and shift"]
    assert names[0] == "start"
    assert names[1:7] == tuple(f"forward: {s}" for s in steps)
    # Backward they are numbered as in chapter 2's list.
    assert names[7:] == tuple(f"backward {i} of 6: {s}" for i, s in enumerate(steps[::-1], 1))
    numbers = {1: "10.00", 3: "25.00", 4: "0.200", 7: "−1.400", 8: "−7.000", 9: "0.0280"}
    for stage, number in numbers.items():
        assert number in says[stage]
    assert "dMean" not in "".join(says)
    assert re.search(r"dμ = −Σ dr = −0\.200", says[11])


def test_what_cannot_be_divided_and_unequal_lengths_are_met(js):
    body = """
      const told = (given) => {
        const state = { ...start, ...given, ...gradientState({ ...start, ...given }) };
        return { dx: state.dx, dy: state.dy, sentence: gradientSentence(state) };
      };
      const flat = told({ x: [5, 5, 5], epsilon: 0 });
      return [flat, told({ dy: [1, 0] }), told({ dy: [0, 0, 0, 0] })];"""
    flat, short, silent = js(["gradient.js"], body, start=START)
    assert flat["dx"] == [0, 0, 0]
    assert "divide by zero" in flat["sentence"]
    assert short["dy"] == [1, 0, 0, 0]
    assert "dy is 0" in silent["sentence"]


def test_what_is_to_be_tried_can_be_done_and_isnt_done_at_the_start(js):
    body = """
      return changes.map((change) => {
        const state = { ...start, ...change, ...gradientState({ ...start, ...change }) };
        return gradient.tries.map((one) => one.done(state));
      });"""
    doubled = {"stage": 10, "gamma": 2}
    changes = [{}, {"x": [3, 9, 11, 40]}, doubled, {"dy": [0.5, 0.5, 0.5, 0.5]}]
    begun, *done = js(["gradient.js"], body, start=START, changes=changes)
    assert begun == [False] * 3
    assert done == np.eye(3, dtype=bool).tolist()


@NO_BROWSER
def test_steps_and_examples_come_and_go(visit):
    page = visit("notebooks/02_the_math.html")
    figure = page.locator("#gradient[data-ready=true]")
    figure.wait_for(state="attached")
    read = lambda: page.evaluate("document.getElementById('gradient').state")  # noqa: E731
    press = lambda name: figure.get_by_role("button", name=name).click()  # noqa: E731

    press("Next")
    assert read()["stage"] == 1
    figure.get_by_label("Step", exact=True).press("End")
    press("Back")
    assert read()["stage"] == 11
    assert figure.locator(".bn-walk p").text_content().startswith("backward 5 of 6: center. x gets")
    hidden = figure.locator(".bn-sheet td.bn-later")
    assert hidden.count() == 8  # the second contribution to x, and the sum
    press("Next")
    assert hidden.count() == 0
    press("From the start")
    assert read()["stage"] == 0
    press("+ example")
    assert read()["m"] == 5
    assert len(read()["dx"]) == figure.locator(".bn-sheet tr").first.locator("td").count() == 5
    for _ in range(3):
        press("− example")
    assert read()["m"] == 2
    assert figure.get_by_role("button", name="− example").is_disabled()
    figure.get_by_label("dy of example 2").focus()
    page.keyboard.press("ArrowRight")
    assert read()["dy"] == [1, 0.1]
