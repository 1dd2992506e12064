"""How an exercise compares what the learner gives with the right answer and with known mistakes.

There are two kinds. A `Function` runs the learner's function on inputs that tell every known
mistake from the right answer and from all others. An `Answer` compares a number, a choice, or a
tuple of these. Both return an `Outcome`, and neither ever shows what is right.
"""

import copy
import linecache
import math
import re
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from itertools import chain, permutations, product
from numbers import Real
from typing import Any

import numpy as np

from bnutils._markup import escaped

__all__ = ["ANY", "Answer", "Function", "Mistake", "Outcome"]

ANY = None  # in a mistaken tuple: whatever stands here


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a checker found. It is true if the answer is right.

    Attributes:
        right: whether the answer is right.
        mistake: the name of the mistake; None if the answer is right, or the mistake has no name.
        message: what is wrong, and why it matters; empty if the answer is right.

    Example:
        >>> Outcome(False, "ddof", "The variance divides by m - 1.")
        Not yet: ddof. The variance divides by m - 1.
        >>> Outcome(True)
        Right.
    """

    right: bool
    mistake: str | None = None
    message: str = ""

    def __bool__(self) -> bool:
        """Whether the answer is right."""
        return self.right

    @property
    def _verdict(self) -> str:
        if self.right:
            return "Right."
        return f"Not yet: {self.mistake}." if self.mistake else "Not yet."

    def __repr__(self) -> str:
        """The verdict, and the message."""
        return f"{self._verdict} {self.message}".rstrip()

    def _repr_html_(self) -> str:
        text, *example = self.message.split("\n", 1)
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text))
        lines = "".join(f"<pre>{escaped(part)}</pre>" for part in example)
        return f"<p><strong>{self._verdict}</strong> {text}</p>{lines}"


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that is known, and what to say about it.

    Attributes:
        wrong: the wrong function or value; or a list of them, where a mistake has several forms.
        message: one sentence that says what is wrong, and one that says why it matters.
        tolerance: how far a number may lie from it; that of the answer if None.
    """

    wrong: Any
    message: str
    tolerance: float | None = None

    @property
    def forms(self) -> list:
        """All forms of the mistake."""
        return self.wrong if isinstance(self.wrong, list) else [self.wrong]


def named(name: str, message: str) -> Outcome:
    """The outcome for a mistake with a name."""
    return Outcome(False, name, message)


# ---- Functions ----------------------------------------------------------------------------------


RAISED = (Exception, SystemExit)  # what a learner's function may raise; an interrupt is the user's
_RAISED = "raised"
Results = list[np.ndarray] | str  # of a call: arrays, or _RAISED
Fingerprint = tuple[list[Results], list[bool]]  # results on all cases, rightness on rough ones


def _call(f: Callable, case: dict) -> tuple[Any, dict]:
    """Call on copies, with NumPy's and Python's warnings off; (result or error, the copies)."""
    given = copy.deepcopy(case)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return f(*given.values()), given
        except RAISED as error:  # whatever a learner's function raises is told
            return error, given


def raised(error: BaseException, f: Any) -> str:
    """What a learner's function raised, and in which of its lines."""
    try:
        said = str(error)
    except Exception:  # of a learner's own kind of error
        said = ""
    text = " ".join(f"{type(error).__name__}: {said}".split()).rstrip(".:")
    file = getattr(getattr(f, "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    if numbers := [frame.lineno for frame in frames if frame.filename == file]:
        line = textwrap.shorten(linecache.getline(file, numbers[-1]), 70, placeholder=" ...")
        text += f", in line {numbers[-1]}" + f", `{line}`" * bool(line)
    return f"It raises {text}."


def returned_nothing(f: Any) -> Outcome:
    """The outcome for a function that returns None, be it empty still or not."""
    code = getattr(f, "__code__", _skeleton.__code__)
    what = "End it with `return`; print is not enough."
    if code.co_code == _skeleton.__code__.co_code:
        what = "Write it in place of the dots, and end it with `return`."
    return named("returns-nothing", f"It returns None. {what}")


def _skeleton() -> None: ...


def _numbers(value: Any) -> np.ndarray:
    """A value as a float64 array; a TypeError if it is not made of numbers that fit one."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "biufO" and not any(each is None for each in array.flat):
            return array.astype(np.float64)
    except Exception as error:  # a foreign object may raise anything
        raise TypeError from error
    raise TypeError


def _array(value: Any) -> np.ndarray | None:
    """What a library has to say for an array; None if it is none."""
    try:
        return np.asarray(value) if hasattr(value, "__array__") else None
    except Exception:  # a foreign object may raise anything
        return None


def _is_numbers(value: Any) -> bool:
    try:
        _numbers(value)
    except TypeError:
        return False
    return True


def _kind(value: Any) -> str:
    """A value in words."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return "a text"
    array = _array(value)
    if array is not None and array.ndim:
        return f"an array of the shape {array.shape}"
    if isinstance(value, Real) or array is not None:
        return "one number"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _untouched(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_untouched, a, b))
    return np.array_equal(a, b)


def _close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-6) -> bool:
    return a.shape == b.shape and np.allclose(a, b, tolerance, tolerance, equal_nan=True)


