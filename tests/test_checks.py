"""Every checker passes the right answer, names every known mistake, and gives nothing away."""

import copy
import json
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from odd import ODD, Hostile
from scipy import stats

from bnutils import checks, norm
from bnutils.checks import EXERCISES, MISTAKES, Outcome
from bnutils.checks.chapters import chapter_01
from bnutils.checks.engine import _RAISED, ANY, Answer, Function, _flat, _same

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = [name for name, each in EXERCISES.items() if isinstance(each, Function)]
ANSWERS = [name for name, each in EXERCISES.items() if isinstance(each, Answer)]
FORMS = [
    pytest.param(name, mistake, form, id=f"{name}-{mistake}-{i}")
    for name, mistakes in MISTAKES.items()
    for mistake in mistakes
    for i, form in enumerate(mistakes[mistake].forms)
]
# What a checker says of any function, whatever the exercise.
GENERAL = {
    *("changes-its-input", "digits-cut-off", "not-a-function", "raises", "returns-nothing"),
    *("wrong-dtype", "wrong-return", "wrong-shape", "wrong-sign"),
}


def value(x):
    return x() if callable(x) else x


def filled(pattern, truth):
    """A tuple that a learner could give, where the pattern of a mistake leaves places open."""
    if not isinstance(pattern, tuple):
        return pattern
    other = [t if isinstance(t, str) else t + 12345 for t in truth]
    return tuple(o if p is ANY else p for p, o in zip(pattern, other, strict=True))


def right(exercise):
    return exercise.right if hasattr(exercise, "right") else value(exercise.truth)


# ---- Every exercise -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answer_passes(name):
    outcome = EXERCISES[name].check(right(EXERCISES[name]))
    assert outcome == Outcome(True)
    assert repr(outcome) == "Right."


@pytest.mark.parametrize(("name", "mistake", "form"), FORMS)
def test_every_known_mistake_is_named(name, mistake, form):
    exercise = EXERCISES[name]
    given = form
    if isinstance(exercise, Answer):
        given = filled(value(form), value(exercise.truth))
    outcome = exercise.check(given)
    assert not outcome
    assert outcome.mistake == mistake
    assert outcome.message == MISTAKES[name][mistake].message


def test_a_mistake_in_a_function_is_an_answer_and_no_error():
    for name in FUNCTIONS:
        for mistake, about in MISTAKES[name].items():
            for form in about.forms:
                made = EXERCISES[name]._results(form, EXERCISES[name].cases[0])
                assert made is not _RAISED, (name, mistake)


@pytest.mark.parametrize("z_sd", [0.5, 1.0, 7.0])
def test_saturated_outputs_are_those_of_weighted_inputs_beyond_a_logit(z_sd):
    expected = 2 * stats.norm.sf(np.log(0.95 / 0.05) / z_sd)
    np.testing.assert_allclose(chapter_01._beyond(z_sd), expected, rtol=1e-12)


@pytest.mark.parametrize("name", EXERCISES)
def test_names_and_messages(name):
    for mistake, about in MISTAKES[name].items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", mistake)
        assert mistake not in GENERAL
        # What is wrong, and why it matters: two sentences or a pair of clauses.
        assert about.message.endswith((".", "?"))
        assert len(about.message.split()) >= 8
        assert re.search(r"[.:;,?] ", about.message), mistake
    messages = [about.message for about in MISTAKES[name].values()]
    assert len(set(messages)) == len(messages)


def test_checkers_of_functions_name_what_the_book_promises():
    promised = {
        "forward": "ddof epsilon-outside-the-root wrong-axis sd-of-the-mean "
        "gamma-before-normalizing",
        "gradient": "mean-path-missing variance-path-missing factor-m not-centered",
        "moving_statistics": "momentum-wrong-way-round updated-at-inference",
        "initial_statistics": "variance-starts-at-0",
        "convolution": "per-position per-image channels-first",
        "folding": "bias-forgotten bias-not-scaled epsilon-forgotten",
        "placement": "on-the-output on-the-input after-the-activation activation-inside bias-kept",
    }
    for name, mistakes in promised.items():
        assert set(mistakes.split()) <= set(MISTAKES[name])


