"""Rules that need the graph alone: every one sees sick, mended and sound models."""

import functools

import numpy as np
import pytest
from doctor_trials import (
    BN,
    Trials,
    audit,
    chain,
    changed_by_a_step,
    classifier,
    depends_on_the_batch,
    found,
    labels,
    layers,
    rows,
    subclassed,
    with_base,
)
from doctor_trials import told as told_of

from bnutils._keras import keras, tf
from bnutils.doctor.freeze import freeze_bn
from bnutils.doctor.recalibrate import recalibrate
from bnutils.doctor.rules import Case, structure
from bnutils.doctor.subject import Subject

trial = Trials(structure)
# Keras says so too, where a mask is lost.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not support masking")


@trial("output-bn", "sick", "warning")
def last_before_mse():
    return chain(layers.Dense(16, "relu"), layers.Dense(1), BN(name="bn"), loss="mse"), {}


@trial("output-bn", "sick", "warning")
def before_softmax():
    return chain(layers.Dense(4), BN(name="bn"), layers.Activation("softmax")), {}


@trial("output-bn", "sick", "warning")
def before_sigmoid_after_dropout():
    return chain(layers.Dense(1), BN(), layers.Dropout(0.1), layers.Activation("sigmoid")), {}


@trial("output-bn", "mended")
def moved_before_the_last_layer():
    return chain(layers.Dense(16, "relu"), BN(name="bn"), layers.Dense(1), loss="mse"), {}


@trial("output-bn", "sound", "note")
def embedding_with_a_loss_of_its_own():
    def triplet(y, embedding):
        return tf.reduce_mean(embedding[:, 0] - embedding[:, 1])

    return chain(layers.Dense(16, "relu"), layers.Dense(8), BN(name="neck"), loss=triplet), {}


@trial("output-bn", "sound")
def backbone_that_ends_in_relu():
    stack = layers.Conv2D(4, 3), BN(), layers.ReLU(), layers.GlobalAveragePooling2D()
    return chain(*stack, shape=(8, 8, 3)), {}


@trial("output-bn", "sound")
def sigmoid_inside():
    return chain(layers.Dense(8), BN(), layers.Activation("sigmoid"), layers.Dense(1)), {}


@trial("output-bn", "sound")
def inputs_normalized_and_nothing_else():
    return chain(BN()), {}


@trial("dead-bias", "sick", "note")
def dense_with_bias():
    return chain(layers.Dense(16, name="dense"), BN(), layers.ReLU(), layers.Dense(1)), {}


@trial("dead-bias", "sick", "note")
def channels_first_with_bias():
    conv = layers.Conv2D(4, 3, data_format="channels_first")
    return chain(conv, BN(axis=1), shape=(3, 8, 8)), {}


@trial("dead-bias", "mended")
def dense_without_bias():
    stack = layers.Dense(16, use_bias=False), BN(), layers.ReLU(), layers.Dense(1)
    return chain(*stack), {}


@trial("dead-bias", "sound")
def bias_before_relu():
    return chain(layers.Dense(16, activation="relu"), BN(), layers.Dense(1)), {}


@trial("dead-bias", "sound")
def bias_read_by_a_branch_too():
    inputs = keras.Input((8,))
    x = layers.Dense(8)(inputs)
    return keras.Model(inputs, layers.Dense(1)(layers.Add()([BN()(x), x]))), {}


@trial("dead-bias", "sound")
def frozen_bn_after_bias():
    return chain(layers.Dense(16), BN(trainable=False), layers.ReLU(), layers.Dense(1)), {}


@trial("after-activation", "sick", "note")
def relu_first():
    return chain(layers.Dense(16), layers.ReLU(), layers.Dropout(0.1), BN(), layers.Dense(1)), {}


@trial("after-activation", "mended")
def bn_first():
    return chain(layers.Dense(16), BN(), layers.ReLU(), layers.Dense(1)), {}


