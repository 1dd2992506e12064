"""State that Keras and TensorFlow keep for the whole process or thread."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from tensorflow.python.eager import context
from tensorflow.python.framework import ops

from bnutils._keras import keras

__all__ = ["global_seeds", "random_state", "same_draws", "scopes"]


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


def global_seeds() -> keras.random.SeedGenerator | None:
    """Give what layers draw seeds from that were given none; None before the first draw."""
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def random_state() -> Callable[[], None]:
    """Give a function that puts back which global seed generator there is, and TensorFlow's own.

    TensorFlow's is what `tf.random.normal` and the like draw from after `tf.random.set_seed`.
    """
    seeds, eager = global_seeds(), getattr(context.context(), "_rng", None)  # made with a seed
    drawn = None if eager is None else eager.getstate()

    def put_back() -> None:
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, seeds)
        if eager is not None:
            eager.setstate(drawn)

    return put_back


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """A context in which models may be built and loaded: who draws after it draws the same.

    Layers without a seed draw one from Python's generator or from the global one of Keras.
    """
    put_back, seeds = random_state(), global_seeds()
    drawn = None if seeds is None else seeds.state.numpy()
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        put_back()
        if seeds is not None:
            seeds.state.assign(drawn)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
