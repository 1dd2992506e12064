"""Statistics that lag: closed forms, bnutils.norm and Keras agree, and the stories are true."""

import numpy as np
import pytest
from browser import NO_BROWSER
from explore import extension, stories

from bnutils import norm
from bnutils.studies.points import Random

START = {
    "momentum": 0.99,
    "updates": 60,
    "mean": 10,
    "sd": 5,
    "drift": 0,
    "held": 0,
    "z": 0,
    "recomputed": False,
    "noisy": False,
    "size": 32,
    "alone": False,
}
STATES = "return cases.map((one) => ({ ...one, ...laggingState(one) }));"


def states(js, *changes):
    return js(["lagging.js"], STATES, cases=[START | change for change in changes])


def moving(state):
    return [state["movingMean"], state["movingVariance"]]


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99, 0.999])
def test_step_by_step_is_the_closed_form(js, momentum):
    n, mean, sd = np.array([0, 1, 15, 60, 459, 5000]), -4, 3
    changes = [{"momentum": momentum, "updates": int(k), "mean": mean, "sd": sd} for k in n]
    got = states(js, *changes)
    left = momentum**n
    np.testing.assert_allclose([s["movingMean"] for s in got], mean * (1 - left), atol=1e-9)
    variances = sd**2 + (1 - sd**2) * left
    np.testing.assert_allclose([s["movingVariance"] for s in got], variances, rtol=1e-9)
    np.testing.assert_allclose([s["madeUp"] for s in got], left, rtol=1e-9)
    for state in got:
        np.testing.assert_allclose(state["madeUp"] + state["recent"] + state["older"], 1)


