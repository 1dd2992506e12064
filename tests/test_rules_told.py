"""What the rules say: whole sentences, with the numbers of models so small that one can count."""

import types

import numpy as np
import pytest
import test_rules_learning as of_learning
import test_rules_settings as of_settings
import test_rules_structure as of_structure
from doctor_trials import BN, Case, chain, fitted, layers, rows, told

from bnutils._keras import keras, tf
from bnutils.doctor.rules import settings
from bnutils.doctor.subject import Subject


def evidence(rule, model, data=None, **given):
    return [each.evidence for each in told(rule, model, data, **given)]


def stack(*bn, width=4, **options):
    """Dense layers without bias, each with a batch normalization layer behind it: bn1, bn2, ..."""
    parts = []
    for number, each in enumerate(bn or ({},), 1):
        parts.append(layers.Dense(width, use_bias=False, name=f"dense{number}"))
        parts.append(BN(name=f"bn{number}", **each))
        parts.append(layers.ReLU(name=f"relu{number}"))
    return chain(*parts, layers.Dense(1, name="head"), **options)


# Settings


@pytest.mark.parametrize(
    ("momentum", "says"),
    [
        (1.5, "each update weighs the batch by -0.5 and the old value by 1.5"),
        (-0.25, "each update weighs the batch by 1.25 and the old value by -0.25"),
        (1.0, "its moving statistics never change"),
        (float("inf"), "no update can weigh old and new by it"),
    ],
)
def test_a_momentum_that_is_no_weight_is_told_of_the_layer_that_has_it(momentum, says):
    (each,) = told("bad-momentum", stack({}, {"momentum": momentum}))
    assert each.layer == "bn2"
    assert each.evidence == f"bn2 has momentum={momentum:g}: {says}."
    still = momentum == 1
    assert ("freeze the layer instead (trainable=False)." in each.repair) == still
    assert ("what the layer started with" in each.why) == still
    assert each.repair.startswith("Build it with a momentum from 0.9 to 0.999 and train again.")


def test_both_momenta_of_renorm_are_looked_at():
    renorm = {"renorm": True, "momentum": 1.25, "renorm_momentum": -0.5}
    first, second = evidence("bad-momentum", stack(renorm))
    assert first.startswith("bn1 has momentum=1.25: each update weighs the batch by -0.25 and")
    assert second.startswith("bn1 has renorm_momentum=-0.5: each update weighs the batch by 1.5")
    assert evidence("bad-momentum", stack({"renorm_momentum": -0.5})) == []


def test_a_momentum_that_is_no_number_is_shown_in_short():
    model = stack()
    model.get_layer("bn1").momentum = "word " * 20
    (told_of,) = evidence("bad-momentum", model)
    assert told_of.startswith("bn1 has momentum='word word")
    assert len(told_of) < 110


@pytest.mark.parametrize(
    ("momentum", "follows", "build"),
    [
        (0.0, "the last batch alone", "Build it with momentum=0.99, the default of Keras"),
        (0.0009, "the last batch alone", "Build it with momentum=0.99, the default of Keras"),
        (0.001, "the last few batches", "If 0.001 comes from PyTorch, build it with momentum=0.9"),
        (0.25, "the last few batches", "If 0.25 comes from PyTorch, build it with momentum=0.75,"),
    ],
)
def test_what_inference_follows_at_a_low_momentum(momentum, follows, build):
    (each,) = told("pytorch-momentum", stack({}, {"momentum": momentum}))
    assert each.layer == "bn2"
    share = f"{100 - 100 * momentum:.3g}%"
    assert each.evidence == (
        f"bn2 has momentum {momentum:g}: each update replaces {share} of the moving statistics."
    )
    assert f"inference follows {follows}." in each.why
    assert each.repair.startswith(build)


def test_half_old_and_half_new_is_no_momentum_of_pytorch():
    assert told("pytorch-momentum", stack({"momentum": 0.5})) == []


# Values


def spoil(variable, value, places=1):
    array = variable.numpy()
    array.reshape(-1)[:places] = value
    variable.assign(array)


def test_weights_that_are_no_numbers_are_counted_for_each_layer():
    model = stack({}, {})
    model.layers[0].kernel.assign(np.full((8, 4), 7.0))
    spoil(model.get_layer("head").kernel, np.nan, 2)
    spoil(model.get_layer("head").bias, np.inf)
    spoil(model.get_layer("dense2").kernel, -np.inf, 3)
    spoil(model.get_layer("bn1").beta, np.nan)
    assert [(each.layer, each.evidence) for each in told("not-finite", model)] == [
        ("dense2", "Weights of dense2 are NaN or infinite: kernel (3 of 16)."),
        ("head", "Weights of head are NaN or infinite: kernel (2 of 4) and bias (1 of 1)."),
    ]
    (each,) = told("bad-variance", model)
    assert (each.level, each.layer) == ("error", "bn1")
    assert each.evidence == "Variables of bn1 are NaN or infinite: beta (1 of 4)."


