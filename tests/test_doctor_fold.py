"""Folding: the outputs stay, the model asked about stays, and what cannot fold says why."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from keras import tree

from bnutils._keras import keras, tf
from bnutils.doctor.fold import Folded, Folding, fold, fold_plan
from bnutils.doctor.fold.kernels import Affine, Linear
from bnutils.doctor.graph import batch_norms, layer_paths, walk
from bnutils.doctor.results import Skipped
from bnutils.doctor.rules.registry import Finding, Rule

# Keras 3.15 saves and quantizes weights with an old form of NumPy's copy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

layers = keras.layers
SCALES = {"float64": 1e-12, "float32": 1e-5}
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def tolerance_of(dtype, terms):
    """How far the outputs of two models may lie apart when each sums `terms` products.

    Processors add up half-precision products in half or in single precision, in an order that
    depends on the batch. In half, the roundings of a sum walk at random: their number enters by
    its square root, and four epsilons for each step hold the largest of some hundred outputs.
    """
    return SCALES.get(dtype) or 4 * EPSILON[dtype] * terms**0.5


def bn(name="bn", **options):
    """A layer whose statistics, gamma and beta are nothing like the initial ones."""
    random = keras.initializers.RandomUniform
    return layers.BatchNormalization(
        name=name,
        gamma_initializer=random(-1.5, 1.5, seed=1),
        beta_initializer=random(-1, 1, seed=2),
        moving_mean_initializer=random(-1, 1, seed=3),
        moving_variance_initializer=random(0.1, 3, seed=4),
        **options,
    )


def functional(shape, *parts, dtype=None):
    """A chain of layers on one input."""
    inputs = keras.Input(shape, dtype=dtype)
    outputs = inputs
    for part in parts:
        outputs = part(outputs)
    return randomized(keras.Model(inputs, outputs))


def randomized(model):
    """Give every bias values: the initial zeros would hide mistakes."""
    rng = np.random.default_rng(5)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(rng.normal(size=weight.shape))
    return model


def example(structure, seed=0):
    rng = np.random.default_rng(seed)

    def draw(value):
        shape = [length or (5 if place else 3) for place, length in enumerate(value.shape)]
        if "int" in value.dtype:
            return rng.integers(0, 4, shape)
        return rng.normal(size=shape).astype(value.dtype)

    return tree.map_structure(draw, structure)


def outputs_of(model, x):
    values = tree.flatten(model(x, training=False))
    return [value.numpy().astype(np.float64) for value in values]


def difference(model, folded, x=None):
    """The largest difference of the outputs in units of the largest output."""
    x = example(folded.input) if x is None else x
    pairs = zip(outputs_of(model, x), outputs_of(folded, x), strict=True)
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


def check_folded(model, pairs, tolerance=SCALES["float32"]):
    """Fold everything named, nothing else, exactly; the first model untouched."""
    before = [np.array(weight) for weight in model.get_weights()]
    nodes = [len(part._inbound_nodes) + len(part._outbound_nodes) for part in layer_paths(model)]
    plan, folding = fold_plan(model), fold(model)
    assert (plan.folded, plan.skipped) == (folding.folded, folding.skipped)
    folded = folding.model
    assert dict(folding.folded) == pairs
    assert {each.what for each in folding.left} == {
        path for path in paths_of_bn(model) if path not in pairs
    }
    assert len(batch_norms(folded)) == len(batch_norms(model)) - len(pairs)
    assert difference(model, folded) < tolerance
    assert folding.error < tolerance
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert nodes == [
        len(part._inbound_nodes) + len(part._outbound_nodes) for part in layer_paths(model)
    ]
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in folded.weights}
    return folding


def paths_of_bn(model):
    norms = batch_norms(model)
    return [path for layer, path in layer_paths(model).items() if layer in norms]


IMAGE, SERIES, VOLUME = (8, 9, 4), (12, 4), (5, 6, 5, 2)
LINEAR = [
    pytest.param((4,), -1, lambda **k: layers.Dense(6, **k), id="dense"),
    pytest.param((7, 4), -1, lambda **k: layers.Dense(6, **k), id="dense-sequence"),
    pytest.param(SERIES, -1, lambda **k: layers.Conv1D(6, 3, **k), id="conv1d"),
    pytest.param(
        SERIES, -1, lambda **k: layers.Conv1D(6, 3, dilation_rate=2, **k), id="conv1d-dilated"
    ),
    pytest.param(IMAGE, -1, lambda **k: layers.Conv2D(6, (3, 2), **k), id="conv2d"),
    pytest.param(IMAGE, -1, lambda **k: layers.Conv2D(6, 3, strides=2, **k), id="conv2d-strided"),
    pytest.param(IMAGE, -1, lambda **k: layers.Conv2D(6, 3, groups=2, **k), id="conv2d-groups"),
    pytest.param(
        IMAGE, -1, lambda **k: layers.Conv2D(6, 1, strides=3, padding="same", **k), id="conv2d-1x1"
    ),
    pytest.param(VOLUME, -1, lambda **k: layers.Conv3D(3, 2, **k), id="conv3d"),
    pytest.param(
        SERIES, -1, lambda **k: layers.DepthwiseConv1D(3, depth_multiplier=2, **k), id="depthwise1d"
    ),
    pytest.param(
        IMAGE, -1, lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=3, **k), id="depthwise2d"
    ),
    pytest.param(SERIES, -1, lambda **k: layers.SeparableConv1D(6, 3, **k), id="separable1d"),
    pytest.param(
        IMAGE,
        -1,
        lambda **k: layers.SeparableConv2D(6, 3, depth_multiplier=2, **k),
        id="separable2d",
    ),
    pytest.param(IMAGE, -1, lambda **k: layers.Conv2DTranspose(6, 1, **k), id="transposed-1x1"),
]
EINSUM = [
    pytest.param((4,), -1, "ab,bc->ac", 6, "c", id="einsum"),
    pytest.param((5, 4), -1, "abc,cd->abd", (None, 6), "d", id="einsum-sequence"),
    pytest.param((5, 4), -1, "...c,cd->...d", 6, "d", id="einsum-ellipsis-left"),
]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("shape", "axis", "make"), LINEAR)
def test_folds_into_the_layer_before_it(shape, axis, make, use_bias):
    part = make(name="linear", use_bias=use_bias)
    model = functional(shape, part, bn(axis=axis), layers.ReLU())
    folded = check_folded(model, {"bn": "linear"}).model
    assert folded.get_layer("linear").use_bias


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("shape", "axis", "make"), LINEAR)
def test_folds_into_the_layer_after_it(shape, axis, make, use_bias):
    part = make(name="linear", use_bias=use_bias, activation="tanh")
    model = functional(shape, layers.ReLU(), bn(axis=axis), part)
    check_folded(model, {"bn": "linear"})


@pytest.mark.parametrize(("shape", "axis", "make"), LINEAR)
def test_two_fold_into_one_layer(shape, axis, make):
    model = functional(
        shape, layers.ReLU(), bn("a"), bn("b"), make(name="linear"), bn("c"), bn("d")
    )
    check_folded(model, dict.fromkeys("abcd", "linear"))


BEFORE_ONLY = [
    (SERIES, lambda **k: layers.Conv1D(6, 3, padding="causal", **k)),
    (SERIES, lambda **k: layers.Conv1DTranspose(6, 3, strides=2, **k)),
    (IMAGE, lambda **k: layers.Conv2D(6, 3, padding="same", **k)),
    (SERIES, lambda **k: layers.Conv1D(6, 2, padding="same", **k)),
    (IMAGE, lambda **k: layers.DepthwiseConv2D(3, padding="same", **k)),
    (IMAGE, lambda **k: layers.SeparableConv2D(6, 3, padding="same", **k)),
    (IMAGE, lambda **k: layers.Conv2DTranspose(6, 3, strides=2, padding="same", **k)),
    (IMAGE, lambda **k: layers.Conv2DTranspose(6, 1, strides=2, **k)),
    (IMAGE, lambda **k: layers.Conv2DTranspose(6, 2, strides=2, **k)),
    (VOLUME, lambda **k: layers.Conv3DTranspose(3, 2, **k)),
]


@pytest.mark.parametrize(("shape", "make"), BEFORE_ONLY)
def test_a_border_lets_it_fold_backwards_only(shape, make):
    check_folded(functional(shape, make(name="linear"), bn()), {"bn": "linear"})
    model = functional(shape, bn(), make(name="linear"))
    folded = check_folded(model, {})
    assert "linear after it pads with zeros" in folded.left[0].reason


@pytest.mark.parametrize(("shape", "make"), BEFORE_ONLY)
def test_a_border_does_not_matter_without_a_shift(shape, make):
    inputs = keras.Input(shape)
    norm = layers.BatchNormalization(center=False, name="bn")
    model = randomized(keras.Model(inputs, make(name="linear")(norm(inputs))))
    norm.gamma.assign(np.random.default_rng(0).uniform(0.5, 2, shape[-1]))
    check_folded(model, {"bn": "linear"})


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(("shape", "axis", "equation", "width", "bias_axes"), EINSUM)
def test_einsum_dense(shape, axis, equation, width, bias_axes, after, use_bias):
    part = layers.EinsumDense(
        equation, width, bias_axes=bias_axes if use_bias else None, name="linear"
    )
    parts = [part, bn(axis=axis)] if after else [layers.ReLU(), bn(axis=axis), part]
    check_folded(functional(shape, *parts), {"bn": "linear"})


@pytest.mark.parametrize(
    ("equation", "width", "bias_axes", "axis", "folds"),
    [
        ("abc,cde->abde", (None, 2, 3), None, -1, True),
        ("abc,cde->abde", (None, 2, 3), None, -2, True),
        ("abc,cde->abde", (None, 2, 3), "d", 2, True),
        ("abc,cde->abde", (None, 2, 3), "de", -1, False),
        ("abc,cde->abde", (5, 2, 3), None, 1, False),
        ("ab...,bc->ac...", 3, "c", 1, True),
        ("ab...,bc->ac...", 3, "c", 2, False),
        ("abc,bc->abc", (5, 4), None, -1, True),
    ],
)
def test_einsum_dense_with_other_axes(equation, width, bias_axes, axis, folds):
    part = layers.EinsumDense(equation, width, bias_axes=bias_axes, name="linear")
    model = functional((5, 4), part, bn(axis=axis))
    folded = check_folded(model, {"bn": "linear"} if folds else {})
    if not folds:
        assert f"linear has the equation {equation}" in folded.left[0].reason


def test_einsum_dense_of_attention_does_not_take_it_forwards():
    part = layers.EinsumDense("abc,cde->abde", (None, 2, 3), name="linear")
    folded = check_folded(functional((5, 4), bn(), part), {})
    assert "equation" in folded.left[0].reason


CHANNELS_FIRST = [
    lambda **k: layers.Conv2D(6, 3, groups=2, **k),
    lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
    lambda **k: layers.SeparableConv2D(6, 3, **k),
    lambda **k: layers.Conv2DTranspose(6, 1, **k),
]


@pytest.mark.parametrize("make", CHANNELS_FIRST)
@pytest.mark.parametrize("after", [True, False])
def test_channels_first_folds_by_its_weights(make, after):
    # TensorFlow convolves channels-first images on a GPU only, so the weights are compared with
    # those of a twin that has its channels last.
    weights = []
    for data_format, shape, axis in [
        ("channels_last", (8, 9, 4), -1),
        ("channels_first", (4, 8, 9), 1),
    ]:
        keras.utils.set_random_seed(0)
        part = make(name="linear", data_format=data_format)
        norm = bn(axis=axis)
        model = functional(shape, *([part, norm] if after else [layers.ReLU(), norm, part]))
        folding = fold(model, prove=False)
        assert folding.folded == (("bn", "linear"),)
        folded = folding.model
        assert folded.get_layer("linear").data_format == data_format
        weights.append(folded.get_layer("linear").get_weights())
    for last, first in zip(*weights, strict=True):
        np.testing.assert_array_equal(last, first)


@pytest.mark.parametrize(
    "options",
    [
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
        {"renorm": True},
        {"synchronized": True},
        {"epsilon": 0.5},
    ],
)
def test_every_setting_of_the_layer_folds(options):
    model = functional((4,), layers.Dense(5, name="linear"), bn(**options))
    check_folded(model, {"bn": "linear"})


BETWEEN = [
    (layers.Dropout, (0.5,)),
    (layers.GaussianNoise, (1.0,)),
    (layers.GaussianDropout, (0.5,)),
    (layers.AlphaDropout, (0.5,)),
    (layers.Identity, ()),
    (layers.Activation, ("linear",)),
    (layers.ActivityRegularization, (0.1,)),
]


@pytest.mark.parametrize(("between", "args"), BETWEEN)
def test_folds_across_what_does_nothing_at_inference(between, args):
    dense = layers.Dense(5, name="linear")
    check_folded(functional((4,), dense, between(*args), bn()), {"bn": "linear"})
    dense = layers.Dense(5, name="linear")
    model = functional((4,), layers.ReLU(), bn(), between(*args), dense)
    check_folded(model, {"bn": "linear"})


@pytest.mark.parametrize(
    ("shape", "parts", "folds"),
    [
        (IMAGE, lambda: [bn(), layers.Flatten(), layers.Dense(3, name="linear")], True),
        (IMAGE, lambda: [bn(axis=1), layers.Flatten(), layers.Dense(3, name="linear")], True),
        (IMAGE, lambda: [bn(), layers.Reshape((72, 4)), layers.Dense(3, name="linear")], True),
        (IMAGE, lambda: [bn(), layers.Reshape((36, 8)), layers.Dense(3, name="linear")], True),
        (IMAGE, lambda: [bn(), layers.Reshape((144, 2)), layers.Dense(3, name="linear")], False),
        ((4,), lambda: [layers.Dense(24, name="linear"), layers.Reshape((2, 3, 4)), bn()], True),
        (
            (4,),
            lambda: [layers.Dense(24, name="linear"), layers.Reshape((2, 3, 4)), bn(axis=1)],
            True,
        ),
        (IMAGE, lambda: [layers.Conv2D(2, 3, name="linear"), layers.Flatten(), bn()], False),
        (
            (4, 8, 9),
            lambda: [bn(axis=1), layers.Flatten("channels_first"), layers.Dense(3, name="linear")],
            False,
        ),
    ],
)
def test_reshapes(shape, parts, folds):
    check_folded(functional(shape, *parts()), {"bn": "linear"} if folds else {})


def test_a_reshape_of_unknown_length_is_left():
    parts = bn(), layers.Reshape((-1, 8)), layers.Dense(3)
    (left,) = fold_plan(functional((None, 4), *parts)).left
    assert "reshapes an unknown length" in left.reason


def branched(keep):
    inputs = keras.Input((4,))
    dense = layers.Dense(5, name="dense")(inputs)
    norm = bn()(dense)
    return keras.Model(inputs, keep(dense, norm))


class Plain(layers.BatchNormalization):
    """Inherits everything."""


class Other(layers.BatchNormalization):
    """Does something else."""

    def call(self, inputs, training=None, mask=None):
        """Double the output."""
        return 2 * super().call(inputs, training=training, mask=mask)


class MyDense(layers.Dense):
    """Computes in its own way."""

    def call(self, inputs, training=None):
        """Double the output."""
        return 2 * super().call(inputs, training=training)


class Noted(layers.Dense):
    """Has one setting more, and computes as its parent. Its config forgets the note."""

    def __init__(self, units, note, **options):
        """Keep the note."""
        super().__init__(units, **options)
        self.note = note


def shared_bn():
    inputs = keras.Input((4,))
    norm = bn()
    x = norm(layers.Dense(4)(norm(inputs)))
    return keras.Model(inputs, x)


def shared_dense():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, name="dense")
    return keras.Model(inputs, dense(bn()(dense(inputs))))


def always_training():
    inputs = keras.Input((4,))
    return keras.Model(inputs, bn()(layers.Dense(3)(inputs), training=True))


def dropout_that_acts():
    inputs = keras.Input((4,))
    x = layers.Dropout(0.5, name="drop", seed=1)(layers.Dense(3)(inputs), training=True)
    return keras.Model(inputs, bn()(x))


def repeated(shape, part):
    return lambda: functional(shape, part(), bn())


LEFT = {
    "activation": (
        lambda: functional((4,), layers.Dense(3, activation="relu", name="dense"), bn()),
        "dense before it has the activation relu; its output is an output of the model",
    ),
    "activation-layer": (
        lambda: functional((4,), layers.Dense(3), layers.ReLU(name="relu"), bn(), layers.ReLU()),
        "relu is a ReLU, not a linear layer",
    ),
    "branch": (
        lambda: branched(lambda dense, norm: layers.Add()([dense, norm])),
        "the output of dense is read by 2 layers",
    ),
    "residual": (
        lambda: branched(lambda dense, norm: layers.Dense(2)(norm) + layers.Dense(2)(dense)),
        None,
    ),
    "output": (
        lambda: branched(lambda dense, norm: [dense, norm]),
        "the output of dense is an output of the model",
    ),
    "shared-bn": (shared_bn, "it is called 2 times"),
    "shared-dense": (shared_dense, "dense is called 2 times"),
    "training": (always_training, "training=True"),
    "dropout-training": (dropout_that_acts, "drop is a Dropout"),
    "input": (lambda: functional((4,), bn(), layers.ReLU()), "it reads an input of the model"),
    "pooling": (
        lambda: functional(IMAGE, layers.Conv2D(3, 2), layers.MaxPooling2D(name="pool"), bn()),
        "pool is a MaxPooling2D",
    ),
    "zero-padding": (
        lambda: functional(IMAGE, bn(), layers.ZeroPadding2D(name="pad"), layers.Conv2D(3, 2)),
        "pad is a ZeroPadding2D",
    ),
    "wrong-axis": (
        lambda: functional(IMAGE, layers.Conv2D(3, 2, name="conv"), bn(axis=1)),
        "its axis is not the channel axis of conv",
    ),
    "wrong-axis-dense": (
        lambda: functional((5, 4), bn(axis=1), layers.Dense(3, name="dense")),
        "its axis is not the channel axis of dense",
    ),
    "own-call": (
        lambda: functional((4,), layers.Dense(3), Other(name="bn")),
        "Other computes in its own way",
    ),
    "unknown-linear": (
        lambda: functional((4,), MyDense(3, name="dense"), bn()),
        "dense is a MyDense, which computes in its own way",
    ),
    "time-distributed": (
        lambda: functional(
            (3, 4), layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="td")
        ),
        "it acts inside td, a TimeDistributed",
    ),
    "mixed": (
        lambda: functional(
            (4,),
            layers.Dense(3, dtype="mixed_float16"),
            bn(dtype="mixed_float16"),
            layers.Activation("linear", dtype="float32"),
        ),
        None,
    ),
    "other-precision": (
        lambda: functional((4,), layers.Dense(3, dtype="mixed_float16"), bn(dtype="float32")),
        "it makes float32 out of float16",
    ),
    "quantized": (lambda: _quantized(), "dense is quantized"),
    "no-epsilon": (lambda: _no_epsilon(), "its moving variance plus epsilon is zero"),
    "overflow": (lambda: _overflow(), "would overflow float16"),
}


def _quantized():
    model = functional((4,), layers.Dense(3, name="dense"), bn())
    model.get_layer("dense").quantize("int8")
    return model


def _no_epsilon():
    norm = layers.BatchNormalization(epsilon=0, moving_variance_initializer="zeros", name="bn")
    return functional((4,), layers.Dense(3), norm)


def _overflow():
    norm = layers.BatchNormalization(
        dtype="mixed_float16",
        moving_variance_initializer="zeros",
        moving_mean_initializer=keras.initializers.Constant(3e4),
        name="bn",
    )
    return functional((4,), layers.Dense(3, dtype="mixed_float16"), norm)


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT)
def test_what_is_left_says_why(make, reason):
    plan = fold_plan(make())
    if reason is None:
        assert not plan.left
    else:
        (left,) = plan.left
        assert left.what.endswith("bn")
        assert reason in left.reason


LEFT_AND_RUN = sorted(set(LEFT) - {"dropout-training", "no-epsilon", "overflow", "residual"})


@pytest.mark.parametrize("name", LEFT_AND_RUN)
def test_what_is_left_still_gives_the_same_outputs(name):
    model = LEFT[name][0]()
    dtype = "float16" if name in ("mixed", "other-precision") else "float32"
    tolerance = tolerance_of(dtype, terms=4)
    folded = fold(model).model
    assert difference(model, folded) < tolerance


def test_subclasses_that_change_nothing_fold():
    check_folded(functional((4,), layers.Dense(3, name="d"), Plain(name="bn")), {"bn": "d"})
    folding = check_folded(functional((4,), Noted(3, "?", name="d"), bn()), {"bn": "d"})
    assert type(folding.model.get_layer("d")) is layers.Dense


def test_residual_block_folds_on_both_sides():
    inputs = keras.Input(IMAGE)
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = layers.ReLU()(bn("bn1")(x))
    x = bn("bn2")(layers.Conv2D(4, 3, padding="same", name="conv2")(x))
    x = layers.Add()([inputs, x]) * 0.5 + x[..., :1]
    model = randomized(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    check_folded(model, {"bn1": "conv1", "bn2": "conv2"})


def folded_weights(model, linear):
    """Kernel and bias of a layer with BN's scale and shift inside, in float64."""
    kernel, bias = (w.astype(np.float64) for w in model.get_layer(linear).get_weights())
    gamma, beta, mean, variance = (
        w.astype(np.float64) for w in model.get_layer("bn").get_weights()
    )
    scale = gamma / np.sqrt(variance + model.get_layer("bn").epsilon)
    return kernel * scale, bias * scale + beta - mean * scale


