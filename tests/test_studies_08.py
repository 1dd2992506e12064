"""Chapter 8's studies: averages kept beside a training, rules of decay, the pull of a penalty."""

import numpy as np
import pytest

from bnutils import data, network, studies
from bnutils.studies import chapter_08


def test_averages_kept_beside_a_training_are_those_of_the_engine():
    few = {"images": 64, "width": 8, "passes": [2], "seed": [0], "learning_rate": [0.1]}
    record = studies.get("dropout").run(arm=["BN"], dropped=[0.2], **few, workers=1)
    images = chapter_08.few_images(0, 64, 0.0)
    for momentum in (0.9, 0.99):
        net = network.mlp(
            [196, 8, 8, 10], seeds=[0], norm=network.BatchNorm(momentum=momentum), dropout=0.2
        )
        network.fit(
            net,
            images.train.x,
            images.train.y,
            loss=network.softmax_cross_entropy,
            optimizer=network.SGD(0.1),
            steps=4,
            batch_size=32,
        )
        there = record["accuracy"].sel(statistics=f"moving, {momentum:g}", part="test").item()
        here = network.accuracy(net, images.test.x, images.test.y)
        assert there == pytest.approx(here.item(), abs=1e-6)


def test_a_share_of_the_labels_is_drawn_at_random_and_only_to_learn_from():
    right, wrong = (chapter_08.few_images(3, 512, share) for share in (0.0, 0.4))
    assert 0.28 < (right.train.y != wrong.train.y).mean() < 0.45
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(right, part).y, getattr(wrong, part).y)
    parts = [right.train.x, right.validation.x, right.test.x]
    rows = np.concatenate(parts)
    assert [len(x) for x in parts] == [512, 1000, 500]
    assert len(np.unique(rows, axis=0)) > len(rows) - 5


def test_a_penalty_in_the_loss_is_decay_under_gradient_descent_and_not_under_adam():
    digits = data.digits(dtype=float)
    x, y = digits.train.x[:50], digits.train.y[:50]

    class PenalizedSGD(chapter_08.PenalizedAdam):
        slots = 0

        def step(self, weights, gradients):
            weights -= 0.5 * (gradients + self.penalty * weights)

    outputs = {}
    for rule in ("SGD", "penalty", "Adam", "Adam, L2"):
        net = chapter_08.small_network([0])
        if rule == "penalty":
            made = PenalizedSGD(0.5)
            made.penalty = np.zeros_like(net.weights)
            for name in chapter_08.HIDDEN:
                made.penalty[:, net.columns[name]] = 0.02 / 0.5
        else:
            rate = 0.5 if rule == "SGD" else 0.005
            made = chapter_08.optimizer(rule, net, np.array([rate]), np.array([0.02]))
        outputs[rule] = chapter_08.trained(net, made, x, y, 5)
    np.testing.assert_allclose(outputs["SGD"], outputs["penalty"], rtol=1e-9)
    assert np.abs(outputs["Adam"] - outputs["Adam, L2"]).max() > 1e-3
