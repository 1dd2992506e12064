"""Chapter 10: folding for deployment.

Keras, TFLite and ONNX are the subject here, so the blocks build Keras models. TensorFlow is
imported inside of them: reading records needs none of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from bnutils import data, network, norm
from bnutils._extras import extra
from bnutils.evidence import (
    Claim,
    Finding,
    Hypothesis,
    Interval,
    Study,
    Tolerance,
    exact,
    paired_difference,
    paired_ratio,
)
from bnutils.studies import load
from bnutils.studies.common import DIGITS_OVERLAP, Settings

STATES = ["with BN", "folded"]
KINDS = [
    "dense",
    "convolution",
    "depthwise",
    "separable",
    "transposed",
    "before dense",
    "before convolution",
    "network",
]
NETWORKS = ["dense", "convolutional", "depthwise"]


def _keras() -> Any:
    from bnutils._keras import keras

    return keras


def error(got: Any, expected: Any) -> float:
    """The largest difference of two arrays, in units of the largest number expected."""
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def rms_error(got: Any, expected: Any) -> float:
    """The root mean square of a difference, in units of that of what was expected."""
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    return float(np.sqrt(((got - expected) ** 2).mean() / (expected**2).mean()))


# -- networks -------------------------------------------------------------------------------------


def _bn_relu() -> list[Any]:
    layers = _keras().layers
    return [layers.BatchNormalization(momentum=0.9), layers.ReLU()]


def digits_network() -> Any:
    """The chapter's network for digits: two convolutions, a depthwise one, and a dense layer."""
    keras = _keras()
    layers = keras.layers
    stack = [
        *(layers.Conv2D(32, 3, use_bias=False), *_bn_relu()),
        *(layers.DepthwiseConv2D(3, use_bias=False), *_bn_relu()),
        *(layers.Conv2D(64, 1, use_bias=False), *_bn_relu()),
        *(layers.GlobalAveragePooling2D(), layers.Dense(64), *_bn_relu()),
        layers.Dense(10),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack])


def timed_network(name: str) -> Any:
    """One of the networks whose calls are timed, by its name in `NETWORKS`."""
    keras = _keras()
    layers = keras.layers
    if name == "dense":
        shape, stack = (512,), [p for _ in range(3) for p in (layers.Dense(512), *_bn_relu())]
    else:
        shape, stack = (28, 28, 1), [layers.Conv2D(32, 3, use_bias=False), *_bn_relu()]
        for _ in range(2):
            if name == "convolutional":
                stack += [layers.Conv2D(64, 3, use_bias=False), *_bn_relu()]
            else:
                stack += [layers.DepthwiseConv2D(3, use_bias=False), *_bn_relu()]
                stack += [layers.Conv2D(64, 1, use_bias=False), *_bn_relu()]
        stack.append(layers.GlobalAveragePooling2D())
    return keras.Sequential([keras.Input(shape), *stack, layers.Dense(10)])


def _mobilenet() -> Any:
    return _keras().applications.MobileNetV2(
        (32, 32, 3), weights=None, classes=10, classifier_activation=None
    )


def randomize(net: Any, rng: np.random.Generator) -> Any:
    """Give a network random weights, and BN numbers far from the ones and zeros of a new one."""
    for weight in net.weights:
        shape, name = weight.shape, weight.path.rsplit("/", 1)[-1]
        if name in ("gamma", "moving_variance"):
            decades = 0.5 if name == "gamma" else 1.0
            values = 10 ** rng.uniform(-decades, decades, shape)
            if name == "gamma":
                values = values * rng.choice([-1, 1], shape)
        elif "kernel" in name:
            values = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        else:
            values = rng.normal(size=shape)
        weight.assign(values)
    return net


def random_model(kind: str, rng: np.random.Generator, precision: str = "float32") -> Any:
    """A Keras model of random sizes and weights with BN around a linear layer of some kind.

    Args:
        kind: one of `KINDS`.
        rng: draws sizes and weights.
        precision: "float32" or "float64".
    """
    keras = _keras()
    layers = keras.layers
    channels, width, out = (int(n) for n in rng.integers([2, 7, 2], [9, 12, 9]))
    same = {"dtype": precision, "use_bias": bool(rng.integers(2))}
    window = {"kernel_size": int(rng.integers(1, 4)), "padding": str(rng.choice(["same", "valid"]))}
    multiplier = {"depth_multiplier": int(rng.integers(1, 4))}

    def bn() -> Any:
        return layers.BatchNormalization(dtype=precision, epsilon=float(10 ** rng.uniform(-5, -1)))

    inputs = keras.Input(
        (channels,) if "dense" in kind else (width, width, channels), dtype=precision
    )
    if kind == "network":
        x = _inverted_residuals(inputs, rng, same, bn)
        return randomize(keras.Model(inputs, x), rng)
    stack = {
        "dense": lambda: [layers.Dense(out, **same), bn()],
        "convolution": lambda: [layers.Conv2D(out, **window, **same), bn()],
        "depthwise": lambda: [layers.DepthwiseConv2D(**window, **multiplier, **same), bn()],
        "separable": lambda: [layers.SeparableConv2D(out, **window, **multiplier, **same), bn()],
        "transposed": lambda: [layers.Conv2DTranspose(out, **window, strides=2, **same), bn()],
        "before dense": lambda: [bn(), layers.Dense(out, **same)],
        "before convolution": lambda: [bn(), layers.Conv2D(out, 3, **same)],
    }[kind]()
    return randomize(keras.Sequential([inputs, *stack]), rng)


def _inverted_residuals(x: Any, rng: np.random.Generator, same: dict, bn: Callable) -> Any:
    """Two blocks as in MobileNetV2, with shortcuts, between a convolution and a classifier."""
    layers, dtype = _keras().layers, same["dtype"]

    def relu(x: Any) -> Any:
        return layers.ReLU(dtype=dtype)(bn()(x))

    channels = int(rng.integers(4, 9))
    x = relu(layers.Conv2D(channels, 3, padding="same", **same)(x))
    for _ in range(2):
        y = relu(layers.Conv2D(3 * channels, 1, **same)(x))
        y = relu(layers.DepthwiseConv2D(3, padding="same", **same)(y))
        x = layers.Add(dtype=dtype)([x, bn()(layers.Conv2D(channels, 1, **same)(y))])
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return layers.Dense(10, dtype=dtype)(relu(layers.Dense(16, **same)(x)))


