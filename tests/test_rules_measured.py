"""Rules on what the data show: every one sees sick, mended and sound models."""

import functools

import numpy as np
import pytest
from doctor_trials import (
    BN,
    Trials,
    chain,
    classifier,
    found,
    labels,
    layers,
    reported,
    rows,
    settle,
    task,
    train,
    trained,
)

from bnutils._keras import keras, tf
from bnutils.doctor.audit import audit
from bnutils.doctor.rules import outputs, ranges, statistics

trial = Trials(outputs, ranges, statistics)


def inferred(model, x):
    """What `predict` gives, without its getting ready."""
    return keras.tree.map_structure(np.asarray, model(x, training=False))


def error_rate(model, given):
    """The share of rows that are put into the wrong class at inference."""
    x, y = given["data"]
    return float(np.mean(np.argmax(inferred(model, x), axis=-1) != y))


@trial("stale-statistics", "sick", "error")
def few_updates():
    return trained(0.999, 5), {"data": task()}


@trial("stale-statistics", "mended")
def few_updates_recalibrated():
    return settle(trained(0.999, 5), task()[0]), {"data": task()}


@trial.followed(
    "stale-statistics",
    few_updates,
    says="Call recalibrate(model, x_train)",
    symptom=error_rate,
    limit=0.1,
)
def recalibrated_on_advice(model, given):
    return settle(model, given["data"][0]), given


@trial("stale-statistics", "sick", "warning")
def variance_halved_in_every_channel():
    model = settle(chain(layers.Dense(16), BN(), layers.ReLU(), layers.Dense(1)), rows(1024))
    variance = model.layers[1].moving_variance
    variance.assign(variance / 2)
    return model, {"data": rows(1024)}


@trial("stale-statistics", "sick", "warning")
def rows_without_targets_that_may_be_the_wrong_ones():
    return trained(0.9, 10), {"data": task()[0] + 5}


@trial("stale-statistics", "sound", "note")
def other_rows_that_the_targets_show_to_be_met():
    x, y = task()
    return trained(0.9, 10), {"data": (x[y == 1] + 1, y[y == 1])}


@trial("stale-statistics", "sound")
def small_batches_of_few_channels():
    model = classifier(momentum=0.9)
    train(model, *task(), batch_size=4, epochs=1)
    return model, {"data": task(), "batch_size": 4}


@trial("stale-statistics", "sick", "warning")
def frozen_on_another_scale():
    model = trained(0.9, 10)
    model.get_layer("bn").trainable = False
    return model, {"data": (task()[0] * 255, task()[1])}


@trial.followed(
    "stale-statistics",
    frozen_on_another_scale,
    says="a division by 255 in front of a model that has a Rescaling layer",
    symptom=error_rate,
    limit=0.1,
)
def scaled_as_the_frozen_layer_knows_it(model, given):
    x, y = given["data"]
    model.compile(loss="sparse_categorical_crossentropy")
    return model, {"data": (x / 255, y)}


@trial("stale-statistics", "sound")
def enough_updates():
    return trained(0.9, 10), {"data": task()}


@trial("stale-statistics", "sound")
def few_rows_of_a_sound_model():
    return trained(0.9, 10), {"data": tuple(part[:12] for part in task())}


@trial("stale-statistics", "sound", "note")
def frozen_on_purpose_on_other_data():
    model = trained(0.9, 10)
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
    targets = inferred(settle(model, x), x)
    return settle(model, x + 3), {"data": (x, targets)}


@trial("stale-statistics", "sick", "warning")
@trial("modes-disagree", "sick", "warning")
def outputs_somewhat_off():
    model = settle(chain(BN(), layers.Dense(1), shape=(1,)), rows(1024, 1))
    model.layers[0].moving_mean.assign([0.7])
    return model, {"data": rows(1024, 1)}


@trial("modes-disagree", "sick", "warning")
def outputs_differ_of_rows_that_may_be_the_wrong_ones():
    return trained(0.9, 10), {"data": task()[0] + 5}


@trial.followed(
    "modes-disagree",
    evaluate_fails_where_fit_shines,
    says="Call recalibrate(model, x_train) and look again",
    symptom=error_rate,
    limit=0.1,
)
def recalibrated_until_evaluate_agrees(model, given):
    return settle(model, given["data"][0]), given


def two_heads(loss, model=None):
    """A classifier and a regression on one stack, with stale statistics."""
    inputs = keras.Input((8,))
    h = layers.ReLU()(BN(name="bn")(layers.Dense(16, use_bias=False)(inputs)))
    heads = {"kind": layers.Dense(3, name="kind")(h), "size": layers.Dense(2, name="size")(h)}
    model = keras.Model(inputs, heads)
    x = task()[0]
    settle(model, x)
    made = inferred(model, x)
    model.compile("sgd", loss)
    targets = {"kind": np.argmax(made["kind"], axis=-1), "size": made["size"]}
    model.get_layer("bn").moving_mean.assign_add([1.0] * 16)
    return model, {"data": (x, targets)}


