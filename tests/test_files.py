"""Model files of Keras 2 and 3, arrays from damaged files; models/make.py made the old models."""

import functools
import io
import json
import random
import types
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnutils import _npz
from bnutils._keras import keras
from bnutils._npz import read_npz
from bnutils.doctor import audit, conversion, files
from bnutils.doctor.conversion import convert
from bnutils.doctor.files import open_model
from bnutils.doctor.keras2 import Translation, compile_arguments

# Keras 3.15 saves weights with an old form of NumPy's copy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

layers = keras.layers
OLD = zipfile.ZipFile(Path(__file__).parent / "models" / "models.zip")
READABLE = [
    "keras_2_2_images.h5",
    "keras_2_2_nested.h5",
    "keras_2_2_sequences.h5",
    "keras_2_12_images.keras",
    "keras_2_15_images.h5",
    "keras_2_15_nested.h5",
    "keras_2_15_nested.keras",
    "keras_2_15_sequences.h5",
    "tf_keras_operations.h5",
    "tf_keras_sequences.keras",
]


@functools.cache
def folder():
    """A folder with the old models."""
    import tempfile

    kept = tempfile.TemporaryDirectory()
    OLD.extractall(kept.name)
    return kept


def old(name):
    return Path(folder().name, name)


@functools.cache
def opened(name):
    return open_model(old(name))


def given_and_made(name):
    """Inputs, and what the model made of them in the Keras that saved it."""
    with np.load(old(f"{name}.npz")) as arrays:
        x = [arrays[key] for key in sorted(arrays) if key != "outputs"]
        return (x if len(x) > 1 else x[0]), arrays["outputs"]


def refusal_of(function, path, otherwise=""):
    """The message with which a file is refused."""
    try:
        function(path)
    except ValueError as error:
        return str(error)
    return otherwise


# --- files of Keras 2 ---


@pytest.mark.parametrize("name", READABLE)
def test_a_model_of_keras_2_makes_what_it_made_then(name):
    x, outputs = given_and_made(name)
    model = opened(name).model
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # inputs of another structure than the model's
        made = model(x, training=False)
    np.testing.assert_allclose(made, outputs, rtol=0, atol=1e-6 * np.abs(outputs).max())
    assert np.ptp(outputs) > 0.01


@pytest.mark.parametrize("name", ["keras_2_2_images.h5", "keras_2_15_nested.keras"])
def test_plain_keras_3_does_not_read_these(name):
    with pytest.raises((TypeError, ValueError)):
        keras.saving.load_model(old(name))


@pytest.mark.parametrize("name", READABLE)
def test_convert_writes_what_keras_3_opens_with_the_same_outputs(name, tmp_path):
    converted = convert(old(name), tmp_path / "new.keras")
    assert converted.difference <= 1e-6
    assert converted.rows == 4
    x, outputs = given_and_made(name)
    model = keras.saving.load_model(tmp_path / "new.keras")
    np.testing.assert_allclose(
        model(x, training=False), outputs, rtol=0, atol=1e-6 * np.abs(outputs).max()
    )
    assert converted.weights == model.count_params()
    assert f"differ by at most {converted.difference:.1e}" in " ".join(str(converted).split())
    assert json.loads(converted.to_json())["written_by"] == converted.written_by


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("keras_2_2_images.h5", "Keras 2.2.5"),
        ("keras_2_12_images.keras", "Keras 2.12.0"),
        ("tf_keras_operations.h5", "Keras 2.21.0"),
    ],
)
def test_it_says_what_wrote_the_file(name, by):
    assert opened(name).written_by == by
    assert f"was written by {by}" in " ".join(str(opened(name)).split())


def test_batch_normalization_and_frozen_layers_come_over():
    model = opened("keras_2_15_images.h5").model
    assert [layer.axis for layer in model.layers if layer.name.startswith("bn")] == [3, 3, 3]
    assert model.get_layer("bn").momentum == 0.8
    nested = opened("keras_2_2_nested.h5").model
    base = nested.get_layer("base")
    assert not base.get_layer("base_bn").trainable
    assert base.get_layer("base_dense").trainable
    assert len(base._inbound_nodes) == 2  # called on both inputs