# ---- What counts as right, and as which mistake, in numbers -------------------------------------

NUMBERS = ROOT / "tests" / "answers.json"


def number(x):
    return float(f"{x:.8g}") if isinstance(x, float) else x


def in_numbers(exercise):
    """An exercise without its words: what it takes for right, and for which mistake."""
    if isinstance(exercise, Answer):
        asked = {each: getattr(exercise, each) for each in ("tolerance", "names", "choices")}
        return asked | {
            "hints": sorted(exercise.hints),
            "truth": [number(each) for each in _flat(value(exercise.truth))],
            "mistakes": {
                name: [mistake.tolerance]
                + [[number(each) for each in _flat(value(form))] for form in mistake.forms]
                for name, mistake in exercise.mistakes.items()
            },
        }

    def weighed(arrays):
        """A number for each array, in which all of its elements count."""
        if arrays is _RAISED:
            return arrays
        arrays = [np.ravel(np.asarray(each, float)) for each in arrays]
        return [number(float(each @ np.cos(np.arange(each.size)))) for each in arrays]

    def inputs(cases):
        lists = ([v if isinstance(v, list) else [v] for v in case.values()] for case in cases)
        return [weighed(part for each in case for part in each) for case in lists]

    def results(f):
        return [weighed(exercise._results(f, case)) for case in exercise.cases]

    return {
        "takes": list(exercise.cases[0]),
        "returns": exercise.returns,
        "cases": inputs(exercise.cases),
        "rough": inputs(exercise.rough),
        "tiny": inputs(list(exercise.tiny())),
        "right": results(exercise.right),
        "mistakes": {
            name: [results(form) for form in mistake.forms]
            for name, mistake in exercise.mistakes.items()
        },
    }


def assert_alike(found, kept, where):
    if isinstance(kept, dict):
        assert list(found) == list(kept), where
        pairs = [(found[name], kept[name], f"{where} {name}") for name in kept]
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        pairs = [(a, b, where) for a, b in zip(found, kept, strict=True)]
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, rel=1e-5, abs=1e-6, nan_ok=True), where
        return
    else:
        assert found == kept, where
        return
    for pair in pairs:
        assert_alike(*pair)


@pytest.mark.parametrize("name", [*FUNCTIONS, *ANSWERS])
def test_what_counts_as_right_and_as_which_mistake_changes_only_on_purpose(name):
    kept = json.loads(NUMBERS.read_text(encoding="utf-8"))
    assert list(kept) == [*FUNCTIONS, *ANSWERS]
    found = json.loads(json.dumps(in_numbers(EXERCISES[name])))
    assert_alike(
        found, kept[name], f"after a change on purpose: python tests/test_checks.py; {name}"
    )


# ---- Functions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_example_is_small(name):
    first = next(iter(EXERCISES[name].tiny()))
    assert sum(np.size(each) for each in first.values()) <= 14


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_functions_satisfy_the_properties(name):
    exercise = EXERCISES[name]
    for case in [*exercise.tiny(), *exercise.cases]:
        results = dict(zip(exercise.returns, exercise._results(exercise.right, case), strict=True))
        assert all(np.isfinite(each).all() for each in results.values())
        assert all(holds(case, results) for _, holds in exercise.properties)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_faults_of_any_function(name):
    exercise = EXERCISES[name]

    def scribble(*arguments):
        result = exercise.right(*copy.deepcopy(arguments))
        first = next(a for a in arguments if isinstance(a, list) or np.ndim(a))
        (first[0] if isinstance(first, list) else first)[:] = 7
        return result

    def changed(change):
        def f(*arguments):
            result = exercise.right(*arguments)
            return tuple(map(change, result)) if exercise.returns[1:] else change(result)

        return f

    def stop(*arguments):
        raise RuntimeError("out of ideas")

    faults = {
        "not-a-function": 3.0,
        "returns-nothing": lambda *a: None,
        "raises": stop,
        "wrong-dtype": changed(np.float32),
        "wrong-sign": changed(np.negative),
        "digits-cut-off": changed(lambda each: np.round(each, 3)),
        "wrong-return": changed(str),
    }
    if name == "initial_statistics":  # which is given no array, and whose result has no digits
        del faults["digits-cut-off"]
    else:
        faults["changes-its-input"] = scribble
    for mistake, f in faults.items():
        outcome = exercise.check(f)
        assert outcome.mistake == mistake, outcome
    assert "RuntimeError: out of ideas" in exercise.check(stop).message


