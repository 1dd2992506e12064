"""What goes wrong on purpose, across the package: what is told, and what is kept."""

import ast
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from docutils.core import publish_doctree
from myst_parser.parsers.docutils_ import Parser
from odd import TAME

from bnutils import checks, conventions, data, evidence, norm, studies
from bnutils._markup import as_myst, escaped, plain

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "measured" / "faults.json"

# ---- The table ----------------------------------------------------------------------------------

# A fault, what happens, what is kept, and the test that shows it.
FAULTS = [
    (
        "A data cache that is damaged in any byte, cut anywhere, another file, a folder, a pipe, "
        "of another user, or promises 800 TB",
        "The data are made again from their package, and the cache is written anew",
        "The right data in every call; what stood in the way is moved aside",
        "test_data.py::test_a_cache_with_any_byte_changed_or_missing_is_made_again",
    ),
    (
        "Writing the cache is interrupted, or the disk is full",
        "Nothing is left behind; the next call writes it",
        "The data of this call",
        "test_data.py::test_an_interrupted_write_leaves_nothing",
    ),
    (
        "A writer is killed",
        "What it left is cleared a day later, by the next writer",
        "The old file, whole",
        "test_data.py::test_what_a_killed_writer_left_is_cleared_a_day_later",
    ),
    (
        "A record that is damaged or cut anywhere",
        "An error before HDF5 reads it, with the command that computes it again",
        "All other records",
        "test_studies.py::test_a_record_with_any_byte_changed_or_missing_is_told_at_once",
    ),
    (
        "A record of another study, or one whose numbers were edited",
        "An error that says so; `make studies` computes it again",
        "All other records",
        "test_studies.py::test_a_record_of_another_study_is_refused_and_computed_again",
    ),
    (
        "A study is stopped or killed half-way",
        "The next run goes on from the blocks that are whole",
        "Every finished block",
        "test_studies.py::test_half_a_block_is_never_taken_for_a_whole_one",
    ),
    (
        "Two processes write one file at once",
        "The last one wins; no reader sees half a file",
        "One whole file",
        "test_faults.py::test_two_processes_share_a_record_and_a_store",
    ),
    (
        "Two commands build the site at once",
        "The second one waits for the first",
        "Every page, of one build",
        "test_site.py::test_builds_of_the_site_wait_for_each_other",
    ),
    (
        "An answer that no exercise expects: numbers of 400 digits, fractions, NaN, lists that "
        "hold themselves, objects that raise",
        "A message, never a traceback",
        "The answer is not shown",
        "test_checks.py::test_whatever_is_answered_gets_a_message",
    ),
    (
        "A function handed in that raises, exits, returns anything, or writes into its input",
        "A message that says what it did",
        "The inputs of the next try",
        "test_checks.py::test_whatever_a_function_does_gets_a_message",
    ),
    (
        "Numbers that batch normalization cannot use: NaN, infinite, complex, text, masked, ragged",
        "An error that names the argument, what is expected and what came",
        "Nothing is computed or changed",
        "test_faults.py::test_an_odd_number_is_taken_or_told",
    ),
    (
        "A momentum or an epsilon in a model's config that is no weight, or no number",
        "The audit says so in a sentence, and makes no percentages of it",
        "All other findings",
        "test_rules_settings.py::test_a_momentum_from_an_edited_config_is_told_and_no_share_is_made_of_it",
    ),
    (
        "Markup, control characters or turned writing in a claim, a record or a model's names",
        "It stands on the page as text",
        "The page around it",
        "test_faults.py::test_hostile_text_stays_text",
    ),
    (
        "Something is audited, folded, checked, loaded or computed between two random draws",
        "The second draw is the same as without",
        "The random states of Python, NumPy, TensorFlow and Keras",
        "test_faults.py::test_global_random_states_are_left_alone",
    ),
    (
        "A worker of several fails, or they do not end in time",
        "The others are stopped; an error tells of each that failed, with its last words",
        "No process is left behind",
        "test_workers.py::test_no_worker_is_left_after_an_error_and_the_error_is_told",
    ),
    (
        "A worker of a Dask cluster is killed while a model is recalibrated on it",
        "Its blocks are computed again by others",
        "The run, and the work of all other workers",
        "test_doctor_blocks.py::test_a_killed_worker_costs_its_blocks_not_the_run",
    ),
    (
        "A home that cannot be written, or none, and no network",
        "Chapters and data run as ever; only the cache is left out",
        "All outputs",
        "test_faults.py::test_a_chapter_needs_no_home_and_no_network",
    ),
]


