"""Rules on settings and values: every one sees sick, mended and sound models."""

import functools
import re

import numpy as np
import pytest
from doctor_trials import (
    BN,
    Trials,
    audit,
    chain,
    classifier,
    constant_predictions,
    distance,
    error_rate,
    fitted,
    found,
    labels,
    layers,
    not_finite,
    rows,
    settle,
    task,
    train,
    trained,
)

from bnutils._keras import keras, tf
from bnutils.doctor.recalibrate import recalibrate
from bnutils.doctor.rules import settings
from bnutils.doctor.rules.origin import retouched

trial = Trials(settings)


@trial("pytorch-momentum", "sick", "warning")
def momentum_of_pytorch():
    return classifier(momentum=0.1), {}


@trial("pytorch-momentum", "mended")
def momentum_converted():
    return classifier(momentum=0.9), {}


@trial("pytorch-momentum", "sound")
def momentum_low_but_plain():
    return classifier(momentum=0.6), {}


@trial("never-updated", "sick", "error")
def gamma_trained_by_a_loop_without_training():
    model = classifier()
    model.get_layer("bn").gamma.assign(np.linspace(0.5, 1.5, 16))
    return model, {}


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


# Momentum


@trial("bad-momentum", "sick", "error")
def momentum_that_never_updates():
    return fitted(classifier(momentum=1.0)), {}


@trial("bad-momentum", "sick", "error")
def momentum_next_to_one():
    return classifier(momentum=1 - 1e-9), {}


@trial("bad-momentum", "sick", "error")
def momentum_below_zero():
    return classifier(momentum=-0.5), {}


@trial("bad-momentum", "sick", "error")
def momentum_above_one():
    return classifier(momentum=1.5), {}


@trial("bad-momentum", "sick", "error")
def momentum_of_renorm_that_never_updates():
    return classifier(renorm=True, renorm_momentum=1.0), {}


@pytest.mark.parametrize("momentum", ["0.9", None, 10**400, float("nan"), float("inf"), -3.0, 1.5])
def test_a_momentum_from_an_edited_config_is_told_and_no_share_is_made_of_it(momentum):
    model = classifier()
    model.optimizer.iterations.assign(1000)
    model.get_layer("bn").momentum = momentum
    for data in (None, rows(mean=3)):
        report = audit(model, data)
        [found] = [each for each in report.diagnoses if each.rule == "bad-momentum"]
        assert found.evidence.startswith("bn has momentum=")
        assert "weigh" not in "".join(e.evidence for e in report.diagnoses if e is not found)
        assert "crashed" not in str(report)
        assert not re.search(r"\d{9}|\d{3,}%|nan%|inf%", str(report).replace(",", ""))


@pytest.mark.parametrize("epsilon", [-1e-3, -1.0, float("nan"), float("inf"), 10**400])
def test_an_epsilon_that_cannot_be_added_to_a_variance_is_told(epsilon):
    model = classifier()
    model.get_layer("bn").epsilon = epsilon
    [found] = [each for each in audit(model).diagnoses if each.rule == "bad-variance"]
    assert found.evidence.startswith("bn has epsilon=")


@trial("bad-momentum", "mended")
def momentum_in_between():
    return classifier(momentum=0.9), {}


@trial("bad-momentum", "sound")
def momentum_of_a_frozen_layer():
    return classifier(momentum=1.0, trainable=False), {}


@trial("pytorch-momentum", "sick", "warning")
def momentum_zero():
    return classifier(momentum=0.0), {}


@trial("pytorch-momentum", "sound")
def low_momentum_of_a_frozen_layer():
    return classifier(momentum=0.1, trainable=False), {}


def trained_with(momentum):
    return lambda: (trained(momentum, 10), {"data": task()})


@trial.followed(
    "bad-momentum",
    trained_with(1.0),
    says="Build it with a momentum from 0.9 to 0.999 and train again",
    symptom=distance,
    limit=4,
)
def built_with_a_momentum(model, given):
    return trained_with(0.9)()


def built_with(momentum):
    def build(model, given):
        new = classifier(momentum=momentum)
        new.set_weights(model.get_weights())
        recalibrate(new, given["data"])
        return new, given

    build.__name__ = f"built_with_{momentum}".replace(".", "_")
    return build