@pytest.mark.parametrize(
    ("f", "mistake"),
    [
        (lambda x, gamma, beta, epsilon: "abc", "wrong-return"),
        (lambda x, gamma, beta, epsilon: (), "wrong-return"),
        (lambda x, gamma, beta, epsilon: [x, None], "wrong-return"),
        (lambda x, gamma, beta, epsilon: x * 1j, "wrong-return"),
        (lambda x, gamma, beta, epsilon: x.mean(axis=0), "wrong-shape"),
        (lambda x: x, "raises"),
        (lambda x, gamma, beta, epsilon: norm.batch_norm(x, gamma, beta, epsilon=epsilon), None),
    ],
)
def test_what_a_forward_pass_returns(f, mistake):
    assert checks.forward(f).mistake == mistake


@pytest.mark.parametrize(
    ("returned", "part"),
    [
        (lambda dy, dx: dx, "and an array of the shape (1, 1) came"),
        (lambda dy, dx: (dx, dy), "and a tuple of 2 came"),
        (lambda dy, dx: (dx, None, None), "for dgamma one array is needed, and None came"),
        (lambda dy, dx: (dx, dx[0], "dbeta"), "for dbeta one array is needed, and a text came"),
    ],
)
def test_a_gradient_needs_three_results(returned, part):
    outcome = checks.gradient(lambda dy, x, gamma, epsilon: returned(dy[:1, :1], x[:1, :1]))
    assert outcome.mistake == "wrong-return"
    assert part in outcome.message


def test_a_wrong_shape_is_told_with_both_shapes():
    outcome = checks.forward(lambda x, gamma, beta, epsilon: x[0])
    assert outcome.mistake == "wrong-shape"
    assert outcome.message.startswith(
        "y is an array of the shape (1,), and an array of the shape (2, 1) is needed. The input was"
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_examples_take_the_same(name):
    exercise = EXERCISES[name]
    taken = {tuple(case) for case in [*exercise.cases, *exercise.rough, *exercise.tiny()]}
    assert taken == {tuple(exercise.cases[0])}


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if not EXERCISES[n].returns[1:]])
def test_only_where_a_cache_may_follow_the_first_of_a_tuple_counts(name):
    exercise = EXERCISES[name]
    outcome = exercise.check(lambda *arguments: (exercise.right(*arguments), "cache"))
    assert exercise.cache == (name in ("forward", "convolution"))
    assert bool(outcome) == exercise.cache
    if not outcome:
        assert re.match("One (array|number) is asked for, and a tuple of 2 came.", outcome.message)
        outcome = exercise.check(lambda *arguments: (exercise.right(*arguments),))
        assert "Is there a comma behind it?" in outcome.message