def test_a_weight_of_the_model_itself_is_called_so():
    class WithScale(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = BN()
            self.scale = self.add_weight(shape=(3,), name="scale", initializer="ones")

        def call(self, x, training=None):
            return self.bn(x, training=training) * self.scale[0]

    model = WithScale()
    model(rows(2))
    spoil(model.scale, np.nan)
    (each,) = told("not-finite", model)
    assert each.layer == ""
    assert each.evidence == "Weights of the model are NaN or infinite: scale (1 of 3)."


def test_statistics_that_go_with_other_weights_are_not_sent_to_recalibrate():
    model = stack({}, {})
    spoil(model.get_layer("bn2").moving_mean, np.nan)
    (alone,) = told("bad-variance", model)
    spoil(model.get_layer("head").bias, np.nan)
    (together,) = told("bad-variance", model)
    assert alone.evidence == together.evidence
    assert alone.repair.startswith("Call recalibrate(model, x_train): moving statistics alone are")
    assert together.repair.startswith("Go back to a checkpoint")


@pytest.mark.parametrize(("lowest", "level"), [(-0.5, "error"), (-1e-6, "warning")])
def test_a_negative_variance_matters_beside_epsilon(lowest, level):
    model = stack({}, {"trainable": False})
    spoil(model.get_layer("bn2").moving_variance, lowest, 3)
    (each,) = told("bad-variance", model)
    assert (each.level, each.layer) == (level, "bn2")
    assert each.evidence == (
        f"The moving variance of bn2 is negative in 3 of 4 channels; the lowest is {lowest:.3g}."
    )
    assert each.repair.endswith(
        "Otherwise call recalibrate(model, x_train, layers=['bn2']), and find what wrote the value."
    )


def test_a_variance_a_hundredth_of_epsilon_below_zero_is_still_rounding():
    model = stack({"epsilon": 100.0})
    for lowest, level in ((-1.0, "warning"), (-1.01, "error")):
        model.get_layer("bn1").moving_variance.assign(np.full(4, lowest))
        assert [each.level for each in told("bad-variance", model)] == [level]


def test_a_variance_of_nothing_is_not_negative():
    model = stack()
    model.get_layer("bn1").moving_variance.assign(np.zeros(4))
    assert told("bad-variance", model) == []


def test_a_huge_variance_is_one_above_a_million_behind_weights():
    model = stack({}, {})
    for name in ("bn1", "bn2"):
        model.get_layer(name).moving_variance.assign(np.full(4, 1e6))
    assert told("bad-variance", model) == []
    spoil(model.get_layer("bn2").moving_variance, 3e6, 2)
    (each,) = told("bad-variance", model)
    assert (each.level, each.layer) == ("warning", "bn2")
    assert each.evidence == (
        "The moving variance of bn2 is above 1e+06 in 2 of 4 channels; the highest is 3e+06."
    )


@pytest.mark.parametrize(("epsilon", "shown"), [(-0.5, "-0.5"), (np.inf, "inf"), ("a", "'a'")])
def test_an_epsilon_that_is_none_is_shown(epsilon, shown):
    model = stack({}, {})
    model.get_layer("bn2").epsilon = epsilon
    (each,) = told("bad-variance", model)
    assert (each.level, each.layer, each.evidence) == ("error", "bn2", f"bn2 has epsilon={shown}.")
    model.get_layer("bn2").epsilon = 0
    assert told("bad-variance", model) == []


# Statistics of a new layer


def moved(model, *names):
    for name in names:
        model.get_layer(name).moving_mean.assign(np.full(4, 0.5))
    return model


def test_new_layers_are_counted_and_named():
    (each,) = told("never-updated", moved(stack({}, {}, {}), "bn1", "bn3"))
    assert (each.level, each.layer) == ("note", "bn2")
    assert each.evidence == (
        "1 of 3 batch normalization layers (bn2) has its initial moving statistics."
    )
    (each,) = told("never-updated", moved(stack({}, {}, {"trainable": False}), "bn1"))
    assert (each.level, each.layer) == ("note", "")
    assert each.evidence == (
        "2 of 3 batch normalization layers (bn2 and bn3) have their initial moving statistics."
    )
    assert each.repair.endswith("after it, recalibrate(model, x_train, layers=['bn2', 'bn3']).")


def test_signs_of_training_are_told_for_each_layer():
    model = moved(stack({}, {}, {"trainable": False}, loss="mse"), "bn1")
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=3), "mse")
    model.optimizer._iterations.assign(13)  # four updates, and one batch of the next
    model.get_layer("bn2").beta.assign(np.full(4, 0.5))
    first, second = told("never-updated", model)
    start = "The moving statistics of {} are exactly the initial ones, though {}."
    both = "its gamma or beta have been trained and the optimizer has made 12 updates"
    assert (first.level, first.evidence) == ("error", start.format("bn2", both))
    only = "the optimizer has made 12 updates"
    assert (second.level, second.evidence) == ("warning", start.format("bn3", only))
    assert (first.layer, second.layer) == ("bn2", "bn3")
    assert second.why == "A frozen layer with these statistics neither learns nor normalizes."
    assert "or call recalibrate(model, x_train, layers=['bn3'])." in second.repair


def regression(center):
    """A trained model with a new layer in it, on rows about a center, and what it was to give."""
    dense = layers.Dense(4, name="before", bias_initializer="zeros")
    head = layers.Dense(1, name="after")
    model = chain(dense, BN(name="bn"), head, loss="mse")
    rng = np.random.default_rng(0)
    dense.set_weights([rng.normal(size=(8, 4)), np.full(4, 0.5)])
    head.set_weights([rng.normal(size=(4, 1)), np.full(1, 0.5)])
    x, weights = rows(64, mean=center), model.get_weights()
    wanted = np.asarray(model(x, training=True))
    model.set_weights(weights)
    return model, x, wanted


def test_a_new_layer_between_trained_ones_is_told_with_what_it_costs():
    model, x, wanted = regression(4.0)
    (guessed,) = told("never-updated", model)
    start = (
        "The moving statistics of 1 layer (bn) are exactly the initial ones, though the weights "
        "before and after (before and after) have been trained."
    )
    assert (guessed.level, guessed.layer, guessed.evidence) == ("warning", "bn", start)
    on_purpose = " If it was put into a trained model on purpose, train on with it."
    assert guessed.repair.endswith(on_purpose)
    (measured,) = told("never-updated", model, (x, wanted), batch_size=64)
    assert measured.level == "error"
    assert measured.evidence.startswith(f"{start} Loss ")
    assert measured.evidence.endswith(" in batches of 64 as in fit (64 rows used).")
    assert measured.repair == guessed.repair.removesuffix(on_purpose)
    (few,) = told("never-updated", model, (x[:4], wanted[:4]))
    assert few == guessed


def test_a_layer_that_a_call_keeps_in_inference_mode_is_told_how():
    inputs = keras.Input((4,))
    x = BN(name="bn")(inputs, training=False)
    fixed = keras.Model(inputs, layers.Dense(1)(x))
    fixed.get_layer("bn").gamma.assign(np.full(4, 2.0))

    class Fixed(BN):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=False, mask=mask)

    own = chain(Fixed(name="bn"), layers.Dense(1), shape=(4,))
    own.get_layer("bn").gamma.assign(np.full(4, 2.0))
    (by_itself,) = told("never-updated", own)[:1]
    assert by_itself.why.startswith("Fixed.call keeps it in inference mode in training too")
    assert "let Fixed.call hand training on and train again" in by_itself.repair
    (by_call,) = told("never-updated", fixed)[:1]
    if of_structure.ignored():
        assert by_call.why == "Inference normalizes with statistics that no data ever reached."
    else:
        assert by_call.why.startswith("A call with training=False keeps it in inference mode")
        assert "leave training=False out of the call and train again" in by_call.repair


def test_few_updates_are_told_of_the_layers_they_are_few_for():
    bn = {"momentum": 0.99}
    model = moved(stack(bn, {"momentum": 0.5}, bn, {"momentum": 0.9}, loss="mse"), "bn1", "bn2")
    moved(model, "bn3", "bn4")
    model.optimizer.iterations.assign(5)
    (each,) = told("few-updates", model)
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence == (
        "The optimizer has made 5 updates: at momentum 0.9 and 0.99 the values from before them "
        "still weigh 95% in the moving statistics of 3 layers (bn1, bn3 and bn4)."
    )
    model.optimizer.iterations.assign(10)
    moved(model, "bn1").get_layer("bn3").trainable = False
    (each,) = told("few-updates", model)
    assert (each.layer, each.evidence) == (
        "bn1",
        "The optimizer has made 10 updates: at momentum 0.99 the values from before them still "
        "weigh 90% in the moving statistics of 1 layer (bn1).",
    )


