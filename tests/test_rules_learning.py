"""Rules on what a training step changes: every one sees sick, mended and sound models."""

import numpy as np
import pytest
from doctor_trials import (
    BN,
    Trials,
    audit,
    chain,
    changed_by_a_step,
    classifier,
    distance,
    fitted,
    found,
    labels,
    layers,
    rows,
    settle,
    train,
    unchanged_by_a_step,
    with_base,
    worst,
)

from bnutils._keras import keras, tf
from bnutils.doctor.freeze import freeze_bn
from bnutils.doctor.rules import learning

trial = Trials(learning)
# Keras says so too, where it looks at all.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]


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
    return freeze_bn(frozen_after_fit()[0]).model, {}


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
    return freeze_bn(partly_frozen()).model, {}


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
    x = BN(name="bn", momentum=0.9)(layers.Dense(4, use_bias=False)(inputs))
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


class Fixed(BN):
    """A layer whose call fixes training=False, as in Mask R-CNN."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def with_fixed_bn():
    stack = layers.Dense(4, use_bias=False), Fixed(name="bn"), layers.Dense(1)
    return chain(*stack, loss="mse")


@trial("never-updated", "sound", "note")
def layer_of_its_own_kept_in_inference_mode():
    return settle(with_fixed_bn(), rows(64)), {"data": (rows(64), rows(64, 1))}


def test_a_layer_that_ignores_training_is_not_laid_to_the_step():
    """Nor does the step count as what left statistics alone that no step could move."""
    model = with_fixed_bn()
    for trained in (False, True):
        report = audit(model)
        said = " ".join(found(report, "never-updated")[0].why for _ in range(1))
        assert "without training=True" not in str(report)
        assert ("in inference mode in training too" in said) or not trained
        model.get_layer("bn").gamma.assign(np.linspace(0.5, 1.5, 4))
    assert {each.level for each in found(report, "never-updated")} == {"error"}
    assert "Fixed.call keeps it in inference mode in training too" in said


# Parts that a step only calls


class Distiller(keras.Model):
    """A student that learns from a teacher."""

    def __init__(self, training, average=None):  # noqa: D107
        super().__init__()
        self.teacher, self.student = (
            chain(layers.Dense(4, use_bias=False), BN(name="bn"), layers.Dense(1), name=name)
            for name in ("teacher", "student")
        )
        self.training, self.average = training, average

    def train_step(self, data):
        x, _ = data
        wanted = self.teacher(x, training=self.training)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.student(x, training=True) - wanted) ** 2)
        weights = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        if self.average:
            for mean, each in zip(self.teacher.trainable_variables, weights, strict=True):
                mean.assign(self.average * mean + (1 - self.average) * each)
        return {"loss": loss}


def distiller(training, frozen=False, fit=False, **settings):
    model = Distiller(training, **settings)
    model.teacher.trainable = not frozen
    model.compile("sgd")
    data = rows(32, mean=3), rows(32, 1)
    if fit:
        model.fit(*data, verbose=0)
    return model, {"data": data}


@trial("frozen-but-learning", "sick", "warning")
def teacher_called_in_training_mode():
    return distiller(True)


@trial("frozen-but-learning", "sick", "warning")
def teacher_called_in_training_mode_by_a_traced_step():
    return distiller(True, fit=True)


@trial("frozen-but-learning", "sound")
def teacher_that_is_frozen():
    return distiller(True, frozen=True)


@trial("frozen-but-learning", "sound")
def teacher_that_is_the_average_of_its_student():
    return distiller(True, average=0.99)


@trial("frozen-but-learning", "sound")
def teacher_that_is_the_average_of_its_student_in_a_traced_step():
    return distiller(True, average=0.99, fit=True)


@trial.followed(
    "frozen-but-learning",
    teacher_called_in_training_mode,
    says="call it with training=False in the step",
    symptom=lambda model, given: changed_by_a_step(
        model, given, [model.teacher.get_layer("bn").moving_mean]
    ),
)
def teacher_called_in_inference_mode(model, given):
    new, given = distiller(False)
    new.set_weights(model.get_weights())
    return new, given


# The whole model frozen, or asleep: a GAN has it so


@trial("stale-compile", "sick", "warning")
def discriminator_frozen_after_its_training():
    model = fitted(classifier())
    model.trainable = False
    return model, {}


def combined_with(discriminator):
    z = keras.Input((4,))
    generated = layers.Dense(8)(BN(name="g_bn")(layers.Dense(8, use_bias=False)(z)))
    model = keras.Model(z, discriminator(generated))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@trial("stale-compile", "sick", "warning")
def discriminator_thawed_after_the_combined_model_was_traced():
    discriminator = classifier()
    discriminator.trainable = False
    model = combined_with(discriminator)
    x = rows(32, 4)
    train(model, x, labels(x))
    discriminator.trainable = True
    return model, {}


def unused_branch():
    """A model that skips its BN in training."""

    class Skips(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2, activation="softmax")
            self.bn = BN()

        def call(self, x, training=None):
            return self.dense(x if training else self.bn(x))

    model = Skips()
    model(rows(2))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@trial("stale-compile", "sound")
def layer_that_training_never_reaches():
    return fitted(unused_branch()), {"data": (rows(16), labels(rows(16)))}


def compiled_again(model, given):
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, given


trial.followed(
    "stale-compile",
    frozen_after_fit,
    says="Compile the model again",
    symptom=changed_by_a_step,
)(compiled_again)
trial.followed(
    "stale-compile",
    thawed_after_fit,
    says="Compile the model again, with a new optimizer",
    symptom=lambda model, given: float(changed_by_a_step(model, given) == 0),
)(compiled_again)
trial.followed(
    "stale-compile",
    discriminator_frozen_after_its_training,
    says="If they are meant to stand still here: compile the model again",
    symptom=changed_by_a_step,
)(compiled_again)


class Told(keras.Model):
    """A model that tells BN training=True."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.bn = BN(name="bn")
        self.head = layers.Dense(2, activation="softmax")

    def call(self, x):
        return self.head(self.bn(x, training=True))