def test_unknown_mistake_gets_the_smallest_example():
    def odd(x, gamma, beta, epsilon):
        y = norm.batch_norm(x, gamma, beta, epsilon=epsilon)[0]
        y[:, 1:] = 7  # only from the second column on
        return y

    outcome = checks.forward(odd)
    assert outcome.mistake is None
    assert "x = [[" in outcome.message
    x = outcome.message.split("gamma")[0]
    assert x.count("[") == 3  # two rows of two: with one column nothing is wrong
    assert "mean beta" in outcome.message
    right_y = norm.batch_norm(np.array([[2.0, -2], [-3, 3]]), np.ones(2), np.zeros(2), epsilon=0)[0]
    assert "y = [[ 1.,  7." in outcome.message
    assert f"{right_y[0, 1]:.0f}.]" not in outcome.message.split("Yours returns")[1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_small_example_shows_every_mistake_but_lost_digits(name):
    exercise = EXERCISES[name]
    small = [case for case in exercise.tiny() if sum(map(np.size, case.values())) <= 40]
    right = [exercise._results(exercise.right, case) for case in small]
    for mistake, about in exercise.mistakes.items():
        for wrong in about.forms:
            found = [exercise._results(wrong, case) for case in small]
            assert mistake == "digits-lost" or not all(map(_same, found, right)), mistake


def test_the_smallest_example_of_images_can_be_read():
    message = checks.convolution(
        lambda x, gamma, beta, epsilon: 3 * norm.batch_norm(x, gamma, beta, epsilon=epsilon)[0] + 1
    ).message
    assert message.endswith("y = [[[[ 4.]]],\n       [[[-2.]]]]")
    assert "\n\n" not in message.replace("  ", "")


def test_an_error_is_told_with_the_line_where_it_came_up():
    def helper(x):
        return x @ x.T @ x.T

    def slip(x, gamma, beta, epsilon):
        s = 1 / np.sqrt(x.var(axis=0) + epsilon)
        return gama * s  # noqa: F821

    def deeper(x, gamma, beta, epsilon):
        return helper(x) + np.sqrt(x.var(axis=0))

    number = slip.__code__.co_firstlineno + 2
    outcome = checks.forward(slip)
    assert outcome.mistake == "raises"
    assert f"'gama' is not defined, in line {number}, `return gama * s" in outcome.message
    assert "<code>return gama * s" in outcome._repr_html_()
    assert "`return x @ x.T @ x.T`" in checks.forward(deeper).message
    assert " in line" not in checks.forward(lambda x: x).message
    assert "It raises TypeError: " in checks.forward(np.linalg.norm).message


def test_what_prints_instead_of_returning_is_told_so():
    def prints(x, gamma, beta, epsilon):
        print(end="")

    def skeleton(x, gamma, beta, epsilon): ...

    assert "print is not enough" in checks.forward(prints).message
    assert "in place of the dots" in checks.forward(skeleton).message


def test_unknown_mistake_in_one_result_is_located():
    def half(kernel, bias, gamma, beta, mean, variance, epsilon):
        scale = gamma / np.sqrt(variance + epsilon)
        return kernel * scale, (bias - mean) * scale + beta + 1

    assert "Wrong here: bias." in checks.folding(half).message


def test_a_function_with_state_does_not_see_the_arrays_of_others():
    seen = []

    def keeps(x, gamma, beta, epsilon):
        seen.append(x)
        return norm.batch_norm(x, gamma, beta, epsilon=epsilon)[0]

    assert checks.forward(keeps)
    seen[0][:] = 0
    assert checks.forward(keeps)


@pytest.mark.parametrize(
    ("name", "f", "mistake"),
    [
        # Errors that readers made, beside those of the tables.
        (
            "2.3",
            lambda dy, x, epsilon: (dy - dy.mean(1, keepdims=True)) / x.std(1, keepdims=True),
            None,
        ),
        ("2.4", lambda dy, x, gamma, epsilon: "0.3", "wrong-return"),
        ("2.4", lambda dy, x, gamma, epsilon: np.array([0.3]), "wrong-shape"),
        (
            "3.4",
            lambda n_a, mean_a, var_a, n_b, mean_b, var_b: (
                (
                    n_a * (var_a + mean_a - (n_a * mean_a + n_b * mean_b) / (n_a + n_b))
                    + n_b * (var_b + mean_b - (n_a * mean_a + n_b * mean_b) / (n_a + n_b))
                )
                / (n_a + n_b)
            ),
            "between-missing",
        ),
        ("forward", lambda x, gamma, beta, epsilon: x.astype(np.float32) * gamma, None),
    ],
)
def test_mistakes_of_readers(name, f, mistake):
    assert EXERCISES[name].check(f).mistake == mistake


# ---- Answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ANSWERS)
def test_an_unknown_answer_gets_a_hint_and_not_the_truth(name):
    exercise = EXERCISES[name]
    truth = value(exercise.truth)
    parts = truth if isinstance(truth, tuple) else (truth,)
    wrong = tuple(t if isinstance(t, str) else t + 7777.5 for t in parts)
    if all(isinstance(t, str) for t in parts):
        assert exercise.hint
        return
    outcome = exercise.check(wrong if isinstance(truth, tuple) else wrong[0])
    assert outcome.mistake is None
    assert exercise.hint in outcome.message
    # A number of the message that is the answer to all digits would give it away.
    assert set(exercise.hints) <= set(exercise.names)
    about = [mistake.message for mistake in exercise.mistakes.values()]
    for message in [*about, exercise.hint, *exercise.hints.values()]:
        numbers = [float(n) for n in re.findall(r"\d+\.?\d*", message)]
        small = {0, 1, 5, 7, 100}  # stand in the questions themselves
        assert not {t for t in parts if not isinstance(t, str)} & set(numbers) - small


@pytest.mark.parametrize(
    ("name", "given", "part"),
    [
        ("4.1", 5300, "(parameters, of them not trained)"),
        ("4.1", (5300, "two hundred"), "A number"),
        ("4.1", (5300, 150), "look again at: of them not trained"),
        ("12.2", "perhaps", "'cannot tell'"),
        ("12.2", 0, "'cannot tell'"),
        ("4.1", (1, 2, 3), "and 3 values came"),
        ("4.1", 5300, "and 1 value came"),
    ],
)
def test_form_of_an_answer(name, given, part):
    outcome = checks.answer(name, given)
    assert not outcome
    assert part in outcome.message


def test_a_wrong_place_gets_its_own_hint():
    means = checks.EXERCISES["7.2"].truth[:-1]
    message = checks.answer("7.2", (*means, 2)).message
    assert "look again at: how many. Count those" in message
    assert "number of means" not in message
    message = checks.answer("7.2", (*means[:-1], 1, 2)).message
    assert "number of means" in message
    assert "Count those" in message


def test_the_right_values_in_another_order():
    asked = {"truth": (1.5, 20.0, 3.0), "mistakes": {}, "hint": "Look again."}
    outcome = Answer(**asked).check((20.0, 1.5, 3.0))
    assert outcome.mistake == "wrong-order"
    assert outcome.message.endswith("in another order than asked.")
    message = Answer(**asked, names=("a", "b", "c")).check((20.0, 1.5, 3.0)).message
    assert message.endswith("in another order than asked: (a, b, c).")


@pytest.mark.parametrize(
    ("truth", "given", "mistake"),
    [
        (30.2, 30, "rounded"),  # to no decimals
        (30.24, 30.2, "rounded"),
        (30.26, 30.2, None),  # cut off, not rounded
        (1.06, 1, None),  # too far away
        (0.3, 30, "percent"),
        (0.304, 30, "percent"),
        (0.3, 0.003, None),
        (2.5, 250, None),  # no share
    ],
)
def test_slips_of_a_right_number(truth, given, mistake):
    outcome = Answer(truth, {}, "Look again.").check(given)
    assert not outcome
    assert outcome.mistake == mistake


def test_rounding_and_percent():
    assert checks.answer("2.2", (0.30, 0.99))
    assert not checks.answer("2.2", (0.30, 1.0))
    shares = value(checks.EXERCISES["1.1"].truth)
    rounded = tuple(round(100 * share) for share in shares)
    assert checks.answer("1.1", rounded).mistake == "percent"


COUNT = Answer(truth=(0.2537, 40), names=("share", "steps"), mistakes={}, hint="Look again.")


@pytest.mark.parametrize(
    ("given", "mistake", "part"),
    [
        ((25.37, 40), "percent", "a share, between 0 and 1"),
        ((25, 40), "percent", "a share, between 0 and 1"),
        ((0.254, 40), "rounded", "Give more of them"),
        ((0.25, 40), "rounded", "Give more of them"),
        ((0.3, 40), None, "look again at: share"),
        ((0.2537, 41), None, "look again at: steps"),
        ((40, 0.2537), "wrong-order", "(share, steps)"),
        ((0.2537, None), "wrong-form", "Did you run the cell"),
        ((0.2537, "40"), "wrong-form", "Leave out the quotes"),
        (np.zeros((6, 4)), "wrong-form", "an array of the shape (6, 4) came"),
        (xr.DataArray([0.2537, 40]), None, ""),
        (pd.Series([0.2537, 40]), None, ""),
        ((..., 40), None, "in place of the dots"),
        (..., None, "in place of the dots"),
    ],
)
def test_slips_that_any_question_invites(given, mistake, part):
    outcome = COUNT.check(given)
    assert outcome.mistake == mistake
    assert part in outcome.message
    assert bool(outcome) == (not part)


def test_growth_of_a_gradient_is_shared_among_the_steps_between_layers():
    depths, total = (5, 10, 20, 40), np.array([0.280, 0.741, 1.602, 3.224])  # powers of ten
    steps = np.array([depth - 1 for depth in depths])
    assert checks.answer("1.4", 10 ** (total / steps))
    assert checks.answer("1.4", (10 ** (total / steps)).round(2))
    assert checks.answer("1.4", 10 ** (total / depths)).mistake == "depth"
    assert checks.answer("1.4", 10**total).mistake == "whole-network"
    assert checks.answer("1.4", total).mistake == "raw-logarithms"
    assert checks.answer("1.4", total / steps).mistake == "logarithms"


def test_forms_that_mean_the_same():
    assert checks.answer("4.1", np.array([5300, 200]))
    assert checks.answer("4.1", [np.int64(5300), 200.0])
    assert checks.answer("12.2", " Cannot Tell ")


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_is_answered_gets_a_message(name):
    exercise = EXERCISES[name]
    truth = exercise._truth
    for odd in ODD:
        for given in (odd, (odd,) * len(truth), [odd, *truth[1:]], (*truth[:-1], odd)):
            outcome = exercise.check(given)
            assert outcome or outcome.message
            assert len(outcome._repr_html_()) < 2000


@pytest.mark.parametrize("name", FUNCTIONS)
def test_whatever_a_function_does_gets_a_message(name):
    class UntoldError(Exception):
        __str__ = Hostile._no

    def raises(error):
        def f(*arguments):
            raise error

        return f

    def scribbles(*arguments):
        for each in arguments:
            if isinstance(each, np.ndarray):
                each[...] = 7

    exercise = EXERCISES[name]
    returns = [lambda *_, odd=odd, n=n: (odd,) * n if n else odd for odd in ODD for n in (0, 2, 3)]
    errors = UntoldError(), SystemExit(1), RecursionError(), ValueError("\x1b[31m\n<b>")
    inputs = lambda *arguments: arguments[0], lambda *arguments: arguments, lambda: 1
    for f in (
        *ODD,
        *returns,
        *map(raises, errors),
        *inputs,
        scribbles,
        len,
        np.mean,
        np.linalg.inv,
    ):
        outcome = exercise.check(f)
        assert not outcome
        assert outcome.message
        assert len(outcome._repr_html_()) < 2000


def test_numbers_of_any_kind_are_numbers():
    assert checks.answer("4.1", (Decimal(5300), Fraction(400, 2)))
    assert checks.answer("4.1", (10**400, 200)).message.startswith("Part of it is right")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("99.1", KeyError, r"of a chapter, one of 1, 2, 3, .*, 13, got '99.1'"),
        ("2.9", KeyError, r"of chapter 2, one of 2\.1, 2\.2, 2\.3, 2\.4, got '2.9'"),
        (2.1, TypeError, r'as a text, as in answer\("4\.1", value\), got 2\.1'),
    ],
)
def test_an_exercise_that_is_not_there(name, error, message):
    with pytest.raises(error, match=message):
        checks.answer(name, 0)