def test_compile_comes_over_with_lr_and_decay_and_the_steps_taken():
    old_one = opened("keras_2_2_images.h5").model
    assert old_one.compiled
    rate = old_one.optimizer._learning_rate
    # Keras 2: 0.01 / (1 + 0.001 steps); 48 rows in batches of 16, twice.
    assert float(rate(1000)) == pytest.approx(0.01 / 2, rel=1e-5)
    assert int(old_one.optimizer.iterations) == 6
    assert old_one.loss == "categorical_crossentropy" or callable(old_one.loss)
    x = given_and_made("keras_2_2_images.h5")[0]
    loss, accuracy = old_one.evaluate(x, np.eye(3)[[0, 1, 2, 0]], verbose=0)
    assert np.isfinite(loss)
    assert 0 <= accuracy <= 1
    assert [each.what for each in opened("keras_2_2_images.h5").skipped] == ["optimizer"]
    assert opened("keras_2_15_images.h5").skipped == ()  # SGD has no moments
    assert not opened("tf_keras_operations.h5").model.compiled


def test_an_old_model_can_be_audited_and_trained_on():
    report = audit(opened("keras_2_15_images.h5").model)
    assert report.batch_norms == 3
    assert not [each for each in report.skipped if "crashed" in each.reason]
    model = open_model(old("keras_2_15_nested.h5")).model
    x, y = given_and_made("keras_2_15_nested.h5")
    history = model.fit(x, y, epochs=1, verbose=0)
    assert history.history["loss"][0] < 10


