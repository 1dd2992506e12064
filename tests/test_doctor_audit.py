"""Every rule sees a sick model, passes its mended twin, and lets a sound look-alike be."""

import functools
import importlib
import json
import random
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from keras.src.backend.common import global_state

from bnutils._keras import keras, tf
from bnutils.doctor.audit import audit
from bnutils.doctor.freeze import freeze_bn
from bnutils.doctor.recalibrate import recalibrate
from bnutils.doctor.rules import RULES, Case
from bnutils.doctor.subject import Subject

layers = keras.layers
BN = layers.BatchNormalization

# Every trial: (rule, "sick" | "mended" | "sound", level expected of the rule, function). The
# function returns the model and the other arguments of `audit`.
TRIALS = []


def trial(rule, kind, level=None):
    def register(build):
        TRIALS.append(pytest.param(rule, level, build, id=f"{rule}-{kind}-{build.__name__}"))
        KINDS.setdefault(rule, set()).add(kind)
        return build

    return register


KINDS = {"replica-batch": {"sick", "mended", "sound"}}  # needs a process of its own, see below


def rows(n=256, features=8, mean=0.0, sd=1.0, seed=0):
    x = np.random.default_rng(seed).normal(mean, sd, (n, features))
    return x.astype("float32")


def labels(x):
    return (x[:, 0] > x[:, 0].mean()).astype("int32")


def train(model, x, y, **options):
    """Fit. The optimizer is built before: `fit` builds it too, and then traces its step twice."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.fit(x, y, verbose=0, **options)


def chain(*stack, shape=(8,), loss=None, optimizer="adam", name="chain"):
    model = keras.Sequential([keras.Input(shape), *stack], name=name)
    if loss:
        model.compile(optimizer, loss)
    return model


def classifier(**bn):
    return chain(
        layers.Dense(16, use_bias=False),
        BN(name="bn", **bn),
        layers.ReLU(),
        layers.Dense(2, activation="softmax"),
        loss="sparse_categorical_crossentropy",
    )


def settle(model, x):
    """Give a model moving statistics that suit the data, as after long training."""
    recalibrate(model, x)
    return model


def found(report, rule):
    return [each for each in report.diagnoses if each.rule == rule]


def worst(report, rule):
    levels = {each.level for each in found(report, rule)}
    return next((level for level in ("error", "warning", "note") if level in levels), None)


# The graph alone


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


@trial("pytorch-momentum", "sick", "warning")
def momentum_of_pytorch():
    return classifier(momentum=0.1), {}


@trial("pytorch-momentum", "mended")
def momentum_converted():
    return classifier(momentum=0.9), {}


@trial("pytorch-momentum", "sound")
def momentum_low_but_plain():
    return classifier(momentum=0.6), {}


def with_base(bn=None, **call):
    base = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, use_bias=False), bn or BN(name="bn"), layers.ReLU()],
        name="base",
    )
    inputs = keras.Input((8,))
    outputs = layers.Dense(2)(base(inputs, **call))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


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


class Head(keras.Model):
    """A head on a base that is always called in inference mode."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.base = keras.Sequential([keras.Input((8,)), layers.Dense(4), BN(), layers.ReLU()])
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        return self.head(self.base(x, training=False))


@trial("ignored-training-argument", "sound")
def obeyed_in_a_subclass():
    model = Head()
    model(rows(2))
    model.compile("sgd", "mse")
    return model, {}


# What a training step changes


def fitted(model):
    x = rows(32)
    train(model, x, labels(x))
    return model


@trial("stale-compile", "sick", "error")
def frozen_after_fit():
    model = fitted(with_base())
    model.get_layer("base").trainable = False
    return model, {}


@trial("stale-compile", "sick", "error")
def thawed_after_fit():
    model = with_base()
    model.get_layer("base").trainable = False
    fitted(model).get_layer("base").trainable = True
    return model, {}


@trial("stale-compile", "mended")
def frozen_and_compiled_again():
    return freeze_bn(frozen_after_fit()[0]), {}


