"""What the rules measure, on rows and losses so plain that the numbers can be told by hand."""

import types

import numpy as np
import pytest
from doctor_trials import BN, Case, Subject, chain, layers, rows, told

from bnutils._keras import keras, tf
from bnutils.doctor.batches import Sample
from bnutils.doctor.graph import walk
from bnutils.doctor.moments import Moments
from bnutils.doctor.outcomes import Decision
from bnutils.doctor.rules import case as of_case
from bnutils.doctor.rules import flow, outputs, statistics
from bnutils.doctor.rules import modes as of_modes
from bnutils.doctor.rules import structure as of_structure
from bnutils.doctor.rules.alone import alone
from bnutils.doctor.rules.gaps import Gaps, gaps
from bnutils.doctor.rules.modes import Modes
from bnutils.doctor.rules.origin import is_initial, retouched
from bnutils.doctor.rules.outliers import outliers
from bnutils.doctor.rules.runs import Run, Runs, pooled


def plus_minus(number=64, features=4, center=0.0, scale=1.0):
    """Rows of plus and minus one in random order: their mean is 0 and their variance 1."""
    halves = np.repeat([-1.0, 1.0], number // 2)
    rng = np.random.default_rng(0)
    x = np.stack([rng.permutation(halves) for _ in range(features)], axis=1)
    return (x * scale + center).astype("float32")


def first(mean=0.0, variance=1.0, *, features=4, **bn):
    """A model that begins with batch normalization, of given statistics and no epsilon."""
    layer = BN(name="bn", **{"epsilon": 0.0, **bn})
    model = chain(layer, layers.Dense(1, name="head"), shape=(features,))
    layer.moving_mean.assign(np.broadcast_to(mean, features))
    layer.moving_variance.assign(np.broadcast_to(variance, features))
    return model


# Statistics held against those of the data


def test_gaps_are_in_units_of_the_data():
    layer = BN(epsilon=1.0)
    moments = Moments(np.full(2, 8.0), np.array([1.0, 0.0]), np.array([3.0, 0.0]))
    found = gaps(layer, np.array([5.0, 2.0]), np.array([7.0, 0.0]), moments)
    np.testing.assert_allclose(found.shift, [2.0, 2.0])
    np.testing.assert_allclose(found.spread, [np.log(2.0), 0.0])


NO_ERROR = Gaps(np.float64(0), np.float64(0))


def stale(shift=(), factor=(), errors=NO_ERROR):
    size = max(len(shift), len(factor))
    shift, factor = (
        np.array([*given, *[rest] * (size - len(given))], float)
        for given, rest in ((shift, 0.0), (factor, 1.0))
    )
    return statistics._stale(Gaps(shift, np.log(factor)), errors)


@pytest.mark.parametrize(
    ("shift", "level", "says"),
    [
        ([0.5, 0.5, 0.5, 0.5], "", ""),
        ([0.75, 0, 0, 0, 0], "", None),
        (
            [-0.75, 0, 0, 0],
            "warning",
            "0.75 sd from the mean of the data in 1 of 4 channels (median of these; the farthest "
            "0.75)",
        ),
        (
            [1, -2, 6, 0],
            "error",
            "2 sd from the mean of the data in 3 of 4 channels (median of these; the farthest 6)",
        ),
        ([1, 1, 1, 1], "warning", "1 sd from the mean of the data in 4 of 4 channels (median"),
        ([1.1, 1.1, 0, 0], "error", "1.1 sd from the mean of the data in 2 of 4 channels"),
        ([1.1, 0, 0, 0], "warning", "1.1 sd from the mean of the data in 1 of 4 channels"),
    ],
)
def test_how_far_a_moving_mean_may_be(shift, level, says):
    got, sentence = stale(shift)
    assert got == level
    if says:
        assert sentence.startswith(f"The moving mean is {says}")
        assert "variance" not in sentence
    elif says == "":
        assert sentence == "."


@pytest.mark.parametrize(
    ("factor", "level", "says"),
    [
        ([1.99, 1 / 1.99, 1, 1], "", None),
        ([3, 1, 1, 1], "warning", "too large by a factor of 3 in 1 of 4 channels."),
        ([1 / 3, 1, 1, 1], "warning", "too small by a factor of 3 in 1 of 4 channels."),
        ([5, 1 / 8, 3, 1], "error", "too large by a factor of 3 in 3 of 4 channels."),
        ([3.9, 3.9, 3.9, 1], "warning", "too large by a factor of 3.9 in 3 of 4 channels."),
    ],
)
def test_how_far_a_moving_variance_may_be(factor, level, says):
    got, sentence = stale(factor=factor)
    assert got == level
    if says:
        assert sentence == f"The moving variance is {says}"


def test_both_distances_stand_in_one_sentence():
    _, sentence = stale([2, 0], [1, 8])
    assert sentence.endswith(
        "farthest 2) and the moving variance is too large by a factor of 8 in 1 of 2 channels."
    )


def test_a_bias_that_all_variances_share_is_no_chance():
    nine, eight = [1.8] * 9 + [0.9], [1.8] * 8 + [0.9] * 2
    assert stale(factor=nine) == (
        "warning",
        "The moving variance is too large by a factor of 1.7 on average, to the same side in 90% "
        "of 10 channels: too even to be chance.",
    )
    assert stale(factor=eight)[0] == ""
    assert stale(factor=[1.3] * 10)[0] == ""
    assert stale(factor=[1 / 1.8] * 10)[1].startswith("The moving variance is too small by a fact")
    far = stale([2, 2, 2, 0], [1.8] * 4)
    assert far[0] == "error"
    assert "even" not in far[1]


def test_distances_count_beyond_three_standard_errors():
    errors = Gaps(np.float64(0.5), np.float64(0.0))
    assert [stale([shift] * 4, errors=errors)[0] for shift in (1.9, 2.1, 2.4, 2.6)] == [
        "",
        "warning",
        "warning",
        "error",
    ]
    errors = Gaps(np.float64(0.0), np.log(2) / 3)
    factors = (0.2, 3.9, 4.1, 7.9, 8.1)
    levels = [stale(factor=[factor, 1 / factor] * 4, errors=errors)[0] for factor in factors]
    assert levels == ["warning", "", "warning", "warning", "error"]
    even = [stale(factor=[factor] * 8, errors=errors)[0] for factor in (2.7, 2.9)]
    assert even == ["", "warning"]


def test_statistics_far_from_the_data_are_told_with_their_numbers():
    (each,) = told("stale-statistics", first([3, 3, 3, 5]), plus_minus(256))
    assert (each.level, each.layer) == ("warning", "bn")
    assert each.evidence == (
        "The moving mean is 3 sd from the mean of the data in 4 of 4 channels (median of these; "
        "the farthest 5). (256 rows used.)"
    )
    assert each.repair.startswith(
        "If these rows are like those of training, call recalibrate(model, x_train); if they are of"
    )
    assert each.repair.endswith("with their targets, and compiled (now: no targets were given).")


def test_early_statistics_are_told_with_what_is_left_from_before():
    model = first(3.0, momentum=0.99)
    model.compile(keras.optimizers.SGD(use_ema=True), "mse")
    model.optimizer.iterations.assign(20)
    (each,) = told("stale-statistics", model, plus_minus(256))
    assert each.level == "error"
    assert (
        "(256 rows used.) After 20 updates at momentum 0.99 the values from before" in each.evidence
    )
    assert "still weigh 82%. The optimizer averages the weights (use_ema), and" in each.evidence
    assert each.repair == (
        "Call recalibrate(model, x_train), or train longer or with a lower momentum."
    )
    model.optimizer.iterations.assign(1000)  # 0.004% from before
    (each,) = told("stale-statistics", model, plus_minus(256))
    assert "updates" not in each.evidence
    assert each.repair == "Call recalibrate(model, x_train)."


def test_targets_that_are_met_show_that_a_distance_does_no_harm():
    model = first(3.0)
    model.get_layer("head").set_weights([np.zeros((4, 1)), np.full(1, 2.0)])
    model.compile("sgd", "mse")
    x = plus_minus(256)
    y = np.full((256, 1), 2.0) + rows(256, 1, sd=0.5)
    (each,) = told("stale-statistics", model, (x, y))
    assert each.level == "warning"  # to answer the mean is to guess
    assert "on the targets given, inference does no better than guessing" in each.repair


@pytest.mark.parametrize(
    ("variance", "level", "says"),
    [
        (20.0, "note", None),
        (1 / 20, "note", None),
        (100.0, "warning", "vary 10 times as little as"),
        (1 / 400, "warning", "vary 20 times as much as"),
    ],
)
def test_a_frozen_layer_knows_the_scale_of_its_inputs(variance, level, says):
    (each,) = told("stale-statistics", first(0.0, variance, trainable=False), plus_minus(256))
    assert (each.level, each.layer) == (level, "bn")
    scale = f" The inputs of this layer {says} those that it was trained on."
    assert (scale in each.evidence) == bool(says)
    assert each.evidence.endswith("(256 rows used.)")
    assert each.why.endswith("but another scale." if says else "trained on elsewhere.")
    assert each.repair.startswith("Check how inputs" if says else "Check that inputs")


@pytest.mark.parametrize(
    ("mean", "variance"),
    [(0.0, 1.0), (np.nan, 1.0), (np.inf, 1.0), (3.0, -1.0), (3.0, np.nan), (0.0, [-1, 2, 3, 4])],
)
def test_fresh_and_impossible_statistics_are_not_called_stale(mean, variance):
    assert told("stale-statistics", first(mean, variance), plus_minus(64, center=3)) == []


# Arrays in another order


def ordered(gamma, beta, mean, variance, **bn):
    model = first(features=8, **bn)
    model.get_layer("bn").set_weights(
        [np.broadcast_to(each, 8) for each in (gamma, beta, mean, variance)]
    )
    return model


def test_a_negative_variance_is_told_with_what_could_be_one():
    up = np.linspace(0.5, 2, 8)
    (each,) = told("weights-order", ordered(up, 0.0, up, [-1, 2, -3, 4, 5, 6, 7, 8]))
    assert (each.level, each.layer) == ("warning", "bn")
    assert each.evidence == (
        "moving_variance is negative in 2 of 8 channels, and gamma and moving_mean nowhere: one of "
        "them may be the variance, in another order than Keras's."
    )
    assert told("weights-order", ordered(1.0, 0.0, -up, [-1] * 8)) == []
    assert told("weights-order", ordered(up, up, up, up)) == []
    few = first(0.5, -1.0, features=5)  # too few to tell
    few.get_layer("bn").gamma.assign(up[:5])
    assert told("weights-order", few) == []


LIKE_BETA = [-0.5, -0.25, 0.5, 0.5, 0.25, 0.25, 0.5, 0.5]


def test_a_gamma_like_a_beta_is_told_with_its_numbers():
    x = plus_minus(64, features=8)
    (each,) = told("weights-order", ordered(LIKE_BETA, 1.25, 0.0, 1.0), x)
    assert (each.level, each.layer) == ("warning", "bn")
    assert each.evidence == (
        "gamma is negative in 2 of 8 channels, beta nowhere (median 1.2): as if the two had been "
        "swapped."
    )


@pytest.mark.parametrize(
    ("gamma", "beta"),
    [
        (np.abs(LIKE_BETA), 1.25),
        (LIKE_BETA, 0.2),
        (LIKE_BETA, 4.0),
        (LIKE_BETA, [0, *[1] * 7]),
    ],
)
def test_a_gamma_and_a_beta_that_may_be_in_their_places(gamma, beta):
    x = plus_minus(64, features=8)
    assert told("weights-order", ordered(gamma, beta, 0.0, 1.0), x) == []
    assert told("weights-order", ordered(LIKE_BETA, 1.25, 0.0, 1.0)) == []  # nor without data


def test_the_order_in_which_arrays_stand_is_found_channel_by_channel():
    scale, center = np.linspace(0.5, 4, 8), np.linspace(-3, 6, 8)
    x = plus_minus(64, 8) * scale.astype("float32") + center.astype("float32")
    gamma, beta = np.linspace(0.9, 1.1, 8), np.linspace(-0.1, 0.1, 8)
    arrays = {"gamma": gamma, "beta": beta, "mean": center, "variance": scale**2}

    def of(order):
        return told("weights-order", ordered(*(arrays[name] for name in order.split())), x)

    nearly = {"mean": center + 0.2 * scale, "variance": 1.3 * scale**2}
    for more in ({}, {"epsilon": 0.2}):
        given = {**arrays, **(nearly if not more else {})}
        model = ordered(*(given[name] for name in ("mean", "variance", "gamma", "beta")), **more)
        (each,) = told("weights-order", model, x)
        assert each.evidence.startswith("gamma fits the mean and beta the variance of the data")
        assert each.repair.endswith("To recalibrate would leave gamma and beta wrong.")
    near, close = np.linspace(-0.3, 0.3, 8), np.linspace(0.8, 1.25, 8)  # channels all but alike
    model = ordered(near, close**2, gamma, beta)
    alike = plus_minus(64, 8) * close.astype("float32") + near.astype("float32")
    assert [each.level for each in told("weights-order", model, alike)] == ["error"]
    wrong = ordered(center, np.full(8, 4.0), gamma, beta)  # follows in the mean alone
    assert "error" not in [each.level for each in told("weights-order", wrong, x)]

    assert of("gamma beta mean variance") == []
    (each,) = of("beta mean variance gamma")
    assert (each.level, each.layer) == ("error", "bn")
    assert each.evidence == (
        "beta fits the mean and moving_mean the variance of the data, channel by channel, and "
        "moving_mean and moving_variance do not (64 rows used): the arrays stand in the order "
        "gamma, moving_mean, moving_variance, beta."
    )
    (each,) = of("gamma beta variance mean")
    assert "layer.set_weights([a, b, d, c])." in each.repair
    assert each.repair.endswith(
        "Or call recalibrate(model, x_train): gamma and beta are in their places."
    )


# Variances below epsilon


@pytest.mark.parametrize(
    ("variance", "level", "counts"),
    [
        (
            [1e-3 / 3] * 2 + [1.0] * 6,
            "note",
            "2 of 8 channels {}, 0",
        ),
        ([0.0] * 2 + [1.0] * 6, "note", "2 of 8 channels {}, 2"),
        ([1e-5] * 6 + [1.0] * 2, "warning", "6 of 8 channels {}, 0"),
        ([1e-5] * 5 + [1.0] * 3, "note", "5 of 8 channels {}, 0"),
    ],
)
def test_channels_that_hardly_vary_are_counted(variance, level, counts):
    model = first(0.5, variance, features=8, epsilon=1e-3)
    (each,) = told("vanishing-variance", model)
    assert (each.level, each.layer) == (level, "bn")
    assert each.evidence.startswith(
        counts.format("vary less than epsilon (0.001) by its moving variance")
        + " not at all; such a"
    )
    x = plus_minus(64, 8) * np.sqrt(variance).astype("float32")
    (each,) = told("vanishing-variance", model, x)
    assert each.level == level
    assert each.evidence.startswith(
        counts.format("vary less than epsilon (0.001) in 64 rows of the data")
        + " not at all; such a"
    )


def test_what_is_left_of_the_spread_where_epsilon_is_large():
    model = first(0.5, [1 / 3, 1 / 3, 1 / 3, 3.0], epsilon=1.0)
    (each,) = told("vanishing-variance", model)
    assert each.evidence.endswith("leaves with a spread of 0.5 (median) times gamma, not 1.")
    assert each.repair.startswith("If the weights come from another library, set layer.epsilon")
    assert told("vanishing-variance", first(0.5, 1.0, epsilon=1.0)) == []
    (each,) = told("vanishing-variance", first(0.5, 1 / 16, epsilon=1.0))
    assert each.repair == (
        "Scale the inputs, look for dead activations before the layer, or build it with a smaller "
        "epsilon."
    )
    (each,) = told("vanishing-variance", first(0.5, 1.0, epsilon=1.0), plus_minus(scale=0.25))
    assert each.repair == (
        "If these rows are scaled as for training (some models divide by 255 themselves): scale "
        "the inputs, look for dead activations before the layer, or build it with a smaller "
        "epsilon."
    )


# One layer called twice, dropout


def twice(second):
    one, two = keras.Input((4,)), keras.Input((4,))
    bn = BN(name="bn", epsilon=0.0)
    model = keras.Model([one, two], layers.Dense(1)(layers.Add()([bn(one), bn(two)])))
    return told("shared-bn", model, None if second is None else [plus_minus(256), second])


def test_two_calls_of_one_layer_are_held_against_each_other():
    (each,) = twice(None)
    assert (each.level, each.layer) == ("note", "bn")
    assert each.evidence == "bn is called 2 times in one pass and keeps one set of statistics."
    assert each.repair == "Nothing to mend if the inputs are alike."
    (each,) = twice(plus_minus(256, center=2.0, scale=3.0))
    assert each.level == "warning"
    assert each.evidence == (  # a mean variance of 5; variances of 1 and 9
        "bn is called 2 times in one pass and keeps one set of statistics; the inputs of two of "
        "its calls differ by 0.89 sd in the mean and by a factor of 9 in the variance (over "
        "channels, 256 rows)."
    )
    levels = [twice(plus_minus(256, center=center))[0].level for center in (0.3, 2.0)]
    assert levels == ["note", "warning"]
    levels = [twice(plus_minus(256, scale=scale))[0].level for scale in (1.1, 2.0)]
    assert levels == ["note", "warning"]


def test_all_layers_of_dropout_before_one_are_named():
    stack = layers.Dropout(0.25, name="one"), layers.GaussianDropout(0.5, name="two")
    model = chain(*stack, BN(name="bn"), layers.Dense(1), shape=(4,))
    (each,) = told("dropout-before-bn", model)
    assert (each.level, each.layer) == ("note", "bn")
    assert each.evidence == (
        "GaussianDropout two (rate 0.5) and Dropout one (rate 0.25) act before bn."
    )
    (each,) = told("dropout-before-bn", chain(stack[0], BN(name="bn"), shape=(4,)))
    assert each.evidence == "Dropout one (rate 0.25) acts before bn."
    frozen = chain(layers.Dropout(0.25), BN(trainable=False), shape=(4,))
    assert told("dropout-before-bn", frozen) == []


def test_dropout_of_a_half_doubles_the_squares():
    """Of values about 0: the variance is 1 without it and 2 with it."""
    model = chain(layers.Dropout(0.5, name="drop"), BN(name="bn", epsilon=0.0), shape=(64,))
    (each,) = told("dropout-before-bn", model, plus_minus(512, 64))
    assert each.level == "warning"
    start = "Dropout drop (rate 0.5) acts before bn: its inputs have "
    assert each.evidence.startswith(start)
    ratio = float(each.evidence.removeprefix(start).split()[0])
    assert abs(ratio - 2) < 0.1
    assert each.evidence.endswith("it off (median over 64 channels, 512 rows).")


# Far from zero, and not finite


@pytest.mark.parametrize(
    ("power", "level", "offset", "noise"),
    [
        (19, None, "", ""),
        (
            20,
            "warning",
            "1,048,576 sd",
            "0.062",
        ),
        (
            22,
            "warning",
            "4,194,304 sd",
            "0.25",
        ),
        (23, "error", "8,388,608 sd", "0.5"),
    ],
)
def test_an_offset_costs_the_last_digits(power, level, offset, noise):
    """Float32 has 24 digits to the base 2; noise of 1/32 sd counts, and 1/4 is too much."""
    found = told("large-offset", first(), plus_minus(center=2.0**power))
    assert [each.level for each in found] == ([level] if level else [])
    for each in found:
        assert each.layer == "bn"
        assert each.evidence == (
            f"What reaches bn lies {offset} from zero in 4 of 4 channels: float32 rounds it by up "
            f"to {noise} sd (64 rows used)."
        )


def test_an_offset_in_a_quarter_of_the_channels_is_told():
    x = plus_minus(64, 8)
    x[:, 0] += 2.0**21
    assert told("large-offset", first(features=8), x) == []
    x[:, 1] -= 2.0**20
    (each,) = told("large-offset", first(features=8), x)
    assert each.evidence.startswith(
        "What reaches bn lies 1,572,864 sd from zero in 2 of 8 channels"
    )


def test_a_moving_mean_that_rounding_stops_is_told_with_how_short_it_is():
    x = plus_minus(center=2.0**16)
    (each,) = told("large-offset", first(2.0**16 - 4, momentum=1 - 2**-10), x)
    assert each.level == "warning"
    assert each.evidence.endswith(
        "rounds it by up to 0.0039 sd, and its moving mean stops up to 4 sd short (64 rows used)."
    )
    for sound in (
        first(2.0**16 - 0.25, momentum=1 - 2**-10),  # it is there
        first(2.0**16 - 4, momentum=0.9),  # it goes on
        first(2.0**16 - 4, momentum=1 - 2**-10, trainable=False),
        first(momentum=1 - 2**-10),
    ):
        assert told("large-offset", sound, x) == []


def test_rows_that_are_not_finite_are_counted():
    x = plus_minus()
    x[3, 1], x[5, 0], x[5, 3] = np.nan, np.inf, np.nan
    (each,) = told("not-finite", first(), x)
    assert (each.level, each.layer) == ("error", "")
    assert each.evidence == "The inputs hold NaN or infinity in 2 of 64 rows."


def test_channels_that_are_not_finite_are_counted_in_the_first_layer_that_gets_them():
    def spoil(x):
        return tf.where([True, False, False, True], x / 0.0, x)

    stack = BN(name="sound"), layers.Lambda(spoil), BN(name="hit"), BN(name="next")
    (each,) = told("not-finite", chain(*stack, shape=(4,)), plus_minus())
    assert (each.level, each.layer) == ("error", "hit")
    assert each.evidence == (
        "What reaches hit is NaN or infinite in 2 of 4 channels, though inputs and weights are "
        "finite (64 rows used)."
    )
    broken = chain(*stack[1:], layers.Dense(1), shape=(4,))
    broken.layers[-1].bias.assign([np.nan])
    assert [each.evidence[:7] for each in told("not-finite", broken, plus_minus())] == ["Weights"]


def test_what_float16_cannot_hold_is_told_with_its_size():
    model = chain(BN(name="sound", dtype="float32"), BN(name="bn", dtype="float16"), shape=(4,))
    model.layers[0].gamma.assign(np.full(4, 300.0))
    x = plus_minus()
    (each,) = told("half-precision-overflow", model, x)
    assert (each.level, each.layer) == ("error", "bn")
    assert each.evidence == (
        f"The variance of what reaches bn is {each.evidence.split()[7].rstrip(';')}; its moving "
        "variance, in float16, ends at 65,504."
    )
    assert 89_000 < int(each.evidence.split()[7].rstrip(";").replace(",", "")) < 91_000
    model.layers[0].gamma.assign(np.full(4, 250.0))
    assert told("half-precision-overflow", model, x) == []


# Batches of like rows


def in_batches(x, size):
    return tf.data.Dataset.from_tensor_slices(x).batch(size)


def test_the_share_of_the_variance_between_batches():
    levels = np.repeat([-3.0, -1.0, 1.0, 3.0], 16)  # their variance is 5, that in a batch is 1
    x = (levels[:, None] + np.tile([-1.0, 1.0], 32)[:, None] * np.ones(4)).astype("float32")
    (each,) = told("alike-batches", first(momentum=0.9), in_batches(x, 16))
    assert (each.level, each.layer) == ("warning", "")
    start = "In front of bn, 83% of the variance lies between the batches (4 batches of 16 rows), "
    assert each.evidence.startswith(start)
    assert each.evidence.endswith("% with the rows mixed: the rows of a batch are alike.")
    assert told("alike-batches", first(), in_batches(x[:48], 16)) == []  # three batches
    assert told("alike-batches", first(), x, batch_size=16) == []  # fit shuffles arrays
    assert told("alike-batches", first(trainable=False), in_batches(x, 16)) == []


# Losses and decisions that are given


class Given(Modes):
    """Two runs of a model with given losses of their parts, and hits."""

    def __init__(self, scale=1.0):  # noqa: D107
        self._lost, self._hit = {}, {}
        self.__dict__["_scale"] = scale

    def numbers(self):
        return "numbers"

    def run(self, losses, rows_of_parts=None, **hits):
        run = Run(np.arange(8), None)
        losses = np.asarray(losses, float)
        self._lost[run] = losses, np.asarray(rows_of_parts or [1] * len(losses))
        self._hit[run] = {name: np.asarray(each, float) for name, each in hits.items()}
        return run


def worse(one, two, parts=None, hits=({}, {}), **given):
    modes = Given(**given)
    verdict = modes._worse(modes.run(one, parts, **hits[0]), modes.run(two, parts, **hits[1]))
    assert verdict.evidence in ("numbers", "")
    return verdict.level


@pytest.mark.parametrize(
    ("loss", "level"),
    [(0.5, ""), (1.0, ""), (1.25, ""), (1.375, "warning"), (2.0, "warning"), (2.25, "error")],
)
def test_a_loss_may_be_a_quarter_larger_and_twice_as_large_is_a_fault(loss, level):
    assert worse([loss] * 4, [1.0] * 4) == level


def test_a_loss_of_next_to_nothing_may_grow():
    """Both predict well, beside what the mean of the targets loses."""
    assert worse([0.015625] * 4, [0.0] * 4, scale=1.0) == ""
    assert worse([0.03125] * 4, [0.0] * 4, scale=1.0) == "error"
    assert worse([0.03125] * 4, [0.0] * 4, scale=2.0) == ""


def test_a_part_of_few_rows_counts_by_its_rows():
    """Twice what 99 rows lose, and next to nothing of what one row loses."""
    assert worse([3.0, 102.0], [1.0, 100.0], [99, 1]) == "error"
    assert worse([3.0, 102.0], [1.0, 100.0], [1, 99]) == ""


def test_a_larger_loss_must_be_sure():
    assert worse([1.0, 2.5, 1.0, 2.5], [1.0] * 4) == ""
    assert worse([1.7, 1.8, 1.7, 1.8], [1.0] * 4) == "warning"
    assert worse([1.3, 1.7], [1.0] * 2) == ""  # 0.5, and a standard error of 0.2
    assert worse([1.4, 1.6], [1.0] * 2) == "warning"
    assert worse([1.5], [1.0]) == "warning"


def test_losses_that_are_no_numbers():
    assert worse([np.nan, 1.0], [1.0, 1.0]) == "error"
    assert worse([np.inf, 1.0], [1.0, 1.0]) == "error"
    assert worse([np.inf, 1.0], [np.nan, 1.0]) == ""
    assert worse([1.0, 1.0], [np.inf, 1.0]) == ""


def decided(share, of=200):
    """Decisions of which a share is right, evenly spread over the rows."""
    return {"kind": np.arange(of) % 100 < 100 * share}


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        (0.90, 0.90, ""),
        (0.90, 0.89, ""),
        (0.90, 0.84, "warning"),
        (0.90, 0.78, "error"),
        (0.78, 0.90, ""),
    ],
)
def test_three_decisions_in_a_hundred_are_seen_and_ten_are_a_fault(before, after, level):
    hits = decided(after), decided(before)
    assert worse([1.0] * 4, [1.0] * 4, hits=hits) == level


