"""The same rows whatever form the data have, and a clear word about data that will not do."""

import gc
import itertools
import os
import pathlib
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnutils._keras import keras, tf
from bnutils.doctor.batches import batches

X = np.arange(14, dtype="float32").reshape(7, 2)
Y = np.arange(7)
W = np.ones(7, "float32")


class Table(keras.utils.PyDataset):
    """X and Y in batches of 3; `form` makes the batch."""

    def __init__(self, form, length=3):
        """Take a function from a slice of rows to a batch."""
        super().__init__()
        self.form, self.length = form, length

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, number):
        """Make one batch."""
        return self.form(slice(3 * number, 3 * number + 3))


def generator(form=lambda rows: (X[rows], Y[rows])):
    for start in range(0, 7, 3):
        yield form(slice(start, start + 3))


def dataset(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(3)


FORMS = {
    "array": (lambda: X, False),
    "float64 array": (lambda: X.astype("float64"), False),
    "tensor": (lambda: tf.constant(X), False),
    "nested lists": (lambda: X.tolist(), False),
    "frame": (lambda: pd.DataFrame(X, index=list("gfedcba")), False),
    "tuple of x": (lambda: (X,), False),
    "tuple with None": (lambda: (X, None), False),
    "x, y": (lambda: (X, Y), True),
    "x, y, w": (lambda: (X, Y, W), True),
    "frame and series": (lambda: (pd.DataFrame(X), pd.Series(Y)), True),
    "x and y as lists": (lambda: (X.tolist(), Y.tolist()), True),
    "tf.data x": (lambda: dataset(X), False),
    "tf.data x, y": (lambda: dataset(X, Y), True),
    "tf.data x, y, w": (lambda: dataset(X, Y, W), True),
    "PyDataset x": (lambda: Table(lambda rows: X[rows]), False),
    "PyDataset x, y": (lambda: Table(lambda rows: (X[rows], Y[rows])), True),
    "PyDataset list": (lambda: Table(lambda rows: [X[rows], Y[rows], W[rows]]), True),
    "generator": (generator, True),
    "generator of x": (lambda: generator(lambda rows: X[rows]), False),
    "generator of tensors": (lambda: generator(lambda rows: (tf.constant(X[rows]),)), False),
    "callable": (lambda: generator, True),
    "iterable": (lambda: type("Loader", (), {"__iter__": lambda self: generator()})(), True),
}


@pytest.mark.parametrize(("make", "targets"), FORMS.values(), ids=FORMS)
def test_every_form_gives_all_rows_in_order_as_often_as_wanted(make, targets):
    data = batches(make(), batch_size=3)
    for _ in range(3):
        found = list(data)
        assert [x.shape for x, _ in found] == [(3, 2), (3, 2), (1, 2)]
        np.testing.assert_array_equal(np.concatenate([np.asarray(x) for x, _ in found]), X)
        if targets:
            np.testing.assert_array_equal(np.concatenate([np.asarray(y) for _, y in found]), Y)
        else:
            assert {y for _, y in found} == {None}
    assert (data.rows, data.steps) == (7, 3)


@pytest.mark.parametrize(("make", "targets"), FORMS.values(), ids=FORMS)
def test_first_takes_nothing_from_later_passes(make, targets):
    data = batches(make(), batch_size=3)
    for _ in range(2):
        x, y = data.first()
        np.testing.assert_array_equal(np.asarray(x), X[:3])
        assert (y is not None) == targets
    assert sum(len(x) for x, _ in data) == 7


INPUTS = {
    "dict": {"a": X, "b": X[:, :1]},
    "list": [X, X[:, :1]],
    "tuple in a tuple": (X, X[:, :1]),
}


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_several_inputs_keep_their_structure(inputs):
    for data in [(inputs, Y), dataset(inputs, Y) if not isinstance(inputs, list) else (inputs, Y)]:
        found = [x for x, _ in batches(data, 3)]
        assert all(type(x) is type(inputs) for x in found)
        for number, leaf in enumerate(keras.tree.flatten(inputs)):
            parts = [np.asarray(keras.tree.flatten(x)[number]) for x in found]
            np.testing.assert_array_equal(np.concatenate(parts), leaf)


def test_what_is_known_of_rows_and_batches():
    data = batches(X, 3)
    assert (data.rows, data.batch_size, data.steps) == (7, 3, 3)
    assert batches(X).batch_size == 32
    assert batches(data) is data
    data = batches(dataset(X, Y), 5)
    assert (data.rows, data.batch_size, data.steps) == (None, None, 3)
    data = batches(generator())
    assert (data.rows, data.steps) == (None, None)
    list(data)
    assert (data.rows, data.steps) == (7, 3)


def test_batches_without_rows_are_left_out():
    found = list(batches(lambda: [X[:0], X[:2], X[2:2], X[2:]]))
    assert [len(x) for x, _ in found] == [2, 5]


def test_text_stays_text():
    words = np.array(["a", "bc", "d"], dtype=object)
    assert [x.numpy().tolist() for x, _ in batches(words, 2)] == [[b"a", b"bc"], [b"d"]]


def test_arrays_are_sliced_not_copied(tmp_path):
    big = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (7, 2))
    big[:] = X
    assert all(np.shares_memory(x, big) for x, _ in batches(big, 3))


