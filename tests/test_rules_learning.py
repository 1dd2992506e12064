"""Rules on what a training step changes: every one sees sick, mended and sound models."""

import pytest
from doctor_trials import (
    BN,
    Trials,
    chain,
    classifier,
    fitted,
    layers,
    rows,
    settle,
    with_base,
)

from bnutils._keras import keras, tf
from bnutils.doctor.freeze import freeze_bn
from bnutils.doctor.rules import learning

trial = Trials(learning)


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


@trial("never-updated", "mended", "note")
def train_step_that_remembers():
    return forgetful(keras.Model), {"data": (rows(16), rows(16, 1))}


@trial("never-updated", "sound")
def frozen_layer_in_inference_mode():
    model = settle(forgetful(Forgetful), rows(16))
    model.get_layer("bn").trainable = False
    return model, {"data": (rows(16), rows(16, 1))}


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    trial.check_complete(
        nothing_to_follow={
            "frozen-but-learning": "to come",
            "never-updated": "to come",
            "stale-compile": "to come",
        }
    )