def test_the_loss_of_decisions_counts_if_it_is_much_larger():
    same = decided(0.9), decided(0.9)
    assert worse([1.5] * 4, [1.0] * 4, hits=same) == ""
    assert worse([1.75] * 4, [1.0] * 4, hits=same) == "warning"
    assert worse([0.125] * 4, [0.0625] * 4, hits=same) == ""
    assert worse([9.0] * 4, [1.0] * 4, hits=same) == "warning"


def test_the_worst_of_several_outputs_decides():
    one, two = decided(0.78), decided(0.9)
    hits = ({"a": two["kind"], **one}, {"a": two["kind"], **two})
    assert worse([1.0] * 4, [1.0] * 4, hits=hits) == "error"
    hits = ({**one, "z": two["kind"]}, {**two, "z": two["kind"]})
    assert worse([1.0] * 4, [1.0] * 4, hits=hits) == "error"


# A sample


def runs_of(x, y=None, sizes=None, shuffled=True, model=None):
    x = np.asarray(x, "float32") if isinstance(x, list) else x
    model = model or chain(BN(name="bn"), shape=np.shape(x)[1:])
    sample = Sample(x, y, sizes or (len(x),), shuffled)
    return Runs(Subject(model), sample, model.layers[:1])


def test_how_far_a_row_is_from_the_medians():
    """Two in the middle for a unit of two, one in the middle of the others, and one far off."""
    x = [[-1.0]] * 10 + [[1.0]] * 10 + [[101.0]]
    runs = runs_of(x)
    np.testing.assert_allclose(runs.distances, [1.0] * 10 + [0.0] * 10 + [50.0])
    assert list(runs.outliers) == [20]
    assert list(runs_of(x[1:]).outliers) == [19]  # one in twenty
    assert list(runs_of(x[2:]).outliers) == []  # one in nineteen is not few
    assert list(runs_of(x * 2).outliers) == [20, 41]


