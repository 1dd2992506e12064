# ruff: noqa: PT012 (the contexts that are tested stand inside pytest.raises)
"""Whatever comes in between, a model is put back; and one thread at a time has it."""

import contextlib
import gc
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest

from bnutils._keras import keras, tf
from bnutils.doctor import audit, freeze_bn, recalibrate, unfreeze_bn
from bnutils.doctor.restoring import LOCK, restored

layers = keras.layers


@pytest.fixture(autouse=True)
def _handlers_are_given_back():
    # A process that a script has put into the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


VALUES = [0, 1, 2]


def change(keep=False):
    with restored(keep) as undo:
        for place in range(len(VALUES)):
            undo(VALUES.__setitem__, place, VALUES[place])
            VALUES[place] = -1


def shoot(at, function, *args, signals=(signal.SIGINT,)):
    """Call a function, with a signal at some of the instructions of Python that it runs.

    Returns:
        The number of instructions, and what was raised.
    """
    count, raised = 0, None

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            # Python itself looks for signals at calls and jumps, not on the way to __exit__.
            if count in at and frame.f_code is not change.__code__:
                signal.raise_signal(signals[at.index(count) % len(signals)])
        return trace

    gc.disable()  # an interrupt in a callback of the collector would be lost, whoever set it
    sys.settrace(trace)
    try:
        function(*args)
    except BaseException as error:
        raised = error
    finally:
        sys.settrace(None)
        gc.enable()
    return count, raised


@pytest.mark.parametrize("keep", [False, True])
def test_an_interrupt_at_any_instruction_leaves_all_or_nothing(keep):
    whole = [-1, -1, -1] if keep else [0, 1, 2]
    shoot((), change, keep)
    VALUES[:] = 0, 1, 2
    last, raised = shoot((), change, keep)
    assert (VALUES, raised) == (whole, None)
    rng, interrupts = random.Random(0), 0
    for first in range(1, last, 3):
        for at in ((first,), (first, rng.randint(first + 20, last + 20))):
            VALUES[:] = 0, 1, 2
            _, raised = shoot(at, change, keep)
            assert raised is None or isinstance(raised, KeyboardInterrupt)
            interrupts += raised is not None
            # After the end, and before the function has returned, it comes too late to undo.
            assert VALUES in ([0, 1, 2], whole)
    VALUES[:] = 0, 1, 2
    assert interrupts > last / 2


def test_the_first_interrupt_waits_for_the_end_and_the_second_does_not():
    seen = []
    with pytest.raises(KeyboardInterrupt), restored() as undo:
        undo(seen.append, "undone")
        with restored():
            signal.raise_signal(signal.SIGINT)
        seen.append("after the first")
    assert seen == ["after the first", "undone"]
    seen.clear()
    with pytest.raises(KeyboardInterrupt), restored() as undo:
        undo(seen.append, "undone")
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append("never")
    assert seen == ["undone"]


def test_interrupts_while_things_are_put_back_wait_until_all_is():
    seen = []

    def interrupted(name):
        seen.append(name)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append(f"{name} done")

    with pytest.raises(KeyboardInterrupt), restored() as undo:
        undo(interrupted, "first")
        undo(interrupted, "second")
    assert seen == ["second", "second done", "first", "first done"]


def test_other_signals_with_a_handler_wait_too_and_a_quiet_one_is_only_called():
    class TooLongError(Exception):
        pass

    calls = []

    def too_long(number, frame):
        raise TooLongError

    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler, expected in (
            (too_long, TooLongError),
            (lambda *_: calls.append("term"), None),
        ):
            signal.signal(signal.SIGTERM, handler)
            values = [1]
            try:
                with restored() as undo:
                    undo(values.__setitem__, 0, 1)
                    values[0] = 2
                    signal.raise_signal(signal.SIGTERM)
                    assert calls == []
                raised = None
            except TooLongError as error:
                raised = type(error)
            assert (raised, values) == (expected, [1])
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == ["term"]


def test_an_exception_that_was_swallowed_inside_is_raised_at_the_end():
    with pytest.raises(KeyboardInterrupt), restored():
        try:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_raises_is_done_again_and_keeps_no_other_from_being_done(error):
    tries, values = [], [0, 1, 2]

    def failing(times):
        tries.append(times)
        if len(tries) <= times:
            raise error("in a step")
        values[1] = 1

    for times in (1, 99):
        tries.clear()
        values[:] = -1, -1, -1
        with pytest.raises(error, match="in a step"), restored() as undo:
            undo(values.__setitem__, 0, 0)
            undo(failing, times)
            undo(values.__setitem__, 2, 2)
        assert values == ([0, 1, 2] if times == 1 else [0, -1, 2])