def page():
    """The table as the page shows it."""
    return {
        "head": ["what goes wrong", "what happens", "what is kept"],
        "rows": [list(row[:3]) for row in FAULTS],
        "note": "Each row is shown by a test of its own, which `tests/test_faults.py` names.",
    }


@pytest.mark.parametrize("shown", [row[3] for row in FAULTS])
def test_every_fault_has_its_test(shown):
    file, name = shown.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_shows_this_table():
    kept = json.loads(PAGE.read_text(encoding="utf-8"))
    assert kept == page(), "run: python tests/test_faults.py"


# ---- Odd numbers --------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(8, 3))
KERAS = {"moving_mean": np.zeros(3), "moving_variance": np.ones(3)}
PYTORCH = {"running_mean": np.zeros(3), "running_var": np.ones(3)}


def gradient(dy):
    return norm.batch_norm_grad(dy, norm.batch_norm(X, None, None)[1])


def later(**changed):
    """A layer whose attributes are assigned after it has learned something."""
    layer = norm.BatchNorm()
    layer(X, training=True)
    vars(layer).update(changed)
    layer(X, training=True)
    layer(X)


ARGUMENTS = {
    "batch_norm": (norm.batch_norm, {"x": X, "gamma": None, "beta": None}, "axis epsilon"),
    "standardize": (norm.standardize, {"x": X, "axis": 0}, "epsilon"),
    "batch_norm_grad": (gradient, {"dy": X}, ""),
    "batch_norm_inference": (
        norm.batch_norm_inference,
        {"x": X, "gamma": None, "beta": None, **KERAS},
        "axis epsilon",
    ),
    "BatchNorm": (lambda **k: norm.BatchNorm(**k)(X, training=True), {}, "axis momentum epsilon"),
    "assigned": (later, {}, "gamma beta moving_mean moving_variance axis momentum epsilon"),
    "to_pytorch": (conventions.to_pytorch, KERAS, "gamma beta momentum epsilon count"),
    "from_pytorch": (conventions.from_pytorch, PYTORCH, "weight bias momentum eps count"),
    "interval": (evidence.interval, {"values": X}, "axis confidence overlap"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_odd_number_is_taken_or_told(name, dtype):
    call, arguments, more = ARGUMENTS[name]
    arguments = {n: v.astype(dtype) if v is X else v for n, v in arguments.items()}
    for argument in (*arguments, *more.split()):
        for odd in TAME:
            with warnings.catch_warnings(), np.errstate(over="ignore"):
                warnings.simplefilter("error")  # no complex number loses a part in silence
                warnings.filterwarnings("ignore", "momentum=")
                try:
                    call(**{**arguments, argument: odd})
                except ValueError as error:
                    told = str(error)
                else:
                    continue
            assert told.startswith("expected "), argument
            assert ", got " in told, argument


# ---- Text ---------------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script> `{directive}` ```{raw} html ``` | a | [x](y) ![i](j) $x$ $$y$$ "
    "{{ s }} {eval-rst} \\ * _ # 1. - + > :::{note} ::: &lt; &#65; \x00\x1b[31m "
    "\u202eturned \ud800 \n\n# head\n\n- item % c (t)= [^1] **b** ~~s~~ \"'" + "w" * 500
)
MYST = {"myst_enable_extensions": ["amsmath", "colon_fence", "deflist", "dollarmath"]}


@pytest.mark.parametrize(
    ("frame", "kinds"),
    [
        ("{}", {"paragraph"}),
        ("term\n: {}", {"definition_list", "definition_list_item", "term", "definition"}),
        ("| a |\n|---|\n| {} |", {"table", "tgroup", "colspec", "thead", "tbody", "row", "entry"}),
    ],
    ids=["paragraph", "definition", "table"],
)
def test_hostile_text_stays_text(frame, kinds):
    tree = publish_doctree(frame.format(as_myst(HOSTILE)), parser=Parser(), settings_overrides=MYST)
    assert {type(node).__name__ for node in tree.findall()} <= {
        *kinds,
        *("document", "paragraph", "Text"),
    }
    said = " ".join(plain(HOSTILE).split())
    assert said in tree.astext()
    assert not set("<\"'") & set(escaped(HOSTILE))
    for text in (said, escaped(HOSTILE)):
        assert text.encode()  # there are no halves of characters
        assert not {"\x00", "\x1b", "\u202e"} & set(text)


# ---- Random states ------------------------------------------------------------------------------


def drawn():
    """What is drawn next, from every global generator."""
    from bnutils._keras import keras, tf

    return [
        random.random(),
        np.random.rand(),  # noqa: NPY002
        *(float(draw(())) for draw in (tf.random.normal, keras.random.normal)),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_global_random_states_are_left_alone(tmp_path):
    from bnutils import doctor
    from bnutils._keras import keras

    k = keras.layers
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")

    def model():
        layers = [k.Dense(8, use_bias=False), k.BatchNormalization(), k.ReLU(), k.Dropout(0.5)]
        made = keras.Sequential([keras.Input((4,)), *layers, k.Dense(1)])
        made.compile("sgd", "mse")
        return made

    old, new = tmp_path / "old.h5", tmp_path / "new.keras"
    model().save(old)
    calls = {
        "audit": lambda: doctor.audit(given),
        "audit with data": lambda: doctor.audit(given, (rows, rows[:, :1]), batch_size=32),
        "recalibrate": lambda: doctor.recalibrate(given, rows),
        "fold": lambda: doctor.fold(given),
        "fold with data": lambda: doctor.fold(given, rows),
        "freeze_bn": lambda: doctor.freeze_bn(given),
        "convert": lambda: doctor.convert(old, new),
        "open_model": lambda: doctor.open_model(new),
        "placement": lambda: checks.placement(checks.PLACEMENT.right),
        "answer": lambda: [checks.answer(name, 0) for name in ("1.1", "4.1", "2.3")],
        "digits": lambda: data.digits().standardized(),
        "two_classes": data.two_classes,
        "load": lambda: studies.load("gradients"),
        "run": lambda: studies.get("saturation").run(seed=[0], workers=1),
    }
    for name, call in calls.items():
        keras.utils.set_random_seed(3)
        given = model()
        expected = drawn()
        keras.utils.set_random_seed(3)
        given = model()
        call()
        assert drawn() == expected, name


# ---- Home and network ---------------------------------------------------------------------------

OFFLINE = """
import socket

def refuse(*arguments, **more):
    raise OSError("there is no network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
CHAPTER = """
import json, sys

import matplotlib

matplotlib.use("agg")
from bnutils import checks, data, studies

names = {"checks": checks}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "code" and not source.startswith("# Your answer"):
        exec(source, names)
print(len(data.mnist().train), len(studies.load("gradients").sizes))
"""


def test_a_chapter_needs_no_home_and_no_network(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OFFLINE, encoding="utf-8")
    hidden = {"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"}
    told = {name: value for name, value in os.environ.items() if name not in hidden}
    told["HOME"] = os.devnull  # not even the super-user can make a folder there
    told["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    chapter = ROOT / "notebooks" / "02_the_math.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", CHAPTER, str(chapter)],
        env=told,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4000 4"
    lines = [line for line in done.stderr.splitlines() if "atplotlib" not in line]
    assert lines == []
    assert {each.name for each in tmp_path.iterdir()} <= {"sitecustomize.py", "__pycache__"}


# ---- Two processes ------------------------------------------------------------------------------

TWO = """
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from bnutils.evidence import Study, Tolerance
from bnutils.evidence.record import digest, read, write

def block(settings):
    return xr.Dataset({"score": ("step", np.random.default_rng(settings["seed"]).normal(size=50))})

study = Study(name="tiny", question="?", block=block, dims={"seed": range(8)},
              tolerances={"score": Tolerance(1e-12)})
folder = Path(sys.argv[1])
seen = set()
for _ in range(2):
    record = study.run(workers=1, store=folder / "store")
    for _ in range(5):
        write(record, folder / "tiny.nc")
        seen.add(digest(read(folder / "tiny.nc", study="tiny")))
print(*seen)
"""


def test_two_processes_share_a_record_and_a_store(tmp_path):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = {each.communicate(timeout=300)[0] for each in both}
    assert [each.returncode for each in both] == [0, 0]
    assert len(said) == 1
    assert len(said.pop().split()) == 1
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == [*(f"{index:05d}.nc" for index in range(8)), "tiny.nc"]
    assert not list(tmp_path.rglob(".bnutils-*"))


if __name__ == "__main__":
    PAGE.write_text(json.dumps(page(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
