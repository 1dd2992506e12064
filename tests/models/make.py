"""Makes models.zip beside this script: model files as Keras wrote them when it had that version.

Delete models.zip, then run this once in each of four environments, in this folder:

    Python 3.7   keras 2.2.5 on tensorflow 1.15 (h5py 2.10)   -> keras_2_2_*.h5
    Python 3.10  tensorflow 2.12 (keras 2.12)                 -> keras_2_12_*
    Python 3.10  tensorflow 2.15 (keras 2.15)                 -> keras_2_15_*
    Python 3.11  tensorflow 2.21 with tf_keras 2.21           -> tf_keras_*

Beside each model stands NAME.npz: inputs, and what the model that was saved made of them.
"""

import os
import sys
import tempfile
import zipfile

import numpy as np

if __name__ == "__main__":  # only where such a Keras is
    import tensorflow as tf

    try:
        import tf_keras as keras

        VERSION, PREFIX = keras.__version__, "tf_keras"
    except ImportError:
        import keras

        VERSION = keras.__version__
        PREFIX = "keras_" + "_".join(VERSION.split(".")[:2])
        if PREFIX != "keras_2_2":
            from tensorflow import keras

    if not VERSION.startswith("2."):
        sys.exit("expected a Keras 2, got " + VERSION)

    layers, models, optimizers = keras.layers, keras.models, keras.optimizers
    OLD = PREFIX == "keras_2_2"
    RNG = np.random.RandomState(0)


def with_decay(rate, decay):
    """An optimizer with the decay that Keras 3 no longer has, and `lr` as it was called once."""
    if OLD:
        return optimizers.Adam(lr=rate, decay=decay)
    return optimizers.legacy.SGD(learning_rate=rate, decay=decay)


def images():
    """A convolutional model; on it sit most of the keys that Keras 3 does not read."""
    inputs = layers.Input(shape=(8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(momentum=0.8, name="bn")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=0.8, axis=-1, name="bn_depthwise")(x)
    x = layers.LeakyReLU(0.1, name="leaky")(x)
    x = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="transposed")(x)
    x = layers.BatchNormalization(momentum=0.8, scale=False, name="bn_last")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.1, name="dropout")(x)
    outputs = layers.Dense(3, activation="softmax", name="classes")(x)
    model = models.Model(inputs, outputs, name="images")
    model.compile(with_decay(0.01, 0.001), "categorical_crossentropy", metrics=["accuracy"])
    x = RNG.normal(1, 2, size=(48, 8, 8, 3)).astype("float32")
    model.fit(x, np.eye(3)[RNG.randint(3, size=48)], batch_size=16, epochs=2, verbose=0)
    return model, [x[:4]]


def sequences():
    """A Sequential model with wrappers, recurrent layers and the hard sigmoid of Keras 2."""
    model = models.Sequential(name="sequences")
    model.add(layers.TimeDistributed(layers.Dense(4), input_shape=(5, 3), name="per_step"))
    model.add(layers.BatchNormalization(momentum=0.5, name="bn"))
    model.add(layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both_ways"))
    model.add(layers.GRU(3, recurrent_activation="hard_sigmoid", name="gru"))
    model.add(layers.Dense(1, activation="hard_sigmoid", name="out"))
    model.compile("sgd", "mse")
    x = RNG.normal(0, 2, size=(32, 5, 3)).astype("float32")
    model.fit(x, RNG.uniform(size=(32, 1)), batch_size=16, epochs=2, verbose=0)
    return model, [x[:4]]


def nested():
    """Two inputs, a shared base whose batch normalization is frozen, a head that is Sequential."""
    base_in = layers.Input(shape=(4,), name="base_in")
    hidden = layers.Dense(5, use_bias=False, name="base_dense")(base_in)
    hidden = layers.BatchNormalization(momentum=0.5, name="base_bn")(hidden)
    hidden = layers.Dense(5, activation="relu", name="base_top")(hidden)
    base = models.Model(base_in, hidden, name="base")
    warm = models.Sequential([base], name="warm")
    warm.compile("sgd", "mse")
    x = [RNG.normal(1, 2, size=(32, 4)).astype("float32") for _ in range(2)]
    warm.fit(x[0], RNG.normal(size=(32, 5)), batch_size=16, epochs=3, verbose=0)
    base.get_layer("base_bn").trainable = False

    left, right = layers.Input(shape=(4,), name="left"), layers.Input(shape=(4,), name="right")
    both = layers.Concatenate(name="join")([base(left), base(right)])
    head = models.Sequential(name="head")
    head.add(layers.Dense(6, input_shape=(10,), name="head_dense"))
    head.add(layers.BatchNormalization(momentum=0.5, name="head_bn"))
    outputs = layers.Dense(1, name="score")(layers.ReLU(name="bend")(head(both)))
    model = models.Model([left, right], outputs, name="nested")
    model.compile(optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(x, RNG.normal(size=(32, 1)), batch_size=16, epochs=3, verbose=0)
    return model, [values[:4] for values in x]


def lambdas():
    """Python code inside the file."""
    model = models.Sequential(name="lambdas")
    model.add(layers.Dense(3, input_shape=(4,), name="dense"))
    model.add(layers.Lambda(lambda values: 2 * values, name="twice"))
    model.add(layers.BatchNormalization(name="bn"))
    return model, [RNG.normal(size=(4, 4)).astype("float32")]


def operations():
    """Functions of TensorFlow that were called on layers' outputs."""
    inputs = layers.Input(shape=(4,), name="values")
    x = layers.BatchNormalization(name="bn")(inputs)
    gate = tf.nn.relu6(3.0 + x) * (1 / 6)
    y = tf.concat([2 - x / 2.0, x[:, :1], gate], axis=1)
    mean = tf.reduce_mean(y, axis=[1], keepdims=True)
    model = models.Model(inputs, y - mean, name="operations")
    return model, [RNG.normal(size=(4, 4)).astype("float32")]


def strange_operations():
    """One that has no counterpart."""
    inputs = layers.Input(shape=(4,), name="values")
    x = layers.BatchNormalization(name="bn")(inputs)
    return models.Model(inputs, tf.math.cumulative_logsumexp(x), name="strange"), None


FILES = {
    "keras_2_2": [(images, "h5"), (sequences, "h5"), (nested, "h5")],
    "keras_2_12": [(images, "keras"), (lambdas, "h5")],
    "keras_2_15": [(images, "h5"), (sequences, "h5"), (nested, "h5"), (nested, "keras")],
    "tf_keras": [(sequences, "keras"), (operations, "h5"), (strange_operations, "h5")],
}


def add_to(archive, folder):
    """Make the files that this version of Keras is there for."""
    for make, suffix in FILES[PREFIX]:
        model, inputs = make()
        name = f"{PREFIX}_{make.__name__}.{suffix}"
        path = os.path.join(folder, name)
        model.save(path)
        archive.write(path, name)
        if inputs is not None:
            outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
            arrays = {f"x{i}": values for i, values in enumerate(inputs)}
            np.savez(f"{path}.npz", outputs=np.asarray(outputs), **arrays)
            archive.write(f"{path}.npz", f"{name}.npz")
        print(name, VERSION)


if __name__ == "__main__":
    with zipfile.ZipFile("models.zip", "a", zipfile.ZIP_DEFLATED) as models_zip:
        add_to(models_zip, tempfile.mkdtemp())
