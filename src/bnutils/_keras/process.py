"""State that Keras and TensorFlow keep for the whole process or thread."""

from collections.abc import Callable

from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.framework import ops

__all__ = ["scopes"]


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