@trial("after-activation", "sound")
def bn_on_the_input():
    return chain(BN(), layers.Dense(1)), {}


@trial("wrong-axis", "sick", "error")
def theano_axis():
    stack = layers.Conv2D(4, 3, use_bias=False), BN(axis=1, name="bn"), layers.ReLU()
    return chain(*stack, layers.Flatten(), layers.Dense(1), shape=(8, 8, 3)), {}


@trial("wrong-axis", "sick", "error")
def default_axis_with_channels_first():
    conv = functools.partial(layers.Conv2D, 4, 3, data_format="channels_first")
    return chain(conv(), layers.ReLU(), BN(), conv(), shape=(3, 8, 8)), {}


@trial("wrong-axis", "sick", "error")
def input_bn_that_the_next_convolution_contradicts():
    return chain(BN(), layers.Conv2D(4, 3, data_format="channels_first"), shape=(3, 8, 8)), {}


@trial("wrong-axis", "sick", "warning")
def time_axis():
    return chain(layers.GRU(4, return_sequences=True), BN(axis=1), shape=(5, 3)), {}


@trial("wrong-axis", "mended")
def channel_axis():
    stack = layers.Conv2D(4, 3, use_bias=False), BN(axis=-1, name="bn"), layers.ReLU()
    return chain(*stack, layers.Flatten(), layers.Dense(1), shape=(8, 8, 3)), {}


@trial("wrong-axis", "sound")
def axis_one_with_channels_first():
    first = {"data_format": "channels_first"}
    stack = layers.Conv2D(4, 3, **first), layers.MaxPooling2D(**first), BN(axis=1)
    return chain(*stack, shape=(3, 8, 8)), {}


@trial("wrong-axis", "sound")
def axis_three_and_axis_one_of_rank_two():
    stack = layers.Conv2D(4, 3), BN(axis=3), layers.Flatten(), layers.Dense(4), BN(axis=1)
    return chain(*stack, layers.ReLU(), layers.Dense(1), shape=(8, 8, 3)), {}


@trial("wrong-axis", "sound")
def permuted_on_purpose():
    stack = layers.Conv1D(4, 3), layers.Permute((2, 1)), BN(axis=1)
    return chain(*stack, shape=(9, 3)), {}


@trial("wrong-axis", "sound")
def inside_time_distributed():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), BN(axis=3)])
    return chain(layers.TimeDistributed(inner), shape=(5, 8, 8, 3)), {}


@functools.cache
def ignored():
    """Whether this Keras lets `fit` override the argument. Asked when a test runs, not before."""
    return not Case(Subject(classifier())).keras_obeys_recorded_training


def only_if_ignored():
    if not ignored():
        pytest.skip("this Keras obeys the argument")


@trial("ignored-training-argument", "sick", "error")
def nested_call_with_training_false():
    only_if_ignored()
    return with_base(training=False), {}


@trial("ignored-training-argument", "sick", "error")
def direct_call_with_training_false():
    only_if_ignored()
    inputs = keras.Input((8,))
    x = BN()(layers.Dense(4, use_bias=False)(inputs), training=False)
    return keras.Model(inputs, layers.Dense(1)(x)), {}


@trial("ignored-training-argument", "mended")
def frozen_by_freeze_bn():
    x = rows()
    return freeze_bn(with_base(training=False), (x, labels(x))).model, {"data": (x, labels(x))}


@trial("ignored-training-argument", "sound")
def obeyed_in_a_subclass():
    return subclassed(), {}


# Modes and masks


def told(training=True, positions=None):
    """A model whose BN is told training=True, in a recorded graph."""
    inputs = keras.Input((8,) if positions is None else (positions, 8))
    x = layers.Dense(4, use_bias=False)(inputs)
    x = BN(name="bn")(x, **({"training": True} if training else {}))
    x = x if positions is None else layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.ReLU()(x)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