def frozen_by_hand_after_predict():
    model = Told()
    model.predict(rows(32), verbose=0)
    model.bn.trainable = False
    return model, {}


@trial("stale-compile", "sick", "error")
def frozen_after_predict_had_been_traced():
    return frozen_by_hand_after_predict()


@trial("stale-compile", "sound")
def frozen_before_predict_was_traced():
    model = Told()
    model.bn.trainable = False
    model.predict(rows(32), verbose=0)
    return compiled_again(model, {})


def changed_by_predict(model, given):
    before = model.bn.moving_mean.numpy()
    model.predict(rows(32), verbose=0)
    return float(np.max(np.abs(model.bn.moving_mean.numpy() - before)))


@trial.followed(
    "stale-compile",
    frozen_by_hand_after_predict,
    says="Compile the model again",
    symptom=changed_by_predict,
)
def compiled_after_predict(model, given):
    return compiled_again(model, given)


@trial.followed(
    "stale-compile",
    frozen_by_hand_after_predict,
    says="call freeze_bn(model), which drops what was traced",
    symptom=changed_by_predict,
)
def frozen_by_freeze_bn_after_predict(model, given):
    freeze_bn(model)
    return model, given


def frozen_and_compiled():
    model = classifier()
    model.trainable = False
    return compiled_again(model, {})


@trial("nothing-trains", "sound", "note")
def all_frozen_and_compiled_for_evaluate():
    return frozen_and_compiled()


@trial("nothing-trains", "sound", "note")
def trained_then_all_frozen_and_compiled_for_evaluate():
    model = fitted(classifier())
    model.trainable = False
    return compiled_again(model, {})


@trial("nothing-trains", "sick", "warning")
def all_frozen_compiled_and_fitted():
    model = frozen_and_compiled()[0]
    return fitted(model), {}


@trial("nothing-trains", "mended")
def thawed_and_compiled():
    return thawed(*frozen_and_compiled())


@trial("nothing-trains", "sound")
def head_alone_trains():
    model = with_base()
    model.get_layer("base").trainable = False
    return compiled_again(model, {})


@trial("nothing-trains", "sound")
def statistics_alone_move():
    return chain(BN(center=False, scale=False), loss="mse"), {}


