"""What Keras 2 wrote into a model's file, said in the words of Keras 3.

Keras 3 reads part of it by itself and stops at the rest: `axis: [3]` of batch normalization,
`groups` of a depthwise convolution, the count of calls of a model inside a model. Everything here
works on plain dicts and lists, as JSON gives them; no code of the file runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from bnutils._keras import keras, operation_class
from bnutils.doctor.results import Skipped

__all__ = [
    "Translation",
    "assign_weights",
    "compile_arguments",
    "steepen_hard_sigmoids",
    "weight_groups",
]

Config = dict[str, Any]

LAYER_NAMES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
}
MODELS = ("Functional", "Model", "Sequential")
# Keys that have gone with Keras 3, and say nothing about what the layer computes at inference.
WITHOUT_EFFECT = {
    "adjustment",
    "batch_input_shape",
    "batch_size",
    "dynamic",
    "fused",
    "implementation",
    "input_dim",
    "input_dtype",
    "input_length",
    "key_shape",
    "query_shape",
    "rng_type",
    "trainable",
    "value_shape",
    "virtual_batch_size",
    "weights",
}
# Keys of a class that inherited them from a convolution and never used them.
INHERITED = {
    "SeparableConv1D": ("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "SeparableConv2D": ("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
}
# Values that mean the same as the key's absence.
NOTHING = (None, False, "", [], {})
TENSOR_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod")


@dataclass
class Translation:
    """Configs of Keras 2 as Keras 3 reads them, and what that changed or lost.

    Attributes:
        custom: names of the user's own classes, which go before Keras's own.
        changes: pairs (layer, what is different now).
        skipped: what was left out, and why.
        names: the names in the file of the layers that have another one now.
    """

    custom: Container[str] = ()
    changes: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def layer(self, config: Config) -> Config:
        """Translate a layer, or a model, with all that is inside.

        Args:
            config: `{"class_name": ..., "config": ...}`, perhaps with more keys.

        Returns:
            A new dict, for `keras.saving.deserialize_keras_object`.

        Raises:
            ValueError: if Keras 3 has no such layer, or not what it was set to.
        """
        name = _bare(config["class_name"])
        inner = config["config"]
        if isinstance(inner, list):  # Sequential, until Keras 2.2.3
            inner = {"name": name.lower(), "layers": inner}
        if "layers" in inner and ("input_layers" in inner or name == "Sequential"):
            return self._model(config, name, inner)
        if name in self.custom or config["class_name"] in self.custom:
            return self._custom(config, inner)
        name = LAYER_NAMES.get(name, name)
        cls = getattr(keras.layers, name, None)
        if not inspect.isclass(cls):
            return self._custom(config, inner)
        if name == "Activation" and _named(inner["activation"]) == "hard_sigmoid":
            return _steep_activation(inner)
        inner = self._arguments(cls, name, dict(inner))
        if config["class_name"] == "SyncBatchNormalization":
            inner["synchronized"] = True
        return _object("keras.layers", name, inner)

    def _custom(self, config: Config, inner: Config) -> Config:
        """A class that is not Keras's: the loader looks for it, and says so if it is not there."""
        inner = {**inner}
        if isinstance(inner.get("dtype"), dict):
            inner["dtype"] = _dtype(inner["dtype"])
        made = {
            "module": None,
            "class_name": _bare(config["class_name"]),
            "config": inner,
            "registered_name": config.get("registered_name") or config["class_name"],
        }
        if "build_config" in config:
            made["build_config"] = config["build_config"]
        return made

    # Models

    def _model(self, config: Config, name: str, inner: Config) -> Config:
        own = name in self.custom or name not in MODELS
        functional = "input_layers" in inner
        kept = {key: inner[key] for key in ("name", "trainable") if inner.get(key) is not None}
        made = {**inner, **kept} if own else kept
        if functional:
            made |= self._graph(inner)
        else:
            made["layers"] = self._row(inner["layers"])
            if inner.get("build_input_shape"):
                made["build_input_shape"] = inner["build_input_shape"]
        if own:
            return self._custom(config, made)
        return _object("keras", "Model" if functional else "Sequential", made)

    def _row(self, layers: list[Config]) -> list[Config]:
        """The layers of a Sequential model, with its input in front of them."""
        made = [self.layer(each) for each in layers]
        for old, new in zip(layers, made, strict=True):
            new["config"]["name"] = self._renamed(old["config"].get("name"), new)
        first = layers[0]["config"] if layers else {}
        shape = isinstance(first, dict) and first.get("batch_input_shape")
        if shape and layers[0]["class_name"] != "InputLayer":
            name = f"{made[0]['config'].get('name', 'first')}_input"
            made.insert(0, _object("keras.layers", "InputLayer", _input(first, name)))
        return made

    def _graph(self, inner: Config) -> Config:
        """The layers of a functional model and how they are called on each other."""
        offsets = {each["name"]: _built_in_nodes(each) for each in inner["layers"]}

        def tensor(old: list) -> list:
            name, node, index = old[:3]
            return [self._new_name(name), node - offsets[name], index]

        def reference(old: list) -> Config:
            history = tensor(old)
            # The loader takes the tensor itself from the layer of that name.
            return {
                "class_name": "__keras_tensor__",
                "config": {"shape": [], "dtype": "float32", "keras_history": history},
            }

        def structure(old: Any, leaf: Callable) -> Any:
            if _is_tensor(old, offsets):
                return leaf(old)
            if isinstance(old, list) and old[:2] == ["_CONSTANT_VALUE", -1]:
                return old[2]
            if isinstance(old, dict):
                return {key: structure(each, leaf) for key, each in old.items()}
            if isinstance(old, list):
                return [structure(each, leaf) for each in old]
            return old

        def call(old: Any) -> Config:
            tensors = [old] if isinstance(old[0], str) else old
            kwargs = {}
            for each in tensors.values() if isinstance(tensors, dict) else tensors:
                kwargs |= each[3] if len(each) > 3 else {}
            first = structure(tensors, reference)
            if isinstance(first, list) and len(first) == 1:
                first = first[0]
            return {"args": [first], "kwargs": structure(kwargs, reference)}

        made = []
        for old in inner["layers"]:
            calls = [call(each) for each in old["inbound_nodes"]]
            if old["class_name"] in TENSOR_OPERATIONS:
                new, calls = _operation(old, calls)
            else:
                new = self.layer(old)
            name = self._renamed(old["name"], new)
            new["config"]["name"] = name
            made.append({**new, "name": name, "inbound_nodes": calls})
        ends = {}
        for key in ("input_layers", "output_layers"):
            found = structure(inner[key], tensor)
            # One input or output was no list of one.
            one = isinstance(inner[key], list) and len(inner[key]) == 1
            ends[key] = found[0] if one else found
        return {"layers": made, **ends}

    def _renamed(self, name: str | None, made: Config) -> str | None:
        """A name that Keras 3 takes: without a slash."""
        if not name or "/" not in name:
            return name or made["config"].get("name")
        new = self._new_name(name)
        self.names[new] = name
        self.changes.append((new, "a slash in its name is _ now: Keras 3 allows none"))
        return new

    def _new_name(self, name: str) -> str:
        return name.replace("/", "_")

    # Layers

    def _arguments(self, cls: type, name: str, config: Config) -> Config:
        """What the constructor of a layer of Keras takes."""
        label = config.get("name", name)
        if name == "InputLayer":
            return _input(config, label)
        if name == "Lambda":
            return _lambda(config)
        if name == "BatchNormalization":
            config["axis"] = _one_axis(config.get("axis", -1), label)
            if config.get("virtual_batch_size"):
                size = config["virtual_batch_size"]
                self.skipped.append(
                    Skipped(label, f"Keras 3 has no virtual_batch_size; it trained with {size}")
                )
        if "alpha" in config and name == "LeakyReLU":
            config["negative_slope"] = config.pop("alpha")
        if name == "GRU":
            config.setdefault("reset_after", False)  # the default of the time before it was written
        known = set(inspect.signature(cls.__init__).parameters)
        if "kwargs" in known:
            known |= {"name", "trainable", "dtype", "autocast", "activity_regularizer"}
        made = {}
        for key, value in config.items():
            if key in known:
                new = self._value(name, label, key, value)
                if new is not _DROP:
                    made[key] = new
            elif (
                value not in NOTHING
                and (key, value) != ("groups", 1)
                and key not in WITHOUT_EFFECT
                and key not in INHERITED.get(name, ())
            ):
                raise ValueError(
                    f"its layer {label!r}, a {name}, has {key}={value!r}, which the {name} of "
                    "Keras 3 does not have"
                )
        return made

    def _value(self, layer: str, label: str, key: str, value: Any) -> Any:
        if key == "dtype":
            return _dtype(value)
        if isinstance(value, dict) and "class_name" in value:
            if key in ("layer", "backward_layer", "cell"):
                return self.layer(value)
            if value["class_name"] == "__ndarray__":
                return value["value"]
            for kind in ("initializer", "regularizer", "constraint"):
                if key.endswith(kind):
                    return self._part(f"{kind}s", label, key, value)
            if key.endswith("activation") and _bare(value["class_name"]) in vars(keras.layers):
                return self.layer(value)
        if isinstance(value, dict) and value.get("type") == "ndarray":
            return value["value"]
        if key == "cells":
            return [self.layer(each) for each in value]
        return value

    def _part(self, module: str, label: str, key: str, value: Config) -> Any:
        """An initializer, a regularizer or a constraint; left out if Keras 3 does not have it."""
        name = _bare(value["class_name"])
        cls = getattr(getattr(keras, module), name, None)
        if name in self.custom:
            return self._custom(value, value.get("config") or {})
        if cls is None:
            if module != "initializers":  # the weights are there, so how they began is no loss
                reason = f"{key} {name} is none of Keras 3: training would miss it"
                self.skipped.append(Skipped(label, reason))
            return _DROP
        known = inspect.signature(cls.__init__).parameters
        config = {name: each for name, each in (value.get("config") or {}).items() if name in known}
        if config.get("distribution") == "normal":
            config["distribution"] = "truncated_normal"
        return _object(f"keras.{module}", name, config)