def test_the_hard_sigmoid_of_keras_2_is_less_steep():
    changes = dict(opened("keras_2_15_sequences.h5").changes)
    assert set(changes) == {"gru/gru_cell", "out"}
    assert "times 1.2" in changes["out"]
    found = {"class_name": "Activation", "config": {"name": "a", "activation": "hard_sigmoid"}}
    layer = keras.saving.deserialize_keras_object(Translation().layer(found))
    x = np.linspace(-4, 4, 17, dtype="float32")[:, None]
    np.testing.assert_allclose(layer(x), np.clip(0.2 * x + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("class_name", "config", "expected"),
    [
        ("BatchNormalization", {"axis": [3]}, {"axis": 3}),
        (
            "BatchNormalizationV1",
            {"axis": {"class_name": "ListWrapper", "items": [1]}},
            {"axis": 1},
        ),
        ("SyncBatchNormalization", {"axis": [-1]}, {"axis": -1, "synchronized": True}),
        ("DepthwiseConv2D", {"kernel_size": [3, 3], "groups": 1}, {"kernel_size": [3, 3]}),
        ("LSTM", {"units": 2, "time_major": False, "implementation": 1}, {"units": 2}),
        ("GRU", {"units": 2}, {"units": 2, "reset_after": False}),
        ("LeakyReLU", {"alpha": 0.25}, {"negative_slope": 0.25}),
        ("ReLU", {"max_value": {"class_name": "__ndarray__", "value": 6.0}}, {"max_value": 6.0}),
        ("ReLU", {"max_value": {"type": "ndarray", "value": 6.0}}, {"max_value": 6.0}),
        (
            "InputLayer",
            {"batch_input_shape": [None, 4], "dtype": "float32", "ragged": False, "name": "i"},
            {"batch_shape": [None, 4], "dtype": "float32", "name": "i"},
        ),
        (
            "Dense",
            {
                "units": 1,
                "dtype": {"class_name": "Policy", "config": {"name": "mixed_float16"}},
                "kernel_initializer": {
                    "class_name": "VarianceScaling",
                    "config": {"scale": 2.0, "distribution": "normal", "dtype": "float32"},
                },
                "batch_input_shape": [None, 4],
                "bias_initializer": {"class_name": "Mine", "config": {}},
            },
            {
                "units": 1,
                "dtype": "mixed_float16",
                "kernel_initializer": {
                    "module": "keras.initializers",
                    "class_name": "VarianceScaling",
                    "config": {"scale": 2.0, "distribution": "truncated_normal"},
                    "registered_name": None,
                },
            },
        ),
    ],
)
def test_keys_that_keras_3_renamed_or_dropped(class_name, config, expected):
    made = Translation().layer({"class_name": class_name, "config": config})
    assert made["config"] == expected
    keras.saving.deserialize_keras_object(made)


@pytest.mark.parametrize(
    ("class_name", "config", "message"),
    [
        ("BatchNormalization", {"name": "bn", "axis": [1, 2]}, r"'bn' normalizes along .*\[1, 2\]"),
        ("LSTM", {"name": "l", "units": 2, "time_major": True}, "'l', a LSTM, has time_major=True"),
        ("DepthwiseConv2D", {"name": "d", "kernel_size": 3, "groups": 2}, "'d'.*groups=2"),
    ],
)
def test_what_keras_3_cannot_do_is_refused(class_name, config, message):
    with pytest.raises(ValueError, match=message):
        Translation().layer({"class_name": class_name, "config": config})


def test_what_is_left_out_is_said():
    translation = Translation()
    translation.layer(
        {
            "class_name": "BatchNormalization",
            "config": {
                "name": "bn",
                "virtual_batch_size": 8,
                "gamma_regularizer": {"class_name": "Mine", "config": {}},
            },
        }
    )
    assert [each.what for each in translation.skipped] == ["bn", "bn"]
    assert "virtual_batch_size" in translation.skipped[0].reason
    assert "gamma_regularizer Mine" in translation.skipped[1].reason


@pytest.mark.parametrize(
    ("training", "loss", "metrics"),
    [
        ({"loss": "mse", "metrics": ["mae"]}, keras.losses.mean_squared_error, 1),
        ({"loss": {"out": "mse"}, "metrics": {"out": ["mae", "acc"]}}, dict, {"out": 2}),
        (
            {
                "loss": {
                    "class_name": "BinaryCrossentropy",
                    "config": {"reduction": "auto", "name": "b", "from_logits": True, "axis": -1},
                },
                "metrics": [
                    [{"class_name": "AUC", "config": {"name": "auc", "num_thresholds": 9}}]
                ],
            },
            keras.losses.BinaryCrossentropy,
            1,
        ),
    ],
)
def test_losses_and_metrics_of_keras_2(training, loss, metrics):
    optimizer = {"class_name": "Adam", "config": {"lr": 0.5, "decay": 0.0, "beta_1": 0.8}}
    skipped = []
    made = compile_arguments({"optimizer_config": optimizer, **training}, skipped)
    assert made["loss"] is loss or isinstance(made["loss"], loss)
    found = made["metrics"]
    sizes = (
        {key: len(each) for key, each in found.items()} if isinstance(found, dict) else len(found)
    )
    assert sizes == metrics
    assert float(made["optimizer"].learning_rate) == 0.5
    assert made["optimizer"].beta_1 == 0.8
    assert not skipped


def test_metrics_that_are_lost_are_said_and_the_rest_is_compiled():
    skipped = []
    training = {"optimizer": "sgd", "loss": "mse", "metrics": ["my_metric"]}
    made = compile_arguments(training, skipped)
    assert "metrics" not in made
    assert [each.what for each in skipped] == ["compiled metrics"]


def edited(name, path, **attributes):
    """A copy of an old .h5 file with other attributes."""
    path.write_bytes(old(name).read_bytes())
    with h5py.File(path, "r+") as file:
        for key, change in attributes.items():
            if change is None:
                del file.attrs[key]
            else:
                file.attrs[key] = change(file.attrs[key])
    return path


@pytest.mark.parametrize("part", ["loss", "optimizer_config"])
def test_a_compile_that_cannot_be_read_is_left_out_and_said(part, tmp_path):
    def change(text):
        config = json.loads(text)
        mine = {"class_name": "Mine", "config": {}}
        return json.dumps({**config, part: "<lambda>" if part == "loss" else mine})

    path = edited("keras_2_15_images.h5", tmp_path / "m.h5", training_config=change)
    found = open_model(path)
    assert not found.model.compiled
    assert [each.what for each in found.skipped] == ["compile"]
    assert "Left out: compile" in str(found)


def test_weights_go_by_their_names_not_by_their_place(tmp_path):
    path = edited("keras_2_15_images.h5", tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        names = file["model_weights/bn"].attrs["weight_names"]
        file["model_weights/bn"].attrs["weight_names"] = names[::-1]
    x, outputs = given_and_made("keras_2_15_images.h5")
    np.testing.assert_allclose(open_model(path).model(x), outputs, atol=1e-6)


def test_weights_of_another_model_are_refused(tmp_path):
    path = edited("keras_2_15_images.h5", tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        group = file["model_weights/bn"]
        names = list(group.attrs["weight_names"])
        group.attrs["weight_names"] = [name.replace("gamma", "omega") for name in names]
        group["bn/omega:0"] = group["bn/gamma:0"][:2]
    with pytest.raises(ValueError, match=r"weights of bn are not those of the file.*omega"):
        open_model(path)


def test_a_slash_in_a_name_becomes_what_keras_3_allows(tmp_path):
    def change(text):
        text = text if isinstance(text, str) else text.decode()
        return text.replace('"bn"', '"block/bn"')

    path = edited("keras_2_15_images.h5", tmp_path / "m.h5", model_config=change)
    with h5py.File(path, "r+") as file:
        weights = file["model_weights"]
        names = [
            name.replace("bn", "block/bn") if name == "bn" else name
            for name in weights.attrs["layer_names"]
        ]
        weights.attrs["layer_names"] = names
        weights.move("bn", "block/bn")
    found = open_model(path)
    assert found.changes[0][0] == "block_bn"
    x, outputs = given_and_made("keras_2_15_images.h5")
    np.testing.assert_allclose(found.model(x), outputs, atol=1e-6)


def functional(*rows, inputs=("i",), outputs=("o",)):
    """The config of a functional model of Keras 2 from rows (class, name, config, calls)."""
    made = [
        {
            "class_name": kind,
            "name": name,
            "config": {"name": name, **config},
            "inbound_nodes": calls,
        }
        for kind, name, config, calls in rows
    ]
    ends = {
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": [[name, 0, 0] for name in outputs],
    }
    return {"class_name": "Functional", "config": {"name": "m", "layers": made, **ends}}


def built(config):
    return keras.saving.deserialize_keras_object(Translation().layer(config))


def test_names_stay_different_without_their_slashes():
    translation = Translation()
    config = functional(
        ("InputLayer", "i", {"batch_input_shape": [None, 3]}, []),
        ("Dense", "a/b", {"units": 2}, [[["i", 0, 0, {}]]]),
        ("Dense", "a_b", {"units": 4}, [[["a/b", 0, 0, {}]]]),
        ("Dense", "o", {"units": 1}, [[["a_b", 0, 0, {}]]]),
    )
    model = keras.saving.deserialize_keras_object(translation.layer(config))
    assert [(layer.name, layer.units) for layer in model.layers[1:]] == [
        ("a_b_1", 2),
        ("a_b", 4),
        ("o", 1),
    ]
    assert translation.names == {"a_b_1": "a/b"}


def test_states_that_were_given_with_the_input():
    model = built(
        functional(
            ("InputLayer", "i", {"batch_input_shape": [None, 5, 3]}, []),
            ("InputLayer", "s", {"batch_input_shape": [None, 2]}, []),
            ("GRU", "o", {"units": 2}, [[["i", 0, 0, {}], ["s", 0, 0, {}]]]),
            inputs=("i", "s"),
        )
    )
    x, state = np.ones((1, 5, 3), "float32"), np.ones((1, 2), "float32")
    assert not np.allclose(model([x, state]), model([x, 0 * state]))


def test_tensors_among_the_arguments_of_a_call():
    heads = {"num_heads": 1, "key_dim": 2, "query_shape": [None, 4, 3], "value_shape": None}
    model = built(
        functional(
            ("InputLayer", "i", {"batch_input_shape": [None, 4, 3]}, []),
            ("InputLayer", "j", {"batch_input_shape": [None, 6, 3]}, []),
            ("MultiHeadAttention", "o", heads, [[["i", 0, 0, {"value": ["j", 0, 0]}]]]),
            inputs=("i", "j"),
        )
    )
    assert model.output_shape == (None, 4, 3)


@pytest.mark.parametrize(
    ("version", "differs"), [("2.2.4", True), ("2.2.4-tf", False), ("2", False)]
)
def test_bilinear_upsampling_of_tensorflow_1_is_refused(version, differs):
    config = {
        "class_name": "UpSampling2D",
        "config": {"name": "up", "size": [2, 2], "interpolation": "bilinear"},
    }
    if differs:
        with pytest.raises(ValueError, match="'up' interpolates between other points"):
            Translation(version).layer(config)
    else:
        assert Translation(version).layer(config)["config"]["interpolation"] == "bilinear"


def test_a_hard_sigmoid_that_cannot_be_kept_is_refused(tmp_path):
    def change(text):
        return str(text).replace('"activation": "tanh"', '"activation": "hard_sigmoid"')

    path = edited("keras_2_2_sequences.h5", tmp_path / "m.h5", model_config=change)
    with pytest.raises(ValueError, match="a LSTMCell, uses the hard sigmoid of Keras 2"):
        open_model(path)


def test_a_function_of_tensorflow_without_a_counterpart_is_named():
    with pytest.raises(
        ValueError, match=r"TensorFlow function math.cumulative_logsumexp.*Next step"
    ):
        open_model(old("tf_keras_strange_operations.h5"))


# --- code ---


def test_code_in_an_old_file_runs_only_if_it_is_trusted(tmp_path):
    with pytest.raises(ValueError, match=r"Lambda layer.*--trust"):
        open_model(old("keras_2_12_lambdas.h5"))
    with pytest.raises(ValueError, match=r"Lambda layer.*--trust"):
        convert(old("keras_2_12_lambdas.h5"), tmp_path / "new.keras")
    assert not list(tmp_path.iterdir())
    # Its bytecode is that of Python 3.10: another version says so, and does not crash.
    with pytest.raises(ValueError, match=r"of another version of Python|cannot be loaded"):
        open_model(old("keras_2_12_lambdas.h5"), trust=True)


HOSTILE = """
import base64, marshal, types
def bomb(inputs):
    import pathlib
    pathlib.Path("ran").write_text("ran")
    return inputs
CODE = base64.b64encode(marshal.dumps(bomb.__code__)).decode()
"""


def hostile_configs():
    namespace = {}
    exec(HOSTILE, namespace)
    code = namespace["CODE"]
    return {
        "list": {"function": [code, None, None], "function_type": "lambda"},
        "typeless": {"function": [code, None, None]},
        "dict": {
            "function": {
                "class_name": "__lambda__",
                "config": {"code": code, "defaults": None, "closure": None},
            }
        },
        "shape": {"function": "relu", "output_shape": [code, None, None]},
        "module": {
            "function": {
                "module": "os",
                "class_name": "function",
                "config": "system",
                "registered_name": "os.system",
            },
            "arguments": {"command": "touch ran"},
        },
    }


@pytest.mark.parametrize("form", ["list", "typeless", "dict", "shape", "module"])
@pytest.mark.parametrize(("suffix", "version"), [("h5", "2.15.0"), ("h5", "3.15.1"), ("keras", "")])
def test_nothing_in_a_hostile_file_runs(form, suffix, version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "m",
            "layers": [
                {
                    "class_name": "Lambda",
                    "config": {
                        "name": "l",
                        "batch_input_shape": [None, 3],
                        **hostile_configs()[form],
                    },
                }
            ],
        },
    }
    path = tmp_path / f"m.{suffix}"
    if suffix == "h5":
        with h5py.File(path, "w") as file:
            file.attrs["keras_version"] = version
            file.attrs["model_config"] = json.dumps(config)
            file.create_group("model_weights").attrs["layer_names"] = []
    else:
        weights = io.BytesIO()
        h5py.File(weights, "w").close()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", '{"keras_version": "2.15.0"}')
            archive.writestr("model.weights.h5", weights.getvalue())
    with pytest.raises(
        ValueError, match=rf"m\.{suffix} (holds Python code|needs|cannot be loaded)"
    ):
        open_model(path)
    assert not Path("ran").exists()


def test_weights_that_stand_in_another_file_are_not_read(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["values"] = np.ones(6, "float32")
    path = edited("keras_2_15_images.h5", tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        del file["model_weights/bn/bn/gamma:0"]
        file["model_weights/bn/bn/gamma:0"] = h5py.ExternalLink(str(secret), "values")
    with pytest.raises(ValueError, match="does not stand in this file"):
        open_model(path)


MODULE = """
import keras

class Twice(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs

class Half(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return 0.5 * (y_true - y_pred)

def bent(values):
    return keras.ops.relu(values)
"""


def module_with(name, code):
    module = types.ModuleType(name)
    exec(compile(code, name, "exec"), vars(module))
    return module


@pytest.mark.parametrize("registered", ["", "my_package>"])
def test_classes_of_a_module_are_found_registered_or_not(registered, tmp_path):
    module = module_with("my_layers", MODULE)
    if registered:
        keras.saving.register_keras_serializable("my_package")(module.Twice)
    model = keras.Sequential([keras.Input((3,)), module.Twice(), layers.BatchNormalization()])
    model.compile("sgd", module.Half())
    model.save(tmp_path / "m.keras")
    keras.saving.get_custom_objects().pop("my_package>Twice", None)
    again = module_with("my_layers", MODULE)
    with pytest.raises(ValueError, match=r"needs the custom class 'Twice'.*--import MODULE"):
        open_model(tmp_path / "m.keras")
    found = open_model(tmp_path / "m.keras", modules=[again])
    assert type(found.model.layers[0]) is again.Twice
    assert found.model.compiled
    assert type(found.model.loss) is again.Half
    converted = convert(tmp_path / "m.keras", tmp_path / "n.keras", modules=[again])
    assert converted.difference == 0


def test_classes_of_a_module_are_found_for_old_files(tmp_path):
    def change(text):
        text = text if isinstance(text, str) else text.decode()
        return text.replace('"class_name": "LeakyReLU"', '"class_name": "Custom>Bend"').replace(
            ', "alpha": 0.10000000149011612', ""
        )

    path = edited("keras_2_15_images.h5", tmp_path / "m.h5", model_config=change)
    code = (
        "import keras\nclass Bend(keras.layers.Layer):\n    def call(self, x):\n        return x\n"
    )
    with pytest.raises(ValueError, match="needs the custom class 'Bend'"):
        open_model(path)
    assert "leaky" in [
        layer.name for layer in open_model(path, modules=[module_with("m", code)]).model.layers
    ]


def test_functions_of_a_module_may_be_named_only_by_a_trusted_file(tmp_path):
    module = module_with("my_functions", MODULE)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation=module.bent)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="bent"):
        open_model(tmp_path / "m.keras", modules=[module])
    found = open_model(tmp_path / "m.keras", modules=[module], trust=True)
    assert found.model.layers[0].activation is module.bent


# --- files of Keras 3 ---


@functools.cache
def small():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.TimeDistributed(layers.Dense(3)),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(2),
        ],
        name="small",
    )
    model.compile("adam", "mse", metrics=["mae"])
    return model


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.hdf5", "named_otherwise"])
def test_files_of_keras_3_in_both_formats(name, tmp_path):
    path = tmp_path / (name if "." in name else "m.h5")
    small().save(path)
    path = path.rename(tmp_path / name)
    found = open_model(path)
    assert found.written_by == f"Keras {keras.__version__}"
    assert found.model.compiled
    # Keras cannot read its own .h5 files with a metric that is named by a string.
    assert len(found.skipped) == (path.suffix != ".keras")
    x = np.ones((2, 4, 4, 2), "float32")
    np.testing.assert_allclose(found.model(x), small()(x), atol=1e-6)
    assert convert(path, tmp_path / "new.keras").difference <= 1e-6