def skip_where_it_cannot_run(model, dtype):
    try:
        outputs_of(model, example(model.input))
    except tf.errors.AbortedError:
        pytest.skip(f"oneDNN is held to instructions (ONEDNN_MAX_CPU_ISA) without {dtype}")


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_precisions(policy):
    dtype = policy.removeprefix("mixed_")
    parts = layers.Conv2D(6, 3, dtype=policy, name="conv"), bn(dtype=policy)
    model = functional(IMAGE, *parts, layers.ReLU(dtype=policy), dtype=dtype)
    skip_where_it_cannot_run(model, dtype)
    folded = check_folded(model, {"bn": "conv"}, tolerance_of(dtype, terms=3 * 3 * IMAGE[-1])).model
    conv = folded.get_layer("conv")
    assert conv.dtype_policy.name == policy
    wanted = "float32" if policy.startswith("mixed") else dtype
    assert conv.kernel.dtype == wanted
    # The weights are the same on every machine, to the last digit of their own precision.
    digit = EPSILON.get(wanted) or np.finfo(wanted).eps
    for new, old in zip(conv.get_weights(), folded_weights(model, "conv"), strict=True):
        np.testing.assert_allclose(new.astype(np.float64), old, rtol=2 * digit)


def test_kernel_is_computed_in_float64_and_rounded_once():
    model = functional((4,), layers.Dense(3, name="dense"), bn())
    for new, old in zip(
        fold(model).model.get_weights(), folded_weights(model, "dense"), strict=True
    ):
        np.testing.assert_allclose(new, old, rtol=1e-7)


