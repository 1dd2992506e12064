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
from scipy.sparse import csr_matrix

from bnutils._keras import keras, tf
from bnutils.doctor import batches as intake
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
    "complex tensor": (tf.constant(X.astype("complex64")), "real numbers or text"),
    "objects": (np.array([object(), object()]), r"got objects in batch 1 \(object\)"),
    "mixed columns": (pd.DataFrame({"a": ["u", "v"], "b": [1.0, 2.0]}), r"\(str, float\)"),
    "dates": (np.array(["2026-01-01"], "datetime64[D]"), r"got datetime64\[D\] in batch 1"),
    "records": (np.zeros(3, [("a", "f4"), ("b", "f4")]), "real numbers or text"),
    "masked": (np.ma.masked_array(X, X > 3), r"without a mask.*leave its rows out"),
    "masked targets": ((X, np.ma.masked_array(Y, Y > 3)), "without a mask"),
    "masked batches": (lambda: [np.ma.masked_array(X, X > 3)], "without a mask"),
    "infinite tf.data": (dataset(X).repeat(), "repeat"),
    "single examples": (tf.data.Dataset.range(3), "use batch"),
    "infinite PyDataset": (Table(lambda rows: X[rows], None), "without a number of batches"),
    "empty tf.data": (dataset(X).take(0), "at least one row"),
    "empty generator": (iter(()), "at least one row"),
    "ragged tensor": (lambda: [tf.ragged.constant([[1.0], []])], "RaggedTensor in batch 1"),
    "sparse tensor": (lambda: [tf.sparse.from_dense(X)], "SparseTensor in batch 1"),
    "sparse data": (tf.sparse.from_dense(X), r"dense arrays, got a SparseTensor: use to_tensor"),
    "sparse targets": ((X, tf.sparse.from_dense(X)), "dense arrays, got a SparseTensor"),
    "SciPy": (csr_matrix(X), r"dense arrays, got a csr_matrix: use toarray\(\) first"),
    "SciPy batches": (lambda: [csr_matrix(X)], "got a csr_matrix in batch 1"),
    "returns None": (lambda: None, "returns an iterable of batches, got None from it"),
    "rows of a batch differ": (lambda: [(X, Y), (X, Y[:5])], r"got \[5, 7\] in batch 2"),
    "single values": (lambda: [1.0, 2.0], "single value in batch 1"),
    "None in a batch": (lambda: [{"a": X, "b": None}], "None in batch 1"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message):
        list(batches(data))


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", True, np.True_])
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
    "names": ({"a": X, "z": SERIES}, r"expected 2 inputs by name \(a, b\), got 'a' and 'z'"),
    "shape": ({"a": SERIES[..., 0], "b": SERIES}, r"shape \(None, 2\) for input 'a', got \(7, 4\)"),
    "rank": ({"a": X, "b": X}, "single examples, not batches"),
    "text": ({"a": X.astype(str), "b": SERIES}, r"numbers for input 'a' \(float32\), got text"),
    "tensors of text": ([tf.as_string(X), SERIES], "got text in batch 1"),
    "objects of text": ([X.astype(str).astype(object), SERIES], "got text in batch 1"),
    "whole numbers": ([X.astype("int64"), SERIES.astype("uint8")], None),
    "truth values": ([X > 3, SERIES], None),
    "half precision": ([tf.cast(X, tf.bfloat16), SERIES.astype("float16")], None),
}


@pytest.mark.parametrize(("data", "message"), FIT.values(), ids=FIT)
def test_data_are_held_against_the_inputs_of_the_model(data, message):
    data = batches(data, model=two_inputs())
    if message is None:
        assert [y for _, y in data] == [None]
    else:
        with pytest.raises(ValueError, match=message):
            list(data)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_the_keys_of_a_dict_are_the_names_that_the_model_takes():
    a = keras.Input((2,), name="a")
    model = keras.Model({"key": a}, keras.layers.Dense(1)(a))
    assert len(list(batches({"key": X}, model=model))) == 1
    assert len(list(batches({"a": X}, model=keras.Model(a, model.outputs)))) == 1
    for one in (model, keras.Model([a], model.outputs), images((2,))):
        with pytest.raises(ValueError, match=r"expected 1 input by name .*, got 'z' in batch 1"):
            batches({"z": X}, model=one).first()


def test_numbers_wider_than_those_of_tensorflow_are_taken_as_in_fit():
    wide = X.astype("longdouble")
    ((x, _),) = batches(wide, model=images((2,)))
    assert x.dtype == "float64"
    np.testing.assert_array_equal(x, X)


def test_a_missing_last_axis_of_one_is_no_fault():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    assert len(list(batches(np.zeros(5, "float32"), 3, model=model))) == 2


def images(shape):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten()])


@pytest.mark.parametrize(
    ("wanted", "given_shape", "says"),
    [
        ((8, 8, 3), (5, 3, 8, 8), r"channels first\? Move them with numpy.moveaxis\(x, 1, -1\)"),
        ((3, 8, 8), (5, 8, 8, 3), r"channels last\? Move them with numpy.moveaxis\(x, -1, 1\)"),
        ((None, 3), (5, 3, 8), "channels first"),
    ],
)
def test_channels_on_the_other_side_are_recognized(wanted, given_shape, says):
    wrong = np.zeros(given_shape, "float32")
    with pytest.raises(ValueError, match=says):
        batches(wrong, model=images(wanted)).first()


