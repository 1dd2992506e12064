"""The walk along the graph against the probe, which runs the model as it is."""

import collections
import shutil

import numpy as np
import pytest

from bnutils._keras import keras, tf
from bnutils.doctor import activations, layerwise, recalibrate
from bnutils.doctor.activations import NoRoomError
from bnutils.doctor.batches import batches
from bnutils.doctor.graph import batch_norms
from bnutils.doctor.layerwise import Walk
from bnutils.doctor.subject import Subject

layers = keras.layers
BN = layers.BatchNormalization
X = np.random.default_rng(0).normal(1, 2, (70, 8, 8, 3)).astype("float32")
STEPS = np.random.default_rng(1).normal(1, 2, (70, 6, 3)).astype("float32")
STEPS[np.arange(6) >= np.random.default_rng(2).integers(1, 7, 70)[:, None]] = 0
WORDS = np.random.default_rng(3).integers(0, 9, (70, 6))


def scrambled(model):
    random = np.random.default_rng(4)
    for variable in model.weights:
        if "seed" not in variable.name:
            variable.assign(random.uniform(0.2, 1.2, variable.shape))
    return model


def residual(x, width, stride=1):
    short = layers.Conv2D(width, 1, strides=stride)(x)
    y = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
    y = layers.ReLU()(BN()(y))
    y = BN()(layers.Conv2D(width, 3, padding="same")(y))
    return layers.ReLU()(layers.Add()([BN()(short), y]))


def deep():
    inputs = keras.Input((8, 8, 3))
    first = residual(inputs, 4)
    x = residual(first, 6, 2)
    x = layers.Concatenate()([layers.AveragePooling2D(2)(first), x])
    x = layers.GlobalAveragePooling2D()(BN()(x))
    return keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(1)(layers.Dropout(0.5)(x))])


def nested():
    block = keras.Sequential([layers.Conv2D(3, 3, padding="same"), BN(), layers.ReLU()])
    inner = keras.Input((8, 8, 3))
    inner = keras.Model(inner, BN()(block(inner)))
    return keras.Sequential([keras.Input((8, 8, 3)), inner, layers.Flatten(), layers.Dense(2)])


def siamese():
    one, bn = keras.Input((8, 8, 3)), BN()
    left, right = bn(one), bn(layers.Conv2D(3, 1)(BN()(one)))
    return keras.Model(one, BN()(layers.Subtract()([left, right])))


def twice():
    inputs, conv, bn = keras.Input((8, 8, 3)), layers.Conv2D(3, 1), BN()
    return keras.Model(inputs, BN()(bn(conv(bn(conv(inputs))))))


def masked():
    inputs = keras.Input((6, 3))
    x = BN()(layers.Masking()(inputs))
    x = BN()(layers.Dense(4)(x))
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x))


def embedded():
    inputs = keras.Input((6,), dtype="int32")
    x = BN()(layers.Embedding(9, 4, mask_zero=True)(inputs))
    return keras.Model(inputs, layers.LSTM(3)(BN()(layers.Dense(4)(x))))


def nested_masked():
    inner = keras.Input((6, 3))
    inner = keras.Model(inner, BN()(layers.Dense(3)(inner)))
    inputs = keras.Input((6, 3))
    return keras.Model(inputs, BN()(inner(layers.Masking()(inputs))))


def mixed():
    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, dtype=policy)(inputs)
    x = BN(dtype=policy)(layers.ReLU()(BN(dtype=policy)(x)))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


class Composite(layers.Layer):
    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.dense, self.bn, self.drop = layers.Dense(3), BN(), layers.Dropout(0.5)

    def build(self, shape):
        self.dense.build(shape)
        self.bn.build(shape)

    def call(self, x, training=None):
        x = self.drop(self.bn(self.dense(x)), training=training)
        return keras.ops.relu(x) if training else keras.ops.tanh(x)


class Subclass(keras.Model):
    def __init__(self):
        """Make the layers."""
        super().__init__()
        self.one, self.two = Composite(), Composite()

    def call(self, x, training=None):
        return {"a": self.two(self.one(x, training=training), training=training), "b": x}


class Branching(Subclass):
    """Its `call` depends on values: no symbolic tensor goes through it."""

    def call(self, x, training=None):
        flip = tf.cond(tf.reduce_sum(x[:1]) > 0, lambda: x, lambda: -x)
        return self.two(self.one(flip, training=training), training=training)


class Counting(layers.Layer):
    def __init__(self):
        """Start at 0."""
        super().__init__()
        self.calls = tf.Variable(0)

    def call(self, x):
        self.calls.assign_add(1)
        return x


def counting():
    return keras.Sequential([keras.Input((8, 8, 3)), Counting(), BN(), Counting(), BN()])


#: A model, its data, and whether it can be walked.
MODELS = {
    "deep": (deep, X, True),
    "nested": (nested, X, True),
    "shared": (siamese, X, True),
    "cyclic": (twice, X, True),
    "mask": (masked, STEPS, True),
    "embedding": (embedded, WORDS, True),
    "half precision": (mixed, X, True),
    "subclass": (Subclass, X, True),
    "mask through a nested model": (nested_masked, STEPS, False),
    "control flow": (Branching, X, False),
    "a variable of TensorFlow": (counting, X, False),
}