def test_a_model_whose_loss_is_gone_is_opened_without_it(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])

    def mine(y_true, y_pred):
        return y_true - y_pred

    model.compile("sgd", mine)
    model.save(tmp_path / "m.keras")
    found = open_model(tmp_path / "m.keras")
    assert not found.model.compiled
    assert "mine" in found.skipped[0].reason


# --- what is no model file ---


def written(tmp_path, name, content):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.tflite", b"\x1c\0\0\0TFL3rest", "is a TFLite model.*Next step: go back to the Keras"),
        ("net", b"\x1c\0\0\0TFL3rest", "is a TFLite model"),
        ("net.onnx", b"\x08\x07", "is an ONNX model.*Next step"),
        ("saved_model.pb", b"\x08\x01", "TensorFlow graph.*give the folder"),
        ("net.pt", b"PK\x03\x04", "PyTorch.*Next step"),
        ("net.safetensors", b"x", "PyTorch"),
        ("ckpt.index", b"x", "weights without a model.*load_weights"),
        ("ckpt.data-00000-of-00001", b"x", "weights without a model"),
        ("model.pkl", b"\x80\x04", "a pickle.*Next step"),
        (
            "model.json",
            '{"format": "layers-model", "modelTopology": {}}',
            "TensorFlow.js.*Next step",
        ),
        ("model.json", '{"class_name": "Sequential"}', "architecture.*Next step"),
        ("m.keras", "version https://git-lfs.github.com/spec/v1", "Git LFS.*git lfs pull"),
        ("m.h5", "<!DOCTYPE html><html>", "web page.*Next step"),
        ("m.tar.gz", b"\x1f\x8b\x08", "archive.*unpack"),
        ("m.keras", b"", "is empty"),
        ("m.keras", "words", "is no model of Keras"),
        ("m.keras", b"PK\x03\x04broken", "is damaged"),
        ("m.h5", b"\x89HDF\r\n\x1a\nbroken", "is damaged"),
        ("m.keras", None, "is a folder"),
    ],
)
def test_other_files_are_named_with_the_next_step(name, content, message, tmp_path):
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=f"{path.name} .*{message}" if content else message):
        open_model(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["saved_model.pb"],
            r"SavedModel, which Keras 3 cannot open.*tf\.keras\.models\.load_model",
        ),
        (["config.json", "model.weights.h5"], "unpacked.*zip -r"),
        (["model.json"], "TensorFlow.js.*tensorflowjs_converter"),
    ],
)
def test_folders_are_named_with_the_next_step(names, message, tmp_path):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=message):
        open_model(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        open_model(tmp_path / "none.keras")
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        convert(tmp_path / "none.keras", tmp_path / "new.h5")
    small().save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="not the file that is read"):
        convert(tmp_path / "m.keras", tmp_path / "m.keras")


