"""Chapter 6: a Keras model whose moving statistics lag behind its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from bnutils import data
from bnutils.evidence import Hypothesis, Study, Tolerance
from bnutils.studies.common import Settings

HYPOTHESES: dict[str, Hypothesis] = {}
CLAIMS: dict[str, Any] = {}


def lag_block(settings: Settings) -> xr.Dataset:
    """Train the article's model in Keras; accuracy with batch and with moving statistics."""
    from bnutils._keras import keras

    seed, problem = settings["seed"], data.two_classes(seed=settings["seed"])
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((problem.n_features,))])
    for units in (64, 32):
        model.add(keras.layers.Dense(units))
        model.add(keras.layers.BatchNormalization(momentum=settings["momentum"]))
        model.add(keras.layers.Activation("relu"))
    model.add(keras.layers.Dense(1))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    x, y = problem.standardized().train.x, problem.train.y
    tests = problem.standardized().test
    scores = []
    for _ in range(settings["epochs"]):
        model.fit(x, y, batch_size=64, epochs=1, verbose=0)
        weights = model.get_weights()  # a look in training mode moves the statistics
        logits = [np.asarray(model(tests.x, training=mode))[:, 0] for mode in (True, False)]
        model.set_weights(weights)
        scores.append([((each > 0) == tests.y).mean() for each in logits])
    keras.backend.clear_session()
    return xr.Dataset(
        {"accuracy": (("epoch", "statistics"), np.array(scores, np.float32))},
        {"epoch": range(1, settings["epochs"] + 1), "statistics": ["batch", "moving"]},
    )


STUDIES = (
    Study(
        name="statistics-lag",
        question="How long do the moving statistics of a Keras model lag behind its weights?",
        block=lag_block,
        dims={"momentum": [0.9, 0.99], "seed": range(10)},
        fixed={"epochs": 8},
        tolerances={"accuracy": Tolerance(mean=0.03)},
    ),
)