def test_half_of_the_statistics_from_before_is_not_most_of_them():
    model = moved(stack({"momentum": 0.5}, loss="mse"), "bn1")
    model.optimizer.iterations.assign(1)
    assert told("few-updates", model) == []
    model.get_layer("bn1").momentum = 0.51
    assert len(told("few-updates", model)) == 1


FITTING = ((0.25, 1, True), (0.25, 3, False), (0.75, 1, False), (0.5, 1, False), (0.25, 2, False))


def test_a_few_rows_that_suit_the_statistics_in_both_show_that_they_fit():
    model = chain(BN(name="bn", momentum=0.99, epsilon=0.0), layers.Dense(1), loss="mse")
    model.optimizer.iterations.assign(5)
    x = np.repeat([[-1.0], [1.0], [-1.0], [1.0]], 8, axis=1).astype("float32")
    for mean, variance, fits in FITTING:
        model.layers[0].moving_mean.assign(np.full(8, mean))
        model.layers[0].moving_variance.assign(np.full(8, variance))
        assert (told("few-updates", model, x) == []) == fits
    eight = np.concatenate([x, x])  # rows enough for stale-statistics
    assert told("few-updates", model, eight) == []


# Batches


def test_what_a_batch_gives_each_channel_is_counted():
    positions = chain(
        BN(name="wide"),
        layers.Conv1D(4, 3, use_bias=False, name="conv"),
        BN(name="narrow"),
        layers.GlobalAveragePooling1D(),
        shape=(5, 3),
    )
    said = {each.layer: each for each in told("batch-of-one", positions, batch_size=1)}
    assert list(said) == ["wide", "narrow"]
    assert said["narrow"].evidence == (
        "A batch of 1 gives narrow 3 values per channel (3 positions in each row)."
    )
    assert (said["narrow"].level, said["wide"].level) == ("warning", "warning")
    assert said["narrow"].why == "The statistics of so few values are mostly noise."
    (each,) = told("batch-of-one", positions, batch_size=2)
    assert each.evidence.startswith("A batch of 2 gives narrow 6 values per channel (3 positions")


@pytest.mark.parametrize(
    ("size", "level", "values", "says"),
    [
        (1, "error", "1 value", "The mean of one value is that value: the output is beta"),
        (2, "warning", "2 values", "every output is +1 or -1 before gamma."),
        (7, "warning", "7 values", "The statistics of so few values are mostly noise."),
    ],
)
def test_why_few_values_are_too_few(size, level, values, says):
    (each,) = told("batch-of-one", stack({"trainable": False}, {}), batch_size=size)
    assert (each.level, each.layer) == (level, "bn2")
    assert each.evidence == (
        f"A batch of {size} gives bn2 {values} per channel (1 position in each row)."
    )
    assert says in each.why
    assert each.repair.startswith("Use larger batches, or GroupNormalization or")
    assert told("batch-of-one", stack(), batch_size=8) == []


def test_renorm_puts_the_outputs_right_and_not_the_gradient():
    renorm = stack({"renorm": True}, {})
    first, second = told("batch-of-one", renorm, batch_size=2)
    assert "goes through two values, which normalized are +1 and -1 whatever the" in first.why
    assert first.why.endswith("input: next to none reaches the layers before it.")
    assert "every output is +1 or -1" in second.why
    first, _ = told("batch-of-one", renorm, batch_size=1)
    assert "goes through one value, which normalized is 0 whatever the input: none" in first.why
    assert [each.layer for each in told("batch-of-one", renorm, batch_size=3)] == ["bn2"]


def test_a_last_batch_is_told_with_its_weight():
    given = {"batch_size": 10, "train_size": 1001}
    (each,) = told("partial-batch", stack({"trainable": False}, {"momentum": 0.9}), **given)
    assert (each.level, each.layer) == ("warning", "bn2")
    assert each.evidence == (
        "1,001 rows in batches of 10 leave a last batch of 1: 1 value per channel for bn2, with a "
        "weight of 10.0% in its moving statistics at the end of each epoch; that alone makes the "
        "moving variance at least 10.0% too small on average."
    )
    assert each.why.endswith("however few rows it has, and a single value passes no gradient.")
    (each,) = told("partial-batch", stack({"momentum": 0.5}), batch_size=10, train_size=22)
    # 1 of 3 batches of weights 1/8, 1/4 and 1/2; that it has two values takes half of its variance.
    assert "1: " not in each.evidence
    assert "with a weight of 57.1% in its" in each.evidence
    assert "at least 28.6% too small" in each.evidence
    assert (each.level, each.why) == (
        "warning",
        "The moving average weighs every batch alike, however few rows it has.",
    )


@pytest.mark.parametrize(
    ("size", "rows_in_all", "found"),
    [(10, 12, 1), (10, 13, 0), (40, 47, 1), (40, 48, 0), (10, 9, 0), (10, 10, 0), (10, 11, 1)],
)
def test_a_last_batch_is_small_beside_a_full_one(size, rows_in_all, found):
    given = {"batch_size": size, "train_size": rows_in_all}
    assert len(told("partial-batch", stack({"momentum": 0.9}), **given)) == found


# Precision, optimizers, decay


def test_layers_in_half_precision_are_told_together():
    half = {"dtype": "float16"}
    model = stack({**half, "momentum": 0.75}, {}, {**half, "momentum": 0.9})
    (each,) = told("half-precision-variables", model)
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence == (  # half of 2**-10, over a tenth
        "bn1 and bn3 keep their variables in float16: at momentum 0.9 a moving average stops up "
        "to 0% short of its goal, since smaller updates are rounded away. A variance above 65,504 "
        "becomes infinite."
    )
    model.get_layer("bn1").trainable = False
    model.get_layer("bn3").momentum = 0.999
    (each,) = told("half-precision-variables", model)
    assert each.layer == "bn3"
    assert each.evidence.startswith("bn3 keeps its variables in float16: at momentum 0.999 a")
    assert "stops up to 49% short" in each.evidence
    model.get_layer("bn3").momentum = 1.0  # another rule tells of that
    assert told("half-precision-variables", model) == []


