"""What a trial changes is put back, whatever happens; and one thread at a time has the model.

An interrupt can come between any two instructions: while weights are put back, or while Keras
leaves one of its scopes. So inside `restored` an interrupt waits for the end.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from bnutils._keras import (
    collected_losses,
    global_seeds,
    metrics_of,
    random_state,
    replicas,
    scopes,
    tf,
)

if TYPE_CHECKING:
    from bnutils.doctor.subject import Subject

__all__ = ["LOCK", "put_back_attributes", "put_back_values", "restored", "swap"]

LOCK = threading.RLock()
"""Held by each public function of the doctor while it looks at a model.

They hook into the layers and turn switches that TensorFlow has once per process. A second thread
waits, also with another model. A `fit` of your own in another thread does not wait.
"""

# What may be handled by a function that raises: Ctrl-C, being ended, a timer, a user's own.
_NAMES = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_TRIES = 3  # a step that is interrupted is done again; one that fails thrice will not succeed


class restored:  # noqa: N801 (used as a function, such as contextlib.suppress)
    """A context in which a model may be changed: what is changed is put back at its end.

    Entering gives a function `undo(function, *args)`, which asks for a call at the end. The calls
    are made last first, every one of them, even if others raise. Each should be one small step
    that may be done twice.

    An interrupt (Ctrl-C, or any other signal with a handler in Python) that arrives inside waits
    for the end, and is raised when all is put back: Keras and TensorFlow are not torn out of the
    middle of something either. If the same one arrives a second time it is raised at once, so
    that a model that hangs can be stopped, but never while something is put back. Contexts nest;
    the outermost one raises. Python gives signals to the main thread only: in others there is
    nothing to hold.

    Args:
        keep: leave what was done inside as it is, unless an exception leaves the context. Then,
            and if an interrupt has waited, it is put back.

    Example:
        >>> values = [1]
        >>> with restored() as undo:
        ...     undo(values.__setitem__, 0, values[0])
        ...     values[0] = 2
        >>> values
        [1]
    """

    def __init__(self, keep: bool = False) -> None:
        """Prepare; nothing happens before it is entered."""
        self._keep = keep
        self._steps = []

    def __enter__(self) -> Callable:
        """Begin to hold interrupts."""
        self._scopes = scopes()
        _interrupts.enter()
        return self._undo

    def __exit__(self, kind: type | None, error: Any, trace: TracebackType | None) -> None:
        """Put everything back, then let interrupts through."""
        failure = None
        if error is None and self._keep and _interrupts.depth == 1 and _in_main_thread():
            failure = _interrupts.answer()
        if error is not None:
            self._steps.append(self._scopes)
        if error is not None or failure is not None or not self._keep:
            for step in reversed(self._steps):
                failure = _done(step) or failure
        _interrupts.leave(swallowed=error is None)
        if failure is not None:
            raise failure

    def _undo(self, function: Callable, *args: Any) -> None:
        self._steps.append(lambda: function(*args))


def _done(step: Callable[[], Any]) -> BaseException | None:
    """Take a step to its end; give what came in between, if anything."""
    failure = None
    for _ in range(_TRIES):
        try:
            step()
            break
        except BaseException as error:  # whatever it is, the other steps have to be taken
            failure = error
    return failure


class _Interrupts:
    """The signals of the main thread that are handled in Python, held while a context is open."""

    def __init__(self) -> None:
        self.depth = 0
        self.handlers = {}  # signal -> the handler from before
        self.waiting = {}  # signal -> frame
        self.raised = {}  # the same, for what came twice and was raised

    def enter(self) -> None:
        if not _in_main_thread():
            return
        now = {number: signal.getsignal(number) for number in _SIGNALS}
        if self.depth and self.hold in now.values():
            self.depth += 1
            return
        self.handlers = {
            number: self.handlers[number] if old == self.hold else old
            for number, old in now.items()
            if callable(old)
        }
        self.waiting, self.raised = {}, {}
        try:
            for number in self.handlers:
                signal.signal(number, self.hold)
            self.depth = 1
        except BaseException:
            self.release()
            raise

    def hold(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: let it wait, unless it comes again and nothing is being put back."""
        if self.depth and (number not in self.waiting or self.raised or _is_closing(frame)):
            self.waiting[number] = frame
            return
        self.waiting.pop(number, None)
        try:
            self.handlers[number](number, frame)
        except BaseException:
            self.raised[number] = frame
            raise

    def answer(self) -> BaseException | None:
        """Call the handlers of what has waited; give what they raise, if anything."""
        failure = None
        while self.waiting:
            number, frame = self.waiting.popitem()
            try:
                self.handlers[number](number, frame)
            except BaseException as error:
                failure = error
        return failure

    def leave(self, swallowed: bool) -> None:
        """Close one context, and answer what has waited if it was the last.

        Args:
            swallowed: whether no exception leaves the context. If one was raised inside by a
                signal that came twice, it got lost on its way.
        """
        if not _in_main_thread():
            return
        if self.depth > 1:
            self.depth -= 1
            return
        try:
            self.release()
        finally:
            if self.raised:
                self.waiting = self.raised if swallowed else {}
            failure = self.answer()
            if failure is not None:
                raise failure

    def release(self) -> None:
        """Give the signals back to their handlers, Ctrl-C last."""
        try:
            for number in reversed(self.handlers):
                if signal.getsignal(number) == self.hold:
                    signal.signal(number, self.handlers[number])
        finally:
            self.depth = 0


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


