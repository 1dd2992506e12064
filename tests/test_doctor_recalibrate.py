"""Recalibration against NumPy, on models of every build; and the probe that it stands on."""

import copy
import dataclasses
import json
import pickle
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnutils._keras import keras, tf
from bnutils.doctor import before_after, layerwise
from bnutils.doctor.graph import batch_norms, layer_paths
from bnutils.doctor.moments import Moments, channel_moments
from bnutils.doctor.probe import Probe
from bnutils.doctor.recalibrate import Moved, Recalibration, recalibrate
from bnutils.doctor.subject import Subject

layers = keras.layers
BatchNormalization = layers.BatchNormalization
ROWS = 65


def rng(seed=0):
    return np.random.default_rng(seed)


def probe(model, mode="inference"):
    return Probe(Subject(model), mode)


def scramble(model, seed=1):
    """Give every weight and statistic of a model a value of its own."""
    random = rng(seed)
    for variable in model.weights:
        value = random.normal(0.3, 0.5, variable.shape)
        if "variance" in variable.name or "stddev" in variable.name or variable.name == "gamma":
            value = random.uniform(0.5, 2.0, variable.shape)
        if "seed" not in variable.name:
            variable.assign(value)
    return model


def state(model):
    """Every value that a model holds, by name: weights, statistics, seeds, metrics, optimizer."""
    variables = [*model.variables]
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    return [(variable.path, variable.value.numpy().tobytes()) for variable in variables]


def hooks_left(model):
    return [path for layer, path in layer_paths(model).items() if "call" in vars(layer)]


def statistics(bn):
    return bn.moving_mean.value.numpy(), bn.moving_variance.value.numpy()


def assert_statistics(bn, values, rtol=1e-5):
    """Compare with NumPy over all values of a channel, in float64."""
    values = np.asarray(values, "float64")
    axes = tuple(range(values.ndim - 1))
    mean, variance = statistics(bn)
    std = np.sqrt(values.var(axes))
    np.testing.assert_allclose(mean, values.mean(axes), rtol=rtol, atol=rtol * std.max())
    np.testing.assert_allclose(variance, values.var(axes), rtol=rtol)


def dense(layer, x):
    return x @ layer.kernel.value.numpy().astype("float64") + layer.bias.value.numpy()


def normalized(bn, x):
    mean, variance = (value.astype("float64") for value in statistics(bn))
    std = np.sqrt(variance + bn.epsilon)
    return (x - mean) / std * bn.gamma.value.numpy() + bn.beta.value.numpy()


def by_batch(bn, x, size):
    """Normalize each batch by its own statistics."""
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        part = (part - part.mean(0)) / np.sqrt(part.var(0) + bn.epsilon)
        parts.append(part * bn.gamma.value.numpy() + bn.beta.value.numpy())
    return np.concatenate(parts)


def relu(x):
    return np.maximum(x, 0)


def stack(depth=3, width=5, inputs=4, dropout=0.5):
    model = keras.Sequential([keras.Input((inputs,))])
    for number in range(depth):
        model.add(layers.Dense(width, name=f"dense{number}"))
        model.add(BatchNormalization(name=f"bn{number}"))
        model.add(layers.ReLU(name=f"relu{number}"))
        model.add(layers.Dropout(dropout, name=f"drop{number}"))
    return scramble(model)


# --- one layer against NumPy --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
@pytest.mark.parametrize("batch_size", [1, 8, 13, 64, 65, 1000])
def test_one_layer_has_the_moments_of_the_whole_set(batch_size, method):
    model = stack(depth=1)
    x = rng().normal(3, 2, (ROWS, 4)).astype("float32")
    done = recalibrate(model, x, batch_size=batch_size, method=method)
    assert_statistics(model.get_layer("bn0"), dense(model.get_layer("dense0"), x))
    assert (done.rows, done.passes, done.moved[0].values) == (ROWS, 1, ROWS)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 6, 5, 3), (6, 2, 4, 5, 3)])
def test_any_axis(shape, axis):
    model = scramble(keras.Sequential([keras.Input(shape[1:]), BatchNormalization(axis=axis)]))
    x = rng().normal(2, 3, shape).astype("float32")
    recalibrate(model, x, batch_size=4)
    assert_statistics(model.layers[0], np.moveaxis(x, axis, -1))


def test_convolution_with_a_last_batch_of_one():
    model = scramble(
        keras.Sequential([keras.Input((9, 8, 2)), layers.Conv2D(3, 3), BatchNormalization()])
    )
    x = rng().normal(0, 1, (9, 9, 8, 2)).astype("float32")
    recalibrate(model, x, batch_size=4)
    kernel = model.layers[0].kernel.value.numpy().astype("float64")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    y = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + model.layers[0].bias.value.numpy()
    assert_statistics(model.layers[1], y)


