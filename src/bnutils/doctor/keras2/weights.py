"""Weights from an .h5 file of Keras 2 for the layers of a model."""

from collections.abc import Iterable, Iterator
from typing import Any

import h5py

from bnutils._keras import keras

__all__ = ["assign_weights", "weight_groups"]

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