def test_accumulated_batches_are_told_with_their_rows():
    accumulating = {"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=3)}
    model = stack({}, {}, loss="mse", **accumulating)
    (each,) = told("gradient-accumulation", model)
    assert (each.level, each.evidence) == (
        "note",
        "The optimizer averages the gradients of 3 batches: a step sees 3 of them, batch "
        "normalization normalizes by one small batch.",
    )
    (each,) = told("gradient-accumulation", model, batch_size=1000)
    assert (each.level, each.evidence) == (
        "note",
        "The optimizer averages the gradients of 3 batches: a step sees 3,000 rows, batch "
        "normalization normalizes by 1,000 rows.",
    )
    (each,) = told("gradient-accumulation", model, batch_size=7)
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence.endswith(
        "a step sees 21 rows, batch normalization normalizes by 7 rows, down to 7 values per "
        "channel."
    )
    assert each.why == "Accumulation makes the batch larger for the gradient alone."
    frozen = stack({"trainable": False}, loss="mse", **accumulating)
    assert told("gradient-accumulation", frozen, batch_size=7) == []


def test_averages_are_told_with_how_they_are_taken():
    model = stack(
        {"trainable": False},
        {},
        loss="mse",
        optimizer=keras.optimizers.SGD(use_ema=True, ema_momentum=0.95),
    )
    (each,) = told("averaged-weights", model)
    assert each.evidence == (
        "The optimizer averages the weights over its steps (use_ema=True, ema_momentum=0.95); the "
        "moving statistics of 1 layer (bn2) are those of the weights of each step, not of the "
        "average."
    )

    class MovingAverage(keras.optimizers.SGD):
        pass

    class Lookahead(keras.optimizers.SGD):
        pass

    for kind in (MovingAverage, Lookahead, of_settings.SWA):
        model.compile(kind(), "mse")
        (each,) = told("averaged-weights", model)
        assert f"over its steps ({kind.__name__}); the moving" in each.evidence
    model.compile("sgd", "mse")
    assert told("averaged-weights", model) == []


def test_decay_and_penalties_are_told_of_the_layers_they_act_on():
    model = stack(
        {"gamma_regularizer": "l2"},
        {"trainable": False, "beta_regularizer": "l2"},
        {"beta_regularizer": "l2"},
        {"scale": False, "gamma_regularizer": "l2"},
        loss="mse",
        optimizer=keras.optimizers.SGD(weight_decay=0.5),
    )
    penalty, decay = told("decayed-gamma-beta", model)
    assert (penalty.layer, penalty.evidence) == (
        "",
        "A regularizer acts on gamma or beta of 2 layers (bn1 and bn3).",
    )
    assert (decay.layer, decay.evidence) == (
        "",
        "weight_decay=0.5 of the optimizer acts on gamma or beta of 3 layers (bn1, bn3 and bn4).",
    )
    model.get_layer("bn3").trainable = model.get_layer("bn4").trainable = False
    assert [each.layer for each in told("decayed-gamma-beta", model)] == ["bn1", "bn1"]
    model.compile(keras.optimizers.SGD(), "mse")
    assert [each.layer for each in told("decayed-gamma-beta", model)] == ["bn1"]


# Replicas: in one process there is one device, so the strategy and the copies are stood in for


@pytest.fixture
def on(monkeypatch):
    """Give a model that runs on some replicas; of its second layer the first copy is another."""
    variables = {}
    own = settings.replicas
    monkeypatch.setattr(settings, "replicas", lambda v: variables.get(id(v)) or own(v))

    def make(model, number, **copies):
        model._distribute_strategy = types.SimpleNamespace(num_replicas_in_sync=number)
        for name, (mean, variance) in copies.items():
            bn = model.get_layer(name)
            for held, value in ((bn.moving_mean, mean), (bn.moving_variance, variance)):
                other = held.numpy()
                other[-1] = value
                variables[id(held)] = (held.value, tf.constant(other))
        return model

    return make


def test_each_replica_takes_its_part_of_a_batch(on):
    model = on(stack({}, {"synchronized": True}), 4)
    (each,) = told("replica-batch", model, batch_size=64)
    assert (each.level, each.layer) == ("note", "")
    assert each.evidence == (
        "The model trains on 4 replicas, and bn1 is not synchronized: each replica normalizes by "
        "16 of 64 rows."
    )
    assert each.repair == (
        "Build with BatchNormalization(synchronized=True), or give each replica more rows; "
        "recalibrate(model, x_train) then gives all replicas the same statistics."
    )
    (each,) = told("replica-batch", model, batch_size=28)  # 7 rows for each
    assert each.level == "warning"
    assert "normalizes by 7 of 28 rows." in each.evidence
    (each,) = told("replica-batch", model)
    assert (each.level, each.evidence.endswith("each replica normalizes by its own rows.")) == (
        "note",
        True,
    )
    (each,) = told("batch-of-one", model, batch_size=28)
    assert each.evidence == (
        "A batch of 28 gives bn1 7 values per channel on each of 4 replicas (1 position in each "
        "row)."
    )
    assert each.repair.startswith("Build with BatchNormalization(synchronized=True), or use larger")
    two = on(stack({}, {}), 2)
    assert "and bn1 and bn2 are not synchronized: each" in evidence("replica-batch", two)[0]
    assert told("replica-batch", on(stack({}), 1), batch_size=8) == []


def test_behind_a_mask_each_replica_counts_by_itself(on):
    masked = {"synchronized": True}
    model = chain(
        layers.Masking(), BN(name="bn1", **masked), BN(name="bn2", **masked), shape=(5, 3)
    )
    (each,) = told("replica-batch", on(model, 2), batch_size=8)
    assert each.evidence == (
        "The model trains on 2 replicas, and bn1 and bn2 are synchronized to no effect, since they "
        f"get a mask, with which Keras {keras.__version__} counts on each replica by itself: each "
        "replica normalizes by 4 of 8 rows."
    )
    assert each.repair.startswith("Use LayerNormalization behind the mask, which takes each")
    model.get_layer("bn1").synchronized = False
    (each,) = told("replica-batch", model, batch_size=8)
    assert "replicas, and bn1 is not synchronized and bn2 is synchronized to no" in each.evidence
    assert "no effect, since it gets a mask" in each.evidence
    assert each.repair.startswith(
        "Build with BatchNormalization(synchronized=True), use LayerNormalization behind a mask, or"
    )


@pytest.mark.parametrize(
    ("batch", "size", "says"),
    [
        (9, 0, "Of each batch of 9 rows, 1 of 4 replicas gets none"),
        (5, 0, "Of each batch of 5 rows, 1 of 4 replicas gets none"),
        (2, 0, "Of each batch of 2 rows, 2 of 4 replicas get none"),
        (
            8,
            1001,
            "1,001 rows in batches of 8: of the last 1, 3 of 4 replicas get none",
        ),
        (
            8,
            1003,
            "1,003 rows in batches of 8: of the last 3, 1 of 4 replicas gets none",
        ),
        (8, 1004, None),
        (8, 1000, None),
    ],
)
def test_a_replica_that_gets_no_rows_is_told(on, batch, size, says):
    given = {"batch_size": batch, "train_size": size or None}
    found = told("replica-batch", on(stack({}, {}), 4), **given)
    errors = [each.evidence for each in found if each.level == "error"]
    assert len(found) == len(errors) + 1
    assert errors == ([f"{says}, and bn1 and bn2 are not synchronized."] if says else [])


def test_replicas_are_apart_by_their_farthest_layer(on):
    frozen = {"trainable": False, "epsilon": 0.0}
    model = on(stack({}, frozen, frozen, frozen), 2, bn2=(0.25, 1.0), bn3=(0.4, 1.5))
    _, each = told("replica-batch", model, batch_size=64)
    assert (each.level, each.layer) == ("note", "bn3")
    assert each.evidence == (
        "The model runs on 2 replicas. Their moving statistics differ by up to 0.4 sd in the mean "
        "and by a factor of 1.5 in the variance (bn3)."
    )
    assert each.repair == (
        "recalibrate(model, x_train, layers=['bn2', 'bn3']) gives all replicas the same statistics."
    )


@pytest.mark.parametrize(
    ("mean", "variance", "level"),
    [
        (0.0, 1.005, None),
        (0.005, 1.0, None),
        (0.02, 1.0, "note"),
        (0.0, 1.02, "note"),
        (0.0, 0.98, "note"),
        (0.5, 1.0, "note"),
        (0.75, 1.0, "warning"),
        (0.0, 2.0, "note"),
        (0.0, 2.5, "warning"),
        (0.0, 0.4, "warning"),
    ],
)
def test_how_far_apart_replicas_may_be(on, mean, variance, level):
    bn = {"trainable": False, "epsilon": 0.0}
    found = told("replica-batch", on(stack(bn), 2, bn1=(mean, variance)))
    assert [each.level for each in found] == ([level] if level else [])
    trained = told("replica-batch", on(stack({"epsilon": 0.0}), 2, bn1=(mean, variance)))
    (each,) = trained
    assert each.level == (level or "note")
    assert "Their moving statistics differ by up to " in each.evidence


def test_replicas_with_no_numbers_are_left_to_the_rule_of_those(on):
    frozen = on(stack({"trainable": False}), 2, bn1=(np.nan, np.nan))
    assert told("replica-batch", frozen) == []
    half = on(stack({"trainable": False, "epsilon": 0.0}), 2, bn1=(0.75, np.nan))
    (each,) = told("replica-batch", half)
    assert "by up to 0.75 sd in the mean and by a factor of 1 in the variance" in each.evidence


def test_accumulated_batches_are_dealt_out_too(on):
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=3)
    model = on(stack({"synchronized": True}, {}, loss="mse", optimizer=optimizer), 2)
    (each,) = told("gradient-accumulation", model, batch_size=10)
    assert each.evidence.endswith(
        "a step sees 30 rows, batch normalization normalizes by 10 rows, of which each of 2 "
        "replicas takes its part, down to 5 values per channel."
    )
    assert each.why.endswith(" In Keras 3.15 `fit` fails with it on several replicas.")
    together = on(stack({"synchronized": True}, loss="mse", optimizer=optimizer), 2)
    (each,) = told("gradient-accumulation", together, batch_size=10)
    assert each.evidence.endswith("batch normalization normalizes by 10 rows.")
    assert each.why == "Accumulation makes the batch larger for the gradient alone."


