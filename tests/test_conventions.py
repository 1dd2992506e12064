"""bnutils.conventions: a layer of Keras and one of PyTorch that compute the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnutils.conventions import from_pytorch, to_pytorch
from bnutils.norm import BatchNorm, batch_norm_inference

CHANNELS = 3
KERAS = ("gamma", "beta", "moving_mean", "moving_variance")
PYTORCH = ("weight", "bias", "running_mean", "running_var")
NAN, INF = float("nan"), float("inf")


def keras_layer(dtype=np.float64, **changes):
    """The arrays and settings of a layer that has been trained."""
    rng = np.random.default_rng(0)
    arrays = {
        "gamma": rng.normal(1, 0.3, CHANNELS),
        "beta": rng.normal(0, 0.3, CHANNELS),
        "moving_mean": rng.normal(2, 1, CHANNELS),
        "moving_variance": rng.gamma(2, 1, CHANNELS),
    }
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    return {**arrays, "momentum": 0.99, "epsilon": 1e-3, **changes}


def pytorch_layer(dtype=np.float64, **changes):
    return to_pytorch(**keras_layer(dtype)) | changes


def pytorch_inference(x, layer):
    """The formula in PyTorch's documentation of BatchNorm1d, with the running statistics."""
    y = (x - layer["running_mean"]) / np.sqrt(layer["running_var"] + layer["eps"])
    y = y if layer["weight"] is None else y * layer["weight"]
    return y if layer["bias"] is None else y + layer["bias"]


def pytorch_updates(batches, mean, variance, momentum):
    """The running statistics after some batches, by the formulas in PyTorch's documentation."""
    for x in batches:
        mean = (1 - momentum) * mean + momentum * x.mean(axis=0)
        variance = (1 - momentum) * variance + momentum * x.var(axis=0, ddof=1)
    return mean, variance


def keras_updates(batches, mean, variance, momentum):
    """The same of a Keras layer: the book's own, which the tests of `norm` hold against Keras."""
    bn = BatchNorm(momentum=momentum)
    bn.moving_mean, bn.moving_variance = mean, variance
    for x in batches:
        bn(x, training=True)
    return bn.moving_mean, bn.moving_variance


def batches_of(count, steps=60):
    rng = np.random.default_rng(count)
    return list(rng.normal(5, 3, size=(steps, count, CHANNELS)))


# --- the function stays the same ---


@pytest.mark.parametrize("missing", [(), ("gamma",), ("beta",), ("gamma", "beta")])
def test_outputs_at_inference_are_equal(missing):
    layer = keras_layer(**dict.fromkeys(missing))
    x = np.random.default_rng(1).normal(size=(7, CHANNELS))
    settings = {"axis": -1, "epsilon": layer["epsilon"]}
    expected = batch_norm_inference(x, *(layer[name] for name in KERAS), **settings)
    np.testing.assert_allclose(pytorch_inference(x, to_pytorch(**layer)), expected, rtol=1e-12)


@pytest.mark.parametrize("missing", [("weight",), ("bias",), ("weight", "bias")])
def test_missing_parameters_of_pytorch_stay_missing(missing):
    names = dict(zip(PYTORCH, KERAS, strict=True))
    layer = from_pytorch(**pytorch_layer(**dict.fromkeys(missing)))
    assert {name for name in KERAS if layer[name] is None} == {names[name] for name in missing}


def test_pytorch_has_scale_and_shift_or_neither():
    assert to_pytorch(**keras_layer(gamma=None))["weight"].tolist() == [1, 1, 1]
    assert to_pytorch(**keras_layer(beta=None))["bias"].tolist() == [0, 0, 0]
    neither = to_pytorch(**keras_layer(gamma=None, beta=None))
    assert neither["weight"] is None
    assert neither["bias"] is None


# --- round trips ---


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_round_trip_is_exact_and_keeps_the_dtype(dtype):
    before = keras_layer(dtype)
    after = from_pytorch(**to_pytorch(**before))
    assert after.keys() == before.keys()
    for name in KERAS:
        np.testing.assert_array_equal(after[name], before[name], strict=True)
    assert (after["momentum"], after["epsilon"]) == (before["momentum"], before["epsilon"])


@pytest.mark.parametrize(
    ("keras", "pytorch"), [(0.99, 0.01), (0.9, 0.1), (0.999, 0.001), (0.0, 1.0), (1.0, 0.0)]
)
def test_momentum_is_the_decimal_number_one_would_write(keras, pytorch):
    assert to_pytorch(**keras_layer(momentum=keras))["momentum"] == pytorch
    assert from_pytorch(**pytorch_layer(momentum=pytorch))["momentum"] == keras


@given(st.decimals(0, 1, places=15))
def test_momentum_comes_back_exactly(momentum):
    there = to_pytorch(**keras_layer(momentum=float(momentum)))
    assert from_pytorch(**there)["momentum"] == float(momentum)


@pytest.mark.parametrize("weight", [2**-53, 2**-52, 3e-16])
def test_a_momentum_next_to_1_still_updates(weight):
    there = to_pytorch(**keras_layer(momentum=1 - weight))
    assert there["momentum"] == 1 - (1 - weight) > 0
    assert from_pytorch(**there)["momentum"] == 1 - weight


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [2, 3, 32, 100_000])
def test_round_trip_with_a_count(count, dtype):
    before = keras_layer(dtype)
    after = from_pytorch(**to_pytorch(**before, count=count), count=count)
    np.testing.assert_array_max_ulp(after["moving_variance"], before["moving_variance"], 2)


