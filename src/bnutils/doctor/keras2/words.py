"""How the files of Keras 2 and Keras 3 name classes, functions and policies."""

from typing import Any

__all__ = ["NOTHING", "Config", "bare", "function_name", "policy_name", "serialized"]

Config = dict[str, Any]

# Values of a key that mean the same as its absence.
NOTHING = (None, False, "", [], {})


def serialized(module: str, name: str, config: Config) -> Config:
    """A class of Keras 3 as its files name it."""
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def bare(name: str) -> str:
    """A class's name without the package that it was registered under."""
    return name.rsplit(">", 1)[-1]


def function_name(value: Any) -> Any:
    """The name of a function, however it was written."""
    if isinstance(value, dict) and value.get("class_name") == "function":
        return value.get("config")
    return value


def policy_name(value: Any) -> Any:
    """A policy by its name."""
    return value["config"]["name"] if isinstance(value, dict) else value