@pytest.mark.parametrize("shape", [(4096, 3), (64, 64, 3), (4, 32, 32, 3)])
def test_a_mean_far_from_zero_costs_no_digits(shape):
    model = keras.Sequential([keras.Input(shape[1:]), BatchNormalization()])
    x = rng().normal(1e4, 1, shape).astype("float32")
    seen = Moments(*3 * [np.zeros(3)])
    for start in range(0, len(x), 3):
        if start < 9:
            seen = seen.merged(probe(model).moments(x[start : start + 3])[0].moments)
    part = x[:9].astype("float64").reshape(-1, 3)
    np.testing.assert_allclose(seen.mean, part.mean(0), rtol=0, atol=2e-6)
    np.testing.assert_allclose(seen.variance, part.var(0), rtol=2e-6)
    whole = probe(model).moments(x)[0].moments
    flat = x.astype("float64").reshape(-1, 3)
    np.testing.assert_allclose(whole.mean, flat.mean(0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(whole.variance, flat.var(0), rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_channels_far_apart_cost_each_other_no_digits(masked, axis):
    x = rng().normal([1e4, 0, -1e5], [1, 0.01, 1], (64, 20, 3)).astype("float32")
    x = np.moveaxis(x, -1, axis)
    mask = rng(1).random(x.shape[:-1]) < 0.7 if masked else None
    seen = [each.numpy() for each in channel_moments(tf.constant(x), mask, axis)]
    for channel, values in enumerate(np.moveaxis(x.astype("float64"), axis, 0)):
        if masked:  # it stands for all but the last axis, wherever the channels are
            kept = np.moveaxis(np.broadcast_to(mask[..., None], x.shape), axis, 0)[channel]
            values = values[kept]
        count, mean, variance = (each[channel] for each in seen)
        assert count == values.size
        assert mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-7)
        assert variance == pytest.approx(values.var(), rel=2e-6)


def test_masked_steps_do_not_count():
    inputs = keras.Input((6, 2))
    outputs = BatchNormalization(name="bn")(layers.Masking()(inputs))
    model = keras.Model(inputs, outputs)
    x = rng().normal(5, 2, (ROWS, 6, 2)).astype("float32")
    lengths = rng(1).integers(0, 7, ROWS)
    x[np.arange(6) >= lengths[:, None]] = 0
    done = recalibrate(model, x, batch_size=8)
    assert_statistics(model.get_layer("bn"), x[np.arange(6) < lengths[:, None]])
    assert done.moved[0].values == lengths.sum()


def test_a_mask_hides_what_is_not_finite():
    bn = BatchNormalization()
    inputs, mask = keras.Input((4, 2)), keras.Input((4,), dtype="bool")
    model = keras.Model([inputs, mask], bn(inputs, mask=mask))
    x = rng().normal(size=(9, 4, 2)).astype("float32")
    keep = rng(1).random((9, 4)) < 0.5
    x[~keep] = np.nan
    recalibrate(model, [x, keep], batch_size=4)
    assert_statistics(bn, x[keep])


class Tap(layers.Layer):
    """Passes its input on, and keeps a copy of every batch that went through."""

    def __init__(self, **options):
        """Start with no batches."""
        super().__init__(**options)
        self.batches = []

    def call(self, x):
        def keep(batch):
            self.batches.append(batch.copy())
            return batch

        seen = tf.numpy_function(keep, [x], x.dtype, stateful=True)
        seen.set_shape(x.shape)
        return seen


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
def test_mixed_precision_pools_in_float32(method):
    # A product in half precision may differ with the batch: the reference is what BN was given.
    policy, tap = keras.DTypePolicy("mixed_float16"), Tap(dtype="float16")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, dtype=policy),
            tap,
            BatchNormalization(dtype=policy),
        ]
    )
    scramble(model)
    x = rng().normal(0, 1, (ROWS, 4)).astype("float32")
    tap.batches.clear()
    recalibrate(model, x, batch_size=8, method=method)
    # The comparison runs the model too: before it is measured in one pass, in the other after.
    given = np.concatenate(tap.batches)
    half = given[-ROWS:] if method == "layerwise" else given[:ROWS]
    assert (half.dtype, half.shape) == ("float16", (ROWS, 3))
    assert_statistics(model.layers[-1], half)


def test_float64_keeps_its_digits():
    model = keras.Sequential(
        [keras.Input((3,), dtype="float64"), BatchNormalization(dtype="float64")]
    )
    x = rng().normal(1e6, 1, (ROWS, 3))
    recalibrate(model, x, batch_size=8)
    assert_statistics(model.layers[0], x, rtol=1e-9)


@pytest.mark.parametrize("options", [{"synchronized": True}, {"center": False, "scale": False}])
def test_other_settings(options):
    model = keras.Sequential([keras.Input((3,)), BatchNormalization(**options)])
    x = rng().normal(1, 2, (ROWS, 3)).astype("float32")
    recalibrate(model, x, batch_size=8)
    assert_statistics(model.layers[0], x)


def test_renorm_keeps_its_five_statistics_together():
    model = scramble(keras.Sequential([keras.Input((3,)), BatchNormalization(renorm=True)]))
    bn = model.layers[0]
    x = rng().normal(1, 2, (ROWS, 3)).astype("float32")
    recalibrate(model, x, batch_size=8)
    assert_statistics(bn, x)
    std = np.sqrt(x.astype("float64").var(0) + bn.epsilon)
    np.testing.assert_allclose(bn.moving_stddev, std, rtol=1e-5)
    np.testing.assert_allclose(bn.renorm_stddev, std, rtol=1e-5)
    np.testing.assert_array_equal(bn.renorm_mean, bn.moving_mean)
    # A fixed point of Keras's own update on the same data, so nothing jumps when training goes on.
    before = [variable.value.numpy() for variable in bn.non_trainable_variables]
    bn(x, training=True)
    for variable, value in zip(bn.non_trainable_variables, before, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5)


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
def test_frozen_layers_are_left_alone_and_normalize_by_their_own(method):
    model = stack(depth=3)
    model.get_layer("bn1").trainable = False
    own = statistics(model.get_layer("bn1"))
    done = recalibrate(model, X, method=method)
    np.testing.assert_array_equal(statistics(model.get_layer("bn1")), own)
    ((what, reason, *_),) = done.skipped
    assert (what, "frozen" in reason) == ("bn1", True)
    assert "bn1" in str(done).split("Left alone")[1]
    assert [moved.path for moved in done.moved] == ["bn0", "bn2"]
    if method == "layerwise":
        for number, values in enumerate(reference(model, X, 3, normalized)):
            if number != 1:
                assert_statistics(model.get_layer(f"bn{number}"), values, rtol=2e-5)


def test_frozen_layers_can_be_named():
    model = keras.Sequential([keras.Input((4,)), stack(depth=2), layers.Dense(3)])
    model.add(BatchNormalization(name="head"))
    base = model.layers[0]
    base.trainable = False
    first, second = batch_norms(base)
    for wanted, moved in [
        ([f"{base.name}/bn1"], [second]),
        (second, [second]),
        (base.name, [first, second]),
        (["head", base], [first, second, model.get_layer("head")]),
    ]:
        scramble(model)
        before = {bn: statistics(bn)[0] for bn in batch_norms(model)}
        done = recalibrate(model, X, layers=wanted)
        assert [each.path for each in done.moved] == [layer_paths(model)[bn] for bn in moved]
        assert done.skipped == ()
        changed = [bn for bn, mean in before.items() if np.any(mean != statistics(bn)[0])]
        assert changed == moved


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_split_into_batches_gives_the_same(data):
    x = rng().normal(50, 3, (40, 4)).astype("float32")
    cuts = data.draw(st.sets(st.integers(1, 39)))
    parts = np.split(x, sorted(cuts))
    recalibrate(SPLIT, lambda: parts)
    assert_statistics(SPLIT.get_layer("bn0"), dense(SPLIT.get_layer("dense0"), x))


