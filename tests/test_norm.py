"""``bnutils.norm`` against Keras, against its defining properties, and at its edges."""

import ast
import inspect
import math
import os
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnutils.gradcheck import directional_error, numerical_gradient, relative_error
from bnutils.norm import (
    BatchNorm,
    batch_norm,
    batch_norm_grad,
    batch_norm_inference,
    standardize,
)

# Shape and axis; between them they take every way in which an array can be laid out.
KERAS_CASES = [
    ((3, 1), -1),
    ((64, 100), -1),
    ((8, 5), 0),
    ((512, 40), -1),
    ((4096, 16), -1),
    ((1009, 17), -1),
    ((6, 7, 3), -1),
    ((6, 7, 3), 1),
    ((9, 12, 12, 16), -1),
    ((4, 5, 3, 6), 1),
    ((24, 5, 16, 16), 1),
    ((3, 4, 5, 6), 2),
    ((2, 3, 4, 2, 5), -1),
    ((2, 3, 4, 2, 5), 1),
]
STACK_CASES = [((3, 8, 5), (0, -1)), ((2, 1200, 12), (0, 2)), ((4, 6, 2, 3, 5), (0, -1))]
OTHER_CASES = [((3, 4, 5, 6), (1, 3)), ((3, 4, 5, 6), (1, 2)), ((3, 4, 5), (0, 1))]
CASES = KERAS_CASES + STACK_CASES + OTHER_CASES
DTYPES = ["float64", "float32"]
TOLERANCE = {"float64": 1e-11, "float32": 2e-5}

properties = settings(derandomize=True, deadline=None, max_examples=25)


def kept_axes(shape, axis):
    return sorted(a % len(shape) for a in np.atleast_1d(axis))


def kept_shape(shape, axis):
    return tuple(shape[a] for a in kept_axes(shape, axis))


def reduced_axes(shape, axis):
    return tuple(a for a in range(len(shape)) if a not in kept_axes(shape, axis))


def problem(shape, axis, dtype="float64", seed=0):
    """Data of mean 3 and standard deviation 2, parameters and an output gradient."""
    rng = np.random.default_rng(seed)
    kept = kept_shape(shape, axis)
    arrays = (
        3 + 2 * rng.standard_normal(shape),
        1 + 0.5 * rng.standard_normal(kept),
        rng.standard_normal(kept),
        rng.standard_normal(shape),
    )
    return [a.astype(dtype) for a in arrays]


def assert_close(actual, desired, dtype):
    assert actual.dtype == dtype
    assert actual.shape == desired.shape
    assert relative_error(actual, desired) < TOLERANCE[dtype]