def test_weights_without_a_model(tmp_path):
    small().save_weights(tmp_path / "m.weights.h5")
    path = edited("keras_2_15_images.h5", tmp_path / "w.h5", model_config=None)
    with h5py.File(path, "r+") as file:  # as save_weights of Keras 2 wrote it
        for name in list(file["model_weights"]):
            file.move(f"model_weights/{name}", name)
        file.attrs["layer_names"] = file["model_weights"].attrs["layer_names"]
        del file["model_weights"]
    for name in ("m.weights.h5", "w.h5"):
        with pytest.raises(ValueError, match=r"weights without a model.*load_weights"):
            open_model(tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

        def call(self, x):
            return self.block(x)

    model = Own()
    model(np.zeros((1, 2), "float32"))
    model.save_weights(tmp_path / "own.weights.h5")
    (tmp_path / "own.weights.h5").rename(tmp_path / "own.h5")  # by its content, not by its name
    with pytest.raises(ValueError, match=r"weights without a model.*load_weights"):
        open_model(tmp_path / "own.h5")
    with pytest.raises(ValueError, match="HDF5 file without a model"):
        open_model(tmp_path / "other.h5")


def test_a_file_of_keras_1_needs_keras_2(tmp_path):
    path = edited("keras_2_15_images.h5", tmp_path / "m.h5", keras_version=lambda _: "1.2.2")
    with pytest.raises(ValueError, match=r"written by Keras 1\.2\.2.*Next step"):
        open_model(path)


def test_a_member_that_unpacks_to_far_more_than_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BOMB_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(1 << 21))
    with pytest.raises(ValueError, match="would unpack to 2,097,152"):
        open_model(tmp_path / "m.keras")