@trial("stale-compile", "sound")
def frozen_after_compile_but_before_fit():
    model = with_base()
    model.get_layer("base").trainable = False
    return model, {}


def partly_frozen():
    model = with_base()
    for layer in model.get_layer("base").layers:
        layer.trainable = isinstance(layer, BN)
    return model


@trial("frozen-but-learning", "sick", "warning")
def all_but_bn_frozen():
    return partly_frozen(), {}


@trial("frozen-but-learning", "sick", "warning")
def all_but_bn_frozen_in_a_flat_model():
    stack = layers.Dense(8, use_bias=False), BN(), layers.ReLU()
    model = chain(*stack, layers.Dense(8, use_bias=False), BN(), layers.ReLU(), layers.Dense(1))
    for layer in model.layers[:-1]:
        layer.trainable = isinstance(layer, BN)
    model.compile("sgd", "mse")
    return model, {}


@trial("frozen-but-learning", "sick", "warning")
def gamma_and_beta_frozen_alone():
    model = classifier()
    for variable in model.get_layer("bn").trainable_weights:
        variable.trainable = False
    return model, {}


class Stubborn(BN):
    """A layer that follows the batch whether it is frozen or not."""

    def call(self, inputs, training=None, mask=None):
        if training:
            mean = tf.reduce_mean(inputs, 0)
            self.moving_mean.assign(0.9 * self.moving_mean + 0.1 * mean)
        return super().call(inputs, training=False, mask=mask)


@trial("frozen-but-learning", "sick", "error")
def frozen_layer_that_does_not_care():
    return chain(layers.Dense(4), Stubborn(trainable=False), layers.Dense(1), loss="mse"), {}


@trial("frozen-but-learning", "mended")
def base_frozen_by_freeze_bn():
    return freeze_bn(partly_frozen()), {}


@trial("frozen-but-learning", "sound")
def new_head_that_starts_with_bn():
    model = chain(layers.Dense(8, "relu"), BN(), layers.Dense(1))
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    return model, {}


@trial("frozen-but-learning", "sound", "note")
def nothing_but_bn_trained_on_purpose():
    model = chain(layers.Dense(8), BN(), layers.ReLU(), layers.Dense(1))
    for layer in model.layers:
        layer.trainable = isinstance(layer, BN)
    model.compile("sgd", "mse")
    return model, {}


@trial("frozen-but-learning", "sound")
def everything_trains():
    return with_base(), {}


# What the variables hold


@trial("never-updated", "sick", "error")
def gamma_trained_by_a_loop_without_training():
    model = classifier()
    model.get_layer("bn").gamma.assign(np.linspace(0.5, 1.5, 16))
    return model, {}