@trial.followed(
    "nothing-trains",
    frozen_and_compiled,
    says="set trainable = True on what is to learn and compile the model again",
    symptom=unchanged_by_a_step,
)
def thawed(model, given):
    model.trainable = True
    return compiled_again(model, given)


@trial.followed(
    "frozen-but-learning",
    all_but_bn_frozen,
    says="Call freeze_bn(model)",
    symptom=changed_by_a_step,
)
def frozen(model, given):
    freeze_bn(model)
    return model, given


def gamma_and_beta_frozen_and_others_learn():
    model = chain(
        layers.Dense(8, use_bias=False),
        BN(name="bn"),
        layers.ReLU(),
        layers.Dense(8, use_bias=False),
        BN(name="other"),
        layers.Dense(2, activation="softmax"),
        loss="sparse_categorical_crossentropy",
    )
    for variable in model.get_layer("bn").trainable_weights:
        variable.trainable = False
    return model, {}


@trial.followed(
    "frozen-but-learning",
    gamma_and_beta_frozen_and_others_learn,
    says="Set trainable = False on bn and compile the model again",
    symptom=lambda model, given: changed_by_a_step(
        model, given, [model.get_layer("bn").moving_mean]
    ),
)
def frozen_by_its_own_flag(model, given):
    model.get_layer("bn").trainable = False
    return compiled_again(model, given)


def stubborn():
    stack = layers.Dense(4), Stubborn(trainable=False), layers.Dense(2, activation="softmax")
    return chain(*stack, loss="sparse_categorical_crossentropy"), {}


class Obedient(Stubborn):
    """The same layer, made to ask."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training and self.trainable, mask=mask)


@trial.followed(
    "frozen-but-learning",
    stubborn,
    says="Let Stubborn ask self.trainable before it follows the batch",
    symptom=changed_by_a_step,
)
def made_to_ask(model, given):
    stack = layers.Dense(4), Obedient(trainable=False), layers.Dense(2, activation="softmax")
    return chain(*stack, loss="sparse_categorical_crossentropy"), given


class Remembers(Forgetful):
    """The same train_step, with training=True."""

    def __call__(self, inputs, training=True):
        return super().__call__(inputs, training=training)


def trained_by(kind):
    def build():
        model = forgetful(kind)
        x = rows(64, mean=3)
        model.fit(x, x[:, :1], batch_size=8, epochs=8, verbose=0)
        return model, {"data": (x, x[:, :1])}

    return build


@trial.followed(
    "never-updated",
    trained_by(Forgetful),
    says="Call self(x, training=True) in train_step, and train again",
    symptom=distance,
    limit=1.5,
)
def train_step_mended(model, given):
    return trained_by(Remembers)()


class WithoutTraining(keras.Model):
    """A call without the argument, which fit then does not pass."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.bn = BN(name="bn", momentum=0.5)
        self.head = layers.Dense(2, activation="softmax")

    def call(self, x):
        return self.head(self.bn(x))


class WithTraining(WithoutTraining):
    """The same with the argument."""

    def call(self, x, training=None):
        return self.head(self.bn(x, training=training))


def subclass(kind):
    model = kind()
    data = rows(32, mean=3), labels(rows(32))
    model(data[0])
    return compiled_again(model, {"data": data})


@trial("never-updated", "sick", "error")
def call_without_the_argument():
    return subclass(WithoutTraining)


@trial.followed(
    "never-updated",
    call_without_the_argument,
    says="Let every call that leads to it take the argument training and hand it on",
    symptom=lambda model, given: float(changed_by_a_step(model, given) == 0),
)
def call_with_the_argument(model, given):
    return subclass(WithTraining)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_that_cannot_move_are_no_sign_of_a_forgotten_argument(value):
    model = classifier()
    model.get_layer("bn").moving_mean.assign(np.full(16, value))
    assert worst(audit(model), "never-updated") is None


@pytest.mark.parametrize("settings", [{"dtype": "float16"}, {"momentum": 1 - 1e-9}])
def test_updates_that_are_rounded_away_are_no_sign_of_a_forgotten_argument(settings):
    model = classifier(**settings)
    model.get_layer("bn").moving_variance.assign(np.full(16, 1.01))
    assert worst(audit(model), "never-updated") is None


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    trial.check_complete()