def test_penalties_go_with_the_weights_they_spoke_of():
    options = {"kernel_regularizer": "l2", "kernel_constraint": "non_neg"}
    parts = layers.Dense(3, name="a", **options), bn(), layers.Dense(3, name="b", **options)
    folded = fold(functional((4,), *parts)).model
    assert folded.get_layer("a").kernel_regularizer is None
    assert folded.get_layer("a").kernel_constraint is None
    assert folded.get_layer("b").kernel_regularizer is not None


def test_lora_is_folded_in():
    model = functional((4,), layers.Dense(3, name="dense"), bn())
    model.get_layer("dense").enable_lora(2)
    model.get_layer("dense").lora_kernel_b.assign(np.ones((2, 3)))
    folded = check_folded(model, {"bn": "dense"}).model
    assert not folded.get_layer("dense").lora_enabled


def nested():
    def base(name):
        inputs = keras.Input((8, 8, 3))
        x = bn("bn")(layers.Conv2D(4, 3, name="conv")(inputs))
        return keras.Model(inputs, layers.ReLU(name=f"{name}_relu")(x), name=name)

    head = keras.Sequential([layers.Dense(5, name="dense"), bn("bn"), layers.ReLU()], name="head")
    inputs = keras.Input((8, 8, 3), name="image")
    x = base("first")(inputs) + base("second")(inputs)
    return randomized(keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)), name="whole"))


