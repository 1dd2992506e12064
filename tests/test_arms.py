"""A comparison gives both arms the same start, the same batches, and a fair choice of settings."""

import io

import numpy as np
import pytest

from bnutils import data, network
from bnutils.arms import Arm, compare

RUNS = network.grid(seed=range(3), learning_rate=[0.01, 0.3])
SMALL = {"hidden": [16], "steps": 30, "batch_size": 50}
ARMS = {"no BN": {}, "BN": {"norm": network.BatchNorm()}}


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def trained(digits):
    return compare(digits, ARMS, RUNS, every=10, **SMALL)


def test_an_arm_is_the_engine_trained_by_hand(digits, trained):
    net = network.mlp([64, 16, 10], seeds=RUNS.seed, norm=network.BatchNorm())
    sgd = network.SGD(RUNS.learning_rate)
    x, y = digits.train.x, digits.train.y
    loss = network.softmax_cross_entropy
    network.fit(net, x, y, loss=loss, optimizer=sgd, steps=30, batch_size=50)
    by_hand = RUNS.reshape(network.accuracy(net, digits.test.x, digits.test.y))
    np.testing.assert_array_equal(trained["BN"].test, by_hand)


def test_scores_are_recorded_and_end_with_the_final_ones(trained):
    for arm in trained.values():
        np.testing.assert_array_equal(arm.history.steps, [0, 10, 20, 30])
        for part in ("validation", "test"):
            assert arm.recorded(part).shape == (3, 2, 4)
            np.testing.assert_array_equal(arm.recorded(part)[..., -1], getattr(arm, part))


def test_the_setting_is_chosen_on_validation_never_on_test():
    scores = {"validation": np.array([[0.2, 0.9]] * 3), "test": np.array([[0.8, 0.1]] * 3)}
    arm = Arm("x", RUNS, net=None, history=None, **scores, maximize=True)
    assert arm.best == (1,)
    np.testing.assert_array_equal(arm.at_best(arm.test), [0.1] * 3)
    assert Arm("x", RUNS, net=None, history=None, **scores, maximize=False).best == (0,)


def test_any_other_name_of_the_grid_is_an_option_of_the_network(digits):
    runs = network.grid(seed=[0], initializer=[0.1, 1.0], learning_rate=[0.1])
    arm = compare(digits, {"x": {}}, runs, **SMALL)["x"]
    assert arm.test.shape == (1, 2, 1)
    alone = network.grid(seed=[0], learning_rate=[0.1])
    for i, scale in enumerate((0.1, 1.0)):
        one = compare(digits, {"x": {}}, alone, initializer=scale, **SMALL)["x"]
        assert one.test.item() == arm.test[0, i, 0]


def test_regression_is_scored_by_rmse_and_smaller_is_better():
    rain = data.seattle_rain().standardized()
    arm = compare(rain, {"x": {}}, RUNS, **SMALL)["x"]
    assert not arm.maximize
    outputs = arm.net(rain.test.x)[..., 0]
    rmse = np.sqrt(((outputs - rain.test.y) ** 2).mean(axis=1))
    np.testing.assert_allclose(arm.test, RUNS.reshape(rmse), rtol=1e-5)


@pytest.mark.parametrize("runs", [{"learning_rate": [0.1], "seed": [0]}, {"seed": [0]}])
def test_a_grid_without_seeds_first_or_rates_is_refused(digits, runs):
    with pytest.raises(ValueError, match="expected a grid with seed first and learning_rate"):
        compare(digits, ARMS, network.grid(**runs), **SMALL)


BN = network.BatchNorm()
WRONG = [
    (
        {"third": {"batch_norm": True}},
        {},
        TypeError,
        "did you mean 'norm'.* There are activation, ",
    ),
    ({"third": {"scale": 1.0}}, {}, TypeError, r"mlp, got 'scale': There are activation, "),
    ({"third": {"nrm": BN}}, {}, TypeError, "got 'nrm': did you mean 'norm'"),
    ({"third": {"output_nrm": BN}}, {}, TypeError, "did you mean 'output_norm'"),
    ({"third": {"norm": network.GroupNorm(5)}}, {}, ValueError, "divide the 16 units of dense_1"),
    ({"third": {"norm": network.GhostBatchNorm(7)}}, {}, ValueError, "a multiple of 7"),
    ({"third": {"activation": "gelu"}}, {}, ValueError, "got 'gelu'"),
    ({}, {"learning_rate": 0.3}, TypeError, r"the grid: network.grid\(.*learning_rate=\[0.3\]"),
    ({}, {"seeds": [1, 2]}, TypeError, r"the grid: network.grid\(.*seed=\[1, 2\]"),
    ({}, {"steps": 0}, ValueError, "at least one step"),
    ({}, {"optimizer": "adam"}, ValueError, "got 'adam': pass network.SGD or network.Adam"),
    ({}, {"optimizer": network.SGD(0.1)}, ValueError, "such as network.SGD, .* from the grid"),
    ({}, {"after_step": 1}, ValueError, "after_step to be a function"),
    ({}, {"record": {"loss": len}}, ValueError, "'loss' is always recorded"),
]


@pytest.mark.parametrize(("arms", "options", "error", "message"), WRONG)
def test_what_is_wrong_in_any_arm_is_said_before_one_trains(
    digits, monkeypatch, arms, options, error, message
):
    trained = []
    monkeypatch.setattr(network, "fit", lambda *args, **kwargs: trained.append(args))
    with pytest.raises(error, match=message) as told:
        compare(digits, ARMS | arms, RUNS, **SMALL | options)
    assert not trained
    name = "third" if arms else "no BN"
    assert told.value.__notes__ == [f"This is about the arm '{name}'; nothing has been trained."]


def test_every_step_of_every_arm_is_seen(digits, monkeypatch):
    seen, shown = [], io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr("bnutils.progress.DELAY", 0)
    small = SMALL | {"steps": 4}
    hook = {"after_step": lambda net, step: seen.append((len(net.batch_norms), step))}
    compare(digits, ARMS, RUNS, progress=True, **hook, **small)
    assert seen == [(bn, step) for bn in (0, 1) for step in (1, 2, 3, 4)]
    assert "/8 [" in shown.getvalue()  # one bar for all arms