def _same(a: Results, b: Results) -> bool:
    """Whether two lists of results agree; an error agrees with any error."""
    if a is _RAISED or b is _RAISED:
        return a is b
    return all(_close(x, y) for x, y in zip(a, b, strict=True))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    value = np.asarray(value)
    if value.dtype.kind == "f":
        value = value.round(4) + 0  # turns -0 into 0
    text = np.array2string(value, separator=", ", suppress_small=True, threshold=64)
    return re.sub(r"\n\s*\n", "\n", text)  # no empty lines between the rows of images


def _listed(values: Mapping[str, Any]) -> str:
    lines = []
    for name, value in values.items():
        indent = "\n" + " " * (len(name) + 5)
        lines.append(f"  {name} = {_shown(value)}".replace("\n", indent))
    return "\n".join(lines)


def _input(case: dict) -> str:
    return f"The input was\n{_listed(case)}"


@dataclass(frozen=True)
class Function:
    """An exercise that asks for a function.

    Attributes:
        right: the right function.
        returns: the names of what it returns.
        cases: inputs as dictionaries, in the order of the arguments. Together they tell each
            mistake from the right function and from the others.
        tiny: gives inputs in growing order of size, from which the example for an unknown mistake
            is taken.
        mistakes: the known mistakes by name.
        rough: inputs on which it counts only whether the result is right, as where a mistake is
            nothing but a loss of digits.
        properties: pairs of a sentence about the results and a function of (input, results), both
            dictionaries, that tells whether it holds.
        cache: whether a function with one result may return a tuple that begins with it.
    """

    right: Callable
    returns: tuple[str, ...]
    cases: list[dict]
    tiny: Callable[[], Iterator[dict]]
    mistakes: Mapping[str, Mistake]
    rough: list[dict] = field(default_factory=list)
    properties: tuple[tuple[str, Callable], ...] = ()
    cache: bool = False

    @np.errstate(all="ignore")
    def check(self, f: Callable) -> Outcome:
        """Tell whether `f` is right, or what is wrong with it."""
        if not callable(f):
            kind = type(f).__name__
            return named(
                "not-a-function",
                f"A function is asked for, and this is a value of type {kind}. "
                "Give its name without calling it.",
            )
        found = self._fingerprint(f)
        if _agree(found, self._expected):
            return next(self._manners(f), Outcome(True))
        for name, fingerprints in self._known.items():
            if any(_agree(found, known) for known in fingerprints):
                return named(name, self.mistakes[name].message)
        return next(chain(self._slips(found), self._faults(f)))

    def _slips(self, found: Fingerprint) -> Iterator[Outcome]:
        """What can go wrong with any right numbers: their sign, their digits."""
        exact, expected = found[0], self._expected[0]
        if any(results is _RAISED for results in exact):
            return
        mine, right = zip(*exact, strict=True), zip(*expected, strict=True)
        wrong = {
            name: pair
            for name, *pair in zip(self.returns, mine, right, strict=True)
            if not all(map(_close, *pair))
        }
        if not wrong:
            return
        names = " and ".join(wrong)
        if all(_close(-a, b) for pair in wrong.values() for a, b in zip(*pair, strict=True)):
            yield named(
                "wrong-sign",
                f"The sign is wrong all over in {names}, and the size is right. Look where "
                "something is subtracted.",
            )
        if all(_cut(*pair) for pair in wrong.values()):
            yield named(
                "digits-cut-off",
                f"The numbers are right but rounded, in {names}. Return them with all their "
                "digits: what is computed from them needs these.",
            )

    def _manners(self, f: Callable) -> Iterator[Outcome]:
        """What a function with the right numbers can still do wrong."""
        for case in self.cases:
            returned, given = _call(f, case)
            for name, value in case.items():
                if not _untouched(given[name], value):
                    yield named(
                        "changes-its-input",
                        f"The result is right, but the function writes into {name}. "
                        "Whoever called it still needs that array: make a new one.",
                    )
            for name, value in zip(self.returns, self._parts(returned), strict=True):
                if (dtype := np.asarray(value).dtype) != np.float64:
                    yield named(
                        "wrong-dtype",
                        f"The numbers are right, but {name} is {dtype} where float64 came in. "
                        "Half of the digits are lost on the way.",
                    )

    def _results(self, f: Callable, case: dict) -> Results:
        """What `f` returns as a list of float64 arrays; `_RAISED` if it is not that."""
        returned, _ = _call(f, case)
        try:
            return [_numbers(value) for value in self._parts(returned)]
        except TypeError:
            return _RAISED

    def _parts(self, returned: Any) -> Sequence:
        """What was returned, as a sequence as long as `returns`."""
        if len(self.returns) == 1:
            if not isinstance(returned, tuple):
                return [returned]
            if self.cache and returned:
                return returned[:1]
            raise TypeError
        if not isinstance(returned, (tuple, list)) or len(returned) != len(self.returns):
            raise TypeError
        return returned

    def _fingerprint(self, f: Callable) -> Fingerprint:
        exact = [self._results(f, case) for case in self.cases]
        rough = [
            _same(self._results(f, case), self._results(self.right, case)) for case in self.rough
        ]
        return exact, rough

    @cached_property
    def _expected(self) -> Fingerprint:
        return self._fingerprint(self.right)

    @cached_property
    def _known(self) -> dict[str, list[Fingerprint]]:
        return {
            name: [self._fingerprint(wrong) for wrong in mistake.forms]
            for name, mistake in self.mistakes.items()
        }

    def _faults(self, f: Callable) -> Iterator[Outcome]:
        """A result that is no result: an error, None, the wrong number, shape or type."""
        for case in self._examples():
            returned, _ = _call(f, case)
            if isinstance(returned, RAISED):
                yield named("raises", f"{raised(returned, f)} {_input(case)}")
            if returned is None:
                yield returned_nothing(f)
            arrays = self._results(f, case)
            if arrays is _RAISED:
                yield named("wrong-return", self._wanted(returned))
            expected = self._results(self.right, case)
            for name, array, other in zip(self.returns, arrays, expected, strict=True):
                if array.shape != other.shape:
                    yield named(
                        "wrong-shape",
                        f"{name} is {_kind(array)}, and {_kind(other)} is needed. {_input(case)}",
                    )
        yield self._smallest(f)

    def _wanted(self, returned: Any) -> str:
        """What should be returned, and what was."""
        right = self._expected[0][0]
        forms = ["one array" if each.ndim else "one number" for each in right]
        if len(forms) == 1:
            came = _kind(returned)
            if came.startswith(("an array", "one number", "a list")):
                came += " that holds something else than numbers"
            comma = isinstance(returned, tuple) and len(returned) == 1
            more = " Is there a comma behind it?" if comma else ""
            return f"{forms[0].capitalize()} is asked for, and {came} came.{more}"
        wanted = f"({', '.join(self.returns)})"
        if not isinstance(returned, (tuple, list)) or len(returned) != len(forms):
            return f"It should return {wanted}, and {_kind(returned)} came."
        bad = next(i for i, value in enumerate(returned) if not _is_numbers(value))
        needed = f"for {self.returns[bad]} {forms[bad]} is needed"
        return f"It should return {wanted}; {needed}, and {_kind(returned[bad])} came."

    def _examples(self) -> Iterator[dict]:
        return chain(self.tiny(), self.cases, self.rough)

    def _smallest(self, f: Callable) -> Outcome:
        """The first, so the smallest, example on which `f` is wrong."""
        for case in self._examples():
            arrays, expected = self._results(f, case), self._results(self.right, case)
            if _same(arrays, expected):
                continue
            results = dict(zip(self.returns, arrays, strict=True))
            pairs = zip(results.items(), expected, strict=True)
            wrong = [_where(name, array, other) for (name, array), other in pairs]
            broken = [text for text, holds in self.properties if not holds(case, results)]
            what = broken[0] if broken else f"Wrong here: {', '.join(filter(None, wrong))}."
            return Outcome(
                False,
                None,
                "This mistake has no name here. The smallest example that shows it is below. "
                f"{what}\n{_listed(case)}\nYours returns\n{_listed(results)}",
            )
        raise AssertionError("no example shows what the comparison found")