class Told(keras.Model):
    """A subclass that tells BN training=True."""

    def __init__(self, training=True):  # noqa: D107
        super().__init__()
        self.dense = layers.Dense(4, use_bias=False)
        self.bn = BN(name="bn", momentum=0.9)
        self.head = layers.Dense(2, activation="softmax")
        self.told = training

    def call(self, x):
        return self.head(self.bn(self.dense(x), **({"training": True} if self.told else {})))


class Hidden(Told):
    """The same in a call that cannot be followed without data."""

    def call(self, x):
        return super().call(tf.reshape(x, tf.shape(x)))


class ByDefault(Told):
    """The same as a default, which m(x) follows."""

    def call(self, x, training=True):
        return self.head(self.bn(self.dense(x), training=training))


def told_in_a_subclass(kind=Told, training=True):
    keras.utils.set_random_seed(0)
    model = kind(training)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = rows(64, mean=2)
    model(x)
    return model, {"data": (x, labels(x))}


@trial("always-training", "sick", "error")
def told_in_a_subclass_of_dense_layers():
    return told_in_a_subclass()


@trial("always-training", "sick", "error")
def told_in_a_subclass_without_data():
    return told_in_a_subclass()[0], {}


@trial("always-training", "sick", "error")
def told_in_a_call_that_cannot_be_followed():
    return told_in_a_subclass(Hidden)


@trial("always-training", "sick", "warning")
def told_by_a_default():
    return told_in_a_subclass(ByDefault)


@trial("always-training", "sick", "warning")
def told_to_a_base():
    base = chain(layers.Dense(4, use_bias=False), BN(), layers.ReLU(), name="base")
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(1)(base(inputs, training=True))), {}


@trial("always-training", "sick", "warning")
def told_in_a_recorded_graph():
    return told(), {"data": (rows(), labels(rows()))}


@trial("always-training", "sick", "warning")
def told_in_a_recorded_graph_with_positions():
    return told(positions=6), {}


@trial("always-training", "mended")
def not_told():
    return told(training=False), {"data": (rows(), labels(rows()))}


@trial("always-training", "mended")
def not_told_in_a_call_that_cannot_be_followed():
    return told_in_a_subclass(Hidden, training=False)


@trial("always-training", "sound")
def told_and_frozen():
    model = told()
    model.get_layer("bn").trainable = False
    return model, {"data": (rows(), labels(rows()))}


class Clinging(BN):
    """A layer whose call fixes training=True."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True, mask=mask)


class Memoryless(BN):
    """A layer that normalizes by the batch, always, and keeps no statistics."""

    def call(self, inputs, training=None, mask=None):
        mean, variance = tf.nn.moments(inputs, [0])
        return (inputs - mean) / tf.sqrt(variance + self.epsilon)


class HandingOn(BN):
    """A layer that hands training on."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


def with_own_bn(kind, data=True, **bn):
    stack = layers.Dense(4, use_bias=False), kind(name="bn", **bn)
    model = chain(*stack, layers.Dense(2, "softmax"), loss="sparse_categorical_crossentropy")
    x = rows(64, mean=2)
    return model, {"data": (x, labels(x))} if data else {}


for kind in (Clinging, Memoryless):
    for data in (False, True):

        @trial("always-training", "sick", "error")
        def told_by_a_layer_of_its_own(kind=kind, data=data):
            return with_own_bn(kind, data)


@trial("always-training", "mended")
def handed_on_by_a_layer_of_its_own():
    return with_own_bn(HandingOn)


@trial("always-training", "sound")
def layer_of_its_own_that_is_frozen():
    return with_own_bn(Clinging, trainable=False)


@trial.followed(
    "always-training",
    lambda: with_own_bn(Clinging),
    says="Let Clinging.call hand on the training that it is given",
    symptom=depends_on_the_batch,
    limit=1e-4,
)
def handed_on(model, given):
    new, given = with_own_bn(HandingOn)
    new.set_weights(model.get_weights())
    return new, given