SPLIT = stack(depth=1)


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3), max_size=12),
    others=st.lists(st.floats(-1e3, 1e3), max_size=12),
)
def test_merging_equals_pooling(values, others):
    def moments(list_):
        x = np.array(list_ or [0.0])
        return Moments(np.array([len(list_)], "float64"), np.array([x.mean()]), np.array([x.var()]))

    merged, pooled = moments(values).merged(moments(others)), moments(values + others)
    assert merged.count == pooled.count
    np.testing.assert_allclose(merged.mean, pooled.mean, atol=1e-9)
    np.testing.assert_allclose(merged.variance, pooled.variance, atol=1e-6)


# --- several layers -----------------------------------------------------------------------------


def reference(model, x, depth, flow):
    """Moments of each layer's input in NumPy; `flow` says by what a layer normalizes."""
    found = []
    for number in range(depth):
        x = dense(model.get_layer(f"dense{number}"), x)
        found.append(x)
        x = relu(flow(model.get_layer(f"bn{number}"), x))
    return found


@pytest.mark.parametrize("batch_size", [8, 64, 1000])
def test_layerwise_measures_each_layer_behind_recalibrated_ones(batch_size):
    model = stack(depth=4)
    x = rng().normal(1, 2, (ROWS, 4)).astype("float32")
    done = recalibrate(model, x, batch_size=batch_size)
    for number, values in enumerate(reference(model, x, 4, normalized)):
        assert_statistics(model.get_layer(f"bn{number}"), values, rtol=2e-5)
    assert done.passes == 1


def test_one_pass_measures_what_training_sees():
    model = stack(depth=3)
    x = rng().normal(1, 2, (64, 4)).astype("float32")
    recalibrate(model, x, batch_size=8, method="one-pass")
    expected = reference(model, x, 3, lambda bn, x: by_batch(bn, x, 8))
    for number, values in enumerate(expected):
        assert_statistics(model.get_layer(f"bn{number}"), values, rtol=2e-5)


def test_the_two_methods_differ_behind_the_first_layer_unless_one_batch_is_all():
    x = rng().normal(1, 2, (64, 4)).astype("float32")
    found = {}
    for method in ["layerwise", "one-pass"]:
        for size in [4, 64]:
            model = stack(depth=3)
            recalibrate(model, x, batch_size=size, method=method)
            found[method, size] = [statistics(bn) for bn in batch_norms(model)]
    for whole in zip(found["layerwise", 64], found["one-pass", 64], strict=True):
        np.testing.assert_allclose(*whole, rtol=2e-5)
    one, many = found["one-pass", 4], found["layerwise", 4]
    np.testing.assert_allclose(one[0], many[0], rtol=1e-6)
    assert np.abs(np.log(one[1][1] / many[1][1])).max() > 0.01
    for pair in zip(found["layerwise", 64], many, strict=True):
        np.testing.assert_allclose(*pair, rtol=2e-5)


def residual():
    inputs = keras.Input((4,))
    left = layers.Dense(5, name="dense_left")(BatchNormalization(name="first")(inputs))
    left = BatchNormalization(name="left")(left)
    right = BatchNormalization(name="right")(layers.Dense(5, name="dense_right")(inputs))
    both = layers.Add()([left, right])
    return scramble(keras.Model(inputs, BatchNormalization(name="last")(layers.ReLU()(both))))


def test_branches_meet():
    model = residual()
    x = rng().normal(1, 2, (ROWS, 4)).astype("float32")
    recalibrate(model, x, batch_size=8)
    get = model.get_layer
    left = dense(get("dense_left"), normalized(get("first"), x))
    right = dense(get("dense_right"), x)
    assert_statistics(get("first"), x)
    assert_statistics(get("left"), left, rtol=2e-5)
    assert_statistics(get("right"), right)
    both = relu(normalized(get("left"), left) + normalized(get("right"), right))
    assert_statistics(get("last"), both, rtol=2e-5)


def test_a_shared_layer_pools_the_values_of_all_its_calls():
    a, b = keras.Input((3,)), keras.Input((3,))
    bn = BatchNormalization()
    model = keras.Model([a, b], layers.Concatenate()([bn(a), bn(b)]))
    x, y = rng().normal(0, 1, (ROWS, 3)), rng(1).normal(4, 2, (ROWS, 3))
    done = recalibrate(model, [x.astype("float32"), y.astype("float32")], batch_size=8)
    assert_statistics(bn, np.concatenate([x, y]))
    assert (done.moved[0].calls, done.moved[0].values) == (2, 2 * ROWS)


def test_a_block_applied_twice_lets_batch_statistics_flow():
    inputs = keras.Input((4,))
    fc, bn, last = layers.Dense(4), BatchNormalization(), BatchNormalization()
    hidden = bn(fc(bn(fc(inputs))))
    model = scramble(keras.Model(inputs, last(hidden)))
    x = rng().normal(1, 2, (64, 4)).astype("float32")
    done = recalibrate(model, x, batch_size=16)
    one = dense(fc, x)
    two = dense(fc, by_batch(bn, one, 16))
    assert_statistics(bn, np.concatenate([one, two]), rtol=2e-5)
    seen = normalized(bn, dense(fc, normalized(bn, one)))
    assert_statistics(last, seen, rtol=2e-5)  # behind the block: by the new statistics
    assert done.passes == 2


class Block(layers.Layer):
    """A custom layer that holds another composite layer."""

    def __init__(self, **options):
        """Make the layers."""
        super().__init__(**options)
        self.fc, self.bn = layers.Dense(5, name="dense"), BatchNormalization(name="bn")

    def build(self, shape):
        self.fc.build(shape)
        self.bn.build((*shape[:-1], 5))

    def call(self, x, training=None):
        return tf.nn.relu(self.bn(self.fc(x), training=training))


class Subclassed(keras.Model):
    """Two blocks and a head, with no graph to be read."""

    def __init__(self, compiled=False):
        """Make the layers; `compiled` hides the blocks in a tf.function."""
        super().__init__()
        self.one, self.two, self.head = Block(), Block(), layers.Dense(1)
        self.compiled = tf.function(self.body) if compiled else self.body

    def body(self, x, training=None):
        return self.two(self.one(x, training=training), training=training)

    def call(self, x, training=None):
        return self.head(self.compiled(x, training=training))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("built", [False, True])