@pytest.mark.parametrize("name", ["keras_2_15_nested.h5", "keras_2_15_nested.keras"])
def test_damaged_files_give_a_sentence_or_the_model(name, tmp_path):
    whole, rng = old(name).read_bytes(), random.Random(0)
    path = tmp_path / name
    for number in range(24):
        broken = bytearray(whole)
        if number % 2:
            broken = broken[: rng.randrange(len(whole))]
        else:
            for _ in range(8):
                broken[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        assert name in refusal_of(open_model, path, otherwise=name)


def test_a_list_of_texts_without_an_end_is_refused(tmp_path):
    whole = bytearray(old("keras_2_15_nested.h5").read_bytes())
    heap = whole.index(b"GCOL\1\0\0\0")
    whole[heap + 16 : heap + 32] = bytes(16)  # free space of no size: HDF5 would never return
    (tmp_path / "m.h5").write_bytes(whole)
    with pytest.raises(ValueError, match="a list of texts in it does not end"):
        open_model(tmp_path / "m.h5")


# --- convert's proof ---


def test_a_new_file_that_is_not_the_same_model_is_refused(tmp_path, monkeypatch):
    small().save(tmp_path / "m.keras")
    opened_once = open_model(tmp_path / "m.keras")
    other = keras.models.clone_model(opened_once.model)
    answers = iter([opened_once, types.SimpleNamespace(model=other)])
    monkeypatch.setattr(conversion, "open_model", lambda *_, **__: next(answers))
    (tmp_path / "n.keras").write_text("old")
    with pytest.raises(RuntimeError, match="a weight of the new file"):
        convert(tmp_path / "m.keras", tmp_path / "n.keras")
    assert (tmp_path / "n.keras").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_outputs_that_cannot_be_compared_are_said(tmp_path):
    inputs = keras.Input((), dtype="string")
    lookup = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    keras.Model(inputs, layers.Dense(1)(lookup(inputs))).save(tmp_path / "m.keras")
    converted = convert(tmp_path / "m.keras", tmp_path / "n.keras")
    assert converted.difference is None
    assert converted.rows == 0
    assert "takes text" in converted.skipped[-1].reason


def test_inputs_of_open_length_and_whole_numbers_are_compared(tmp_path):
    image = keras.Input((None, None, 3), name="a")
    number = keras.Input((2,), dtype="int32", name="b")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 9)(image))
    y = layers.Flatten()(layers.Embedding(5, 2)(number))
    keras.Model({"a": image, "b": number}, layers.Concatenate()([x, y])).save(tmp_path / "m.keras")
    assert convert(tmp_path / "m.keras", tmp_path / "n.keras").rows == 4


