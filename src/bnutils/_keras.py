"""Keras on TensorFlow, started without TensorFlow's greeting on stderr. Import keras from here."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def _silent_stderr() -> Iterator[None]:
    screen = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


# TensorFlow's first messages come before it reads any setting, straight to file descriptor 2.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr():
    import keras
    import tensorflow as tf

if (backend := keras.backend.backend()) in ("jax", "numpy", "openvino", "torch"):
    raise ImportError(
        f"expected Keras to run on TensorFlow, but its backend is {backend!r}: "
        "set KERAS_BACKEND=tensorflow before keras is imported"
    )

# Private names of Keras and TensorFlow may change with any version. They stand in this file alone,
# each in a function that says what it is for.

from keras.src.backend.common import global_state  # noqa: E402
from tensorflow.python.eager import context  # noqa: E402
from tensorflow.python.framework import ops  # noqa: E402

__all__ = ["keras", "operation_class", "scopes", "tf"]


# The state of the process


def scopes() -> Callable[[], None]:
    """Give a function that leaves every scope of Keras and TensorFlow that is entered from now on.

    An exception that an interrupt raises while such a scope is being left keeps it open: in a
    `StatelessScope` no assignment works any more. Everything here belongs to this thread.
    """
    names = vars(global_state.GLOBAL_STATE_TRACKER)
    names_then = dict(names)
    mode = context.context()._thread_local_data
    mode_then = {name: getattr(mode, name) for name in ("is_eager", "scope_name", "device_name")}
    stacks = [
        names.get("name_scope_stack", []),
        context.context().context_switches.stack,
        ops._default_graph_stack.stack,
    ]
    stacks_then = [list(stack) for stack in stacks]

    def leave() -> None:
        for name in names.keys() - names_then.keys():
            del names[name]
        names.update(names_then)
        for name, value in mode_then.items():
            setattr(mode, name, value)
        for stack, then in zip(stacks, stacks_then, strict=True):
            stack[:] = then

    return leave


def operation_class(name: str) -> type:
    """The class behind a function of `keras.ops`, which a recorded graph holds: `Relu`, `Add`.

    Keras publishes the functions alone.
    """
    from keras.src.ops import core, nn, numpy

    return next(getattr(module, name) for module in (numpy, nn, core) if hasattr(module, name))
