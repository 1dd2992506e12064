"""The shell, also as `python -m bnutils`: what it prints, what it writes, its exit status."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import types
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import bnutils
from bnutils import doctor
from bnutils.cli import main

# Keras 3.15 saves weights with an old form of NumPy's copy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes, signals, modes")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such files")


MODULE = """\
import keras

print("this line of the user's must not reach the report")


@keras.saving.register_keras_serializable("shell")
class Twice(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs
"""


@pytest.fixture(scope="module")
def keras():
    from bnutils._keras import keras

    return keras


@pytest.fixture(scope="module")
def files(tmp_path_factory, keras):
    """A folder with a model that was trained for 8 steps, its data, and files that are neither."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, size=(256, 4)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) > 20).astype("float32")

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, use_bias=False),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Dense(1, activation="sigmoid"),
        ],
        name="sequential",  # whatever other tests have named before
    )
    model.compile(loss="binary_crossentropy")
    model.fit(x, y, batch_size=32, verbose=0)
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x, y=y)

    left, right = keras.Input((4,), name="left"), keras.Input((2,), name="right")
    both = layers.Dense(8, use_bias=False)(layers.Concatenate()([left, right]))
    both = layers.ReLU()(layers.BatchNormalization(name="bn")(both))
    outputs = layers.Dense(1, name="out")(both)
    keras.Model([left, right], outputs).save(folder / "two.keras")
    keras.Model({"left": left, "right": right}, outputs).save(folder / "named.keras")
    np.savez(folder / "two.npz", left=x, x_right=x[:, :2], y_out=y)

    unsafe = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda v: v * 2)])
    unsafe.save(folder / "lambda.keras")
    (folder / "shell_layers.py").write_text(MODULE)
    (folder / "broken_module.py").write_text("raise SystemExit(0)")

    np.savez(folder / "extra.npz", x=x, y=y, weights=y)
    np.savez(folder / "no_x.npz", images=x)
    np.savez(folder / "rows.npz", x=x, y=y[:-1])
    np.savez(folder / "columns.npz", x=x[:, :3])
    np.savez(folder / "objects.npz", x=np.array([{}, {}], dtype=object))
    np.save(folder / "one.npy", x)
    (folder / "text.npz").write_text("no arrays")
    (folder / "text.keras").write_text("no model")
    with zipfile.ZipFile(folder / "zip.keras", "w") as archive:
        archive.writestr("note.txt", "no model")
    with zipfile.ZipFile(folder / "config.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    for name in ("old.h5", "ckpt.index", "net.tflite"):
        (folder / name).write_text("x")
    model.save_weights(folder / "net.weights.h5")
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_text("x")
    (folder / "folder.keras").mkdir()
    return folder


@pytest.fixture
def at(files, tmp_path, monkeypatch):
    """The same files in a folder of their own, which is the current one."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    return main(words.split())


def contents(folder):
    """All files below a folder, with what is in them."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- refused ---


REFUSED = [
    ("audit none.keras", "there is no file none.keras"),
    ("audit folder.keras", "a folder"),
    ("audit saved", "a SavedModel, which Keras 3 cannot open.*Next step"),
    ("audit old.h5", "no model of Keras"),
    ("audit net.weights.h5", "weights without a model.*Next step"),
    ("audit ckpt.index", "weights without a model.*Next step"),
    ("audit net.tflite", "TFLite.*Next step"),
    ("audit text.keras", "no model of Keras"),
    ("audit zip.keras", "not of a model.*config.json"),
    ("convert net.tflite --output out.keras", "TFLite.*Next step"),
    ("convert model.keras --output out.h5", "an --output that ends in .keras"),
    ("convert model.keras --output model.keras", "is the input file model.keras"),
    ("convert lambda.keras --output out.keras", "Lambda layer.*--trust"),
    ("fold model.keras --output fifo.keras", "a model needs a file, this is a device or a pipe"),
    ("fold model.keras --output null.keras", "a model needs a file, this is a device or a pipe"),
    ("fold model.keras --output stdout.keras", "a model needs a file, this is a device or a pipe"),
    (f"audit {'a' * 300}.keras", "cannot be read: File name too long"),
    (f"audit model.keras --output {'a' * 300}", "cannot write to a+: File name too long"),
    (f"audit model.keras --data {'a' * 300}", "is not an .npz file: File name too long"),
    ("audit model.keras/x.keras", "cannot be read: Not a directory"),
    ("audit fifo.keras", "a device or a pipe"),
    ("audit model.keras --data fifo.keras", "a folder, a device or a pipe"),
    ("audit config.keras", "config.keras cannot be loaded"),
    ("audit lambda.keras", "Lambda layer.*--trust"),
    ("audit model.keras --import no_such_module", "cannot import no_such_module: ModuleNotFound"),
    ("audit model.keras --import broken_module", "cannot import broken_module: SystemExit: 0"),
    ("audit model.keras --data none.npz", "there is no file none.npz"),
    ("audit model.keras --data text.npz", "text.npz is not an .npz file"),
    ("audit model.keras --data one.npy", "one.npy is one array"),
    ("audit model.keras --data model.keras", "not an .npz file: it holds '.*', which is no"),
    ("audit model.keras --data objects.npz", "objects.npz holds Python objects as 'x'"),
    ("audit model.keras --data no_x.npz", "arrays named x, and perhaps y, got images"),
    ("audit model.keras --data extra.npz", "arrays named x.*got x, y, weights"),
    ("audit two.keras --data data.npz", "arrays named x_left, x_right"),
    ("audit model.keras --data rows.npz", "256.*255"),
    ("audit model.keras --data columns.npz", r"shape \(None, 4\).*\(\d+, 3\)"),
    ("audit model.keras --output model.keras", "--output is the input file model.keras"),
    ("audit model.keras --data data.npz --output data.npz", "--output is the input file data.npz"),
    ("audit model.keras --output none/report.txt", "cannot write to none/report.txt"),
    ("audit model.keras --output saved", "cannot write to saved"),
    ("fold model.keras --output model.keras", "is the input file model.keras: say --in-place"),
    ("fold model.keras --output ./link.keras", "is the input file model.keras: say --in-place"),
    ("fold model.keras --output out.h5", "an --output that ends in .keras"),
    ("recalibrate model.keras --data data.npz --output none/m.keras", "cannot write to none"),
    ("recalibrate model.keras --data columns.npz --in-place", r"shape \(None, 4\).*\(32, 3\)"),
    ("recalibrate model.keras --data no_x.npz --in-place", "got images"),
    ("recalibrate lambda.keras --data data.npz --in-place", "--trust"),
]


@POSIX
@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refused_in_one_line_with_nothing_changed(words, message, at, capfd):
    (at / "link.keras").symlink_to(at / "model.keras")
    os.mkfifo(at / "fifo.keras")
    (at / "null.keras").symlink_to("/dev/null")
    (at / "stdout.keras").symlink_to("/dev/stdout")
    before = contents(at)
    assert run(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(f"^bnutils: .*{message}", err)
    assert contents(at) == before


@pytest.mark.parametrize(
    "words",
    [
        "mend model.keras",
        "audit",
        "audit model.keras --format html",
        "audit model.keras --batch-size 0",
        "audit model.keras --train-size 1e3",
        "recalibrate model.keras --output m.keras",
        "recalibrate model.keras --data data.npz",
        "fold model.keras",
        "fold model.keras --output m.keras --in-place",
        "recalibrate model.keras --data data.npz --in-place --method quick",
        "recalibrate model.keras --data data.npz --in-place --keep never",
        "convert old.h5",
        "convert old.h5 --in-place",
        "audit a\0b.keras",
    ],
)
def test_wrong_words_exit_with_2_and_the_usage(words, capsys):
    with pytest.raises(SystemExit) as error:
        run(words)
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("usage: bnutils")


def test_without_a_command_the_help_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bnutils"])
    told = []
    for words in ([], ["--help"], None):
        with pytest.raises(SystemExit) as error:
            main(words)
        assert error.value.code == 0
        told.append(capsys.readouterr().out)
    assert "recalibrate" in told[0]
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("command", ["", "audit", "recalibrate", "fold", "convert"])
def test_help_fits_100_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as error:
        run(f"{command} --help")
    assert error.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_version(capsys):
    with pytest.raises(SystemExit) as error:
        run("--version")
    assert error.value.code == 0
    assert capsys.readouterr().out == f"bnutils {bnutils.__version__}\n"


def test_it_is_installed_as_bnutils():
    (script,) = metadata.entry_points(group="console_scripts", name="bnutils")
    assert script.load() is main


def test_an_interruption_is_no_fault(at, capfd):
    (at / "interrupting.py").write_text("raise KeyboardInterrupt")
    assert run("audit model.keras --import interrupting") == 130
    assert capfd.readouterr() == ("", "bnutils: interrupted\n")


# --- what it finds, and what mends it ---


def test_recalibrate_mends_what_audit_finds(at, keras, capfd):
    before = contents(at)
    assert run("audit model.keras --data data.npz --batch-size 32") == 1
    assert "stale-statistics" in capfd.readouterr().out

    assert run("recalibrate model.keras --data data.npz --output mended.keras") == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "Recalibrated 1 layer (layerwise) on 256 rows, in 1 pass."
    assert err == ""
    mended = keras.saving.load_model(at / "mended.keras")
    fed_to_bn = np.load(at / "data.npz")["x"] @ np.array(mended.layers[0].kernel)
    bn = mended.get_layer("bn")
    np.testing.assert_allclose(bn.moving_mean, fed_to_bn.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bn.moving_variance, fed_to_bn.var(axis=0), rtol=1e-5)

    assert run("audit mended.keras --data data.npz --batch-size 32") == 0
    assert "mended" not in before
    assert {path: contents(at)[path] for path in before} == before


@pytest.mark.parametrize("options", ["--method one-pass", "--batch-size 100"])
def test_recalibrate_takes_its_options(options, at, capfd):
    words = f"recalibrate model.keras --data data.npz --output mended.keras {options}"
    assert run(words) == 0
    method = "one-pass" if "one-pass" in options else "layerwise"
    assert capfd.readouterr().out.startswith(f"Recalibrated 1 layer ({method}) on 256 rows")


def test_fold_writes_a_model_without_batch_normalization(at, keras, capfd):
    assert run("fold model.keras --output folded.keras") == 0
    assert "bn" in capfd.readouterr().out
    model = keras.saving.load_model(at / "model.keras")
    folded = keras.saving.load_model(at / "folded.keras")
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in folded.layers)
    x = np.load(at / "data.npz")["x"]
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-6)


