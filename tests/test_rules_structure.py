"""Rules that need the graph alone: every one sees sick, mended and sound models."""

import functools

import pytest
from doctor_trials import (
    BN,
    Trials,
    audit,
    chain,
    classifier,
    found,
    labels,
    layers,
    rows,
    subclassed,
    with_base,
)

from bnutils._keras import keras, tf
from bnutils.doctor.freeze import freeze_bn
from bnutils.doctor.rules import Case, structure
from bnutils.doctor.subject import Subject

trial = Trials(structure)


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


IGNORED = None if Case(Subject(classifier())).keras_obeys_recorded_training else "error"


@trial("ignored-training-argument", "sick", IGNORED)
def nested_call_with_training_false():
    return with_base(training=False), {}


@trial("ignored-training-argument", "sick", IGNORED)
def direct_call_with_training_false():
    inputs = keras.Input((8,))
    x = BN()(layers.Dense(4, use_bias=False)(inputs), training=False)
    return keras.Model(inputs, layers.Dense(1)(x)), {}


@trial("ignored-training-argument", "mended")
def frozen_by_freeze_bn():
    x = rows()
    return freeze_bn(with_base(training=False), x, labels(x)), {"data": (x, labels(x))}


@trial("ignored-training-argument", "sound")
def obeyed_in_a_subclass():
    return subclassed(), {}


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    trial.check_complete(
        nothing_to_follow={
            "after-activation": "to come",
            "dead-bias": "to come",
            "ignored-training-argument": "to come",
            "output-bn": "to come",
            "wrong-axis": "to come",
        }
    )


def test_evidence_carries_numbers():
    evidence = found(audit(theano_axis()[0]), "wrong-axis")[0].evidence
    assert "it keeps 6 sets of statistics" in evidence
    assert "4 channels on axis -1" in evidence
