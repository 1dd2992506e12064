"""Recalibration on blocks of Dask: here, on a cluster in threads, and in processes that die."""

import contextlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from bnutils._keras import keras, tf
from bnutils.doctor import cluster, layerwise
from bnutils.doctor.batches import batches
from bnutils.doctor.blocks import current_client, is_of_dask
from bnutils.doctor.recalibrate import recalibrate

dask = pytest.importorskip("dask", reason="needs the extra scale")
da = pytest.importorskip("dask.array", reason="needs the extra scale")
db = pytest.importorskip("dask.bag", reason="needs the extra scale")
distributed = pytest.importorskip("distributed", reason="needs the extra scale")
cloudpickle = pytest.importorskip("cloudpickle", reason="needs the extra scale")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

layers = keras.layers
ROWS = 400
CUTS = (0, 30, 30, 200, 201, 400)  # uneven blocks, one without rows


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A cluster of two workers in threads of this process."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            local_directory=tmp_path_factory.mktemp("dask"),
        ) as made,
        distributed.Client(made, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def on_cluster(client):
    with client.as_current(), dask.config.set(scheduler="dask.distributed"):
        yield client


@pytest.fixture(params=["here", "cluster"])
def where(request):
    """Where the blocks are computed."""
    return None if request.param == "here" else request.getfixturevalue("on_cluster")


def rng(seed=0):
    return np.random.default_rng(seed)


def features(dtype="float32"):
    return rng().normal(3, 2, (ROWS, 4)).astype(dtype)


def residual():
    """Two levels of layers, an activation that waits past one of them, one frozen layer."""
    keras.utils.set_random_seed(0)
    start = keras.Input((4,))
    first = layers.BatchNormalization(name="frozen")(start)
    for number in range(2):
        inner = layers.Dense(4, name=f"dense{number}")(first)
        inner = layers.BatchNormalization(name=f"bn{number}")(inner)
        first = layers.Add()([layers.ReLU()(inner), first])
    model = keras.Model(start, layers.Dense(1)(first))
    model.get_layer("frozen").trainable = False
    model.compile("sgd", "mse")
    return model


def fresh():
    """The same weights and names each time."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)


def masked():
    fresh()
    stack = layers.Masking(), layers.BatchNormalization(), layers.Dense(3), layers.ReLU()
    return keras.Sequential(
        [keras.Input((None, 2)), *stack, layers.BatchNormalization(), layers.Dense(1)]
    )


def two_inputs():
    fresh()
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    both = layers.Concatenate()([layers.BatchNormalization()(a), layers.Dense(3)(b)])
    return keras.Model({"a": a, "b": b}, layers.BatchNormalization()(both))


@keras.saving.register_keras_serializable("tests")
class Stack(keras.Model):
    """A model of one's own."""

    def __init__(self, **kwargs):  # noqa: D107
        super().__init__(**kwargs)
        self.dense = [layers.Dense(4, name=f"dense{number}") for number in range(2)]
        self.bn = [layers.BatchNormalization(name=f"bn{number}") for number in range(2)]

    def call(self, x, training=None):
        for dense, bn in zip(self.dense, self.bn, strict=True):
            x = tf.nn.relu(bn(dense(x), training=training))
        return x


def subclass():
    fresh()
    return Stack()


def cut(array):
    return [array[start:end] for start, end in itertools.pairwise(CUTS)]


def delayed(*arrays):
    parts = zip(*map(cut, arrays), strict=True)
    return [dask.delayed(part if len(part) > 1 else part[0], traverse=False) for part in parts]


def chunked(array):
    sizes = tuple(np.diff(CUTS).tolist())
    return da.from_array(array, chunks=(sizes, *((size,) for size in array.shape[1:])))


def unknown(array):
    whole = chunked(array)
    return whole[whole[:, 0] > -np.inf]


def statistics(model):
    return [v.numpy() for v in model.non_trainable_variables if "seed" not in v.path]


def assert_alike(build, data, whole, **options):
    """Blocks give what all rows in one process give, whatever is measured how."""
    model, other = build(), build()
    done = recalibrate(model, data, keep="always", **options)
    expected = recalibrate(other, whole, keep="always", **options)
    for got, value in zip(statistics(model), statistics(other), strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5 * np.abs(value).max())
    assert (done.rows, done.verdict) == (ROWS, expected.verdict)
    assert [(m.path, m.calls, m.values) for m in done.moved] == [
        (m.path, m.calls, m.values) for m in expected.moved
    ]
    assert done.comparison.rows > 0.9 * ROWS
    for score, other in zip(done.comparison.scores, expected.comparison.scores, strict=True):
        assert score.before == pytest.approx(other.before, rel=1e-4)
        assert score.after == pytest.approx(other.after, rel=1e-3)
    return done


def sums(x):
    return x.sum(1, keepdims=True)


FORMS = {
    "x": lambda x, y: chunked(x),
    "x and y": lambda x, y: (chunked(x), chunked(y)),
    "other chunks": lambda x, y: (da.from_array(x, chunks=(150, 3)), da.from_array(y, chunks=90)),
    "y in NumPy": lambda x, y: (chunked(x), y),
    "unknown sizes": lambda x, y: (unknown(x), unknown(y)),
    "one block": lambda x, y: da.from_array(x, chunks=-1),
    "delayed": lambda x, y: delayed(x, y),
    "delayed beside": lambda x, y: (delayed(x), delayed(y)),
    "bag": lambda x, y: db.from_sequence(
        [(x[at : at + 50], y[at : at + 50]) for at in range(0, ROWS, 50)], npartitions=3
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_blocks_gives_the_statistics_of_one_process(form, on_cluster):
    _try(form)


@pytest.mark.parametrize("name", ["x and y", "delayed", "bag"])
def test_without_a_cluster_blocks_are_gone_through_here(name):
    _try(FORMS[name])


def _try(form):
    x = features()
    data = form(x, sums(x))
    has_targets = isinstance(data, tuple | list) or form is FORMS["bag"]
    done = assert_alike(residual, data, (x, sums(x)) if has_targets else x)
    assert [each.what for each in done.skipped] == ["frozen"]


def sequences():
    x = rng().normal(1, 2, (ROWS, 5, 2)).astype("float32")
    x[::3, 3:] = 0
    return x


MODELS = {
    "masks": (masked, sequences),
    "inputs": (two_inputs, lambda: {"a": features(), "b": features()[:, :2]}),
    "subclass": (subclass, features),
    "half precision": (residual, lambda: features("float16")),
    "float64": (residual, lambda: features("float64")),
}


@pytest.mark.parametrize(("build", "make"), MODELS.values(), ids=MODELS)
def test_models_of_other_kinds(build, make, on_cluster):
    whole = make()
    assert_alike(build, keras.tree.map_structure(chunked, whole), whole)


@pytest.mark.parametrize("name", ["masks", "subclass"])
def test_a_model_whose_graph_cannot_be_walked(name, on_cluster, monkeypatch):
    monkeypatch.setattr(layerwise.Walk, "of", lambda *arguments: None)
    build, make = MODELS[name]
    assert_alike(build, chunked(make()), make())


def test_without_room_between_levels_the_blocks_are_gone_through_again(on_cluster):
    x = features()
    assert assert_alike(residual, chunked(x), x).passes == 1
    assert assert_alike(residual, chunked(x), x, memory=0).passes == 2
    assert assert_alike(residual, delayed(x), x).passes == 2  # sizes are known after the first


def test_one_pass(on_cluster):
    x = features()
    sizes = {"method": "one-pass", "batch_size": 100}
    assert_alike(residual, da.from_array(x, chunks=(200, -1)), x, **sizes)


def test_the_order_in_which_blocks_end_does_not_matter(on_cluster, monkeypatch):
    x, found = features(), []
    for reverse in (False, True):
        if reverse:
            monkeypatch.setattr(cluster.Crew, "_begun", _begun_backwards(cluster.Crew._begun))
        model = residual()
        recalibrate(model, chunked(x), keep="always")
        found.append([value.tobytes() for value in statistics(model)])
    assert found[0] == found[1]


def _begun_backwards(begun):
    def other(self, *arguments):
        futures = begun(self, *arguments)
        distributed.wait(futures[::-1])
        return futures

    return other


def test_rows_are_compared_from_all_over_long_data(on_cluster, monkeypatch):
    monkeypatch.setattr(cluster, "SAMPLED_BLOCKS", 3)
    monkeypatch.setattr("bnutils.doctor.before_after.COMPARED_ROWS", 60)
    x = features()
    done = recalibrate(residual(), (da.from_array(x, chunks=(40, 4)), sums(x)))
    assert (done.comparison.rows, done.comparison.whole, done.comparison.first) == (
        60,
        False,
        False,
    )


def test_a_model_of_fixed_rows(where):
    x = features()

    def fixed():
        fresh()
        made = [keras.Input(batch_shape=(20, 4)), layers.Dense(3), layers.BatchNormalization()]
        return keras.Sequential(made)

    data = da.from_array(x, chunks=(100, 4))
    assert_alike(fixed, data, x, batch_size=20)


def test_sample_weights_are_seen(where):
    x = features()
    done = recalibrate(residual(), delayed(x, sums(x), np.ones(ROWS)))
    assert "sample weights" in done.comparison.no_scores


# --- what cannot be done ------------------------------------------------------------------------


def with_nan():
    x = features()
    x[250] = np.nan
    return delayed(x)


def with_a_crash():
    def crash():
        raise OSError("no such file")

    return [*delayed(features())[:3], dask.delayed(crash)(), *delayed(features())[4:]]


def of_another_shape():
    blocks = delayed(features())
    return [*blocks[:4], dask.delayed(features()[:10, :3], traverse=False)]


REFUSED = {
    "NaN": (with_nan, "others in block 4 of 0 to 4, in 4 of 4 channels"),
    "shape": (of_another_shape, r"got \(\d+, 3\) in block 4 of 0 to 4"),
    "objects": (
        lambda: [dask.delayed(object(), traverse=False)],
        r"got a object, in block 0 of 0 to 0",
    ),
    "later objects": (
        lambda: [*delayed(features()), dask.delayed(object(), traverse=False)],
        r"got a object, in block 5 of 0 to 5",
    ),
    "counts": (
        lambda: (delayed(features()), delayed(features())[1:]),
        "as many blocks of rows each, got 5 and 4",
    ),
    "rows": (
        lambda: (chunked(features()), da.ones((ROWS + 1, 1))),
        "as many rows each, got 400 and 401",
    ),
    "NumPy beside unknown": (
        lambda: (unknown(features()), np.ones((ROWS, 1))),
        r"call compute_chunk_sizes\(\) first",
    ),
    "scalar": (lambda: chunked(features()).sum(), "got one value"),
    "bag beside": (
        lambda: (db.from_sequence([1]), chunked(features())),
        "expected a bag by itself",
    ),
    "nothing": (lambda: chunked(features())[:0], "at least one row of data, got none"),
    "no rows": (
        lambda: [dask.delayed(features()[:0], traverse=False)] * 2,
        "at least one row of data, got none",
    ),
    "complex": (lambda: chunked(features() * 1j), "got complex64 in block 0"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_told_with_its_block(make, message):
    model = residual()
    with pytest.raises(ValueError, match=message):
        recalibrate(model, make())


@pytest.mark.parametrize("name", ["NaN", "shape", "later objects", "no rows"])
def test_a_failure_on_a_worker_leaves_the_model_as_it_was(name, on_cluster):
    model = residual()
    before = [value.tobytes() for value in statistics(model)]
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        recalibrate(model, make())
    assert [value.tobytes() for value in statistics(model)] == before


def test_a_block_that_cannot_be_computed_is_named(where):
    with pytest.raises(OSError, match="no such file") as caught:
        recalibrate(residual(), with_a_crash())
    assert "block 3 of 0 to 4" in caught.value.__notes__[0]


class Secret(layers.Layer):
    """A layer whose config does not tell what it is made of."""

    def __init__(self, factor, **kwargs):  # noqa: D107
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return super().get_config()


class Other(Secret):
    """One that comes back as another layer than it was."""

    def __init__(self, factor=1.0, **kwargs):  # noqa: D107
        super().__init__(factor, **kwargs)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Secret, "a worker can load, got TypeError"), (Other, "a copy with other outputs on a wor")],
)
def test_a_model_that_cannot_be_copied_is_refused(kind, message, on_cluster):
    model = keras.Sequential([keras.Input((4,)), kind(3.0), layers.BatchNormalization()])
    with pytest.raises(ValueError, match=message):
        recalibrate(model, chunked(features()))


def test_an_asynchronous_client_is_refused(monkeypatch, on_cluster):
    monkeypatch.setattr(type(on_cluster), "asynchronous", True)
    with pytest.raises(ValueError, match="got one with asynchronous=True"):
        current_client()


# --- data ---------------------------------------------------------------------------------------


def test_what_is_of_dask():
    x = np.ones((2, 2))
    assert not any(map(is_of_dask, (x, [[1.0, 2.0]], (x, None), {"a": x}, tf.constant(x), "text")))
    assert all(map(is_of_dask, (chunked(features()), (x, da.ones(2)), [x, da.ones(2)])))


def test_blocks_are_batches_for_all_else_too():
    x = features()
    data = batches((chunked(x), sums(x)), batch_size=50)
    assert (data.rows, data.steps) == (ROWS, 10)
    assert [len(part) for part, _ in data] == [30, 50, 50, 50, 20, 1, 50, 50, 50, 49]
    sample = data.sample(40)
    assert sample.rows == 40
    np.testing.assert_array_equal(sums(sample.x), sample.y)


def test_one_block_at_a_time_is_computed_and_none_twice():
    seen = []

    def load(number):
        seen.append(number)
        return features()[:50]

    blocks = [dask.delayed(load)(number) for number in range(4)]
    stream = iter(batches(blocks, batch_size=50))
    next(stream)
    assert seen == [0]
    assert len(list(stream)) == 3
    assert seen == [0, 1, 2, 3]


# --- a worker that dies -------------------------------------------------------------------------


def _load(folder, number, array):
    """Give a block, and note that."""
    with (folder / str(number)).open("a") as file:
        file.write("x")
    return array


@contextlib.contextmanager
def _worker(address, folder):
    """A process that joins a cluster, and that nobody starts again."""
    words = f"-m distributed.cli.dask_worker {address} --no-nanny --nthreads 1 --no-dashboard"
    preload = "--preload", "bnutils.doctor.cluster", "--local-directory", folder
    with subprocess.Popen(
        [sys.executable, *words.split(), *preload], stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_worker_costs_its_blocks_not_the_run(tmp_path, monkeypatch):
    """It dies in the middle of its work, with activations that the next level needs."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    x, y = features(), sums(features())
    expected, model = residual(), residual()
    recalibrate(expected, (x, y), keep="always")
    load = dask.delayed(_load)
    parts = [load(tmp_path, number, x[40 * number :][:40]) for number in range(10)]
    blocks = [da.from_delayed(part, (40, 4), x.dtype) for part in parts]
    half_each = {"work-stealing": False, "worker-saturation": float("inf")}
    half_each = {f"distributed.scheduler.{name}": value for name, value in half_each.items()}
    lost, begun = [], cluster.Crew._begun
    with (
        dask.config.set(half_each),
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            dashboard_address=":0",
            local_directory=tmp_path,
        ) as made,
        distributed.Client(made) as client,
        _worker(made.scheduler_address, tmp_path) as process,
    ):

        def killed(self, turn, *arguments):
            if turn == 1:
                home = made.workers[0].address
                for address, keys in client.has_what().items():
                    lost.extend(key for key in keys if address != home and "_turn" in str(key))
            futures = begun(self, turn, *arguments)
            if turn == 1:
                process.kill()
            return futures

        monkeypatch.setattr(cluster.Crew, "_begun", killed)
        client.wait_for_workers(2, timeout=120)
        done = recalibrate(model, (da.concatenate(blocks), y), keep="always")
        assert len(client.nthreads()) == 1
    assert (done.rows, done.passes) == (ROWS, 1)
    assert 0 < len(lost) < 10
    times = [(tmp_path / str(number)).stat().st_size for number in range(10)]
    # At the beginning one is looked at; each is measured, once more if it was lost; and compared.
    assert 1 + 10 + 10 < sum(times) <= 1 + 10 + len(lost) + 10
    assert all(2 <= each <= 4 for each in times)
    for got, value in zip(statistics(model), statistics(expected), strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5 * np.abs(value).max())
