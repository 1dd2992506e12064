"""Rules on what the data show: every one sees sick, mended and sound models."""

import numpy as np
import pytest
from doctor_trials import (
    BN,
    Trials,
    chain,
    classifier,
    layers,
    rows,
    settle,
    task,
    trained,
)

from bnutils._keras import keras
from bnutils.doctor.rules import measured

trial = Trials(measured)


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


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    trial.check_complete(
        nothing_to_follow={
            "dropout-before-bn": "to come",
            "modes-disagree": "to come",
            "shared-bn": "to come",
            "stale-statistics": "to come",
            "vanishing-variance": "to come",
        }
    )