def test_distances_of_several_features_are_put_together():
    """The second is off by half of its unit, or by one and a half: squares of 0.25 and 2.25."""
    x = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, 3.0], [-1.0, -3.0]] * 5)
    near, far = (0.625 / 1.125) ** 0.5, (1.625 / 1.125) ** 0.5
    np.testing.assert_allclose(runs_of(x.astype("float32")).distances, [near, near, far, far] * 5)


def test_names_are_not_distances_and_bytes_are():
    ten = np.array([[-1]] * 10 + [[1]] * 10 + [[101]])
    assert list(runs_of(ten.astype("int64")).outliers) == []
    assert list(runs_of((ten + 1).astype("uint8")).outliers) == [20]
    assert runs_of(np.zeros((9, 2), "float32")).distances.tolist() == [1.0] * 9


def test_each_feature_has_a_unit_of_its_own():
    x = np.concatenate([np.tile([[-1.0], [1.0]], (10, 1)), [[101.0]]])
    both = np.concatenate([x, 1000 * x, np.zeros_like(x)], axis=1).astype("float32")
    np.testing.assert_allclose(runs_of(both).distances, runs_of(x.astype("float32")).distances)
    pictures = np.stack([both, both], axis=1)
    np.testing.assert_allclose(runs_of(pictures).distances, runs_of(both).distances)


