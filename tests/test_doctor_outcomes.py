"""What outputs decide, and what a change changed, against NumPy and Keras's own evaluate."""

import math

import numpy as np
import pytest

from bnutils._keras import keras
from bnutils.doctor.outcomes import Comparison, Pair, Scores, changes, decisions

layers = keras.layers
ROWS = 40


def rng(seed=0):
    return np.random.default_rng(seed)


def model(loss=None, outputs=1, metrics=None, **activation):
    inputs = keras.Input((3,))
    heads = [layers.Dense(4, name=f"head{n}", **activation)(inputs) for n in range(outputs)]
    made = keras.Model(inputs, heads if outputs > 1 else heads[0])
    if loss is not None:
        made.compile("sgd", loss, metrics=metrics)
    return made


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


NORMAL = rng().normal(size=(ROWS, 5, 4))
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)
KINDS = {
    "probabilities": (None, softmax(NORMAL), "classes", 0.0),
    "scores of any rank": (None, NORMAL, "values", 0.0),
    "scores of classes by their loss": ("categorical_hinge", NORMAL, "classes", 0.0),
    "sigmoid": (None, 1 / (1 + np.exp(-NORMAL)), "detections", 0.5),
    "one score": (None, NORMAL[..., :1], "signs", 0.0),
    "one size": (None, 2 + NORMAL[..., :1] ** 2, "values", 0.0),
    "logits by their loss": (BINARY, NORMAL, "detections", 0.0),
    "probabilities by their loss": ("binary_crossentropy", NORMAL, "detections", 0.5),
    "classes by their loss": ("sparse_categorical_crossentropy", NORMAL**2, "classes", 0.0),
    "regression by its loss": ("mse", softmax(NORMAL), "values", 0.0),
    "not finite": (None, np.full((3, 2), np.nan), "detections", 0.5),
    "text": (None, np.array([["a"], ["b"]]), "values", 0.0),
}


@pytest.mark.parametrize(("loss", "outputs", "kind", "threshold"), KINDS.values(), ids=KINDS)
def test_what_outputs_decide(loss, outputs, kind, threshold):
    (found,) = decisions(model(loss), [outputs])
    assert (found.output, found.kind, found.threshold) == ("head0", kind, threshold)


def test_changes_of_several_outputs_by_name():
    before = [softmax(NORMAL), NORMAL[:, 0, :1]]
    after = [before[0].copy(), before[1] + 1]
    after[0][:10] = after[0][:10, :, ::-1]
    half = [Pair(None, *([each[rows] for each in state] for state in (before, after)))
            for rows in (slice(15), slice(15, None))]  # fmt: skip
    classes, signs = changes(model(outputs=2), half)
    assert (classes.output, classes.kind, classes.decisions) == ("head0", "classes", ROWS * 5)
    assert classes.changed == pytest.approx(10 / ROWS)  # reversed, no largest stays where it was
    assert (signs.output, signs.kind) == ("head1", "signs")
    assert signs.above_before == pytest.approx(np.mean(before[1] > 0))
    assert signs.above_after == pytest.approx(np.mean(after[1] > 0))
    assert signs.changed == pytest.approx(np.mean((before[1] > 0) != (after[1] > 0)))
    assert signs.moved == pytest.approx(1 / before[1].std(), rel=0.1)
    assert "head1" in str(signs)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        ("sparse_categorical_crossentropy", rng(1).integers(0, 4, (ROWS, 1))),
        ("categorical_crossentropy", np.eye(4)[rng(1).integers(0, 4, ROWS)]),
        ("binary_crossentropy", rng(1).integers(0, 2, (ROWS, 4))),
    ],
)
def test_scores_are_those_of_evaluate(loss, y):
    activation = "sigmoid" if loss == "binary_crossentropy" else "softmax"
    made = model(loss, metrics=["accuracy"], activation=activation)
    x = rng(2).normal(size=(ROWS, 3)).astype("float32")
    outputs = made.predict(x, verbose=0)
    scores = Scores(made)
    losses, rows = scores.losses(y, outputs)
    expected = made.evaluate(x, y, verbose=0)
    assert np.average(losses, weights=rows) == pytest.approx(expected[0], rel=1e-5)
    assert scores.metrics([(y, outputs)])["accuracy"] == pytest.approx(expected[1])
    hits = scores.hits(y, outputs)["head0"]
    assert hits.shape == (ROWS,)
    if loss == "binary_crossentropy":  # Keras takes an "accuracy" of four columns for classes
        expected[1] = np.mean((outputs > 0.5) == y)
    assert hits.mean() == pytest.approx(expected[1])