trial.followed(
    "pytorch-momentum",
    trained_with(0.1),
    says="build it with momentum=0.9, then recalibrate(model, x_train)",
    symptom=distance,
    limit=0.05,
)(built_with(0.9))
trial.followed(
    "pytorch-momentum",
    trained_with(0.0),
    says="Build it with momentum=0.99, the default of Keras",
    symptom=distance,
    limit=0.05,
)(built_with(0.99))


# Values


def damaged(name, value, **bn):
    """A sound model in which one variable is filled with a value."""
    model = classifier(**bn)
    recalibrate(model, task()[0], layers=["bn"])
    layer = model.get_layer("bn")
    if name == "kernel":
        layer = model.layers[0]
    variable = getattr(layer, name)
    variable.assign(np.full(variable.shape, value))
    return model


@trial("not-finite", "sick", "error")
def kernel_not_a_number():
    return damaged("kernel", np.nan), {}


@trial("not-finite", "sick", "error")
def one_infinite_weight_behind_everything():
    model = classifier()
    bias = model.layers[-1].bias
    bias.assign([0, np.inf])
    return model, {}


@trial("not-finite", "mended")
def kernel_of_numbers():
    return classifier(), {}


@trial("not-finite", "sound")
def weights_that_are_large():
    return damaged("kernel", 1e30), {}


@trial("not-finite", "sound")
def weights_too_large_for_single_precision():
    double = chain(layers.Dense(4, dtype="float64"), BN(), layers.Dense(1))
    double.layers[0].kernel.assign(np.full((8, 4), 1e300))
    return double, {}


@trial("not-finite", "sick", "error")
def kernel_in_bfloat16():
    model = chain(layers.Dense(4, dtype="bfloat16"), BN(), layers.Dense(1))
    model.layers[0].kernel.assign(np.full((8, 4), np.inf))
    return model, {}


@trial("not-finite", "sound")
def statistics_alone_not_a_number():
    return damaged("moving_mean", np.nan), {}


@trial.followed(
    "not-finite", kernel_not_a_number, says="Go back to a checkpoint", symptom=not_finite
)
def back_to_a_checkpoint(model, given):
    return settle(classifier(), task()[0]), given


@trial("bad-variance", "sick", "error")
def mean_infinite():
    return damaged("moving_mean", np.inf), {}


@trial("bad-variance", "sick", "error")
def gamma_not_a_number():
    return damaged("gamma", np.nan), {}


@trial("bad-variance", "sick", "warning")
def variance_below_zero_by_rounding():
    return with_variance(-1e-9), {}


def recalibrated(model, given):
    recalibrate(model, task()[0])
    return model, given


trial.followed(
    "bad-variance",
    lambda: (damaged("moving_mean", np.nan), {}),
    says="Call recalibrate(model, x_train): moving statistics alone are hit",
    symptom=not_finite,
)(recalibrated)
trial.followed(
    "bad-variance",
    lambda: (damaged("moving_variance", -0.5), {}),
    says="Otherwise call recalibrate(model, x_train)",
    symptom=not_finite,
)(recalibrated)
trial.followed(
    "bad-variance",
    lambda: (damaged("moving_variance", 1e8), {}),
    says="Call recalibrate(model, x_train)",
    symptom=constant_predictions,
)(recalibrated)


@trial.followed(
    "bad-variance",
    lambda: (damaged("moving_mean", np.nan, trainable=False), {}),
    says="Call recalibrate(model, x_train, layers=['bn'])",
    symptom=not_finite,
)
def frozen_layer_recalibrated_by_name(model, given):
    recalibrate(model, task()[0], layers=["bn"])
    return model, given


@trial.followed(
    "bad-variance", gamma_not_a_number, says="Go back to a checkpoint", symptom=not_finite
)
def gamma_of_a_checkpoint(model, given):
    model.get_layer("bn").gamma.assign(np.ones(16))
    return model, given


trial.followed(
    "never-updated",
    gamma_trained_by_a_loop_without_training,
    says="If only the statistics were lost, call recalibrate(model, x_train)",
    symptom=distance,
    limit=1e-3,
)(recalibrated)