def test_the_noise_of_a_mean_from_its_parts():
    runs = runs_of(rows(256))
    assert len(runs.parts) == 8
    held = np.sort(np.concatenate([part.rows for part in runs.parts]))
    assert held.tolist() == list(range(256))
    # Eight parts, all off by 2: the mean of all is off by 2 / sqrt(7).
    assert runs.noise([np.full(3, 2.0)] * 8) == pytest.approx(2 / 7**0.5)
    assert runs.noise([np.zeros(3), np.array([3.0, 0, 0])]) == pytest.approx((1.5 / 7) ** 0.5)


@pytest.mark.parametrize(("number", "parts"), [(8, 1), (64, 1), (96, 3), (1024, 8)])
def test_into_how_many_parts_rows_are_split(number, parts):
    assert len(runs_of(rows(number)).parts) == parts


def test_batches_of_training_are_run_one_by_one():
    x = plus_minus(64)
    runs = runs_of(x, sizes=(16, 16, 16), shuffled=False)
    assert len(runs.training.batches) == 3
    assert runs.training.rows.tolist() == list(range(48))
    assert np.shape(runs.training.outputs) == (48, 4)
    means = [batch[runs._learners[0]][0].mean for batch in runs.training.batches]
    np.testing.assert_allclose(means, [part.mean(axis=0) for part in np.split(x[:48], 3)])
    assert sorted(runs.mixed.rows) == list(range(48))
    assert runs.mixed.rows.tolist() != list(range(48))
    assert runs_of(x, sizes=(16, 16), shuffled=True).mixed.rows.tolist() == list(range(32))


def test_of_many_batches_a_hundred_are_run():
    runs = runs_of(rows(204, 1), sizes=(2,) * 102)
    assert len(runs.training.batches) == 100
    assert runs.training.rows.tolist() == list(range(200))


def test_pooled_moments_are_those_of_all_values():
    x = rows(24, 3)
    whole = pooled(
        Moments(np.full(3, float(len(part))), part.mean(axis=0), part.var(axis=0))
        for part in np.split(x.astype("float64"), [5, 7])
    )
    assert whole.count.tolist() == [24.0] * 3
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(whole.variance, x.var(axis=0), rtol=1e-5)


# A case


def test_multiplications_and_numbers_of_one_row():
    """An open length of 80 is taken as 10."""
    stack = (
        layers.Conv1D(4, 5, padding="same"),  # 10 places, 4 filters of 5 x 3
        layers.GlobalAveragePooling1D(),
        layers.Dense(2),  # 4 x 2
    )
    model = chain(BN(), *stack, shape=(None, 3))
    assert Case(Subject(model))._load((64, 80, 3)) == (1 + 600 + 8, 240)
    wide = chain(BN(), layers.Conv1D(50, 5, padding="same"), shape=(None, 3))
    assert Case(Subject(wide))._load((64, 80, 3)) == (1 + 10 * 50 * 15, 500)
    channels_first = layers.Conv2D(5, 3, data_format="channels_first", padding="same")
    model = chain(BN(), channels_first, shape=(2, 4, 4))
    assert Case(Subject(model))._load((64, 2, 4, 4)) == (1 + 16 * 5 * 18, 80)