@POSIX
@pytest.mark.parametrize("command", ["fold", "recalibrate --data data.npz"])
def test_in_place_goes_through_a_link_and_keeps_the_mode(command, at):
    model, link = at / "model.keras", at / "link.keras"
    old = model.read_bytes()
    model.chmod(0o640)
    link.symlink_to(model)
    files = set(at.iterdir())
    assert run(f"{command} link.keras --in-place") == 0
    assert link.is_symlink()
    assert model.read_bytes() != old
    assert stat.S_IMODE(model.stat().st_mode) == 0o640
    assert set(at.iterdir()) == files


def test_an_output_that_is_there_is_replaced(at, keras):
    (at / "out.keras").write_text("old")
    assert run("fold model.keras --output out.keras") == 0
    assert keras.saving.load_model(at / "out.keras").built


@POSIX
def test_a_write_that_fails_leaves_the_old_file_whole(at, capfd):
    import resource

    before = contents(at)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        status = run("recalibrate model.keras --data data.npz --in-place")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2
    assert re.match("bnutils: cannot write .*model.keras: OSError", capfd.readouterr().err)
    assert contents(at) == before


# --- models with several inputs, and with code ---


@pytest.mark.parametrize("model", ["two.keras", "named.keras"])
def test_several_inputs_are_matched_by_name(model, at, keras, capfd):
    assert run(f"recalibrate {model} --data two.npz --output mended.keras") == 0
    mended = keras.saving.load_model(at / "mended.keras")
    x = np.load(at / "two.npz")
    both = np.concatenate([x["left"], x["x_right"]], axis=1)
    kernel = next(layer for layer in mended.layers if layer.name.startswith("dense")).kernel
    np.testing.assert_allclose(
        mended.get_layer("bn").moving_mean, (both @ kernel).mean(axis=0), rtol=1e-5, atol=1e-5
    )
    capfd.readouterr()
    assert run(f"audit {model} --data two.npz --format json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["batch_norms"] == 1
    assert "modes-disagree" not in [missed["what"] for missed in report["skipped"]]


def test_trust_runs_the_code_in_the_file(at, capfd):
    assert run("audit lambda.keras --trust") == 2
    assert "no batch normalization layer" in capfd.readouterr().out


def test_custom_code_is_refused_until_it_is_imported(at, keras, capfd, monkeypatch):
    monkeypatch.syspath_prepend(at)
    twice = importlib.import_module("shell_layers").Twice
    model = keras.Sequential([keras.Input((4,)), twice(), keras.layers.BatchNormalization()])
    model.save("custom.keras")
    keras.saving.get_custom_objects().pop("shell>Twice")
    del sys.modules["shell_layers"]
    capfd.readouterr()

    assert run("audit custom.keras") == 2
    assert re.fullmatch(
        "bnutils: custom.keras needs the custom class 'Twice'.*--import MODULE.*\n",
        capfd.readouterr().err,
    )
    run("audit custom.keras --format json --import shell_layers")
    out, err = capfd.readouterr()
    assert json.loads(out)["batch_norms"] == 1
    assert "must not reach the report" in err


def test_fold_keeps_the_trust_in_what_it_rebuilds(at, keras, capfd):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            layers.BatchNormalization(),
            layers.Lambda(lambda v: v * 2, name="twice"),
        ]
    )
    model.save("trusted.keras")
    assert run("fold trusted.keras --output small.keras --trust") == 0
    assert "1 of 1" in capfd.readouterr().out
    assert run("audit small.keras") == 2
    assert "--trust" in capfd.readouterr().err
    small = keras.saving.load_model("small.keras", safe_mode=False)
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(small(x), model(x), atol=1e-5)