# ---- The placement of layers --------------------------------------------------------------------


def test_placement_takes_what_people_build():
    from bnutils._keras import keras

    k = keras.layers

    def functional_with_a_branch():
        inputs = keras.Input((8, 8, 3))
        x = k.Conv2D(4, 3, use_bias=False, padding="same")(inputs)
        x = k.ReLU()(k.BatchNormalization()(x))
        z = k.Conv2D(4, 3, use_bias=False, padding="same")(x)
        z = k.Activation("relu")(k.BatchNormalization()(z))
        x = k.GlobalAveragePooling2D()(k.MaxPooling2D()(k.Add()([x, z])))
        return keras.Model(inputs, k.Dense(10)(k.Dropout(0.5)(x)))

    assert checks.placement(functional_with_a_branch)
    model = functional_with_a_branch()
    assert checks.placement(model).mistake == "not-a-function"
    assert checks.placement(lambda: [model]).mistake == "not-a-model"
    assert checks.placement(lambda: keras.Sequential([k.Dense(1)])).mistake == "cannot-be-read"
    assert checks.placement(lambda: 1 / 0).mistake == "raises"
    assert checks.placement(exit).mistake == "raises"
    assert "print is not enough" in checks.placement(lambda: [].clear()).message
    for odd in ODD:
        assert not checks.placement(odd)
        assert not checks.placement(lambda odd=odd: odd)