@trial.followed(
    "never-updated",
    frozen_base_whose_weights_were_never_loaded,
    says="call recalibrate(model, x_train, layers=['bn'])",
    symptom=distance,
    limit=1e-3,
)
def frozen_base_recalibrated(model, given):
    return frozen_layer_recalibrated_by_name(model, given)


def loaded_by_name(*lacking, data=False, **bn):
    """A trained model of which some layers were not in the file."""
    whole, model = trained(0.9, 10), classifier(**bn)
    for layer, source in zip(model.layers, whole.layers, strict=True):
        if layer.name != "bn" and layer not in [model.layers[n] for n in lacking]:
            layer.set_weights(source.get_weights())
    return model, {"data": task()} if data else {}


@trial("never-updated", "sick", "warning")
def bn_not_in_the_file():
    return loaded_by_name()


@trial("never-updated", "sick", "warning")
def frozen_bn_not_in_the_file():
    return loaded_by_name(trainable=False)


@trial("never-updated", "sick", "error")
def bn_not_in_the_file_and_data_that_show_it():
    return loaded_by_name(data=True)


@trial("never-updated", "mended")
def all_in_the_file():
    return trained(0.9, 10), {}


@trial("never-updated", "sound", "note")
def new_head_on_a_trained_base():
    return loaded_by_name(-1, data=True)


@trial("never-updated", "sound", "note")
def new_stem_before_a_trained_head():
    return loaded_by_name(0, data=True)


@trial("never-updated", "sound", "note")
def put_into_a_trained_model_that_goes_on_as_it_was():
    x, y = task()
    stack = layers.Dense(16), layers.ReLU(), layers.Dense(2, activation="softmax")
    loss = "sparse_categorical_crossentropy"
    plain = chain(*stack, loss=loss, optimizer=keras.optimizers.Adam(0.02))
    train(plain, x, y, batch_size=32, epochs=6)
    return chain(plain.layers[0], BN(epsilon=1e-6), *plain.layers[1:], loss=loss), {"data": (x, y)}


@trial.followed(
    "never-updated",
    bn_not_in_the_file_and_data_that_show_it,
    says="load or copy all of model.weights",
    symptom=error_rate,
    limit=0.2,
)
def all_copied(model, given):
    model.set_weights(trained(0.9, 10).get_weights())
    return model, given


def test_initial_weights_never_count_as_trained():
    """Whatever drew them, and after a way through get_weights too."""
    names = "glorot_uniform he_normal random_uniform truncated_normal random_normal orthogonal"
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        for name in names.split():
            for layer, shape in (
                (layers.Dense(24, kernel_initializer=name), (30,)),
                (layers.Conv2D(8, 3, kernel_initializer=name), (8, 8, 3)),
                (layers.DepthwiseConv1D(3, depthwise_initializer=name), (8, 64)),
            ):
                layer.build((None, *shape))
                copy = type(layer).from_config(layer.get_config())
                copy.build((None, *shape))
                copy.set_weights(layer.get_weights())
                assert not retouched(layer)
                assert not retouched(copy)
                kernel = copy.weights[0]
                noise = np.random.default_rng(seed).normal(0, 2 * np.std(kernel), kernel.shape)
                kernel.assign(kernel + noise)
                assert retouched(copy)


# Few updates


@functools.cache
def _few_steps():
    model = classifier(momentum=0.99)
    x, y = task()
    train(model, x[:48], y[:48], batch_size=8)
    return model.get_weights(), model.optimizer.iterations.numpy()


def few_steps(momentum=0.99, rows_of_data=0):
    """A model after six updates, as from a file."""
    weights, updates = _few_steps()
    model = classifier(momentum=momentum)
    model.set_weights(weights)
    model.optimizer.iterations.assign(updates)
    x, y = task()
    return model, {"data": (x[:rows_of_data], y[:rows_of_data])} if rows_of_data else {}


@trial("few-updates", "sick", "warning")
def few_steps_and_no_data():
    return few_steps()


@trial("few-updates", "sick", "warning")
def few_steps_and_few_rows():
    return few_steps(rows_of_data=4)


@trial("few-updates", "mended")
def lower_momentum():
    return few_steps(momentum=0.8)