# --- files of Keras 2 ---


@pytest.fixture
def old(at):
    with zipfile.ZipFile(Path(__file__).parent / "models" / "models.zip") as archive:
        archive.extract("keras_2_2_images.h5", at)
    return (at / "keras_2_2_images.h5").rename(at / "old.h5")


def test_an_old_file_is_audited_and_what_is_other_than_there_is_said_on_stderr(old, capfd):
    before = old.read_bytes()
    run("audit old.h5 --format json")
    out, err = capfd.readouterr()
    assert json.loads(out)["batch_norms"] == 3
    assert err.startswith("bnutils: old.h5 was written by Keras 2.2.5.")
    assert "its moments begin anew" in err
    assert old.read_bytes() == before


def test_an_old_file_is_converted_with_the_same_outputs(old, at, keras, capfd):
    before = old.read_bytes()
    assert run("convert old.h5 --output new.keras") == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "written by Keras 2.2.5, is now new.keras" in out
    assert "the outputs differ by at most 0.0e+00 of the largest" in out
    assert keras.saving.load_model("new.keras").compiled
    assert old.read_bytes() == before
    assert not list(at.glob(".bnutils-*"))


@pytest.mark.parametrize("command", ["fold", "recalibrate --data data.npz"])
def test_an_old_file_is_not_made_a_new_one_under_its_old_name(command, old, capfd):
    before = old.read_bytes()
    assert run(f"{command} old.h5 --in-place") == 2
    assert re.search("would become a .keras file: say --output NAME.keras", capfd.readouterr().err)
    assert old.read_bytes() == before


