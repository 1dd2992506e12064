"""The model that the doctor looks at, with what is asked of it again and again."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from bnutils._keras import keras, tf
from bnutils.doctor.graph import BN, batch_norms, layer_paths

__all__ = ["Subject", "statistics_of"]


class Subject:
    """A model with its layers, their paths and its optimizers, each worked out once.

    Every public function of the doctor makes one and hands it on. Layers that come into being
    later, when an unbuilt model is built, need `forget`.

    Attributes:
        model: the Keras model.
    """

    def __init__(self, model: keras.Model) -> None:
        """Take a model in.

        Args:
            model: a Keras model of any kind.

        Raises:
            ValueError: if it is not a Keras model.
        """
        if not isinstance(model, keras.Model):
            kind, package = type(model).__name__, type(model).__module__.partition(".")[0]
            if package == "tf_keras":
                raise ValueError(
                    f"expected a model of Keras 3, got a {kind} of tf_keras, the separate legacy "
                    "package: save it as an .h5 file, and open that with "
                    "bnutils.doctor.open_model"
                )
            raise ValueError(f"expected a Keras model, got {kind}")
        self.model = model

    @functools.cached_property
    def paths(self) -> dict[keras.Layer, str]:
        """The path of every layer inside the model, such as "base/block1/bn"."""
        return layer_paths(self.model)

    @functools.cached_property
    def layers(self) -> list[BN]:
        """Every batch normalization layer, nested and wrapped ones too, each once."""
        return batch_norms(self.model)

    @property
    def holders(self) -> tuple[keras.Layer, ...]:
        """The model and every layer in it, parents before their children."""
        return self.model, *self.paths

    @property
    def weights(self) -> list[tuple[keras.Layer, keras.Variable]]:
        """Every weight of the model, each once, with the innermost layer that holds it."""
        held = {}
        for holder in self.holders:
            held.update({id(variable): (holder, variable) for variable in holder.weights})
        return list(held.values())

    @property
    def plain_variables(self) -> list[tf.Variable]:
        """The variables of TensorFlow that stand in attributes; Keras does not know of them."""
        values = [value for holder in self.holders for value in vars(holder).values()]
        return [value for value in values if isinstance(value, tf.Variable)]

    def path(self, layer: keras.Layer) -> str:
        """The path of a layer in the model; "" for the model itself."""
        return "" if layer is self.model else self.paths.get(layer, layer.name)

    def forget(self) -> None:
        """Let everything be worked out anew: the model has been built since."""
        vars(self).pop("paths", None)
        vars(self).pop("layers", None)

    @property
    def built(self) -> bool:
        """Whether the model and all its batch normalization layers have their variables."""
        built = self.model.built or not self.has_call
        return built and all(layer.built for layer in self.layers)

    def optimizers(self) -> Iterator[tuple[keras.Layer, str, keras.optimizers.Optimizer]]:
        """Every optimizer that the model or a layer holds: (holder, attribute, optimizer).

        The attribute may be a list, a tuple or a dict of optimizers, and then comes with each.
        """
        for holder in self.holders:
            for name, value in vars(holder).items():
                for _, each in _held(value):
                    if isinstance(each, keras.optimizers.Optimizer):
                        yield holder, name, each

    def require_batch_norm(self) -> None:
        """Refuse a model without batch normalization; one that is not built may get some yet.

        Raises:
            ValueError: if there is none.
        """
        if self.built and not self.layers:
            raise ValueError(
                f"expected a model with batch normalization, {self.model.name!r} has none"
            )

    # Models that are trained through their parts

    @property
    def has_call(self) -> bool:
        """Whether the model itself can be called on data."""
        return type(self.model).call is not keras.Model.call

    @functools.cached_property
    def parts(self) -> dict[str, keras.Model]:
        """The sub-models that can be called and hold batch normalization.

        They stand under the expressions by which a user reaches them, such as "model.encoder".
        """
        found = {}
        for name, value in vars(self.model).items():
            for key, each in _held(value):
                if (
                    isinstance(each, keras.Model)
                    and not name.startswith("_")
                    and Subject(each).has_call
                    and batch_norms(each)
                    and each not in found.values()
                ):
                    found[f"model.{name}{key}"] = each
        return found

    def require_call(self, function: str, *, with_data: bool = True) -> None:
        """Refuse a model that cannot be called on data.

        Args:
            function: what the user called, such as "recalibrate".
            with_data: whether it needs data.

        Raises:
            ValueError: if the model has no `call`; the message names the parts that do.
        """
        if self.has_call:
            return
        given = ", ..." if with_data else ""
        parts = [f"{function}({expression}{given})" for expression in self.parts]
        instead = " and ".join(parts) or f"{function} on the models that it is made of"
        raise ValueError(
            f"expected a model that can be called on data, but {type(self.model).__name__} has no "
            f"call method: call {instead}"
            + (", each with the data that it is given in training" if with_data else "")
        )


def statistics_of(layer: BN) -> list[keras.Variable]:
    """The variables that recalibrating a layer writes: all but gamma and beta."""
    return [v for v in layer.weights if v is not layer.gamma and v is not layer.beta]


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """What an attribute holds: itself, or what is in its list, tuple or dict, with the index."""
    yield "", value
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{place}]", each) for place, each in enumerate(value))