# A sick model beside a sound one


def alongside(model, shape=(6,)):
    """A model with a sound one in front of it, that shares nothing with it."""
    sound = chain(
        layers.Dense(5, use_bias=False, name="sound_dense"),
        BN(name="sound_bn", momentum=0.9),
        *(layers.ReLU(name=f"sound_relu{n}") for n in range(12)),  # Keras lists by depth
        layers.Dense(3, name="sound_head"),
        shape=shape,
    )
    sound.get_layer("sound_bn").moving_mean.assign(np.full(5, 0.125))
    both = keras.Model([*sound.inputs, *model.inputs], [*sound.outputs, *model.outputs])
    if model.compiled:
        both.compile(model.optimizer, [None, model.loss])
    return both, sound


#: Rules that say one thing of all layers together, or that training must show.
OF_ALL = ("decayed-gamma-beta", "few-updates", "never-updated")
OF_THE_GRAPH = {
    each.build.__name__: each
    for each in (*of_settings.trial.all, *of_structure.trial.all)
    if each.kind == "sick" and each.level and each.rule not in OF_ALL
}


@pytest.mark.parametrize("each", OF_THE_GRAPH.values(), ids=OF_THE_GRAPH)
@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask")
def test_a_fault_is_found_beside_a_sound_model_too(each):
    keras.utils.set_random_seed(0)
    model, given = each.build()
    if "data" in given:
        given = {} if each.rule == "lost-mask" else pytest.skip("of its data")
    if getattr(model, "inputs", None) is None:
        pytest.skip("a subclass")
    both, _ = alongside(model)
    assert Subject(both).layers[0].name == "sound_bn"
    alone, beside = (
        [(found.level, found.layer) for found in told(each.rule, one, **given)]
        for one in (model, both)
    )
    assert [found for found in beside if found[1] != "sound_bn"] == alone


# The graph


def test_what_stands_at_the_output_is_told_with_its_loss_and_shape():
    def output(*after, loss=None, width=2, **bn):
        model = chain(layers.Dense(width), BN(name="bn", **bn), *after, shape=(4,), loss=loss)
        return told("output-bn", model)

    softmax = layers.Activation("softmax")
    (each,) = output(softmax)
    assert (each.level, each.layer) == ("warning", "bn")
    assert each.evidence == (
        "bn stands straight before the softmax of the output: nothing but its own gamma and beta "
        "sets the scale of the softmax."
    )
    for bn, own in (({"scale": False}, "beta"), ({"center": False}, "gamma")):
        assert f"nothing but its own {own} sets the" in output(softmax, **bn)[0].evidence
    neither = output(softmax, scale=False, center=False)
    assert "nothing but its own normalization sets the scale" in neither[0].evidence
    (each,) = output(loss="mse")
    assert (each.level, each.evidence) == (
        "warning",
        "bn is the last before an output of shape (None, 2) under the loss MeanSquaredError: over "
        "each batch of training what it gives has mean beta and spread gamma.",
    )
    (each,) = output(layers.Activation("tanh"), width=1)
    assert (each.level, each.evidence) == (
        "warning",
        "bn stands straight before the tanh of an output of shape (None, 1): over each batch of "
        "training what it gives has mean beta and spread gamma.",
    )
    (each,) = output(loss="cosine_similarity")
    assert (each.level, each.evidence) == (
        "note",
        "bn gives the output of shape (None, 2), with no layer with weights behind it.",
    )
    assert each.repair == "If the output is a prediction, take bn out."
    assert output(layers.ReLU()) == output(layers.Dense(1)) == output(trainable=False) == []


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.MeanSquaredError,
        keras.losses.MeanAbsoluteError,
        keras.losses.MeanAbsolutePercentageError,
        keras.losses.MeanSquaredLogarithmicError,
        keras.losses.Huber,
        keras.losses.LogCosh,
        keras.losses.Poisson,
        keras.losses.BinaryCrossentropy,
        keras.losses.BinaryFocalCrossentropy,
        keras.losses.CategoricalCrossentropy,
        keras.losses.CategoricalFocalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.KLDivergence,
        keras.losses.Hinge,
        keras.losses.SquaredHinge,
        keras.losses.CategoricalHinge,
    ],
)
def test_no_loss_of_predictions_wants_a_normalized_output(loss):
    model = chain(layers.Dense(3), BN(name="bn"), loss=loss())
    (each,) = told("output-bn", model)
    assert (each.level, loss.__name__ in each.evidence) == ("warning", True)


