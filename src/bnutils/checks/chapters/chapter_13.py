"""Chapter 13, why it works."""

import numpy as np

from bnutils.checks.engine import Answer, Function, Mistake, cases_of, small_batches

# ---- 13.2: how far gradients explode ------------------------------------------------------------


def _relu_growth(batch):
    """Growth of the squared gradient norm for each ReLU layer with BN, before training."""
    c, pairs = -1 / (batch - 1), batch * (batch - 1)
    positive = batch / 2 + pairs * (1 / 4 + np.arcsin(c) / (2 * np.pi))
    total = batch / 2 + pairs * (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / (2 * np.pi)
    numerator = batch / 2 - 3 / 2 + (positive + total) / batch**2
    return batch / (batch - 3) * numerator / (batch / 2 - total / batch)


def _powers(exponent, growth=_relu_growth):
    return tuple(exponent * np.log10(growth(batch)) for batch in (32, 8))


# ---- 13.5: one step at right angles -------------------------------------------------------------


def _step(length=lambda w, a: w**2 + a**2, angle=np.arctan2, rate_used=lambda rate: rate):
    """The right function of (w, g, rate), with one part replaced; w and g become lengths."""

    def f(w, g, rate):
        before, across = np.linalg.norm(w), rate_used(rate) * np.linalg.norm(g)
        return length(before, across), angle(across, before)

    return f


def _right_angle(rng, shape):
    w, g = rng.normal(size=shape), rng.normal(size=shape)
    return {"w": w, "g": g - w * (w @ g) / (w @ w), "rate": 0.7}


def _tiny():
    for x in small_batches():
        w = x[:2, 0]
        for rate in (1.0, 2.0):
            yield {"w": w, "g": np.array([-w[1], w[0]]), "rate": rate}


_STEP = Function(
    right=_step(),
    returns=("squared length", "angle"),
    cases=cases_of([2, 3, 5], _right_angle),
    tiny=_tiny,
    properties=(
        (
            "The weights should not get shorter: the step is at right angles to them.",
            lambda case, r: r["squared length"] >= case["w"] @ case["w"] - 1e-9,
        ),
        (
            "The angle should lie between 0 and a right angle.",
            lambda case, r: 0 <= r["angle"] <= np.pi / 2,
        ),
    ),
    mistakes={
        "lengths-added": Mistake(
            _step(length=lambda w, a: (w + a) ** 2),
            "The lengths are added. That holds for a step along the weights; this one is at right "
            "angles, so it is the squares that add up.",
        ),
        "length-shrinks": Mistake(
            _step(length=lambda w, a: w**2 - a**2),
            "The squared length gets smaller. The minus sign of gradient descent is gone after "
            "squaring: at right angles any step makes the weights longer.",
        ),
        "length-not-squared": Mistake(
            _step(length=np.hypot),
            "The first number is the length and not its square. The square is what grows by a "
            "plain sum.",
        ),
        "rate-not-squared": Mistake(
            lambda w, g, rate: (w @ w + rate * (g @ g), _step()(w, g, rate)[1]),
            "The rate is not squared in the length. The step is rate times g, and the whole of it "
            "is one side of the triangle.",
        ),
        "small-angle": Mistake(
            _step(angle=lambda a, w: a / w),
            "The angle is step divided by length, which is its tangent. For small steps the two "
            "agree; asked for is the angle itself.",
        ),
        "arcsine": Mistake(
            _step(angle=lambda a, w: np.arcsin(a / np.hypot(a, w)) if a < w else a / w),
            "The angle comes from an arcsine that fails for long steps. Step and old length are "
            "the two short sides of the triangle, whatever their size.",
        ),
        "degrees": Mistake(
            _step(angle=lambda a, w: np.degrees(np.arctan2(a, w))),
            "The angle is in degrees. In radians a small angle is step divided by length, which is "
            "where the effective learning rate comes from.",
        ),
        "other-angle": Mistake(
            _step(angle=lambda a, w: np.arctan2(w, a)),
            "This is the other angle of the triangle. A step of length 0 turns the weights by "
            "nothing, and yours by a right angle.",
        ),
        "order": Mistake(
            lambda w, g, rate: _step()(w, g, rate)[::-1],
            "The two results came in the other order. Asked for are first the squared length, then "
            "the angle.",
        ),
        "rate-forgotten": Mistake(
            _step(rate_used=lambda rate: 1.0),
            "The learning rate is not used. The step is rate times g.",
        ),
    },
)

EXERCISES = {
    "13.1": Answer(
        truth=2**2,
        tolerance=1e-6,
        mistakes={
            "not-squared": Mistake(
                2,
                "You made up for the longer weights, which turn half as far for the same step. But "
                "the gradient has become smaller as well.",
            ),
            "no-change": Mistake(
                1,
                "You left the rate as it is. The output does not change with the length of the "
                "weights, but learning does.",
            ),
            "wrong-way-round": Mistake(
                [1 / 2, 1 / 4],
                "You made the rate smaller. Longer weights turn less for the same step, so they "
                "learn too slowly already.",
            ),
            "cubed": Mistake(
                2**3,
                "One factor too many. Count: the gradient shrinks once, and the angle for a given "
                "step shrinks once.",
            ),
        },
        hint="What happens to the gradient when the weights are doubled? And to the angle by which "
        "a step of given length turns them?",
    ),
    "13.2": Answer(
        truth=lambda: _powers(49 / 2),
        names=("power for 32", "power for 8"),
        tolerance=0.02,
        mistakes={
            "squared": Mistake(
                lambda: _powers(49),
                "These are the powers of the squared norm, which is what `relu_growth` is about. "
                "Asked for is the norm, its root.",
            ),
            "fifty-steps": Mistake(
                lambda: _powers(50 / 2),
                "You counted 50 steps. From layer 50 back to layer 1 there is one step less, as "
                "with fence posts.",
            ),
            "limit": Mistake(
                lambda: _powers(49 / 2, lambda batch: np.pi / (np.pi - 1)),
                "You used the limit for large batches. At these batch sizes gradients grow faster; "
                "`relu_growth` knows by how much.",
            ),
            "linear": Mistake(
                lambda: _powers(49 / 2, lambda batch: (batch - 2) / (batch - 3)),
                "You used the formula of a linear network. Throwing away half of the signal is "
                "what makes ReLU explode.",
            ),
            "not-a-power": Mistake(
                lambda: tuple(10**power for power in _powers(49 / 2)),
                "These are the ratios themselves. Asked for is the power of ten: take the "
                "logarithm to the base 10.",
            ),
            "natural-logarithm": Mistake(
                lambda: tuple(power * np.log(10) for power in _powers(49 / 2)),
                "This is a natural logarithm. A power of ten needs the logarithm to the base 10.",
            ),
        },
        hint="`relu_growth(B)` is the factor of the squared norm for one layer. Take its logarithm "
        "to the base 10, as often as there are steps, and halve it.",
    ),
    "13.3": Answer(
        # As measured: level after ten steps, from far above 10 before training.
        truth=1.0,
        tolerance=0.5,
        mistakes={
            "before-training": Mistake(
                37,
                "This is the ratio before training. Was the network trained in between, and "
                "measured again?",
            ),
            "after-one-step": Mistake(
                2.8,
                "This is the ratio after one step. It keeps falling for some steps more.",
            ),
            "logarithm": Mistake(
                0.0,
                "This looks like the logarithm of the ratio. Asked for is the ratio itself, and 0 "
                "would mean that the first layer has no gradient.",
            ),
        },
        hint="Divide the norm of the first layer's gradient by that of the last hidden layer, "
        "after ten steps at rate 1, and average over the seeds.",
    ),
    "13.4": Answer(
        # As measured: about 15, 20 and 35 steps, where the plain network takes about 25.
        truth=4,
        tolerance=0.1,
        mistakes={
            "already-at-1": Mistake(
                1,
                "You say that a shift of up to 1 is too much. Compare the steps with those of the "
                "plain network in the same run, and not with those of BN.",
            ),
            "already-at-2": Mistake(
                2,
                "You say 2. It costs BN most of its lead, so look closely: which of the two "
                "networks gets to 90% first?",
            ),
            "never": Mistake(
                [0, 8],
                "The answer is one of the three. No network learns whatever the noise: at some "
                "size it drowns the inputs.",
            ),
        },
        hint="One of the three: the smallest that needs more steps at rate 0.3 than the plain "
        "network does.",
    ),
    "13.5": _STEP,
}