# --- models of the separate legacy package ---


def test_a_model_of_tf_keras_is_told_what_to_do():
    fake = type("Functional", (), {"__module__": "tf_keras.src.engine.functional"})
    with pytest.raises(ValueError, match="tf_keras"):
        audit(fake())


# --- arrays ---


@pytest.fixture
def arrays(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.arange(12.0).reshape(3, 4), y=np.asfortranarray(np.ones((2, 3), "i2")))
    return path


def test_arrays_are_read(arrays, tmp_path):
    found = read_npz(arrays)
    np.testing.assert_array_equal(found["x"], np.arange(12.0).reshape(3, 4))
    assert found["y"].dtype == np.int16
    assert found["y"].flags.f_contiguous
    found["x"][0] = 1  # may be written to
    np.savez_compressed(tmp_path / "more.npz", e=np.empty((0, 3)), s=np.array(2.5), t=["a", "bc"])
    found = read_npz(tmp_path / "more.npz")
    assert found["e"].shape == (0, 3)
    assert found["s"] == 2.5
    assert list(found["t"]) == ["a", "bc"]


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_arrays_give_a_sentence_or_the_arrays(compressed, tmp_path):
    path, rng = tmp_path / "data.npz", random.Random(1)
    (np.savez_compressed if compressed else np.savez)(path, x=np.arange(9.0), y=np.ones(3, "i4"))
    whole = path.read_bytes()
    right = read_npz(path)
    cut = [whole[:size] for size in range(0, len(whole), 5)]
    flipped = []
    directory = whole.index(b"PK\1\2")
    for position in (*range(0, directory, 3), *range(directory, len(whole))):
        broken = bytearray(whole)
        broken[position] ^= 1 << rng.randrange(8)
        flipped.append(bytes(broken))
    for broken in cut + flipped:
        path.write_bytes(broken)
        if refusal := refusal_of(read_npz, path):
            assert refusal.startswith(str(path))
            assert "\n" not in refusal
        else:  # only names and padding have no checksum
            found = list(read_npz(path).values())
            assert len(found) == 2
            assert all(any(np.array_equal(each, one) for one in right.values()) for each in found)