@trial("modes-disagree", "sick", "error")
def two_outputs_with_losses_by_name():
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return two_heads({"kind": crossentropy, "size": "mse"})


@trial("modes-disagree", "sick", "error")
def two_outputs_with_a_loss_of_ones_own():
    def off(y, made):
        return tf.reduce_mean(tf.abs(tf.cast(y, made.dtype) - made), axis=-1)

    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return two_heads({"kind": crossentropy, "size": off})


@trial("modes-disagree", "sick", "error")
def two_outputs_and_a_target_for_one():
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model, given = two_heads({"kind": crossentropy})
    x, targets = given["data"]
    return model, {"data": (x, {"kind": targets["kind"]})}


def segmenter(channels, activation):
    model = chain(
        layers.Conv2D(8, 3, padding="same", use_bias=False),
        BN(name="bn"),
        layers.ReLU(),
        layers.Conv2D(channels, 1, activation=activation),
        shape=(8, 8, 3),
    )
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    return settle(model, x), x


@trial("modes-disagree", "sick", "warning")
def classes_of_pixels():
    model, x = segmenter(4, "softmax")
    model.get_layer("bn").moving_mean.assign_add([2.0, -2.0] * 4)
    return model, {"data": x}


@trial("modes-disagree", "sick", "warning")
def rare_detections_that_are_all_lost():
    plain, x = segmenter(1, None)
    model, _ = segmenter(1, "sigmoid")
    model.set_weights(plain.get_weights())
    model.layers[-1].bias.assign([-np.quantile(inferred(plain, x), 0.99)])
    variance = model.get_layer("bn").moving_variance
    variance.assign(variance * 6)
    return model, {"data": x}


@trial("modes-disagree", "sound")
def rare_detections_that_stay():
    model, x = segmenter(1, "sigmoid")
    model.layers[-1].bias.assign([-4.0])
    return model, {"data": x}


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
def an_embedding_that_picks_no_class():
    keras.utils.set_random_seed(0)
    wide = layers.Dense(32, use_bias=False), BN(), layers.ReLU()
    model = chain(*wide, layers.Dense(64, use_bias=False), BN())
    return settle(model, rows(512)), {"data": rows(512), "batch_size": 32}


@trial("modes-disagree", "sound")
def frozen_bn_has_one_mode():
    return frozen_on_purpose_on_other_data()


@trial("modes-disagree", "sound")
def untrained_modes():
    return classifier(), {"data": task()}


# Batches that statistics of all rows cannot stand for