def test_biases_that_do_nothing_are_counted_where_they_stand():
    def base(*units, name="base"):
        stack = [part for n in units for part in (layers.Dense(n, name=f"d{n}"), BN())]
        return chain(*stack, name=name, shape=(4,))

    (each,) = told("dead-bias", chain(base(1), layers.Dense(1), shape=(4,)))
    assert (each.layer, each.evidence) == (
        "base/d1",
        "1 bias of base/d1 feeds batch normalization and nothing else: the gradient of the loss is "
        "zero.",
    )
    model = chain(base(2, 3), layers.Dense(5, name="d5"), BN(), layers.Dense(1), shape=(4,))
    both, last = told("dead-bias", model)
    assert (both.layer, both.evidence) == (
        "base",
        "5 biases of base/d2 and base/d3 feed batch normalization and nothing else: the gradient "
        "of the loss is zero.",
    )
    assert (last.layer, last.evidence.startswith("5 biases of d5 feed batch norm")) == ("d5", True)


def test_a_bias_that_something_else_reads_is_not_dead():
    inputs = keras.Input((4,))
    dense = layers.Dense(3)
    as_output = keras.Model(inputs, [dense(inputs), BN()(dense(inputs))])
    assert told("dead-bias", as_output) == []
    frozen = chain(layers.Dense(3, trainable=False), BN(), shape=(4,))
    assert told("dead-bias", frozen) == []
    bent = chain(layers.Dense(3, activation="tanh"), BN(), shape=(4,))
    assert told("dead-bias", bent) == []
    other_axis = chain(layers.Conv1D(3, 2), BN(axis=1), shape=(5, 4))
    assert told("dead-bias", other_axis) == []
    twice = keras.Input((4,))
    one, two = BN(), BN()
    read = dense(twice)
    (each,) = told("dead-bias", keras.Model(twice, layers.Add()([one(read), two(read)])))
    assert each.evidence.startswith("3 biases of ")


def test_which_activations_stand_before_batch_normalization():
    model = chain(
        layers.Dense(4, activation="tanh"),
        BN(name="one"),
        layers.Dense(4),
        layers.ReLU(),
        layers.Dropout(0.1),
        BN(name="two"),
        layers.Dense(4),
        BN(name="three"),
    )
    (each,) = told("after-activation", model)
    assert (each.level, each.layer) == ("note", "")
    assert each.evidence == (
        "2 of 3 batch normalization layers come after an activation (relu and tanh): one and two."
    )
    (each,) = told("after-activation", chain(layers.Dense(4, "relu"), BN(name="bn")))
    assert (each.layer, each.evidence) == (
        "bn",
        "1 of 1 batch normalization layer comes after an activation (relu): bn.",
    )
    assert told("after-activation", chain(layers.Dense(4), BN(), BN())) == []


def test_an_axis_is_told_with_the_one_that_it_should_be():
    conv = layers.Conv2D(4, 3, name="conv")
    (each,) = told("wrong-axis", chain(conv, layers.ReLU(), BN(axis=2, name="bn"), shape=(8, 9, 3)))
    assert (each.level, each.layer) == ("error", "bn")
    assert each.evidence == (
        "bn normalizes axis 2 of (None, 6, 7, 4), a spatial axis: it keeps 7 sets of statistics "
        "where conv keeps 4 channels on axis -1."
    )
    assert each.repair == "Build it as BatchNormalization(axis=-1) and train it anew."
    conv = layers.Conv1D(4, 3, name="conv")
    (each,) = told("wrong-axis", chain(conv, BN(axis=1, name="bn"), shape=(3, 1)))
    assert (each.level, each.evidence) == (
        "error",
        "bn normalizes axis 1 of (None, 1, 4), the time axis: it keeps 1 set of statistics where "
        "conv keeps 4 channels on axis -1.",
    )
    recurrent = layers.LSTM(1, return_sequences=True, name="lstm")
    (each,) = told("wrong-axis", chain(recurrent, BN(axis=1, name="bn"), shape=(3, 1)))
    assert (each.level, each.evidence) == (
        "warning",
        "bn normalizes axis 1 of (None, 3, 1), the time axis: it keeps 3 sets of statistics where "
        "lstm keeps 1 channel on axis -1.",
    )


@pytest.mark.parametrize(
    "between",
    [layers.Dropout(0.1), layers.LayerNormalization(), layers.Activation("tanh"), BN(), None],
)
def test_an_axis_is_looked_for_through_what_keeps_it(between):
    conv = layers.Conv2D(4, 3, name="conv")
    stack = [conv, between, BN(axis=1, name="bn")] if between else [conv, BN(axis=1, name="bn")]
    (each,) = told("wrong-axis", chain(*stack, shape=(8, 9, 3)))
    assert each.evidence.endswith("where conv keeps 4 channels on axis -1.")
    ahead = layers.Conv2D(4, 3, data_format="channels_first", name="ahead")
    stack = [BN(name="bn"), type(between).from_config(between.get_config()) if between else ahead]
    (each,) = told("wrong-axis", chain(*stack, *([ahead] if between else []), shape=(3, 8, 9)))[:1]
    assert each.evidence.endswith("where ahead keeps 3 channels on axis -3.")
    assert told("wrong-axis", chain(conv, layers.Permute((2, 3, 1)), BN(), shape=(8, 9, 3))) == []


def test_an_axis_is_looked_for_through_a_sum_of_several():
    inputs = keras.Input((8, 9, 3))
    sides = [layers.Conv2D(4, 3, name=name)(inputs) for name in ("one", "two")]
    for merged, found in ((layers.Add(), 1), (layers.Multiply(), 1), (layers.Flatten(), 0)):
        parts = merged(sides) if found else layers.Reshape((6, 7, 4))(merged(sides[0]))
        model = keras.Model(inputs, BN(axis=1)(parts))
        assert len(told("wrong-axis", model)) == found