# -- files ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The converters talk a lot, in Python and past it, of what they write and what will move."""
    from bnutils._keras import _silent_stderr, tf

    tf.get_logger().setLevel("ERROR")
    for name in ("tf2onnx", "absl"):
        logging.getLogger(name).setLevel("ERROR")
    with warnings.catch_warnings(action="ignore"), _silent_stderr():
        yield


def saved_model(net: Any, folder: str) -> Any:
    """Write a SavedModel into a folder, and load it."""
    from bnutils._keras import tf

    with _quietly():
        net.export(folder, verbose=False)
        return tf.saved_model.load(folder)


def tflite(
    net: Any,
    examples: np.ndarray | None = None,
    per_channel: bool = True,
    dynamic: bool = False,
) -> bytes:
    """Convert a model to a TFLite file.

    Args:
        net: a Keras model.
        examples: inputs that show the ranges of all numbers, for one in 8 bits; None for float32.
        per_channel: whether each channel of a kernel has its own scale, or all of a layer one.
        dynamic: whether weights alone are stored in 8 bits, and activations get their range when
            the model runs: dynamic range quantization, which needs no examples.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from bnutils._keras import tf

    with _quietly():
        function = tf.function(net).get_concrete_function(
            tf.TensorSpec((None, *net.inputs[0].shape[1:]))
        )
        frozen = convert_variables_to_constants_v2(function)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        if dynamic:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if examples is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([x[None]] for x in examples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter._experimental_disable_per_channel = not per_channel
        return converter.convert()


def tflite_caller(model: bytes, x: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that runs a TFLite file on a batch, on one thread; the first of its outputs."""
    from bnutils._keras import tf

    with _quietly():
        runtime = tf.lite.Interpreter(model_content=model, num_threads=1)
        (given,) = runtime.get_input_details()
        runtime.resize_tensor_input(given["index"], x.shape)
        runtime.allocate_tensors()
    # Outputs come in any order; that of the classes is the narrowest.
    made = min(runtime.get_output_details(), key=lambda each: np.prod(each["shape"][1:]))

    def call() -> np.ndarray:
        runtime.set_tensor(given["index"], x)
        runtime.invoke()
        return runtime.get_tensor(made["index"])

    return call


def tflite_operations(model: bytes) -> list[str]:
    """The operations of a TFLite file, in order."""
    from bnutils._keras import tf

    with contextlib.redirect_stdout(io.StringIO()) as text, _quietly():
        tf.lite.experimental.Analyzer.analyze(model_content=model)
    return re.findall(r"Op#\d+ (\w+)", text.getvalue())


def onnx_file(net: Any) -> bytes:
    """Convert a model to an ONNX file, as Keras does it."""
    with extra("onnx"):
        import_module("tf2onnx")  # Keras would say less of it
    with tempfile.TemporaryDirectory() as folder, _quietly():
        net.export(f"{folder}/model.onnx", format="onnx", verbose=False)
        return Path(f"{folder}/model.onnx").read_bytes()


def onnx_session(model: bytes, optimized: str = "") -> Any:
    """Open an ONNX file in ONNX Runtime, on one thread.

    Args:
        model: the file's contents.
        optimized: where the runtime writes what it makes of the model, without what depends on
            the processor; nowhere if empty.
    """
    with extra("onnx"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized:
        # The last level fits the layout to the processor, so its operations differ by machine.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_dynamic(model: bytes) -> bytes:
    """An ONNX file with its weights in 8 bits and activations that get their range at run time."""
    with extra("onnx"):
        from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quietly():
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        given.write_bytes(model)
        level = logging.getLogger().level
        logging.getLogger().setLevel("ERROR")  # it recommends a step that is not needed here
        try:
            quantize_dynamic(given, made)
        finally:
            logging.getLogger().setLevel(level)
        return made.read_bytes()


def onnx_operations(model: bytes) -> list[str]:
    """The operations of an ONNX file."""
    with extra("onnx"):
        import onnx

    return [node.op_type for node in onnx.load_from_string(model).graph.node]


# -- blocks ---------------------------------------------------------------------------------------


def folding_block(settings: Settings) -> xr.Dataset:
    """Fold models of random sizes and weights; how far are the outputs, and is any BN left?"""
    from bnutils.doctor import fold

    rng = np.random.default_rng([settings["seed"], 10])
    precision, layers = settings["precision"], _keras().layers
    found: dict[str, list[float]] = {"error": [], "left": [], "without_epsilon": []}
    for kind in settings["kind"]:
        model = random_model(kind, rng, precision)
        folded = fold(model).model
        x = rng.normal(size=(16, *model.inputs[0].shape[1:])).astype(precision)
        got, expected = folded(x), model(x)
        norms = [each for each in model.layers if isinstance(each, layers.BatchNormalization)]
        for each in norms:
            each.epsilon = 0.0  # the control: a fold that forgets it is as far off as this
        found["error"].append(error(got, expected))
        found["without_epsilon"].append(error(model(x), expected))
        found["left"].append(sum(type(each) is type(norms[0]) for each in folded.layers))
    return xr.Dataset(
        {name: ("kind", np.array(values)) for name, values in found.items()},
        {"kind": list(settings["kind"])},
    )


def work(net: Any) -> dict[str, int]:
    """Layers, parameters, and multiplications for one example; BN needs one for each number."""
    done = 0
    for layer in net.layers:
        if type(layer).__name__ == "BatchNormalization":
            done += np.prod(layer.output.shape[1:])
        elif hasattr(layer, "kernel"):
            done += np.prod(layer.output.shape[1:-1]) * np.prod(layer.kernel.shape)
    counts = {"layers": len(net.layers), "parameters": net.count_params()}
    return {**counts, "multiplications": int(done)}


def work_block(settings: Settings) -> xr.Dataset:
    """Count what a network has and does, with BN and folded."""
    from bnutils.doctor import fold

    name = settings["network"]
    build = {"digits": digits_network, "MobileNetV2": _mobilenet}
    net = build[name]() if name in build else timed_network(name)
    counted, kilobytes = [], []
    for each in (net, fold(net).model):
        counted.append(work(each))
        with tempfile.TemporaryDirectory() as folder:
            with _quietly():
                each.save(f"{folder}/net.keras")
            kilobytes.append(Path(f"{folder}/net.keras").stat().st_size / 1000)
    counts = {what: ("state", [each[what] for each in counted]) for what in counted[0]}
    return xr.Dataset({**counts, "kilobytes": ("state", kilobytes)}, {"state": STATES})


def shortest(calls: Sequence[Callable[[], Any]], seconds: float) -> np.ndarray:
    """Shortest processor time of each of some calls, in milliseconds, as they take turns.

    A short call is made several times in a row, so that reading the clock doesn't count.

    Args:
        calls: functions.
        seconds: processor time for all of it.
    """
    rows = []
    for call in calls:
        call()
        start = time.process_time()
        call()
        rows.append(max(1, min(50, int(5e-4 / max(time.process_time() - start, 1e-6)))))
    times, end = np.full(len(calls), np.inf), time.process_time() + seconds
    turns = list(enumerate(zip(calls, rows, strict=True)))
    while time.process_time() < end:
        for i, (call, n) in turns:
            start = time.process_time()
            for _ in range(n):
                call()
            times[i] = min(times[i], (time.process_time() - start) / n)
        turns.reverse()  # to come first is no advantage
    return 1000 * times


@cache
def _timed(network: str, form: str) -> tuple[Any, ...]:
    """A network with BN and folded, in some form: models of Keras, or the contents of files."""
    from bnutils.doctor import fold

    rng = np.random.default_rng(11)
    net = randomize(timed_network(network), rng)
    nets = net, fold(net).model
    if form == "TensorFlow":
        return nets
    if form == "ONNX Runtime":
        return tuple(map(onnx_file, nets))
    examples = _inputs(net, 0)[:32] if form == "TFLite, int8" else None
    return tuple(tflite(each, examples) for each in nets)


def _inputs(net: Any, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 12])
    return rng.normal(size=(64, *net.inputs[0].shape[1:])).astype("float32")