class Forgetful(keras.Model):
    """A model whose train_step forgets training=True."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def forgetful(kind):
    inputs = keras.Input((8,))
    x = BN(name="bn")(layers.Dense(4, use_bias=False)(inputs))
    model = kind(inputs, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    return model


@trial("never-updated", "sick", "error")
def train_step_that_forgets():
    return forgetful(Forgetful), {"data": (rows(16), rows(16, 1))}


@trial("never-updated", "sick", "error")
def many_updates_and_no_statistics():
    model = classifier()
    fitted(model)
    bn = model.get_layer("bn")
    bn.moving_mean.assign(np.zeros(16))
    bn.moving_variance.assign(np.ones(16))
    return model, {}


@trial("never-updated", "sick", "warning")
def frozen_base_whose_weights_were_never_loaded():
    return fitted(classifier(trainable=False)), {}


@trial("never-updated", "mended")
def recalibrated_after_the_loop():
    return settle(gamma_trained_by_a_loop_without_training()[0], rows()), {}


@trial("never-updated", "mended", "note")
def train_step_that_remembers():
    return forgetful(keras.Model), {"data": (rows(16), rows(16, 1))}


@trial("never-updated", "sound", "note")
def not_trained_yet():
    return classifier(), {"data": (rows(mean=3), labels(rows()))}


@trial("never-updated", "sound", "note")
def gamma_that_starts_at_zero():
    return classifier(gamma_initializer="zeros"), {}


def with_variance(value, shape=16):
    model = classifier()
    model.get_layer("bn").moving_variance.assign(np.full(shape, value))
    return model


@trial("bad-variance", "sick", "error")
def variance_not_a_number():
    return with_variance(np.nan), {}


@trial("bad-variance", "sick", "error")
def variance_below_zero():
    return with_variance(-0.5), {}


@trial("bad-variance", "sick", "warning")
def variance_exploded():
    return with_variance(1e8), {}


@trial("bad-variance", "mended")
def variance_recalibrated():
    return settle(variance_not_a_number()[0], rows()), {}


@trial("bad-variance", "sound")
def raw_inputs_of_large_scale():
    model = chain(BN(), layers.Dense(1))
    return settle(model, rows(sd=1e5)), {}


@trial("half-precision-variables", "sick", "warning")
def pure_float16():
    return classifier(dtype="float16"), {}


@trial("half-precision-variables", "sick", "warning")
def pure_bfloat16():
    return classifier(dtype="bfloat16"), {}


@trial("half-precision-variables", "mended")
def bn_in_float32():
    stack = layers.Dense(4, dtype="float16"), BN(dtype="float32"), layers.Dense(1, dtype="float16")
    return chain(*stack), {}


@trial("half-precision-variables", "sound")
def mixed_precision():
    stack = layers.Dense(4, dtype="mixed_float16"), BN(dtype="mixed_float16")
    return chain(*stack, layers.ReLU(), layers.Dense(1)), {}


# Batches and the optimizer


@trial("batch-of-one", "sick", "error")
def dense_with_one_row():
    return classifier(), {"batch_size": 1}


@trial("batch-of-one", "sick", "warning")
def dense_with_four_rows():
    return classifier(), {"batch_size": 4}


@trial("batch-of-one", "sick", "error")
def dataset_of_single_rows():
    data = tf.data.Dataset.from_tensor_slices((rows(16), labels(rows(16)))).batch(1)
    return classifier(), {"data": data}


@trial("batch-of-one", "mended")
def dense_with_many_rows():
    return classifier(), {"batch_size": 32}


def image_net(shape=(32, 32, 3)):
    stack = layers.Conv2D(4, 3), BN(), layers.GlobalMaxPooling2D(), layers.Dense(1)
    return chain(*stack, shape=shape)


@trial("batch-of-one", "sound")
def one_image_has_many_positions():
    return image_net(), {"batch_size": 1}


@trial("batch-of-one", "sound")
def one_image_of_open_size():
    return image_net((None, None, 3)), {"batch_size": 1}


@trial("batch-of-one", "sound")
def frozen_with_one_row():
    return classifier(trainable=False), {"batch_size": 1}


@trial("partial-batch", "sick", "warning")
def one_row_left():
    return classifier(), {"batch_size": 64, "train_size": 65}


@trial("partial-batch", "sick", "note")
def seven_of_many_rows_left():
    return classifier(), {"batch_size": 64, "train_size": 64 * 100 + 7}


@trial("partial-batch", "mended")
def rest_dropped():
    return classifier(), {"batch_size": 64, "train_size": 64}


@trial("partial-batch", "sound")
def half_a_batch_left():
    return classifier(), {"batch_size": 64, "train_size": 96}


@trial("partial-batch", "sound")
def one_image_left():
    return image_net(), {"batch_size": 64, "train_size": 65}


def with_optimizer(**settings):
    return chain(
        layers.Dense(4, use_bias=False),
        BN(),
        layers.Dense(1),
        loss="mse",
        optimizer=keras.optimizers.SGD(0.1, **settings),
    )


@trial("gradient-accumulation", "sick", "warning")
def four_rows_at_a_time():
    return with_optimizer(gradient_accumulation_steps=8), {"batch_size": 4}


@trial("gradient-accumulation", "mended")
def one_large_batch():
    return with_optimizer(), {"batch_size": 32}


@trial("gradient-accumulation", "sound", "note")
def large_batches_accumulated():
    return with_optimizer(gradient_accumulation_steps=2), {"batch_size": 64}


@trial("decayed-gamma-beta", "sick", "note")
def decayed_by_the_default_of_adamw():
    return chain(layers.Dense(4), BN(), layers.Dense(1), loss="mse", optimizer="adamw"), {}


@trial("decayed-gamma-beta", "sick", "note")
def regularized():
    return classifier(gamma_regularizer="l2"), {}


@trial("decayed-gamma-beta", "mended")
def left_out_of_the_decay():
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])
    return chain(layers.Dense(4), BN(), layers.Dense(1), loss="mse", optimizer=optimizer), {}


@trial("decayed-gamma-beta", "sound")
def frozen_under_decay():
    stack = layers.Dense(4), BN(trainable=False), layers.Dense(1)
    return chain(*stack, loss="mse", optimizer="adamw"), {}


@trial("decayed-gamma-beta", "sound")
def neither_gamma_nor_beta():
    stack = layers.Dense(4), BN(center=False, scale=False), layers.Dense(1)
    return chain(*stack, loss="mse", optimizer="adamw"), {}


# What the data show


@functools.cache
def task():
    """Two classes that the sum of the features tells apart, away from zero."""
    x = rows(512, mean=4.0)
    return x, (x.sum(axis=1) > x.sum(axis=1).mean()).astype("int32")


@functools.cache
def training(momentum, epochs):
    keras.utils.set_random_seed(0)
    model = classifier(momentum=momentum)
    model.optimizer.learning_rate = 0.01
    x, y = task()
    train(model, x, y, batch_size=32, epochs=epochs)
    return model.get_weights(), int(model.optimizer.iterations.numpy())


def trained(momentum, epochs):
    """A model after so many epochs, as loaded from a file."""
    weights, iterations = training(momentum, epochs)
    model = classifier(momentum=momentum)
    model.set_weights(weights)
    model.optimizer.iterations.assign(iterations)
    return model


@trial("stale-statistics", "sick", "error")
def few_updates():
    return trained(0.999, 2), {"data": task()}


@trial("stale-statistics", "mended")
def few_updates_recalibrated():
    return settle(trained(0.999, 2), task()[0]), {"data": task()}


@trial("stale-statistics", "sound")
def enough_updates():
    return trained(0.9, 10), {"data": task()}


@trial("stale-statistics", "sound")
def few_rows_of_a_sound_model():
    return trained(0.9, 10), {"data": tuple(part[:12] for part in task())}


@trial("stale-statistics", "sound", "note")
def frozen_on_purpose_on_other_data():
    model = trained(0.9, 3)
    model.get_layer("bn").trainable = False
    return model, {"data": (task()[0] + 5, task()[1])}


@trial("stale-statistics", "sound")
def dropout_before_bn_recalibrated():
    return settle(dropped()[0], rows(mean=4)), {"data": rows(mean=4)}


@trial("modes-disagree", "sick", "error")
def evaluate_fails_where_fit_shines():
    return trained(0.999, 5), {"data": task()}


@trial("modes-disagree", "sick", "error")
def outputs_differ_and_nobody_knows_the_targets():
    return trained(0.999, 5), {"data": task()[0]}


@trial("modes-disagree", "sick", "error")
def regression_far_off():
    model = chain(layers.Dense(8, use_bias=False), BN(), layers.Dense(1), loss="mse")
    x = task()[0]
    targets = settle(model, x).predict(x, verbose=0)
    return settle(model, x + 3), {"data": (x, targets)}


@trial("stale-statistics", "sick", "warning")
@trial("modes-disagree", "sick", "warning")
def outputs_somewhat_off():
    model = settle(chain(BN(), layers.Dense(1), shape=(1,)), rows(features=1))
    model.layers[0].moving_mean.assign([0.7])
    return model, {"data": rows(features=1)}


@trial("modes-disagree", "mended")
def evaluate_after_recalibration():
    return settle(trained(0.999, 5), task()[0]), {"data": task()}


@trial("modes-disagree", "sound")
def modes_of_a_sound_model():
    return trained(0.9, 10), {"data": task()}


@trial("modes-disagree", "sound")
def modes_of_a_sound_model_on_few_rows():
    return trained(0.9, 10), {"data": task()[0][:16]}


@trial("modes-disagree", "sound")
def frozen_bn_has_one_mode():
    return frozen_on_purpose_on_other_data()


@trial("modes-disagree", "sound")
def untrained_modes():
    return classifier(), {"data": task()}


@trial("vanishing-variance", "sick", "warning")
def tiny_inputs():
    return chain(BN(), layers.Dense(1)), {"data": rows(sd=1e-3)}


@trial("vanishing-variance", "sick", "warning")
def dead_relu():
    dead = layers.Dense(8, activation="relu", bias_initializer=keras.initializers.Constant(-50))
    return chain(BN(), dead, BN(), layers.Dense(1)), {"data": rows()}


@trial("vanishing-variance", "mended")
def smaller_epsilon():
    return chain(BN(epsilon=1e-9), layers.Dense(1)), {"data": rows(sd=1e-3)}


@trial("vanishing-variance", "sound", "note")
def small_weights_behind_another_bn():
    small = layers.Dense(8, use_bias=False, kernel_initializer=keras.initializers.Constant(1e-3))
    return chain(BN(), small, BN(), layers.Dense(1)), {"data": rows()}


@trial("vanishing-variance", "sound", "note")
def one_dead_channel():
    x = rows()
    x[:, 3] = 0
    return chain(BN(), layers.Dense(1)), {"data": x}


def siamese(second):
    one, two = keras.Input((8,)), keras.Input((8,))
    tower = keras.Sequential([keras.Input((8,)), layers.Dense(8), BN(name="bn"), layers.ReLU()])
    model = keras.Model([one, two], layers.Dense(1)(layers.Subtract()([tower(one), tower(two)])))
    return model, {"data": [rows(), second]}


@trial("shared-bn", "sick", "warning")
def one_layer_for_real_and_fake():
    return siamese(rows(mean=2, seed=1))


@trial("shared-bn", "sick", "warning")
def one_layer_for_two_scales():
    return siamese(rows(sd=4, seed=1))


@trial("shared-bn", "mended")
def a_layer_for_each():
    one, two = keras.Input((8,)), keras.Input((8,))
    model = keras.Model([one, two], layers.Dense(1)(layers.Subtract()([BN()(one), BN()(two)])))
    return model, {"data": [rows(), rows(mean=2)]}


@trial("shared-bn", "sound", "note")
def twins_on_like_inputs():
    return siamese(rows(seed=1))


@trial("shared-bn", "sound", "note")
def twins_without_data():
    return siamese(rows())[0], {}


def dropped(*after, rate=0.5, **settings):
    stack = layers.Dropout(rate, **settings), *after, layers.Dense(16, use_bias=False), BN()
    model = chain(*stack, layers.ReLU(), layers.Dense(1))
    return model, {"data": rows(mean=4)}


@trial("dropout-before-bn", "sick", "warning")
def dropout_first():
    return dropped()


@trial("dropout-before-bn", "sick", "note")
def dropout_first_without_data():
    return dropped()[0], {}


@trial("dropout-before-bn", "mended")
def dropout_last():
    stack = layers.Dense(16, use_bias=False), BN(), layers.ReLU(), layers.Dropout(0.5)
    return chain(*stack, layers.Dense(1)), {"data": rows(mean=4)}


@trial("dropout-before-bn", "sound", "note")
def little_dropout():
    return dropped(rate=0.01)


@trial("dropout-before-bn", "sound")
def reset_in_between():
    return dropped(layers.LayerNormalization())


@trial("dropout-before-bn", "sound")
def stochastic_depth():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same", use_bias=False)(inputs)
    x = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(x)
    x = BN()(layers.Conv2D(4, 3)(layers.Add()([inputs, x])))
    x = layers.Dense(1)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    data = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    return keras.Model(inputs, x), {"data": data}


@pytest.mark.parametrize(("rule", "level", "build"), TRIALS)
def test_rule(rule, level, build):
    keras.utils.set_random_seed(0)
    model, given = build()
    report = audit(model, **given)
    assert worst(report, rule) == level, report
    crashed = [reason for _, reason in report.not_checked if "crashed" in reason]
    assert not crashed


def test_every_rule_has_sick_mended_and_sound_trials():
    assert set(KINDS) == {rule.name for rule in RULES}
    assert all(kinds == {"sick", "mended", "sound"} for kinds in KINDS.values())


def test_rules_are_well_formed():
    for rule in RULES:
        assert rule.check.__doc__
        assert set(rule.levels) <= {"error", "warning", "note"}
        seen = {part.values[1] for part in TRIALS if part.values[0] == rule.name} - {None}
        all_parts = [other for other in RULES if other.name == rule.name]
        declared = {level for part in all_parts for level in part.levels}
        assert seen <= declared
        if rule.name != "replica-batch":
            assert declared <= seen | ({"error"} if IGNORED is None else set()), rule.name


REPLICAS = """
import json
import numpy as np
from bnutils._keras import keras, tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from bnutils.doctor.audit import audit

