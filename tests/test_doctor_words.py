"""The sentences of reports: what an error says, without what is put around it."""

import numpy as np
import pytest

from bnutils._keras import keras, tf
from bnutils.doctor.words import cause, first_line, in_a_line


def number(text):
    """Fail inside a graph of TensorFlow."""
    return tf.function(tf.strings.to_number)(tf.constant(text))


def cast():
    """Fail in an operation that runs eagerly."""
    tf.cast(tf.constant("cat"), tf.float32)


def trained_on_text():
    """Fail in the loss, with colors and a traceback of Keras."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((1, 2), "float32"), tf.constant(["cat"]))


def called_on_columns():
    """Fail in a layer, with colors and the arguments of each call."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model(np.ones((1, 3), "float32"))


class Picky(keras.Model):
    """It looks for an input, and raises the KeyError of Python if there is none."""

    def call(self, x):
        """Take the input."""
        return x["image"]


@pytest.mark.parametrize("x", [np.ones((1, 2)), {"text": np.ones((1, 2))}], ids=["array", "dict"])
def test_a_cause_in_a_traced_call_is_told_alone(x):
    model = Picky()
    with pytest.raises((TypeError, KeyError)) as caught:
        tf.function(lambda: model(x))()
    told = cause(caught.value)
    assert told == "KeyError: image" if isinstance(x, dict) else told.endswith("'image'")
    assert not any(more in told for more in ("Arguments", "x1b", "\n"))


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (lambda: number("cat"), "StringToNumberOp could not correctly convert string: cat"),
        (cast, "Cast string to float is not supported"),
        (trained_on_text, "Cast string to float is not supported"),
        (called_on_columns, "expected axis -1 of input shape to have value 2, but received"),
    ],
    ids=["graph", "operation", "loss", "layer"],
)
def test_the_line_that_says_it_is_found(fail, says):
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        fail()
    told = cause(caught.value)
    assert told.startswith(f"{caught.type.__name__}: ")
    assert says in told
    assert says in in_a_line(caught.value)
    assert not {"\x1b", "\n"} & set(told)
    assert not any(
        header in told for header in ("Graph execution", "Detected at", "node ", "[Op:", "name:")
    )


def test_the_first_line_is_no_header():
    error = RuntimeError(
        "Graph execution error:\n\nDetected at node a/Cast defined at (most recent call last):\n"
        '  File "a.py", line 1, in <module>\n\n2 root error(s) found.\n'
        "  (0) UNIMPLEMENTED: \x1b[1mno cast\x1b[0m\n\t [[{{node a/Cast}}]]\n"
        "  (1) UNIMPLEMENTED: no cast"
    )
    assert first_line(error) == "no cast"
    assert first_line(RuntimeError()) == ""