# --- exit status ---


@pytest.mark.parametrize(
    ("sound", "faulty", "status"), [(True, False, 0), (False, True, 1), (False, False, 2)]
)
def test_the_exit_status_says_whether_it_could_look(sound, faulty, status, at, monkeypatch, capfd):
    report = types.SimpleNamespace(sound=sound, faulty=faulty)
    monkeypatch.setattr(doctor, "audit", lambda *_, **__: report)
    assert run("audit model.keras") == status
    assert capfd.readouterr().out


def test_statistics_that_make_it_worse_are_not_written(at, monkeypatch, capfd):
    worse = types.SimpleNamespace(kept=False)
    monkeypatch.setattr(doctor, "recalibrate", lambda *_, **__: worse)
    before = contents(at)
    assert run("recalibrate model.keras --data data.npz --output mended.keras") == 1
    assert "kept=False" in capfd.readouterr().out
    assert contents(at) == before


def test_frozen_layers_are_left_alone_unless_they_are_named(at, keras, capfd):
    model = keras.saving.load_model("model.keras")
    model.get_layer("bn").trainable = False
    model.save("frozen.keras")
    before = contents(at)
    words = "recalibrate frozen.keras --data data.npz --output mended.keras"
    assert run(words) == 1
    assert "frozen" in capfd.readouterr().out
    assert contents(at) == before
    assert run(f"{words} --layer bn") == 0
    assert (at / "mended.keras").exists()