def _caller(model: Any, form: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    """A function that runs a model of some form on a batch, on one thread."""
    if form == "TensorFlow":
        from bnutils._keras import tf

        function = tf.function(model, input_signature=[tf.TensorSpec((None, *x.shape[1:]))])
        batch = tf.constant(x)
        return lambda: function(batch).numpy()
    if form == "ONNX Runtime":
        session = onnx_session(model)
        (given,) = session.get_inputs()
        return lambda: session.run(None, {given.name: x})[0]
    return tflite_caller(model, x)


def speed_block(settings: Settings) -> xr.Dataset:
    """Time one network in one form, with BN and folded, call by call in turn.

    The weights have no say in the time, so they are the same for all seeds. A seed has its own
    inputs, compiles or loads both models anew, and has its own turn.
    """
    network, form = settings["network"], settings["form"]
    net = _timed(network, "TensorFlow")[0]
    x = _inputs(net, settings["seed"])
    times, errors = [], []
    for size in settings["batch_size"]:
        callers = [_caller(model, form, x[:size]) for model in _timed(network, form)]
        errors.append([rms_error(caller(), net(x[:size])) for caller in callers])
        times.append(shortest(callers, settings["seconds"]))
    return xr.Dataset(
        {
            "milliseconds": (("batch_size", "state"), np.array(times, "float32")),
            "error": (("batch_size", "state"), np.array(errors, "float32")),
        },
        {"batch_size": list(settings["batch_size"]), "state": STATES},
    )


FILES = ["SavedModel", "TFLite", "ONNX", "ONNX Runtime"]


def exports_block(settings: Settings) -> xr.Dataset:
    """Export a random model with BN and folded: operations in each file, and its outputs."""
    from bnutils.doctor import fold

    rng = np.random.default_rng([settings["seed"], 12, KINDS.index(settings["kind"])])
    keras = _keras()
    core = random_model(settings["kind"], rng)
    tail = [] if "dense" in settings["kind"] else [keras.layers.GlobalAveragePooling2D()]
    whole = [core.inputs[0], *core.layers, keras.layers.ReLU(), *tail, keras.layers.Dense(10)]
    net = keras.Sequential(whole)
    x = rng.normal(size=(16, *net.inputs[0].shape[1:])).astype("float32")
    expected = net(x).numpy()
    counts, errors = [], []
    for each in (net, fold(net).model):
        with tempfile.TemporaryDirectory() as folder:
            loaded = saved_model(each, folder)
            (graph,) = (f.graph for f in loaded.serve.concrete_functions)
            still = {"Const", "Placeholder", "Identity", "NoOp", "ReadVariableOp"}
            saved = [o.type for o in graph.get_operations() if o.type not in still]
            answers = [loaded.serve(x)]
            lite = tflite(each)
            written = onnx_file(each)
            session = onnx_session(written, f"{folder}/optimized.onnx")
            read = Path(f"{folder}/optimized.onnx").read_bytes()
            found = [saved, tflite_operations(lite), *map(onnx_operations, (written, read))]
            counts.append(list(map(len, found)))
            answers += [tflite_caller(lite, x)()]
            answers += [session.run(None, {session.get_inputs()[0].name: x})[0]]
            errors.append([error(a, expected) for a in answers])
    return xr.Dataset(
        {
            "operations": (("state", "file"), np.array(counts)),
            "error": (("state", "runtime"), np.array(errors, "float32")),
        },
        {"state": STATES, "file": FILES, "runtime": ["SavedModel", "TFLite", "ONNX Runtime"]},
    )


ARMS = ["folded before", "folded after", "BN left"]
SCALES = ["each channel", "each layer"]
WAYS = ["float", "weights, each layer", "weights, each channel", "all, each channel"]
_EIGHT_BITS = ["accuracy", "error", "bn_left", "float_accuracy", "ranges"]


def _axes(layer: Any, kernel: np.ndarray) -> tuple[int, ...]:
    """The axes of a kernel that are not its outputs."""
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    outputs = (2, 3) if depthwise else (kernel.ndim - 1,)
    return tuple(axis for axis in range(kernel.ndim) if axis not in outputs)


def rounded(net: Any, per_channel: bool) -> Any:
    """A copy of a network with its kernels rounded to 8 bits.

    Args:
        net: a `keras.Sequential`.
        per_channel: whether each channel of a kernel has its own scale, or all of a layer one.
    """
    copy = _keras().models.clone_model(net)
    copy.set_weights(net.get_weights())
    for layer in copy.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            axes = _axes(layer, kernel) if per_channel else None
            step = np.abs(kernel).max(axes, keepdims=True) / 127
            layer.kernel.assign(np.round(kernel / step) * step)
    return copy


def ranges(net: Any) -> list[float]:
    """Widest over narrowest channel of each layer that BN follows, or followed."""
    found = []
    for layer in net.layers[:-1]:
        if hasattr(layer, "kernel"):
            kernel = np.abs(layer.kernel.numpy())
            widths = kernel.max(_axes(layer, kernel))
            found.append(float(widths.max() / widths.min()))
    return found


def stretched(net: Any, spread: float) -> Any:
    """A copy of the folded digits network that computes the same with unequal channels.

    Each channel of the first convolution is multiplied by a number, and the depthwise weights that
    read it are divided by it.

    Args:
        net: the network.
        spread: largest over smallest of these numbers.
    """
    copy = _keras().models.clone_model(net)
    copy.set_weights(net.get_weights())
    first, second = [layer for layer in copy.layers if hasattr(layer, "kernel")][:2]
    factors = np.geomspace(1, 1 / spread, 32)
    first.set_weights([first.kernel * factors, first.bias * factors])
    second.kernel.assign(second.kernel / factors[:, None])
    return copy


def _compiled(settings: Settings) -> tuple[Any, data.Dataset]:
    """The digits network, ready to train on the seed's own split."""
    keras = _keras()
    keras.utils.set_random_seed(settings["seed"])
    net = digits_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(settings["learning_rate"]), loss, steps_per_execution=18)
    return net, data.digits(split=settings["seed"])