def model(synchronized):
    layers = keras.layers
    stack = layers.Dense(4), layers.BatchNormalization(synchronized=synchronized), layers.Dense(1)
    made = keras.Sequential([keras.Input((3,)), *stack])
    made.compile("sgd", "mse")
    return made

def levels(model, **given):
    report = audit(model, **given)
    crashed = [reason for _, reason in report.not_checked if "crashed" in reason]
    return [d.level for d in report.diagnoses if d.rule == "replica-batch"] + crashed

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    local, together = model(False), model(True)
print(json.dumps({
    "sick": levels(local, batch_size=8),
    "mended": levels(together, batch_size=8),
    "sound": levels(local, data=(np.eye(64, 3), np.zeros((64, 1))), batch_size=64),
    "one device": levels(model(False), batch_size=8),
}))
"""


def test_replica_batch_in_a_process_with_two_devices():
    command = [sys.executable, "-c", textwrap.dedent(REPLICAS)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    assert json.loads(output.splitlines()[-1]) == {
        "sick": ["warning"],
        "mended": [],
        "sound": ["note"],
        "one device": [],
    }


# The audit itself


def state(model):
    """All that an audit must leave alone, as plain values."""
    parts = [model, *model._flatten_layers()]
    seeds = global_state.get_global_attribute("global_seed_generator")
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    for metric in model.metrics:
        variables += metric.variables
    return {
        "variables": [(v.path, np.asarray(v.value).tobytes()) for v in variables],
        "nodes": [(len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts],
        "flags": [(part.built, part.trainable, sorted(vars(part))) for part in parts],
        "losses": [len(part._losses) for part in parts],
        "functions": [
            id(model.train_function),
            id(model.test_function),
            id(getattr(model, "_compile_loss", None)),
        ],
        "optimizer": sorted(vars(optimizer)) if optimizer else [],
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "python": random.getstate(),
        "seeds": None if seeds is None else np.asarray(seeds.state.value).tobytes(),
        "names": dict(global_state.get_global_attribute("object_name_uids") or {}),
        "grappler": tf.config.optimizer.get_experimental_options(),
        "mode": tf.config.functions_run_eagerly(),
    }


def noisy():
    inputs = keras.Input((8,))
    x = layers.GaussianNoise(0.1)(layers.Dropout(0.3)(inputs))
    x = BN(renorm=True)(layers.Dense(8, kernel_regularizer="l2")(x))
    return keras.Model(inputs, layers.Dense(2)(BN()(layers.Dense(8)(x))))


@pytest.mark.parametrize("fit", [False, True], ids=["fresh", "fitted"])
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "not compiled"])
@pytest.mark.parametrize("build", [noisy, Head], ids=["functional", "subclassed"])
def test_audit_changes_nothing(build, compiled, fit):
    x, y = rows(64), labels(rows(64))
    keras.utils.set_random_seed(1)
    model = build()
    model(x[:2])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if compiled or fit:
        metric = "mae" if build is Head else "accuracy"
        model.compile("adamw", "mse" if build is Head else loss, metrics=[metric])
    if fit:
        train(model, x, y)
    if not compiled:
        model.compiled = False
    keras.random.normal((1,))
    before = state(model)
    audit(model, (x, y), batch_size=32, train_size=65)
    after = state(model)
    for name in before:
        if name == "names":
            changed = {k: v for k, v in after[name].items() if before[name].get(k, 0) != v}
            assert set(changed) <= {"keras_tensor", "TFDispatch"}, changed
        else:
            assert after[name] == before[name], name


def test_fit_goes_on_as_if_no_audit_had_been():
    results = []
    for audited in (False, True):
        keras.utils.set_random_seed(2)
        model = noisy()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        x, y = rows(64), labels(rows(64))
        train(model, x, y)
        if audited:
            audit(model, (x, y), batch_size=32, train_size=64)
        train(model, x, y)
        results.append([weight.tobytes() for weight in model.get_weights()])
    assert results[0] == results[1]


def test_what_cannot_be_checked_is_listed_with_its_reason():
    reasons = dict(audit(chain(layers.Dense(4), BN(), layers.Dense(1))).not_checked)
    assert reasons["stale-statistics"] == "needs data: audit(model, (x, y))"
    assert reasons["stale-compile"] == "needs a compiled model"
    assert reasons["batch-of-one"] == "needs batch_size"
    assert "partial-batch" in reasons
    assert "frozen-but-learning" not in reasons  # a gradient step stands in
    reasons = dict(audit(classifier(), (rows(5), labels(rows(5))), batch_size=5).not_checked)
    assert reasons["modes-disagree"] == "needs at least 8 rows of data, got 5"
    assert reasons["partial-batch"] == "needs train_size"


def test_a_step_that_cannot_be_tried_is_no_crash():
    class Broken(keras.Model):
        def train_step(self, data):
            raise RuntimeError("not today")

    inputs = keras.Input((8,))
    model = Broken(inputs, BN()(inputs))
    model.compile("sgd", "mse")
    reasons = dict(audit(model, (rows(16), rows(16))).not_checked)
    assert reasons["frozen-but-learning"] == (
        "no training step could be tried: RuntimeError: not today"
    )


def test_a_rule_that_crashes_is_named_and_the_others_go_on(monkeypatch):
    def crash(case):
        raise KeyError("lost")

    rules = [replace(rule, check=crash) if rule.name == "dead-bias" else rule for rule in RULES]
    monkeypatch.setattr(importlib.import_module("bnutils.doctor.audit"), "RULES", rules)
    report = audit(momentum_of_pytorch()[0])
    assert dict(report.not_checked)["dead-bias"] == "crashed: KeyError: 'lost'"
    assert found(report, "pytorch-momentum")


def test_a_model_without_bn_and_a_model_that_is_not_built():
    report = audit(chain(layers.Dense(1)), rows())
    assert (report.batch_norms, report.diagnoses, report.not_checked) == (0, (), ())
    model = keras.Sequential([layers.Dense(4), BN(), layers.Dense(1)])
    report = audit(model, rows())
    assert not model.built
    assert report.batch_norms == 1
    assert {reason for _, reason in report.not_checked} == {
        "the model is not built yet: call it on data first"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 3}, "expected a Keras model, got int"),
        ({"batch_size": 0}, "expected batch_size to be a positive integer, got 0"),
        ({"train_size": 2.5}, r"expected train_size to be a positive integer, got 2\.5"),
        ({"data": rows(8, 5)}, "expected batches of shape"),
        ({"data": "rows"}, "expected arrays"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        audit(**{"model": classifier(), **arguments})


@pytest.mark.parametrize("form", ["arrays", "dataset", "generator"])
def test_data_of_any_form_show_the_same_fault(form):
    x, y = task()
    source = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    data = {"arrays": (x, y), "dataset": source, "generator": (batch for batch in source)}[form]
    report = audit(few_updates()[0], data)
    assert worst(report, "stale-statistics") == "error"


def test_sorted_arrays_are_sampled_all_over():
    x = np.sort(rows(5000, 1, sd=3), axis=0)
    model = settle(chain(BN(), layers.Dense(1), shape=(1,)), x)
    assert worst(audit(model, x), "stale-statistics") is None
    assert Case(Subject(model), x).rows == 1024


def test_large_models_get_few_rows():
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(224, 224, 3))
    assert Case(Subject(model), np.zeros((32, 224, 224, 3), "float32")).rows == 8
    model = keras.applications.MobileNetV2(weights=None, include_top=False)  # of any image size
    assert 8 < Case(Subject(model), np.zeros((100, 224, 224, 3), "float32")).rows < 100


def test_evidence_carries_numbers():
    report = audit(few_updates()[0], task())
    evidence = found(report, "stale-statistics")[0].evidence
    assert "After 32 updates at momentum 0.999 the values from before still weigh 97%" in evidence
    assert "of 16 channels" in evidence
    assert "512 rows used" in evidence
    evidence = found(audit(*one_row_left()[:1], **one_row_left()[1]), "partial-batch")[0].evidence
    assert "a last batch of 1: 1 value per channel for bn, with a weight of 50.3%" in evidence
    evidence = found(audit(theano_axis()[0]), "wrong-axis")[0].evidence
    assert "it keeps 6 sets of statistics" in evidence
    assert "4 channels on axis -1" in evidence


def test_half_precision_stalls_where_the_evidence_says():
    """Feed a moving average a constant: it stops at the predicted distance."""
    for dtype, share in (("float16", 0.05), ("bfloat16", 0.39)):
        value, goal, momentum, rest = (tf.constant(v, dtype) for v in (0.5, 1.0, 0.99, 0.01))
        for _ in range(500):
            value = momentum * value + rest * goal
        evidence = found(audit(classifier(dtype=dtype)), "half-precision-variables")[0].evidence
        assert f"up to {share:.0%} short" in evidence
        assert 0.25 * share < 1 - float(value) <= 1.1 * share


def test_a_subclassed_model_is_audited_too():
    model, _ = obeyed_in_a_subclass()
    report = audit(model, rows())
    assert report.batch_norms == 1
    assert not report.unwalked
    assert [reason for _, reason in report.not_checked if "crashed" in reason] == []


def test_the_report_is_json():
    report = audit(few_updates()[0], task(), batch_size=64, train_size=65)
    assert json.loads(report.to_json())["counts"]["error"] == len(report.errors) > 0


# No false alarm: random weights, with data and without, compiled and not.

ARCHITECTURES = {  # name: whether with its top, compiled, and with data
    "ResNet50": True,
    "MobileNetV3Small": True,
    "VGG16": False,
}


@pytest.mark.parametrize(("name", "full"), ARCHITECTURES.items())
def test_architectures_are_sound(name, full):
    keras.utils.set_random_seed(0)
    settings = {"input_shape": (32, 32, 3), "weights": None}
    if full:
        model = getattr(keras.applications, name)(classes=10, **settings)
        model.compile("adam", "sparse_categorical_crossentropy")
        rng = np.random.default_rng(0)
        data = rng.normal(size=(32, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 32)
    else:
        model, data = getattr(keras.applications, name)(include_top=False, **settings), None
    report = audit(model, data, batch_size=32, train_size=1000)
    assert report.sound if report.batch_norms else not report.looked, report
    assert [reason for _, reason in report.not_checked if "crashed" in reason] == []