def test_nested_models_are_laid_flat():
    folded = check_folded(
        nested(),
        {"first/bn": "first/conv", "second/bn": "second/conv", "head/bn": "head/dense"},
    ).model
    assert folded.name == "whole"
    names = [layer.name for layer in folded.layers]
    assert {"image", "first_conv", "second_conv", "first_relu", "dense"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("acts", [True, False])
def test_a_part_that_was_told_to_train_or_not_still_does(acts):
    part = functional((3,), layers.Dropout(0.5))
    inputs = keras.Input((3,))
    outputs = part(bn()(layers.Dense(3)(inputs)), training=acts)
    folded = fold(keras.Model(inputs, outputs)).model
    assert (folded(np.ones((64, 3))).numpy() == 0).any() == acts


def test_shared_layers_stay_shared():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense = layers.Dense(3, name="shared")
    joined = layers.Concatenate()([dense(a), dense(b)])
    x = bn()(layers.Dense(2, name="dense")(joined))
    model = randomized(keras.Model({"a": a, "b": b}, x))
    folded = check_folded(model, {"bn": "dense"}).model
    assert len(walk(folded).of(folded.get_layer("shared"))) == 2
    assert folded.count_params() == model.count_params() - 8


STRUCTURES = {
    "one": lambda a, b: (a, a),
    "list": lambda a, b: ([a, b], [a, b]),
    "tuple": lambda a, b: ((a, b), (b, a)),
    "dict": lambda a, b: ({"a": a, "b": b}, {"y": b, "x": a}),
    "nested": lambda a, b: ([a, [b]], {"y": [b], "x": a}),
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_structures_and_names_of_inputs_and_outputs(structure):
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    takes, _ = structure(a, b)
    if takes is a:
        b = a
    made = bn("na")(layers.Dense(2, name="da")(a)), bn("nb")(layers.Dense(3, name="db")(b))
    _, gives = structure(*made)
    model = randomized(keras.Model(takes, gives))
    folded = fold(model).model
    assert not batch_norms(folded)
    x = example(model.input)
    assert [value.name for value in folded.inputs] == [value.name for value in model.inputs]
    tree.assert_same_structure(model(x), folded(x))
    if takes is not a:
        assert folded.output_names == model.output_names
    assert difference(model, folded, x) < SCALES["float32"]


def text():
    inputs = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(4, 5, mask_zero=True, name="embedding")(inputs)
    x = bn("bn1")(layers.Dense(4, name="dense1")(x))
    x = layers.LSTM(3, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Bidirectional(layers.GRU(3))(x)
    x = bn("bn2")(layers.Dense(4, name="dense2")(x))
    return randomized(keras.Model(inputs, x))


def test_masks_recurrent_layers_and_attention_pass():
    check_folded(text(), {"bn1": "dense1", "bn2": "dense2"})


def test_a_mask_given_by_hand_is_kept():
    inputs = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    x = bn()(layers.Dense(3, name="dense")(inputs[0]))
    model = randomized(keras.Model(inputs, layers.LSTM(2)(x, mask=inputs[1])))
    folded = fold(model).model
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(3, 6, 4)).astype("float32"), np.ones((3, 6), bool)
    mask[:, 2:] = False
    assert difference(model, folded, (x, mask)) < SCALES["float32"]
    assert not np.allclose(folded((x, mask)), folded((x, np.ones_like(mask))))


class Scaled(keras.Model):
    """A subclassed model with a weight that its `call` uses directly."""

    def __init__(self):
        """Make the parts."""
        super().__init__(name="scaled")
        self.dense = layers.Dense(3, name="dense")
        self.norm = bn()
        self.block = Block(name="block")

    def build(self, input_shape):
        """Make the weight."""
        self.gain = self.add_weight(shape=(3,), initializer="ones", name="gain")
        self.gain.assign([1.0, 2.0, 3.0])
        super().build(input_shape)

    def call(self, inputs, training=None):
        """Dense, BN, gain, block."""
        x = self.norm(self.dense(inputs), training=training) * self.gain
        return {"score": self.block(x)}


class Block(layers.Layer):
    """A composite layer without a config."""

    def __init__(self, **options):
        """Make the parts."""
        super().__init__(**options)
        self.inner = keras.Sequential([layers.Dense(2, name="dense"), bn()], name="inner")

    def call(self, inputs):
        """The inner model."""
        return self.inner(inputs)


def test_a_subclassed_model_becomes_functional():
    model = Scaled()
    model(np.zeros((1, 4), "float32"))
    randomized(model)
    folded = check_folded(model, {"bn": "dense", "block/inner/bn": "block/inner/dense"}).model
    assert set(folded(np.zeros((1, 4), "float32"))) == {"score"}


class Fed(keras.Model):
    """Takes a dictionary, as a subclass may without any `Input`; a layer is called as one of it."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.dense, self.norm = layers.Dense(3, name="rest"), bn()

    def call(self, inputs):
        """Add what was not normalized."""
        return self.norm(self.dense(inputs["x"])) + inputs["rest"]


@pytest.mark.filterwarnings("error")  # Keras warns of other names
def test_inputs_of_a_dictionary_have_the_names_of_its_keys():
    model = Fed()
    x = {"x": np.ones((2, 4), "float32"), "rest": np.ones((2, 3), "float32")}
    model(x)
    folded = fold(randomized(model)).model
    assert sorted(value.name for value in folded.inputs) == ["rest", "x"]
    assert len({layer.name for layer in folded.layers}) == len(folded.layers)
    assert difference(model, folded, x) < SCALES["float32"]


class Pair(keras.Model):
    """Returns two outputs, which have no names."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.dense, self.norm = layers.Dense(3, name="dense"), bn()

    def call(self, inputs, training=None):
        """Once as it is, once negative."""
        x = self.norm(self.dense(inputs), training=training)
        return [x, -x]


def test_outputs_without_names():
    model = Pair()
    model(np.zeros((1, 4), "float32"))
    check_folded(model, {"bn": "dense"})


class Opaque(keras.Model):
    """Cannot be followed with symbolic tensors."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.dense, self.norm = layers.Dense(3), bn()

    def call(self, inputs):
        """Leave Keras between two layers."""
        return self.norm(tf.nn.relu(self.dense(inputs)))


def test_a_model_that_cannot_be_walked_is_refused():
    model = Opaque()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(ValueError, match="its call cannot run on symbolic tensors"):
        fold(model)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="expected a model that can be walked"):
        fold(keras.Sequential([layers.Dense(3), bn()]))
    with pytest.raises(ValueError, match="expected a Keras model"):
        fold_plan("model.keras")


class NoConfig(layers.Layer):
    """Takes a function, which a config cannot hold."""

    def __init__(self, function):
        """Make the parts."""
        super().__init__(name="strange")
        self.function = function

    def call(self, inputs):
        """Apply it."""
        return self.function(inputs)


def test_a_layer_without_config_stays_as_it_is_and_the_others_fold():
    strange = NoConfig(lambda x: 2 * x)
    model = functional((4,), strange, layers.Dense(3, name="d"), bn())
    folded = check_folded(model, {"bn": "d"}).model
    assert folded.get_layer("strange") is not strange
    assert folded.get_layer("strange").function is strange.function


def test_a_lambda_layer_keeps_its_function():
    parts = layers.Lambda(lambda x: tf.nn.elu(x), name="elu"), layers.Dense(3, name="d"), bn()
    check_folded(functional((4,), *parts), {"bn": "d"})


@pytest.mark.parametrize(
    ("weight", "value", "message"),
    [
        ("moving_variance", -0.5, "moving variance of bn that is nowhere negative, got -0.5"),
        ("moving_variance", np.nan, "finite numbers as moving variance of bn"),
        ("moving_mean", np.inf, "finite numbers as moving mean of bn"),
        ("gamma", np.nan, "finite numbers as gamma of bn"),
    ],
)
def test_broken_statistics_are_refused(weight, value, message):
    model = functional((4,), layers.Dense(3), bn())
    variable = getattr(model.get_layer("bn"), weight)
    variable.assign(np.full(3, value))
    for look in (fold_plan, fold):
        with pytest.raises(ValueError, match=message):
            look(model)


def test_nothing_to_fold():
    model = functional((4,), layers.Dense(3, name="dense"))
    folded = check_folded(model, {}).model
    assert folded is not model
    assert str(fold_plan(model)) == "There is no batch normalization to fold."


def test_statistics_are_copied_and_states_left_alone():
    inputs = keras.Input(batch_shape=(2, 5, 4))
    scale = layers.Normalization()
    scale.adapt(np.random.default_rng(0).normal(3, 2, (20, 5, 4)))
    lstm = layers.LSTM(3, stateful=True, name="lstm")
    x = lstm(scale(inputs))
    model = randomized(keras.Model(inputs, bn()(layers.Dense(2, name="dense")(x))))
    model(example(model.input))
    state = keras.ops.convert_to_tensor(lstm.states[0]).numpy()
    assert np.abs(state).max() > 0
    folded = fold(model).model
    np.testing.assert_array_equal(lstm.states[0].value, state)
    assert difference(model, folded) < SCALES["float32"]
    folded.get_layer("lstm").reset_states()  # a state of its own
    assert np.abs(lstm.states[0].value).max() > 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_proof_fails_on_a_wrong_fold(monkeypatch, dtype):
    # The package exports the function `fold`, which hides its module.
    monkeypatch.setattr(sys.modules["bnutils.doctor.fold.plan"], "pads", lambda layer: False)
    conv = layers.Conv2D(3, 3, padding="same", dtype=dtype, name="conv")
    model = functional(IMAGE, bn(dtype=dtype), conv, dtype=dtype)
    skip_where_it_cannot_run(model, dtype)
    with pytest.raises(RuntimeError, match=r"to give at conv \(Conv2D\) what .* gives") as error:
        fold(model)
    share = float(re.search(r"differ by (\S+) of the largest$", str(error.value))[1])
    assert 0.01 < share < 2
    assert fold(model, prove=False).error is None


def test_chaos_explains_rounding_and_no_fault(monkeypatch):
    def chaos(x):
        return keras.ops.sin(1e6 * x)

    dense = layers.Dense(64, name="dense")  # so many that not all are rounded alike
    model = functional((4,), dense, bn(), layers.Lambda(chaos, output_shape=(64,), name="chaos"))
    folding = fold(model)
    assert folding.error > 0.01
    assert "no more than the last digits of the model's own weights" in " ".join(
        str(folding).split()
    )
    plan_module = sys.modules["bnutils.doctor.fold.plan"]
    read = plan_module.read

    def slightly_wrong(*args):
        linear = read(*args)
        return replace(linear, bias=linear.bias + 1e-3)

    monkeypatch.setattr(plan_module, "read", slightly_wrong)
    with pytest.raises(RuntimeError, match=r"to give at bn \(BatchNormalization\) what"):
        fold(model)


def test_large_numbers_that_cancel_are_rounding():
    # 1e5 away from zero, the last digit of an input is a hundredth.
    norm = layers.BatchNormalization(
        name="bn", moving_mean_initializer=keras.initializers.Constant(1e5)
    )
    dense = layers.Dense(3, name="dense", bias_initializer=keras.initializers.Constant(1e5))
    folding = fold(keras.Sequential([keras.Input((4,)), dense, norm]))
    assert 1e-4 < folding.error < 0.1


@pytest.mark.parametrize("spoil", ["weight", "setting"])
def test_a_wrong_copy_is_found_and_named(monkeypatch, spoil):
    rebuild_module = sys.modules["bnutils.doctor.fold.rebuild"]
    duplicate = rebuild_module.duplicate

    def spoiled(layer):
        copy = duplicate(layer)
        if spoil == "setting" and layer.name == "norm":
            copy.epsilon *= 1.01
        if spoil == "weight" and layer.name == "norm":
            copy.gamma.assign(copy.gamma * 1.0001)
        return copy

    monkeypatch.setattr(rebuild_module, "duplicate", spoiled)
    norm = layers.LayerNormalization(name="norm")
    model = functional((4,), layers.Dense(3), bn(), norm, layers.Dense(2))
    with pytest.raises(RuntimeError, match=r"a copy of norm \(LayerNormalization\) to give"):
        fold(model)


class Forgets(layers.Layer):
    """Has a config that does not know its factor."""

    def __init__(self, factor=1.0, **options):
        """Keep the factor."""
        super().__init__(**options)
        self.factor = factor

    def call(self, inputs):
        """Multiply."""
        return self.factor * inputs


class Stack(layers.Layer):
    """Holds layers in a list and a dict, and a plain number that counts."""

    def __init__(self, **options):
        """Make the parts."""
        super().__init__(**options)
        self.parts, self.table = [layers.Dense(3), layers.Dense(3)], {"last": layers.Dense(3)}
        self.calls = tf.Variable(0.0)

    def call(self, inputs):
        """One after the other."""
        self.calls.assign_add(1.0)
        for part in (*self.parts, self.table["last"]):
            inputs = part(inputs)
        return inputs


class Tied(layers.Layer):
    """Uses the weights of another layer."""

    def __init__(self, other, **options):
        """Keep the other layer."""
        super().__init__(**options)
        self.other = other

    def call(self, inputs):
        """Multiply from the other side."""
        return keras.ops.matmul(inputs, keras.ops.transpose(self.other.kernel))


class Random(layers.Layer):
    """Adds a random number."""

    def __init__(self, draw, **options):
        """Keep the source."""
        super().__init__(**options)
        self.draw = draw

    def call(self, inputs, training=None):
        """Add it."""
        return inputs + self.draw((1,))


class AlwaysDropout(layers.Dropout):
    """Acts at inference too, as for Monte Carlo dropout."""

    def call(self, inputs, training=None):
        """Drop."""
        return super().call(inputs, training=True)


def changed_afterwards(part, **settings):
    model = functional((4,), layers.Dense(3, name="d"), bn(), part, layers.Dense(3))
    for name, value in settings.items():
        setattr(part, name, value)
    return model


def changed_output_activation():
    model = functional((4,), layers.Dense(3, name="d"), bn(), layers.Dense(3, name="out"))
    model.get_layer("out").activation = lambda x: keras.ops.sin(x)
    return model


def patched_call():
    part = layers.ReLU()
    part.call = lambda x: 2 * x
    return functional((4,), layers.Dense(3, name="d"), bn(), part)


def tied():
    inputs = keras.Input((4,))
    dense = layers.Dense(3, name="first")
    x = bn()(layers.Dense(3, name="d")(layers.ReLU()(dense(inputs))))
    return randomized(keras.Model(inputs, Tied(dense)(x)))


def arguments_of_its_own():
    class Takes(layers.Layer):
        """Takes more than tensors."""

        def call(self, inputs, scale=1.0, shifts=(), options=None):
            """Scale and shift."""
            return scale * inputs + sum(shifts) + options["more"]

    inputs = keras.Input((4,))
    x = bn()(layers.Dense(3, name="d")(inputs))
    return keras.Model(inputs, Takes()(x, scale=2.0, shifts=[1.0, 2.0], options={"more": 3.0}))


def another_precision_inside():
    parts = layers.Dense(3, dtype="float64", name="e"), bn("inner_bn", dtype="float64")
    inner = keras.Sequential([keras.Input((3,), dtype="float64"), *parts], name="part")
    return functional((4,), layers.Dense(3, name="d"), bn(), inner)


#: Models whose configs, or whose classes, do not tell what they do.
ODD = {
    "config-forgets": lambda: functional((4,), Forgets(3.0), layers.Dense(3, name="d"), bn()),
    "set-later": lambda: changed_afterwards(Forgets(), factor=5.0),
    "keras-setting-later": lambda: changed_afterwards(layers.LeakyReLU(), negative_slope=0.9),
    "keras-setting-later-bn": lambda: changed_afterwards(layers.Dropout(0.1), rate=0.5),
    "activation-later": changed_output_activation,
    "patched-call": patched_call,
    "collections": lambda: functional((4,), layers.Dense(3, name="d"), bn(), Stack()),
    "tied": tied,
    "arguments": arguments_of_its_own,
    "always-dropout": lambda: functional(
        (4,), layers.Dense(3, name="d"), bn(), AlwaysDropout(0.5, seed=1), layers.Dense(2)
    ),
    "global-seed": lambda: functional(
        (4,), layers.Dense(3, name="d"), bn(), Random(keras.random.normal)
    ),
    "no-autocast": lambda: functional((4,), layers.Dense(3, autocast=False, name="d"), bn()),
    "lambda-inside": lambda: functional(
        (3, 4),
        layers.TimeDistributed(layers.Lambda(lambda x: keras.ops.sin(x))),
        layers.Dense(3, name="d"),
        bn(),
    ),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_layers_are_copied_as_they_are(make):
    model = make()
    counters = [part.calls for part in layer_paths(model) if isinstance(part, Stack)]
    before = [float(counter) for counter in counters]
    folding = fold(model)
    assert folding.folded == (("bn", "d"),)
    assert folding == replace(fold_plan(model), model=folding.model, error=folding.error)
    assert folding.error < SCALES["float32"]
    assert [float(counter) for counter in counters] == before
    x = example(model.input)
    runs = []
    for each in (model, folding.model):
        with keras.StatelessScope():  # seeds begin at the same place
            runs.append(outputs_of(each, x)[0])
    np.testing.assert_allclose(*runs, atol=1e-5)
    assert not {id(v) for v in model.variables} & {id(v) for v in folding.model.variables}


def test_what_is_done_to_the_folded_model_leaves_the_first_one_alone():
    model = functional((4,), layers.Dense(3, name="d"), bn(), Stack(), layers.Dense(2, name="e"))
    before, x = model.get_weights(), example(model.input)
    outputs = outputs_of(model, x)[0]
    folded = fold(model).model
    folded.get_layer("e").quantize("int8")
    for part in layer_paths(folded):
        if part.built and hasattr(part, "kernel"):
            part.trainable = False
            part.bias.assign(part.bias + 1.0)
    assert folded.get_layer("e").quantization_mode == "int8"
    np.testing.assert_array_equal(outputs_of(model, x)[0], outputs)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(part.trainable for part in layer_paths(model))


def test_a_part_of_another_precision():
    check_folded(another_precision_inside(), {"bn": "d", "part/inner_bn": "part/e"})


def test_noise_without_a_seed_of_keras_cannot_be_proved():
    noise = Random(tf.random.normal, name="noise")
    model = functional((4,), layers.Dense(3, name="d"), bn(), noise)
    with pytest.raises(RuntimeError, match=r"a copy of noise \(Random\)"):
        fold(model)
    assert not fold(model, prove=False).left


class Keyed(layers.Dense):
    """Finds its own kernel by its identity, which no copy has."""

    def build(self, shape):
        """Note the kernel."""
        super().build(shape)
        self.known = {id(self.kernel): 2.0}

    def call(self, inputs, training=None):
        """Look it up."""
        return self.known[id(self.kernel)] * super().call(inputs, training=training)


def test_a_layer_whose_copy_cannot_run_is_named():
    model = functional((4,), layers.Dense(3, name="d"), bn(), Keyed(2, name="keyed"))
    with pytest.raises(RuntimeError, match=r"expected keyed \(Keyed\) and its copy .* KeyError"):
        fold(model)


class Insists(keras.Model):
    """Tells a layer `training=True` in its own call."""

    def __init__(self, last, training=True):
        """Make the parts."""
        super().__init__(name="insists")
        self.dense, self.norm = layers.Dense(3, name="d"), bn("inner")
        self.last, self.told = last, training

    def call(self, inputs, training=False):
        """Dense, BN, last."""
        return self.last(self.norm(self.dense(inputs)), training=self.told)


INSISTED_ON = {
    "dropout": layers.Dropout(0.5, name="last"),
    "bn": layers.BatchNormalization(name="last"),
    "recorded-graph": keras.Sequential([keras.Input((3,)), layers.Dropout(0.5)], name="last"),
    "unknown": Random(keras.random.normal, name="last"),
}


@pytest.mark.parametrize("last", INSISTED_ON.values(), ids=INSISTED_ON)
def test_a_model_whose_call_insists_on_training_is_refused(last):
    model = Insists(last)
    model(np.zeros((1, 4), "float32"))
    for look in (fold_plan, fold):
        with pytest.raises(ValueError, match="the call of Insists gives training=True to last"):
            look(model)


def test_a_part_whose_call_insists_on_training_stays_whole():
    part = Insists(layers.Dropout(0.5, seed=1, name="last"))
    part(np.zeros((1, 3), "float32"))
    model = functional((4,), layers.Dense(3, name="d"), bn(), part, layers.Dense(2))
    folding = fold(model)
    assert folding.folded == (("bn", "d"),)
    (left,) = folding.left
    assert left.what == "insists/inner"
    assert left.reason == "the call of insists gives training=True to last, at inference too"
    assert left in fold_plan(model).left
    x = example(model.input)
    assert np.any(outputs_of(folding.model, x)[0] != outputs_of(folding.model, x)[0])


@pytest.mark.parametrize(
    ("last", "training"),
    [
        (layers.Dropout(0.5, name="last"), False),
        (layers.Dropout(0.0, name="last"), True),
        (layers.BatchNormalization(trainable=False, name="last"), True),
        (layers.Dense(3, name="last"), True),
    ],
)
def test_insisting_on_what_changes_nothing_is_no_matter(last, training):
    model = Insists(last, training)
    model(np.zeros((1, 4), "float32"))
    assert fold(model).folded[0] == ("inner", "d")


def test_a_default_of_training_is_no_matter():
    class Default(Scaled):
        """Is in training unless it is told."""

        def call(self, inputs, training=True):
            """As its parent."""
            return super().call(inputs, training=training)

    model = Default()
    model(np.zeros((1, 4), "float32"), training=False)
    check_folded(randomized(model), {"bn": "dense", "block/inner/bn": "block/inner/dense"})


class Grows(keras.Model):
    """Does on numbers what it does not on symbolic tensors."""

    def __init__(self):
        """Make the parts."""
        super().__init__(name="grows")
        self.dense, self.norm = layers.Dense(3), bn()

    def call(self, inputs):
        """Grow."""
        x = self.norm(self.dense(inputs))
        return x if isinstance(x, keras.KerasTensor) else 1.01 * x


def test_a_call_that_the_walk_does_not_show_is_found():
    model = Grows()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(RuntimeError, match="expected grows to do on numbers what it does on symb"):
        fold(model)


class Gan(keras.Model):
    """Has no call."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.generator = functional((4,), layers.Dense(3), bn())


class Numeric(layers.Layer):
    """Holds a layer, and asks for numbers where there are symbols."""

    def __init__(self, **options):
        """Make the part."""
        super().__init__(**options)
        self.norm = bn()

    def call(self, inputs):
        """Normalize what must be numbers."""
        return self.norm(tf.convert_to_tensor(inputs))

    def compute_output_shape(self, shape):
        """The same."""
        return shape


def test_a_layer_inside_what_cannot_be_walked_is_left_with_the_reason():
    plain = functional((4,), layers.Dense(3), bn("outer"))
    folding = fold_plan(keras.Sequential([plain, Numeric(name="numeric")]))
    assert [path.split("/")[-1] for path, _ in folding.folded] == ["outer"]
    (left,) = folding.left
    assert left.what.endswith("numeric/bn")
    assert "numeric: its call cannot run on symbolic tensors" in left.reason


@pytest.mark.parametrize("words", [None, 1, 5])
def test_whole_numbers_prove_a_fold_also_those_of_a_small_vocabulary(words):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(words, 4)(inputs) if words else keras.ops.cast(inputs, "float32")
    folding = fold(keras.Model(inputs, bn()(layers.Dense(3, name="dense")(x))))
    assert folding.folded == (("bn", "dense"),)
    assert folding.skipped == ()
    assert folding.error < SCALES["float32"]


def test_a_model_without_a_call_says_what_to_fold_instead():
    for look in (fold_plan, fold):
        with pytest.raises(ValueError, match=rf"call {look.__name__}\(model\.generator\)$"):
            look(Gan())


def test_a_saved_model_inside_is_told_of(tmp_path):
    inner = functional((3,), layers.Dense(3), bn())
    inner.export(tmp_path, verbose=False)
    hidden = layers.TFSMLayer(tmp_path, call_endpoint="serve", name="hidden")
    folding = fold(functional((4,), layers.Dense(3, name="d"), bn(), hidden))
    assert folding.folded == (("bn", "d"),)
    assert [(each.what, "whose inside nobody can see" in each.reason) for each in folding.left] == [
        ("hidden", True)
    ]
    assert str(folding).startswith("1 of 1 batch normalization layer folded.")


def needs_77_steps():
    inputs = keras.Input((None, 3))
    x = bn()(layers.Conv1D(4, 3, padding="same", name="conv")(inputs))
    return keras.Model(inputs, layers.Dense(2)(keras.ops.reshape(x, (-1, 77 * 4))))


def test_data_prove_where_random_numbers_cannot():
    model = needs_77_steps()
    (said,) = fold(model).skipped
    assert (said.kind, said.needs) == ("proof", "data")
    assert "the model cannot be run on random inputs: InvalidArgumentError: Input to" in said.reason
    assert "Not compared: outputs" in str(fold(model))
    rows = np.random.default_rng(0).normal(size=(20, 77, 3)).astype("float32")
    for data in (rows, (rows, rows[:, 0]), tf.data.Dataset.from_tensor_slices(rows).batch(4)):
        folding = fold(model, data)
        assert folding.error < SCALES["float32"]
        assert not folding.skipped
    with pytest.raises(ValueError, match="expected data that"):
        fold(model, rows[:, :50])


def test_the_first_eight_rows_of_data_are_the_proof():
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    rows[8:] = np.nan
    assert fold(functional((4,), layers.Dense(3), bn()), rows).error < SCALES["float32"]


def test_outputs_that_are_not_finite_are_not_compared():
    model = functional((4,), layers.Dense(3, name="d"), bn(), layers.Rescaling(np.inf))
    folding = fold(model)
    assert folding.error is None
    assert [each.reason for each in folding.skipped] == ["the outputs of the model are not finite"]


def test_a_trusted_function_needs_no_trust_again(tmp_path):
    parts = layers.TimeDistributed(layers.Lambda(lambda x: x * 2)), layers.Dense(3, name="d"), bn()
    functional((3, 4), *parts).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)
    check_folded(model, {"bn": "d"})


@pytest.mark.parametrize("kind", [Affine, Folding, Linear, Skipped, Finding, Rule])
def test_what_was_found_stays_as_it_was_found(kind):
    assert issubclass(kind, tuple) or kind.__dataclass_params__.frozen


def test_the_result_prints_and_becomes_json():
    left = Skipped("bn<2>", "it reads an input")
    result = Folding(None, (Folded("base/bn1", "base/conv1"),), (left,), 1e-7)
    assert str(result).splitlines() == [
        "1 of 2 batch normalization layers folds.",
        "Outputs differ by 1.0e-07 of the largest.",
        "layer             where, or why not",
        "base/bn1  folded  into base/conv1",
        "bn<2>     left    it reads an input",
    ]
    two = Folding(None, result.folded * 2, (left,))
    assert str(two).startswith("2 of 3 batch normalization layers fold.")
    assert "<td" in result._repr_html_()
    assert "bn&lt;2&gt;" in result._repr_html_()
    said = json.loads(result.to_json())
    assert said["folded"] == [{"layer": "base/bn1", "into": "base/conv1"}]
    assert said["skipped"][0]["reason"] == "it reads an input"
    assert "model" not in said


def test_a_vocabulary_is_copied():
    words = keras.Input((3,), dtype="string")
    lookup = layers.StringLookup(output_mode="multi_hot", name="lookup")
    lookup.adapt(np.array([["a", "b", "c"]]))
    model = keras.Model(words, bn()(layers.Dense(2, name="dense")(lookup(words))))
    folding = fold(model)
    assert folding.error is None  # words are not drawn at random
    assert folding.skipped[-1].needs == "data"
    folded = folding.model
    x = tf.constant([["a", "c", "?"], ["b", "b", "a"]])
    assert difference(model, folded, x) < SCALES["float32"]


def test_saved_and_loaded(tmp_path):
    model = nested()
    folded = fold(model).model
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras", custom_objects={})
    x = example(folded.input)
    np.testing.assert_array_equal(loaded(x), folded(x))


# At 32 pixels the last maps of EfficientNet are single pixels, and rounding grows with each layer:
# in float32 to about 1e-4. In float64 nothing but a mistake could reach 1e-9.
ARCHITECTURES = [
    ("MobileNetV2", "float32", 1e-4, 52, 0),
    ("ResNet50V2", "float32", 1e-4, 32, 17),
    ("EfficientNetB0", "float64", 1e-9, 49, 0),
]


@pytest.fixture
def floatx(request):
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)  # once asked for, it follows floatx no more
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize(
    ("name", "floatx", "tolerance", "folds", "stays"), ARCHITECTURES, indirect=["floatx"]
)
def test_architectures(name, floatx, tolerance, folds, stays):
    model = getattr(keras.applications, name)(
        weights=None, classes=10, classifier_activation=None, input_shape=(32, 32, 3)
    )
    rng = np.random.default_rng(0)
    # Images that differ from each other: of white noise a deep net sees but the average.
    colors = rng.normal(size=(16, 1, 1, 3)) + rng.normal(size=(16, 4, 4, 3)).repeat(8, 1).repeat(
        8, 2
    )
    x = colors + 0.3 * rng.normal(size=(16, 32, 32, 3))
    x = (128 + 32 * x if name.startswith("Efficient") else x / 2).astype(floatx)
    shake(model, x, rng)
    folding = fold(model, prove=False)
    assert (len(folding.folded), len(folding.left)) == (folds, stays)
    folded = folding.model
    assert difference(model, folded, x) < tolerance


def shake(model, x, rng):
    """Random gamma and beta, and the statistics that the data then have.

    Statistics drawn without looking at the data let the outputs of a deep net explode, and the
    last digits of its weights with them.
    """
    for part in layer_paths(model):
        if type(part) is layers.Dropout:
            part.rate = 0.0
    for norm in batch_norms(model):
        size = norm.moving_mean.shape
        if norm.scale:
            norm.gamma.assign(rng.uniform(0.5, 1.5, size))
        norm.beta.assign(rng.normal(0, 0.3, size))
        norm.momentum = 0.0  # the statistics become those of the next batch
    model(x, training=True)
