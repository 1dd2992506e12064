"""What goes wrong on purpose, across the package: what is told, and what is kept."""

import warnings

import numpy as np
import pytest
from odd import TAME

from bnutils import conventions, evidence, norm

# ---- Odd numbers --------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(8, 3))
KERAS = {"moving_mean": np.zeros(3), "moving_variance": np.ones(3)}
PYTORCH = {"running_mean": np.zeros(3), "running_var": np.ones(3)}
CACHE = norm.batch_norm(X, None, None)[1]


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
    "batch_norm_grad": (lambda dy: norm.batch_norm_grad(dy, CACHE), {"dy": X}, ""),
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