def test_what_is_kept_is_put_back_if_it_fails_or_was_interrupted():
    values = [1]
    with restored(keep=True) as undo:
        undo(values.__setitem__, 0, 1)
        values[0] = 2
    assert values == [2]
    for fail in (lambda: signal.raise_signal(signal.SIGINT), lambda: 1 / 0):
        with pytest.raises((KeyboardInterrupt, ZeroDivisionError)), restored(keep=True) as undo:
            undo(values.__setitem__, 0, 2)
            values[0] = 3
            fail()
        assert values == [2]


def test_scopes_that_an_exception_left_open_are_closed():
    variable = keras.Variable(1.0)
    scope = keras.StatelessScope()
    with pytest.raises(RuntimeError), restored():
        scope.__enter__()
        tf.compat.v1.Graph().as_default().__enter__()
        raise RuntimeError
    assert tf.executing_eagerly()
    variable.assign(2.0)
    assert float(variable.value) == 2.0


def test_in_a_thread_nothing_is_held_and_all_is_put_back():
    values, seen = [1], []

    def work():
        try:
            with restored() as undo:
                undo(values.__setitem__, 0, 1)
                values[0] = 2
                raise RuntimeError
        except RuntimeError:
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (values, seen) == ([1], [signal.default_int_handler])


# The doctor's functions


X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = X.sum(1, keepdims=True)


def noisy():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    h = layers.BatchNormalization(name="bn")(layers.Dense(8)(inputs))
    h = layers.Dropout(0.5, seed=1, name="drop")(layers.ReLU()(h))
    model = keras.Model(inputs, layers.Dense(1)(h))
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    return model


def everything(model):
    variables = [*model.variables, *model.optimizer.variables]
    return (
        [v.numpy().tobytes() for v in variables],
        [(layer.name, layer.trainable, "call" in vars(layer)) for layer in model.layers],
        [v.trainable for v in model.variables],
        {name: id(value) for name, value in vars(model).items() if name.endswith("_function")},
        tf.config.functions_run_eagerly(),
        tf.config.optimizer.get_experimental_options(),
    )


CALLS = {
    "audit": lambda model: audit(model, (X, Y)),
    "recalibrate": lambda model: recalibrate(model, X),
    "freeze_bn": lambda model: freeze_bn(model, (X, Y)),
    "unfreeze_bn": lambda model: unfreeze_bn(model, (X, Y)),
}


@pytest.mark.parametrize("name", CALLS)
def test_real_interrupts_leave_the_model_as_it_was(name):
    """A thread sends one or two of them after a random time."""
    model, call = noisy(), CALLS[name]
    if name == "unfreeze_bn":
        freeze_bn(model, (X, Y))
    before = everything(model)
    rng = random.Random(0)
    for trial in range(4):
        sent = threading.Event()

        wait = rng.random() * 0.5

        def send(trial=trial, sent=sent, wait=wait):
            time.sleep(wait)
            for _ in range(1 + trial % 2):
                signal.raise_signal(signal.SIGINT)  # which Windows has too
                time.sleep(0.01)
            sent.set()

        finished = False
        thread = threading.Thread(target=send)
        try:
            thread.start()
            call(model)
            finished = True
        except KeyboardInterrupt:
            pass
        for wait in (sent.wait, sent.wait, sent.wait, thread.join):
            with contextlib.suppress(KeyboardInterrupt):  # what comes late interrupts the waiting
                wait()
        if finished and name != "audit":
            return
        assert everything(model) == before
        model.predict(X[:4], verbose=0)
        before = everything(model)


def test_threads_take_turns():
    model = noisy()
    drop = model.get_layer("drop")
    expected, before, found = str(audit(model, (X, Y))), everything(model), []

    def work():
        found.append(str(audit(model, (X, Y))))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 2
    assert everything(model) == before
    zeros = np.mean(drop(np.ones((100, 8)), training=True).numpy() == 0)
    assert 0.3 < zeros < 0.7


def test_the_lock_is_one_for_all_threads_and_can_be_taken_again_by_its_own():
    taken = []
    with LOCK, LOCK:
        thread = threading.Thread(target=lambda: taken.append(LOCK.acquire(blocking=False)))
        thread.start()
        thread.join()
    assert taken == [False]