def test_layers_that_were_told_to_stand_still_are_counted(monkeypatch):
    monkeypatch.setattr(Case, "keras_obeys_recorded_training", False)
    base = stack({}, {}, name="base")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, BN(name="bn")(base(inputs, training=False)))
    (each,) = told("ignored-training-argument", model)
    assert (each.level, each.layer) == ("error", "base")
    assert each.evidence == (
        "2 trainable batch normalization layers (base/bn1 and base/bn2) were called with "
        f"training=False when the model was built; Keras {keras.__version__} drops that in fit, as "
        "an experiment has just shown."
    )
    assert each.repair == (
        "Set trainable = False on base/bn1 and base/bn2 and compile the model again. "
        "freeze_bn(model) would also freeze bn."
    )
    base.get_layer("bn1").trainable = False
    (each,) = told("ignored-training-argument", model)
    assert each.layer == "base/bn2"
    assert each.evidence.startswith("1 trainable batch normalization layer (base/bn2) was called")
    monkeypatch.setattr(Case, "keras_obeys_recorded_training", True)
    assert told("ignored-training-argument", model) == []


def test_layers_that_always_train_are_told_with_what_calls_them():
    inputs = keras.Input((8,))
    base = stack({}, {}, name="base")
    model = keras.Model(inputs, BN(name="bn")(base(inputs, training=True)))
    (each,) = told("always-training", model)
    assert each.layer == "base"
    start = "base/bn1 and base/bn2 are called with training=True, whatever the model is told: "
    assert each.evidence.startswith(start)
    base.get_layer("bn2").trainable = False
    (each,) = told("always-training", model)
    assert each.layer == "base/bn1"
    assert each.evidence.startswith("base/bn1 is called with training=True, whatever the model is")
    assert "freeze_bn(model) would also freeze bn." in each.repair
    assert told("always-training", stack({}, {})) == []


def test_a_row_by_itself_is_told_with_how_far_it_is_off():
    class Always(BN):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=True, mask=mask)

    model = chain(BN(name="sound"), Always(name="bn"), shape=(4,))
    x = np.tile([[-1.0], [1.0]], (8, 4)).astype("float32")
    (each,) = told("always-training", model, x)
    assert (each.level, each.layer) == ("error", "bn")
    assert each.evidence == (  # alone each row is all zeros, together plus or minus one
        "bn is made by Always.call to follow the batch, whatever the model is told: predict and "
        "evaluate normalize by the batch at hand and overwrite the moving statistics; the outputs "
        "for 8 rows one by one are 1 sd away from those in one batch."
    )
    assert each.why.endswith("For a row by itself bn gives beta whatever the input.")
    assert each.repair.startswith("Let Always.call hand on the training that it is given, build")
    wide = chain(layers.Conv1D(4, 1), Always(name="bn"), shape=(6, 4))
    (each,) = told("always-training", wide)
    assert each.level == "warning"
    assert "For a row" not in each.why


@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask")
def test_a_mask_is_told_with_who_made_and_who_lost_it():
    def sequences(steps):
        x = np.ones((16, 10, 3), "float32")
        x[:, steps:] = 0
        return x

    masking, conv = layers.Masking(name="mask"), layers.Conv1D(4, 3, padding="same", name="conv")
    model = chain(masking, BN(name="before"), conv, BN(name="bn"), BN(name="next"), shape=(10, 3))
    first, second = told("lost-mask", model, sequences(6))
    assert (first.level, first.layer, second.layer) == ("warning", "bn", "next")
    assert first.evidence == (
        "The mask of mask ends at conv (Conv1D), so bn takes padded positions into its mean and "
        "variance (40% of the positions are padding)."
    )
    assert first.repair == (
        "Give the mask by hand, bn(x, mask=mask), or put bn before conv; LayerNormalization takes "
        "each position by itself."
    )
    (first, _) = told("lost-mask", model)
    assert (first.level, first.evidence.endswith("into its mean and variance.")) == ("note", True)
    little = np.concatenate([sequences(9)] + [sequences(10)] * 9)  # one in a hundred
    levels = [each.level for each in told("lost-mask", model, little)]
    assert levels == ["note", "note"]
    assert told("lost-mask", model, sequences(10)) == []
    model.get_layer("bn").trainable = False
    assert [each.layer for each in told("lost-mask", model, sequences(6))] == ["next"]
    inputs = keras.Input((10, 3))
    by_hand = BN()(conv(masking(inputs)), mask=layers.Masking().compute_mask(inputs))
    assert told("lost-mask", keras.Model(inputs, by_hand), sequences(6)) == []


# A training step


def test_a_model_frozen_as_in_a_gan_is_told_for_both_purposes():
    model = fitted(stack({}, {}, loss="mse"))
    model.trainable = False
    (each,) = told("stale-compile", model)
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence == (
        "5 layers (dense1, bn1, dense2 and 2 more): trainable=False, yet the next step of fit "
        "changes beta, bias, gamma, kernel and moving statistics."
    )
    assert each.repair == (
        "If they are meant to stand still for another model only, as the discriminator of a GAN is "
        "frozen in the combined model and learns by itself: keep it so. If they are meant to stand "
        "still here: compile the model again."
    )
    model.trainable = True
    model.get_layer("bn2").trainable = False
    (each,) = told("stale-compile", model)
    assert (each.level, each.layer, each.repair) == ("error", "bn2", "Compile the model again.")
    assert each.evidence == (
        "1 layer (bn2): trainable=False, yet the next step of fit changes beta, gamma and moving "
        "statistics."
    )


def test_layers_that_sleep_are_told_with_what_stands_still():
    model = stack({}, {}, loss="mse")
    model.get_layer("bn1").trainable = False
    fitted(model).get_layer("bn1").trainable = True
    (each,) = told("stale-compile", model)
    assert (each.level, each.layer) == ("error", "bn1")
    assert each.evidence == (
        "1 layer (bn1): trainable=True, yet the next step of fit does not change beta, gamma and "
        "moving statistics."
    )
    assert each.repair == (
        "Compile the model again, with a new optimizer: the old one knows the weights of then."
    )
    model.compile("sgd", "mse")
    model.get_layer("head").trainable = model.get_layer("bn2").trainable = False
    model.get_layer("relu2").trainable = True
    fitted(model).get_layer("head").trainable = True
    (each,) = told("stale-compile", model)
    assert (each.level, each.layer) == ("warning", "head")
    assert each.repair.startswith("If they are meant to learn for another model only, as the")
    assert each.repair.endswith(
        "If they are meant to learn here: compile the model again, with a "
        "new optimizer: the old one knows the weights of then."
    )