def test_exact_batches_move_the_statistics_of_bnutils_and_keras_alike(js):
    (state,) = states(js, {"z": 1})
    batch = np.array([[5.0], [15.0]])  # mean 10, standard deviation 5
    layer = norm.BatchNorm(momentum=0.99)
    for _ in range(60):
        trained = layer(batch, training=True)
    np.testing.assert_allclose(moving(state), [layer.moving_mean[0], layer.moving_variance[0]])
    outputs = [state["outputTraining"], state["outputInference"]]
    np.testing.assert_allclose(outputs, [trained[1, 0], layer(batch)[1, 0]])

    keras = pytest.importorskip("bnutils._keras").keras
    bn = keras.layers.BatchNormalization(momentum=0.99)
    for _ in range(60):
        bn(batch, training=True)
    kept = [bn.moving_mean.numpy()[0], bn.moving_variance.numpy()[0]]
    np.testing.assert_allclose(moving(state), kept, rtol=1e-5)
    np.testing.assert_allclose(outputs[1], bn(batch, training=False).numpy()[1, 0], rtol=1e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_noisy_batches_are_those_of_python(js, alone):
    size, n, drift, held = 4, 50, 0.02, 20
    change = {"noisy": True, "size": size, "updates": n, "drift": drift, "held": held}
    change |= {"alone": alone, "momentum": 0.9, "z": -1}
    (state,) = states(js, change)
    draws = Random(1, size).normal(n * size).reshape(n, size)
    layer, mean, variance = norm.BatchNorm(momentum=0.9), 0.0, 1.0
    for k, draw in enumerate(draws, 1):
        true = 10 + drift * 5 * min(k, n - held)
        batch = true + 5 * draw[:, None]
        if alone and k % 3 == 0:  # a batch of one: its own mean, and no variance
            mean, variance = 0.9 * mean + 0.1 * batch[0, 0], 0.9 * variance
        else:
            layer.moving_mean, layer.moving_variance = np.array([mean]), np.array([variance])
            layer(batch, training=True)
            mean, variance = layer.moving_mean[0], layer.moving_variance[0]
    np.testing.assert_allclose(moving(state), [mean, variance], rtol=1e-9)
    np.testing.assert_allclose(state["trueMean"], true)
    x = true - 5
    batch[0] = x  # the example is normalized in its own company
    by_batch = ((batch - batch.mean()) / np.sqrt(batch.var() + 1e-3))[0, 0]
    np.testing.assert_allclose(state["outputTraining"], by_batch, rtol=1e-9)


def test_how_long_the_start_lasts(js):
    body = "return [0.9, 0.99, 0.999].map((momentum) => updatesUntil(0.01, momentum));"
    assert js(["lagging.js"], body) == [44, 459, 4603]
    (state,) = states(js, {"updates": 15})
    assert round(100 * state["madeUp"]) == 86


def test_under_a_drift_the_mean_lags_by_the_closed_form(js):
    got = states(
        js,
        {"drift": 0.01, "updates": 2000},
        {"drift": 0.1, "momentum": 0.9, "updates": 500},
        {"drift": 0.01, "updates": 2500, "held": 500},
    )
    for state in got[:2]:
        p = state["momentum"]
        np.testing.assert_allclose(state["lag"], state["drift"] * p / (1 - p), rtol=1e-6)
        np.testing.assert_allclose(state["lateBy"], p / (1 - p))
    np.testing.assert_allclose(got[2]["trueMean"], got[0]["trueMean"])
    np.testing.assert_allclose(got[2]["lag"], got[0]["lag"] * 0.99**500, rtol=1e-6)


def simulated(story):
    """Moving mean and variance, and the outputs in both modes, with Python alone."""
    p, mean, variance, true = story["momentum"], 0.0, 1.0, story["mean"]
    n, size, sd = story["updates"], story["size"], story["sd"]
    draws = Random(1, size).normal(n * size).reshape(n, size) if story["noisy"] else None
    for k in range(1, n + 1):
        true = story["mean"] + story["drift"] * sd * k
        alone = story["alone"] and k % 3 == 0
        batch = true + sd * draws[k - 1] if story["noisy"] else np.array([true - sd, true + sd])
        mean = p * mean + (1 - p) * batch.mean()
        variance = p * variance + (1 - p) * (0 if alone else batch.var())
    if story["recomputed"]:
        mean, variance = true, sd**2
    x = true + story["z"] * sd
    if story["noisy"]:
        batch[0] = x  # the example is normalized in its own company
    at = lambda m, v: (x - m) / np.sqrt(v + 1e-3)  # noqa: E731
    return {
        "movingMean": mean,
        "movingVariance": variance,
        "outputTraining": at(batch.mean(), batch.var()),
        "outputTrue": at(true, sd**2),
        "outputInference": at(mean, variance),
        "lag": (true - mean) / sd,
        "left": p**n,
    }


STORIES = {
    "fifteen": lambda s: round(100 * s["left"]) == 86 and s["outputInference"] > 4,
    "sixty": lambda s: 0.5 < s["left"] < 0.6 and round(s["outputInference"], 2) == 1.59,
    "arrived": lambda s: s["left"] < 0.01 and abs(s["outputInference"]) < 0.03,
    "lower": lambda s: (
        s["left"] < 0.01 and s["outputTrue"] == 0 and 0.03 < abs(s["outputInference"]) < 0.3
    ),
    "moving": lambda s: s["left"] < 0.01 and round(s["lag"], 2) == 0.99,
    "one": lambda s: (
        0.64 < s["movingVariance"] / 25 < 0.68
        and s["outputInference"] > 1.2
        and round(s["outputTraining"], 2) == 1
    ),
    "recomputed": lambda s: s["outputInference"] == s["outputTraining"] == 0,
}


def test_each_story_is_true_in_both_languages(js):
    told = stories(js, "lagging")
    assert set(told) == set(STORIES)
    for name, story in told.items():
        ours = simulated(story)
        theirs = story | {"left": story["momentum"] ** story["updates"]}
        assert STORIES[name](ours), name
        assert STORIES[name](theirs), name
        for key in ours.keys() - {"left"}:
            np.testing.assert_allclose(story[key], ours[key], atol=1e-9, err_msg=f"{name} {key}")
    assert told["fifteen"]["sentence"].startswith("After 15 updates at momentum 0.99: 86% is made")
    assert told["sixty"]["sentence"].endswith("comes out at 1.59 instead of 0.00.")
    assert "; with the true statistics 0.00; in its last batch 0.18." in told["lower"]["sentence"]
    assert "under 1% is made up" in told["arrived"]["sentence"]
    assert told["recomputed"]["sentence"].endswith("comes out at 0.00 as in training.")
    assert "lags by 0.99 sd." in told["moving"]["sentence"]
    assert "99 updates of 0.01 sd behind, 0.99 sd" in told["moving"]["says"]
    assert round(told["moving"]["lateBy"]) == 99
    one = told["one"]["sentence"]
    assert "1.0 sd above the true mean comes out at 1.24 instead of 1.00" in one
    assert "44 updates do what takes 459" in told["lower"]["says"]


def test_what_is_to_be_tried_can_be_done_and_isnt_done_at_the_start(js):
    body = """
      return changes.map((change) => {
        const state = { ...start, ...change, ...laggingState({ ...start, ...change }) };
        return lagging.tries.map((one) => one.done(state));
      });"""
    changes = [
        {},
        {"updates": 688},
        {"drift": 0.01, "updates": 530, "held": 500},
        {"noisy": True, "size": 4, "momentum": 0.5},
    ]
    begun, *done = js(["lagging.js"], body, start=START, changes=changes)
    assert begun == [False] * 3
    assert done == np.eye(3, dtype=bool).tolist()


def test_buttons_and_the_bet_do_what_they_say(js):
    body = """
      const state = { ...start, ...laggingState(start) };
      const shown = { ...start, ...lagging.presets.find(({ id }) => id === lagging.bet.show).set };
      return [lagging.actions.map((one) => one.set(state)),
        [500, 501].map((updates) => lagging.actions[0].label({ updates })),
        [0, 500].map((held) => lagging.settings.drift.words(0.01, { held })),
        lagging.bet.says({ ...shown, ...laggingState(shown) }),
        lagging.bet.choices[lagging.bet.right[0]]];"""
    (longer, held), labels, drifts, says, right = js(["lagging.js"], body, start=START)
    assert longer == {"updates": 600, "held": 0}
    assert held == {"updates": 560, "held": 500}
    assert labels == ["Train 10 times longer", "Train to 5,000"]
    assert drifts == ["0.010", "held, 0.010"]
    assert says == "0.99 sd: on average, what it remembers is 99 updates old."
    assert right == "1 sd"


def test_the_table_holds_training_beside_inference(js):
    body = """
      const settings = { ...start, noisy: true, size: 4, momentum: 0.5 };
      const state = { ...settings, ...laggingState(settings) };
      return [state, lagging.table(state)];"""
    state, table = js(["lagging.js"], body, start=START)
    assert table["head"][1] == "in training"
    x = state["trueMean"]
    output = (x - state["batchMean"]) / np.sqrt(state["batchVariance"] + 1e-3)
    np.testing.assert_allclose(state["outputTraining"], output)
    shown = [row[1] for row in table["rows"]]
    assert shown[:2] == [f"{state[key]:.2f}" for key in ("batchMean", "batchVariance")]
    assert shown[2] == f"{output:.2f}".replace("-", "−")


def test_shares_are_never_rounded_to_one_or_a_hundred_percent(js):
    shares = [0, 1e-9, 0.002, 0.99**459, 0.01, 0.55, 0.991, 1]
    got = js(["lagging.js"], "return shares.map(percent);", shares=shares)
    assert got == ["0%", "0%", "under 1%", "under 1%", "1%", "55%", "over 99%", "100%"]


def test_in_a_batch_of_two_no_output_passes_one(js):
    change = {"noisy": True, "size": 2, "momentum": 0.9, "updates": 500}
    got = states(js, *({**change, "z": z} for z in (-3, 0.5, 3)))
    assert all(abs(state["outputTraining"]) <= 1 for state in got)


def test_beside_another_momentum_stands_that_of_keras(js):
    lower, usual = states(js, {"momentum": 0.9, "updates": 44}, {"updates": 44})
    assert usual["chart"]["usual"] == []
    np.testing.assert_allclose(lower["chart"]["usual"][-1], [44, usual["movingMean"]])


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("norm.js", "(1 - momentum) * ofBatch", "momentum * ofBatch"),
        ("lagging.js", "const movingVariances = [1]", "const movingVariances = [0]"),
        ("lagging.js", "(x - mean) * inverseStd", "(x + mean) * inverseStd"),
    ],
)
def test_a_slip_is_noticed(js, monkeypatch, file, old, new):
    explorables = extension("explorables")
    read = explorables.source_of
    assert read(file).count(old) == 1
    slip = read(file).replace(old, new)
    monkeypatch.setattr(explorables, "source_of", lambda name: slip if name == file else read(name))
    with pytest.raises(AssertionError):
        test_each_story_is_true_in_both_languages(js)


@NO_BROWSER
def test_a_key_moves_the_updates_by_one_at_least(visit):
    page = visit("book/introduction.html")
    page.locator("#lagging[data-ready=true]").wait_for(state="attached")
    scrub = page.locator("#lagging .bn-scrub input")
    scrub.focus()

    def after(*keys):
        for key in keys:
            page.keyboard.press(key)
        return page.evaluate("document.getElementById('lagging').state.updates")

    assert after("ArrowRight") == 61
    assert after("ArrowLeft", "ArrowLeft") == 59
    assert after("Home") == 0
    assert [after("ArrowRight") for _ in range(3)] == [1, 2, 3]
    assert after("ArrowLeft") == 2
    page.evaluate("document.getElementById('lagging').set({updates: 40})")
    assert [after("ArrowRight") for _ in range(9)] == list(range(41, 50))
    assert after("End") == 5000
    assert after("ArrowLeft") < 5000
    assert scrub.get_attribute("aria-valuetext").endswith(" updates")
