"""What `compile` was given, from a file of Keras 2."""

import inspect
from typing import Any

from bnutils._keras import keras
from bnutils.doctor.keras2.words import Config, bare, function_name, policy_name
from bnutils.doctor.results import Skipped

__all__ = ["compile_arguments"]


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
    name, config = bare(old["class_name"]), dict(old["config"])
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
        schedule = getattr(keras.optimizers.schedules, bare(rate["class_name"]), None)
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
    if isinstance(old, dict) and bare(old["class_name"]) == "MeanMetricWrapper":
        old = function_name(old["config"]["fn"])
    if old in ("acc", "accuracy", "ce", "crossentropy"):
        return old
    return _callable(old, keras.metrics)


def _callable(old: Any, module: Any) -> Any:
    """A loss or a metric by what its file says."""
    if old is None:
        return None
    if isinstance(old, dict) and old["class_name"] != "function":
        name = bare(old["class_name"])
        cls = getattr(module, name, None)
        if not inspect.isclass(cls):
            return module.deserialize(old)
        known = inspect.signature(cls.__init__).parameters
        config = {key: each for key, each in old["config"].items() if key in known}
        if config.get("reduction") == "auto":
            config.pop("reduction")
        if "dtype" in config:
            config["dtype"] = policy_name(config["dtype"])
        return cls(**config)
    found = module.get(function_name(old))
    if found is None:
        raise ValueError(f"Keras 3 has no {function_name(old)}")
    return found