@pytest.mark.parametrize(
    ("work", "numbers", "used"), [(1e9, 1e9, 300), (1e9, 400, 100), (900, 1e9, 100), (9, 9, 8)]
)
def test_a_large_model_gets_fewer_rows(monkeypatch, work, numbers, used):
    monkeypatch.setattr(of_case, "WORK", work)
    monkeypatch.setattr(of_case, "VALUES", numbers)
    model = chain(BN(), layers.Dense(2, use_bias=False), shape=(4,))  # 1 + 4 x 2
    case = Case(Subject(model), rows(300, 4))
    assert case.rows == used
    assert case.large == (used == 8)
    assert len(case.few[0]) == (2 if case.large else 8)


def test_the_size_of_a_batch_is_that_of_the_data():
    model = chain(BN(), shape=(4,))
    data = in_batches(rows(40, 4), 10)
    assert Case(Subject(model), data).batch_size == 10
    assert Case(Subject(model), data, batch_size=5).batch_size == 5
    assert Case(Subject(model), rows(40, 4)).batch_size is None


@pytest.mark.parametrize("name", ["batch_size", "train_size"])
def test_sizes_are_whole_numbers_above_zero(name):
    for wrong in (0, -3, 2.5, "many"):
        with pytest.raises(ValueError, match=name):
            Case(Subject(chain(BN())), **{name: wrong})
    assert getattr(Case(Subject(chain(BN())), **{name: 7}), name) == 7


def test_losses_are_known_by_class_function_and_name():
    given = ["mse", "MeanAbsoluteError", keras.losses.Huber(), keras.losses.poisson, abs]
    outputs = [layers.Dense(1, name=f"out{n}") for n in range(len(given))]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [each(BN()(inputs)) for each in outputs])
    model.compile("sgd", given)
    assert Case(Subject(model)).losses == {
        "MeanSquaredError",
        "MeanAbsoluteError",
        "Huber",
        "Poisson",
    }
    assert Case(Subject(chain(BN()))).losses == set()


def test_how_many_values_a_row_gives_each_channel():
    stack = layers.Conv2D(4, 3, name="conv"), BN(name="bn"), layers.Flatten(), BN(name="flat")
    model = chain(*stack, shape=(8, 6, 1))
    case = Case(Subject(model))
    assert [case.positions(layer) for layer in case.layers] == [24, 1]
    open_size = chain(layers.Conv1D(2, 3), BN(), shape=(None, 3))
    case = Case(Subject(open_size))
    assert case.positions(case.layers[0]) is None
    case = Case(Subject(open_size), rows(32, 30).reshape(32, 10, 3))
    assert case.positions(case.layers[0]) == 8


def test_layers_are_grouped_by_what_holds_them():
    base = chain(BN(name="one"), BN(name="two"), name="base", shape=(4,))
    case = Case(Subject(chain(base, BN(name="last"), shape=(4,))))
    assert [len(each) for each in case.by_parent(case.layers).values()] == [2, 1]
    assert [(path, names) for path, names, _ in case.places(case.layers)] == [
        ("base", "2 layers (base/one and base/two)"),
        ("last", "1 layer (last)"),
    ]


def test_what_is_left_of_the_values_from_before():
    model = chain(BN(momentum=0.5), BN(momentum=1.5), layers.Dense(1), loss="mse")
    model.optimizer.iterations.assign(3)
    case = Case(Subject(model))
    assert [case.old_share(layer) for layer in case.layers] == [0.125, 0.0]
    assert Case(Subject(chain(BN()))).old_share(case.layers[0]) == 0.0


# Layers by themselves, and weights


class Broken(BN):
    """A layer that gives NaN."""

    def call(self, inputs, training=None, mask=None):
        return inputs * float("nan")


class ByRow(BN):
    """A layer that normalizes each row by itself, and notes the mean in a mode."""

    written = False

    def call(self, inputs, training=None, mask=None):
        if training is self.written:
            self.moving_mean.assign(inputs[0])
        return inputs - tf.reduce_mean(inputs, -1, keepdims=True)


class ByBatch(BN):
    """A layer that follows the batch a little, in inference alone."""

    def call(self, inputs, training=None, mask=None):
        return inputs if training else inputs - 0.2 * tf.reduce_mean(inputs, 0)


class Failing(BN):
    """A layer that cannot be called on numbers drawn at random."""

    def call(self, inputs, training=None, mask=None):
        raise ValueError


def of(kind, **settings):
    layer = kind(**settings)
    layer.build((None, 4))
    return alone(layer)


def test_what_a_layer_does_by_itself():
    assert of(Broken) == (False, False, False)
    assert of(ByRow) == (False, False, True)
    assert of(ByBatch) == (False, True, False)
    assert of(Failing) == of(BN) == (True, False, False)
    assert of(Failing, trainable=False) == of(BN, trainable=False) == (False, False, False)

    class Training(ByRow):
        written = True

    assert of(Training) == (True, False, False)


def test_a_value_is_initial_only_in_every_place():
    layer = layers.Dense(3, bias_initializer=keras.initializers.Constant(0.25))
    layer.build((None, 2))
    assert is_initial(layer.bias, layer.bias_initializer) is True
    assert is_initial(layer.kernel, layer.kernel_initializer) is None
    assert not retouched(layer)
    layer.bias.assign([0.25, 0.25, 0.2500001])
    assert is_initial(layer.bias, layer.bias_initializer) is False
    assert retouched(layer)


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "random_uniform"])
def test_a_kernel_of_another_spread_was_not_drawn(initializer):
    keras.utils.set_random_seed(0)
    layer = layers.Dense(40, use_bias=False, kernel_initializer=initializer)
    layer.build((None, 50))
    drawn = layer.kernel.numpy()
    for factor, other in ((1.0, False), (-1.0, False), (1.3, True), (0.7, True)):
        layer.kernel.assign(factor * drawn)
        assert retouched(layer) == other
    layer.kernel.assign(drawn)
    array = drawn.copy()
    array[0, 0] = 10 * np.abs(drawn).max()  # one value that is out of reach
    layer.kernel.assign(array)
    assert retouched(layer)
    layer.kernel.assign(np.zeros_like(drawn))  # nobody has trained it to that
    assert not retouched(layer)


def test_of_few_values_no_spread_is_told():
    small, enough = (layers.Dense(units, use_bias=False) for units in (9, 10))
    for layer in (small, enough):
        layer.build((None, 10))
        layer.kernel.assign(np.full(layer.kernel.shape, 30.0) * np.sign(rows(10, layer.units)))
    assert (retouched(small), retouched(enough)) == (False, True)


def losses_of(modes, **runs):
    """Let some modes have these runs, of 1,234 rows in batches of 32."""
    sample = types.SimpleNamespace(rows=1234, sizes=(32, 32, 18), y=None)
    modes._runs = types.SimpleNamespace(sample=sample, **runs)
    modes.__dict__["decisions"] = [Decision("out", "classes")]
    modes._assumed = False
    return modes


def test_losses_and_accuracies_of_all_three_ways_stand_in_one_sentence():
    modes = Given()
    runs = {
        "inference": modes.run([4.0, 1.0], [3, 1], out=[1, 0, 1, 0]),
        "training": modes.run([2.0, 1.0], [3, 1], out=[1, 1, 1, 0]),
        "pooled": modes.run([1.0, 0.5], [3, 1], out=[1, 1, 1, 1]),
    }
    losses_of(modes, **runs)
    assert Modes.numbers(modes) == (
        "Accuracy 50.0% with the moving statistics, 75.0% in batches of 32 as in fit; loss 3.25, "
        "1.75"
    )
    whole = Run(runs["training"].rows, None, ({}, {}))
    for held in (modes._lost, modes._hit):
        held[whole] = held[runs["training"]]
    losses_of(modes, **{**runs, "training": whole})
    assert Modes.numbers(modes) == (
        "Accuracy 50.0% with the moving statistics, 75.0% in batches of 32 as in fit, 100.0% with "
        "the statistics of all 1,234 rows as one batch; loss 3.25, 1.75, 0.875"
    )
    modes.__dict__["decisions"] *= 2
    modes._assumed = True
    assert Modes.numbers(modes).startswith("Accuracy of out 50.0% with the moving statistics, ")
    assert "75.0% in batches of 32 (assumed: give batch_size if it was" in Modes.numbers(modes)
    modes._hit = {run: {} for run in modes._hit}
    assert Modes.numbers(modes).startswith("Loss 3.25 with the moving statistics, 1.75 in batches")
    assert Modes.numbers(modes).endswith("0.875 with the statistics of all 1,234 rows as one batch")


