"""Convolutions and pooling: against Keras, against finite differences, and run by run."""

import copy
import itertools
import pickle

import numpy as np
import pytest

from bnutils import network
from bnutils.gradcheck import directional_error, relative_error
from bnutils.network import SGD, Adam, cnn, fit, softmax_cross_entropy, squared_error
from bnutils.network.convolutions import Windows, _blocks

ROWS = 60
BN = network.BatchNorm(momentum=0.875)  # Keras rounds momentum to float32: exact in both
SMALL = {"filters": [4, 6], "outputs": 3, "dtype": np.float64}
NETS = {
    "plain": ((8, 8, 1), {}),
    "bn": ((8, 8, 1), {"norm": BN}),
    "bn, odd, valid, average": (
        (9, 7, 2),
        {
            "norm": BN,
            "norm_position": "after",
            "padding": "valid",
            "pool": [1, 2],
            "pooling": "average",
            "activation": "tanh",
        },
    ),
    "bn everywhere, strides, flat": (
        (9, 7, 2),
        {
            "norm": BN,
            "input_norm": network.BatchNorm(momentum=0.875, scale=False),
            "output_norm": BN,
            "kernel_size": [2, 5],
            "strides": [2, 1],
            "pool": [1, 3],
            "head": "flatten",
        },
    ),
    "group": ((7, 6, 1), {"norm": network.GroupNorm(2), "strides": [1, 2], "kernel_size": [3, 1]}),
    "layer": ((6, 6, 3), {"norm": network.LayerNorm(), "activation": "sigmoid"}),
}
OTHERS = {
    "ghost": ((6, 6, 1), {"norm": network.GhostBatchNorm(5)}),
    "renorm": ((6, 6, 1), {"norm": network.BatchRenorm(3.0, 5.0)}),
}
# Keras rounds betas to float32, too.
OPTIMIZERS = {
    "SGD": (SGD, {"learning_rate": 0.0625}),
    "momentum": (SGD, {"learning_rate": 0.0625, "momentum": 0.875}),
    "Adam": (Adam, {"learning_rate": 0.015625, "beta_1": 0.875, "beta_2": 0.96875}),
}


def problem(shape, dtype=np.float64):
    """Random images, and labels 0 to 2 that follow from them."""
    x = np.random.default_rng(7).normal(size=(ROWS, *shape)).astype(dtype)
    y = (x[:, :3, :3].mean(axis=(1, 2, 3)) > 0).astype(int)
    return x, y + (x[:, 3:, 3:].mean(axis=(1, 2, 3)) > 0)


def build(name, seeds, **options):
    shape, own = (NETS | OTHERS)[name]
    return cnn(shape, seeds=seeds, **SMALL | own | options), *problem(shape)


def state(net, run):
    """Weights and moving statistics of one run."""
    statistics = ((bn.moving_mean[run], bn.moving_variance[run]) for bn in net.batch_norms)
    return np.concatenate([net.weights[run], *itertools.chain.from_iterable(statistics)])


# ------------------------------------------------------------------------------- against Keras


def keras_loss(keras, y, logits):
    """The cross-entropy of softmax, without a rounding to float32."""
    return keras.ops.mean(keras.ops.sparse_categorical_crossentropy(y, logits, from_logits=True))


TWENTY_STEPS = [
    *itertools.product(["plain", "bn"], OPTIMIZERS),
    ("bn, odd, valid, average", "SGD"),
    ("bn everywhere, strides, flat", "momentum"),
    ("group", "Adam"),
    ("layer", "momentum"),
]