def test_what_predict_and_evaluate_keep_is_told_by_name():
    class Always(BN):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=True, mask=mask)

    model = chain(Always(name="bn"), layers.Dense(1), loss="mse", shape=(4,))
    model.predict(rows(8, 4), verbose=0)
    model.get_layer("bn").trainable = False
    (each,) = [e for e in told("stale-compile", model) if "overwrite" in e.evidence]
    assert (each.level, each.layer) == ("error", "bn")
    assert each.evidence == (
        "1 layer (bn): trainable=False, yet predict would still normalize by the batch and "
        "overwrite the moving statistics."
    )
    assert each.why == "predict keeps what was traced before the flag was changed."
    model.get_layer("bn").trainable = True
    model.evaluate(rows(8, 4), rows(8, 1), verbose=0)
    model.get_layer("bn").trainable = False
    (each,) = [e for e in told("stale-compile", model) if "overwrite" in e.evidence]
    assert "yet evaluate and predict would still normalize" in each.evidence
    assert each.why == "evaluate and predict keep what was traced before the flag was changed."


def test_a_model_in_which_nothing_trains_is_told_with_what_is_frozen():
    model = stack({}, loss="mse")
    model.trainable = False
    model.compile("sgd", "mse")
    (each,) = told("nothing-trains", model)
    assert (each.level, each.layer) == ("note", "")
    assert each.evidence == (
        "The model is compiled, yet all its 5 trainable weights are frozen, and a training step "
        "changes no moving statistic either."
    )
    assert each.why == "fit would run and change nothing."


def test_what_moves_between_frozen_weights_is_told_by_name():
    def around(*bn, **options):
        model = stack(*bn, loss="mse", **options)
        for layer in model.layers:
            layer.trainable = layer.name.startswith("bn")
        return model

    model = around({}, {})
    model.get_layer("head").trainable = True
    model.compile("sgd", "mse")
    (each,) = told("frozen-but-learning", model)
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence == (
        "All weights around 2 layers (bn1 and bn2) are frozen, yet a training step changes the "
        "moving statistics, gamma and beta of these layers."
    )
    assert each.repair == (
        "Call freeze_bn(model): it sets trainable=False, has fit, evaluate and predict traced "
        "anew, and proves it. If you adapt batch normalization on purpose, leave it."
    )
    (each,) = told("frozen-but-learning", around({"center": False}))
    assert (each.level, each.layer) == ("note", "bn1")
    assert each.evidence == (
        "All weights around 1 layer (bn1) are frozen, yet a training step changes the moving "
        "statistics and gamma of this layer."
    )
    assert each.why == "Nothing but batch normalization trains here; that can be a method."


def test_what_follows_the_last_frozen_weights_is_told_with_the_others():
    base = chain(
        layers.Dense(4, trainable=False),
        BN(name="bn1"),
        layers.Dense(4, trainable=False),
        BN(name="bn2"),
        name="base",
    )
    nested = chain(base, layers.Dense(1), loss="mse")
    (each,) = told("frozen-but-learning", nested)
    assert (each.level, each.layer) == ("warning", "base")
    assert each.evidence.startswith(
        "All weights around 2 layers (base/bn1 and base/bn2) are frozen"
    )
    flat = chain(*base.layers, layers.Dense(1), loss="mse")
    (each,) = told("frozen-but-learning", flat)
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence.startswith("All weights around 2 layers (bn1 and bn2) are frozen, yet a")
    new_head = chain(layers.Dense(4, trainable=False), BN(), layers.Dense(1), loss="mse")
    assert told("frozen-but-learning", new_head) == []


def test_frozen_parameters_are_no_frozen_statistics():
    model = stack({}, {}, loss="mse")
    for variable in model.get_layer("bn2").trainable_variables:
        variable.trainable = False
    (each,) = told("frozen-but-learning", model)
    assert (each.level, each.layer) == ("warning", "bn2")
    assert each.evidence == (
        "gamma and beta of 1 layer (bn2) are frozen, yet a training step moves their moving "
        "statistics."
    )
    assert each.repair == (
        "Set trainable = False on bn2 and compile the model again. freeze_bn(model) would also "
        "freeze bn1."
    )


def test_a_layer_that_learns_though_it_is_frozen_is_told_with_its_type():
    class Stubborn(BN):
        def call(self, inputs, training=None, mask=None):
            if training:
                self.moving_mean.assign_add(tf.ones_like(self.moving_mean))
            return super().call(inputs, training=False, mask=mask)

    model = chain(
        BN(name="sound"), Stubborn(name="bn", trainable=False), layers.Dense(1), loss="mse"
    )
    (each,) = told("frozen-but-learning", model)
    assert (each.level, each.layer) == ("error", "bn")
    assert each.evidence == (
        "1 layer (bn): trainable=False, yet a training step changes moving statistics."
    )
    assert each.repair.startswith("Let Stubborn ask self.trainable before it follows the batch")


def test_a_step_that_forgets_is_told_with_what_it_trains():
    inputs = keras.Input((4,))
    bn, frozen = BN(name="bn", scale=False), BN(name="frozen", trainable=False)
    model = of_learning.Forgetful(inputs, layers.Dense(1)(frozen(bn(inputs))))
    model.compile("sgd", "mse")
    (each,) = [each for each in told("never-updated", model) if each.level == "error"]
    assert each.layer == "bn"
    assert each.evidence == (
        "A training step trains beta of bn but leaves its moving statistics as they are "
        "(train_step of the compiled model)."
    )
    assert each.repair == "Call self(x, training=True) in train_step, and train again."


def test_layers_whose_own_call_stands_still_are_told_together():
    class Fixed(BN):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=False, mask=mask)

    class AlsoFixed(Fixed):
        pass

    model = chain(
        BN(name="sound"), Fixed(name="one"), AlsoFixed(name="two"), layers.Dense(1), loss="mse"
    )
    for layer in model.layers[:3]:
        layer.moving_mean.assign(np.full(8, 0.5))
    (each,) = told("never-updated", model)
    assert (each.level, each.layer) == ("note", "")
    assert each.evidence == (
        "A training step trains gamma and beta of 2 layers (one and two), whose own call "
        "(AlsoFixed.call and Fixed.call) leaves the moving statistics as they are."
    )


def test_a_part_that_a_step_only_calls_is_told_by_name():
    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.teacher = chain(BN(name="bn1"), BN(name="bn2"), layers.Dense(1), name="teacher")
            self.student = chain(BN(name="bn"), layers.Dense(1), name="student")

        def train_step(self, data):
            x, _ = data
            wanted = self.teacher(x, training=True)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.student(x, training=True) - wanted) ** 2)
            weights = self.student.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    model = Distiller()
    model.compile("sgd")
    data = rows(8), rows(8, 1)
    (each,) = told("frozen-but-learning", model, data)
    assert (each.level, each.layer) == ("warning", "teacher")
    assert each.evidence == (
        "A training step trains no weight of model.teacher, yet it moves the moving statistics of "
        "2 layers in it (teacher/bn1 and teacher/bn2)."
    )
    assert each.repair.startswith("If model.teacher is to stay as it is, as a teacher, call it")
