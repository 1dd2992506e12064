"""Functions of TensorFlow that were called on the outputs of layers: `x / 2`, `tf.concat`."""

import inspect
from typing import Any

from bnutils._keras import operation_class
from bnutils.doctor.keras2.words import NOTHING, Config, serialized

__all__ = ["operation"]

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


def operation(old: Config, calls: list[Config]) -> tuple[Config, list[Config]]:
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
    made = {**serialized(operation_class(name).__module__, name, config), "registered_name": name}
    return made, [{"args": arguments, "kwargs": {}}]


def _index(old: Any, refusal: ValueError) -> Any:
    if isinstance(old, dict) and set(old) == {"start", "stop", "step"}:
        if all(each is None or type(each) is int for each in old.values()):
            return {"class_name": "__slice__", "config": old}
        raise refusal
    if old is None or type(old) is int or (isinstance(old, dict) and old.get("class_name")):
        return old
    raise refusal