def _pictures(part: data.Part) -> np.ndarray:
    return part.x.reshape(-1, 8, 8, 1)


def _train(net: Any, dataset: data.Dataset, epochs: int) -> list[float]:
    x, y = _pictures(dataset.train), dataset.train.y
    return net.fit(x, y, batch_size=64, epochs=epochs, verbose=0).history["loss"]


def eight_bits_block(settings: Settings) -> xr.Dataset:
    """Train the digits network, and run it in 8 bits: folded before, folded after, BN left."""
    from bnutils.doctor import fold

    keras = _keras()
    net, dataset = _compiled(settings)
    images, examples = _pictures(dataset.test), _pictures(dataset.train)[: settings["examples"]]
    # An output that is read elsewhere, too, can't take in BN: TFLite then has to compute it.
    inner = [layer.output for layer in net.layers if hasattr(layer, "kernel")][:-1]
    read_twice = keras.Model(net.inputs, [*net.outputs, *inner])
    found: dict[str, list] = {name: [] for name in _EIGHT_BITS}

    def right(outputs: np.ndarray) -> float:
        return float((outputs.argmax(1) == dataset.test.y).mean())

    before = 0
    for epochs in settings["epochs"]:
        _train(net, dataset, epochs - before)
        before, expected, folded = epochs, net(images).numpy(), fold(net).model
        found["float_accuracy"].append(right(expected))
        found["ranges"].append([ranges(net), ranges(folded)])
        for scale in settings["scale"]:
            each_channel = scale == "each channel"
            models = folded, fold(rounded(net, each_channel)).model, read_twice
            files = [tflite(model, examples, each_channel) for model in models]
            outputs = [tflite_caller(file, images)() for file in files]
            found["accuracy"].append([right(each) for each in outputs])
            found["error"].append([rms_error(each, expected) for each in outputs])
            operations = map(tflite_operations, files)
            found["bn_left"].append([each.count("MUL") for each in operations])
    shape = len(settings["epochs"]), len(settings["scale"]), len(ARMS)
    axes = {"float_accuracy": ("epochs",), "ranges": ("epochs", "state", "layer")}
    arrays = {
        name: (axes[name], np.array(values))
        if name in axes
        else (("epochs", "scale", "arm"), np.array(values).reshape(shape))
        for name, values in found.items()
    }
    return xr.Dataset(
        arrays,
        {
            "epochs": list(settings["epochs"]),
            "scale": list(settings["scale"]),
            "arm": ARMS,
            "state": STATES,
            "layer": ["convolution", "depthwise", "1 x 1 convolution", "dense"],
        },
    )


def dynamic_block(settings: Settings) -> xr.Dataset:
    """Train the digits network, and store its weights alone in 8 bits, with BN and folded."""
    from bnutils.doctor import fold

    net, dataset = _compiled(settings)
    images = _pictures(dataset.test)
    _train(net, dataset, settings["epochs"])
    expected, far = net(images).numpy(), []
    for each in (net, fold(net).model):
        session = onnx_session(onnx_dynamic(onnx_file(each)))
        (given,) = session.get_inputs()
        outputs = [
            tflite_caller(tflite(each, dynamic=True), images)(),
            session.run(None, {given.name: images})[0],
        ]
        far.append([rms_error(made, expected) for made in outputs])
    return xr.Dataset(
        {"error": (("state", "form"), far)}, {"state": STATES, "form": ["TFLite", "ONNX Runtime"]}
    )


