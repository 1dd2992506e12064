"""The doctor on a model under `tf.distribute`: two replicas, in a process with two devices."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bnutils.doctor.rules import RULES

SCRIPT = """
import json
import numpy as np
from bnutils._keras import keras, replicas, tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from bnutils.doctor import audit, recalibrate

layers = keras.layers
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)

def model(mask=False, **options):
    keras.utils.set_random_seed(0)
    if mask:
        inputs, end = (5, 3), layers.GlobalAveragePooling1D()
        start = [keras.Input(inputs), layers.Masking()]
    else:
        start, end = [keras.Input((3,)), layers.Dense(4)], layers.ReLU()
    bn = layers.BatchNormalization(momentum=0.9, name="bn", **options)
    made = keras.Sequential([*start, bn, end, layers.Dense(1)])
    made.compile("sgd", "mse")
    return made

def copies(model):
    found = {}
    for variable in model.get_layer("bn").non_trainable_variables:
        found[variable.name] = [part.numpy() for part in replicas(variable)]
    return found

def apart_by(model):
    return float(max(np.abs(one - two).max() for one, two in copies(model).values()))

def trained(model):
    # Rows that differ between the replicas; how far apart do their statistics end?
    x = rng.normal(size=(64, *model.input_shape[1:])).astype("float32")
    x[1::2] += 5
    x = np.concatenate([np.concatenate([part[::2], part[1::2]]) for part in np.split(x, 4)])
    y = x.reshape(64, -1)[:, :1]
    model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return apart_by(model)

def said(model, **given):
    report = audit(model, **given)
    assert not [reason for _, reason in report.not_checked if "crashed" in reason]
    return [d for d in report.diagnoses if d.rule == "replica-batch"]

def levels(model, **given):
    return [d.level for d in said(model, **given)]

def accumulating(model):
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=4), "mse")
    report = audit(model, batch_size=8)
    return [d.evidence for d in report.diagnoses if d.rule == "gradient-accumulation"]

with strategy.scope():
    local, together, apart, mended = model(), model(synchronized=True), model(), model(
        synchronized=True)
    masked = model(mask=True, synchronized=True)

told = {
    "sick": levels(local, batch_size=8),
    "mended": levels(together, batch_size=8),
    "sound": levels(local, data=(np.eye(64, 3), np.zeros((64, 1))), batch_size=64),
    "one device": levels(model(), batch_size=8),
    "differ": trained(apart) > 0.1,
    "how far": [d.evidence for d in said(apart, batch_size=64)],
    "mended differ": trained(mended) > 1e-6,
    "followed": levels(mended, batch_size=8),
    "masked differ": trained(masked) > 1e-3,
    "masked": [(d.level, d.evidence, d.repair) for d in said(masked, batch_size=64)],
    "accumulated": accumulating(local),
}
def ends_in_nan(model, rows):
    x = rng.normal(size=(rows, 3)).astype("float32")
    model.fit(x, x[:, :1], batch_size=8, shuffle=False, verbose=0)
    return bool(np.isnan(model.get_layer("bn").gamma).any())

with strategy.scope():
    empty, full = model(), model()
told["rests"] = {
    name: [ends_in_nan(made, rows), [
        d.evidence for d in said(made, batch_size=8, train_size=rows) if d.level == "error"]]
    for name, made, rows in (("full", full, 12), ("synchronized", together, 9), ("empty", empty, 9))
}
told["each batch"] = [d.evidence for d in said(local, batch_size=1) if d.level == "error"]

apart.get_layer("bn").trainable = False
told["frozen"] = [(d.level, d.evidence, d.repair) for d in said(apart, batch_size=64)]
apart.get_layer("bn").trainable = True

x = rng.normal(1, 3, (300, 3)).astype("float32")
dataset = tf.data.Dataset.from_tensor_slices(x).batch(64)
results = told["recalibrated"] = {}
for name, options, data in (
    ("arrays", {}, x),
    ("dataset", {}, dataset),
    ("synchronized", {"synchronized": True}, x),
    ("renorm", {"renorm": True}, x),
):
    with strategy.scope():
        many = model(**options)
    one = model(**options)
    for variable in many.get_layer("bn").non_trainable_variables:
        for number, part in enumerate(replicas(variable)):
            part.assign(part + 0.5 * number + 0.25)
    one.set_weights(many.get_weights())
    before = copies(many)
    done = recalibrate(many, data)
    recalibrate(one, x)
    expected = [v.numpy() for v in one.get_layer("bn").non_trainable_variables]
    got = [pair[0] for pair in copies(many).values()]
    off = max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(got, expected))
    results[name] = [apart_by(many), float(off) < 1e-5]
    done.undo()
    back = copies(many)
    results[name].append(
        all((a == b).all() for key in before for a, b in zip(before[key], back[key])))

dealt = strategy.experimental_distribute_dataset(dataset)
told["dealt"] = []
for data in (dealt, iter(dealt)):
    try:
        recalibrate(many, data)
    except ValueError as error:
        told["dealt"].append(str(error))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_replicas_with_statistics_of_their_own_are_told(told):
    (evidence,) = told["how far"]
    assert re.search(r"Their moving statistics differ by up to [\d.]+ sd in the mean", evidence)
    expected = {
        "sick": ["warning"],
        "mended": [],
        "sound": ["note"],
        "one device": [],
        "differ": True,
        "mended differ": False,
        "followed": [],
    }
    assert {name: told[name] for name in expected} == expected


def test_behind_a_mask_synchronized_does_nothing_and_the_audit_says_so(told):
    assert told["masked differ"]
    ((level, evidence, repair),) = told["masked"]
    assert level == "warning"
    assert "bn is synchronized to no effect, since it gets a mask" in evidence
    assert "synchronized=True" not in repair
    assert "LayerNormalization" in repair


def test_frozen_replicas_that_differ_are_told_with_the_call_that_mends_them(told):
    ((level, evidence, repair),) = told["frozen"]
    assert level == "warning"
    assert evidence.startswith("The model runs on 2 replicas. Their moving statistics differ by")
    assert "recalibrate(model, x_train, layers=['bn'])" in repair


def test_a_replica_without_rows_makes_gamma_nan(told):
    evidence = (
        "9 rows in batches of 8: of the last 1, 1 of 2 replicas gets none, and bn is not "
        "synchronized."
    )
    assert told["rests"] == {
        "full": [False, []],
        "synchronized": [False, []],
        "empty": [True, [evidence]],
    }
    (each,) = told["each batch"]
    assert each.startswith("Of each batch of 1 row, 1 of 2 replicas gets none")


def test_accumulated_gradients_of_replicas(told):
    (evidence,) = told["accumulated"]
    assert "8 rows, of which each of 2 replicas takes its part, down to 4 values" in evidence


@pytest.mark.parametrize("name", ["arrays", "dataset", "synchronized", "renorm"])
def test_all_replicas_get_the_statistics_of_one_process_and_undo_gives_each_its_own(told, name):
    assert told["recalibrated"][name] == [0, True, True]


def test_data_dealt_out_to_replicas_are_refused(told):
    assert len(told["dealt"]) == 2
    assert all("give the tf.data.Dataset that it was made from" in each for each in told["dealt"])


def test_the_chapter_that_each_rule_names_is_there():
    notebooks = {path.stem for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")}
    assert {rule.chapter for rule in RULES} <= notebooks
