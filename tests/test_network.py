"""The training engine: against Keras, against finite differences, and run by run."""

import copy
import io
import itertools
import pickle
import sys

import numpy as np
import pytest

from bnutils import network
from bnutils.gradcheck import directional_error
from bnutils.network import (
    SGD,
    Adam,
    Dense,
    accuracy,
    evaluate,
    fit,
    grid,
    mlp,
    sigmoid,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from bnutils.norm import BatchNorm

ROWS, INPUTS = 100, 5
LOSSES = {
    "softmax": (softmax_cross_entropy, 3),
    "sigmoid": (sigmoid_cross_entropy, 1),
    "squared": (squared_error, 2),
}
NETS = {
    "plain": {},
    "bn": {"batch_norm": True},
    "bn after": {"batch_norm": "after", "activation": "sigmoid"},
    "bn at both ends": {
        "input_batch_norm": True,
        "output_batch_norm": True,
        "activation": "tanh",
    },
    "bn without gamma and beta": {
        "batch_norm": True,
        "output_batch_norm": {"center": False, "scale": False},
    },
}
# Keras rounds momentum and betas to float32 even in a float64 model: these are exact in both.
OPTIMIZERS = {
    "SGD": (SGD, {"learning_rate": 0.0625, "momentum": 0.875}),
    "Adam": (Adam, {"learning_rate": 0.015625, "beta_1": 0.875, "beta_2": 0.96875}),
}


def problem(loss="softmax", dtype=np.float64):
    """Inputs, targets, the loss function and the number of outputs."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, INPUTS)).astype(dtype)
    function, outputs = LOSSES[loss]
    if loss == "squared":
        y = np.stack([x[:, 0] * x[:, 1], np.abs(x[:, 2]) + 3], axis=1)
    else:
        y = (x[:, 0] > 0).astype(int) + (x[:, 1] > x[:, 2] if outputs == 3 else 0)
    return x, y, function, outputs


def train(seeds, rates, steps=30, dtype=np.float64, **options):
    """A small network trained by SGD, with its history."""
    x, y, loss, outputs = problem(dtype=dtype)
    net = mlp([INPUTS, 8, 8, outputs], seeds=seeds, dtype=dtype, **options)
    record = {"accuracy": lambda net: accuracy(net, x, y)}
    history = fit(
        net,
        x,
        y,
        loss=loss,
        optimizer=SGD(rates),
        steps=steps,
        batch_size=16,
        every=10,
        record=record,
    )
    return net, history


def state(net, run):
    """Weights and moving statistics of one run."""
    statistics = ((layer.moving_mean[run], layer.moving_variance[run]) for layer in net.batch_norms)
    return np.concatenate([net.weights[run], *itertools.chain.from_iterable(statistics)])


# ----------------------------------------------------------------------------- against Keras


@pytest.fixture(scope="module")
def keras_float64():
    from bnutils import keras_nets  # takes seconds, so only where it is needed

    before = keras_nets.keras.config.floatx()
    keras_nets.keras.config.set_floatx("float64")
    yield keras_nets
    keras_nets.keras.config.set_floatx(before)


CASES = [
    *((net, loss, opt) for net in ("plain", "bn") for loss in LOSSES for opt in OPTIMIZERS),
    ("bn after", "softmax", "SGD"),
    ("bn at both ends", "squared", "Adam"),
    ("bn without gamma and beta", "squared", "SGD"),
]


@pytest.mark.parametrize(("options", "loss", "optimizer"), CASES)
def test_training_equals_keras(keras_float64, options, loss, optimizer):
    import tensorflow as tf

    keras = keras_float64.keras
    x, y, loss_function, outputs = problem(loss)
    steps, batch_size, seed = 50, 16, 4
    widths = [INPUTS, 12, 8, outputs]
    net = mlp(widths, seeds=[3, seed], momentum=0.875, dtype=np.float64, **NETS[options])
    model = keras_float64.twin(net, run=1)
    rule, settings = OPTIMIZERS[optimizer]
    keras_rule = getattr(keras.optimizers, optimizer)(**settings)
    keras_loss = {
        "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "sigmoid": keras.losses.BinaryCrossentropy(from_logits=True),
        "squared": keras.losses.MeanSquaredError(),
    }[loss]

    @tf.function
    def keras_step(x, y):
        with tf.GradientTape() as tape:
            value = keras_loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        keras_rule.apply(gradients, model.trainable_variables)
        return value

    rng = np.random.default_rng([seed, 1])
    epoch = ROWS // batch_size
    permutations = [rng.permutation(ROWS) for _ in range(steps // epoch + 1)]
    batches = [p[i * batch_size : (i + 1) * batch_size] for p in permutations for i in range(epoch)]
    targets = y[:, None] if loss == "sigmoid" else y
    expected = [float(keras_step(x[rows], targets[rows])) for rows in batches[:steps]]

    history = fit(
        net, x, y, loss=loss_function, optimizer=rule(**settings), steps=steps, batch_size=16
    )
    np.testing.assert_allclose(history["loss"][1], expected, rtol=1e-9)
    assert np.mean(expected[-5:]) < 0.9 * np.mean(expected[:5])
    trained = keras_float64.twin(net, run=1).get_weights()  # with the moving statistics
    for ours, theirs in zip(trained, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(net(x)[1], model(x).numpy(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twin_computes_the_same_and_shares_nothing(keras_float64, dtype):
    x, *_ = problem(dtype=dtype)
    net = mlp([INPUTS, 8, 3], seeds=[0, 1], batch_norm=True, input_batch_norm=True, dtype=dtype)
    net.recalibrate(x)
    model = keras_float64.twin(net, run=1)
    before = net(x)[1]
    assert before.dtype == dtype
    assert model(x).numpy().dtype == dtype
    assert [layer.name for layer in model.layers] == net.names
    np.testing.assert_allclose(model(x), before, rtol=1e-5, atol=1e-5)
    net.weights[...] = 0
    np.testing.assert_allclose(model(x), before, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        keras_float64.twin(net, run=2)


# ---------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "linear", "relu"])
@pytest.mark.parametrize("options", NETS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_against_finite_differences(loss, options, activation):
    x, y, loss_function, outputs = problem(loss)
    settings = NETS[options] | {"activation": activation}
    net = mlp([INPUTS, 6, 6, outputs], seeds=[0, 1], dtype=np.float64, **settings)
    rng = np.random.default_rng(1)
    net.weights += 0.1 * rng.normal(size=net.weights.shape)  # gamma, beta, bias off their start
    _, d_output = loss_function(net(x, training=True), y)
    net.backward(d_output)
    gradients = net.gradients.copy()

    def total_loss(weights):
        net.weights[...] = weights
        return loss_function(net(x, training=True), y)[0].sum()

    assert directional_error(total_loss, net.weights.copy(), gradients, rng) < 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_gradient_and_shared_targets(loss):
    _, y, loss_function, outputs = problem(loss)
    rng = np.random.default_rng(0)
    out = rng.normal(size=(3, ROWS, outputs))
    values, gradient = loss_function(out, y)
    assert values.shape == (3,)
    assert directional_error(lambda o: loss_function(o, y)[0].sum(), out, gradient, rng) < 1e-6
    each = loss_function(out, np.stack([y] * 3))
    np.testing.assert_array_equal(values, each[0])
    np.testing.assert_array_equal(gradient, each[1])


def test_losses_by_hand():
    one = np.zeros((1, 1, 4))
    np.testing.assert_allclose(softmax_cross_entropy(one, np.array([2]))[0], np.log(4))
    np.testing.assert_allclose(sigmoid_cross_entropy(one[..., :1], np.array([1]))[0], np.log(2))
    np.testing.assert_allclose(squared_error(one, np.full((1, 4), 3.0))[0], 9)


def test_extreme_logits_stay_finite():
    logits = np.array([[[1e4, -1e4]]], np.float32)
    np.testing.assert_array_equal(softmax_cross_entropy(logits, np.array([1]))[0], [2e4])
    np.testing.assert_array_equal(sigmoid_cross_entropy(logits[..., :1], np.array([0]))[0], [1e4])
    ends = sigmoid(np.array([-1e4, -80, 80, 1e4], np.float32))
    np.testing.assert_allclose(ends, [0, np.exp(-80), 1, 1], rtol=1e-6)


def test_kernel_gradients_leave_no_trace():
    x, y, loss, outputs = problem()
    net = mlp([INPUTS, 7, 6, outputs], seeds=range(3), batch_norm=True)
    before = [state(net, run) for run in range(3)]
    gradients = net.kernel_gradients(x, y, loss)
    assert [g.shape for g in gradients] == [(3, 5, 7), (3, 7, 6), (3, 6, outputs)]
    np.testing.assert_array_equal([state(net, run) for run in range(3)], before)
    dense = [layer for layer in net.layers if isinstance(layer, Dense)]
    for gradient, layer in zip(gradients, dense, strict=True):
        np.testing.assert_array_equal(gradient, layer.dkernel)
        assert np.abs(gradient).min(axis=(1, 2)).shape == (3,)
        assert (np.abs(gradient).max(axis=(1, 2)) > 0).all()


# ---------------------------------------------------------------- runs are paired, and independent


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stack_equals_its_runs_alone(options, dtype):
    seeds, rates = [5, 0, 5], [0.1, 0.3, 0.5]
    net, history = train(seeds, rates, dtype=dtype, **options)
    for run in range(3):
        alone, its_history = train(seeds[run : run + 1], rates[run], dtype=dtype, **options)
        rtol = 1e-4 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(state(net, run), state(alone, 0), rtol=rtol, atol=rtol / 100)
        np.testing.assert_allclose(history["loss"][run], its_history["loss"][0], rtol=rtol)
        np.testing.assert_allclose(history["accuracy"][run], its_history["accuracy"][0])
    assert history["loss"].dtype == net.weights.dtype == dtype


def test_same_seed_same_start_whatever_the_setting():
    plain = mlp([5, 8, 3], seeds=[4, 9, 4])
    normed = mlp([5, 8, 3], seeds=[9], batch_norm=True, input_batch_norm=True)
    doubled = mlp([5, 8, 3], seeds=[9, 1], initializer=np.array([2.0, 1.0]), dtype=np.float64)
    first, last = plain.layers[0].kernel, plain.layers[-1].kernel
    np.testing.assert_array_equal(first[0], first[2])
    assert not np.isclose(first[0], first[1]).any()
    np.testing.assert_array_equal(first[1], normed.layers[1].kernel[0])
    np.testing.assert_array_equal(last[1], normed.layers[-1].kernel[0])
    np.testing.assert_allclose(doubled.layers[0].kernel[0] / 2, first[1] / 0.4**0.5, rtol=1e-6)


INITIALIZER_SCALES = [("he", 0.1), ("glorot", 0.08), ("lecun", 0.1 / 2**0.5), (0.3, 0.3)]


@pytest.mark.parametrize(("initializer", "scale"), INITIALIZER_SCALES)
def test_initializers(initializer, scale):
    net = mlp([200, 112, 1], seeds=[0], initializer=initializer)
    kernel = net.layers[0].kernel
    np.testing.assert_allclose(kernel.std(), scale, rtol=0.03)
    np.testing.assert_allclose(kernel.mean(), 0, atol=4 * scale / kernel.size**0.5)
    np.testing.assert_array_equal(net.layers[0].bias, 0)


def test_same_seed_same_batches_and_every_row_is_seen():
    x = np.arange(10.0)[:, None]
    seen = []

    def loss(output, y):
        seen.append(y)
        return squared_error(output, y)

    net = mlp([1, 1], seeds=[3, 8, 3])
    fit(net, x, x, loss=loss, optimizer=SGD(1e-3), steps=60, batch_size=4, seeds=[3, 8, 3])
    batches = np.stack(seen[1:], axis=1)[..., 0]  # the first call checks the targets
    np.testing.assert_array_equal(batches[0], batches[2])
    assert (batches[0] != batches[1]).any()
    epochs = batches.reshape(3, 30, 8)
    assert all(len(set(epoch)) == 8 for run in epochs for epoch in run)
    np.testing.assert_array_equal(np.unique(batches), x[:, 0])


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"input_batch_norm": True}])
def test_data_of_its_own_for_each_run(options):
    x, y, loss, outputs = problem()
    common = {"loss": loss, "steps": 12, "batch_size": 20}
    shared = mlp([INPUTS, 6, outputs], seeds=[1, 2], **options)
    fit(shared, x, y, optimizer=SGD(0.1), **common)
    each = mlp([INPUTS, 6, outputs], seeds=[1, 2], **options)
    fit(each, np.stack([x, 2 * x]), np.stack([y, y]), optimizer=SGD(0.1), **common)
    np.testing.assert_allclose(each.weights[0], shared.weights[0], rtol=1e-4, atol=1e-6)
    assert not np.allclose(each.weights[1], shared.weights[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(each(np.stack([x, x]))[0], each(x)[0], rtol=1e-5, atol=1e-6)


def test_training_can_go_on_with_the_same_optimizer():
    x, y, loss, outputs = problem()
    nets = [mlp([INPUTS, 6, outputs], seeds=[0], dtype=np.float64) for _ in range(2)]
    adam = Adam(0.01)
    for _ in range(2):
        fit(nets[0], x, y, loss=loss, optimizer=adam, steps=5, batch_size=ROWS)
    fit(nets[1], x, y, loss=loss, optimizer=Adam(0.01), steps=10, batch_size=ROWS)
    np.testing.assert_allclose(nets[0].weights, nets[1].weights, rtol=1e-10)
    with pytest.raises(ValueError, match="has trained another network"):
        fit(nets[1], x, y, loss=loss, optimizer=adam, steps=5, batch_size=ROWS)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_trains_on_its_own(duplicate):
    x, y, loss, _ = problem()
    net, _ = train([0, 1], 0.1, batch_norm=True)
    other = duplicate(net)
    np.testing.assert_array_equal(other(x), net(x))
    before = state(net, 0)
    fit(other, x, y, loss=loss, optimizer=SGD(0.1), steps=5, batch_size=20)
    np.testing.assert_array_equal(state(net, 0), before)
    assert not np.allclose(other(x), net(x))


# --------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
@pytest.mark.parametrize("rate", [1e4, 1e18, 1e37])
@pytest.mark.parametrize("rule", [SGD, Adam])
def test_a_diverging_run_leaves_the_others_alone(rule, rate, options, capfd):
    x, y, loss, outputs = problem("squared", np.float32)
    rates, healthy = np.array([0.01, rate, 0.02]), [0, 2]
    common = {"loss": loss, "steps": 40, "batch_size": 16, "every": 20}
    common["record"] = {"mse": lambda net: evaluate(net, x, y, loss)}

    def run(rates):
        net = mlp([INPUTS, 8, 8, outputs], seeds=[0, 1, 2], **options)
        return net, fit(net, x, y, optimizer=rule(rates), **common)

    net, history = run(rates)
    calm, calm_history = run([0.01, 0.01, 0.02])
    np.testing.assert_array_equal(net.weights[healthy], calm.weights[healthy])
    for name in ("loss", "mse"):
        np.testing.assert_array_equal(history[name][healthy], calm_history[name][healthy])
    assert not history.diverged[healthy].any()
    assert history.diverged[1] or rate < 1e37
    assert (np.diff(np.isnan(history["loss"][1]).astype(int)) >= 0).all()  # NaN stays NaN
    net.recalibrate(x)
    calm.recalibrate(x)
    np.testing.assert_array_equal(net(x)[healthy], calm(x)[healthy])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("epsilon", [1e-3, 0.0])
@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "output_batch_norm": True}])
def test_a_diverged_run_is_nan_for_good(options, epsilon):
    x, y, loss, outputs = problem(dtype=np.float32)
    net = mlp([INPUTS, 8, outputs], seeds=[0, 1], activation="tanh", epsilon=epsilon, **options)
    net.layers[0].kernel[1] = np.nan
    history = fit(
        net,
        x,
        y,
        loss=loss,
        optimizer=SGD(0.1),
        steps=10,
        batch_size=20,
        record={"accuracy": lambda net: accuracy(net, x, y)},
    )
    assert np.isnan(history["loss"][1]).all()
    assert np.isnan(net(x)[1]).all()
    assert np.isnan(dict(net.activations(x, training=True))["dense_2"][1]).all()
    np.testing.assert_array_equal(history.diverged, [False, True])
    np.testing.assert_array_equal(history["accuracy"][1], 0)
    assert (np.diff(history["loss"][0, [0, 5, 9]]) < 0).all()


# ----------------------------------------------------------------------- statistics and structure


@pytest.mark.parametrize("options", [NETS[k] for k in NETS if k != "plain"])
def test_recalibrate_is_exact(options):
    x, *_ = problem()
    net, _ = train([0, 1], 0.1, **options)
    momentum = [layer.momentum for layer in net.batch_norms]
    assert not np.allclose(net(x), net.activations(x, training=True)[-1][1], rtol=1e-3)
    net.recalibrate(x)
    outputs = dict(net.activations(x, training=True))
    np.testing.assert_allclose(net(x), outputs[net.names[-1]], rtol=1e-10, atol=1e-12)
    for i, (name, layer) in enumerate(zip(net.names, net.layers, strict=True)):
        if isinstance(layer, BatchNorm):
            before = outputs[net.names[i - 1]] if i else np.stack([x, x])
            np.testing.assert_allclose(layer.moving_mean, before.mean(axis=1), atol=1e-12)
            np.testing.assert_allclose(layer.moving_variance, before.var(axis=1), rtol=1e-10)
            assert name == f"bn_{name[3:]}"
    assert [layer.momentum for layer in net.batch_norms] == momentum


@pytest.mark.parametrize("training", [False, True])
def test_activations_change_nothing_and_end_in_the_output(training):
    x, *_ = problem()
    net, _ = train([0, 1], 0.1, batch_norm=True, input_batch_norm=True)
    before = [state(net, run) for run in range(2)]
    activations = net.activations(x, training=training)
    np.testing.assert_array_equal([state(net, run) for run in range(2)], before)
    assert [name for name, _ in activations] == net.names
    hidden = [f"{layer}_{i}" for i in (1, 2) for layer in ("dense", "bn", "relu")]
    assert net.names == ["bn_0", *hidden, "dense_3"]
    assert all(output.shape[:2] == (2, ROWS) for _, output in activations)
    np.testing.assert_array_equal(activations[-1][1], net(x, training=training))


BIASES = [
    ({}, [True, True]),
    ({"batch_norm": True}, [False, True]),
    ({"batch_norm": "after"}, [True, True]),
    ({"output_batch_norm": True}, [True, False]),
    ({"batch_norm": True, "use_bias": True}, [True, True]),
    ({"use_bias": False}, [False, False]),
]


@pytest.mark.parametrize(("options", "expected"), BIASES)
def test_a_bias_where_no_bn_follows(options, expected):
    net = mlp([5, 4, 3], seeds=[0], **options)
    dense = [layer for layer in net.layers if isinstance(layer, Dense)]
    assert [layer.bias is not None for layer in dense] == expected
    assert net.weights.shape[1] == sum(
        p.size
        for layer in net.layers
        for name in ("kernel", "bias", "gamma", "beta")
        if (p := getattr(layer, name, None)) is not None
    )


def test_accuracy_and_evaluate():
    net = mlp([2, 2], seeds=[0, 1], dtype=np.float64)
    net.layers[0].kernel[...] = [np.eye(2), -np.eye(2)]
    x, y = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]]), np.array([0, 1, 1])
    np.testing.assert_allclose(accuracy(net, x, y), [2 / 3, 1 / 3])
    np.testing.assert_allclose(evaluate(net, x, x, squared_error), [0, 4 * 7 / 6])
    one = mlp([1, 1], seeds=[0])
    one.layers[0].kernel[...] = 1
    np.testing.assert_allclose(accuracy(one, [[-1], [2], [3]], [0, 1, 0]), [2 / 3])


def test_history_and_record_times():
    _, history = train([0, 1], 0.1, steps=25)
    np.testing.assert_array_equal(history.steps, [0, 10, 20, 25])
    assert history["loss"].shape == (2, 25)
    assert history["accuracy"].shape == (2, 4)
    assert history.names == ("loss", "accuracy")
    with pytest.raises(ValueError, match=r"\('loss', 'accuracy'\), got 'acc'"):
        history["acc"]


def test_grid():
    runs = grid(seed=[3, 4], learning_rate=[0.1, 1.0, 10.0])
    assert (runs.names, runs.shape, len(runs)) == (("seed", "learning_rate"), (2, 3), 6)
    np.testing.assert_array_equal(runs.seed, [3, 3, 3, 4, 4, 4])
    np.testing.assert_array_equal(runs.learning_rate, [0.1, 1, 10] * 2)
    a = np.arange(12).reshape(6, 2)
    np.testing.assert_array_equal(runs.reshape(a)[1, 2], a[5])
    assert repr(runs) == "Grid(seed: 2, learning_rate: 3; 6 runs)"


# ------------------------------------------------------------------------------- progress, errors


class Terminal(io.StringIO):
    """A stream that says that a person watches."""

    def isatty(self):
        """Pretend."""
        return True


@pytest.mark.parametrize(
    ("stream", "ci", "progress", "shown"),
    [
        (Terminal, False, None, True),
        (Terminal, True, None, False),
        (io.StringIO, False, None, False),
        (Terminal, False, False, False),
        (io.StringIO, True, True, True),
    ],
)
def test_progress_is_for_people(monkeypatch, stream, ci, progress, shown):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("CI", raising=False)
    if ci:
        monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(network, "PROGRESS_DELAY", 0)
    x, y, loss, outputs = problem()
    net = mlp([INPUTS, outputs], seeds=[0])
    fit(
        net,
        x,
        y,
        loss=loss,
        optimizer=SGD(0.1),
        steps=3,
        batch_size=9,
        progress=progress,
    )
    assert ("3/3" in sys.stderr.getvalue()) == shown


def test_progress_is_silent_in_tests(capfd):
    train([0], 0.1)
    assert capfd.readouterr() == ("", "")


MLP_ERRORS = [
    ({"widths": [5]}, r"at least two positive widths, got \[5\]"),
    ({"widths": [5, 0]}, r"positive widths, got \[5, 0\]"),
    ({"seeds": []}, "integers >= 0"),
    ({"seeds": [0.5]}, "integers >= 0"),
    ({"seeds": 3}, "integers >= 0"),
    ({"activation": "gelu"}, "got 'gelu'"),
    ({"initializer": "xavier"}, "got 'xavier'"),
    ({"initializer": [0.1, 0.2, 0.3]}, "one positive number or 2"),
    ({"initializer": 0.0}, "positive number"),
    ({"batch_norm": "before"}, "got 'before'"),
    ({"output_batch_norm": {"axis": 1}}, "center.* and .*scale.*, got .*axis"),
    ({"momentum": 2.0}, "momentum"),
    ({"dtype": np.int32}, "float32 or float64, got int32"),
]


@pytest.mark.parametrize(("change", "message"), MLP_ERRORS)
def test_mlp_errors(change, message):
    arguments = {"widths": [5, 8, 3], "seeds": [0, 1], "batch_norm": True} | change
    with pytest.raises(ValueError, match=message):
        mlp(arguments.pop("widths"), **arguments)


X, Y, _, _ = problem()
FIT_ERRORS = [
    ({"x": X[0]}, r"expected x of the shape"),
    ({"x": X[:, :4]}, r"\[rows, 5\] or \[2, rows, 5\], got \(100, 4\)"),
    ({"x": np.stack([X] * 3)}, r"\[2, rows, 5\], got \(3, 100, 5\)"),
    ({"x": np.where(X > 2, np.nan, X)}, "x to be finite .* from nan to nan"),
    ({"x": np.where(X > 2, 1e30, X)}, r"x to be finite .* to 1.*e\+30"),
    ({"x": np.where(X > 2, 1e99, X)}, "x to be finite .* to inf"),
    ({"y": Y[:50]}, r"got \(50,\)"),
    ({"y": Y + 1}, "labels from 0 to 2, got 1 to 3"),
    ({"y": Y - 1}, "labels from 0 to 2, got -1 to 1"),
    ({"y": Y + 0.0}, "integer labels"),
    ({"loss": squared_error}, r"targets of the shape \(100, 3\)"),
    ({"loss": squared_error, "y": np.full((ROWS, 3), np.inf)}, "y to be finite"),
    ({"loss": sigmoid_cross_entropy}, r"one logit for each row, got the shape \(1, 100, 3\)"),
    ({"seeds": [1]}, "2 seeds, one for each run, got 1"),
    ({"optimizer": SGD([0.1, 0.2, 0.3])}, "one learning rate or 2, one for each run, got 3"),
    ({"batch_size": 1}, "2 or more, got 1"),
    ({"batch_size": 101}, "from 1 to 100 rows, got 101"),
    ({"steps": 0}, "at least one step, got 0"),
    ({"every": 0}, "every to be None or at least 1, got 0"),
    ({"record": {"loss": len}}, "'loss' is always recorded"),
    ({"record": {"n": lambda net: 1.0}}, r"'n' to return .* 2 runs, got the shape \(\)"),
]


@pytest.mark.parametrize(("change", "message"), FIT_ERRORS)
def test_fit_errors_come_before_any_change(change, message):
    net = mlp([INPUTS, 4, 3], seeds=[0, 1], batch_norm=True)
    before = [state(net, run) for run in range(2)]
    arguments = {
        "x": X,
        "y": Y,
        "loss": softmax_cross_entropy,
        "optimizer": SGD(0.1),
        "steps": 3,
        "batch_size": 20,
    }
    with pytest.raises(ValueError, match=message):
        fit(net, **(arguments | change))
    np.testing.assert_array_equal([state(net, run) for run in range(2)], before)


OTHER_ERRORS = [
    (lambda net: net.backward(np.ones((2, 9, 3))), "call with training=True before backward"),
    (lambda net: net(X[:1], training=True), "one value in each channel"),
    (lambda net: accuracy(net, X, Y[:9]), r"got \(9,\)"),
    (lambda net: SGD(0.0), "positive learning rate"),
    (lambda net: SGD([[0.1]]), "positive learning rate"),
    (lambda net: SGD(0.1, momentum=1.0), "momentum from 0 to below 1, got 1.0"),
    (lambda net: Adam(beta_1=1.0), "betas from 0 to below 1, got 1.0"),
    (lambda net: grid(), "at least one name"),
    (lambda net: grid(seed=[]), "non-empty sequence for 'seed'"),
    (lambda net: grid(seed=1), "non-empty sequence for 'seed'"),
    (lambda net: grid(shape=[1]), "attribute of Grid"),
    (lambda net: grid(seed=[1]).reshape(np.zeros(2)), r"1 runs, got the shape \(2,\)"),
    (lambda net: sigmoid_cross_entropy(np.zeros((1, 2, 1)), [0, 2]), "labels 0 and 1"),
]


@pytest.mark.parametrize(("call", "message"), OTHER_ERRORS)
def test_other_errors(call, message):
    net = mlp([INPUTS, 4, 3], seeds=[0, 1], batch_norm=True)
    with pytest.raises(ValueError, match=message):
        call(net)
