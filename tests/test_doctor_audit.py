"""The audit itself: it changes nothing, refuses bad arguments, and says what it left undone."""

import importlib
import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
from doctor_trials import (
    BN,
    Head,
    chain,
    classifier,
    found,
    labels,
    layers,
    rows,
    settle,
    subclassed,
    task,
    train,
    trained,
    worst,
)
from keras.src.backend.common import global_state

from bnutils._keras import keras, tf
from bnutils.doctor.audit import audit
from bnutils.doctor.rules import RULES, Case
from bnutils.doctor.subject import Subject


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
    report = audit(classifier(momentum=0.1))
    assert dict(report.not_checked)["dead-bias"] == "crashed: KeyError: lost"
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
    report = audit(trained(0.999, 2), data)
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
    report = audit(trained(0.999, 2), task())
    evidence = found(report, "stale-statistics")[0].evidence
    assert "After 32 updates at momentum 0.999 the values from before still weigh 97%" in evidence
    assert "of 16 channels" in evidence
    assert "512 rows used" in evidence
    evidence = found(audit(classifier(), batch_size=64, train_size=65), "partial-batch")[0].evidence
    assert "a last batch of 1: 1 value per channel for bn, with a weight of 50.3%" in evidence


def test_a_subclassed_model_is_audited_too():
    model = subclassed()
    report = audit(model, rows())
    assert report.batch_norms == 1
    assert not report.unwalked
    assert [reason for _, reason in report.not_checked if "crashed" in reason] == []


def test_the_report_is_json():
    report = audit(trained(0.999, 2), task(), batch_size=64, train_size=65)
    assert json.loads(report.to_json())["counts"]["error"] == len(report.errors) > 0


# Models that cannot be called, and layers that cannot be looked into


class Contrast(keras.Model):
    """Two parts and a train_step, as SimCLR and GANs are written."""

    def __init__(self, training=True):  # noqa: D107
        super().__init__()
        stack = layers.Dense(4), BN(name="bn", momentum=0.1), layers.ReLU(), layers.Dense(2)
        self.encoder = chain(*stack, name="encoder")
        self.head = chain(layers.Dense(3), BN(name="bn"), shape=(2,), name="head")
        self.training = training

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        with tf.GradientTape() as tape:
            codes = self.head(self.encoder(x, training=self.training), training=True)
            loss = tf.reduce_mean(codes**2)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss}


def contrast(**settings):
    model = Contrast(**settings)
    model.compile("sgd")
    return model


def test_a_model_without_call_is_audited_through_its_parts():
    report = audit(contrast(), batch_size=1)
    assert report.batch_norms == 2
    assert [each.layer for each in found(report, "pytorch-momentum")] == ["encoder/bn"]
    assert {each.layer for each in found(report, "batch-of-one")} == {"encoder/bn", "head/bn"}
    assert [each.layer for each in found(report, "output-bn")] == ["head/bn"]
    assert not report.sound
    reasons = dict(report.unwalked)
    assert "audit(model.encoder, data)" in reasons["encoder"]
    assert "audit(model.head, data)" in reasons["head"]
    assert "audit(model.encoder, data)" in dict(report.not_checked)["stale-statistics"]


def test_a_model_without_call_is_not_sound_though_nothing_is_found():
    model = contrast()
    model.encoder.get_layer("bn").momentum = 0.9
    report = audit(model)
    assert not report.faulty
    assert not report.sound
    assert "gets no all-clear" in str(report)


@pytest.mark.parametrize("training", [True, False])
def test_the_train_step_of_a_model_without_call_is_tried(training):
    report = audit(contrast(training=training), rows(16))
    assert "frozen-but-learning" in report.checked
    forgotten = [each for each in found(report, "never-updated") if each.level == "error"]
    assert [each.layer for each in forgotten] == ([] if training else ["encoder/bn"])


def test_a_layer_whose_inside_cannot_be_seen_is_told(tmp_path):
    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8))])
        def serve(self, x):
            return 2.0 * x

    module = Module()
    tf.saved_model.save(module, tmp_path, signatures={"serve": module.serve})
    closed = layers.TFSMLayer(str(tmp_path), call_endpoint="serve", name="closed")
    inputs = keras.Input((8,))
    x = closed(inputs)
    report = audit(keras.Model(inputs, layers.Dense(1)(BN()(x))))
    assert dict(report.unwalked)["closed"] == "the inside of a TFSMLayer cannot be seen"
    assert not report.sound


def test_what_keras_remarks_of_a_model_is_kept_back():
    with pytest.warns(UserWarning, match="does not support masking"):
        model = chain(
            layers.Masking(), layers.Conv1D(4, 3), BN(), layers.GRU(2), shape=(8, 2), loss="mse"
        )
    data = rows(16).reshape(16, 8, 1).repeat(2, axis=2), rows(16, 2)
    audit(model, data)  # warnings are errors in these tests
    assert warnings.filters


def test_reasons_are_told_to_their_root():
    class Inner(layers.Layer):
        broken = False

        def call(self, x):
            if self.broken:
                raise KeyError("vocabulary")
            return x

    class Block(layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.bn = BN()
            self.inner = Inner()

        def call(self, x):
            return self.bn(self.inner(x))

    inputs = keras.Input((8,))
    block = Block()
    model = keras.Model(inputs, block(inputs))
    block.inner.broken = True
    reason = "its call cannot run on symbolic tensors (KeyError: 'vocabulary')"
    assert audit(model).unwalked == (("block", reason),)
    with pytest.raises(ValueError, match="can be called, got: KeyError: vocabulary"):
        audit(model, rows(16))


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