def beside_a_guess(loss, guess, right=None, rows_of_parts=None):
    """How a run does that has four classes and twelve rows: chance brings a quarter right."""
    modes = Given()
    hits = {} if right is None else {"out": [1] * right + [0] * (12 - right)}
    run = modes.run(loss, rows_of_parts, **hits)
    losses_of(modes, pooled=Run(np.arange(12), np.zeros((12, 4))))
    modes.__dict__["guess"] = modes.run(guess, rows_of_parts)
    return modes.against_guess(run)


@pytest.mark.parametrize(
    ("loss", "right", "better", "worse"),
    [
        (0.5, None, True, False),
        (1.0, None, False, False),
        (1.25, None, False, False),
        (1.375, None, False, True),
        (1.0, 7, False, False),  # 7/12 is within three standard errors, of 1/8 each, of a quarter
        (1.0, 8, True, False),
        (2.0, 8, True, False),
        (2.25, 8, False, True),
        (1.375, 7, False, True),
    ],
)
def test_a_run_is_held_against_a_guess(loss, right, better, worse):
    skill = beside_a_guess([loss] * 4, [1.0] * 4, right)
    assert (skill.better, skill.worse) == (better, worse)
    assert (skill.loss, skill.fixed) == (loss, 1.0)
    assert skill.accuracy == ({} if right is None else {"out": right / 12})


def test_what_is_not_sure_is_neither_better_nor_worse_than_a_guess():
    for loss in ([0.1, 1.7, 0.1, 1.7], [0.1, 3.5, 0.1, 3.5]):
        skill = beside_a_guess(loss, [1.0] * 4)
        assert (skill.better, skill.worse) == (False, False)
    assert not beside_a_guess([0.3, 0.7], [1.0] * 2).better  # 0.5, and a standard error of 0.2
    assert beside_a_guess([0.4, 0.6], [1.0] * 2).better
    assert not beside_a_guess([1.5, 1.9], [1.2] * 2).worse
    assert beside_a_guess([1.6, 1.8], [1.2] * 2).worse
    skill = beside_a_guess([3.0, 1.0], [2.0, 1.0], rows_of_parts=[1, 3])
    assert (skill.loss, skill.fixed) == (1.5, 1.25)


def guess_of(*stack, loss, y):
    case = Case(Subject(chain(BN(), *stack, loss=loss, shape=(4,))), (rows(16, 4), y))
    return case.modes.guess


def test_a_guess_does_not_look_at_the_rows():
    y = np.arange(16) % 4
    softmax = guess_of(layers.Dense(4, "softmax"), loss="sparse_categorical_crossentropy", y=y)
    assert np.array_equal(softmax.outputs, np.full((16, 4), 0.25, "float32"))
    sure = layers.Dense(4, "softmax", kernel_initializer="zeros")
    sure.build((None, 4))
    sure.bias.assign([200.0, -200, -200, -200])  # a probability of one, and none for the others
    certain = guess_of(sure, loss="sparse_categorical_crossentropy", y=y)
    assert np.array_equal(certain.outputs, softmax.outputs)
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert np.array_equal(guess_of(layers.Dense(4), loss=logits, y=y).outputs, np.zeros((16, 4)))
    sigmoid = guess_of(layers.Dense(1, "sigmoid"), loss="binary_crossentropy", y=y[:, None] % 2)
    assert np.array_equal(sigmoid.outputs, np.full((16, 1), 0.5))
    targets = np.stack([y, 10.0 * y], axis=1)
    values = guess_of(layers.Dense(2), loss="mse", y=targets)
    assert np.array_equal(values.outputs, np.tile([1.5, 15.0], (16, 1)))
    steps = layers.RepeatVector(5), layers.Dense(2)
    in_time = guess_of(
        *steps, loss="mse", y=np.stack([targets, targets - 4] * 2 + [targets], axis=1)
    )
    assert np.allclose(in_time.outputs, np.tile([1.5 - 1.6, 15 - 1.6], (16, 5, 1)))
    flat = guess_of(layers.Dense(1), layers.Reshape(()), loss="mse", y=1.0 * y)
    assert np.array_equal(flat.outputs, np.full(16, 1.5))


@pytest.mark.parametrize(
    ("kind", "one", "two", "share", "says"),
    [
        ("values", [[2.0], [0]] * 4, [[1.0], [-1]] * 4, 1.0, "differs by 1 of its own standard"),
        ("values", [[1j], [-1j]] * 4, [[1.0], [-1]] * 4, 2**0.5, "differs by 1.4 of its own stan"),
        ("classes", np.eye(4), np.eye(4)[[0, 1, 2, 0]], 0.25, "picks another class in 25% of all"),
        (
            "detections",
            [1.0, 0, 0, 0, 0, 0, 0, 0],
            [0.0, 1, 0, 0, 0, 0, 0, 0],
            0.5,  # two of eight, as if half of the rows were above
            "falls on the other side of 0.5 in 25.0% of all cases (12.5% are above it by the batch",
        ),
        ("detections", [1.0] * 3 + [0.0], [1.0] * 4, 0.25, "falls on the other side of 0.5 in 25."),
        ("detections", [0.0, 0.0], [0.0, 0.5], 0.0, "falls on the other side of 0.5 in 0.0% of"),
    ],
)
def test_how_far_outputs_are_apart_where_nobody_knows_the_right_ones(kind, one, two, share, says):
    decision = Decision("out", kind, 0.5 if kind == "detections" else 0.0)
    two = np.asarray(two, "complex64") if np.iscomplexobj(one) else np.asarray(two)
    got, sentence = of_modes._apart(decision, np.asarray(one), two)
    assert got == pytest.approx(share, rel=1e-6)
    assert sentence.startswith(f"out {says}")


def test_outputs_that_differ_are_told_with_how_far():
    model = first(3.0)
    model = chain(model.get_layer("bn"), shape=(4,))
    (each,) = told("modes-disagree", model, plus_minus(256))
    assert (each.level, each.layer) == ("warning", "")
    assert each.evidence.startswith(
        "With the statistics of all rows as one batch in the place of the moving ones, "
    )
    assert each.evidence.endswith("(256 rows used, dropout off).")
    assert each.repair == (
        "If these rows, and their batches, are like those of training: Call recalibrate(model, "
        "x_train) and look again."
    )
    model.compile("sgd", "mse")
    model.get_layer("bn").momentum = 0.99
    model.optimizer.iterations.assign(9)  # 91% from before
    (each,) = told("modes-disagree", model, plus_minus(256))
    assert each.level == "error"


def verdicts(**levels):
    modes = Given()
    for name in ("stale", "apart", "incurable"):
        modes.__dict__[name] = of_modes.Verdict(levels.get(name, ""), "")
    return modes


def test_when_to_recalibrate_helps():
    assert verdicts(apart="error", incurable="warning").curable
    assert verdicts(apart="warning").curable
    assert verdicts().curable
    assert not verdicts(apart="error", incurable="error").curable
    assert not verdicts(apart="warning", incurable="warning").curable
    assert not verdicts(incurable="warning").curable


def cure(size, partly=False, *, judged=True, given=True, positions=1):
    layer = types.SimpleNamespace()
    return outputs._other_cure(
        types.SimpleNamespace(
            runs=types.SimpleNamespace(
                sample=types.SimpleNamespace(sizes=(size, 1), shuffled=True)
            ),
            modes=types.SimpleNamespace(judged=judged),
            batch_size=size if given else None,
            learners=[layer],
            path=lambda layer: "bn",
            positions=lambda layer: positions,
        ),
        partly,
    )


def test_what_helps_where_to_recalibrate_does_not_hangs_on_the_size_of_a_batch():
    assert cure(1).startswith(
        "To recalibrate would not mend it: in batches of one row the output of bn is beta whatever"
    )
    assert cure(1, True).startswith("That does not mend all of it: in batches of one row")
    several = cure(1, positions=9)
    assert "each row is normalized by itself in training, and the model has learnt to" in several
    assert "the model may have learnt to" in cure(1, positions=9, judged=False)
    for size in (2, 4):
        assert f"the model has learnt to count on the statistics of {size} rows. Tr" in cure(size)
    assert cure(5).startswith(
        "To recalibrate would not mend it: batches of 5 rows do better than any fixed statistics."
    )
    assert (
        "batches of 32 rows (assumed: give batch_size if it was another) give other outputs th"
        in (cure(32, judged=False, given=False))
    )