def test_a_generator_is_drawn_once_and_only_as_far_as_needed():
    drawn = []

    def source():
        for start in range(0, 7, 3):
            drawn.append(start)
            yield X[start : start + 3]

    data = batches(source())
    assert drawn == []
    data.first()
    assert drawn == [0]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in data]), X)
    one, two = iter(data), iter(data)
    for (x, _), (other, _) in itertools.zip_longest(one, two):
        np.testing.assert_array_equal(x, other)
    assert drawn == [0, 3, 6]


def test_a_generator_that_fails_is_never_taken_for_complete():
    def source():
        yield X[:3]
        raise OSError("disk gone")

    data = batches(source())
    for _ in range(2):
        with pytest.raises(OSError, match="disk gone"):
            list(data)
    assert data.rows is None


def test_the_spool_leaves_no_file_and_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = len(os.listdir("/proc/self/fd")) if pathlib.Path("/proc/self/fd").exists() else None
    data = batches(generator())
    assert len(list(data)) == 3
    assert list(tmp_path.iterdir()) == []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del data
        gc.collect()
    assert [w for w in caught if issubclass(w.category, ResourceWarning)] == []
    if opened is not None:
        assert len(os.listdir("/proc/self/fd")) <= opened


BAD = {
    "None": (None, "got None"),
    "text": ("train.npz", "got 'train.npz'"),
    "number": (3, "got a int"),
    "set": ({1, 2}, "got {1, 2}"),
    "scalar array": (np.float32(1), "one row for each example"),
    "no rows": (X[:0], "at least one row"),
    "rows differ": ((X, Y[:5]), r"shapes \(7, 2\), \(5,\)"),
    "inputs differ": ({"a": X, "b": X[:3]}, r"shapes \(7, 2\), \(3, 2\)"),
    "long tuple": ((X, X, X, X), "tuple of 4"),
    "empty tuple": ((), "tuple of 0"),
    "ragged lists": ([[1.0, 2.0], [3.0]], "arrays of numbers or text"),
    "complex": (X.astype("complex64"), "real numbers or text"),
    "objects": (np.array([object(), object()]), "got objects in batch 1"),
    "infinite tf.data": (dataset(X).repeat(), "repeat"),
    "single examples": (tf.data.Dataset.range(3), "use batch"),
    "infinite PyDataset": (Table(lambda rows: X[rows], None), "without a number of batches"),
    "empty tf.data": (dataset(X).take(0), "at least one row"),
    "empty generator": (iter(()), "at least one row"),
    "ragged tensor": (lambda: [tf.ragged.constant([[1.0], []])], "RaggedTensor in batch 1"),
    "sparse tensor": (lambda: [tf.sparse.from_dense(X)], "SparseTensor in batch 1"),
    "rows of a batch differ": (lambda: [(X, Y), (X, Y[:5])], r"got \[5, 7\] in batch 2"),
    "single values": (lambda: [1.0, 2.0], "single value in batch 1"),
    "None in a batch": (lambda: [{"a": X, "b": None}], "None in batch 1"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        list(batches(data))


@pytest.mark.parametrize("size", [0, -1, 2.5, "3"])
def test_bad_batch_size(size):
    with pytest.raises(ValueError, match="positive integer"):
        batches(X, size)


def test_data_that_change_between_passes():
    sizes = iter([7, 5])
    data = batches(lambda: [X[: next(sizes)]])
    list(data)
    with pytest.raises(ValueError, match="got 5 rows now and 7 before"):
        list(data)


def two_inputs():
    a, b = keras.Input((2,), name="a"), keras.Input((None, 3), name="b")
    pooled = keras.layers.GlobalAveragePooling1D()(b)
    return keras.Model({"a": a, "b": b}, keras.layers.Concatenate()([a, pooled]))


SERIES = np.zeros((7, 4, 3), "float32")
FIT = {
    "dict": ({"a": X, "b": SERIES}, None),
    "more keys": ({"a": X, "b": SERIES, "c": X}, None),
    "list": ([X, SERIES], None),
    "one input": (X, "expected 2 inputs"),
    "shape": ({"a": SERIES[..., 0], "b": SERIES}, r"shape \(None, 2\) for input 'a', got \(7, 4\)"),
    "rank": ({"a": X, "b": X}, "single examples, not batches"),
}


@pytest.mark.parametrize(("data", "message"), FIT.values(), ids=FIT)
def test_data_are_held_against_the_inputs_of_the_model(data, message):
    data = batches(data, model=two_inputs())
    if message is None:
        assert [y for _, y in data] == [None]
    else:
        with pytest.raises(ValueError, match=message):
            list(data)


def test_a_missing_last_axis_of_one_is_no_fault():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert len(list(batches(np.zeros(5, "float32"), 3, model=model))) == 2


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 50))
def test_any_batch_size_gives_every_row_once(rows, size):
    x = np.arange(rows)
    data = batches(x, size)
    found = [part for part, _ in data]
    assert len(found) == data.steps
    assert all(len(part) == size for part in found[:-1])
    np.testing.assert_array_equal(np.concatenate(found), x)
