"""Chapter 2: the math: identities, checked on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from bnutils import network, norm
from bnutils.evidence import Claim, Finding, Hypothesis, Study, Tolerance, exact
from bnutils.studies import load
from bnutils.studies.common import Settings

SHAPES = {"dense": (64, 30), "convolution": (16, 8, 8, 10)}


def gradient_block(settings: Settings) -> xr.Dataset:
    """How far the gradient that BN passes on is from centered, and from orthogonal to x-hat.

    Each sum is measured against the sum of the sizes of what it adds up; the worst neuron counts.
    The inputs have means and standard deviations of their own, as have gamma and beta.
    """
    shape = SHAPES[settings["shape"]]
    axes, units = tuple(range(len(shape) - 1)), shape[-1]
    found = []
    for seed in settings["seed"]:
        rng = np.random.default_rng([seed, 2])
        sd = 10 ** rng.uniform(-1, 1, size=units)
        x = sd * (rng.uniform(-10, 10, size=units) + rng.normal(size=shape))
        gamma, beta = rng.normal(size=(2, units))
        _, cache = norm.batch_norm(x, gamma, beta, epsilon=settings["epsilon"])
        dx, _, _ = norm.batch_norm_grad(rng.normal(size=shape), cache)
        x_hat, _, _ = norm.standardize(x, axes, settings["epsilon"])
        found.append([off_balance(each, axes).max() for each in (dx, dx * x_hat)])
    centered, orthogonal = np.transpose(found)
    return xr.Dataset(
        {"centered": ("seed", centered), "orthogonal": ("seed", orthogonal)},
        {"seed": list(settings["seed"])},
    )


def bias_block(settings: Settings) -> xr.Dataset:
    """What a bias before BN does to the output, and the gradient that it gets, both relative.

    The output with a bias is compared with the output without; the gradient of the bias is the sum
    of the gradients of the weighted inputs, and is measured against the sum of their sizes.
    """
    shape = SHAPES[settings["shape"]]
    axes, units = tuple(range(len(shape) - 1)), shape[-1]
    found = []
    for seed in settings["seed"]:
        rng = np.random.default_rng([seed, 2])
        if settings["shape"] == "dense":
            layer = network.Dense(rng.normal(size=(1, 50, units)), None)
            z = layer(rng.normal(size=(shape[0], 50)))[0]
        else:
            layer = network.Conv2D(rng.normal(size=(1, 3, 3, 5, units)), None, (1, 1), "same")
            z = layer(rng.normal(size=(*shape[:-1], 5)))[0]
        bias = settings["bias"] * rng.normal(size=units)
        gamma, beta = rng.normal(size=(2, units))
        outputs, caches = zip(
            *(norm.batch_norm(each, gamma, beta) for each in (z, z + bias)), strict=True
        )
        change = np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max()
        dz, _, _ = norm.batch_norm_grad(rng.normal(size=shape), caches[1])
        found.append([change, off_balance(dz, axes).max()])
    change, gradient = np.transpose(found)
    return xr.Dataset(
        {"change": ("seed", change), "gradient": ("seed", gradient)},
        {"seed": list(settings["seed"])},
    )


def identities(epsilons: Sequence[float], seeds: Sequence[int]) -> pd.DataFrame:
    """How far the worst of all neurons is from centered and orthogonal, computed here and now.

    Args:
        epsilons: a column for each.
        seeds: of the random draws.

    Raises:
        ValueError: no list, an empty one, or a value that is none.

    Example:
        >>> identities(epsilons=[0.0], seeds=[0]).round(3)
        epsilon     0.0
        centered    0.0
        orthogonal  0.0
    """
    if isinstance(epsilons, str) or not np.ndim(epsilons) or not np.size(epsilons):
        raise ValueError(f"expected epsilons, a list such as [0.0, 0.001], got {epsilons!r}")
    study = next(study for study in STUDIES if study.name == "gradient-identities")
    found = {
        epsilon: study.run(seed=seeds, epsilon=epsilon, workers=1).max().to_pandas()
        for epsilon in epsilons
    }
    return pd.DataFrame(found).rename_axis(columns="epsilon")


def off_balance(terms: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """|sum| of some terms over axes, divided by the sum of their sizes."""
    return np.abs(terms.sum(axes)) / np.abs(terms).sum(axes)


# -- hypotheses -----------------------------------------------------------------------------------

_ROUNDING = (
    "float64 has 16 digits, and sums of up to a thousand terms may lose a few; a wrong term in a "
    "formula would give something of size 1"
)
_DRAWS = "20 random draws each of a dense layer (64 examples, 30 neurons) and a convolution "
_SIZES = "(16 images of 8 × 8, 10 channels), float64"

HYPOTHESES = {
    each.name: each
    for each in [
        Hypothesis(
            name="gradient-centered-orthogonal",
            claim="The gradient that BN passes on is centered over the batch and orthogonal to "
            "x-hat.",
            kind="identity",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 3 (it follows from their gradient)",
            label="largest |sum of dx| or |sum of dx times x-hat|, as a share of the sum of sizes",
            claimed="below",
            null=1e-12,
            reason=_ROUNDING,
            spec=".1e",
            setting=f"{_DRAWS}{_SIZES}, epsilon 0, random means, scales, gamma and beta",
        ),
        Hypothesis(
            name="bias-before-bn-dead",
            claim="A bias right before BN has no effect and receives no gradient.",
            kind="identity",
            source="ioffe2015",
            said_by="Ioffe and Szegedy 2015, section 3.2",
            label="largest change of the output, or gradient of the bias, both relative",
            claimed="below",
            null=1e-12,
            reason=_ROUNDING,
            spec=".1e",
            setting=f"{_DRAWS}{_SIZES}, epsilon 0.001, in training mode, random weights, gamma and "
            "beta, biases of size 10; the gradient as a share of the sum of the sizes it adds up",
        ),
    ]
}

STUDIES = (
    Study(
        name="gradient-identities",
        question="Is the gradient that BN passes on centered, and orthogonal to x-hat?",
        block=gradient_block,
        dims={"shape": list(SHAPES), "seed": range(20)},
        together=["seed"],
        fixed={"epsilon": 0.0},
        tolerances={"centered": Tolerance(1e-12), "orthogonal": Tolerance(1e-12)},
        hypotheses=(HYPOTHESES["gradient-centered-orthogonal"],),
    ),
    Study(
        name="bias-before-bn",
        question="Does a bias before BN do anything?",
        block=bias_block,
        dims={"shape": list(SHAPES), "seed": range(20)},
        together=["seed"],
        fixed={"bias": 10.0},
        tolerances={"change": Tolerance(1e-12), "gradient": Tolerance(1e-12)},
        hypotheses=(HYPOTHESES["bias-before-bn-dead"],),
    ),
)


# -- claims ---------------------------------------------------------------------------------------


def _identity(name: str, study: str) -> Claim:
    """The largest error over all draws, and over each shape and quantity alone."""
    record = load(study)
    parts = {
        f"{quantity}, {shape}": record[quantity].sel(shape=shape)
        for quantity in record.data_vars
        for shape in SHAPES
    }
    return HYPOTHESES[name].judge(
        exact(float(record.to_dataarray().max())),
        [
            Finding(
                f"the largest of 20: {part}", exact(float(v.max())), "below", null=1e-12, spec=".1e"
            )
            for part, v in parts.items()
        ],
        draws=40,
        seeds=20,
        record=study,
    )


def gradient_centered_orthogonal() -> Claim:
    """Two directions that the gradient lacks."""
    return _identity("gradient-centered-orthogonal", "gradient-identities")


def bias_before_bn_dead() -> Claim:
    """A bias before BN."""
    return _identity("bias-before-bn-dead", "bias-before-bn")


CLAIMS: dict[str, Callable[[], Claim]] = {
    "gradient-centered-orthogonal": gradient_centered_orthogonal,
    "bias-before-bn-dead": bias_before_bn_dead,
}