def test_nothing_is_shared_and_nothing_is_changed():
    before = keras_layer()
    for name, array in to_pytorch(**before, count=2).items():
        if name in PYTORCH:
            array[...] = 0
    for name in KERAS:
        np.testing.assert_array_equal(before[name], keras_layer()[name])


# --- many updates ---


@pytest.mark.parametrize("count", [2, 4, 8, 32])
@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_statistics_agree_after_many_updates(count, momentum):
    start = keras_layer(momentum=momentum)
    there = to_pytorch(**start, count=count)
    batches = batches_of(count)
    mean, variance = keras_updates(
        batches, start["moving_mean"], start["moving_variance"], momentum
    )
    running = pytorch_updates(
        batches, there["running_mean"], there["running_var"], there["momentum"]
    )
    there |= {"running_mean": running[0], "running_var": running[1]}
    back = from_pytorch(**there, count=count)
    np.testing.assert_allclose(back["moving_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(back["moving_variance"], variance, rtol=1e-12)


def test_an_initial_value_of_one_in_both_leaves_what_the_documentation_says():
    count, momentum, batches = 4, 0.9, batches_of(4)
    zeros, ones = np.zeros(CHANNELS), np.ones(CHANNELS)
    _, variance = keras_updates(batches, zeros, ones, momentum)
    mean, running_var = pytorch_updates(batches, zeros, ones, 1 - momentum)
    back = from_pytorch(running_mean=mean, running_var=running_var, momentum=0.1, count=count)
    # PyTorch's initial 1 was no unbiased variance, and is divided by n / (n - 1) all the same.
    share = momentum ** len(batches) * (1 - (count - 1) / count)
    np.testing.assert_allclose(variance - back["moving_variance"], share, rtol=1e-6)


def test_what_keras_itself_stores():
    from bnutils._keras import keras

    layer = keras.layers.BatchNormalization(momentum=0.9)
    layer.build((None, CHANNELS))
    batches = [x.astype(np.float32) for x in batches_of(8, steps=30)]
    start = to_pytorch(
        **{name: getattr(layer, name) for name in KERAS}, momentum=layer.momentum, count=8
    )
    for x in batches:
        layer(x, training=True)
    mean, variance = pytorch_updates(
        batches, start["running_mean"], start["running_var"], start["momentum"]
    )
    stored = to_pytorch(
        **{name: getattr(layer, name) for name in KERAS},
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        count=8,
    )
    np.testing.assert_allclose(stored["running_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stored["running_var"], variance, rtol=1e-5)


# --- bad input ---


BAD = [
    ({"moving_mean": np.zeros(2)}, r"gamma|moving_variance of shape \[channels\]"),
    ({"moving_mean": np.zeros((1, CHANNELS))}, r"moving_mean of shape \[channels\]"),
    ({"gamma": np.float64(1)}, r"gamma of shape \[channels\]"),
    ({"beta": np.zeros(CHANNELS, dtype=int)}, "floating-point numbers in beta, got int64"),
    ({"moving_mean": None}, "floating-point numbers in moving_mean"),
    ({"moving_mean": np.ma.masked_array([0.0, 1.0, 2.0])}, "moving_mean without a mask"),
    ({"moving_mean": np.array([0, NAN, 0])}, "finite numbers in moving_mean"),
    ({"gamma": np.array([0, INF, 0])}, "finite numbers in gamma"),
    ({"moving_variance": np.array([1, -0.5, 1])}, "moving_variance to be at least 0.*-0.5"),
    ({"momentum": 1.5}, "momentum, a number from 0 to 1, got 1.5"),
    ({"momentum": -0.1}, "momentum, a number from 0 to 1"),
    ({"momentum": NAN}, "momentum, a number from 0 to 1"),
    ({"momentum": "0.9"}, "momentum, a number from 0 to 1"),
    ({"epsilon": -1e-3}, "epsilon, a number from 0"),
    ({"epsilon": INF}, "epsilon, a number from 0"),
    (
        {"moving_variance": np.full(CHANNELS, 60000, np.float16), "count": 2},
        r"moving_variance that times 2 / 1 fits float16, got 60000\.0; convert it: .*astype\(float",
    ),
    ({"count": 1}, "count.*got 1"),
    ({"count": 0}, "count.*got 0"),
    ({"count": 32.0}, "count.*got 32.0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_to_pytorch_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        to_pytorch(**keras_layer(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": None}, "cumulative average.*pass the momentum"),
        ({"running_mean": None}, "track_running_stats=False"),
        ({"running_var": None}, "track_running_stats=False"),
        ({"running_var": -np.ones(CHANNELS)}, "running_var to be at least 0"),
        ({"eps": -1.0}, "eps, a number from 0"),
        ({"momentum": 90}, "momentum, a number from 0 to 1"),
        ({"count": 1}, "count.*got 1"),
    ],
)
def test_from_pytorch_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        from_pytorch(**pytorch_layer(**changes))


def test_a_whole_state_dict_may_be_passed():
    state = {name: pytorch_layer()[name] for name in PYTORCH}
    layer = from_pytorch(**state, num_batches_tracked=np.array(400), momentum=0.1, eps=1e-5)
    np.testing.assert_array_equal(layer["moving_mean"], keras_layer()["moving_mean"])
    assert (layer["momentum"], layer["epsilon"]) == (0.9, 1e-5)
