"""``bnutils.gradcheck`` on functions whose gradients are known."""

import numpy as np
import pytest

from bnutils.gradcheck import directional_error, numerical_gradient, relative_error

FUNCTIONS = {
    "quadratic": (lambda x: (x**2).sum(), lambda x: 2 * x),
    "sine": (lambda x: np.sin(x).sum(), np.cos),
    "product": (lambda x: x.prod(), lambda x: x.prod() / x),
    "constant": (lambda x: 3.0, np.zeros_like),
}
SHAPES = [(), (3,), (2, 3), (2, 1, 2)]


def point(shape):
    return np.asarray(np.random.default_rng(0).uniform(0.5, 1.5, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numerical_gradient(name, shape):
    f, gradient = FUNCTIONS[name]
    x = point(shape)
    copy = x.copy()
    actual = numerical_gradient(f, x)
    assert actual.shape == shape
    np.testing.assert_allclose(actual, gradient(x), rtol=1e-8, atol=1e-9)
    np.testing.assert_array_equal(x, copy)


def test_numerical_gradient_errs_by_step_squared():
    errors = [
        abs(numerical_gradient(lambda x: np.exp(x).sum(), np.zeros(1), step)[0] - 1)
        for step in (0.1, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_directional_error_is_small_for_the_gradient(name, shape):
    f, gradient = FUNCTIONS[name]
    x = point(shape)
    assert directional_error(f, x, gradient(x), np.random.default_rng(1)) < 1e-7


@pytest.mark.parametrize("shape", [(3,), (200, 300)])
def test_directional_error_is_large_for_another_gradient(shape):
    f, gradient = FUNCTIONS["sine"]
    x = point(shape)
    rng = np.random.default_rng(1)
    assert directional_error(f, x, 1.01 * gradient(x), rng) > 1e-3
    assert directional_error(f, x, -gradient(x), rng) > 1
    assert directional_error(f, x, np.zeros(shape), rng) == 1


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (1.0, 1.0, 0.0),
        (0.0, 0.0, 0.0),
        ([0.0, 0.0], [0.0, 2.0], 1.0),
        ([1.0, -4.0], [1.0, -3.0], 0.25),
        (np.float32([1, 2]), np.float64([1, 2]), 0.0),
    ],
)
def test_relative_error(a, b, expected):
    assert relative_error(a, b) == expected
    assert relative_error(b, a) == expected


ERRORS = {
    "x float32": (
        lambda: numerical_gradient(np.sum, np.ones(2, "float32")),
        r"expected x of float64, got float32; convert it: x\.astype\(float\) \(differences of "
        r"lower precision are lost in rounding\)",
    ),
    "x integer": (lambda: numerical_gradient(np.sum, [1, 2]), "expected x of float64, got int64"),
    "step": (lambda: numerical_gradient(np.sum, np.ones(2), 0), "expected step above 0, got 0"),
    "directional x": (
        lambda: directional_error(np.sum, np.ones(2, "float32"), np.ones(2), None),
        "expected x of float64, got float32",
    ),
    "directional gradient": (
        lambda: directional_error(np.sum, np.ones(2), np.ones(2, "float32"), None),
        "expected gradient of float64, got float32",
    ),
    "directional shape": (
        lambda: directional_error(np.sum, np.ones(2), np.ones(3), None),
        r"expected gradient in the shape of x, \(2,\), got \(3,\)",
    ),
    "directional step": (
        lambda: directional_error(np.sum, np.ones(2), np.ones(2), None, step=-1),
        "expected step above 0, got -1",
    ),
    "step nan": (
        lambda: numerical_gradient(np.sum, np.ones(2), float("nan")),
        "expected step above 0, got nan",
    ),
    "an array instead of a number": (
        lambda: numerical_gradient(np.sin, np.ones(2)),
        r"expected f to return one number, .* got an array of shape \(2,\)",
    ),
    "an array instead of a number, directional": (
        lambda: directional_error(np.sin, np.ones(2), np.ones(2), np.random.default_rng(0)),
        r"expected f to return one number, .* got an array of shape \(2,\)",
    ),
    "relative_error of nothing": (
        lambda: relative_error([], []),
        r"expected a and b with at least one number, got the shape \(0,\)",
    ),
    "relative_error shape": (
        lambda: relative_error([1.0], [1.0, 2.0]),
        r"expected a and b of one shape, got \(1,\) and \(2,\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_was_expected_and_what_came(name):
    call, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        call()