@functools.cache
def pictures():
    """Patterns of stripes, each picture with a brightness and a contrast of its own."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 256)
    stripes = np.sign(np.sin(np.arange(8) * np.pi / 2 + 0.1))
    x = np.where(y[:, None, None] == 1, stripes[:, None], stripes[None, :])
    x = x * rng.lognormal(0, 1, (256, 1, 1)) + rng.normal(0, 4, (256, 1, 1))
    return (x[..., None] + rng.normal(0, 0.1, (256, 8, 8, 1))).astype("float32"), y.astype("int32")


def convolutional(normalization):
    model = chain(
        layers.Conv2D(8, 3, use_bias=False),
        normalization,
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, activation="softmax"),
        shape=(8, 8, 1),
    )
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    return model


@functools.cache
def trained_image_by_image():
    keras.utils.set_random_seed(0)
    model = convolutional(layers.GroupNormalization(groups=-1, epsilon=1e-3))
    train(model, *pictures(), batch_size=32, epochs=8)
    return model.get_weights()


@trial("modes-disagree", "sick", "error")
def batches_of_one_image():
    """In batches of one image, batch normalization is what trained this model."""
    model = convolutional(BN())
    kernel, gamma, beta, dense, bias = trained_image_by_image()
    convolved = np.asarray(model.layers[0](pictures()[0]))
    mean = convolved.mean(axis=(0, 1, 2))
    variance = convolved.var(axis=(1, 2)).mean(axis=0)
    model.set_weights([kernel, gamma, beta, mean, variance, dense, bias])
    return model, {"data": pictures(), "batch_size": 1}


@trial.followed(
    "modes-disagree",
    batches_of_one_image,
    says="Put GroupNormalization(groups=-1) with the same gamma and beta in the place",
    symptom=error_rate,
    limit=0.1,
)
def group_normalization_in_its_place(model, given):
    kernel, gamma, beta, _, _, *dense = model.get_weights()
    # A batch normalization that nothing depends on keeps the audit looking.
    other = convolutional(layers.GroupNormalization(groups=-1, epsilon=1e-3))
    other.set_weights([kernel, gamma, beta, *dense])
    return other, given


@functools.cache
def recordings():
    """Rows of 32 recordings: each has an offset of its own, and both classes."""
    rng = np.random.default_rng(0)
    signal, offset = rng.normal(size=(32, 16, 8)), rng.normal(0, 4, (32, 1, 1))
    y = (signal[..., 0] > 0).astype("int32")
    return (signal + offset).astype("float32").reshape(-1, 8), y.reshape(-1)


def in_batches(mixed):
    x, y = recordings()
    order = np.random.default_rng(1).permutation(len(x)) if mixed else np.arange(len(x))
    return tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(16)


def train_on_recordings(model, mixed, epochs):
    model.optimizer.learning_rate = 0.02
    model.fit(in_batches(mixed), epochs=epochs, shuffle=False, verbose=0)
    return model.get_weights()


@functools.cache
def weights_from_like_batches():
    keras.utils.set_random_seed(0)
    return train_on_recordings(classifier(momentum=0.9), False, 12)


@functools.cache
def weights_after_mixed_batches():
    return train_on_recordings(a_recording_in_each_batch()[0], True, 20)


@trial("alike-batches", "sick", "warning")
@trial("modes-disagree", "sick", "error")
def a_recording_in_each_batch():
    model = classifier(momentum=0.9)
    model.set_weights(weights_from_like_batches())
    return model, {"data": in_batches(False)}


@functools.cache
def weights_from_sorted_batches():
    keras.utils.set_random_seed(0)
    model = classifier(momentum=0.9)
    x, y = task()
    x, y = np.concatenate([x[y == 0][:240] - 1, x[y == 1][:240] + 1]), np.repeat([0, 1], 240)
    order = np.arange(480).reshape(-1, 16)
    order = np.random.default_rng(0).permutation(order).reshape(-1)
    data = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(16)
    train(model, data, None, epochs=2, shuffle=False)
    return model.get_weights(), data


@trial("alike-batches", "sick", "warning")
def batches_of_one_class_in_which_no_mode_learnt_much():
    weights, data = weights_from_sorted_batches()
    model = classifier(momentum=0.9)
    model.set_weights(weights)
    return model, {"data": data}


@trial("alike-batches", "sick", "warning")
def like_batches_without_targets():
    return a_recording_in_each_batch()[0], {"data": in_batches(False).map(lambda x, y: x)}


def wrong_on_recordings(model, given):
    x, y = recordings()
    return error_rate(model, {"data": (x, y)})


@trial.followed(
    "alike-batches",
    a_recording_in_each_batch,
    says="mix the rows: shuffle before batch(n)",
    symptom=wrong_on_recordings,
    limit=0.15,
)
@trial.followed(
    "modes-disagree",
    a_recording_in_each_batch,
    says="Mix the rows of each batch and train on",
    symptom=wrong_on_recordings,
    limit=0.15,
)
def rows_mixed_and_trained_on(model, given):
    model.set_weights(weights_after_mixed_batches())
    return model, {"data": in_batches(True)}


@trial("alike-batches", "mended")
def rows_mixed():
    return a_recording_in_each_batch()[0], {"data": in_batches(True)}


@trial("alike-batches", "sound")
def sorted_arrays_are_shuffled_by_fit():
    x, y = task()
    order = np.argsort(x[:, 0])
    return trained(0.9, 10), {"data": (x[order], y[order])}


@trial("alike-batches", "sound", "note")
def rows_sorted_for_the_audit_alone():
    x, y = task()
    order = np.argsort(x.sum(axis=1))
    data = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(32)
    return trained(0.9, 10), {"data": data}


@trial("no-better-than-guessing", "sick", "note")
def classes_exchanged():
    model = trained(0.9, 10)
    for variable in model.layers[-1].weights:
        variable.assign(-variable)
    return model, {"data": task()}


@trial("no-better-than-guessing", "sick", "note")
def about_to_be_trained_on_other_classes():
    """A classifier of five classes that has been trained on two of them, and the other rows."""
    model = chain(*trained(0.9, 10).layers[:-1], layers.Dense(5, activation="softmax"))
    head = [np.pad(each, [(0, 0)] * (each.ndim - 1) + [(0, 3)]) for each in two_classes()]
    head[1][2:] = -9
    model.layers[-1].set_weights(head)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = task()
    return model, {"data": (x, y + 2)}


def two_classes():
    return trained(0.9, 10).layers[-1].get_weights()


@trial("no-better-than-guessing", "sick", "note")
def right_more_often_than_by_chance_and_far_too_sure():
    model = trained(0.9, 10)
    for variable in model.layers[-1].weights:
        variable.assign(30 * variable)
    x, y = task()
    return model, {"data": (x, np.where(np.arange(len(y)) % 10 < 3, 1 - y, y))}


@trial("no-better-than-guessing", "sick", "note")
def targets_in_other_units():
    model = chain(layers.Dense(8), BN(), layers.Dense(1), loss="mse")
    x = task()[0]
    made = inferred(settle(model, x), x)
    model.layers[1].gamma.assign(np.linspace(1, 2, 8))
    return model, {"data": (x, made / 100)}


UNDECIDED = (
    classes_exchanged,
    about_to_be_trained_on_other_classes,
    right_more_often_than_by_chance_and_far_too_sure,
    targets_in_other_units,
)


@pytest.mark.parametrize("build", UNDECIDED, ids=lambda build: build.__name__)
def test_rows_that_tell_nothing_give_neither_an_all_clear_nor_an_alarm(build):
    report = reported(build)
    assert (report.sound, report.faulty) == (False, False)
    undecided = [each for each in report.skipped if each.needs is None]
    assert [(each.what, each.kind) for each in undecided] == [("modes-disagree", "rule")]
    assert "modes-disagree" not in report.checked
    assert "stale-statistics" in report.checked


@trial("no-better-than-guessing", "mended")
def signs_put_right():
    return trained(0.9, 10), {"data": task()}


@trial("no-better-than-guessing", "sound")
def not_trained_yet():
    return classifier(), {"data": task()}


@trial("no-better-than-guessing", "sound")
def stale_but_able():
    return trained(0.999, 5), {"data": task()}


@trial("no-better-than-guessing", "sound")
def rows_of_one_class():
    x, y = task()
    return trained(0.9, 10), {"data": (x[y == 1], y[y == 1])}


# A few rows that carry the statistics


def with_outliers(x, share=64):
    x = x.copy()
    x[::share] = x.mean() + (x[::share] - x.mean()) * 50
    return x


@trial("modes-disagree", "sick", "error")
def a_recording_left_unscaled():
    """Most batches of training hold no such row; the moving variance is the mean of all."""
    x, y = task()
    x = with_outliers(x)
    return settle(trained(0.9, 10), x), {"data": (x, y), "batch_size": 16}


@trial("stale-statistics", "sick", "warning")
def outliers_that_were_not_there_in_training():
    return trained(0.9, 10), {"data": with_outliers(task()[0])}


RULES_OF_OUTLIERS = "stale-statistics", "modes-disagree"


@pytest.mark.parametrize(
    "build", [a_recording_left_unscaled, outliers_that_were_not_there_in_training]
)
def test_outliers_are_named(build):
    told = [each for each in reported(build).diagnoses if each.rule in RULES_OF_OUTLIERS]
    assert told
    for each in told:
        assert "8 of 512 rows are outliers" in each.evidence
        assert "Look at these rows first" in each.repair


def test_heavy_tails_are_no_outliers():
    x = np.random.default_rng(0).lognormal(size=(512, 8)).astype("float32")
    model = settle(chain(layers.Dense(8), BN(), layers.Dense(1)), x + 3)
    report = audit(model, x)
    assert report.faulty
    assert "outlier" not in str(report)


# What weights and numbers cannot be


def in_order(order):
    """A trained model whose arrays were given in another order."""
    model = trained(0.9, 10)
    x = task()[0] * np.linspace(0.5, 3, 8).astype("float32")
    settle(model, x)
    bn = model.get_layer("bn")
    bn.gamma.assign(np.linspace(0.7, 1.4, 16))
    arrays = dict(zip(("gamma", "beta", "mean", "variance"), bn.get_weights(), strict=True))
    targets = np.argmax(inferred(model, x), axis=-1)
    bn.set_weights([arrays[name] for name in order.split()])
    return model, {"data": (x, targets)}


@trial("weights-order", "sick", "error")
def statistics_first():
    return in_order("mean variance gamma beta")


@trial("weights-order", "sick", "error")
def variance_before_mean():
    return in_order("gamma beta variance mean")


@trial("weights-order", "sick", "warning")
def statistics_first_without_data():
    return in_order("mean variance gamma beta")[0], {}


@trial("weights-order", "sick", "warning")
def beta_first():
    model, given = in_order("gamma beta mean variance")
    bn = model.get_layer("bn")
    bn.beta.assign(np.linspace(-0.5, 0.5, 16))
    gamma, beta, mean, variance = bn.get_weights()
    bn.set_weights([beta, gamma, mean, variance])
    return model, given


def restored(order):
    def follow(model, given):
        bn = model.get_layer("bn")
        a, b, c, d = bn.get_weights()
        bn.set_weights([{"a": a, "b": b, "c": c, "d": d}[letter] for letter in order])
        return model, given

    follow.__name__ = f"set_weights_{order}"
    return follow


for sick, order in (statistics_first, "cdab"), (variance_before_mean, "abdc"):
    says = f"layer.set_weights([{', '.join(order)}])"
    follow = trial.followed("weights-order", sick, says=says, symptom=error_rate, limit=0.02)
    follow(restored(order))


@trial("weights-order", "mended")
def in_keras_order():
    return in_order("gamma beta mean variance")


@trial("weights-order", "sound")
def stale_and_standardized():
    model = classifier()
    model.get_layer("bn").moving_mean.assign([2.0] * 16)
    return model, {"data": rows()}


@trial("weights-order", "sound")
def variance_below_zero_and_no_other():
    model = classifier()
    model.get_layer("bn").moving_variance.assign([-1.0] * 16)
    return model, {}


OFFSET = 1e7


def off_zero(precision=np.float32):
    """Inputs that come with a large offset, and what they mean."""
    x = np.random.default_rng(0).normal(size=(256, 8)) + OFFSET
    return x.astype(precision), (x[:, 0] > OFFSET).astype("int32")


@functools.cache
def weights_of_centered():
    keras.utils.set_random_seed(0)
    model = input_bn()
    x, y = off_zero(np.float64)
    train(model, (x - x.mean(axis=0)).astype("float32"), y, batch_size=32, epochs=20)
    return model.get_weights()


def input_bn():
    model = chain(BN(momentum=0.9), layers.Dense(2, activation="softmax"))
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    return model


@trial("large-offset", "sick", "error")
def offset_of_ten_millions():
    model = input_bn()
    model.set_weights(weights_of_centered())
    return settle(model, off_zero()[0]), {"data": off_zero()}


@trial("large-offset", "sick", "warning")
def offset_of_a_million():
    return chain(BN()), {"data": rows(mean=1e6)}


@trial("large-offset", "sick", "warning")
def moving_mean_that_cannot_go_on():
    model = chain(BN(momentum=0.999))
    model.layers[0].moving_mean.assign(np.full(8, 1e5 - 3))
    return model, {"data": rows(mean=1e5)}


@trial.followed(
    "large-offset",
    offset_of_ten_millions,
    says="Subtract the mean from the inputs before they become float32",
    symptom=error_rate,
    limit=0.1,
)
def mean_subtracted(model, given):
    x, y = off_zero(np.float64)
    model.set_weights(weights_of_centered())  # as after training on these
    return model, {"data": ((x - x.mean(axis=0)).astype("float32"), y)}


@trial("large-offset", "mended")
def offset_taken_away():
    return chain(BN()), {"data": rows()}


@trial("large-offset", "sound")
def offset_that_float32_bears():
    model = settle(chain(BN()), rows(mean=1e5))
    return model, {"data": rows(mean=1e5)}


@trial("large-offset", "sound")
def constant_channels():
    x = rows()
    x[:, :6] = 1e6
    return chain(BN()), {"data": x}


def half_precision(dtype, variables=None):
    model = chain(
        layers.Dense(16, use_bias=False, dtype=dtype),
        BN(name="bn", dtype=variables or dtype),
        layers.ReLU(),
        layers.Dense(2, activation="softmax", dtype="float32"),
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def huge():
    return rows(mean=2e4, sd=2e4), labels(rows(mean=2e4, sd=2e4))


def lost_numbers(model, given):
    """The share of rows whose outputs in training mode are NaN or infinite."""
    made = np.asarray(model(given["data"][0], training=True))
    return float(np.mean(~np.isfinite(made)))


@trial("half-precision-overflow", "sick", "error")
def beyond_float16():
    return half_precision("mixed_float16"), {"data": huge()}


@trial("half-precision-overflow", "sick", "error")
def variance_beyond_float16():
    model = chain(BN(dtype="float16"))
    return model, {"data": rows(sd=300)}


@trial.followed(
    "half-precision-overflow",
    beyond_float16,
    says="Scale the inputs to a spread of 1",
    symptom=lost_numbers,
)
def scaled_to_one(model, given):
    x, y = given["data"]
    model = half_precision("mixed_float16")
    return model, {"data": ((x - x.mean(axis=0)) / x.std(axis=0), y)}


@trial.followed(
    "half-precision-overflow",
    beyond_float16,
    says="mixed_bfloat16",
    symptom=lost_numbers,
)
@trial("half-precision-overflow", "mended")
def in_bfloat16(*sick):
    return half_precision("mixed_bfloat16"), {"data": huge()}


@trial("half-precision-overflow", "sound")
def within_float16():
    return half_precision("mixed_float16"), {"data": (rows(sd=30), labels(rows()))}


def with_gaps(every=40):
    x, y = task()
    x = x.copy()
    x[::every, 2] = np.nan
    return x, y


@trial("not-finite", "sick", "error")
def gaps_in_the_inputs():
    return trained(0.9, 10), {"data": with_gaps()}


def gaps_in_predictions(model, given):
    """The share of predictions in batches of training that are NaN."""
    made = np.asarray(model(given["data"][0][:64], training=True))
    return float(np.mean(~np.isfinite(made)))


@trial.followed(
    "not-finite",
    gaps_in_the_inputs,
    says="Leave such rows out",
    symptom=gaps_in_predictions,
)
def rows_left_out(model, given):
    x, y = given["data"]
    whole = np.isfinite(x).all(axis=1)
    return trained(0.9, 10), {"data": (x[whole], y[whole])}


@trial("not-finite", "sick", "error")
def logarithm_on_the_way():
    stack = layers.Lambda(lambda x: tf.math.log(x)), BN(), layers.Dense(1)
    return chain(*stack), {"data": rows()}


@trial("not-finite", "sick", "error")
def division_at_the_end():
    return chain(BN(), layers.Lambda(lambda x: x / (x * 0.0))), {"data": rows()}


@trial("not-finite", "mended")
def logarithm_of_what_has_one():
    stack = layers.Lambda(lambda x: tf.math.log1p(tf.abs(x))), BN(), layers.Dense(1)
    return chain(*stack), {"data": rows()}


@trial("not-finite", "sound")
def gaps_that_the_model_fills():
    fill = layers.Lambda(lambda x: tf.where(tf.math.is_nan(x), 0.0, x))
    return chain(fill, BN(), layers.Dense(1)), {"data": with_gaps()[0]}


@trial("vanishing-variance", "sick", "warning")
def tiny_inputs():
    return chain(BN(), layers.Dense(1)), {"data": rows(sd=1e-3)}


@trial("vanishing-variance", "sick", "warning")
def dead_relu():
    dead = layers.Dense(8, activation="relu", bias_initializer=keras.initializers.Constant(-50))
    return chain(BN(), dead, BN(), layers.Dense(1)), {"data": rows()}


def spread_lost(model, given):
    """How much of its spread of 1 the output of the first layer lacks, by the batch."""
    made = np.asarray(model.layers[0](given["data"], training=True))
    return float(1 - np.mean(made.std(axis=0)))


@trial.followed(
    "vanishing-variance", tiny_inputs, says="scale the inputs", symptom=spread_lost, limit=0.1
)
def inputs_scaled(model, given):
    return model, {"data": given["data"] / given["data"].std()}


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


@trial("vanishing-variance", "sound", "note")
def trained_with_an_epsilon_that_outweighs_the_variance():
    return chain(BN(), layers.Dense(1)), {"data": rows(sd=0.02)}


def test_what_is_said_of_epsilon_where_it_outweighs_all_channels():
    report = reported(trained_with_an_epsilon_that_outweighs_the_variance)
    (told,) = found(report, "vanishing-variance")
    assert "8 of 8 channels" in told.evidence
    assert "set layer.epsilon to the one that they were trained with" in told.repair
    assert "Nothing to mend" not in told.repair


@trial("vanishing-variance", "sound", "note")
def embedded_and_not_trained_yet():
    stack = layers.Embedding(20, 8), layers.LSTM(8), BN(), layers.Dense(1)
    tokens = np.random.default_rng(0).integers(0, 20, (64, 6))
    return chain(*stack, shape=(6,)), {"data": tokens}


def test_inputs_that_the_model_scales_itself_are_told_with_their_condition():
    model = chain(layers.Rescaling(1 / 255), layers.Dense(8), BN(), layers.Dense(1))
    (told,) = found(audit(model, rows()), "vanishing-variance")
    assert told.level == "warning"
    assert "If these rows are scaled as for training" in told.repair


def siamese(second):
    one, two = keras.Input((8,)), keras.Input((8,))
    tower = keras.Sequential([keras.Input((8,)), layers.Dense(8), BN(name="bn"), layers.ReLU()])
    model = keras.Model([one, two], layers.Dense(1)(layers.Subtract()([tower(one), tower(two)])))
    return settle(model, [rows(), second]), {"data": [rows(), second]}


def modes_apart(model, given):
    """How far outputs of training mode and inference mode are apart, in their own sd."""
    by_batch, at_inference = (
        np.asarray(model(given["data"], training=training)) for training in (True, False)
    )
    return float(np.sqrt(np.mean((by_batch - at_inference) ** 2)) / by_batch.std())


@trial("shared-bn", "sick", "warning")
def one_layer_for_real_and_fake():
    return siamese(rows(mean=2, seed=1))


@trial("shared-bn", "sick", "warning")
def one_layer_for_two_scales():
    return siamese(rows(sd=4, seed=1))


@trial.followed(
    "shared-bn",
    one_layer_for_real_and_fake,
    says="Give each input a batch normalization layer of its own",
    symptom=modes_apart,
    limit=0.3,
)
def a_layer_for_each_on_advice(model, given):
    return settle(a_layer_for_each()[0], given["data"]), given


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


def variance_off(model, given):
    """How far the moving variance of fit is from that of inference, as a share; the median."""
    x = given["data"]
    bn = next(layer for layer in model.layers if isinstance(layer, BN))
    bn.momentum = 0.8
    for _ in range(32):
        model(x, training=True)  # what fit does for the statistics
    inputs = inferred(keras.Model(model.inputs[0], bn.input), x)
    return float(np.median(np.abs(bn.moving_variance.numpy() / inputs.var(axis=0) - 1)))


@trial.followed(
    "dropout-before-bn",
    dropout_first,
    says="Move dropout behind the last batch normalization",
    symptom=variance_off,
    limit=0.3,
)
def dropout_moved(model, given):
    return dropout_last()


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


# Outputs of any structure


class Odd(keras.Model):
    """A model whose outputs are what a function makes of three numbers for each row."""

    def __init__(self, made):  # noqa: D107
        super().__init__()
        self.made = made
        self.stack = [layers.Dense(6), BN(momentum=0.9), layers.Dense(3)]

    def call(self, x, training=None):
        for layer in self.stack[:-1]:
            x = layer(x)
        return self.made(self.stack[-1](x))


STRUCTURES = {  # and whether they can be compared row by row
    "scalar": (tf.reduce_mean, False),
    "one row for all": (lambda h: tf.reduce_mean(h, 0, keepdims=True), False),
    "some rows": (lambda h: tf.boolean_mask(h, h[:, 0] > 0), False),
    "distances": (lambda h: h @ tf.transpose(h), False),
    "text": (tf.strings.as_string, False),
    "nothing": (lambda h: (), False),
    "ragged": (tf.RaggedTensor.from_tensor, False),
    "sparse": (tf.sparse.from_dense, True),
    "with a scalar": (lambda h: {"h": h, "norm": tf.norm(h)}, True),
    "with None and a number": (lambda h: (h, None, 1.5), True),
    "nested": (lambda h: {"a": [h, (h,)], "b": {"c": h}}, True),
    "whole numbers": (lambda h: tf.argmax(h, -1), True),
    "complex": (lambda h: tf.complex(h, 2 * h), True),
    "of rank 1 in bfloat16": (lambda h: tf.cast(h[:, 0], "bfloat16"), True),
}


@pytest.mark.parametrize(("made", "compared"), STRUCTURES.values(), ids=STRUCTURES)
def test_outputs_of_any_structure(made, compared):
    keras.utils.set_random_seed(0)
    model = Odd(made)
    x = rows(64, mean=3)
    model(x[:2])
    model.stack[1].moving_mean.assign_add(np.full(6, 0.1))
    data = tf.data.Dataset.from_tensor_slices(x).batch(16)
    report = audit(model, data)
    assert {"stale-statistics", "alike-batches"} <= set(report.checked), report
    reasons = [each.reason for each in report.skipped if each.what == "modes-disagree"]
    assert reasons == (
        [] if compared else ["no output of the model has a row of numbers for each row of the data"]
    )


# Sound models, whatever rows they are given

MINE = {rule.name for rule in trial.rules}


def alarms(model, **given):
    report = audit(model, **given)
    assert not [each for each in report.skipped if "crashed" in each.reason]
    return [each for each in report.diagnoses if each.level != "note" and each.rule in MINE]


def some(rows_of):
    x, y = task()
    return x[rows_of], y[rows_of]


def as_dataset(order, size, targets=True):
    x, y = some(order)
    return tf.data.Dataset.from_tensor_slices((x, y) if targets else x).batch(size)


RANDOM = np.random.default_rng(0).permutation(512)
FORMS = {
    "few rows": lambda: {"data": some(slice(9))},
    "few rows without targets": lambda: {"data": some(slice(16))[0]},
    "one class": lambda: {"data": some(task()[1] == 0)},
    "nine in ten of one class": lambda: {
        "data": some(np.r_[np.flatnonzero(task()[1] == 0), np.flatnonzero(task()[1])[:28]])
    },
    "sorted arrays in batches of 8": lambda: {
        "data": some(np.argsort(task()[1])),
        "batch_size": 8,
    },
    "sorted batches": lambda: {"data": as_dataset(np.argsort(task()[1]), 16)},
    "mixed batches without targets": lambda: {"data": as_dataset(RANDOM, 16, targets=False)},
    "batches of two": lambda: {"data": task(), "batch_size": 2},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_sound_model_stays_sound_on_any_rows(form):
    assert alarms(trained(0.9, 10), **form()) == []


@functools.cache
def convolutional_net():
    keras.utils.set_random_seed(0)
    model = chain(
        layers.RandomFlip(),
        layers.GaussianNoise(0.2),
        layers.Conv2D(8, 3, use_bias=False),
        BN(momentum=0.9),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, activation="softmax"),
        shape=(8, 8, 1),
    )
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 256)
    x = rng.normal(size=(256, 8, 8, 1)) * np.where(y == 1, 2.0, 1.0)[:, None, None, None]
    x, y = x.astype("float32"), y.astype("int32")
    train(model, x, y, batch_size=8, epochs=5)
    return model, x, y


@pytest.mark.parametrize("targets", [True, False])
def test_small_batches_of_images_with_noise_are_no_fault(targets):
    model, x, y = convolutional_net()
    data = (x, y) if targets else x
    assert alarms(model, data=data, batch_size=8) == []


def test_a_report_does_not_depend_on_how_often_the_model_was_called():
    model, given = dropped()
    weights, before = model.get_weights(), str(audit(model, **given))
    for _ in range(3):
        model(given["data"], training=True)
    model.set_weights(weights)
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            layer.seed_generator.next()
    assert str(audit(model, **given)) == before


@pytest.mark.parametrize("each", trial.parameters)
def test_trial(each):
    each.run()


def test_every_rule_has_its_trials():
    trial.check_complete(
        nothing_to_follow={
            "no-better-than-guessing": "it says what to check: the cause may be anything",
        }
    )


def unusable_targets():
    y = task()[1]
    return {
        "too many columns": ("categorical_crossentropy", np.eye(5)[y]),
        "whole numbers for one-hot": ("categorical_crossentropy", y),
        "text": ("sparse_categorical_crossentropy", y.astype(str)),
        "not a number": ("mse", np.full((len(y), 2), np.nan)),
        "a dict of unknown names": ("sparse_categorical_crossentropy", {"other": y}),
        "sample weights": ("sparse_categorical_crossentropy", y),
    }


@pytest.mark.parametrize("case", unusable_targets())
def test_targets_that_cannot_be_used_give_no_all_clear(case):
    loss, y = unusable_targets()[case]
    weighted = case == "sample weights"
    cause = "sample weights are given" if weighted else "cannot be computed on these targets"
    x = task()[0]
    data = (x, y, np.ones(len(x))) if weighted else (x, y)
    model = trained(0.9, 10)
    model.compile(loss=loss)
    report = audit(model, data)
    assert not report.sound
    assert "modes-disagree" not in report.checked
    (skipped,) = [each for each in report.skipped if each.what == "modes-disagree"]
    assert cause in skipped.reason
    assert skipped.needs is None
    model.get_layer("bn").moving_mean.assign_add([5.0] * 16)  # told once: as a finding
    report = audit(model, data)
    (told,) = [each for each in report.diagnoses if each.rule == "modes-disagree"]
    assert cause in told.evidence
    assert "modes-disagree" in report.checked


def test_a_model_of_one_number_a_row_is_judged_as_one_of_one_column():
    x = rows(512)
    keras.utils.set_random_seed(0)
    stack = layers.Dense(8), BN(momentum=0.9), layers.ReLU(), layers.Dense(1)
    columns = chain(*stack, loss="mse", optimizer=keras.optimizers.Adam(0.02))
    train(columns, x, x[:, :1], epochs=7)
    flat = keras.Model(columns.inputs, layers.Reshape(())(columns.outputs[0]))
    flat.compile("adam", "mse")
    told = [
        [(each.rule, each.level) for each in audit(model, (x, y)).diagnoses]
        for model, y in ((columns, x[:, :1]), (flat, x[:, 0]))
    ]
    assert told[0] == told[1]
    assert all(rule != "no-better-than-guessing" for rule, _ in told[1])


def told_of_modes(model, data, **given):
    report = audit(model, data, **given)
    (told,) = [each for each in report.diagnoses if each.rule == "modes-disagree"]
    assert "modes-disagree" not in [each.what for each in report.skipped]
    return told, report


def test_a_size_that_nobody_gave_is_called_assumed():
    model, given = few_updates()
    assert "in batches of 32 (assumed" in told_of_modes(model, **given)[0].evidence
    assert "in batches of 32 as in fit" in told_of_modes(model, **given, batch_size=32)[0].evidence


def test_modes_that_disagree_beyond_guessing_are_told_and_not_left_unchecked():
    model, given = targets_in_other_units()
    model.layers[1].moving_mean.assign_add(np.full(8, 50.0))
    _, report = told_of_modes(model, **given)
    (told,) = [each for each in report.diagnoses if each.rule == "no-better-than-guessing"]
    assert "not all that is wrong" in told.why


def test_in_batches_of_one_row_dense_features_are_not_sent_to_another_normalization_of_images():
    told, _ = told_of_modes(trained(0.9, 10), task()[0], batch_size=1)
    assert "Train anew with more rows in a batch, or with LayerNormalization" in told.repair
    assert "GroupNormalization" not in told.repair


def test_like_batches_are_a_fault_too_where_inference_is_no_worse_than_batch_mode():
    report = reported(batches_of_one_class_in_which_no_mode_learnt_much)
    (told,) = [each for each in report.diagnoses if each.rule == "alike-batches"]
    assert "may have learnt little" in told.evidence


class InWeightedBatches(keras.utils.PyDataset):
    """Batches `[x, y, sample_weight]`."""

    def __len__(self):  # noqa: D105
        return 4

    def __getitem__(self, number):  # noqa: D105
        picked = slice(32 * number, 32 * number + 32)
        return [*some(picked), np.ones(32)]


WEIGHTED = {
    "a data set": lambda: tf.data.Dataset.from_tensor_slices((*task(), np.ones(512))).batch(64),
    "a PyDataset": InWeightedBatches,
    "a generator": lambda: ((*some(slice(start, start + 64)), np.ones(64)) for start in (0, 64)),
}


@pytest.mark.parametrize("made", WEIGHTED.values(), ids=WEIGHTED)
def test_sample_weights_are_noticed_in_data_of_every_form(made):
    report = audit(trained(0.9, 10), made())
    (reason,) = [each.reason for each in report.skipped if each.needs is None]
    assert "sample weights are given" in reason