def test_text_and_whole_numbers_go_where_they_belong():
    words = keras.Model(*[keras.Input((1,), dtype="string")] * 2)
    assert len(list(batches(np.array(["a", "b"]), model=words))) == 1
    with pytest.raises(ValueError, match=r"expected text .* got float32"):
        batches(X[:, :1], model=words).first()
    numbers = keras.Model(*[keras.Input((1,), dtype="int32")] * 2)
    assert len(list(batches(Y.astype("float32"), model=numbers))) == 1
    with pytest.raises(ValueError, match=r"expected whole numbers .* got float32 such as 0.5"):
        batches(Y.astype("float32") + 0.5, model=numbers).first()


def test_batches_made_before_are_held_against_a_model_too():
    data = batches(X)
    assert len(list(batches(data, model=images((2,))))) == 1
    with pytest.raises(ValueError, match=r"shape \(None, 3\)"):
        batches(data, model=images((3,))).first()
    assert len(list(data)) == 1


class TorchLoader:
    """Lists of arrays, as a DataLoader of PyTorch yields them."""

    __module__ = "torch.utils.data.dataloader"

    def __iter__(self):
        """Go through the batches."""
        return (list(batch) for batch in generator())


def test_the_lists_of_a_torch_loader_are_tuples():
    assert [(x.shape, len(y)) for x, y in batches(TorchLoader())] == [
        ((3, 2), 3),
        ((3, 2), 3),
        ((1, 2), 1),
    ]


# A sample, in the batches of training

LONG = np.arange(1000)
LONG_X = np.stack([LONG, -LONG], axis=1).astype("float32")


def in_order(size, rows=1000):
    return [
        (LONG_X[start : start + size], LONG[start : start + size]) for start in range(0, rows, size)
    ]


class Steps(Table):
    """LONG in batches of 10."""

    def __getitem__(self, number):
        """Take a batch."""
        return in_order(10)[number]


@pytest.mark.parametrize(
    "data",
    [
        (LONG_X, LONG),
        (tf.constant(LONG_X), tf.constant(LONG)),
        (pd.DataFrame(LONG_X, index=LONG[::-1]), pd.Series(LONG)),
    ],
    ids=["arrays", "tensors", "tables"],
)
def test_arrays_are_sampled_from_all_over_and_shuffled(data):
    sample = batches(data).sample(100)
    assert (sample.rows, sample.sizes, sample.shuffled) == (100, (32, 32, 32), True)
    np.testing.assert_array_equal(sample.x[:, 0], sample.y)
    assert len(set(sample.y)) == 100
    for batch in np.split(sample.y[:96], 3):
        assert batch.min() < 300
        assert batch.max() > 700
    np.testing.assert_array_equal(batches(data).sample(100).y, sample.y)
    assert batches(data).sample(5000, 8).sizes == (8,) * 125


@pytest.mark.parametrize(
    "data",
    [
        lambda: Steps(None, 100),
        lambda: tf.data.Dataset.from_tensor_slices((LONG_X, LONG)).batch(10),
        lambda: iter(in_order(10)),
        lambda: lambda: in_order(10),
    ],
    ids=["PyDataset", "tf.data", "iterator", "callable"],
)
def test_batches_stay_whole_and_come_from_all_over(data):
    sample = batches(data()).sample(100)
    assert (sample.rows, sample.sizes) == (100, (10,) * 10)
    assert not sample.shuffled
    assert not sample.the_first
    np.testing.assert_array_equal(sample.x[:, 0], sample.y)
    starts = sample.y.reshape(10, 10)
    assert np.all(np.diff(starts, axis=1) == 1)
    assert starts.min() < 100
    assert starts.max() >= 900
    assert np.all(np.diff(starts[:, 0]) >= 60)


def test_of_a_long_stream_the_first_rows_are_taken(monkeypatch):
    def endless():
        for number in itertools.count():
            assert number < 100
            yield LONG_X[:10] + 10 * number

    for limit in "SCAN_ROWS", "SCAN_SECONDS":
        with monkeypatch.context() as patch:
            patch.setattr(intake, limit, 1 if limit == "SCAN_ROWS" else -1.0)
            sample = batches(endless).sample(30)
        assert sample.the_first
        np.testing.assert_array_equal(sample.x[:, 0], np.arange(30))


def test_a_rest_is_no_batch_of_training_and_a_large_batch_is_thinned():
    sample = batches(lambda: in_order(300)).sample(2000)
    assert (sample.rows, sample.sizes) == (1000, (300, 300, 300))
    sample = batches(lambda: in_order(1000)).sample(100)
    assert (sample.rows, sample.sizes) == (100, (100,))
    assert sample.y.max() == 999


def test_batches_of_several_shapes_give_those_of_the_commonest():
    sizes = [4, 4, 6, 4, 8]
    sample = batches(lambda: [np.zeros((5, size, 2)) for size in sizes]).sample(100)
    assert (sample.x.shape, sample.sizes, sample.y) == ((15, 4, 2), (5, 5, 5), None)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 50))
def test_any_batch_size_gives_every_row_once(rows, size):
    x = np.arange(rows)
    data = batches(x, size)
    found = [part for part, _ in data]
    assert len(found) == data.steps
    assert all(len(part) == size for part in found[:-1])
    np.testing.assert_array_equal(np.concatenate(found), x)