def test_subclassed_models(compiled, built):
    model = Subclassed(compiled)
    x = rng().normal(1, 2, (ROWS, 4)).astype("float32")
    if built:
        model(x[:2])
        scramble(model)
    done = recalibrate(model, x, batch_size=8)
    one = dense(model.one.fc, x)
    two = dense(model.two.fc, relu(normalized(model.one.bn, one)))
    assert_statistics(model.one.bn, one)
    assert_statistics(model.two.bn, two, rtol=2e-5)
    assert [moved.path.split("/")[-1] for moved in done.moved] == ["bn", "bn"]
    assert len({moved.path for moved in done.moved}) == 2
    assert tf.config.functions_run_eagerly() is False


def test_nested_models():
    inner = stack(depth=2)
    inputs = keras.Input((4,))
    hidden = keras.Sequential([inner, BatchNormalization(name="behind")], name="middle")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    x = rng().normal(1, 2, (ROWS, 4)).astype("float32")
    done = recalibrate(model, x, batch_size=8)
    for number, values in enumerate(reference(inner, x, 2, normalized)):
        assert_statistics(inner.get_layer(f"bn{number}"), values, rtol=2e-5)
    assert [moved.path.count("/") for moved in done.moved] == [2, 2, 1]


@pytest.mark.parametrize("steps", [5, None])
def test_time_distributed(steps):
    inputs = keras.Input((steps, 3))
    inner = keras.Sequential([layers.Dense(4), BatchNormalization(name="inner")])
    hidden = layers.TimeDistributed(BatchNormalization(name="bn"))(inputs)
    outputs = layers.TimeDistributed(inner)(hidden)
    model = scramble(keras.Model(inputs, outputs))
    bns = {bn.name: bn for bn in batch_norms(model)}
    x = rng().normal(1, 2, (ROWS, 5, 3)).astype("float32")
    recalibrate(model, x, batch_size=8)
    assert_statistics(bns["bn"], x)
    fc = next(layer for layer in layer_paths(model) if isinstance(layer, layers.Dense))
    assert_statistics(bns["inner"], dense(fc, normalized(bns["bn"], x)), rtol=2e-5)


def test_sequences_of_several_lengths():
    model = keras.Sequential([keras.Input((None, 2)), BatchNormalization()])
    parts = [rng(n).normal(1, 2, (3, n, 2)).astype("float32") for n in (4, 1, 7, 4)]
    recalibrate(model, iter(parts))
    assert_statistics(model.layers[0], np.concatenate([part.reshape(-1, 2) for part in parts]))


class Cell(layers.Layer):
    """A recurrent cell with batch normalization inside."""

    def __init__(self, **options):
        """Make the layers."""
        super().__init__(**options)
        self.state_size = 3
        self.fc, self.bn = layers.Dense(3), BatchNormalization(name="inside")

    def build(self, shape):
        self.fc.build((None, shape[-1] + 3))
        self.bn.build((None, 3))

    def call(self, x, states, training=None):
        y = self.bn(self.fc(tf.concat([x, states[0]], -1)), training=training)
        return y, [y]


def test_an_unrolled_cell_is_a_cycle():
    model = keras.Sequential([keras.Input((4, 2)), layers.RNN(Cell(), unroll=True)])
    done = recalibrate(model, rng().normal(size=(16, 4, 2)).astype("float32"))
    assert (done.moved[0].calls, done.moved[0].values, done.passes) == (4, 64, 1)


class Mapped(layers.Layer):
    """Calls batch normalization inside a loop of TensorFlow."""

    def __init__(self, loop):
        """Take the loop."""
        super().__init__()
        self.loop, self.bn = loop, BatchNormalization(name="mapped")

    def build(self, shape):
        self.bn.build((None, shape[-1]))

    def call(self, x):
        return self.loop(self.bn, x)

    def compute_output_shape(self, shape):
        return shape


HIDDEN = {
    "RNN": (lambda: layers.RNN(Cell()), "rnn/cell/inside"),
    "map_fn": (lambda: Mapped(tf.map_fn), "mapped/mapped"),
    "vectorized_map": (lambda: Mapped(tf.vectorized_map), "mapped/mapped"),
}


@pytest.mark.parametrize(("make", "path"), HIDDEN.values(), ids=HIDDEN)
def test_a_layer_in_a_loop_is_named_and_nothing_moves(make, path):
    model = keras.Sequential([keras.Input((4, 2)), BatchNormalization(name="seen"), make()])
    x = rng().normal(size=(16, 4, 2)).astype("float32")
    model.compile("adam", "mse")
    before = state(model)
    with pytest.raises(ValueError, match=r"'[a-z_0-9/]*(inside|mapped)' is called inside a graph"):
        recalibrate(model, x)
    assert state(model) == before
    found = probe(model)
    seen, outputs = found.run(x)
    assert [each.layer.name for each in seen if each.layer.name == "seen"] == ["seen"]
    (hidden,) = found.unreached(x)
    assert hidden.called
    assert hidden.path.endswith(path.split("/")[-1])
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)


class Unused(keras.Model):
    """Has two normalizations and calls `calls` of them."""

    def __init__(self, calls):
        """Make the layers."""
        super().__init__()
        self.calls = calls
        self.one, self.two = BatchNormalization(name="one"), BatchNormalization(name="two")

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x):
        return self.one(x) if self.calls else x * 2


def test_a_layer_never_called_is_left_and_named():
    model = Unused(1)
    done = recalibrate(model, rng().normal(size=(8, 3)).astype("float32"))
    assert [moved.path for moved in done.moved] == ["one"]
    assert done.skipped == (("two", "the model never calls it", "part", None),)
    assert "two" in str(done)
    with pytest.raises(ValueError, match="has 2 and calls none"):
        recalibrate(Unused(0), np.ones((8, 3), "float32"))