def test_what_recalibrate_is_told(at, monkeypatch):
    told = {}

    def recalibrate(model, data, **options):
        told.update(options)
        return types.SimpleNamespace(kept=True)

    monkeypatch.setattr(doctor, "recalibrate", recalibrate)
    words = "--layer bn --layer base --keep always --batch-size 7"
    assert run(f"recalibrate model.keras --data data.npz --output mended.keras {words}") == 0
    expected = {"layers": ["bn", "base"], "keep": "always", "batch_size": 7, "method": "layerwise"}
    assert told == expected


# --- signals ---


@pytest.fixture(autouse=True)
def python_s_own_interrupt():
    """A process that a script has put into the background ignores Ctrl-C, and so does the shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("target", ["out.keras", "in place"])
def test_a_signal_while_a_model_is_written_leaves_all_as_it_was(
    name, target, at, keras, monkeypatch, capfd
):
    if name == "SIGHUP":  # ignored in some environments, as under nohup
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    (at / "out.keras").write_text("old")
    before, handlers = contents(at), [signal.getsignal(each) for each in (2, 15)]

    def save(model, path):
        Path(path).write_text("half of it")
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.01)

    monkeypatch.setattr(keras.Model, "save", save)
    where = "--in-place" if target == "in place" else f"--output {target}"
    assert run(f"recalibrate model.keras --data data.npz {where}") == 128 + getattr(signal, name)
    assert capfd.readouterr() == ("", "bnutils: interrupted\n")
    assert contents(at) == before
    assert not list(at.glob(".bnutils-*"))
    assert [signal.getsignal(each) for each in (2, 15)] == handlers


@POSIX
def test_a_signal_at_any_other_time_stops_at_once(at, capfd):
    (at / "stopping.py").write_text("import os, time\nos.kill(os.getpid(), 15)\ntime.sleep(9)")
    assert run("audit model.keras --import stopping") == 143
    assert capfd.readouterr() == ("", "bnutils: interrupted\n")


@POSIX
def test_a_signal_that_somebody_swallows_still_stops(at, capfd):
    code = "import os\ntry:\n    os.kill(os.getpid(), 15)\nexcept:\n    pass"
    (at / "swallowing.py").write_text(code)
    assert run("fold model.keras --output out.keras --import swallowing") == 143
    assert not (at / "out.keras").exists()
    assert capfd.readouterr().out == ""


# --- what reaches stdout and files ---


def test_audit_writes_its_report_to_a_file(at, capfd):
    assert run("audit model.keras --data data.npz --output report.txt") == 1
    assert run("audit model.keras --data data.npz --output r.json --format json") == 1
    assert capfd.readouterr() == ("", "")
    report = json.loads((at / "r.json").read_text(encoding="utf-8"))
    assert report["sound"] is False
    text = (at / "report.txt").read_text(encoding="utf-8")
    assert all(found["rule"] in text for found in report["diagnoses"])


def test_a_log_has_no_colors_and_a_terminal_has(at, capfd, monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    run("audit model.keras --data data.npz")
    log = capfd.readouterr().out
    assert "ERROR stale-statistics" in log
    assert "\x1b" not in log
    assert all(line == line.rstrip() and len(line) <= 80 for line in log.splitlines())

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    run("audit model.keras --data data.npz")
    assert "\x1b[1;31mERROR" in capfd.readouterr().out


@POSIX
def test_streams_are_written_to_and_stay(at, capfd):
    os.mkfifo(at / "fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append((at / "fifo").read_text("utf-8")))
    reader.start()
    status = run("audit model.keras --output fifo")
    reader.join(timeout=10)
    assert stat.S_ISFIFO((at / "fifo").stat().st_mode)
    os.write(1, b"before\n")
    (at / "link").symlink_to("/dev/stdout")
    names = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link")
    there = [name for name in names if os.path.exists(name)]
    for stream in (*there, "/dev/null"):
        assert run(f"audit model.keras --output {stream}") == status
    assert capfd.readouterr().out == "before\n" + len(there) * read[0]
    assert run("audit model.keras --output /dev/stderr") == status
    assert capfd.readouterr() == ("", read[0])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert (at / "link").is_symlink()


@POSIX
def test_what_stands_in_a_file_behind_stdout_stays(at, tmp_path):
    log = at / "log"
    log.write_text("old\n")
    kept = os.dup(1)
    try:
        with log.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
        run("audit model.keras --output /dev/stdout")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert log.read_text("utf-8").startswith("old\n")
    assert "model" in log.read_text("utf-8")


@LINUX
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("audit model.keras", "cannot print the report: No space left on device"),
        ("audit model.keras --output /dev/full", "cannot write /dev/full: No space left on device"),
        ("--help", "cannot print the report: No space left on device"),
        ("--version", "cannot print the report: No space left on device"),
    ],
)
def test_a_full_stdout_is_said(words, message, at, capfd, monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(words) == 2
    assert capfd.readouterr() == ("", f"bnutils: {message}\n")


def test_a_closed_stdout_is_said(at, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run("audit model.keras") == 2
    assert capfd.readouterr().err == "bnutils: cannot print the report: stdout is closed\n"
    assert run("fold model.keras --output out.keras") == 2
    assert (at / "out.keras").exists()
    run("audit model.keras --output report.txt")
    assert (at / "report.txt").read_text("utf-8")


@LINUX
def test_a_closed_or_full_stderr_is_borne(at, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert run("audit none.keras") == 2
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert run("audit none.keras") == 2
    assert capfd.readouterr() == ("", "")


@POSIX
def test_closed_descriptors_do_not_catch_files(at):
    words = 'exec "$0" -m bnutils audit none.keras <&- >&- 2>&-; exit $?'
    assert subprocess.run(["sh", "-c", words, sys.executable]).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_encoding_gets_the_report(encoding, at, keras, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(name="schön_归")])
    model.save("named.keras")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    run("audit named.keras")
    shown = stdout.buffer.getvalue().decode(encoding)
    assert ("schön" if encoding != "ascii" else r"sch\xf6n") in shown
    assert ("归" if encoding == "utf-8" else r"\u5f52") in shown


@LINUX
def test_names_that_are_no_unicode(at, capfd):
    strange = at / os.fsdecode(b"m\xff.keras")
    shutil.copy(at / "model.keras", strange)
    assert run("audit model.keras") == main(["audit", str(strange)])
    assert main(["fold", str(strange), "--output", str(at / os.fsdecode(b"o\xff.keras"))]) == 0
    assert (at / os.fsdecode(b"o\xff.keras")).exists()
    capfd.readouterr()
    assert main(["audit", os.fsdecode(b"none\xff.keras")]) == 2
    assert re.fullmatch(r"bnutils: there is no file none.+\.keras\n", capfd.readouterr().err)


def test_a_closed_pipe_is_no_fault(at, capfd, monkeypatch):
    end, start = os.pipe()
    os.close(end)
    with open(start, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        status = run("audit model.keras --data data.npz")
    assert status == 1
    assert capfd.readouterr() == ("", "")


def test_a_process_prints_the_report_and_nothing_else(at):
    words = "-m bnutils audit model.keras --data data.npz --format json --train-size 256"
    plain = {"CI": "true", "PYTHONIOENCODING": "ascii"}
    if bnutils.__file__.isascii():  # else Python 3.11 cannot read where the package is
        plain |= {"LANG": "C", "LC_ALL": "C"}
    env = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, *words.split()], capture_output=True, text=True, env={**env, **plain}
    )
    assert done.stderr == ""
    assert done.returncode == 1
    assert json.loads(done.stdout)["model"]


@POSIX
def test_a_terminal_gets_the_report_in_colors_and_nothing_else(at):
    import pty

    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "NO_"))}
    words = [sys.executable, "-m", "bnutils", "audit", "model.keras"]
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm-256color"}
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux's way to say that a terminal has ended
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode in (0, 1, 2)
    assert b"\x1b[" in shown
    text = re.sub(r"\x1b\[[\d;]*m", "", shown.decode())
    assert text.startswith("sequential")


def test_the_readme_shows_what_audit_prints(at, capfd):
    text = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    shown = re.search(r"\nbnutils (audit model\.keras)\n```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert run(shown[1]) == 1
    assert capfd.readouterr().out == shown[2]