@trial("few-updates", "sound")
def rows_enough_to_measure():
    return few_steps(rows_of_data=64)


@trial("few-updates", "sound")
def few_steps_from_statistics_that_were_loaded():
    """A channel has a variance that no six batches can have brought down from 1."""
    model, given = few_steps()
    model.get_layer("bn").moving_variance.assign(np.linspace(0.1, 9, 16))
    return model, given


@trial.followed(
    "few-updates",
    few_steps_and_few_rows,
    says="Call recalibrate(model, x_train)",
    symptom=distance,
    limit=1,
)
def few_rows_recalibrated(model, given):
    recalibrate(model, task()[0])  # of the training data there are more rows than were looked at
    return model, {"data": task()}


def test_few_updates_are_told_with_what_they_leave():
    said = found(audit(few_steps()[0]), "few-updates")[0].evidence
    assert "6 updates" in said
    assert "94%" in said  # 0.99**6


# Batches


@trial("batch-of-one", "sick", "error")
def one_step_at_a_time():
    return chain(layers.TimeDistributed(BN()), layers.Dense(1), shape=(5, 3)), {"batch_size": 1}


@trial("batch-of-one", "sick", "error")
def one_row_with_renorm():
    return classifier(renorm=True), {"batch_size": 1}


@trial("batch-of-one", "sick", "warning")
def two_rows_with_renorm():
    return classifier(renorm=True), {"batch_size": 2}


@trial("batch-of-one", "sound")
def four_rows_with_renorm():
    return classifier(renorm=True), {"batch_size": 4}


def gradient_in_front(model, rows_of_a_batch):
    """The norm of the gradient that one batch gives to the weights in front of BN."""
    x = rows(64)[:rows_of_a_batch]
    kernel = model.layers[0].kernel
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(labels(x), model(x, training=True))
    return float(tf.norm(tape.gradient(loss, kernel.value)) / rows_of_a_batch)


def blocked(model, given):
    """1 if next to nothing of the gradient gets past BN, in batches of the size given."""
    return float(gradient_in_front(model, given["batch_size"]) < 1e-4)


def test_what_is_said_of_renorm_is_true():
    """One row: not beta, but what the moving statistics say; no gradient, with two next to none."""
    keras.utils.set_random_seed(0)
    model, given = one_row_with_renorm()
    bn = model.get_layer("bn")
    outputs = np.concatenate([bn(row[None], training=True) for row in rows(8, 16)])
    assert outputs.std(axis=0).min() > 0.1
    one, two, many = (gradient_in_front(model, number) for number in (1, 2, 32))
    assert one < 1e-6 * many
    assert two < 0.1 * many
    said = found(audit(model, **given), "batch-of-one")[0].why
    assert "beta" not in said
    assert "none reaches the layers before it" in said


for sick in (dense_with_one_row, one_row_with_renorm):

    @trial.followed("batch-of-one", sick, says="Use larger batches", symptom=blocked)
    def larger_batches(model, given):
        return model, {"batch_size": 32}


def variance_lost(model, given):
    """How much too small moving variances are after fits with no learning, in shares."""
    x = rows(65)
    data = tf.data.Dataset.from_tensor_slices((x, labels(x)))
    whole = given["train_size"] % given["batch_size"] == 0
    model.optimizer.learning_rate = 0.0
    model.fit(data.batch(64, drop_remainder=whole), epochs=5, shuffle=False, verbose=0)
    bn = model.get_layer("bn")
    inputs = keras.Model(model.inputs, bn.input).predict(x, verbose=0)
    return float(1 - np.mean(bn.moving_variance.numpy() / inputs.var(axis=0)))


@trial.followed(
    "partial-batch",
    lambda: (classifier(momentum=0.5), {"batch_size": 64, "train_size": 65}),
    says="Drop the rest (drop_remainder=True)",
    symptom=variance_lost,
    limit=0.1,
)
def rest_left_out(model, given):
    return classifier(momentum=0.5), {"batch_size": 64, "train_size": 64}


def stall(model, given):
    """How far short of its goal a moving mean stops, as a share."""
    bn = model.get_layer("bn")
    x = np.ones((4, 16), "float32")
    update = tf.function(lambda: bn(x, training=True))
    for _ in range(700):
        update()
    return float(1 - np.mean(bn.moving_mean.numpy()))