@pytest.mark.parametrize(("name", "optimizer"), TWENTY_STEPS)
def test_twenty_steps_equal_keras(name, optimizer):
    import tensorflow as tf

    from bnutils import keras_nets

    keras, seed, steps, batch_size = keras_nets.keras, 4, 20, 15
    net, x, y = build(name, [3, seed])
    model = keras_nets.twin(net, run=1)
    rule, settings = OPTIMIZERS[optimizer]
    theirs = getattr(keras.optimizers, rule.__name__)(**settings)

    @tf.function
    def keras_step(x, y):
        with tf.GradientTape() as tape:
            value = keras_loss(keras, y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        theirs.apply(gradients, model.trainable_variables)
        return value

    rng, each = np.random.default_rng([seed, 1]), ROWS // batch_size
    orders = [rng.permutation(ROWS).reshape(each, -1) for _ in range(steps // each)]
    expected = [float(keras_step(x[rows], y[rows])) for rows in np.concatenate(orders)]
    history = fit(
        *(net, x, y),
        loss=softmax_cross_entropy,
        optimizer=rule(**settings),
        steps=steps,
        batch_size=batch_size,
    )
    np.testing.assert_allclose(history["loss"][1], expected, rtol=1e-9)
    for ours, keras_weights in zip(
        keras_nets.twin(net, run=1).get_weights(), model.get_weights(), strict=True
    ):
        assert relative_error(ours, keras_weights) < 1e-9
    assert relative_error(net(x)[1], model(x).numpy()) < 1e-9


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_every_gradient_equal_keras(name):
    import tensorflow as tf

    from bnutils import keras_nets

    net, x, y = build(name, [3, 4])
    rng = np.random.default_rng(1)
    net.weights += 0.1 * rng.normal(size=net.weights.shape)
    model = keras_nets.twin(net, run=1)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        value = keras_loss(keras_nets.keras, y, logits)
    theirs = tape.gradient(value, model.trainable_variables)
    output = net(x, training=True)
    assert relative_error(output[1], logits.numpy()) < 1e-12
    net.backward(softmax_cross_entropy(output, y)[1])
    named = {
        v.path.replace("/", "_"): g for v, g in zip(model.trainable_variables, theirs, strict=True)
    }
    assert len(named) == len(net.columns)
    size = max(np.abs(g).max() for g in named.values())
    for key, columns in net.columns.items():
        (gradient,) = (g for path, g in named.items() if path.endswith(key.replace("/", "_")))
        difference = net.gradients[1, columns] - np.ravel(gradient)
        assert np.abs(difference).max() < 1e-12 * size, key
    model = keras_nets.twin(net, run=1)
    assert relative_error(net(x)[1], model(x).numpy()) < 1e-12


@pytest.mark.parametrize("parts", [{}, {"center": False}, {"scale": False}])
def test_training_in_inference_mode_equals_keras(parts):
    import tensorflow as tf

    from bnutils import keras_nets

    net, x, y = build("bn", [3, 4], norm=network.InferenceBatchNorm(**parts))
    net.recalibrate(2 * x + 1)
    before = [(bn.moving_mean.copy(), bn.moving_variance.copy()) for bn in net.batch_norms]
    model, (rule, settings) = keras_nets.twin(net, run=1), OPTIMIZERS["Adam"]
    adam = keras_nets.keras.optimizers.Adam(**settings)
    batches = np.random.default_rng([4, 1]).permutation(ROWS).reshape(-1, 15)
    losses = []
    for rows in batches:
        with tf.GradientTape() as tape:
            loss = keras_loss(keras_nets.keras, y[rows], model(x[rows], training=False))
        gradients = tape.gradient(loss, model.trainable_variables)
        adam.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
    steps = {"steps": len(batches), "batch_size": 15}
    history = fit(net, x, y, loss=softmax_cross_entropy, optimizer=rule(**settings), **steps)
    np.testing.assert_allclose(history["loss"][1], losses, rtol=1e-9)
    assert relative_error(net(x)[1], model(x).numpy()) < 1e-9
    for bn, (mean, variance) in zip(net.batch_norms, before, strict=True):
        np.testing.assert_array_equal(bn.moving_mean, mean)
        np.testing.assert_array_equal(bn.moving_variance, variance)


GEOMETRIES = [
    *itertools.product([(7, 9)], [2, 3, (3, 2)], [1, 2, (2, 3)], ["same", "valid"]),
    *itertools.product([(8, 8)], [1, 2, 3], [2], ["same", "valid"]),
    ((5, 5), 5, 1, "valid"),
    ((4, 4), 5, 2, "same"),
    ((9, 8), 2, 5, "same"),
]


@pytest.mark.parametrize(("shape", "size", "strides", "padding"), GEOMETRIES)
def test_each_layer_equals_keras_wherever_its_windows_stand(shape, size, strides, padding):
    import tensorflow as tf

    from bnutils import keras_nets

    layers, rng = keras_nets.keras.layers, np.random.default_rng(3)
    x = rng.normal(size=(2, 4, *shape, 3))
    kernel = rng.normal(size=(2, *Windows(size).size, 3, 5))
    bias = rng.normal(size=(2, 1, 5))
    where = {"strides": strides, "padding": padding}
    theirs = {
        network.Conv2D(kernel, bias, **where): layers.Conv2D(5, size, **where, dtype="float64"),
        network.MaxPool2D(size, **where): layers.MaxPooling2D(size, **where, dtype="float64"),
        network.AveragePool2D(size, **where): layers.AveragePooling2D(
            size, **where, dtype="float64"
        ),
    }
    for ours, keras_layer in theirs.items():
        y = ours(x, training=True)
        dy = rng.normal(size=y.shape)
        dx = ours.backward(dy)
        for run in range(2):
            if not keras_layer.built:
                keras_layer.build(x[run].shape)
            if keras_layer.weights:
                keras_layer.set_weights([kernel[run], bias[run, 0]])
            inputs = tf.constant(x[run])
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = keras_layer(inputs)
            sources = [inputs, *keras_layer.trainable_variables]
            expected = tape.gradient(outputs, sources, dy[run])
            found = [dx[run]]
            if keras_layer.weights:
                found += [ours.dkernel[run], ours.dbias[run, 0]]
            assert y[run].shape == outputs.shape
            np.testing.assert_allclose(y[run], outputs, rtol=1e-12, atol=1e-12)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", [*NETS, "ghost"])
def test_gradient_against_finite_differences(name):
    net, x, y = build(name, [0, 1])
    rng = np.random.default_rng(1)
    net.weights += 0.1 * rng.normal(size=net.weights.shape)
    net.backward(softmax_cross_entropy(net(x, training=True), y)[1])
    gradients = net.gradients.copy()

    def total_loss(weights):
        net.weights[...] = weights
        return softmax_cross_entropy(net(x, training=True), y)[0].sum()

    assert directional_error(total_loss, net.weights.copy(), gradients, rng) < 1e-6


def test_a_tie_sends_the_gradient_to_the_first():
    layer = network.MaxPool2D(2)
    x = np.zeros((1, 1, 2, 2, 1))
    x[0, 0, 1] = 1
    layer(x, training=True)
    np.testing.assert_array_equal(layer.backward(np.ones((1, 1, 1, 1, 1))).ravel(), [0, 0, 1, 0])


def test_a_convolution_keeps_the_size_of_the_image_by_default():
    kernel, bias = np.ones((2, 3, 3, 1, 4)), np.zeros((2, 1, 4))
    layer = network.Conv2D(kernel, bias)
    y = layer(np.ones((5, 6, 7, 1)), training=True)
    assert y.shape == (2, 5, 6, 7, 4)
    assert (y[0, 0, 0, 0, 0], y[0, 0, 1, 1, 0]) == (4, 9)
    layer.backward(np.ones_like(y))
    np.testing.assert_array_equal(layer.dbias, np.full_like(bias, 5 * 6 * 7))


def test_average_pooling_leaves_padding_out_and_maximum_never_takes_it():
    x = np.full((1, 1, 3, 3, 1), -2.0)
    for layer in (network.AveragePool2D(2, padding="same"), network.MaxPool2D(2, padding="same")):
        np.testing.assert_array_equal(layer(x), np.full((1, 1, 2, 2, 1), -2.0))


# ---------------------------------------------------------------- runs are paired, and independent


def trained(name, seeds, rates, steps=12, **options):
    net, x, y = build(name, seeds, **options)
    history = fit(
        net, x, y, loss=softmax_cross_entropy, optimizer=SGD(rates), steps=steps, batch_size=15
    )
    return net, history


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*NETS, *OTHERS])
def test_a_stack_equals_its_runs_alone(name, dtype):
    seeds, rates = [5, 0, 5], [0.1, 0.2, 0.3]
    net, history = trained(name, seeds, rates, dtype=dtype)
    rtol = 1e-3 if dtype == np.float32 else 1e-9
    for run in range(3):
        alone, its_history = trained(name, seeds[run : run + 1], rates[run], dtype=dtype)
        np.testing.assert_allclose(state(net, run), state(alone, 0), rtol=rtol, atol=rtol / 10)
        np.testing.assert_allclose(history["loss"][run], its_history["loss"][0], rtol=rtol)
    assert history["loss"].dtype == net.weights.dtype == net(problem(net.input_shape)[0]).dtype


@pytest.mark.parametrize("name", NETS)
def test_a_shared_input_is_the_same_as_one_for_each_run(name):
    net, x, y = build(name, [0, 1])
    each, targets = np.stack([x, x]), np.stack([y, y])
    np.testing.assert_allclose(net(each), net(x), rtol=1e-10, atol=1e-12)
    of_each = net.kernel_gradients(each, targets, softmax_cross_entropy)
    shared = net.kernel_gradients(x, y, softmax_cross_entropy)
    for a, b in zip(of_each, shared, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_shared_input_is_laid_out_once(monkeypatch):
    seen, whole = [], Windows.matrix
    monkeypatch.setattr(Windows, "matrix", lambda self, x: seen.append(x.shape) or whole(self, x))
    net, x, y = build("plain", range(7))
    net.kernel_gradients(x, y, softmax_cross_entropy)
    first = [shape for shape in seen if shape[-1] == 1]
    assert first == [(ROWS, 10, 10, 1)] * 2  # once forth, once back


@pytest.mark.parametrize("block", [1, 10**9])
def test_how_many_runs_are_multiplied_at_once_changes_nothing(monkeypatch, block):
    net, _ = trained("bn", [0, 1, 2], 0.1)
    monkeypatch.setattr("bnutils.network.convolutions._BLOCK", block)
    other, _ = trained("bn", [0, 1, 2], 0.1)
    np.testing.assert_array_equal(net.weights, other.weights)
    _, x, _ = build("bn", [0])  # the same images for all runs
    shared = other(x)
    monkeypatch.undo()
    np.testing.assert_array_equal(net(x), shared)


@pytest.mark.parametrize("values", [1, 2**17, 2**18, 2**30])
def test_each_run_is_multiplied_once(values):
    runs = list(range(5))
    assert [run for block in _blocks(5, values) for run in runs[block]] == runs


def test_same_seed_same_start_whatever_the_norm():
    plain, normed = (build(name, [4, 9, 4], filters=[4, 6])[0] for name in ("plain", "bn"))
    for i in ("conv_1", "conv_2", "dense_3"):
        a, b = (net.weights[:, net.columns[f"{i}/kernel"]] for net in (plain, normed))
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[0], a[2])
        assert not np.isclose(a[0], a[1]).any()


@pytest.mark.parametrize(
    ("initializer", "scale"),
    [
        ("he", (2 / 900) ** 0.5),
        ("glorot", (2 / (900 + 450)) ** 0.5),
        ("lecun", (1 / 900) ** 0.5),
        ([0.3, 0.3], 0.3),
    ],
)
def test_initial_scales_count_the_pixels_of_a_kernel(initializer, scale):
    net = cnn((8, 8, 100), filters=[50], outputs=2, seeds=[0, 1], initializer=initializer)
    np.testing.assert_allclose(net.layers[0].kernel.std(axis=(1, 2, 3, 4)), scale, rtol=0.02)


@pytest.mark.parametrize("name", [*NETS, *OTHERS])
@pytest.mark.parametrize("rate", [1e18, 1e37])
def test_a_diverging_run_leaves_the_others_alone(name, rate, capfd):
    healthy = [0, 2]
    net, history = trained(name, [0, 1, 2], np.array([0.01, rate, 0.02]), dtype=np.float32)
    calm, calm_history = trained(name, [0, 1, 2], np.array([0.01, 0.01, 0.02]), dtype=np.float32)
    np.testing.assert_array_equal(net.weights[healthy], calm.weights[healthy])
    np.testing.assert_array_equal(history["loss"][healthy], calm_history["loss"][healthy])
    assert not history.diverged[healthy].any()
    assert history.diverged[1] or rate < 1e37
    assert (np.diff(np.isnan(history["loss"][1]).astype(int)) >= 0).all()  # NaN stays NaN
    x, _ = problem(net.input_shape, np.float32)
    net.recalibrate(x)
    calm.recalibrate(x)
    np.testing.assert_array_equal(net(x)[healthy], calm(x)[healthy])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [*NETS, *OTHERS])