_DROP = object()


def _object(module: str, name: str, config: Config) -> Config:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def _bare(name: str) -> str:
    """A class's name without the package that it was registered under."""
    return name.rsplit(">", 1)[-1]


def _named(value: Any) -> Any:
    """The name of a function, however it was written."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        return value.get("config")
    return value


def _dtype(value: Any) -> Any:
    """A policy by its name."""
    return value["config"]["name"] if isinstance(value, dict) else value


def _input(config: Config, name: str) -> Config:
    made = {"batch_shape": config.get("batch_input_shape", config.get("batch_shape")), "name": name}
    made |= {key: config[key] for key in ("sparse", "ragged") if config.get(key)}
    # A layer that takes whole numbers was given its own dtype, not that of its input, in old files.
    if config.get("dtype"):
        made["dtype"] = keras.DTypePolicy(_dtype(config["dtype"])).compute_dtype
    return made


def _one_axis(axis: Any, label: str) -> int:
    if isinstance(axis, dict):  # a list that TensorFlow had wrapped
        axis = axis.get("items", axis.get("value"))
    if isinstance(axis, list):
        if len(axis) != 1:
            raise ValueError(
                f"its layer {label!r} normalizes along the axes {axis}; in Keras 3 batch "
                "normalization has one axis"
            )
        axis = axis[0]
    return int(axis)


def _lambda(config: Config) -> Config:
    made = {
        key: config[key]
        for key in ("name", "trainable", "arguments", "mask")
        if config.get(key) is not None
    }
    if "dtype" in config:
        made["dtype"] = _dtype(config["dtype"])
    for key in ("function", "output_shape"):
        value = config.get(key)
        if isinstance(value, list) and config.get(f"{key}_type", "lambda") == "lambda":
            code, defaults, closure = value
            value = {
                "class_name": "__lambda__",
                "config": {"code": code, "defaults": defaults, "closure": closure},
            }
        elif isinstance(value, str):
            value = {
                "module": None,
                "class_name": "function",
                "config": value,
                "registered_name": value,
            }
        if value is not None:
            made[key] = value
    return made


def _is_tensor(value: Any, names: Container[str]) -> bool:
    """Whether this is `[layer, call, output]`, perhaps with the arguments of a call."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and value[0] in names
        and all(type(each) is int for each in value[1:3])
    )