# ---- The book -----------------------------------------------------------------------------------


def test_outcome_shows_itself():
    outcome = Outcome(False, "ddof", "a < b\n  x = 1")
    assert repr(outcome) == "Not yet: ddof. a < b\n  x = 1"
    assert "a &lt; b</p><pre>  x = 1</pre>" in outcome._repr_html_()
    assert "with <code>return</code>." in Outcome(False, "a", "End it with `return`.")._repr_html_()
    assert not outcome
    assert bool(Outcome(True))


def test_import_is_light():
    code = "import sys, bnutils.checks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"pandas", "matplotlib", "tensorflow", "keras", "sklearn"} & loaded


def test_exercises_stand_in_the_module_of_their_chapter():
    for path in (ROOT / "src" / "bnutils" / "checks" / "chapters").glob("chapter_*.py"):
        chapter = int(path.stem.removeprefix("chapter_"))
        ids = re.findall(r'^    "(\d+)\.(\d+)":', path.read_text(encoding="utf-8"), re.MULTILINE)
        numbers = [int(number) for _, number in ids]
        assert {int(c) for c, _ in ids} <= {chapter}, path.stem
        # Some exercises are functions of `checks`, such as `checks.forward`.
        assert numbers == sorted(set(numbers)), path.stem


HEADING = re.compile(
    r"^### Exercise (\d+) \((predict|explain|change|build), (\d+) minutes\)$", re.M
)
RETROFITTED = [
    path
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    if (ROOT / f"src/bnutils/checks/chapters/chapter_{path.stem[:2]}.py").exists()
]


