"""The linear layers of Keras as kernels in float64, with an affine map multiplied in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnutils._keras import keras
from bnutils.doctor import kinds
from bnutils.doctor.graph import Call

__all__ = ["Affine", "CannotFoldError", "Linear", "along", "array", "pads", "read"]


class CannotFoldError(Exception):
    """Carries the reason, as half a sentence."""


def array(weight: Any) -> np.ndarray:
    """The values of a weight or a tensor, of one replica if there are several, in float64."""
    return keras.ops.convert_to_tensor(weight).numpy().astype(np.float64)


def along(vector: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Shape a vector so that it broadcasts along one axis of an array."""
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)


@dataclass(frozen=True)
class Affine:
    """An affine map; `scale` and `shift` broadcast with one example.

    `axis` is the axis, the batch counted, along which they vary; None if there are several.
    """

    scale: np.ndarray
    shift: np.ndarray
    axis: int | None


@dataclass(frozen=True)
class _Kernel:
    """A kernel in float64, with the axes of its input and output channels."""

    value: np.ndarray
    inputs: int
    outputs: int
    groups: int = 1
    depthwise: bool = False

    def of_inputs(self, vector: np.ndarray) -> np.ndarray:
        """Shape one number for each input channel so that it broadcasts with the kernel."""
        if self.groups > 1:
            by_group = vector.reshape(self.groups, -1).T
            return np.repeat(by_group, self.value.shape[-1] // self.groups, axis=1)
        return along(vector, self.inputs, self.value.ndim)

    def of_outputs(self, vector: np.ndarray) -> np.ndarray:
        """The same for each output channel."""
        if self.depthwise:
            return vector.reshape(self.value.shape[-2:])
        return along(vector, self.outputs, self.value.ndim)

    def response(self, constant: np.ndarray) -> np.ndarray:
        """The output, away from any border, to an input that is constant in each channel."""
        product = self.value * self.of_inputs(constant)
        kept = {-2, -1} if self.depthwise else {self.outputs}
        kept = {axis % product.ndim for axis in kept}
        return product.sum(axis=tuple(set(range(product.ndim)) - kept)).ravel()


@dataclass(frozen=True)
class Linear:
    """A linear layer as kernels that follow each other, and a bias.

    Attributes:
        kernels: the kernels.
        bias: [output channels].
        inputs: the axis of the channels of what the layer reads.
        outputs: the axis of the channels of what it makes.
        changes: what the layer's config has to say anew.
    """

    kernels: list[_Kernel]
    bias: np.ndarray
    inputs: int
    outputs: int
    changes: dict[str, Any]

    def then(self, scale: np.ndarray, shift: np.ndarray) -> Linear:
        """The layer followed by `scale y + shift`."""
        *first, last = self.kernels
        last = replace(last, value=last.value * last.of_outputs(scale))
        return replace(self, kernels=[*first, last], bias=self.bias * scale + shift)

    def after(self, scale: np.ndarray, shift: np.ndarray) -> Linear:
        """The layer on `scale x + shift`."""
        response = shift
        for kernel in self.kernels:
            response = kernel.response(response)
        first, *others = self.kernels
        first = replace(first, value=first.value * first.of_inputs(scale))
        return replace(self, kernels=[first, *others], bias=self.bias + response)

    def limit(self) -> float:
        """The largest weight."""
        return max(np.abs(values).max() for values in [*self._kernel_values(), self.bias])

    def assign_to(self, layer: keras.Layer) -> None:
        """Write the weights into a built layer."""
        *kernels, bias = layer.weights
        for variable, value in zip(kernels, self._kernel_values(), strict=True):
            variable.assign(value)
        bias.assign(self.bias.reshape(bias.shape))

    def _kernel_values(self) -> list[np.ndarray]:
        return [kernel.value for kernel in self.kernels]


def read(call: Call, axis: int | None, forwards: bool) -> Linear:
    """Read a linear layer.

    Args:
        call: its call.
        axis: the axis of the affine map that it is to take over; it matters to `EinsumDense`.
        forwards: whether that map comes before the layer.

    Raises:
        CannotFoldError: an equation of `EinsumDense` that is no product of channels.
    """
    layer, role = call.layer, kinds.kind(call.layer).role
    ranks = len(call.inputs[0].shape), len(call.outputs[0].shape)
    changes = {"use_bias": True, "lora_rank": None, "lora_alpha": None}
    channels = kinds.channel_axis(layer)
    axes = channels, channels
    if role == "einsum":
        changes.pop("use_bias")
        kernel, axes, changes["bias_axes"] = _einsum(layer, ranks, axis, forwards)
        kernels = [kernel]
    elif role == "separable":
        kernels = [
            _Kernel(array(layer.depthwise_kernel), -2, -1, depthwise=True),
            _Kernel(array(layer.pointwise_kernel), -2, -1),
        ]
    elif role == "transposed":
        kernels = [_Kernel(array(layer.kernel), -1, -2)]
    else:
        groups = getattr(layer, "groups", 1)
        kernels = [_Kernel(array(layer.kernel), -2, -1, groups, role == "depthwise")]
    size = call.outputs[0].shape[axes[1]]
    bias = np.zeros(size) if layer.bias is None else array(layer.bias).ravel()
    return Linear(kernels, bias, axes[0] % ranks[0], axes[1] % ranks[1], changes)


def _einsum(
    layer: keras.layers.EinsumDense, ranks: tuple[int, int], axis: int | None, forwards: bool
) -> tuple[_Kernel, tuple[int, int], str]:
    """The kernel of an EinsumDense layer, its channel axes, and the axes of the new bias."""
    operands, made = layer.equation.split("->")
    given, kernel = operands.split(",")

    def position(spec: str, label: str, rank: int) -> int:
        letters = spec.replace(".", "")
        return letters.index(label) + (rank - len(letters) if spec[0] == "." else 0)

    def label_at(spec: str, rank: int) -> str | None:
        for label in spec.replace(".", ""):
            if position(spec, label, rank) == axis:
                return label
        return None

    label = label_at(given if forwards else made, ranks[not forwards])
    if label is None or label not in kernel or (forwards and (len(kernel) != 2 or label in made)):
        raise CannotFoldError(f"{layer.name} has the equation {layer.equation}")
    out = kernel.replace(label, "") if forwards else label
    if out not in made or layer.bias_axes not in (None, "", out):
        raise CannotFoldError(f"{layer.name} has the equation {layer.equation}")
    # Only a kernel of two axes is ever folded forwards; otherwise the axis of the inputs is moot.
    other = kernel.replace(out, "")[:1]
    axes = position(given, other, ranks[0]) if other in given else 0, position(made, out, ranks[1])
    found = _Kernel(array(layer.kernel), kernel.index(other or out), kernel.index(out))
    return found, axes, out


def pads(layer: keras.Layer) -> bool:
    """Whether some output position of a linear layer may meet fewer inputs than others."""
    role = kinds.kind(layer).role
    if role in ("dense", "einsum") or (max(layer.kernel_size) == 1 and max(layer.strides) == 1):
        return False
    if role == "transposed":
        return True
    return layer.padding != "valid" and max(layer.kernel_size) > 1
