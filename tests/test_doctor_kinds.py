"""The table of kinds: it knows every layer of Keras, and real layers do what it says."""

import functools
import inspect

import numpy as np
import pytest

from bnutils._keras import keras, operation_class, tf
from bnutils.doctor import kinds

layers = keras.layers
VECTOR, SERIES, IMAGE, VOLUME = (4,), (6, 4), (8, 8, 3), (5, 5, 5, 2)
SHAPES = {"1D": SERIES, "2D": IMAGE, "3D": VOLUME}


def public_layers():
    found = {value for value in vars(layers).values() if inspect.isclass(value)}
    return sorted((cls for cls in found if issubclass(cls, layers.Layer)), key=lambda c: c.__name__)


NAMES = {cls.__name__: cls for cls in public_layers()}
TOO_GENERAL = {"Layer"}
#: Without data of their own kind, a library that is not here, or two inputs, they cannot be tried.
NOT_TRIED = {
    *("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup"),
    *("MaxNumBoundingBoxes", "MelSpectrogram", "StringLookup", "TextVectorization"),
    *("FlaxLayer", "JaxLayer", "Lambda", "Pipeline", "TFSMLayer", "TorchModuleWrapper", "Wrapper"),
    *("SimpleRNNCell", "GRUCell", "LSTMCell", "StackedRNNCells", "InputLayer", "Layer"),
}
ARGUMENTS = {
    "units": 5,
    "filters": 5,
    "kernel_size": 2,
    "rate": 0.5,
    "stddev": 1.0,
    "seed": 1,
    "target_shape": (-1,),
    "n": 3,
    "height": 8,
    "width": 8,
    "factor": 0.3,
    "height_factor": 0.3,
    "scale": 2.0,
    "groups": 1,
    "pool_size": 2,
    "output_size": 2,
    "num_heads": 2,
    "key_dim": 2,
    "head_dim": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "input_dim": 9,
    "output_dim": 5,
    "bits": 4,
    "activation": "relu",
}
OF_ONE = {
    "Dense": {"activation": None},
    "Permute": {"dims": (2, 1)},
    "EinsumDense": {"equation": "abc,cd->abd", "output_shape": (None, 5)},
    "Bidirectional": {"layer": layers.LSTM(5)},
    "RNN": {"cell": layers.SimpleRNNCell(5)},
    "TimeDistributed": {"layer": layers.Dense(5)},
    "SpectralNormalization": {"layer": layers.Dense(5)},
    "Dot": {"axes": -1},
    "Cropping2D": {"cropping": 1},
    "RandomColorJitter": {"brightness_factor": 0.3},
    "RandomCrop": {"height": 5, "width": 5},
    "RandomGrayscale": {"factor": 1.0},
    "RandomPosterization": {"factor": 4},
    "RandomShear": {"x_factor": 0.5},
    "RandomTranslation": {"width_factor": 0.3},
    "Solarization": {"addition_factor": 0.3},
}


def make(name, **more):
    """A layer of a class with whatever its constructor demands."""
    wanted = inspect.signature(NAMES[name].__init__).parameters.values()
    given = {
        each.name: ARGUMENTS[each.name]
        for each in wanted
        if each.default is each.empty and each.name in ARGUMENTS
    }
    if name == "GroupNormalization":
        given["groups"] = 1
    return NAMES[name](**{**given, **OF_ONE.get(name, {}), **more})


def shape_of(name):
    kind = kinds._TABLE[NAMES[name]]
    if name == "RepeatVector":
        return VECTOR
    if kind.role in ("augmentation", "preprocessing") and name != "STFTSpectrogram":
        return IMAGE
    rank = next((SHAPES[rank] for rank in SHAPES if rank in name), SERIES)
    return (3, *rank) if name.startswith("ConvLSTM") else rank


def example(name):
    rng = np.random.default_rng(0)
    shape = (2, *shape_of(name))
    if kinds._TABLE[NAMES[name]].role == "embedding":
        return tf.constant(rng.integers(0, 9, shape[:2]))
    if kinds._TABLE[NAMES[name]].role == "augmentation":
        return tf.constant(rng.uniform(0, 255, shape), "float32")
    return tf.constant(rng.normal(size=shape), "float32")


@functools.cache
def tried(name):
    """A layer with its input and its output at inference."""
    keras.utils.set_random_seed(0)
    layer, x = make(name), example(name)
    # A layer for images takes `training` to be True unless it is told.
    fixed = {"training": False} if "training" in inspect.signature(layer.call).parameters else {}
    return layer, x, np.asarray(run(layer, x, **fixed))