_interrupts = _Interrupts()
_CLOSING = restored.__exit__.__code__, restored.__enter__.__code__


def _is_closing(frame: FrameType | None) -> bool:
    """Whether something is being put back, or a context opened, in this frame or around it."""
    while frame is not None:
        if frame.f_code in _CLOSING:
            return True
        frame = frame.f_back
    return False


# What a training step changes


def swap(undo: Callable, holder: Any, name: str, value: Any) -> None:
    """Set an attribute for as long as a context is open; not through setattr, which may track it.

    Args:
        undo: what `restored` gave.
        holder: the object.
        name: the attribute.
        value: what it is to be meanwhile.
    """
    attributes = vars(holder)
    if name in attributes:
        undo(attributes.__setitem__, name, attributes[name])
    else:
        undo(attributes.pop, name, None)
    attributes[name] = value


def put_back_attributes(undo: Callable, subject: Subject) -> None:
    """Put back the attributes of a model, what its layers have collected, and random states."""
    undo(_reset, vars(subject.model), dict(vars(subject.model)))
    for layer in subject.holders:
        undo(collected_losses(layer))
    undo(random_state())
    undo(random.setstate, random.getstate())
    undo(np.random.set_state, np.random.get_state())  # noqa: NPY002


def _reset(mapping: dict, before: dict) -> None:
    mapping.update(before)
    for name in mapping.keys() - before.keys():
        del mapping[name]


def put_back_values(
    undo: Callable, subject: Subject, kept: Iterable[Any]
) -> dict[int, tuple[tf.Variable, tf.Tensor]]:
    """Put back the value of every variable that a training step may write to.

    Args:
        undo: what `restored` gave.
        subject: the model.
        kept: what else has `variables`: optimizers, traced steps.

    Returns:
        For the id of each variable of TensorFlow the variable and its value.
    """
    seeds = global_seeds()
    variables = [*subject.model.variables, *([] if seeds is None else [seeds.state])]
    for each in (*metrics_of(subject.model), *kept):
        variables += each.variables
    variables += subject.plain_variables
    for holder in subject.holders:
        generators = [v for v in vars(holder).values() if isinstance(v, tf.random.Generator)]
        variables += [generator.state for generator in generators]
    before = {id(part): (part, tf.identity(part)) for each in variables for part in replicas(each)}
    for part, value in before.values():
        undo(part.assign, value)
    return before