def test_a_layer_that_always_trains_lets_batch_statistics_flow():
    class Always(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.fc, self.two = (
                BatchNormalization(),
                layers.Dense(3),
                BatchNormalization(),
            )

        def call(self, x):
            return self.two(self.fc(self.one(x, training=True)))

    model = Always()
    x = rng().normal(1, 2, (64, 3)).astype("float32")
    model(x)
    recalibrate(scramble(model), x, batch_size=16)
    assert_statistics(model.one, x)
    assert_statistics(model.two, dense(model.fc, by_batch(model.one, x, 16)), rtol=2e-5)


# --- data ---------------------------------------------------------------------------------------


class Pages(keras.utils.PyDataset):
    """X and a target, 8 rows at a time."""

    def __init__(self, x):
        """Take all rows."""
        super().__init__()
        self.x = x

    def __len__(self):
        """Count the batches."""
        return -(-len(self.x) // 8)

    def __getitem__(self, number):
        """Give one batch."""
        part = self.x[8 * number : 8 * number + 8]
        return part, np.zeros(len(part))


def sliced(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(8)


DATA = {
    "arrays": lambda x, y: (x, y),
    "float64": lambda x, y: x.astype("float64"),
    "x, y": sliced,
    "x, y, w": lambda x, y: sliced(x, y, np.ones(len(x))),
    "PyDataset": lambda x, y: Pages(x),
    "generator": lambda x, y: (x[i : i + 8] for i in range(0, len(x), 8)),
}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_every_form_of_data_gives_the_same(make):
    x, y = rng().normal(1, 2, (ROWS, 4)).astype("float32"), np.zeros(ROWS)
    expected, model = stack(), stack()
    recalibrate(expected, x, batch_size=8)
    recalibrate(model, make(x, y), batch_size=8)
    for one, other in zip(batch_norms(expected), batch_norms(model), strict=True):
        np.testing.assert_allclose(statistics(one), statistics(other), rtol=1e-6)


def test_a_dict_of_inputs_and_integers():
    words = keras.Input((3,), dtype="int32", name="words")
    size = keras.Input((2,), name="size")
    embedded = layers.GlobalAveragePooling1D()(layers.Embedding(7, 2)(words))
    bn = BatchNormalization()
    model = keras.Model({"words": words, "size": size}, bn(layers.Add()([embedded, size])))
    data = {"size": rng().normal(size=(9, 2)), "words": rng().integers(0, 7, (9, 3))}
    recalibrate(model, data, batch_size=4)
    table = next(layer for layer in model.layers if isinstance(layer, layers.Embedding)).embeddings
    assert_statistics(bn, table.value.numpy()[data["words"]].mean(1) + data["size"])
    with pytest.raises(ValueError, match="expected"):
        recalibrate(model, {**data, "words": data["words"] + 100})


# --- nothing else changes, and failures change nothing --------------------------------------------


def trained():
    """A compiled model in the middle of its training, with every kind of state."""
    inputs = keras.Input((4,))
    x = layers.Dense(6, kernel_regularizer="l2", activity_regularizer="l2")(inputs)
    x = layers.Dropout(0.3, seed=1)(BatchNormalization(name="bn0")(x))
    x = layers.GaussianNoise(0.1, seed=2)(layers.Dense(6, activation="relu")(x))
    x = layers.SpectralNormalization(layers.Dense(6))(x)
    model = keras.Model(inputs, layers.Dense(1)(BatchNormalization(name="bn1")(x)))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    random = rng(5)
    model.fit(random.normal(size=(64, 4)), random.normal(size=64), batch_size=16, verbose=0)
    return model


def test_only_moving_statistics_change():
    keras.utils.set_random_seed(0)
    model = trained()
    x = rng().normal(1, 2, (ROWS, 4)).astype("float32")
    model(x)
    losses = [loss.numpy() for loss in model.losses]
    before = state(model)
    recalibrate(model, x, batch_size=8)
    changed = {one for one, two in zip(before, state(model), strict=True) if one != two}
    assert {path.split("/")[-1] for path, _ in changed} == {"moving_mean", "moving_variance"}
    assert len(changed) == 4
    assert hooks_left(model) == []
    np.testing.assert_array_equal(losses, model.losses)
    model.fit(x, np.zeros(ROWS), verbose=0)  # training goes on


def broken(x, number):
    """A source whose batch `number` is not finite."""
    for start in range(0, len(x), 8):
        part = x[start : start + 8].copy()
        if start // 8 + 1 == number:
            part[2, 1] = np.nan
        yield part


class Stop:
    """Raises in the middle of the pass in which layers are measured."""

    def __init__(self, x, error):
        """Take the rows and what to raise."""
        self.x, self.error, self.passes = x, error, 0

    def __call__(self):
        """Give the batches; raise in the middle of the second pass."""
        self.passes += 1
        for start in range(0, len(self.x), 8):
            if self.passes == 2 and start > 16:
                raise self.error
            yield self.x[start : start + 8]


X = rng().normal(1, 2, (ROWS, 4)).astype("float32")
FAILURES = {
    "batch 7": (lambda: broken(X, 7), ValueError, "'bn0', got others in batch 7, in"),
    "interrupt": (lambda: Stop(X, KeyboardInterrupt()), KeyboardInterrupt, None),
    "disk": (lambda: Stop(X, OSError("disk gone")), OSError, "disk gone"),
    "seven rows": (
        lambda: X[:7],
        ValueError,
        "at least 8 values per channel in front of 'bn0', got 7: give more rows",
    ),
    "shape": (lambda: X[:, :3], ValueError, r"shape \(None, 4\)"),
    "infinity": (lambda: X * np.float32(1e37), ValueError, "finite"),
    "text": (lambda: np.full((9, 4), "a"), ValueError, "expected"),
}


@pytest.mark.parametrize(("make", "error", "message"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
def test_a_failure_leaves_the_model_as_it_was(make, error, message, method):
    data = make()
    model = stack()
    before = state(model)
    with pytest.raises(error, match=message):
        recalibrate(model, data, batch_size=8, method=method)
    assert state(model) == before
    assert hooks_left(model) == []


def test_a_failure_while_assigning_is_undone(monkeypatch):
    model = stack()
    before = state(model)
    last = model.get_layer("bn2").moving_variance
    assign, assigned = type(last).assign, []

    def failing(self, value):
        if self is last and isinstance(value, np.ndarray) and not assigned:
            assigned.append(state(model) != before)
            raise KeyboardInterrupt
        return assign(self, value)

    monkeypatch.setattr(type(last), "assign", failing)
    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, X, batch_size=8)
    assert assigned == [True]  # others had been assigned by then
    assert state(model) == before


def test_what_does_not_fit_into_float16_is_refused():
    policy = keras.DTypePolicy("float16")
    model = keras.Sequential([keras.Input((2,)), BatchNormalization(dtype=policy)])
    before = state(model)
    x = np.tile(np.array([[-3e4, 1.0], [3e4, 2.0]], "float16"), (4, 1))
    with pytest.raises(ValueError, match="fit into float16, got values up to 9e"):
        recalibrate(model, x)
    assert state(model) == before


def frozen():
    model = stack()
    model.trainable = False
    return model


class Parts(keras.Model):
    """Trained through its parts: it has no call."""

    def __init__(self):
        """Make a part."""
        super().__init__()
        self.encoder = stack()


REFUSED = {
    "no BN": (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(1)]), {}, "has none"),
    "no BN, not built": (lambda: keras.Sequential([layers.Dense(1)]), {}, "calls none"),
    "method": (stack, {"method": "exact"}, "'exact'"),
    "batch size": (stack, {"batch_size": 0}, "batch_size"),
    "no model": (lambda: "model.keras", {}, "got str"),
    "keep": (stack, {"keep": "no"}, "keep to be one of"),
    "memory": (stack, {"memory": 0.5}, "number of bytes"),
    "memory as a flag": (stack, {"memory": True}, "number of bytes, got True"),
    "path": (stack, {"layers": "bn9"}, "'bn0', 'bn1' and 'bn2', got 'bn9'"),
    "no BN in it": (stack, {"layers": ["dense0"]}, "got 'dense0'"),
    "no names": (stack, {"layers": []}, "at least one"),
    "no layers": (stack, {"layers": 3}, "got 3"),
    "another layer": (stack, {"layers": layers.Dense(1, name="other")}, "got 'other', in which"),
    "no call": (lambda: Parts(), {}, r"call recalibrate\(model.encoder, ...\), each"),
}


def test_a_model_with_frozen_layers_alone_is_left_as_it_is_and_told_how_to_name_them():
    model = frozen()
    before = state(model)
    done = recalibrate(model, X)
    assert (done.kept, done.moved, done.verdict) == (False, (), None)
    assert (done.rows, done.passes, done.comparison) == (0, 0, None)
    assert [each.what for each in done.skipped] == ["bn0", "bn1", "bn2"]
    text = " ".join(str(done).split())
    assert text.startswith("Nothing was recalibrated")
    assert "layers=['bn0', ...])" in text
    assert done.to_dict()["comparison"] is None
    done.undo()
    assert state(model) == before


@pytest.mark.parametrize(("make", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_arguments(make, options, message):
    with pytest.raises(ValueError, match=message):
        recalibrate(make(), X, **options)


def test_values_count_not_rows():
    model = keras.Sequential([keras.Input((3, 3, 2)), BatchNormalization(name="bn")])
    assert recalibrate(model, rng().normal(size=(1, 3, 3, 2))).moved[0].values == 9


# --- what it tells ------------------------------------------------------------------------------


def test_what_moved():
    model = keras.Sequential([keras.Input((3,)), BatchNormalization(name="bn", epsilon=0.5)])
    x = rng().normal(0, 1, (1000, 3)).astype("float32")
    x = (x - x.mean(0)) / x.std(0) * [1, 2, 3] + [0, 4, 6]
    bn = model.layers[0]
    bn.moving_variance.assign([1, 4, 90])
    done = recalibrate(model, x)
    (moved,) = done.moved
    shifts = np.array([0, 4, 6]) / np.sqrt(np.array([1, 4, 9]) + 0.5)
    assert (moved.path, moved.channels, moved.values, moved.calls) == ("bn", 3, 1000, 1)
    assert moved.mean_shift_max == pytest.approx(shifts.max(), rel=1e-4)
    assert moved.mean_shift_median == pytest.approx(np.median(shifts), rel=1e-4)
    assert moved.variance_ratio == pytest.approx(90.5 / 9.5, rel=1e-4)
    assert repr(done) == str(done)
    head, row = str(done).splitlines()[-4:-2]
    assert re.split("  +", head) == ["layer", "values", "mean (max)", "mean (median)", "variance"]
    assert row.split() == ["bn", "1,000", *(f"{x:.3g}" for x in (shifts[2], shifts[1], 90.5 / 9.5))]
    named = dataclasses.replace(done, moved=(dataclasses.replace(moved, path="a<b"),))
    assert "a&lt;b" in named._repr_html_()
    assert json.loads(done.to_json())["moved"][0]["values"] == 1000
    again = recalibrate(model, x).moved[0]
    assert again.mean_shift_max < 1e-6
    assert again.variance_ratio == pytest.approx(1, abs=1e-6)


def test_old_statistics_that_are_not_finite_are_mended_and_told():
    model = stack(depth=2)
    model.get_layer("bn0").moving_variance.assign([np.nan, np.inf, -5, 1, 1])
    done = recalibrate(model, X)
    assert_statistics(model.get_layer("bn0"), dense(model.get_layer("dense0"), X))
    assert json.loads(done.to_json())["moved"][0]["variance_ratio"] is None
    assert "nan" in str(done)
    assert "Before, the moving statistics of bn0 were not finite." in str(done)
    assert "not finite" not in str(recalibrate(model, X))


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_a_bar_is_shown_only_if_asked_for(progress, shown, capsys):
    recalibrate(stack(), X, progress=progress)
    assert ("recalibrate" in capsys.readouterr().err) is shown


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
def test_a_bar_knows_where_it_ends(method, capsys):
    recalibrate(stack(), X, method=method, batch_size=8, progress=True)
    shown = capsys.readouterr().err
    assert shown.strip().startswith("recalibrate: ")
    done, of = re.findall(r"(\d+)/(\d+)", shown)[-1]
    assert done == of
    assert int(of) >= ROWS // 8


@pytest.mark.parametrize("kind", [Moments, Moved, Recalibration])
def test_what_was_measured_stays_as_it_was_measured(kind):
    assert kind.__dataclass_params__.frozen


def test_it_mends_the_trap_of_stale_statistics():
    random = rng(3)
    x = random.normal(5, 3, (256, 4)).astype("float32")
    y = (x[:, :1] > 5).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), BatchNormalization()])
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    model.fit(x, y, epochs=10, batch_size=128, verbose=0)
    stale = model.evaluate(x, y, verbose=0)
    recalibrate(model, x)
    assert model.evaluate(x, y, verbose=0) < stale / 2


# --- before and after ----------------------------------------------------------------------------


def fitted():
    """A model that meets its targets exactly with the statistics that it has."""
    model = stack(depth=2)
    model.compile("sgd", "mse", metrics=["mae"])
    return model, model(X).numpy() + rng(9).normal(0, 0.01, (ROWS, 5)).astype("float32")


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
def test_what_would_become_worse_is_left_as_it_was(method):
    model, y = fitted()
    before = state(model)
    done = recalibrate(model, (X, y), method=method)
    assert (done.kept, done.verdict) == (False, "worse")
    assert state(model) == before
    assert "left as it was" in str(done)
    assert 'keep="always"' in str(done)
    loss, mae = done.comparison.scores
    assert (loss.name, loss.verdict, mae.name) == ("loss", "worse", "mae")
    assert loss.before == pytest.approx(np.mean((model(X).numpy() - y) ** 2), rel=1e-4)
    recalibrate(model, (X, y), method=method, keep="always")
    assert loss.after == pytest.approx(np.mean((model(X).numpy() - y) ** 2), rel=1e-3)
    assert mae.after == pytest.approx(np.mean(np.abs(model(X).numpy() - y)), rel=1e-3)


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
@pytest.mark.parametrize(
    ("targets", "came"),
    [
        (np.full(ROWS, "cat"), r"text of shape \(None,\): \w+: "),
        (np.ones((ROWS, 3)), r"float64 of shape \(None, 3\): \w+: .*3"),
        ([np.ones((ROWS, 5))] * 2, r"float64 of shape \(None, 5\) and float64 .*: \w+: "),
    ],
    ids=["text", "columns", "two"],
)
def test_targets_that_the_loss_cannot_take_are_refused(targets, came, method):
    model, _ = fitted()
    before = state(model)
    with pytest.raises(ValueError, match=f"^expected targets .* takes, got {came}.*leave them out"):
        recalibrate(model, (X, targets), method=method, keep="always")
    assert state(model) == before
    recalibrate(keras.Sequential(model.layers), (X, targets))  # not compiled: nothing to compute


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
@pytest.mark.parametrize("data", [X, (X, np.ones(ROWS))], ids=["inputs", "targets"])
def test_an_output_without_rows_is_not_compared(data, method):
    model = stack(depth=1)
    mean = layers.Lambda(keras.ops.mean)(model.outputs[0])
    whole = keras.Model(model.inputs, {"rows": model.outputs[0], "mean": mean})
    whole.compile("sgd", {"rows": "mse"})
    done = recalibrate(whole, data, method=method)
    assert (done.kept, done.comparison, done.verdict) == (True, None, None)
    assert "Nothing was compared: an output of the model is one number" in str(done)
    assert_statistics(whole.get_layer("bn0"), dense(whole.get_layer("dense0"), X))


def test_keep_never_only_measures():
    model = stack(depth=2)
    before = state(model)
    done = recalibrate(model, X, keep="never")
    assert (done.kept, done.verdict, len(done.moved)) == (False, None, 2)
    assert state(model) == before
    done.undo()
    assert state(model) == before


def test_undo_gives_the_old_statistics_back():
    model, _ = fitted()
    model.add(BatchNormalization(renorm=True))
    scramble(model)
    before = state(model)
    done = recalibrate(model, X)
    assert state(model) != before
    done.undo()
    assert state(model) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda done: pickle.loads(pickle.dumps(done))])