def statistics(model):
    return [np.stack([bn.moving_mean, bn.moving_variance]) for bn in batch_norms(model)]


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize(("make", "x", "walked"), MODELS.values(), ids=MODELS)
def test_a_walk_measures_what_the_probe_measures(make, x, walked, monkeypatch):
    model = make()
    model(x[:2])
    scrambled(model)
    assert (Walk.of(Subject(model), x) is not None) == walked
    before = model.get_weights()
    done = recalibrate(model, x, batch_size=16, keep="always")
    found = statistics(model)
    model.set_weights(before)
    monkeypatch.setattr(Walk, "of", lambda *arguments: None)
    again = recalibrate(model, x, batch_size=16, keep="always")
    half = make is mixed  # a batch of another size is rounded otherwise
    for one, two in zip(found, statistics(model), strict=True):
        sd = np.sqrt(two[1] + 1e-7)
        assert np.max(np.abs(one[0] - two[0]) / sd) < (1e-2 if half else 1e-5)
        assert np.max(np.abs(one[1] / two[1] - 1)) < (1e-2 if half else 1e-5)
    assert [each.values for each in done.moved] == [each.values for each in again.moved]
    assert [each.calls for each in done.moved] == [each.calls for each in again.moved]
    assert (done.passes == 1) == (walked and make is not twice)


def test_each_call_is_made_once_for_each_batch(monkeypatch):
    calls = collections.Counter()

    class Counted(layers.Conv2D):
        def call(self, x):
            calls[self.name] += 1
            return super().call(x)

    model = keras.Sequential([keras.Input((8, 8, 3))])
    for number in range(6):
        model.add(Counted(3, 1, name=f"conv{number}"))
        model.add(BN())
    monkeypatch.setattr(layerwise, "BATCH_BYTES", 20 * 8 * 8 * 3 * 4)
    calls.clear()
    recalibrate(model, X, batch_size=10)
    assert set(calls.values()) == {2 * 4}  # 70 rows, 20 at a time, once more before


@pytest.mark.parametrize("make", [deep, masked, siamese])
def test_past_the_limit_activations_go_to_a_file(make, monkeypatch):
    model, x = scrambled(make()), STEPS if make is masked else X
    monkeypatch.setattr(layerwise, "BATCH_BYTES", 1)
    before = model.get_weights()
    recalibrate(model, x, batch_size=16)
    expected = model.get_weights()
    files = []

    def temporary():
        files.append(temporary.make())
        return files[-1]

    temporary.make = activations.tempfile.TemporaryFile
    monkeypatch.setattr(activations.tempfile, "TemporaryFile", temporary)
    model.set_weights(before)
    recalibrate(model, x, batch_size=16, memory=0)
    assert files
    assert all(file.closed for file in files)
    for one, two in zip(expected, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_full_disk_means_more_passes(monkeypatch):
    model = scrambled(deep())
    before = model.get_weights()
    recalibrate(model, X)
    expected = statistics(model)
    model.set_weights(before)
    usage = shutil.disk_usage("/")._replace(free=2**20)
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda place: usage)
    done = recalibrate(model, X, memory=1000)
    assert done.passes > 1
    for one, two in zip(expected, statistics(model), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    with pytest.raises(NoRoomError):
        Walk.of(Subject(model), X).measure(
            batches(X), batch_norms(model), memory=0, sample=Nothing(), progress=Nothing()
        )


class Nothing:
    """A sample that wants no rows, and a bar that shows nothing."""

    total = 0

    def pick(self, rows):
        return None

    def update(self, steps):
        pass


def test_only_what_is_still_needed_is_kept(monkeypatch):
    kept, peak = {}, []
    save, load = activations.Store.save, activations.Store.load

    def saving(self, values, number):
        save(self, values, number)
        kept.update(dict.fromkeys(self._held))
        peak.append(len(self._held))

    monkeypatch.setattr(activations.Store, "save", saving)
    model = keras.Sequential([keras.Input((8, 8, 3))])
    for _ in range(5):
        model.add(layers.Conv2D(3, 1))
        model.add(BN())
    recalibrate(model, X, batch_size=70)
    assert max(peak) == 1  # the input of one layer
    assert load is activations.Store.load


def test_the_value_that_is_not_finite_is_traced_to_its_batch():
    x = X.copy()
    x[45, 0, 0, 0] = np.inf
    model = scrambled(deep())
    with pytest.raises(ValueError, match=r"got others in batch 5, in"):
        recalibrate(model, x, batch_size=10)


def test_a_model_with_noise_at_inference_keeps_its_seeds():
    class Noisy(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.drop, self.two = BN(), layers.Dropout(0.5, seed=3), BN()

        def call(self, x):
            return self.two(self.drop(self.one(x), training=True), training=False)

    model = Noisy()
    model(X)
    seed = model.drop.seed_generator.state.numpy()
    assert Walk.of(Subject(model), X) is not None
    recalibrate(model, X)
    np.testing.assert_array_equal(model.drop.seed_generator.state, seed)
    # Half of the values are dropped and the others doubled: E[x^2] doubles.
    variance = np.asarray(model.two.moving_variance) + np.square(model.two.moving_mean)
    np.testing.assert_allclose(variance, 2 * np.ones(3), rtol=0.1)