def test_a_run_that_is_nan_stays_nan(name):
    net, x, y = build(name, [0, 1], dtype=np.float32)
    kernels = [layer.kernel for layer in net.layers if hasattr(layer, "kernel")]
    kernels[0][1] = np.nan
    history = fit(
        net, x, y, loss=softmax_cross_entropy, optimizer=SGD(0.05), steps=4, batch_size=15
    )
    assert np.isnan(history["loss"][1]).all()
    assert np.isnan(net(x)[1]).all()
    assert np.isfinite(net(x)[0]).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_trains_on_its_own(duplicate):
    net, _ = trained("bn", [0, 1], 0.1)
    x, y = problem(net.input_shape)
    other, before = duplicate(net), state(net, 0)
    np.testing.assert_array_equal(other(x), net(x))
    fit(other, x, y, loss=softmax_cross_entropy, optimizer=SGD(0.1), steps=5, batch_size=20)
    np.testing.assert_array_equal(state(net, 0), before)
    assert not np.allclose(other(x), net(x))


# ----------------------------------------------------------------------- statistics and structure


def over_images(a):
    """Mean and variance of each channel over batch, rows and columns, [runs, channels]."""
    axes = tuple(range(1, a.ndim - 1))
    return a.mean(axis=axes), a.var(axis=axes)