def test_the_metrics_of_the_model_count_nothing():
    made = model("mse", metrics=[keras.metrics.MeanAbsoluteError(name="off")])
    x, y = np.ones((8, 3)), np.ones((8, 4))
    made.evaluate(x, y, verbose=0)
    before = [variable.numpy() for variable in made.metrics_variables]
    outputs = made.predict(x, verbose=0)
    Comparison.of(made, [Pair(y, outputs, outputs + 1)], rows=8, whole=True, first=False)
    for value, variable in zip(before, made.metrics_variables, strict=True):
        np.testing.assert_array_equal(value, variable)


def compared(made, y, before, after):
    return Comparison.of(made, [Pair(y, before, after)], rows=len(y), whole=True, first=False)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.5, "better"), (0.99, "alike"), (1.01, "alike"), (2, "worse")]
)
def test_a_loss_is_worse_by_a_margin(factor, verdict):
    y = rng(3).normal(size=(ROWS, 4))
    error = 1 + 0.1 * rng(4).normal(size=y.shape)
    found = compared(model("mse"), y, y + error, y + error * math.sqrt(factor))
    assert found.verdict == verdict
    assert found.scores[0].after == pytest.approx(found.scores[0].before * factor, rel=1e-3)


def test_a_loss_that_one_row_makes_is_no_verdict():
    y = np.zeros((ROWS, 4))
    before, after = np.ones_like(y), np.ones_like(y)
    after[0] = 5
    found = compared(model("mse"), y, before, after)
    assert found.scores[0].after > 1.5 * found.scores[0].before
    assert found.verdict == "alike"


def test_what_is_not_finite_is_worse():
    y = np.zeros((ROWS, 4))
    assert compared(model("mse"), y, y + 1, y * np.nan).verdict == "worse"
    assert compared(model("mse"), y, y * np.nan, y + 1).verdict == "better"


def test_what_is_never_a_number_is_neither_better_nor_worse():
    y = np.full((ROWS, 4), np.nan)
    assert compared(model("mse"), y, np.zeros_like(y), np.ones_like(y)).verdict is None


def test_rows_with_sample_weights_are_not_judged_without_them():
    y = np.zeros((ROWS, 4))
    pairs = [Pair(y, y, y + 1)]
    found = Comparison.of(model("mse"), pairs, rows=ROWS, whole=True, first=False, weighted=True)
    assert (found.verdict, found.scores) == (None, ())
    assert "sample weights" in found.no_scores


def test_loss_and_accuracy_that_disagree_are_mixed():
    made = model("sparse_categorical_crossentropy", metrics=["accuracy"])
    y = np.zeros(ROWS, int)
    before = np.tile([0.4, 0.2, 0.2, 0.2], (ROWS, 1))
    after = np.tile([0.97, 0.01, 0.01, 0.01], (ROWS, 1))
    after[::2] = [0.29, 0.31, 0.2, 0.2]
    assert compared(made, y, before, after).verdict == "mixed"


class OwnLoss(keras.Model):
    def call(self, x):
        return x

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(y_pred)


def test_without_a_loss_that_can_be_computed_the_reason_is_told():
    y = np.ones((ROWS, 4))
    own = OwnLoss()
    own.compile("sgd")
    for made, given, reason in [
        (model(), y, "not compiled"),
        (model("mse"), None, "no targets"),
        (own, y, "by itself"),
        (model("mse"), np.ones((ROWS, 3)), "cannot be computed"),
        (model("mse"), np.full((ROWS, 4), "1"), "cannot be computed"),
    ]:
        found = Comparison.of(made, [Pair(given, y, y)], rows=ROWS, whole=False, first=True)
        assert found.verdict is None
        assert reason in found.no_scores
        assert reason in "".join(found.sentences())
        assert "the first 40 rows" in found.sentences()[0]