class Words(keras.Model):
    """A model of words: only data tell that it takes whole numbers."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.embedding = layers.Embedding(9, 4, name="embedding")
        self.bn = BN(name="bn")

    def call(self, x, training=None):
        return self.bn(self.embedding(x), training=training)


class OfTwo(keras.Model):
    """A model of two inputs by name, which only data tell."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.bn = BN(name="bn")

    def call(self, inputs, training=None):
        return self.bn(inputs["a"] + inputs["b"], training=training)


def test_the_inputs_of_a_model_of_ones_own_are_those_of_the_data():
    model, data = OfTwo(), {"a": rows(16, 4), "b": rows(16, 4)}
    model(data)
    case = Case(Subject(model), data)
    assert [call.path for call in case.bn_calls] == ["bn"]
    assert not case.graph.unwalked


def test_a_model_of_ones_own_is_followed_with_the_data():
    model, words = Words(), np.arange(64).reshape(16, 4) % 9
    model(words)
    case = Case(Subject(model), words)
    assert [call.path for call in case.bn_calls] == ["bn"]
    assert not case.graph.unwalked
    assert case.scaled_before(case.layers[0])
    assert case.positions(case.layers[0]) == 4
    longer = Case(Subject(model), np.arange(96).reshape(16, 6) % 9)
    assert longer.positions(longer.layers[0]) == 6


# What calls do to a signal


def last_call(build):
    inputs = keras.Input((8, 8, 4))
    return walk(keras.Model(inputs, build(inputs))).calls[-1]


LAYERS = {
    "dense": layers.Dense(3),
    "convolution": layers.Conv2D(4, 3),
    "channels first": layers.Conv2D(4, 3, data_format="channels_first"),
    "pooling": layers.MaxPooling2D(),
    "global pooling": layers.GlobalAveragePooling2D(),
    "flatten": layers.Flatten(),
    "relu": layers.ReLU(),
    "prelu": layers.PReLU(),
    "tanh": layers.Activation("tanh"),
    "batch": BN(),
    "layer": layers.LayerNormalization(),
    "dropout": layers.Dropout(0.1),
    "maps": layers.SpatialDropout2D(0.1),
    "alpha": layers.AlphaDropout(0.1),
    "examples": layers.Dropout(0.1, noise_shape=(None, 1, 1, 1)),
    "noise": layers.GaussianNoise(0.1),
    "sum": lambda x: layers.Add()([x, layers.ReLU()(x)]),
    "double": lambda x: layers.Add()([x, x]),
    "plus": lambda x: x + 1.0,
    "own": layers.Lambda(lambda x: x),
}
KINDS = {
    flow.has_weights: "dense, convolution, channels first",
    flow.is_bn: "batch",
    flow.normalizes: "batch, layer",
    flow.is_convolutional: "convolution, channels first, pooling",
    flow.is_dropout: "dropout, maps",
    flow.merges: "sum",
    flow.keeps_shape: "pooling, dropout, maps, alpha, examples, noise, double, plus",
    flow.passes: "pooling, global pooling, flatten, dropout, maps, alpha, examples, noise, double, "
    "plus",
}


def test_kinds_of_calls():
    calls = {name: last_call(build) for name, build in LAYERS.items()}
    for kind, names in KINDS.items():
        assert ", ".join(name for name, call in calls.items() if kind(call)) == names, kind
    axes = {name: axis for name, call in calls.items() if (axis := flow.channel_axis(call))}
    assert axes == {"dense": -1, "convolution": -1, "channels first": -3, "pooling": -1}
    bent = {name: flow.activation(call) for name, call in calls.items()}
    assert {name for name, each in bent.items() if each != "linear"} == {
        "relu",
        "prelu",
        "tanh",
        "layer",
        "own",
    }
    assert (bent["relu"], bent["tanh"], bent["own"]) == ("relu", "tanh", "")


def test_upstream_and_downstream_go_each_way_once():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="first")(inputs)
    one, two = layers.ReLU(name="one")(x), layers.Dense(4, name="two")(x)
    graph = walk(keras.Model(inputs, BN(name="bn")(layers.Add(name="sum")([one, two]))))
    calls = {call.path: call for call in graph.calls}
    behind = flow.upstream(graph, calls["bn"].inputs[0])
    assert [call.path for call in behind] == ["sum", "one", "two", "first"]
    stopped = flow.upstream(graph, calls["bn"].inputs[0], lambda call: call.path != "sum")
    assert [call.path for call in stopped] == ["sum"]
    ahead = [call.path for call in flow.downstream(graph, calls["first"].outputs[0])]
    assert sorted(ahead[:2]) == ["one", "two"]
    assert ahead[2:] == ["sum", "bn"]
    weights = flow.downstream(graph, calls["first"].outputs[0], lambda call: call.path != "one")
    assert sorted(call.path for call in weights) == ["bn", "one", "sum", "two"]


def test_noise_of_dropout_ends_where_the_scale_is_set_anew():
    def found(*between):
        model = chain(layers.Dropout(0.5), layers.Dense(4), *between, BN(), shape=(4,))
        return len(told("dropout-before-bn", model))

    assert found() == found(layers.ReLU()) == 1
    assert found(layers.LayerNormalization()) == found(layers.Activation("sigmoid")) == 0


def test_a_momentum_is_a_share():
    for given, expected in ((0, 0.0), (1, 1.0), (0.25, 0.25), (1.5, np.nan), (-0.5, np.nan)):
        layer = BN()
        layer.momentum = given
        np.testing.assert_equal(of_case.momentum_of(layer), expected)


# What Keras makes of training=False in a recorded graph