def _agree(a: Fingerprint, b: Fingerprint) -> bool:
    (exact_a, rough_a), (exact_b, rough_b) = a, b
    return rough_a == rough_b and all(map(_same, exact_a, exact_b))


def _cut(mine: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> bool:
    """Whether arrays are others, rounded to some number of decimals."""
    return any(
        all(_close(a, b.round(decimals), 1e-12) for a, b in zip(mine, right, strict=True))
        for decimals in range(7)
    )


def _where(name: str, array: np.ndarray, other: np.ndarray) -> str:
    """`name`, with the columns in which two arrays differ if some agree; "" if they are equal."""
    wrong = ~np.isclose(array, other, 1e-6, 1e-6, equal_nan=True)
    if not wrong.any():
        return ""
    columns = wrong.reshape(-1, wrong.shape[-1]).any(axis=0) if wrong.ndim else np.array([True])
    if columns.all():
        return name
    return f"{name} in column {', '.join(str(i) for i in np.flatnonzero(columns))}"


def small_batches(rng_seed: int = 0) -> Iterator[np.ndarray]:
    """Batches of small whole numbers, from the shape (2, 1) up; no column is constant."""
    rng = np.random.default_rng(rng_seed)
    for shape in ((2, 1), (3, 1), (2, 2), (3, 2), (4, 3)):
        for _ in range(6):
            x = rng.integers(-3, 4, size=shape).astype(float)
            x[0] += x[0] == x[-1]
            yield x


def cases_of(shapes: Iterable[tuple[int, ...]], make: Callable) -> list[dict]:
    """Call `make(rng, shape)` for each shape, with one generator."""
    rng = np.random.default_rng(0)
    return [make(rng, shape) for shape in shapes]


def grid_of(**choices: Iterable) -> Iterator[dict]:
    """Every combination, the last name varying fastest."""
    return (dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


# ---- Values -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An exercise that asks for a number, a choice, or a tuple of these.

    Attributes:
        truth: the right answer, or a function without arguments that computes it, called once
            when first needed.
        mistakes: the known mistakes by name. `ANY` in a tuple stands for any value; a function
            without arguments computes the value.
        hint: what to look at again, said of a wrong answer that is not known.
        names: what the places of a tuple mean.
        hints: the same for single places by name, said where only such places are wrong.
        choices: what a text may be.
        tolerance: how far a number may lie from the truth, and from a mistake.
    """

    truth: Any
    mistakes: Mapping[str, Mistake]
    hint: str
    names: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    tolerance: float = 1e-6

    def check(self, value: Any) -> Outcome:
        """Tell whether `value` is right, or what it reveals."""
        given, truth = _flat(value), self._truth
        if any(each is ... for each in given):
            return Outcome(False, None, "Put your answer in place of the dots, and run the cell.")
        if len(given) != len(truth):
            wanted = f"({', '.join(self.names)})" if self.names else "one value"
            return named("wrong-form", f"The answer is {wanted}, and {_form(value, given)} came.")
        for one, other in zip(given, truth, strict=True):
            if isinstance(other, str):
                if isinstance(one, str) and one in map(str.lower, self.choices):
                    continue
                return named("wrong-form", f"Choose one of: {', '.join(map(repr, self.choices))}.")
            if not isinstance(one, float):
                hint = " Did you run the cell that computes it?" if one is None else ""
                if isinstance(one, str) and one.replace(".", "", 1).removeprefix("-").isdigit():
                    hint = " Leave out the quotes."
                what = _short(one)
                return named("wrong-form", f"A number is asked for, and {what} is none.{hint}")
        if self._match(given, truth):
            return Outcome(True)
        if known := [
            (self._distance(given, pattern), name)
            for name, mistake in self.mistakes.items()
            for pattern in map(_flat, map(_value, mistake.forms))
            if self._match(given, pattern, mistake.tolerance)
        ]:
            name = min(known)[1]
            return named(name, self.mistakes[name].message)
        slip = self._slip(given, truth)
        if slip is not None:
            return slip
        wrong = [not self._near(*pair) for pair in zip(given, truth, strict=True)]
        if self.names and not all(wrong):
            at = [name for name, bad in zip(self.names, wrong, strict=True) if bad]
            hint = " ".join(dict.fromkeys(self.hints.get(name, self.hint) for name in at))
            look = f"Part of it is right; look again at: {', '.join(at)}."
            return Outcome(False, None, f"{look} {hint}")
        return Outcome(False, None, self.hint)

    def _slip(self, given: list, truth: list) -> Outcome | None:
        """What can go wrong with any right number: its unit, its digits, its place."""
        wrong = [pair for pair in zip(given, truth, strict=True) if not self._near(*pair)]
        if any(isinstance(part, str) for pair in wrong for part in pair):
            return None
        if all(one > 1 >= other > 0 and self._percent(one, other) for one, other in wrong):
            return named(
                "percent",
                "A number that came is a hundred times too large. If it is meant in percent: write "
                "a share, between 0 and 1.",
            )
        if all(_rounded(one, other) for one, other in wrong):
            return named("rounded", "The digits that came are right. Give more of them.")
        if 1 < len(given) <= 4 and any(self._match(list(p), truth) for p in permutations(given)):
            order = f": ({', '.join(self.names)})" if self.names else ""
            return named(
                "wrong-order", f"The right values came in another order than asked{order}."
            )
        return None

    def _percent(self, one: Real, other: Real) -> bool:
        half_a_percent = 0.005 + 1e-9  # for who gives whole percents
        return abs(one / 100 - other) <= max(self.tolerance, half_a_percent)

    @cached_property
    def _truth(self) -> list:
        return _flat(_value(self.truth))

    def _near(self, one: Any, other: Any, tolerance: float | None = None) -> bool:
        if other is ANY or isinstance(other, str) or isinstance(one, str):
            return other is ANY or one == other
        tolerance = self.tolerance if tolerance is None else tolerance
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or one == other or abs(one - other) <= tolerance

    def _match(self, given: list, pattern: list, tolerance: float | None = None) -> bool:
        pairs = zip(given, pattern, strict=True)
        return all(self._near(one, other, tolerance) for one, other in pairs)

    def _distance(self, given: list, pattern: list) -> float:
        pairs = zip(given, pattern, strict=True)
        return sum(abs(a - b) for a, b in pairs if isinstance(b, float) and math.isfinite(a))


def _value(value: Any) -> Any:
    return value() if callable(value) else value


DEEPEST = 4  # levels of lists in lists: no answer has more, and a list may hold itself
LONGEST = 60  # characters of what is no number


def _flat(value: Any, depth: int = 0) -> list:
    """A value, sequence or array of any library as a flat list of what `_part` gives."""
    array = None if isinstance(value, Real) else _array(value)
    if array is not None:
        value = array.ravel().tolist()
    if isinstance(value, (tuple, list)) and depth < DEEPEST:
        return [part for each in value for part in _flat(each, depth + 1)]
    return [_part(value)]


def _part(value: Any) -> Any:
    """A text in lower case, a number as a float; None and anything else as it is."""
    if isinstance(value, str):
        return value.strip().lower()
    if not isinstance(value, (Real, Decimal)):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:  # a Decimal that is a signaling NaN
        return math.nan


def _short(value: Any) -> str:
    """A value as Python writes it, if that is not long; else its type."""
    try:
        text = repr(value)
    except Exception:  # as above
        text = ""
    return text if 0 < len(text) <= LONGEST else f"a value of type {type(value).__name__}"


def _form(value: Any, given: list) -> str:
    array = _array(value)
    if array is not None and array.ndim:
        return f"an array of the shape {array.shape}"
    return "1 value" if len(given) == 1 else f"{len(given)} values"


def _rounded(one: Real, other: Real) -> bool:
    """Whether a number is another with fewer digits, and close to it all the same."""
    if not (math.isfinite(one) and math.isfinite(other)) or abs(one - other) > 0.02 * abs(other):
        return False
    digits = repr(float(one)).partition(".")[2]
    return digits.isdigit() and round(other, len(digits) * (digits != "0")) == one