def _built_in_nodes(layer: Config) -> int:
    """How many calls Keras 2 counted before the first: a model has been called on its own input."""
    inner = layer["config"]
    if isinstance(inner, list):
        return 1
    if "input_layers" in inner:
        return 1
    if layer["class_name"] == "Sequential" and inner["layers"]:
        first = inner["layers"][0]
        return int(first["class_name"] == "InputLayer" or "batch_input_shape" in first["config"])
    return 0


# Functions of TensorFlow that were called on the outputs of layers

# Their arguments: those of the call in Keras, and those of the operation, by their names there.
_BINARY = {
    **dict.fromkeys(("__operators__.add", "math.add"), "Add"),
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    **dict.fromkeys(("math.truediv", "math.divide"), "TrueDivide"),
    "math.pow": "Power",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "linalg.matmul": "Matmul",
}
_UNARY = {
    **{
        f"math.{name}": name.title() for name in ("abs", "exp", "log", "negative", "sqrt", "square")
    },
    **{
        f"{module}.{name}": name.title()
        for name in ("sigmoid", "tanh")
        for module in ("math", "nn")
    },
    **{f"nn.{name}": name.title() for name in ("relu", "relu6", "softmax", "softplus", "elu")},
    **dict.fromkeys(("nn.silu", "nn.swish"), "Silu"),
    **{f"math.reduce_{name}": name.title() for name in ("mean", "sum", "max", "min", "prod")},
    "concat": "Concatenate",
    "stack": "Stack",
    "reshape": "Reshape",
    "expand_dims": "ExpandDims",
    "squeeze": "Squeeze",
    "transpose": "Transpose",
    "cast": "Cast",
    "clip_by_value": "Clip",
}
_RENAMED_ARGUMENTS = {
    "shape": "newshape",
    "perm": "axes",
    "clip_value_min": "x_min",
    "clip_value_max": "x_max",
}