def stretched_block(settings: Settings) -> xr.Dataset:
    """Train and fold the digits network, make channels unequal, and round it to 8 bits."""
    from bnutils.doctor import fold

    net, dataset = _compiled(settings)
    images, examples = _pictures(dataset.test), _pictures(dataset.train)[: settings["examples"]]
    _train(net, dataset, settings["epochs"])
    folded, expected, far = fold(net).model, net(images).numpy(), []
    for spread in settings["spread"]:
        unequal = stretched(folded, spread)
        outputs = [rounded(unequal, each_channel)(images) for each_channel in (False, True)]
        outputs.append(tflite_caller(tflite(unequal, examples), images)())
        same = rms_error(unequal(images), expected)
        far.append([same, *(rms_error(each, expected) for each in outputs)])
    return xr.Dataset(
        {"error": (("spread", "way"), np.array(far))},
        {"spread": list(settings["spread"]), "way": WAYS},
    )


# -- hypotheses -----------------------------------------------------------------------------------

_EFFICIENCY = "Jacob et al. 2018, section 3.2, where it is done for efficiency"
_TIMES = (
    "random weights; dense: three layers of 512; convolutional: three 3 x 3 convolutions of 32, 64 "
    "and 64 channels on 28 x 28 pixels; depthwise: the same with depthwise and 1 x 1 convolutions "
    "in place of the second and the third. Shortest processor time of calls that take turns, one "
    "thread; a replicate compiles or loads both models anew"
)
_DIGITS = (
    "digits (1,797 images, split anew for each seed into 1,097, 300 and 400); a convolution of 32 "
    "channels, a depthwise one, a 1 x 1 convolution of 64 channels, global average, dense 64-10, "
    "BN and ReLU after all but the last; Adam at a rate of 0.01, batches of 64, 40 epochs; TFLite, "
    "all in 8 bits, ranges of the activations from 100 training images"
)
_TEN_PERCENT = "users don't notice less, and processors differ by more"
_HALF_A_BIT = "half a bit of the eight; less is not worth a step in the toolchain"
_TWO_POINTS = "two points: 400 test images of a pool of 1,797 can't tell less apart"

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="folding-is-exact",
            claim="At inference BN can be folded into the weights and the bias of the layer "
            "before it.",
            kind="identity",
            source="jacob2018",
            said_by="Jacob et al. 2018, section 3.2",
            label="largest error of the outputs, float64, in units of the largest output",
            claimed="below",
            null=1e-12,
            spec=".1e",
            setting="20 draws of sizes, weights, BN numbers and inputs for each of seven kinds of "
            "layer (dense, full, depthwise, separable and transposed convolutions after which BN "
            "stands; dense and full convolution that it precedes) and for a network of two "
            "inverted residual blocks, folded by bnutils.doctor.fold",
        ),
        Hypothesis(
            name="folding-saves-work",
            claim="Folding BN saves layers, parameters and multiplications.",
            kind="construction",
            source="jacob2018",
            said_by=_EFFICIENCY,
            label="multiplications saved, MobileNetV2",
            spec=".1%",
            setting="MobileNetV2 for images of 32 x 32 pixels and 10 classes",
        ),
        Hypothesis(
            name="folding-is-faster",
            claim="Folding BN makes a depthwise network faster in TensorFlow, on the machine of "
            "the record.",
            kind="measured",
            source="jacob2018",
            said_by=_EFFICIENCY,
            label="time with BN ÷ folded, depthwise network, TensorFlow, batch 1",
            margin=1.1,
            scale="log",
            reason=_TEN_PERCENT,
            spec=".2f",
            setting=f"{_TIMES}. TensorFlow: compiled by tf.function",
        ),
        Hypothesis(
            name="tflite-folds",
            claim="In a TFLite file BN is folded into the layer before it.",
            kind="version",
            source="jacob2018",
            said_by="Jacob et al. 2018, section 3.2, of inference graphs",
            label="operations that BN after a convolution, full or depthwise, or a dense layer "
            "adds, at most",
            claimed="below",
            null=1,
            spec=".0f",
            setting="5 random models for each kind of layer, exported with BN and folded before "
            f"the export. Times: {_TIMES}",
        ),
        Hypothesis(
            name="onnx-runtime-folds",
            claim="ONNX Runtime fuses BN into the convolution before it.",
            kind="version",
            source="onnxruntime",
            said_by="ONNX Runtime's documentation, Graph optimizations, of the basic level",
            label="operations that BN after a convolution, full or depthwise, adds, at most",
            claimed="below",
            null=1,
            spec=".0f",
            setting="5 random models for each kind of layer, exported by Keras with BN and folded "
            f"before the export, all optimizations but those of layout. Times: {_TIMES}",
        ),
        Hypothesis(
            name="fold-before-quantization",
            claim="BN left as operations of its own in 8 bits makes the outputs less exact.",
            kind="measured",
            source="jacob2018",
            said_by="this book, after Jacob et al. 2018, section 3.2",
            label="error of the outputs in 8 bits, BN left ÷ folded before, a scale for each "
            "channel",
            margin=1.4,
            scale="log",
            reason=_HALF_A_BIT,
            spec=".2f",
            setting=f"{_DIGITS}. Error: root mean square over 400 test images, against the outputs "
            "in float32. BN is left where the output of its layer is read twice",
        ),
        Hypothesis(
            name="eight-bits-per-channel",
            claim="With a scale for each channel, 8 bits after training cost at most 2% of "
            "accuracy.",
            kind="measured",
            source="krishnamoorthi2018",
            said_by="Krishnamoorthi 2018, abstract, of many convolutional networks",
            label="test accuracy, float32 − 8 bits, folded before, a scale for each channel",
            claimed="within",
            margin=0.02,
            reason="what the source says; 400 test images can just tell two points apart",
            setting=_DIGITS,
        ),
        Hypothesis(
            name="one-scale-for-a-layer",
            claim="One scale for all weights of a layer costs accuracy, because BN makes the "
            "channels unequal.",
            kind="measured",
            source="krishnamoorthi2018",
            said_by="Krishnamoorthi 2018, section 3, of MobileNets above all",
            label="test accuracy in 8 bits, folded before, a scale for each channel − one for each "
            "layer",
            margin=0.02,
            reason=_TWO_POINTS,
            setting=_DIGITS,
        ),
    ]
}