def test_a_layer_that_keeps_no_statistics_is_not_said_to_overwrite_them():
    (memoryless, *_), (clinging, *_) = (
        found(audit(with_own_bn(kind, data=False)[0]), "always-training")
        for kind in (Memoryless, Clinging)
    )
    assert "made by Memoryless.call to follow the batch" in memoryless.evidence
    assert "overwrite" not in memoryless.evidence
    assert "overwrite the moving statistics" in clinging.evidence


@trial.followed(
    "always-training",
    told_in_a_subclass,
    says="Leave training=True out of the call",
    symptom=depends_on_the_batch,
    limit=1e-4,
)
def left_out_of_the_call(model, given):
    new = Told(training=False)
    new(given["data"][0])
    new.set_weights(model.get_weights())
    new.compile("sgd", "sparse_categorical_crossentropy")
    return new, given


@trial.followed(
    "always-training",
    told_in_a_subclass,
    says="Call freeze_bn(model)",
    symptom=depends_on_the_batch,
    limit=1e-4,
)
def frozen_as_it_is(model, given):
    freeze_bn(model)
    return model, given


def padded(*stack, length=12):
    """Sequences of 2 to 8 steps, padded with zeros."""
    rng = np.random.default_rng(0)
    x = np.zeros((64, length, 3), "float32")
    for row, steps in zip(x, rng.integers(2, 9, 64), strict=True):
        row[:steps] = rng.normal(2, 1, (steps, 3))
    model = keras.Sequential([keras.Input((None, 3)), layers.Masking(), *stack])
    model.add(layers.GlobalAveragePooling1D())
    model.add(layers.Dense(1))
    return model, {"data": x}


def conv():
    return layers.Conv1D(4, 3, padding="same", use_bias=False)


@trial("lost-mask", "sick", "warning")
def mask_lost_by_a_convolution():
    return padded(conv(), layers.Dropout(0.1), BN(name="bn"))


@trial("lost-mask", "sick", "note")
def mask_lost_and_no_data():
    return mask_lost_by_a_convolution()[0], {}


@trial("lost-mask", "sick", "warning")
def mask_of_an_embedding_lost():
    stack = layers.Embedding(9, 4, mask_zero=True), conv(), BN(), layers.GRU(2)
    model = keras.Sequential([keras.Input((10,), dtype="int32"), *stack])
    words = np.random.default_rng(0).integers(1, 9, (64, 10))
    words[:, 6:] = 0
    return model, {"data": words}


@trial("lost-mask", "sick", "warning")
def mask_lost_by_a_lambda():
    return padded(layers.Lambda(abs), BN(name="bn"))


@trial("lost-mask", "mended")
def bn_before_the_convolution():
    return padded(BN(name="bn"), conv())


@trial("lost-mask", "sound")
def mask_used_up_by_a_recurrent_layer():
    model = keras.Sequential([keras.Input((10,), dtype="int32")])
    for layer in (layers.Embedding(9, 4, mask_zero=True), layers.GRU(4), BN(), layers.Dense(1)):
        model.add(layer)
    return model, {"data": np.arange(640).reshape(64, 10) % 9}


@trial("lost-mask", "sound")
def mask_lost_and_nothing_padded():
    model, given = mask_lost_by_a_convolution()
    return model, {"data": given["data"][:, :2]}


def moved_by_padding(model, given):
    """How far the statistics go, in sd, when the same rows are padded with as much again."""
    x = given["data"]
    bn = model.get_layer("bn")
    found = []
    for each in (x, np.concatenate([x, np.zeros_like(x)], axis=1)):
        recalibrate(model, each)
        found.append((bn.moving_mean.numpy(), bn.moving_variance.numpy()))
    return float(np.max(np.abs(found[1][0] - found[0][0]) / np.sqrt(found[0][1])))