@trial.followed(
    "half-precision-variables",
    pure_float16,
    says="Use the policy 'mixed_float16'",
    symptom=stall,
    limit=0.02,
)
def mixed_policy(model, given):
    return classifier(dtype="mixed_float16"), given


def noise_of_the_batch(model, given):
    """How far the output of BN for a row changes, in sd, with the rows beside it."""
    bn = next(layer for layer in model.layers if isinstance(layer, BN))
    others = rows(given["batch_size"] * 16, bn.moving_mean.shape[0], seed=1)
    first = others[:1]
    outputs = [
        bn(np.concatenate([first, part[1:]]), training=True)[0] for part in np.split(others, 16)
    ]
    return float(np.std(outputs, axis=0).mean())


@trial.followed(
    "gradient-accumulation",
    four_rows_at_a_time,
    says="Use larger batches if memory allows",
    symptom=noise_of_the_batch,
    limit=0.3,
    level="note",
)
def four_times_eight_rows(model, given):
    return model, {"batch_size": 32}


# The optimizer


def averaging(**optimizer):
    def build():
        model = classifier(momentum=0.9)
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.Adam(0.02, **optimizer), loss)
        x, y = task()
        model.fit(x, y, batch_size=64, epochs=3, verbose=0)
        return model, {"data": (x, y)}

    return build


class SWA(keras.optimizers.SGD):
    """Like the wrapper of another package."""


@trial("averaged-weights", "sick", "note")
def average_of_the_steps():
    optimizer = keras.optimizers.Adam(use_ema=True)
    return chain(layers.Dense(4), BN(), layers.Dense(1), loss="mse", optimizer=optimizer), {}


@trial("averaged-weights", "sick", "note")
def average_of_another_package():
    return chain(layers.Dense(4), BN(), layers.Dense(1), loss="mse", optimizer=SWA()), {}


@trial("averaged-weights", "mended")
def no_average():
    return classifier(), {}


@trial("averaged-weights", "sound")
def average_with_frozen_bn():
    optimizer = keras.optimizers.Adam(use_ema=True)
    stack = layers.Dense(4), BN(trainable=False), layers.Dense(1)
    return chain(*stack, loss="mse", optimizer=optimizer), {}


@trial.followed(
    "averaged-weights",
    averaging(use_ema=True, ema_momentum=0.99),
    says="with the averages in place, call recalibrate(model, x_train)",
    symptom=distance,
    limit=1e-3,
    level="note",
)
def averages_recalibrated(model, given):
    return recalibrated(model, given)


def decaying():
    def nothing(y, outputs):
        return 0.0 * tf.reduce_mean(outputs)

    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    stack = layers.Dense(4), BN(name="bn"), layers.Dense(1)
    return chain(*stack, loss=nothing, optimizer=optimizer), {}


def gamma_decayed(model, given):
    for _ in range(10):
        model.train_on_batch(rows(8), rows(8, 1))
    return float(1 - np.mean(model.get_layer("bn").gamma.numpy()))


@trial.followed(
    "decayed-gamma-beta",
    decaying,
    says='optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"]) before training',
    symptom=gamma_decayed,
    limit=1e-6,
)
def gamma_and_beta_excluded(model, given):
    model, given = decaying()
    model.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])
    return model, given


def test_half_precision_stalls_where_the_evidence_says():
    """Feed a moving average a constant: it stops at the predicted distance."""
    for dtype, share in (("float16", 0.05), ("bfloat16", 0.39)):
        value, goal, momentum, rest = (tf.constant(v, dtype) for v in (0.5, 1.0, 0.99, 0.01))
        for _ in range(500):
            value = momentum * value + rest * goal
        evidence = found(audit(classifier(dtype=dtype)), "half-precision-variables")[0].evidence
        assert f"up to {share:.0%} short" in evidence
        assert 0.25 * share < 1 - float(value) <= 1.1 * share


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    # Replicas need a process of their own: see test_doctor_replicas.py.
    kinds = ("error", "followed", "mended", "note", "sick", "sound", "warning")
    trial.check_complete(elsewhere=[("replica-batch", kind) for kind in kinds])