class Obedient(BN):
    """A layer that stands still, as all of them would if Keras obeyed."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


class OnlyAtFirst(BN):
    """A layer that stands still only if its first call has told it to: not in a nested model."""

    def call(self, inputs, training=None, mask=None):
        if not hasattr(self, "still"):
            self.still = training is False
        return super().call(inputs, training=training and not self.still, mask=mask)


@pytest.mark.parametrize(("kind", "obeys"), [(Obedient, True), (OnlyAtFirst, False)])
def test_whether_keras_obeys_is_asked_of_every_way_to_nest(monkeypatch, kind, obeys):
    monkeypatch.setattr(keras.layers, "BatchNormalization", kind)
    assert of_case._obeys_recorded_training.__wrapped__() == obeys


# Rows far from all others


def with_far_rows(number, far=51.0):
    """A hundred rows of plus and minus one, of which some hold another number."""
    x = plus_minus(100)
    x *= x[0]
    order = np.argsort(-x[:, 0], kind="stable")
    x = np.concatenate([np.repeat(x[:, :1][order], 4, axis=1)])
    x[:number] = far
    return x


def test_outliers_are_told_with_what_they_weigh():
    def said(number, **far):
        case = Case(Subject(first()), with_far_rows(number, **far))
        return outliers(case, case.layers)

    # 99 rows of plus and minus one, and one 51 off: the variance is 26.75, and 1 without it.
    assert said(1).evidence == (
        "1 of 100 rows is an outlier, up to 51 times as far from the medians of the inputs as a "
        "row in the middle: without it the variance in front of bn is smaller by a factor of 27."
    )
    assert said(1).repair.startswith("Look at these rows first: if they are errors (another unit, ")
    start = "5 of 100 rows are outliers, up to 51 times as far from the medians of the inputs as a "
    assert said(5).evidence.startswith(start)
    assert "row in the middle: without them the variance in front of bn is" in said(5).evidence
    assert said(6) is None  # so many are no exception
    assert said(1, far=8.0) is None  # the variance is 1.62
    assert said(1, far=11.0).evidence.endswith("is smaller by a factor of 2.2.")
    case = Case(Subject(first(epsilon=1.0)), with_far_rows(1))
    assert outliers(case, case.layers).evidence.endswith("smaller by a factor of 14.")  # 27.75 / 2
    assert outliers(case, []) is None


def test_outliers_stand_in_front_of_the_other_repairs():
    model = chain(first(3.0).get_layer("bn"), shape=(4,))
    (each,) = told("modes-disagree", model, with_far_rows(2))
    assert "2 of 100 rows are outliers, up to 51 times" in each.evidence
    assert each.repair.startswith(
        "If these rows, and their batches, are like those of training: Lo"
    )
    assert each.repair.endswith("without them. Call recalibrate(model, x_train) and look again.")


# One layer on two inputs


def test_all_calls_of_a_layer_share_its_statistics_once_recalibrated():
    one, two = keras.Input((4,)), keras.Input((4,))
    bn = BN(epsilon=0.0)
    model = keras.Model([one, two], layers.Add()([bn(one), bn(two)]))
    x = [plus_minus(32), plus_minus(32, center=2.0)]
    runs = Runs(Subject(model), Sample(x, None, (32,), True), [bn])
    by_hand = (x[0] - 1 + x[1] - 1) / 2**0.5  # of all values the mean is 1 and the variance 2
    np.testing.assert_allclose(runs.pooled.outputs, by_hand, atol=1e-5)
    np.testing.assert_allclose(runs.training.outputs, x[0] + x[1] - 2, atol=1e-5)
    np.testing.assert_allclose(runs.inference.outputs, x[0] + x[1], atol=1e-5)
    assert [len(calls) for calls in runs.pooled.moments.values()] == [2]
    np.testing.assert_array_equal(bn.moving_mean, np.zeros(4))
    alone = Runs(Subject(model), Sample(x, None, (32,), True), [])
    np.testing.assert_allclose(alone.pooled.outputs, x[0] + x[1] - 2, atol=1e-5)


@pytest.mark.parametrize("kind", [OnlyAtFirst, Obedient])
def test_what_the_audit_asks_of_keras_uses_up_no_names(monkeypatch, kind):
    """A layer that a user makes afterwards is called what it would be called without the audit."""
    monkeypatch.setattr(keras.layers, "BatchNormalization", kind)

    def names():
        inputs = keras.Input((1,))
        made = [kind(), BN(), keras.Sequential(), layers.InputLayer((1,))]
        if kind is OnlyAtFirst:  # a Sequential model, which comes next, makes one more
            made.append(keras.Model(inputs, inputs))
        ends = [each.name.rpartition("_")[2] for each in made]
        return np.array([int(end) if end.isdigit() else 0 for end in ends])

    names()  # the first have no number
    before = names()
    step = names() - before
    before = names()
    of_case._obeys_recorded_training.__wrapped__()
    of_structure._recorded_training_wins()
    assert (names() - before).tolist() == step.tolist()


def disagreement(stale, apart, rest, *, judged=True, given=True, unusable=None, old=0.0):
    """What is said of three verdicts, on 1,234 rows in batches of 32."""
    modes = types.SimpleNamespace(
        **dict(
            zip(
                ("stale", "apart", "incurable"),
                (
                    of_modes.Verdict(level, f"by {name}")
                    for level, name in (
                        (stale, "all rows"),
                        (apart, "the batch"),
                        (rest, "the rest"),
                    )
                ),
                strict=True,
            )
        ),
        finite=True,
        comparable=(0,),
        judged=judged,
        curable=of_modes.LEVELS.index(rest) < max(1, of_modes.LEVELS.index(apart)),
        unusable=unusable,
        numbers=lambda: "Numbers",
    )
    sample = types.SimpleNamespace(sizes=(32,), shuffled=True)
    case = types.SimpleNamespace(
        learners=[None],
        fresh=lambda layer: False,
        modes=modes,
        rows=1234,
        batch_size=32 if given else None,
        runs=types.SimpleNamespace(outliers=[], sample=sample),
        positions=lambda layer: 1,
        path=lambda layer: "bn",
        old_share=lambda layer: old,
    )
    return list(outputs._disagreement(case))


RECALIBRATE = "Call recalibrate(model, x_train) and look again."


@pytest.mark.parametrize(
    ("stale", "apart", "rest", "level", "cures"),
    [
        ("error", "warning", "", "error", "r"),
        ("warning", "error", "", "error", "r"),
        ("", "warning", "", "warning", ""),
        ("warning", "", "", "warning", "r"),
        ("error", "error", "warning", "error", "ro"),
        ("warning", "warning", "warning", "warning", "o"),
        ("", "error", "error", "error", "o"),
    ],
)
def test_the_worse_of_two_verdicts_is_told_with_what_helps(stale, apart, rest, level, cures):
    (each,) = disagreement(stale, apart, rest)
    assert (each.level, each.layer) == (level, "")
    assert each.evidence == "Numbers (1,234 rows used, dropout off)."
    assert each.repair.startswith(RECALIBRATE) == ("r" in cures)
    other = "That does not mend all of it: " if "r" in cures else "To recalibrate would not mend it"
    assert (other in each.repair) == ("o" in cures)
    assert disagreement("", "", "error") == []


def test_where_nobody_knows_the_targets_batches_must_be_given_and_far_off():
    by_rows = "With the statistics of all rows as one batch in the place of the moving ones, by all"
    by_batch = "With the statistics of each batch of training in the place of the moving ones, by t"
    unknown = {"judged": False}
    assert disagreement("", "warning", "", **unknown) == []
    assert disagreement("", "error", "", given=False, **unknown) == []
    (each,) = disagreement("", "error", "error", **unknown)
    assert each.level == "warning"
    assert each.evidence.startswith(by_batch)
    (each,) = disagreement("warning", "error", "", **unknown)
    assert each.evidence.startswith(by_rows)
    assert each.repair.startswith("If these rows, and their batches, are like those of training: ")
    assert [disagreement("error", "", "", old=old, **unknown)[0].level for old in (0.05, 0.06)] == [
        "warning",
        "error",
    ]
    (each,) = disagreement("error", "", "", unusable="the reason", **unknown)
    assert each.evidence.endswith("off). Which is right is not known: the reason.")


def test_the_layer_that_batches_differ_most_in_front_of_is_named():
    one, two = keras.Input((4,)), keras.Input((4,))
    z, a = BN(name="z"), BN(name="a")
    model = keras.Model([one, two], layers.Add()([z(one), a(two)]))
    steps = np.repeat([-3.0, -1.0, 1.0, 3.0], 16)[:, None]
    near = (plus_minus(64) * 2 + steps).astype("float32")
    far = (plus_minus(64) + steps).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(((near, far),)).batch(16)
    (each,) = told("alike-batches", model, data)
    assert each.evidence.startswith("In front of a, ")


def test_what_is_worse_than_a_guess_is_told_with_both():
    model = first()
    model.get_layer("bn").gamma.assign(np.full(4, 2.0))
    model.get_layer("head").set_weights([np.zeros((4, 1)), np.full(1, 3.0)])
    model.compile("sgd", "mse")
    data = plus_minus(), plus_minus(features=1)  # 3 for plus and minus one: 4 and 16 are lost
    each, _ = told("no-better-than-guessing", model, data)
    assert (each.level, each.layer) == ("note", "")
    assert each.evidence == (
        "The loss is 10 with the moving statistics and 10 by the batch; to answer the mean of "
        "these targets to every row loses 1 (64 rows used)."
    )
    assert each.repair.endswith(" If its batches were not of 32 rows, give batch_size.")
    each, skipped = told("no-better-than-guessing", model, data, batch_size=16)
    assert "give batch_size" not in each.repair
    assert (skipped.what, skipped.kind) == ("modes-disagree", "rule")
    model.optimizer.iterations.assign(99)
    assert told("no-better-than-guessing", model, data) == []  # it may still learn
    model.optimizer.iterations.assign(100)
    assert len(told("no-better-than-guessing", model, data)) == 2


@pytest.mark.parametrize(
    ("dtype", "power", "noise"), [("float16", 7, "0.062"), ("bfloat16", 4, "0.062")]
)
def test_half_precision_has_fewer_digits(dtype, power, noise):
    inputs = keras.Input((4,), dtype=dtype)
    model = keras.Model(inputs, BN(name="bn", dtype=f"mixed_{dtype}", epsilon=0.0)(inputs))
    for center, found in ((2.0**power, 1), (2.0 ** (power - 1), 0)):
        x = tf.cast(plus_minus(center=center), dtype).numpy()
        said = told("large-offset", model, x)
        assert len(said) == found
    (each,) = told("large-offset", model, tf.cast(plus_minus(center=2.0**power), dtype).numpy())
    assert f"4 of 4 channels: {dtype} rounds it by up to {noise} sd" in each.evidence
    assert each.repair.endswith(f"before they become {dtype}, in float64, and train again.")