def _said(*names: str) -> tuple[Hypothesis, ...]:
    return tuple(HYPOTHESES[name] for name in names)


# Training ends elsewhere on another processor, so only means are compared.
_ACCURACY = Tolerance(mean=0.03)

STUDIES = (
    Study(
        name="folding",
        question="How far are the outputs of a folded model from those of the model?",
        block=folding_block,
        dims={"kind": KINDS, "precision": ["float32", "float64"], "seed": range(20)},
        together=["kind"],
        tolerances={
            "error": Tolerance(close=1e-5),
            "left": Tolerance(close=0.0),
            "without_epsilon": Tolerance(close=1e-4, relative=1e-2),
        },
        hypotheses=_said("folding-is-exact"),
    ),
    Study(
        name="folding-work",
        question="What does folding save?",
        block=work_block,
        dims={"network": ["digits", "MobileNetV2", *NETWORKS]},
        tolerances={
            "layers": Tolerance(close=0.0),
            "parameters": Tolerance(close=0.0),
            "multiplications": Tolerance(close=0.0),
            "kilobytes": Tolerance(close=1.0, relative=0.02),
        },
        hypotheses=_said("folding-saves-work"),
    ),
    Study(
        name="folding-speed",
        question="How much faster is a folded network?",
        block=speed_block,
        dims={
            "seed": range(10),
            "network": NETWORKS,
            "form": ["TensorFlow", "TFLite", "TFLite, int8", "ONNX Runtime"],
            "batch_size": [1, 64],
        },
        together=["batch_size"],
        fixed={"seconds": 0.25},
        # The times are those of one machine, which the provenance names. No limit compares them:
        # what is checked elsewhere is that the models still compute the same.
        tolerances={"milliseconds": Tolerance(), "error": Tolerance(close=5e-3, relative=0.2)},
        hypotheses=_said("folding-is-faster"),
    ),
    Study(
        name="exports",
        question="What is left of BN in an exported file?",
        block=exports_block,
        dims={
            "kind": ["convolution", "depthwise", "dense", "before convolution"],
            "seed": range(5),
        },
        tolerances={"operations": Tolerance(close=0.0), "error": Tolerance(close=1e-4)},
        hypotheses=_said("tflite-folds", "onnx-runtime-folds"),
    ),
    Study(
        name="eight-bits",
        question="What do 8 bits cost, when BN is folded before, after, or not?",
        block=eight_bits_block,
        dims={"epochs": [10, 40], "scale": SCALES, "seed": range(10)},
        together=["epochs", "scale"],
        fixed={"learning_rate": 0.01, "examples": 100},
        tolerances={
            "accuracy": _ACCURACY,
            "float_accuracy": _ACCURACY,
            "error": Tolerance(mean=0.01, relative=0.3),
            "bn_left": Tolerance(close=0.0),
            "ranges": Tolerance(mean=0.5, relative=0.2),
        },
        overlap=DIGITS_OVERLAP,
        hypotheses=_said(
            "fold-before-quantization", "eight-bits-per-channel", "one-scale-for-a-layer"
        ),
    ),
    Study(
        name="eight-bits-dynamic",
        question="And when the weights alone are stored in 8 bits?",
        block=dynamic_block,
        dims={"seed": range(10)},
        fixed={"learning_rate": 0.01, "epochs": 10},
        tolerances={"error": Tolerance(mean=0.01, relative=0.3)},
        overlap=DIGITS_OVERLAP,
    ),
    Study(
        name="stretched",
        question="And when the channels of a layer are unequal?",
        block=stretched_block,
        dims={"spread": [1.0, 10.0, 100.0, 1000.0], "seed": range(10)},
        together=["spread"],
        fixed={"learning_rate": 0.01, "epochs": 10, "examples": 100},
        tolerances={"error": Tolerance(mean=0.1, relative=0.5)},
        overlap=DIGITS_OVERLAP,
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def faster(network: str, form: str, batch_size: int, record: xr.Dataset | None = None) -> Interval:
    """Time with BN over time folded.

    Args:
        network: one of `NETWORKS`.
        form: "TensorFlow", "TFLite", "TFLite, int8" or "ONNX Runtime".
        batch_size: images in a call.
        record: a record of "folding-speed"; the book's if None.
    """
    record = load("folding-speed") if record is None else record
    times = record["milliseconds"].sel(network=network, form=form, batch_size=batch_size)
    return paired_ratio(*(times.sel(state=state).values for state in STATES))


def speed_table(batch_size: int, record: xr.Dataset | None = None) -> pd.DataFrame:
    """Time with BN over time folded, by form and network, each with its interval."""
    record = load("folding-speed") if record is None else record
    return pd.DataFrame(
        {
            str(network): {
                str(form): f"{faster(network, form, batch_size, record):.2f}"
                for form in record["form"].values
            }
            for network in record["network"].values
        }
    )


def plot_lines() -> None:
    """Draw one BN layer's outputs over its inputs: by batches in training mode, and at inference.

    The layer stands in a small dense network that has learned digits.
    """
    import matplotlib.pyplot as plt  # here, so that a study can run without Matplotlib

    from bnutils import plots

    digits = data.digits()
    net = network.mlp([64, 32, 10], seeds=[0], norm=network.BatchNorm(momentum=0.9))
    adam, loss = network.Adam(0.01), network.softmax_cross_entropy
    few = {"loss": loss, "optimizer": adam, "steps": 100, "batch_size": 64}
    network.fit(net, digits.train.x, digits.train.y, **few)
    inside, bn = dict(net.activations(digits.test.x)), net.batch_norms[0]
    x, y = inside["dense_1"][0], inside["bn_1"][0]
    gamma, beta, mean, variance = (
        each[0] for each in (bn.gamma, bn.beta, bn.moving_mean, bn.moving_variance)
    )
    a = gamma / np.sqrt(variance + bn.epsilon)
    order, blue = np.argsort(a), plots.arm_style("BN")["color"]
    _, axes = plt.subplots(2, figsize=(4.5, 4.8), sharex=True, sharey=True)
    for batch in x[:40].reshape(10, 4, -1):
        made = norm.batch_norm(batch, gamma, beta)[0][:, order[16]]
        axes[0].plot(batch[:, order[16]], made, ".-", color=blue, linewidth=1)
    for channel, marker in zip(order[[31, 16, 0]], "os^", strict=True):
        axes[1].plot(x[::10, channel], y[::10, channel], marker, color=blue, markersize=4)
        ends = np.array([x[:, channel].min(), x[:, channel].max()])
        line = a[channel] * (ends - mean[channel]) + beta[channel]
        axes[1].plot(ends, line, **plots.arm_style("theory"))
    axes[0].set(title="training: a line for each batch", ylabel="output y of BN")
    axes[1].set(title="inference: a line for each channel", ylabel="output y of BN")
    plots.finish(axes[1:], x="input x of BN", names=False)


def plot_speed(live: xr.Dataset) -> None:
    """Draw time with BN over time folded, by network and form.

    Args:
        live: a run of one's own, drawn as diamonds beside the record's intervals.
    """
    import matplotlib.pyplot as plt  # here, so that a study can run without Matplotlib

    from bnutils import plots

    sizes = [1, 64]
    if not set(sizes) & set(live["batch_size"].values.tolist()):
        raise ValueError(
            f"expected a run with one of the batch sizes {sizes}, which are drawn, "
            f"got {live['batch_size'].values.tolist()}"
        )
    forms = [str(form) for form in load("folding-speed")["form"].values]
    looks = {"dense": "other", "convolutional": "scaler", "depthwise": "layer norm"}
    _, axes = plt.subplots(2, figsize=(4.5, 5.4), sharex=True)
    for ax, batch_size in zip(axes, sizes, strict=True):
        ax.axvline(1, **plots.arm_style("theory"))
        for i, (name, arm) in enumerate(looks.items()):
            ratios = {form: faster(name, form, batch_size) for form in forms}
            look = {"color": plots.ARMS[arm]["color"], "marker": "os^"[i], "shift": i / 5 - 0.3}
            plots.in_rows(ax, ratios, forms, label=name, **look)
        if batch_size in live["batch_size"]:
            for name in live["network"].values:
                here = {str(f): faster(name, f, batch_size, live) for f in live["form"].values}
                plots.in_rows(ax, here, forms, color=plots.INK, marker="D", shift=0.3)
        ax.set_title(f"batch of {batch_size}")
    plots.finish(axes[1:], x="time with BN ÷ time folded")


def added_operations(record: xr.Dataset | None = None) -> xr.DataArray:
    """Operations that BN adds to a file, by kind of layer, file and seed."""
    counts = (load("exports") if record is None else record)["operations"]
    return counts.sel(state="with BN") - counts.sel(state="folded")


def _added(file: str, *kinds: str) -> Interval:
    return exact(int(added_operations().sel(file=file, kind=list(kinds)).max()))


def _times(form: str, claimed: str, networks: Sequence[str] = NETWORKS) -> list[Finding]:
    return [
        Finding(
            f"time with BN ÷ folded, {network} network, {form}, batch {size}",
            faster(network, form, size),
            claimed,
            margin=1.1,
            reason=_TEN_PERCENT,
            spec=".2f",
        )
        for network in networks
        for size in (1, 64)
    ]


def folding_is_exact() -> Claim:
    """Random models, folded."""
    record = load("folding")
    largest = record["error"].max(["kind", "seed"])

    def worst(values: xr.DataArray) -> Interval:
        return exact(float(values))

    return HYPOTHESES["folding-is-exact"].judge(
        worst(largest.sel(precision="float64")),
        [
            Finding(
                "the same, float32",
                worst(largest.sel(precision="float32")),
                "below",
                null=1e-5,
                spec=".1e",
            ),
            Finding("BN layers left", worst(record["left"].max()), "below", null=1, spec=".0f"),
            Finding(
                "a control: the same error if epsilon is forgotten, median of all models",
                worst(record["without_epsilon"].median()),
                null=1e-5,
                spec=".1e",
            ),
        ],
        draws=record.sizes["seed"] * record.sizes["kind"],
        record="folding",
    )


def folding_saves_work() -> Claim:
    """Counts of MobileNetV2, and of networks with full convolutions."""
    record = load("folding-work")

    def saved(network: str, what: str) -> Interval:
        before, after = record[what].sel(network=network).values
        return exact(1 - after / before)

    others = [("MobileNetV2", "layers"), ("MobileNetV2", "parameters")]
    others += [(network, "multiplications") for network in NETWORKS]
    return HYPOTHESES["folding-saves-work"].judge(
        saved("MobileNetV2", "multiplications"),
        [Finding(f"{what} saved, {net}", saved(net, what), spec=".1%") for net, what in others],
        record="folding-work",
    )


def folding_is_faster() -> Claim:
    """The networks as TensorFlow runs them, and the depthwise one as others do."""
    first, *others = _times("TensorFlow", "above", ["depthwise", "convolutional", "dense"])
    for form in ("TFLite", "TFLite, int8", "ONNX Runtime"):
        others += _times(form, "above", ["depthwise"])
    return HYPOTHESES["folding-is-faster"].judge(
        first.effect,
        others,
        record="folding-speed",
        note="The replicates are repetitions on one machine, which the record names: the interval "
        "says nothing about others.",
    )


def tflite_folds() -> Claim:
    """What BN adds to a TFLite file, and to its time."""
    return HYPOTHESES["tflite-folds"].judge(
        _added("TFLite", "convolution", "depthwise", "dense"),
        [
            Finding(
                "operations that BN before a convolution adds",
                _added("TFLite", "before convolution"),
                "below",
                null=1,
                spec=".0f",
            ),
            *_times("TFLite", "within"),
            *_times("TFLite, int8", "within"),
        ],
        draws=20,
        record=["exports", "folding-speed"],
    )


def onnx_runtime_folds() -> Claim:
    """What BN adds to what ONNX Runtime runs, and to its time."""
    others = {
        "BN after a dense layer adds": "dense",
        "BN before a convolution adds": "before convolution",
    }
    return HYPOTHESES["onnx-runtime-folds"].judge(
        _added("ONNX Runtime", "convolution", "depthwise"),
        [
            *(
                Finding(
                    f"operations that {text}",
                    _added("ONNX Runtime", kind),
                    "below",
                    null=1,
                    spec=".0f",
                )
                for text, kind in others.items()
            ),
            *_times("ONNX Runtime", "within"),
        ],
        draws=20,
        record=["exports", "folding-speed"],
    )


def in_eight_bits(name: str, arm: str, scale: str = "each channel", epochs: int = 40) -> np.ndarray:
    """Error or accuracy in 8 bits, one number for each seed.

    Args:
        name: "error" or "accuracy".
        arm: "folded before", "folded after" or "BN left".
        scale: "each channel" or "each layer".
        epochs: after how many.
    """
    return load("eight-bits")[name].sel(arm=arm, scale=scale, epochs=epochs).values


def _worse(label: str, arm: str, **settings: Any) -> Finding:
    errors = (in_eight_bits("error", each, **settings) for each in (arm, "folded before"))
    effect = paired_ratio(*errors, overlap=DIGITS_OVERLAP)
    return Finding(label, effect, margin=1.4, reason=_HALF_A_BIT, spec=".2f")


def _lost(label: str, better: np.ndarray, worse: np.ndarray, claimed: str = "above") -> Finding:
    effect = paired_difference(better, worse, overlap=DIGITS_OVERLAP)
    return Finding(label, effect, claimed, margin=0.02, reason=_TWO_POINTS)


def fold_before_quantization() -> Claim:
    """BN in 8 bits of its own, against none."""
    layer = {"scale": "each layer"}
    return HYPOTHESES["fold-before-quantization"].judge(
        _worse("primary", "BN left").effect,
        [
            _worse("the same after 10 epochs", "BN left", epochs=10),
            _worse("the same with one scale for each layer", "BN left", **layer),
            _worse("folded after ÷ before, a scale for each channel", "folded after"),
            _worse("folded after ÷ before, one scale for each layer", "folded after", **layer),
            _lost(
                "test accuracy, folded before − BN left, a scale for each channel",
                *(in_eight_bits("accuracy", arm) for arm in ("folded before", "BN left")),
            ),
        ],
        draws=10,
        record="eight-bits",
    )


def eight_bits_per_channel() -> Claim:
    """Accuracy in float32 and in 8 bits."""
    floats = load("eight-bits")["float_accuracy"]
    late, early = (floats.sel(epochs=epochs).values for epochs in (40, 10))

    def eight(**settings: Any) -> np.ndarray:
        return in_eight_bits("accuracy", "folded before", **settings)

    return HYPOTHESES["eight-bits-per-channel"].judge(
        paired_difference(late, eight(), overlap=DIGITS_OVERLAP),
        [
            _lost("the same after 10 epochs", early, eight(epochs=10), "within"),
            _lost("one scale for each layer", late, eight(scale="each layer"), "within"),
        ],
        draws=10,
        record="eight-bits",
    )


def one_scale_for_a_layer() -> Claim:
    """One scale for each layer against one for each channel."""
    scales = SCALES

    def both(name: str, epochs: int = 40) -> list[np.ndarray]:
        return [in_eight_bits(name, "folded before", scale, epochs) for scale in scales]

    ranges = load("eight-bits")["ranges"].sel(epochs=40)
    geometric = np.exp(np.log(ranges).mean("layer"))
    unequal_by = float(geometric.sel(state="folded").mean())
    wider = (geometric.sel(state=state).values for state in ("folded", "with BN"))
    unequal = load("stretched")["error"].sel(spread=100.0)
    weights = (unequal.sel(way=f"weights, {scale}").values for scale in reversed(scales))
    return HYPOTHESES["one-scale-for-a-layer"].judge(
        paired_difference(*both("accuracy"), overlap=DIGITS_OVERLAP),
        [
            _lost("the same after 10 epochs", *both("accuracy", 10)),
            Finding(
                "error of the outputs, one scale for each layer ÷ one for each channel",
                paired_ratio(*reversed(both("error")), overlap=DIGITS_OVERLAP),
                margin=1.4,
                reason=_HALF_A_BIT,
                spec=".2f",
            ),
            Finding(
                "widest ÷ narrowest channel of a layer, folded ÷ with BN",
                paired_ratio(*wider, overlap=DIGITS_OVERLAP),
                margin=1.25,
                reason="a quarter is a third of a bit",
                spec=".2f",
            ),
            Finding(
                "error with the channels of two layers made unequal by a factor of 100, only "
                "weights rounded, one scale for each layer ÷ one for each channel",
                paired_ratio(*weights, overlap=DIGITS_OVERLAP),
                margin=1.4,
                reason=_HALF_A_BIT,
                spec=".1f",
            ),
        ],
        draws=10,
        record=["eight-bits", "stretched"],
        note=f"A mild case: the folded channels are unequal by a factor of {unequal_by:.1f} only. "
        "It says nothing about MobileNets.",
    )


CLAIMS: dict[str, Callable[[], Claim]] = {
    "folding-is-exact": folding_is_exact,
    "folding-saves-work": folding_saves_work,
    "folding-is-faster": folding_is_faster,
    "tflite-folds": tflite_folds,
    "onnx-runtime-folds": onnx_runtime_folds,
    "fold-before-quantization": fold_before_quantization,
    "eight-bits-per-channel": eight_bits_per_channel,
    "one-scale-for-a-layer": one_scale_for_a_layer,
}