@pytest.mark.parametrize("path", RETROFITTED, ids=lambda path: path.stem)
def test_every_exercise_of_a_chapter_has_its_check(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    exercises = HEADING.findall(text)
    chapter = int(path.stem[:2])
    assert [int(number) for number, _, _ in exercises] == list(range(1, len(exercises) + 1))
    assert 3 <= len(exercises) <= 5
    minutes = [int(m) for _, _, m in exercises]
    assert minutes == sorted(minutes)

    solutions = [c for c in cells if "hide-cell" in c["metadata"].get("tags", [])]
    for number, cell in enumerate(solutions, start=1):
        called = re.findall(r"checks\.(\w+)\(", "".join(cell["source"]))
        assert called, f"the solution of exercise {number} calls its checker"
        if called[-1] == "answer":
            assert f'checks.answer("{chapter}.{number}"' in "".join(cell["source"])
        results = [output["data"] for output in cell["outputs"] if "data" in output]
        assert "".join(results[-1]["text/plain"]) == "Right.", f"exercise {number}"
    assert len(solutions) == len(exercises)


@pytest.mark.parametrize("stem", ["02_the_math", "03_numpy"])
def test_functions_can_be_answered_before_anything_of_the_chapter_ran(stem, capsys):
    cells = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    names: dict = {}
    for text in sources:
        if text.startswith("# Your answer\n"):
            exec(text, names)
    assert {"np", "checks"} <= set(names)
    if stem == "03_numpy":  # "write the layer before you read ours"
        for text in sources:
            if text.startswith("# Solution\n"):
                exec(text, names)


if __name__ == "__main__":
    told = {name: in_numbers(EXERCISES[name]) for name in (*FUNCTIONS, *ANSWERS)}
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in told.items()]
    NUMBERS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