def npz_with(path, name, content, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content, **options)
    return path


def header(shape, descr="'<f8'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("(10000000000, 10000000000)"), "is damaged: it says that 'x' has shape"),
        (header("(3,)") + bytes(16), "is damaged.*holds 16 bytes"),
        (header("(-3,)") + bytes(24), "is damaged"),
        (header("(1,)", "'|O'") + bytes(8), "Python objects as 'x'"),
        (header("(1,)", "__import__('os')") + bytes(8), "is damaged"),
        (header("(" * 500), "is damaged"),
        (b"no array", "is damaged"),
        (b"", "is damaged"),
    ],
)
def test_arrays_that_are_not_what_they_say(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_npz(npz_with(tmp_path / "x.npz", "x.npy", content))


def test_arrays_that_unpack_to_more_than_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_npz, "BOMB_BYTES", 1 << 20)
    path = npz_with(tmp_path / "x.npz", "x.npy", header("(1000000,)") + bytes(8_000_000))
    with pytest.raises(ValueError, match="would unpack to 8,000,128"):
        read_npz(path)


def test_other_files_in_the_place_of_arrays(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("no arrays")
    for name, message in [
        ("one.npy", "is one array"),
        ("text.npz", "is not an .npz file"),
        ("none.npz", "there is no file"),
        (".", "is a folder, a device or a pipe"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_npz(tmp_path / name)