def test_a_copy_tells_the_same_and_undoes_nothing(copied):
    model, y = fitted()
    done = recalibrate(model, (X, y), keep="always", memory=np.int64(5000))
    after = state(model)
    other = copied(done)
    assert (str(other), other.to_dict()) == (str(done), done.to_dict())
    with pytest.raises(ValueError, match="got a copy of it"):
        other.undo()
    assert state(model) == after
    done.undo()
    assert state(model) != after


def test_better_is_kept_and_told():
    model, y = fitted()
    scrambled = recalibrate(model, X)
    y = model(X).numpy()
    scrambled.undo()
    done = recalibrate(model, (X, y))
    assert (done.kept, done.verdict) == (True, "better")
    (change,) = done.comparison.changes
    assert (change.kind, change.decisions) == ("values", 0)  # by the loss it is a regression
    assert (done.comparison.rows, done.comparison.whole) == (ROWS, True)
    told = done.to_dict()
    assert told["comparison"]["scores"][0]["after"] < 1e-6
    assert "_restore" not in told


def test_fine_tuning_with_a_frozen_base_survives():
    # The head was trained on what the frozen layer makes with statistics of other data.
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    base = scramble(keras.Sequential([keras.Input((4,)), BatchNormalization(name="base")]))
    base.trainable = False
    x = BatchNormalization(momentum=0.999, name="head")(layers.Dense(8, "relu")(base(inputs)))
    model = keras.Model(inputs, layers.Dense(2, "softmax")(x))
    x = rng(3).normal(5, 3, (512, 4)).astype("float32")
    y = (x[:, 0] > 5).astype(int)
    model.compile(
        keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, epochs=6, batch_size=128, verbose=0)
    done = recalibrate(model, (x, y))
    assert [each.what.split("/")[-1] for each in done.skipped] == ["base"]
    assert (done.kept, done.verdict) == (True, "better")
    assert model.evaluate(x, y, verbose=0)[1] > 0.95