@trial.followed(
    "lost-mask",
    mask_lost_by_a_convolution,
    says="bn(x, mask=mask)",
    symptom=moved_by_padding,
    limit=0.02,
)
def mask_given_by_hand(model, given):
    inputs = keras.Input((None, 3))
    masked = layers.Masking()(inputs)
    mask = layers.Masking().compute_mask(inputs)
    x = BN(name="bn")(conv()(masked), mask=mask)
    return keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(x))), given


# Repairs of the others


def last_before_mse_of_a_fast_learner():
    model, given = last_before_mse()
    model.optimizer.learning_rate = 0.05
    return model, given


def best_training_loss(model, given):
    """What is left of the loss, in batches of four, of a target that a line explains."""
    x = rows(64)
    history = model.fit(x, x[:, :1], batch_size=4, epochs=6, verbose=0)
    return history.history["loss"][-1]


@trial.followed(
    "output-bn",
    last_before_mse_of_a_fast_learner,
    says="Take bn out",
    symptom=best_training_loss,
    limit=0.1,
)
def output_without_bn(model, given):
    model = chain(*(layer for layer in model.layers if not isinstance(layer, BN)))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model, given


def biases_without_gradient(model, given):
    x, y = rows(32), rows(32, 1, seed=1)
    biases = [layer.bias for layer in model.layers if getattr(layer, "bias", None) is not None]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    gradients = tape.gradient(loss, [bias.value for bias in biases])
    return max(float(np.mean(np.abs(gradient) < 1e-6)) for gradient in gradients)


@trial.followed(
    "dead-bias", dense_with_bias, says="use_bias=False", symptom=biases_without_gradient, limit=0.5
)
def bias_left_out(model, given):
    return dense_without_bias()


def refuses_larger_images(model, given):
    """1 if the weights fit no model for images of another size."""
    stack = [type(layer).from_config(layer.get_config()) for layer in model.layers]
    try:
        chain(*stack, shape=(12, 12, 3)).set_weights(model.get_weights())
    except ValueError:
        return 1
    return 0


def image_net(axis):
    stack = layers.Conv2D(4, 3, use_bias=False), BN(axis=axis, name="bn"), layers.ReLU()
    return chain(*stack, layers.GlobalAveragePooling2D(), layers.Dense(1), shape=(8, 8, 3)), {}


@trial.followed(
    "wrong-axis",
    lambda: image_net(1),
    says="BatchNormalization(axis=-1)",
    symptom=refuses_larger_images,
)
def built_on_the_channels(model, given):
    return image_net(-1)


@trial.followed(
    "ignored-training-argument",
    nested_call_with_training_false,
    says="Call freeze_bn(model)",
    symptom=changed_by_a_step,
)
def frozen(model, given):
    freeze_bn(model)
    return model, given


def base_told_to_stand_still_and_a_head_that_learns():
    only_if_ignored()
    model = with_base(training=False)
    x = BN(name="head_bn")(model.layers[1].output)
    model = keras.Model(model.inputs, layers.Dense(2, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, {}


def base_changed_by_a_step(model, given):
    bn = model.get_layer("base").get_layer("bn")
    return changed_by_a_step(model, given, [bn.moving_mean])


@trial.followed(
    "ignored-training-argument",
    base_told_to_stand_still_and_a_head_that_learns,
    says="Set trainable = False on base/bn and compile the model again",
    symptom=base_changed_by_a_step,
)
def frozen_alone(model, given):
    model.get_layer("base").get_layer("bn").trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, given


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    trial.check_complete(
        nothing_to_follow={
            "after-activation": "a choice, not a fault: the rule says nothing to mend"
        }
    )


def test_a_keras_that_obeys_the_argument_gives_no_cause_for_alarm(monkeypatch):
    monkeypatch.setattr(Case, "keras_obeys_recorded_training", True)
    assert told_of("ignored-training-argument", with_base(training=False)) == []


def test_evidence_carries_numbers():
    evidence = found(audit(theano_axis()[0]), "wrong-axis")[0].evidence
    assert "it keeps 6 sets of statistics" in evidence
    assert "4 channels on axis -1" in evidence
