"""A comparison gives both arms the same start, the same batches, and a fair choice of settings."""

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