def run(layer, x, second=None, **more):
    second = tf.identity(x) if second is None else second
    if kinds.kind(layer).role in ("arithmetic", "merge") or isinstance(layer, layers.Attention):
        return layer([x, second], **more)
    if kinds.kind(layer).role == "attention":
        return layer(x, second, **more)
    return layer(x, **more)


def those(asked, without=()):
    """Parametrize by the names of layers that can be tried and whose kind is asked about."""
    names = sorted(set(NAMES) - NOT_TRIED - set(without))
    return pytest.mark.parametrize("name", [n for n in names if asked(kinds._TABLE[NAMES[n]])])


#: Of these some change nothing on the image that is tried.
MAY_BE_IDENTITY = ("preprocessing", "merge", "masking", "augmentation")


def test_every_layer_of_keras_has_its_entry():
    missing = [cls.__name__ for cls in public_layers() if cls not in kinds._TABLE]
    assert set(missing) == TOO_GENERAL
    assert len(kinds._TABLE) == sum(
        len(names.split()) for names, _ in (*kinds._LAYERS, *kinds._OPERATIONS)
    )


@those(lambda kind: kind.role not in MAY_BE_IDENTITY)
def test_identity_at_inference(name):
    _, x, output = tried(name)
    same = output.shape == x.shape and np.array_equal(output, x)
    assert same == kinds._TABLE[NAMES[name]].identity


@those(lambda kind: kind.role not in ("normalization", "wrapper", "preprocessing"))
def test_noise_in_training(name):
    layer, x, output = tried(name)
    found = kinds.noise(layer)
    assert found == kinds._TABLE[NAMES[name]].noise
    takes_training = "training" in inspect.signature(layer.call).parameters
    fixed = {"training": True} if takes_training else {}
    trained = [np.asarray(run(layer, x, **fixed)) for _ in range(5 if found else 1)]
    assert any(not np.array_equal(one, output) for one in trained) == (found is not None)
    if found == "channels":
        gone = np.asarray(layer(tf.abs(x) + 1, training=True)) == 0
        axes = tuple(range(1, len(x.shape) - 1))
        np.testing.assert_array_equal(gone.all(axes), gone.any(axes))
        assert gone.any()


def test_which_noise_keeps_the_variance():
    x = np.random.default_rng(0).normal(size=(200, 100)).astype("float32")
    for cls in (layers.Dropout, layers.GaussianDropout, layers.AlphaDropout):
        kind = kinds.kind(cls(0.5))
        variance = np.var(cls(0.5, seed=1)(x, training=True))
        assert (abs(variance - 1) < 0.1) == kind.keeps_variance


@those(lambda kind: kind.passes and kind.role != "rearrangement")
def test_what_keeps_its_channels_lets_each_through_by_itself(name):
    layer, x, output = tried(name)
    np.testing.assert_allclose(run(layer, 2 * x), 2 * output, rtol=1e-6)
    other = np.array(x)
    other[..., 0] += 3.0
    changed = np.abs(np.asarray(run(layer, tf.constant(other))) - output)
    assert changed[..., 0].max() > 0
    assert changed[..., 1:].max() == 0
    assert output.shape[-1] == x.shape[-1]


@those(lambda kind: kind.channels)
def test_the_axis_of_the_channels(name):
    kind = kinds._TABLE[NAMES[name]]
    layer, x, output = tried(name)
    known = x.shape[-1] if kind.role in ("pooling", "depthwise") else 5
    assert kinds.channel_axis(layer) == -1
    assert output.shape[-1] == known
    if kind.channels == "data_format":
        turned = make(name, data_format="channels_first")
        first = kinds.channel_axis(turned)
        shape = list(x.shape)
        shape.insert(len(shape) + first, shape.pop())
        made = turned.compute_output_shape(tuple(shape))
        assert made[first] == known


@those(lambda kind: kind.role == "activation" and kind.function)
def test_what_bends_and_how(name):
    kind = kinds._TABLE[NAMES[name]]
    layer, x, output = tried(name)
    assert kinds.activation(layer) == kind.function
    spelled = {"p_relu": lambda x: np.maximum(x, 0), "leaky_relu": None}
    function = spelled.get(kind.function, keras.activations.get(kind.function.replace("p_", "")))
    if function is None:
        function = functools.partial(keras.activations.leaky_relu, negative_slope=0.3)
    np.testing.assert_allclose(output, function(x), rtol=1e-5)


FUNCTIONS = [
    (names, kind)
    for names, kind in kinds._OPERATIONS
    if kind.role == "activation" and names not in ("Exp", "LeakyRelu")
]


