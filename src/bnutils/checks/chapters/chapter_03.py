"""Chapter 3, NumPy."""

import numpy as np

from bnutils.checks.engine import Function, Mistake, cases_of, small_batches

# ---- 3.4: pooled variance -----------------------------------------------------------------------


def _pooled(n_a, mean_a, var_a, n_b, mean_b, var_b):
    """The law of total variance: the mean of the variances plus the variance of the means."""
    share = n_a / (n_a + n_b)
    mean = share * mean_a + (1 - share) * mean_b
    inside = share * var_a + (1 - share) * var_b
    return inside + share * (mean_a - mean) ** 2 + (1 - share) * (mean_b - mean) ** 2


def _without_between(n_a, mean_a, var_a, n_b, mean_b, var_b):
    return (n_a * var_a + n_b * var_b) / (n_a + n_b)


def _equal_weights(n_a, mean_a, var_a, n_b, mean_b, var_b):
    return _pooled(1, mean_a, var_a, 1, mean_b, var_b)


def _plain_mean(n_a, mean_a, var_a, n_b, mean_b, var_b):
    mean, share = (mean_a + mean_b) / 2, n_a / (n_a + n_b)
    first, second = var_a + (mean_a - mean) ** 2, var_b + (mean_b - mean) ** 2
    return share * first + (1 - share) * second


def _machine(rng, shape):
    n_a, n_b = shape
    case = {}
    for name, n in (("a", n_a), ("b", n_b)):
        case[f"n_{name}"] = n
        case[f"mean_{name}"] = rng.normal(0, 3, size=3)
        case[f"var_{name}"] = rng.uniform(0.5, 3, size=3)
    return case


_POOLED = Function(
    right=_pooled,
    returns=("variance",),
    cases=cases_of([(40, 24), (3, 9)], _machine),
    tiny=lambda: (
        {"n_a": n_a, "mean_a": x[0], "var_a": abs(x[-1]), "n_b": n_b, "mean_b": x[-1], "var_b": one}
        for x in small_batches()
        for one in [np.ones(x.shape[1])]
        for n_a, n_b in ((1, 1), (2, 1), (2, 3))
    ),
    properties=(
        (
            "It should not be smaller than the smaller of the two variances.",
            lambda case, r: (r["variance"] >= np.minimum(case["var_a"], case["var_b"])).all(),
        ),
    ),
    mistakes={
        "average-of-variances": Mistake(
            lambda n_a, mean_a, var_a, n_b, mean_b, var_b: (var_a + var_b) / 2,
            "This is the average of the two variances. It says nothing of how far the two means "
            "lie apart, and it weighs a small part like a large one.",
        ),
        "between-missing": Mistake(
            _without_between,
            "This is the weighted average of the variances. Two halves that each hold one value "
            "over and over would give 0: how far the means lie apart is missing. Or it is there "
            "without its square: distances from the mean cancel.",
        ),
        "equal-weights": Mistake(
            _equal_weights,
            "Both parts weigh the same. They hold different numbers of examples, and each example "
            "counts once.",
        ),
        "plain-mean": Mistake(
            _plain_mean,
            "The distances are taken from the plain average of the two means. The mean of all "
            "examples lies nearer to the larger part.",
        ),
        "between-not-squared": Mistake(
            lambda n_a, mean_a, var_a, n_b, mean_b, var_b: (
                _without_between(n_a, mean_a, var_a, n_b, mean_b, var_b)
                + n_a * n_b / (n_a + n_b) ** 2 * abs(mean_a - mean_b)
            ),
            "The distance of the means is not squared. A variance is in squared units.",
        ),
        "between-unweighted": Mistake(
            lambda n_a, mean_a, var_a, n_b, mean_b, var_b: (
                _without_between(n_a, mean_a, var_a, n_b, mean_b, var_b) + (mean_a - mean_b) ** 2
            ),
            "The squared distance of the means is added in full. Each example lies only a part of "
            "that way from the mean of all.",
        ),
        "sum-of-variances": Mistake(
            lambda n_a, mean_a, var_a, n_b, mean_b, var_b: var_a + var_b,
            "The variances are added. That is for a sum of independent numbers; here two groups "
            "stand side by side.",
        ),
        "sd": Mistake(
            lambda *parts: np.sqrt(_pooled(*parts)),
            "This is the standard deviation. The variance is asked for: it is what can be pooled.",
        ),
        "ddof": Mistake(
            lambda n_a, mean_a, var_a, n_b, mean_b, var_b: (
                _pooled(n_a, mean_a, var_a, n_b, mean_b, var_b) * (n_a + n_b) / (n_a + n_b - 1)
            ),
            "It divides by one less than the number of examples. The two variances divide by "
            "theirs, as batch normalization does.",
        ),
    },
)

# The first three exercises are `checks.forward`, `checks.gradient` and `checks.convolution`.
EXERCISES = {
    "3.4": _POOLED,
}