def test_rows_are_compared_from_all_over_the_data():
    model = stack(depth=1)
    x = np.repeat(X, 30, axis=0)
    for data, first in [(x, False), (sliced(x), False), (lambda: np.split(x, 195), True)]:
        comparison = recalibrate(model, data, method="one-pass").comparison
        assert 900 < comparison.rows < 1200
        assert (comparison.first, comparison.whole) == (first, False)
        where = "the first" if first else "from all over the data"
        assert where in comparison.sentences()[0]


@pytest.mark.parametrize("method", ["layerwise", "one-pass"])
def test_a_model_of_fixed_rows_gets_no_other(method, monkeypatch):
    monkeypatch.setattr(before_after, "COMPARED_ROWS", 10)
    inputs = keras.Input(batch_shape=(13, 4))
    fixed = layers.Lambda(lambda x: keras.ops.reshape(x, (13, 2, 2)))(inputs)
    model = keras.Model(inputs, layers.Flatten()(BatchNormalization()(fixed)))
    done = recalibrate(model, X, batch_size=13, method=method)
    assert_statistics(model.layers[2], X.reshape(-1, 2))
    assert done.comparison.rows == 13


def test_targets_of_several_outputs():
    inputs = keras.Input((4,))
    x = BatchNormalization()(inputs)
    heads = {name: layers.Dense(2, name=name)(x) for name in ("b", "a")}
    model = keras.Model(inputs, heads)
    model.compile("sgd", {"a": "mse", "b": "mae"}, metrics={"a": ["mae"]})
    y = {"a": np.zeros((ROWS, 2)), "b": np.ones((ROWS, 2))}
    comparison = recalibrate(model, (X, y), keep="always").comparison
    expected = model.evaluate(X, y, verbose=0, return_dict=True)
    after = {score.name: score.after for score in comparison.scores}
    assert after["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert after["a_mae"] == pytest.approx(expected["a_mae"], rel=1e-5)
    assert [change.output for change in comparison.changes] == ["a", "b"]


# --- the probe's modes --------------------------------------------------------------------------


class Guide(keras.Model):
    """The fine-tuning recipe inside a subclass: batch normalization kept in inference."""

    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.base, self.drop, self.bn = stack(depth=1), layers.Dropout(0.5), BatchNormalization()

    def call(self, x, training=None):
        return self.bn(self.drop(self.base(x, training=False), training=training))


def quiet_training(model, x):
    """What `fit` computes in its forward pass, with the rates of all dropout set to 0."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in layer_paths(copy):
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    return copy(x, training=True).numpy()


def test_inference_is_what_predict_gives():
    for model in [stack(depth=2), residual()]:
        outputs = probe(model).outputs(X)
        np.testing.assert_allclose(outputs, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"renorm": True},
        {"renorm": True, "renorm_clipping": {"rmax": 1.5, "rmin": 0.8, "dmax": 0.3}},
    ],
)
def test_batch_is_what_fit_gives_without_dropout(options, frozen):
    model = stack(depth=2)
    model.add(BatchNormalization(name="behind", **options))
    model.get_layer("bn0").trainable = not frozen
    scramble(model)
    expected = quiet_training(model, X)
    before = state(model)
    np.testing.assert_allclose(probe(model, "batch").outputs(X), expected, rtol=1e-4, atol=1e-4)
    assert state(model) == before


def test_training_false_inside_a_subclass_is_obeyed_as_keras_obeys_it():
    model = Guide()
    model(X)
    model.drop.rate = 0.0
    before = state(model)
    outputs = probe(model, "batch").outputs(X)
    assert state(model) == before
    np.testing.assert_allclose(outputs, model(X, training=True), rtol=1e-4, atol=1e-4)
    assert np.abs(outputs - probe(model).outputs(X)).max() > 0.01


def test_training_has_dropout_on_and_moves_no_seed():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dropout(0.5, seed=3), BatchNormalization(name="bn")]
    )
    x = rng().normal(3, 1, (4000, 4)).astype("float32")
    before = state(model)
    noisy, quiet = (probe(model, mode).moments(x)[0].moments for mode in ("training", "batch"))
    assert state(model) == before
    # E[x^2] / keep - E[x]^2 against the variance without dropout: Li et al. 2019.
    np.testing.assert_allclose(noisy.variance, 2 * (9 + 1) - 9, rtol=0.1)
    np.testing.assert_allclose(quiet.variance, x.astype("float64").var(0), rtol=1e-6)
    again = probe(model, "training").moments(x)[0].moments
    np.testing.assert_array_equal(noisy.variance, again.variance)


def test_given_statistics_take_the_place_of_the_layers_own():
    model = stack(depth=2)
    bn, behind = batch_norms(model)
    given = {bn: (np.full(5, 2.0), np.full(5, 3.0))}
    (seen,) = probe(model).moments(X, [behind], given)
    other = stack(depth=2)
    other.get_layer("bn0").moving_mean.assign(given[bn][0])
    other.get_layer("bn0").moving_variance.assign(given[bn][1])
    expected = reference(other, X, 2, normalized)[1]
    np.testing.assert_allclose(seen.moments.mean, expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        probe(model).outputs(X, given), other(X, training=False), rtol=1e-5, atol=1e-6
    )


def test_the_calls_of_a_shared_layer_stand_apart():
    bn = BatchNormalization()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [bn(inputs), bn(layers.Rescaling(2.0)(inputs))])
    calls, outputs = probe(model).run(X[:, :3])
    assert [seen.call for seen in calls] == [0, 1]
    means = sorted(seen.moments.mean[0] for seen in calls)
    np.testing.assert_allclose(means, X[:, 0].mean() * np.array([1, 2]), rtol=1e-5)
    assert isinstance(outputs, list)
    assert [output.shape for output in outputs] == [(ROWS, 3), (ROWS, 3)]


def test_who_feeds_whom():
    model = residual()
    x = np.zeros((2, 4), "float32")
    upstream = probe(model).upstream(x)
    names = {bn.name: sorted(other.name for other in found) for bn, found in upstream.items()}
    assert names == {
        "first": [],
        "left": ["first"],
        "right": [],
        "last": ["first", "left", "right"],
    }


def test_bad_mode():
    with pytest.raises(ValueError, match="'predict'"):
        probe(stack(), "predict")


def test_hooks_are_gone_after_a_failure_in_the_model():
    class Failing(layers.Layer):
        def call(self, x):
            raise RuntimeError("no")

    model = keras.Sequential([BatchNormalization(), Failing()])
    with pytest.raises((RuntimeError, ValueError), match="no"):
        probe(model).run(X)
    assert hooks_left(model) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(monkeypatch):
    def resident():
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["RssAnon"].split()[0]) / 1024

    def source(steps):
        def make():
            part = rng().normal(size=(1024, 64)).astype("float32")
            for _ in range(steps):
                yield part + 0

        return make

    model = keras.Sequential([keras.Input((64,)), layers.Dense(64), BatchNormalization()])
    monkeypatch.setattr(layerwise, "BATCH_BYTES", 2**20)
    recalibrate(model, source(20))
    before = resident()
    recalibrate(model, source(400))  # 100 MB of data
    assert resident() - before < 25