@pytest.mark.parametrize("name", [name for name in NETS if "bn" in name] + [*OTHERS])
def test_recalibrate_is_exact_over_batch_rows_and_columns(name):
    net, _ = trained(name, [0, 1], 0.1)
    x, _ = problem(net.input_shape)
    net.recalibrate(x[:58])  # which do not fill ghost batches of 5
    outputs = dict(net.activations(x[:58]))
    for i, layer in enumerate(net.layers):
        if layer in net.batch_norms:
            before = outputs[net.names[i - 1]] if i else np.stack([x[:58]] * 2)
            mean, variance = over_images(before)
            np.testing.assert_allclose(layer.moving_mean, mean, atol=1e-12)
            np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-10)


def test_ghost_batches_are_batches_in_one_step():
    ghost, x, _ = build("ghost", [0, 1])
    plain = cnn(ghost.input_shape, seeds=[0, 1], norm=network.BatchNorm(), **SMALL)
    apart = [plain(x[i : i + 5], training=True) for i in range(0, 20, 5)]
    together = ghost(x[:20], training=True)
    np.testing.assert_allclose(together, np.concatenate(apart, axis=1), rtol=1e-10)
    z = dict(plain.activations(x[:20]))["conv_1"]
    mean, variance = over_images(z)
    np.testing.assert_allclose(ghost.layers[1].moving_mean, 0.01 * mean, rtol=1e-9)
    np.testing.assert_allclose(ghost.layers[1].moving_variance, 0.99 + 0.01 * variance, rtol=1e-9)