@pytest.mark.parametrize(("name", "kind"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_operations_bend_as_the_function_of_that_name(name, kind):
    x = tf.constant([[-4.0, -1.0, -0.3, 0.0, 0.6, 2.0, 7.0]])
    operation = operation_class(name)(**({"approximate": False} if name == "Gelu" else {}))
    np.testing.assert_allclose(operation(x), keras.activations.get(kind.function)(x), rtol=1e-5)
    assert kinds.activation(operation) == kind.function
    low, high = operation(tf.constant([[-1e4, 0.0, 1e4]])).numpy()[0, [0, -1]]
    assert (abs(low) < 100 and abs(high) < 100) == (
        kind.function in kinds.SQUASHING or kind.function == "relu6"
    )


@pytest.mark.filterwarnings("ignore:.*does not support mask")
# A mask of time steps does not suit the three.
@those(lambda kind: kind.role != "embedding", without=("Permute", "RepeatVector", "Softmax"))
def test_what_becomes_of_a_mask(name):
    layer, x, _ = tried(name)
    given = np.ones(x.shape[:2], bool)
    given[0, -2:] = False
    x = tf.identity(x)
    x._keras_mask = tf.constant(given)
    output = tf.nest.flatten(run(layer, x, second=x))[0]
    kept = getattr(output, "_keras_mask", None)
    same = kept is not None and kept.shape == given.shape and np.array_equal(kept, given)
    assert kinds.mask(layer) == ("loses" if kept is None else "keeps" if same else "makes")


def test_masks_by_settings():
    assert kinds.mask(layers.Bidirectional(layers.GRU(2, return_sequences=True))) == "keeps"
    assert kinds.mask(layers.Bidirectional(layers.GRU(2))) == "loses"
    for mask_zero in (True, False):
        embedding = layers.Embedding(3, 2, mask_zero=mask_zero)
        made = getattr(embedding(np.array([[1, 0]])), "_keras_mask", None) is not None
        assert made == mask_zero == (kinds.mask(embedding) == "makes")
    assert kinds.mask(operation_class("Add")()) == "loses"
    assert kinds.mask(layers.Lambda(abs)) == "loses"
    assert kinds.mask(layers.Lambda(abs, mask=lambda inputs, mask: mask)) is None


class Same(layers.Conv2D):
    """Adds a setting, and computes as its parent."""

    def __init__(self, *args, note="", **options):
        """Keep the note."""
        super().__init__(*args, **options)
        self.note = note

    def get_config(self):
        """With the note."""
        return {**super().get_config(), "note": self.note}


class Standardized(layers.Conv2D):
    """Inherits `call`, and convolves in its own way."""

    def convolution_op(self, inputs, kernel):
        """With another kernel."""
        return super().convolution_op(inputs, kernel - keras.ops.mean(kernel))


class MonteCarlo(layers.Dropout):
    """Acts at inference too."""

    def call(self, inputs, training=None):
        """Drop always."""
        return super().call(inputs, training=True)


class Silent:
    """Mixed in before a layer."""

    def call(self, inputs, training=None):
        """Do nothing."""
        return inputs


class Mixed(Silent, layers.GaussianNoise):
    """Does nothing."""


def test_a_subclass_counts_as_long_as_it_computes_as_its_parent():
    assert kinds.kind(Same(2, 3)) == kinds.kind(layers.Conv2D(2, 3))
    for layer in (Standardized(2, 3), MonteCarlo(0.5), Mixed(1.0)):
        assert kinds.kind(layer).role == "unknown"
        assert not kinds.kind(layer).identity
    assert kinds.nearest(Standardized(2, 3)).convolution
    assert kinds.noise(MonteCarlo(0.5)) == "values"
    patched = layers.Dropout(0.5)
    patched.__dict__["call"] = lambda inputs: 2 * inputs
    assert kinds.kind(patched).role == "unknown"


def test_unknown_layers_and_operations_claim_nothing():
    class Own(layers.Layer):
        """Anything."""

    for operation in (Own(), operation_class("Cumsum")()):
        assert kinds.kind(operation) == kinds.Kind()
        assert kinds.activation(operation) == ""
        assert kinds.channel_axis(operation) is None
        assert kinds.noise(operation) is None


def test_settings_of_dropout():
    assert kinds.noise(layers.Dropout(0.0)) is None
    assert kinds.noise(layers.GaussianNoise(0.0)) is None
    assert kinds.noise(layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))) == "examples"
    assert kinds.noise(layers.Dropout(0.5, noise_shape=(None, 1, 4))) == "values"


def test_wrappers_are_asked_about_what_they_hold():
    conv = layers.Conv2D(4, 3, data_format="channels_first", activation="silu")
    for wrapper in (layers.TimeDistributed(conv), layers.SpectralNormalization(conv)):
        assert kinds.channel_axis(wrapper) == -3
        assert kinds.activation(wrapper) == "silu"
    assert kinds.activation(layers.Dense(2, activation=layers.LeakyReLU())) == "leaky_relu"