def _operation(old: Config, calls: list[Config]) -> tuple[Config, list[Config]]:
    """A function of TensorFlow as the operation of Keras that does the same."""
    function = old["config"].get("function") or old["config"].get("symbol") or old["class_name"]
    refusal = ValueError(
        f"its layer {old['name']!r} is the TensorFlow function {function}, called on the output of "
        "a layer, in a way that has no known counterpart in Keras 3. Next step: build the model "
        "anew with keras.ops or a layer in its place, then load_weights"
    )
    if len(calls) != 1:
        raise refusal
    ((first,), given) = calls[0]["args"], dict(calls[0]["kwargs"])
    given.pop("name", None)
    config, arguments = {}, [first]
    if function in _BINARY:
        name = _BINARY[function]
        arguments.append(given.pop("b" if name == "Matmul" else "y"))
    elif function == "__operators__.getitem":
        name = "GetItem"
        arguments.append([_index(each, refusal) for each in given.pop("slice_spec")])
    elif function in _UNARY:
        name = _UNARY[function]
        cls = operation_class(name)
        known = inspect.signature(cls.__init__).parameters
        for key in list(given):
            new = _RENAMED_ARGUMENTS.get(key, key)
            if new in known and given[key] is not None:
                config[new] = given.pop(key)
    else:
        raise refusal
    if any(value not in NOTHING for value in given.values()):
        raise refusal
    made = {**_object(operation_class(name).__module__, name, config), "registered_name": name}
    return made, [{"args": arguments, "kwargs": {}}]


def _index(old: Any, refusal: ValueError) -> Any:
    if isinstance(old, dict) and set(old) == {"start", "stop", "step"}:
        if all(each is None or type(each) is int for each in old.values()):
            return {"class_name": "__slice__", "config": old}
        raise refusal
    if old is None or type(old) is int or (isinstance(old, dict) and old.get("class_name")):
        return old
    raise refusal


# The hard sigmoid: `0.2 x + 0.5` between 0 and 1 in Keras 2, `x / 6 + 0.5` in Keras 3

_STEEPER = 1.2
_CELLS = {
    keras.layers.LSTMCell: (0, 1, 3),  # the gates among the four parts of each kernel
    keras.layers.GRUCell: (0, 1),
}
_ONE_KERNEL = (
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "SimpleRNNCell"),
    *("SeparableConv1D", "SeparableConv2D"),
)


def _steep_activation(inner: Config) -> Config:
    """A layer that is nothing but the hard sigmoid, as two that make the same of their input."""
    steeper = _object("keras.layers", "Rescaling", {"scale": _STEEPER, "offset": 0.0})
    bent = _object(
        "keras.layers", "Activation", {"activation": "hard_sigmoid", "name": "activation"}
    )
    return _object("keras", "Sequential", {"name": inner.get("name"), "layers": [steeper, bent]})