def test_renorm_without_limits_is_inference():
    net, x, _ = build("renorm", [0, 1], norm=network.BatchRenorm(np.inf, np.inf))
    net.recalibrate(x)
    inference = net(x[:9])
    np.testing.assert_allclose(net(x[:9], training=True), inference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_takes_all_places_of_its_channels(groups):
    z = np.random.default_rng(0).normal(2, 3, size=(2, 5, 3, 4, 8))
    split = z.reshape(2, 5, 3, 4, groups, -1)
    mean, variance = (f(split, axis=(2, 3, 5), keepdims=True) for f in (np.mean, np.var))
    expected = ((split - mean) / np.sqrt(variance + 1e-3)).reshape(z.shape)
    layer = network.GroupNorm(groups).build(2, 8, np.dtype(float))
    np.testing.assert_allclose(layer(z), expected, rtol=1e-10)


def test_bn_needs_no_second_image_where_there_are_places():
    net, x, y = build("bn", [0, 1])
    options = {"loss": softmax_cross_entropy, "steps": 2, "batch_size": 1}
    fit(net, x, y, optimizer=SGD(0.1), **options)
    net, x, y = build("bn", [0, 1], output_norm=network.BatchNorm())
    before = state(net, 0)
    with pytest.raises(ValueError, match="batch_size of 2 or more, got 1"):
        fit(net, x, y, optimizer=SGD(0.1), **options)
    np.testing.assert_array_equal(state(net, 0), before)


def test_dropout_drops_pixels_of_channels():
    net, x, _ = build("bn", [4, 9, 4], dropout=0.5, pool=1)
    assert net.names[:5] == ["conv_1", "bn_1", "relu_1", "dropout_1", "conv_2"]
    net(x, training=True)
    kept = net.layers[3]._scale > 0
    assert kept.shape == (3, ROWS, 8, 8, 4)
    np.testing.assert_array_equal(kept[0], kept[2])
    np.testing.assert_allclose(kept.mean(axis=(1, 2, 3, 4)), 0.5, atol=0.02)


NAMES = [
    ({}, ["conv_1", "relu_1", "pool_1", "conv_2", "relu_2", "pool_2", "average", "dense_3"]),
    (
        {"norm": BN, "norm_position": "after", "pool": 1, "head": "flatten"},
        ["conv_1", "relu_1", "bn_1", "conv_2", "relu_2", "bn_2", "flatten", "dense_3"],
    ),
    (
        {"filters": [4], "norm": BN, "input_norm": BN, "output_norm": BN, "dropout": 0.1},
        [
            *("bn_0", "conv_1", "bn_1", "relu_1", "pool_1", "dropout_1"),
            *("average", "dense_2", "bn_2"),
        ],
    ),
]


@pytest.mark.parametrize(("options", "names"), NAMES)
def test_names_and_shapes(options, names):
    net, x, _ = build("plain", [0, 1], **options)
    assert net.names == names
    activations = net.activations(x)
    assert [name for name, _ in activations] == names
    np.testing.assert_array_equal(activations[-1][1], net(x))
    assert net(x).shape == (2, ROWS, 3)
    for name, bias in (("conv_1", "norm" not in options), ("dense_2", False)):
        if name in names:
            followed = "norm_position" in options
            assert (f"{name}/bias" in net.columns) == (bias or followed)


def test_regression_and_evaluate():
    net, x, _ = build("bn", [0, 1], outputs=1)
    y = x.mean(axis=(1, 2, 3))
    fit(net, x, y, loss=squared_error, optimizer=Adam(0.01), steps=60, batch_size=20)
    net.recalibrate(x)
    assert (network.evaluate(net, x, y, squared_error) < 0.5 * y.var()).all()


ERRORS = [
    ({"shape": (8, 8)}, r"rows, columns and channels, got \(8, 8\)"),
    ({"filters": []}, r"positive filters and outputs, got \[\] and 3"),
    ({"filters": [4, 0]}, r"positive filters and outputs, got \[4, 0\]"),
    ({"pooling": "min"}, "'max' or 'average' .* got 'min'"),
    ({"head": "dense"}, "'average' or 'flatten', got 'max' and 'dense'"),
    ({"padding": "full"}, "'valid' or 'same', got 'full'"),
    ({"strides": [1, 2, 3]}, "strides to be one positive number or 2, .* got .1, 2, 3"),
    ({"kernel_size": 0}, "kernel_size to be one positive number"),
    ({"pool": 4}, "at least 4 x 4, the size of a window, got 2 x 2 before pool_2"),
    ({"padding": "valid", "kernel_size": 5}, "at least 5 x 5, .* got 2 x 2 before conv_2"),
    ({"norm": network.GroupNorm(4)}, "divide the 6 units of conv_2, .* 1, 2, 3 would fit"),
    ({"norm": network.BatchNorm}, "norm to be None or a normalization"),
    ({"activation": "gelu"}, "got 'gelu'"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors(change, message):
    arguments = {"shape": (8, 8, 1), "seeds": [0, 1]} | SMALL | change
    with pytest.raises(ValueError, match=message):
        cnn(arguments.pop("shape"), **arguments)


def test_wrong_images_are_refused():
    net, x, _ = build("plain", [0, 1])
    for wrong in (x[0], x[..., :1, :], x.reshape(ROWS, -1), np.stack([x] * 3)):
        with pytest.raises(ValueError, match=r"shape \[rows, 8, 8, 1\] or \[2, rows, 8, 8, 1\]"):
            net(wrong)
