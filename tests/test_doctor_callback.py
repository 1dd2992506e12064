"""The audit in a training script and in a test suite: AuditCallback and assert_sound."""

import numpy as np
import pytest

from bnutils._keras import keras
from bnutils.doctor import AuditCallback, recalibrate
from bnutils.testing import assert_sound

layers = keras.layers


def data(rows=128, mean=3.0):
    x = np.random.default_rng(0).normal(mean, 1.0, (rows, 4)).astype("float32")
    return x, (x[:, :1] > mean).astype("float32")


def net(momentum=0.9, output_bn=False):
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(8, use_bias=False), layers.BatchNormalization(momentum=momentum)]
    head = [layers.Dense(1), *([layers.BatchNormalization(name="last")] if output_bn else [])]
    model = keras.Sequential([keras.Input((4,)), *stack, layers.ReLU(), *head])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def fit(model, *callbacks, epochs=3):
    x, y = data()
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks)


def test_each_thing_is_said_once(capsys):
    look = AuditCallback(data(), batch_size=32)
    fit(net(momentum=0.99, output_bn=True), look)
    said = capsys.readouterr().out
    assert sorted(look.reports) == [1, 2, 3]
    # A statistic that lags at first is no news an epoch later.
    assert said.count("Audit after epoch") == said.count("output-bn") == 1
    assert all(report.faulty for report in look.reports.values())


def test_a_rule_that_grows_worse_is_said_again(capsys):
    look = AuditCallback(data())
    model = net()
    look.set_model(model)
    look.set_params({"epochs": 9})
    model.optimizer.learning_rate = 0.03  # only of a model that has learnt something can it be told
    fit(model, epochs=20)
    look.on_epoch_end(0)
    bn = model.layers[1]
    sd = np.sqrt(bn.moving_variance.numpy())
    levels = []
    for shift in (0.8, 3.0):
        bn.moving_mean.assign_add(shift * sd)
        look.on_epoch_end(len(look.reports))
        found = look.reports[len(look.reports)].diagnoses
        levels.append({each.level for each in found if each.rule == "stale-statistics"})
    assert levels[0] != levels[1] == {"error"}
    assert capsys.readouterr().out.count("ERROR stale-statistics") == 1


def test_training_goes_on_as_without_it():
    weights = []
    for callbacks in ([], [AuditCallback(data(), level="error")]):
        model = net()
        fit(model, *callbacks)
        weights.append(model.get_weights())
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


def test_it_looks_every_so_often_and_at_the_end():
    look = AuditCallback(data(), every=2)
    fit(net(), look)
    assert sorted(look.reports) == [2, 3]


def test_it_looks_after_the_last_epoch_of_a_training_that_stops_early():
    look = AuditCallback(data(), every=5)
    fit(net(), keras.callbacks.EarlyStopping("loss", mode="max", patience=0), look, epochs=10)
    (epoch,) = look.reports
    assert epoch < 5


def test_what_was_said_of_one_model_is_said_of_the_next(capsys):
    look = AuditCallback(data(), level="note")
    said = []
    for _ in range(2):
        fit(net(output_bn=True), look, epochs=1)
        said.append(capsys.readouterr().out)
    assert said[0].count("output-bn") == said[1].count("output-bn") == 1


def test_data_that_draw_at_random_leave_the_stream_as_it_was():
    x, y = data()

    def augmented():
        for start in (0, 64):
            noise = np.random.normal(size=(64, 4))  # noqa: NPY002
            yield x[start : start + 64] + noise.astype("float32"), y[start : start + 64]

    drawn = []
    for callbacks in ([], [AuditCallback(augmented, batch_size=64)]):
        np.random.seed(0)  # noqa: NPY002
        fit(net(), *callbacks, epochs=1)
        drawn.append(np.random.normal())  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_a_generator_serves_for_every_epoch():
    x, y = data()
    look = AuditCallback(part for part in [(x[:64], y[:64]), (x[64:], y[64:])])
    fit(net(), look, epochs=2)
    assert [report.rows for report in look.reports.values()] == [128, 128]


def test_data_that_do_not_suit_stop_it_before_the_first_epoch():
    model = net()
    before = model.get_weights()
    with pytest.raises(ValueError, match="expected batches of shape"):
        fit(model, AuditCallback(np.zeros((16, 5), "float32")))
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "fatal"}, "expected a level"),
        ({"every": 0}, "expected every to be a positive integer, got 0"),
        ({"data": "rows"}, "expected arrays"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AuditCallback(**arguments)


def test_assert_sound_lets_a_sound_model_pass_and_says_what_is_wrong_with_another():
    model = net(output_bn=True)
    fit(model)
    recalibrate(model, data())
    with pytest.raises(AssertionError, match="output-bn"):
        assert_sound(model, data(), batch_size=32)
    report = assert_sound(model, data(), batch_size=32, allow=["output-bn"])
    assert {each.rule for each in report.warnings} >= {"output-bn"}
    sound = net()
    fit(sound)
    recalibrate(sound, data())
    assert assert_sound(sound, data(), batch_size=32).sound


def test_assert_sound_lets_rows_pass_that_cannot_tell_if_that_is_allowed():
    x, y = data()
    model = net()
    fit(model, epochs=40)
    other = x, 1 - y
    with pytest.raises(AssertionError, match="gets no all-clear"):
        assert_sound(model, other)
    assert not assert_sound(model, other, allow=["modes-disagree"]).faulty


def test_assert_sound_does_not_pass_what_could_not_be_looked_at():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    with pytest.raises(AssertionError, match="no batch normalization layer"):
        assert_sound(model, data()[0])
    with pytest.raises(ValueError, match="names of rules in allow, got \\['stale'\\]"):
        assert_sound(net(), data(), allow=["stale"])