def steepen_hard_sigmoids(layers: dict[keras.Layer, str]) -> list[tuple[str, str]]:
    """Let every hard sigmoid give what that of Keras 2 gave, by larger weights in front of it.

    Args:
        layers: all layers of the model, nested, wrapped and cells too, and their paths.

    Returns:
        Pairs (layer, what is different now).

    Raises:
        ValueError: if a layer uses it in another way than that.
    """
    hard, changes = keras.activations.hard_sigmoid, []
    for layer, path in layers.items():
        name = type(layer).__name__
        gates = getattr(layer, "recurrent_activation", None) is hard
        whole = getattr(layer, "activation", None) is hard and name != "Activation"
        if isinstance(layer, keras.layers.RNN) or not (gates or whole):
            continue
        if (gates and (whole or type(layer) not in _CELLS)) or (whole and name not in _ONE_KERNEL):
            raise ValueError(
                f"its layer {path!r}, a {name}, uses the hard sigmoid of Keras 2; that of "
                "Keras 3 is another function"
            )
        for variable in layer.weights:
            factor = np.full(variable.shape[-1], _STEEPER)
            if gates:
                parts = np.ones((4 if type(layer) is keras.layers.LSTMCell else 3, layer.units))
                parts[list(_CELLS[type(layer)])] = _STEEPER
                factor = parts.ravel()
            if variable.name != "depthwise_kernel":  # the pointwise kernel after it is multiplied
                variable.assign(variable * factor)
        changes.append(
            (
                path,
                "weights in front of the hard sigmoid times 1.2: that of Keras 3 is less steep",
            )
        )
    return changes


# What `compile` was given


def compile_arguments(training: Config, skipped: list[Skipped]) -> Config:
    """The arguments of `compile` from a file of Keras 2.

    Args:
        training: `training_config` of an .h5 file, or `compile_config` of a .keras file.
        skipped: metrics and states that Keras 3 cannot take over are added here.

    Returns:
        The arguments, as objects of Keras.

    Raises:
        ValueError: if the optimizer or the loss is none that Keras 3 has.
    """
    old = training.get("optimizer_config") or training.get("optimizer")
    loss = _losses(training.get("loss"))
    arguments = {"optimizer": _optimizer(old), "loss": loss}
    if training.get("loss_weights") is not None:
        arguments["loss_weights"] = training["loss_weights"]
    for key in ("metrics", "weighted_metrics"):
        try:
            arguments[key] = _metrics(training.get(key))
        except (ValueError, TypeError, KeyError) as error:
            skipped.append(Skipped(f"compiled {key}", f"none of Keras 3: {error}"))
    return arguments


