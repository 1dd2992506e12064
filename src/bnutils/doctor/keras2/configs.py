"""Configs of layers and models of Keras 2, as Keras 3 reads them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from bnutils._keras import keras
from bnutils.doctor.keras2.hard_sigmoid import steep_activation
from bnutils.doctor.keras2.operations import operation
from bnutils.doctor.keras2.words import (
    NOTHING,
    Config,
    bare,
    function_name,
    policy_name,
    serialized,
)
from bnutils.doctor.results import Skipped

__all__ = ["Translation"]

LAYER_NAMES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
}
# Layers that are no longer where they were.
MODULES = {"ThresholdedReLU": "keras._legacy.layers"}
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM2D", "Bidirectional")
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
TENSOR_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod")


@dataclass
class Translation:
    """Configs of Keras 2 as Keras 3 reads them, and what that changed or lost.

    Attributes:
        version: the Keras that wrote them, such as "2.2.4".
        custom: names of the user's own classes, which go before Keras's own.
        changes: pairs (layer, what is different now).
        skipped: what was left out, and why.
        names: the names in the file of those layers of the model that have another one now.
    """

    version: str = "2"
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
        name = bare(config["class_name"])
        inner = config["config"]
        if isinstance(inner, list):  # Sequential, until Keras 2.2.3
            inner = {"name": name.lower(), "layers": inner}
        if "layers" in inner and ("input_layers" in inner or name == "Sequential"):
            return self._model(config, name, inner)
        if name in self.custom or config["class_name"] in self.custom:
            return self._custom(config, inner)
        name = LAYER_NAMES.get(name, name)
        cls = getattr(keras.layers, name, None)
        if name in MODULES:
            return serialized(MODULES[name], name, dict(inner))
        if not inspect.isclass(cls):
            return self._custom(config, inner)
        if name == "Activation" and function_name(inner["activation"]) == "hard_sigmoid":
            return steep_activation(inner)
        inner = self._arguments(cls, name, dict(inner))
        if config["class_name"] == "SyncBatchNormalization":
            inner["synchronized"] = True
        return serialized("keras.layers", name, inner)

    def _custom(self, config: Config, inner: Config) -> Config:
        """A class that is not Keras's: the loader looks for it, and says so if it is not there."""
        inner = {**inner}
        if isinstance(inner.get("dtype"), dict):
            inner["dtype"] = policy_name(inner["dtype"])
        made = {
            "module": None,
            "class_name": bare(config["class_name"]),
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
        return serialized("keras", "Model" if functional else "Sequential", made)

    def _row(self, layers: list[Config]) -> list[Config]:
        """The layers of a Sequential model, with its input in front of them."""
        made = [self.layer(each) for each in layers]
        renamed = self._renamed(_name(each) for each in layers)
        for old, new in zip(layers, made, strict=True):
            if _name(old):
                new["config"]["name"] = renamed[_name(old)]
        self.names = {new: old for old, new in renamed.items() if new != old}
        first = layers[0]["config"] if layers else {}
        shape = isinstance(first, dict) and first.get("batch_input_shape")
        if shape and layers[0]["class_name"] != "InputLayer":
            name = f"{made[0]['config'].get('name', 'first')}_input"
            made.insert(0, serialized("keras.layers", "InputLayer", _input(first, name)))
        return made

    def _graph(self, inner: Config) -> Config:
        """The layers of a functional model and how they are called on each other."""
        offsets = {each["name"]: _built_in_nodes(each) for each in inner["layers"]}
        renamed = self._renamed(offsets)

        def tensor(old: list) -> list:
            name, node, index = old[:3]
            return [renamed[name], node - offsets[name], index]

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

        def call(layer: Config, old: Any) -> Config:
            tensors = [old] if isinstance(old[0], str) else old
            kwargs = {}
            for each in tensors.values() if isinstance(tensors, dict) else tensors:
                kwargs |= each[3] if len(each) > 3 else {}
            first, kwargs = structure(tensors, reference), structure(kwargs, reference)
            if isinstance(first, list) and len(first) == 1:
                first = first[0]
            elif isinstance(first, list) and bare(layer["class_name"]) in RECURRENT:
                first, *kwargs["initial_state"] = first
            return {"args": [first], "kwargs": kwargs}

        made = []
        for old in inner["layers"]:
            calls = [call(old, each) for each in old["inbound_nodes"]]
            if old["class_name"] in TENSOR_OPERATIONS:
                new, calls = operation(old, calls)
            else:
                new = self.layer(old)
            name = new["config"]["name"] = renamed[old["name"]]
            made.append({**new, "name": name, "inbound_nodes": calls})
        # Models inside have left theirs: the outermost comes last.
        self.names = {new: old for old, new in renamed.items() if new != old}
        ends = {}
        for key in ("input_layers", "output_layers"):
            found = structure(inner[key], tensor)
            # One input or output was no list of one.
            one = isinstance(inner[key], list) and len(inner[key]) == 1
            ends[key] = found[0] if one else found
        return {"layers": made, **ends}

    def _renamed(self, names: Iterable[str | None]) -> dict[str, str]:
        """The names that Keras 3 takes for those of the layers of a model: without a slash."""
        old = [name for name in names if name]
        made = {}
        for name in sorted(old, key=lambda name: "/" in name):
            new, number = name.replace("/", "_"), 0
            while new in made.values():
                number += 1
                new = f"{name.replace('/', '_')}_{number}"
            made[name] = new
            if new != name:
                self.changes.append((new, "a slash in its name is _ now: Keras 3 allows none"))
        return made

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
        # Keras on TensorFlow 1 took the corners of pixels for their centers.
        of_corners = not self.version.endswith("-tf") and (0, 0) < _release(self.version) < (2, 4)
        if of_corners and config.get("interpolation") == "bilinear":
            raise ValueError(
                f"its layer {label!r} interpolates between other points than Keras 3, which has no "
                "way to do that: the outputs would differ"
            )
        if name == "RandomCrop":
            self.changes.append((label, "RandomCrop crops in training alone in Keras 3"))
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
            return policy_name(value)
        if isinstance(value, dict) and "class_name" in value:
            if key in ("layer", "backward_layer", "cell"):
                return self.layer(value)
            if value["class_name"] == "__ndarray__":
                return value["value"]
            for kind in ("initializer", "regularizer", "constraint"):
                if key.endswith(kind):
                    return self._part(f"{kind}s", label, key, value)
            if key.endswith("activation") and bare(value["class_name"]) in vars(keras.layers):
                return self.layer(value)
        if isinstance(value, dict) and value.get("type") == "ndarray":
            return value["value"]
        if key == "cells":
            return [self.layer(each) for each in value]
        return value

    def _part(self, module: str, label: str, key: str, value: Config) -> Any:
        """An initializer, a regularizer or a constraint; left out if Keras 3 does not have it."""
        name = bare(value["class_name"])
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
        return serialized(f"keras.{module}", name, config)


_DROP = object()


def _name(layer: Config) -> str | None:
    return layer["config"].get("name") if isinstance(layer["config"], dict) else None


def _input(config: Config, name: str) -> Config:
    made = {"batch_shape": config.get("batch_input_shape", config.get("batch_shape")), "name": name}
    made |= {key: config[key] for key in ("sparse", "ragged") if config.get(key)}
    # A layer that takes whole numbers was given its own dtype, not that of its input, in old files.
    if config.get("dtype"):
        made["dtype"] = keras.DTypePolicy(policy_name(config["dtype"])).compute_dtype
    return made


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; (0, 0) if it has none."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    return tuple(numbers) if len(numbers) == 2 else (0, 0)


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
        made["dtype"] = policy_name(config["dtype"])
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