# ---- Against Keras -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_batch_norm():
    """Outputs, gradients and moving statistics of the Keras layer over several training calls."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import keras
    import tensorflow as tf

    def run(batches, gamma, beta, dy, axis, dtype, **options):
        layer = keras.layers.BatchNormalization(axis=axis, dtype=dtype, **options)
        layer.build(batches[0].shape)
        if gamma is not None:
            layer.gamma.assign(gamma)
        if beta is not None:
            layer.beta.assign(beta)
        history = []
        for x in batches:
            x = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            variables = [v.value for v in layer.trainable_variables]
            gradients = tape.gradient(y, [x, *variables], output_gradients=tf.constant(dy))
            moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
            inference = layer(x, training=False)
            history.append((y.numpy(), *(g.numpy() for g in gradients), *moving, inference.numpy()))
        return history

    return run


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), KERAS_CASES)
def test_layer_equals_keras_over_several_updates(keras_batch_norm, shape, axis, dtype):
    _, gamma, beta, dy = problem(shape, axis, dtype)
    batches = [problem(shape, axis, dtype, seed)[0] for seed in range(3)]
    layer = BatchNorm(axis=axis)
    layer.gamma, layer.beta = gamma, beta
    for x, expected in zip(
        batches, keras_batch_norm(batches, gamma, beta, dy, axis, dtype), strict=True
    ):
        y = layer(x, training=True)
        dx = layer.backward(dy)
        ours = (y, dx, layer.dgamma, layer.dbeta, layer.moving_mean, layer.moving_variance)
        for actual, desired in zip((*ours, layer(x)), expected, strict=True):
            assert_close(actual, desired, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), STACK_CASES)
def test_stack_of_runs_equals_keras_run_by_run(keras_batch_norm, shape, axis, dtype):
    x, gamma, beta, dy = problem(shape, axis, dtype)
    layer = BatchNorm(axis=axis)
    layer.gamma, layer.beta = gamma, beta
    y = layer(x, training=True)
    dx = layer.backward(dy)
    ours = (y, dx, layer.dgamma, layer.dbeta, layer.moving_mean, layer.moving_variance, layer(x))
    for run in range(shape[0]):
        [expected] = keras_batch_norm([x[run]], gamma[run], beta[run], dy[run], -1, dtype)
        for actual, desired in zip(ours, expected, strict=True):
            assert_close(actual[run], desired, dtype)


@pytest.mark.parametrize(("center", "scale"), [(True, False), (False, True), (False, False)])
def test_options_equal_keras(keras_batch_norm, center, scale):
    x, gamma, beta, dy = problem((16, 3), -1)
    options = {"momentum": 0.7, "epsilon": 0.1, "center": center, "scale": scale}
    parameters = (gamma if scale else None, beta if center else None)
    [expected] = keras_batch_norm([x], *parameters, dy, -1, "float64", **options)
    layer = BatchNorm(**options)
    layer.gamma, layer.beta = parameters
    y = layer(x, training=True)
    dx = layer.backward(dy)
    ours = [y, dx, layer.dgamma, layer.dbeta, layer.moving_mean, layer.moving_variance, layer(x)]
    ours = [a for a in ours if a is not None]
    for actual, desired in zip(ours, expected, strict=True):
        assert_close(actual, desired, "float64")
    assert (layer.gamma is None) == (layer.dgamma is None) == (not scale)
    assert (layer.beta is None) == (layer.dbeta is None) == (not center)


def test_defaults_are_those_of_keras(keras_batch_norm):
    x, _, _, dy = problem((16, 3), -1)
    [expected] = keras_batch_norm([x], None, None, dy, -1, "float64")
    layer = BatchNorm()
    y = layer(x, training=True)
    dx = layer.backward(dy)
    ours = (y, dx, layer.dgamma, layer.dbeta, layer.moving_mean, layer.moving_variance, layer(x))
    for actual, desired in zip(ours, expected, strict=True):
        assert_close(actual, desired, "float64")
    np.testing.assert_array_equal(layer.gamma, np.ones(3))
    np.testing.assert_array_equal(layer.beta, np.zeros(3))


def test_inference_has_the_default_epsilon_of_training():
    x, gamma, beta, _ = problem((16, 3), -1)
    x *= 0.01  # a variance below epsilon
    y, cache = batch_norm(x, gamma, beta)
    assert_close(batch_norm_inference(x, gamma, beta, cache.mean, cache.variance), y, "float64")


def test_the_last_axis_is_kept_by_default():
    x, _, _, _ = problem((4, 5, 3), -1)
    zeros, ones = np.zeros(3), np.ones(3)
    np.testing.assert_array_equal(batch_norm(x, ones, zeros)[0], batch_norm(x, ones, zeros, 2)[0])
    y = batch_norm_inference(x, ones, zeros, zeros, ones)
    np.testing.assert_array_equal(y, batch_norm_inference(x, ones, zeros, zeros, ones, 2))
    np.testing.assert_array_equal(BatchNorm()(x, training=True), batch_norm(x, ones, zeros)[0])


def test_a_new_layer_has_no_arrays():
    arrays = ("gamma", "beta", "moving_mean", "moving_variance", "dgamma", "dbeta")
    assert {getattr(BatchNorm(), name) for name in arrays} == {None}


@pytest.mark.parametrize("name", ["moving_mean", "moving_variance"])
def test_inference_needs_both_moving_statistics(name):
    layer = BatchNorm()
    setattr(layer, name, np.ones(3))
    with pytest.raises(ValueError, match="expected moving statistics for inference, got none yet"):
        layer(problem((16, 3), -1)[0])


# ---- Against the definition ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (6, 5), (4, 3, 5), (3, 4, 2, 5), (40, 30, 20)])
def test_standardize_over_every_choice_of_axes(shape, dtype):
    x = (3 + 2 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    axes_of = [c for n in range(1, x.ndim + 1) for c in combinations(range(x.ndim), n)]
    for axes in axes_of:
        exact = x.astype("float64")
        mean, variance = exact.mean(axes, keepdims=True), exact.var(axes, keepdims=True)
        actual = standardize(x, axes, epsilon=0.25)
        for a, d in zip(
            actual, ((exact - mean) / np.sqrt(variance + 0.25), mean, variance), strict=True
        ):
            assert_close(a, d, dtype)


@pytest.mark.parametrize("axes", [0, -3, (0, 2), [2, 0], (-1, 0), np.array([0, 2]), np.int64(1)])
def test_axes_may_be_given_in_any_form(axes):
    x = np.random.default_rng(0).standard_normal((4, 3, 5))
    plain = tuple(int(a) for a in np.atleast_1d(axes))
    np.testing.assert_array_equal(standardize(x, axes)[0], standardize(x, plain)[0])
    np.testing.assert_allclose(standardize(x, axes)[1], x.mean(plain, keepdims=True), atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_batch_norm_is_standardize_with_a_scale_and_a_shift(shape, axis, dtype):
    x, gamma, beta, _ = problem(shape, axis, dtype)
    x_hat, mean, variance = standardize(x, reduced_axes(shape, axis), epsilon=0.1)
    y, cache = batch_norm(x, gamma, beta, axis, epsilon=0.1)
    np.testing.assert_array_equal(y, x_hat * gamma.reshape(mean.shape) + beta.reshape(mean.shape))
    np.testing.assert_array_equal(cache.layout.unfold(cache.x_hat), x_hat)
    for kept, statistic in ((cache.mean, mean), (cache.variance, variance)):
        np.testing.assert_array_equal(kept, statistic.reshape(gamma.shape), strict=True)


def test_kept_axes_count_in_their_order_in_x():
    x, gamma, beta, _ = problem((4, 6, 3), (0, -1))
    y, cache = batch_norm(x, gamma, beta, axis=(-1, 0))
    np.testing.assert_array_equal(y, batch_norm(x, gamma, beta, axis=(0, -1))[0])
    assert cache.mean.shape == cache.variance.shape == gamma.shape == (4, 3)


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_views_that_are_not_contiguous(shape, axis):
    x, gamma, beta, dy = problem(shape, axis)
    y, cache = batch_norm(x, gamma, beta, axis)
    expected = (
        y,
        *batch_norm_grad(dy, cache),
        batch_norm_inference(x, gamma, beta, beta, gamma**2, axis),
    )
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    backward = np.asfortranarray(dy)
    y, cache = batch_norm(wide, gamma, beta, axis)
    actual = (
        y,
        *batch_norm_grad(backward, cache),
        batch_norm_inference(wide, gamma, beta, beta, gamma**2, axis),
    )
    for a, d in zip(actual, expected, strict=True):
        assert_close(a, d, "float64")


@pytest.mark.parametrize(("shape", "axis"), [c for c in CASES if math.prod(c[0]) <= 300])
def test_gradients_by_finite_differences(shape, axis):
    x, gamma, beta, dy = problem(shape, axis)

    def loss(x, gamma, beta):
        return np.vdot(dy, batch_norm(x, gamma, beta, axis, epsilon=0.1)[0])

    dx, dgamma, dbeta = batch_norm_grad(dy, batch_norm(x, gamma, beta, axis, epsilon=0.1)[1])
    step = 1e-5
    assert relative_error(dx, numerical_gradient(lambda x: loss(x, gamma, beta), x, step)) < 1e-7
    assert (
        relative_error(dgamma, numerical_gradient(lambda g: loss(x, g, beta), gamma, step)) < 1e-7
    )
    assert relative_error(dbeta, numerical_gradient(lambda b: loss(x, gamma, b), beta, step)) < 1e-7


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_gradient_along_random_directions(shape, axis):
    x, gamma, beta, dy = problem(shape, axis)
    dx = batch_norm_grad(dy, batch_norm(x, gamma, beta, axis, epsilon=0.1)[1])[0]
    rng = np.random.default_rng(1)

    def loss(x):
        return np.vdot(dy, batch_norm(x, gamma, beta, axis, epsilon=0.1)[0])

    assert max(directional_error(loss, x, dx, rng, step=1e-4) for _ in range(3)) < 1e-5


def test_moving_statistics_by_hand():
    """After k calls on one batch, the start (0, 1) still weighs momentum**k."""
    x = np.array([[1.0], [3.0], [8.0]])
    mean, variance = 4.0, 26 / 3
    layer = BatchNorm(momentum=0.8, epsilon=0.5)
    for k in range(1, 6):
        layer(x, training=True)
        old = 0.8**k
        np.testing.assert_allclose(layer.moving_mean, [(1 - old) * mean], rtol=1e-14)
        np.testing.assert_allclose(layer.moving_variance, [old + (1 - old) * variance], rtol=1e-14)
        expected = (x - (1 - old) * mean) / math.sqrt(old + (1 - old) * variance + 0.5)
        np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-13)


def test_inference_changes_nothing_and_uses_what_is_assigned():
    x, gamma, beta, _ = problem((5, 3), -1)
    layer = BatchNorm()
    layer.moving_mean, layer.moving_variance = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    before = dict(vars(layer))
    y = layer(x)
    assert vars(layer) == before
    expected = (x - [1.0, 2.0, 3.0]) / np.sqrt(np.array([4.0, 5.0, 6.0]) + 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-13)
    layer.gamma, layer.beta = gamma, beta
    np.testing.assert_allclose(layer(x), gamma * expected + beta, rtol=1e-13)


# ---- Properties ----------------------------------------------------------------------------------

cases = st.sampled_from(CASES)
seeds = st.integers(0, 2**32 - 1)


@properties
@given(
    case=cases, seed=seeds, epsilon=st.sampled_from([0.0, 1e-3, 1.0]), dtype=st.sampled_from(DTYPES)
)
def test_each_channel_has_mean_0_and_variance_1(case, seed, epsilon, dtype):
    shape, axis = case
    x = problem(shape, axis, dtype, seed)[0]
    axes = reduced_axes(shape, axis)
    y = batch_norm(x, None, None, axis, epsilon)[0].astype("float64")
    variance = x.astype("float64").var(axes)
    np.testing.assert_allclose(y.mean(axes), 0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        y.var(axes), variance / (variance + epsilon), rtol=10 * TOLERANCE[dtype]
    )


@properties
@given(case=cases, seed=seeds, shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_shift_and_scale_of_the_input_do_not_matter(case, seed, shift, scale):
    shape, axis = case
    x, gamma, beta, _ = problem(shape, axis, seed=seed)
    y = batch_norm(x, gamma, beta, axis, epsilon=0)[0]
    moved = batch_norm(shift + scale * x, gamma, beta, axis, epsilon=0)[0]
    np.testing.assert_allclose(moved, y, atol=1e-7)


@properties
@given(case=cases, seed=seeds)
def test_order_of_the_batch_does_not_matter(case, seed):
    shape, axis = case
    x, gamma, beta, dy = problem(shape, axis, seed=seed)
    batch_axis = reduced_axes(shape, axis)[0]
    order = np.random.default_rng(seed).permutation(shape[batch_axis])
    y, cache = batch_norm(x, gamma, beta, axis)
    dx, dgamma, dbeta = batch_norm_grad(dy, cache)
    y2, cache2 = batch_norm(x.take(order, batch_axis), gamma, beta, axis)
    dx2, dgamma2, dbeta2 = batch_norm_grad(dy.take(order, batch_axis), cache2)
    assert_close(y2, y.take(order, batch_axis), "float64")
    assert_close(dx2, dx.take(order, batch_axis), "float64")
    assert_close(dgamma2, dgamma, "float64")
    assert_close(dbeta2, dbeta, "float64")


@properties
@given(case=cases, seed=seeds)
def test_input_gradient_is_centered_and_orthogonal_to_the_output(case, seed):
    shape, axis = case
    x, gamma, _, dy = problem(shape, axis, seed=seed)
    axes = reduced_axes(shape, axis)
    x_hat = standardize(x, axes)[0]
    dx = batch_norm_grad(dy, batch_norm(x, gamma, None, axis, epsilon=0)[1])[0]
    size = np.abs(dx).max()
    np.testing.assert_allclose(dx.mean(axes) / size, 0, atol=1e-12)
    np.testing.assert_allclose((dx * x_hat).mean(axes) / size, 0, atol=1e-12)
    assert size > 0 or math.prod(shape[a] for a in axes) == 2


@properties
@given(
    case=cases, seed=seeds, epsilon=st.sampled_from([0.0, 1e-3, 1.0]), dtype=st.sampled_from(DTYPES)
)
def test_gamma_and_beta_can_undo_it(case, seed, epsilon, dtype):
    shape, axis = case
    x = problem(shape, axis, dtype, seed)[0]
    _, cache = batch_norm(x, None, None, axis, epsilon)
    y, _ = batch_norm(x, np.sqrt(cache.variance + epsilon), cache.mean, axis, epsilon)
    assert_close(y, x, dtype)


@properties
@given(runs=st.integers(1, 5), batch=st.integers(2, 300), features=st.integers(1, 40), seed=seeds)
def test_a_stack_of_runs_equals_separate_runs(runs, batch, features, seed):
    shape, axis = (runs, batch, features), (0, -1)
    x, gamma, beta, dy = problem(shape, axis, seed=seed)
    y, cache = batch_norm(x, gamma, beta, axis)
    stacked = (y, *batch_norm_grad(dy, cache), cache.mean, cache.variance)
    for run in range(runs):
        y, cache = batch_norm(x[run], gamma[run], beta[run])
        alone = (y, *batch_norm_grad(dy[run], cache), cache.mean, cache.variance)
        for actual, desired in zip(stacked, alone, strict=True):
            np.testing.assert_allclose(actual[run], desired, rtol=1e-9, atol=1e-11)


@properties
@given(case=cases, seed=seeds, dtype=st.sampled_from(DTYPES))
def test_with_momentum_0_inference_equals_training(case, seed, dtype):
    shape, axis = case
    x, gamma, beta, _ = problem(shape, axis, dtype, seed)
    layer = BatchNorm(axis=axis, momentum=0)
    layer.gamma, layer.beta = gamma, beta
    layer.moving_mean, layer.moving_variance = beta, gamma**2
    assert relative_error(layer(x), layer(x, training=True)) > 0.01
    assert_close(layer(x), layer(x, training=True), dtype)


@properties
@given(case=cases, seed=seeds, dtype=st.sampled_from(DTYPES))
def test_arguments_are_left_alone_and_the_dtype_is_kept(case, seed, dtype):
    shape, axis = case
    x, gamma, beta, dy = arguments = problem(shape, axis, dtype, seed)
    moving_mean, moving_variance = beta.copy(), gamma**2
    arguments += [moving_mean, moving_variance]
    copies = [a.copy() for a in arguments]
    for a in arguments:
        a.flags.writeable = False
    layer = BatchNorm(axis=axis)
    layer.gamma, layer.beta = gamma, beta
    layer.moving_mean, layer.moving_variance = moving_mean, moving_variance
    y = layer(x, training=True)
    dx = layer.backward(dy.astype("float64"))
    results = [y, dx, layer.dgamma, layer.dbeta, layer.moving_mean, layer.moving_variance]
    results += [layer(x), *standardize(x, reduced_axes(shape, axis))]
    assert all(r.dtype == dtype for r in results)
    for a, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(a, copy)
    assert not any(np.shares_memory(r, a) for r in results for a in arguments)


def test_the_cache_survives_changes_to_the_arrays():
    x, gamma, beta, dy = problem((8, 3), -1)
    y, cache = batch_norm(x, gamma, beta)
    expected = batch_norm_grad(dy, cache)
    for a in (x, gamma, beta, y):
        a[...] = 7
    for actual, desired in zip(batch_norm_grad(dy, cache), expected, strict=True):
        np.testing.assert_array_equal(actual, desired)


# ---- Precision -----------------------------------------------------------------------------------


def exactly_normalized(x, epsilon):
    """Columns of ``x`` normalized in float64 with sums free of rounding."""
    columns = []
    for column in x.astype("float64").T:
        mean = math.fsum(column) / len(column)
        variance = math.fsum((column - mean) ** 2) / len(column)
        columns.append((column - mean) / math.sqrt(variance + epsilon))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("shape", [(64, 4), (1009, 17), (4096, 16)])
def test_far_from_zero(keras_batch_norm, shape):
    x = 1e4 + np.random.default_rng(0).standard_normal(shape)
    y = batch_norm(x, None, None)[0]
    np.testing.assert_allclose(y, exactly_normalized(x, 1e-3), atol=1e-10)

    x = x.astype("float32")
    exact = exactly_normalized(x, 1e-3)
    error = np.abs(batch_norm(x, None, None)[0] - exact).max()
    [(keras_y, *_)] = keras_batch_norm([x], None, None, x, -1, "float32")
    assert error < 1e-5
    assert error <= np.abs(keras_y - exact).max()


@pytest.mark.parametrize("shape", [(64, 4), (1009, 17), (4096, 16)])
def test_an_outlier_in_the_first_row_costs_no_more_than_its_own_rounding(shape):
    x = (1e4 + np.random.default_rng(0).standard_normal(shape)).astype("float32")
    x[0] += 1e3
    exact = exactly_normalized(x, 1e-3)
    error = np.abs(batch_norm(x, None, None)[0] - exact).max()
    rounded = np.spacing(x.max()) / x.std(dtype=float)  # of an input, in units of the output
    assert error < rounded + 4 * np.finfo("float32").eps * np.abs(exact).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 1000, 9999])
def test_constant_channels_give_beta(batch, dtype):
    x = np.broadcast_to(np.array([0.1, -1e4, 0.0], dtype), (batch, 3))
    y, cache = batch_norm(x, np.ones(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(y, np.broadcast_to([1.0, 2.0, 3.0], y.shape))
    np.testing.assert_array_equal(cache.variance, 0)
    np.testing.assert_array_equal(cache.mean, x[0])
    with pytest.raises(
        ValueError, match=r"variance of 0, .* in 3 of 3 channels: normalizing would divide"
    ):
        batch_norm(x, None, None, epsilon=0)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-17), ("float64", 1e-150)])
def test_small_numbers_are_normalized_as_long_as_their_variance_is_a_normal_number(dtype, scale):
    x = problem((64, 3), -1)[0]
    y = batch_norm((scale * x).astype(dtype), None, None, epsilon=0)[0]
    np.testing.assert_allclose(y, batch_norm(x, None, None, epsilon=0)[0], atol=1e-5)
    with pytest.raises(ValueError, match=f"too near 0 for {dtype}, in 3 of 3 channels"):
        batch_norm((scale**1.3 * x).astype(dtype), None, None, epsilon=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_normal_number_is_a_variance(dtype):
    x, tiny = np.ones((2, 1), dtype), np.finfo(dtype).tiny
    y = batch_norm_inference(x, None, None, [0.0], [tiny], epsilon=0)
    np.testing.assert_allclose(y, tiny**-0.5, rtol=1e-6)


# ---- Errors --------------------------------------------------------------------------------------

X = np.arange(12.0).reshape(4, 3) ** 2
ONES = np.ones(3)


def gradient(dy):
    return batch_norm_grad(dy, batch_norm(X, ONES, ONES)[1])


def spoiled(*values):
    x = X.copy()
    x.flat[5 : 5 + len(values)] = values
    return x


ERRORS = {
    "x integer": (
        lambda: batch_norm(X.astype(int), ONES, ONES),
        r"expected x of float32 or float64, got int64; convert it: x\.astype\(float\)",
    ),
    "x half": (
        lambda: batch_norm(X.astype("float16"), ONES, ONES),
        r"float32 or float64, got float16; convert it: x\.astype\(float\)",
    ),
    "x integer, one axis": (
        lambda: batch_norm(np.array([3, 9, 11, 17]), None, None),
        r"got int64; convert it: x\.astype\(float\)",
    ),
    "x complex": (lambda: batch_norm(X + 0j, None, None), "got complex128$"),
    "x text": (lambda: batch_norm([["3", "9"]], None, None), "got <U1$"),
    "x masked": (
        lambda: batch_norm(np.ma.masked_array(X, X > 9), None, None),
        "expected x without a mask, got one",
    ),
    "gamma masked": (
        lambda: batch_norm(X, np.ma.masked_array(ONES, ONES > 0), None),
        "expected gamma without a mask, got one",
    ),
    "x integer, inference": (
        lambda: batch_norm_inference([[1, 2, 3]], ONES, ONES, ONES, ONES),
        "expected x of float32 or float64, got int64",
    ),
    "x nan": (
        lambda: batch_norm(spoiled(np.nan), ONES, ONES),
        r"expected finite numbers in x, got 1 of 12 that are not, the first at index \(1, 2\)",
    ),
    "x inf": (
        lambda: standardize(spoiled(np.inf, -np.inf), 0),
        r"got 2 of 12 .* first at index \(1, 2\)",
    ),
    "x nan, inference": (
        lambda: batch_norm_inference(spoiled(np.nan, np.inf), ONES, ONES, ONES, ONES),
        r"expected finite numbers in x, got 2 of 12 .* first at index \(1, 2\)",
    ),
    "x nan, channels first": (
        lambda: batch_norm(spoiled(np.nan), None, None, axis=0),
        r"the first at index \(1, 2\)",
    ),
    "x too large": (
        lambda: batch_norm(X.astype("float32") * np.float32(1e30), ONES, ONES),
        r"expected sums that fit float32, got an overflow, with x up to 1\.2e\+32",
    ),
    "x empty": (
        lambda: batch_norm(np.ones((0, 3)), ONES, ONES),
        r"expected x with .* at least one value, got the shape \(0, 3\)",
    ),
    "rank 1": (
        lambda: batch_norm(np.ones(3), ONES, ONES),
        r"keep at least one axis and leave at least one .* axis=-1 for x of shape \(3,\)",
    ),
    "rank 0": (
        lambda: batch_norm(np.float64(3), ONES, ONES),
        r"expected x with an axis .* got the shape \(\)",
    ),
    "axis high": (
        lambda: batch_norm(X, ONES, ONES, axis=2),
        r"expected axis from -2 to 1, got axis=2 for x of shape \(4, 3\), which is out of range",
    ),
    "axis low": (
        lambda: batch_norm(X, ONES, ONES, axis=(0, -3)),
        r"got axis=\(0, -3\) for x of shape \(4, 3\), which is out of range",
    ),
    "number of features": (
        lambda: BatchNorm(3)(X, training=True),
        r"got axis=3 for x of shape \(4, 3\), which is out of range: axis is a position in the "
        "shape, not the number of features",
    ),
    "axis nested": (
        lambda: batch_norm(X, ONES, ONES, axis=[[0]]),
        r"expected axis, a whole number or a few of them, got \[\[0\]\]",
    ),
    "axis ragged": (lambda: standardize(X, [[0], [0, 1]]), "expected axis, a whole number"),
    "axis fraction": (lambda: batch_norm(X, ONES, ONES, axis=1.0), r"got 1\.0"),
    "axis None": (lambda: standardize(X, None), "expected axis, a whole number .* got None"),
    "axis twice": (
        lambda: batch_norm(X, ONES, ONES, axis=(1, -1)),
        r"expected every axis once, got axis=\(1, -1\) for x of shape \(4, 3\)",
    ),
    "axis all": (
        lambda: batch_norm(X, X, X, axis=(0, 1)),
        r"leave at least one to average over, got axis=\(0, 1\)",
    ),
    "axis none": (
        lambda: batch_norm(X, ONES, ONES, axis=()),
        r"keep at least one axis .*got axis=\(\)",
    ),
    "axis to average over, none": (
        lambda: standardize(X, ()),
        r"axis to name at least one axis to average over, got axis=\(\)",
    ),
    "axis to average over, high": (
        lambda: standardize(X, (0, 5)),
        r"got axis=\(0, 5\) .* out of range",
    ),
    "gamma": (
        lambda: batch_norm(X, np.ones(4), ONES),
        r"expected gamma in the shape of the kept axes, \(3,\), got \(4,\)",
    ),
    "gamma nan": (
        lambda: batch_norm(X, [1, np.nan, 1], ONES),
        r"expected finite numbers in gamma, got 1 of 3 that are not, the first at index \(1,\)",
    ),
    "gamma nan, inference": (
        lambda: batch_norm_inference(X, [1, np.nan, 1], ONES, ONES, ONES),
        "expected finite numbers in gamma, got 1 of 3",
    ),
    "beta, inference": (
        lambda: batch_norm_inference(X, ONES, np.ones(4), ONES, ONES),
        r"expected beta in the shape of the kept axes, \(3,\), got \(4,\)",
    ),
    "gamma text": (
        lambda: batch_norm(X, ["1", "2", "3"], ONES),
        "expected real numbers in gamma, got <U1",
    ),
    "beta complex": (
        lambda: batch_norm(X, ONES, 1j * ONES),
        "expected real numbers in beta, got complex128",
    ),
    "beta infinite": (lambda: batch_norm(X, ONES, -np.inf * ONES), "finite numbers in beta, got 3"),
    "moving_mean infinite": (
        lambda: batch_norm_inference(X, ONES, ONES, [0, 0, np.inf], ONES),
        r"expected finite numbers in moving_mean, got 1 of 3 .* index \(2,\)",
    ),
    "moving_mean None": (
        lambda: batch_norm_inference(X, ONES, ONES, None, ONES),
        "expected real numbers in moving_mean, got object",
    ),
    "moving_variance nan": (
        lambda: batch_norm_inference(X, ONES, ONES, ONES, [1, 1, np.nan]),
        "expected finite numbers in moving_variance, got 1 of 3",
    ),
    "gamma too large, inference": (
        lambda: batch_norm_inference(X.astype("f4"), np.full(3, 3e37), None, ONES, ONES),
        r"got an overflow, with x up to 1\.2e\+02: x or a parameter is too large",
    ),
    "gamma too large for float32": (
        lambda: batch_norm(X.astype("f4"), np.full(3, 1e300), None),
        r"got an overflow, with gamma up to 1e\+300",
    ),
    "gamma, broadcastable": (
        lambda: batch_norm(X, np.ones(1), ONES),
        r"gamma .* \(3,\), got \(1,\)",
    ),
    "beta": (lambda: batch_norm(X, ONES, np.ones((1, 3))), r"beta .* \(3,\), got \(1, 3\)"),
    "moving_mean": (
        lambda: batch_norm_inference(X, ONES, ONES, 0.0, ONES),
        r"moving_mean .* \(3,\), got \(\)",
    ),
    "moving_variance": (
        lambda: batch_norm_inference(X, ONES, ONES, ONES, np.ones(2)),
        r"moving_variance .* \(3,\), got \(2,\)",
    ),
    "moving_variance negative": (
        lambda: batch_norm_inference(X, ONES, ONES, ONES, [1, -0.5, 1]),
        "expected moving_variance to be at least 0, got -0.5",
    ),
    "epsilon negative": (
        lambda: batch_norm(X, ONES, ONES, epsilon=-1e-3),
        "expected epsilon, a number from 0 on, got -0.001",
    ),
    "epsilon infinite": (lambda: standardize(X, 0, np.inf), "epsilon, a number from 0 on, got inf"),
    "epsilon text": (lambda: BatchNorm(epsilon="1e-3"), "epsilon, a number from 0 on, got '1e-3'"),
    "epsilon nan": (
        lambda: standardize(X, 0, epsilon=np.nan),
        "expected epsilon, a number from 0 on, got nan",
    ),
    "epsilon, inference": (
        lambda: batch_norm_inference(X, ONES, ONES, ONES, ONES, epsilon=-1),
        "expected epsilon, a number from 0 on, got -1",
    ),
    "variance 0": (
        lambda: standardize(X * [1, 0, 1], 0),
        "got epsilon=0 and a variance of 0, .* in 1 of 3 channels: normalizing would divide by 0",
    ),
    "variance 0, inference": (
        lambda: batch_norm_inference(X, ONES, ONES, ONES, [1, 0, 0], epsilon=0),
        "got epsilon=0 and a variance of 0, .* in 2 of 3 channels",
    ),
    "one value per channel": (
        lambda: batch_norm(X[:1], ONES, ONES),
        r"expected at least two values in each channel for training, got x of the shape \(1, 3\), "
        r"which has one value in each channel \(axis=-1\): .* output would be beta and the "
        "gradient zero whatever x is",
    ),
    "one value per channel, stack": (
        lambda: batch_norm(X[:, None], np.ones((4, 3)), np.ones((4, 3)), axis=(0, -1)),
        r"shape \(4, 1, 3\), which has one value in each channel \(axis=\(0, -1\)\)",
    ),
    "dy shape": (
        lambda: gradient(X.T),
        r"expected dy in the shape of x, \(4, 3\), got \(3, 4\)",
    ),
    "dy integer": (
        lambda: gradient(X.astype(int)),
        r"expected dy of float32 or float64, got int64; convert it: dy\.astype\(float\)",
    ),
    "dy nan": (
        lambda: gradient(spoiled(np.nan)),
        r"expected finite numbers in dy, got 1 of 12 that are not, the first at index \(1, 2\)",
    ),
    "momentum": (
        lambda: BatchNorm(momentum=1.5),
        "expected momentum, a number from 0 to 1, got 1.5",
    ),
    "momentum nan": (lambda: BatchNorm(momentum=np.nan), "from 0 to 1, got nan"),
    "momentum text": (lambda: BatchNorm(momentum="0.9"), "from 0 to 1, got '0.9'"),
    "momentum negative": (lambda: BatchNorm(momentum=-0.1), r"momentum.* got -0\.1"),
    "epsilon": (lambda: BatchNorm(epsilon=-1), "expected epsilon, a number from 0 on, got -1"),
    "inference too early": (
        lambda: BatchNorm()(X),
        "expected moving statistics for inference, got none yet: call the layer with "
        "training=True, or assign moving_mean and moving_variance",
    ),
    "backward too early": (
        lambda: BatchNorm().backward(X),
        "expected a call with training=True before backward, got none",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_was_expected_and_what_came(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (spoiled(np.nan), {}),
        (X[:1], {}),
        (X[:, :2], {}),
        (X.astype(int), {}),
        (X, {"beta": np.ones(2)}),
        (X, {"gamma": np.array([1, np.nan, 1])}),
        (X, {"gamma": np.array(["1", "2", "3"])}),
        (X, {"moving_mean": np.array([0, 0, np.inf])}),
        (X, {"moving_variance": np.array([1, -1, 1])}),
        (X, {"momentum": 1.5}),
        (np.ma.masked_array(X, X > 9), {}),
        (X, {"moving_mean": np.ones(2)}),
        (X, {"moving_variance": np.ones((1, 3))}),
        (X, {"epsilon": -1.0}),
    ],
)
def test_a_failed_call_changes_nothing(x, attributes):
    layer = BatchNorm()
    layer(X, training=True)
    layer.backward(X)
    for name, value in attributes.items():
        setattr(layer, name, value)
    before = dict(vars(layer))
    copies = {k: np.copy(v) for k, v in before.items() if isinstance(v, np.ndarray)}
    with pytest.raises(ValueError, match=rf"expected .*\b{''.join(attributes)}.*got"):
        layer(x, training=True)
    with pytest.raises(ValueError, match="expected dy in the shape of x"):
        layer.backward(X[:1])
    assert all(vars(layer)[name] is value for name, value in before.items())
    for name, copy in copies.items():
        np.testing.assert_array_equal(vars(layer)[name], copy)


def test_inference_takes_one_value_per_channel():
    y = batch_norm_inference(X[:1], ONES, ONES, ONES, ONES, epsilon=0)
    np.testing.assert_array_equal(y, X[:1])


def test_large_gradients_are_not_mistaken_for_infinite():
    x, gamma, _, dy = problem((16, 3), -1, "float32")
    _, cache = batch_norm(x, gamma, None)
    large = batch_norm_grad(np.float32(2.0**70) * dy, cache)
    for actual, desired in zip(large, batch_norm_grad(dy, cache), strict=True):
        assert_close(actual, 2.0**70 * desired, "float32")


@pytest.mark.parametrize("shape", [(16, 3), (2048, 10)])
def test_infinities_of_both_signs_give_an_error_and_no_warning(shape):
    x = problem(shape, -1)[0]
    _, cache = batch_norm(x, None, None)
    x[1:3, 1] = np.inf, -np.inf
    for call in (
        lambda: batch_norm(x, None, None),
        lambda: batch_norm_grad(x, cache),
        lambda: batch_norm_inference(x, None, None, np.zeros(shape[1]), np.ones(shape[1])),
    ):
        with pytest.raises(ValueError, match=r"got 2 of .* first at index \(1, 1\)"):
            call()


@pytest.mark.parametrize("momentum", [0.001, 0.1, 0.49])
def test_a_momentum_of_pytorch_gets_one_warning_where_the_layer_is_made(momentum):
    with pytest.warns(UserWarning, match=rf"its {momentum} is momentum={1 - momentum:g} here") as w:
        layer = BatchNorm(momentum=momentum)
    assert [warning.filename for warning in w] == [__file__]
    assert layer.momentum == momentum


@pytest.mark.parametrize("momentum", [0, 0.5, 0.9, 1])
def test_other_momenta_and_what_is_assigned_get_no_warning(momentum):
    layer = BatchNorm(momentum=momentum)  # a warning would be an error here
    layer.momentum = 0.1
    layer(X, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * X.mean(axis=0))


def test_norm_imports_numpy_alone():
    tree = ast.parse(inspect.getsource(inspect.getmodule(BatchNorm)))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy"}