def _optimizer(old: Any) -> keras.optimizers.Optimizer:
    if isinstance(old, str):
        return keras.optimizers.get(old)
    name, config = _bare(old["class_name"]), dict(old["config"])
    cls = next(
        (
            value
            for key, value in vars(keras.optimizers).items()
            if inspect.isclass(value) and key.lower() == name.lower()
        ),
        None,
    )
    if cls is None:
        raise ValueError(f"Keras 3 has no optimizer {name}")
    if "lr" in config:
        config["learning_rate"] = config.pop("lr")
    rate, decay = config.get("learning_rate"), config.pop("decay", 0)
    if isinstance(rate, dict):
        schedule = getattr(keras.optimizers.schedules, _bare(rate["class_name"]), None)
        if schedule is None:
            raise ValueError(f"Keras 3 has no schedule {rate['class_name']}")
        config["learning_rate"] = schedule.from_config(rate["config"])
    elif decay:
        # Keras 2 divided the rate by 1 + decay * steps, which is what this schedule does.
        config["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(rate, 1, decay)
    known = set(inspect.signature(cls.__init__).parameters)
    known |= set(inspect.signature(keras.optimizers.Optimizer.__init__).parameters)
    return cls(**{key: each for key, each in config.items() if key in known and each is not None})


def _losses(old: Any) -> Any:
    if isinstance(old, dict) and "class_name" not in old:
        return {key: _losses(each) for key, each in old.items()}
    if isinstance(old, list):
        return [_losses(each) for each in old]
    return _callable(old, keras.losses)


def _metrics(old: Any) -> Any:
    if isinstance(old, dict) and "class_name" not in old:
        return {key: _metrics(each) for key, each in old.items()}
    if isinstance(old, list):
        # Those of a single output stand in a list of one.
        old = old[0] if len(old) == 1 and isinstance(old[0], list) else old
        return [_metrics(each) for each in old]
    if isinstance(old, dict) and _bare(old["class_name"]) == "MeanMetricWrapper":
        old = _named(old["config"]["fn"])
    if old in ("acc", "accuracy", "ce", "crossentropy"):
        return old
    return _callable(old, keras.metrics)


def _callable(old: Any, module: Any) -> Any:
    """A loss or a metric by what its file says."""
    if old is None:
        return None
    if isinstance(old, dict) and old["class_name"] != "function":
        name = _bare(old["class_name"])
        cls = getattr(module, name, None)
        if not inspect.isclass(cls):
            return module.deserialize(old)
        known = inspect.signature(cls.__init__).parameters
        config = {key: each for key, each in old["config"].items() if key in known}
        if config.get("reduction") == "auto":
            config.pop("reduction")
        if "dtype" in config:
            config["dtype"] = _dtype(config["dtype"])
        return cls(**config)
    found = module.get(_named(old))
    if found is None:
        raise ValueError(f"Keras 3 has no {_named(old)}")
    return found


# Weights

_KINDS = {
    *("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "recurrent_kernel"),
    *("depthwise_kernel", "pointwise_kernel", "embeddings", "mean", "variance", "count"),
    *("moving_stddev", "renorm_mean", "renorm_stddev"),
}


def weight_groups(group: h5py.Group) -> Iterator[tuple[str, list[tuple[str, h5py.Dataset]]]]:
    """The layers of an .h5 file with their weights: (name of the layer, [(name, data set)]).

    Raises:
        ValueError: if something else than a data set of this file stands where a weight should.
    """
    for layer in _names(group, "layer_names"):
        saved = []
        for name in _names(group[layer], "weight_names"):
            link = group[layer].get(name, getlink=True)
            data = group[layer][name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
                raise ValueError(f"the weight {name} of {layer} does not stand in this file")
            saved.append((name, data))
        if saved:
            yield layer, saved


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names; a long one is written in pieces, as name0, name1, ..."""
    pieces = [attribute] if attribute in group.attrs else []
    while not pieces or pieces[0] != attribute:
        piece = f"{attribute}{len(pieces)}"
        if piece not in group.attrs:
            break
        pieces.append(piece)
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def assign_weights(
    model: keras.Model, groups: Iterable[tuple[str, list]], names: dict[str, str]
) -> None:
    """Give the layers of a model the weights of an .h5 file.

    Weights stand in the file in the order of Keras 2, where those that do not train come last.
    Their names tell what they are: order and names must agree, or the names must suffice.

    Args:
        model: a built model.
        groups: from `weight_groups`.
        names: the names in the file of the layers that have another one now.

    Raises:
        ValueError: if the weights of the file and of the model are not the same, by name and shape.
    """
    layers = {names.get(layer.name, layer.name): layer for layer in model.layers}
    missing = {name for name, layer in layers.items() if layer.weights}
    for name, saved in groups:
        if name == "top_level_model_weights" or name not in layers:
            raise ValueError(f"the file has weights of {name}, the model has no such layer")
        missing.discard(name)
        layer = layers[name]
        for variable, data in _pairs(layer, saved):
            variable.assign(data[()].astype(variable.dtype))
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    if missing:
        raise ValueError(f"the file has no weights of {', '.join(sorted(missing))}")


def _pairs(layer: keras.Layer, saved: list[tuple[str, h5py.Dataset]]) -> list[tuple[Any, Any]]:
    variables = layer.trainable_weights + layer.non_trainable_weights
    if len(variables) == len(saved):
        pairs = list(zip(variables, saved, strict=True))
        if all(_fit(variable, *each) for variable, each in pairs):
            return [(variable, data) for variable, (_, data) in pairs]
        by_name = {_owner_and_kind(name): (name, data) for name, data in saved}
        keys = [_owner_and_kind(variable.path) for variable in variables]
        if len(by_name) == len(saved) and set(keys) == set(by_name):
            pairs = [
                (variable, *by_name[key]) for variable, key in zip(variables, keys, strict=True)
            ]
            if all(_fit(*pair) for pair in pairs):
                return [(variable, data) for variable, _, data in pairs]
    raise ValueError(
        f"the weights of {layer.name} are not those of the file: the model has "
        f"{', '.join(f'{v.path} {tuple(v.shape)}' for v in variables)}, the file "
        f"{', '.join(f'{name} {data.shape}' for name, data in saved)}"
    )


def _fit(variable: keras.Variable, name: str, data: h5py.Dataset) -> bool:
    if tuple(variable.shape) != data.shape:
        return False
    new, old = _owner_and_kind(variable.path)[1], _owner_and_kind(name)[1]
    if (new, old) == ("kernel", "depthwise_kernel"):  # of a DepthwiseConv
        return True
    return new == old or not {new, old} <= _KINDS


def _owner_and_kind(path: str) -> tuple[str, str]:
    """`("bn", "gamma")` from "base/bn/gamma:0"; a number that made a name unique is left out."""
    *owners, kind = path.split(":")[0].split("/")
    stem, _, number = kind.rpartition("_")
    return owners[-1] if owners else "", stem if number.isdigit() and stem else kind
