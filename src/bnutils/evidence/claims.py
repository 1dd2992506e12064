"""Claims: what somebody said, the smallest effect that matters, what was measured, the outcome.

Before a record is made, a `Hypothesis` says what is claimed and where the margin lies. The measured
effect turns it into a `Claim`, whose outcome follows from one primary finding.

Example:
    >>> from bnutils.evidence import paired_ratio
    >>> faster = Hypothesis(
    ...     name="fewer-steps",
    ...     claim="A network with BN needs fewer steps.",
    ...     kind="measured",
    ...     source="ioffe2015",
    ...     said_by="Ioffe and Szegedy 2015",
    ...     label="steps, no BN ÷ BN",
    ...     claimed="above",
    ...     margin=1.5,
    ...     scale="log",
    ...     reason="half as many steps again is a gain that a user would notice",
    ...     spec=".1f",
    ...     setting="a small network",
    ... )
    >>> without = [410, 380, 400, 360, 380, 395, 372, 388, 401, 367]
    >>> with_bn = [58, 61, 50, 55, 57, 60, 52, 59, 54, 56]
    >>> print(faster.judge(paired_ratio(without, with_bn)))
    Shown: A network with BN needs fewer steps.
      steps, no BN ÷ BN: 6.9 [6.5, 7.2], claimed above 1.5
      said by       Ioffe and Szegedy 2015 [ioffe2015]
      kind          measured
      margin        a factor of 1.5: half as many steps again is a gain that a user would notice
      setting       a small network
      seeds         10
      interval      95%, Student's t of the logarithm over 10 replicates
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from bnutils.evidence.intervals import Interval, is_count

__all__ = ["CLAIM_MIME", "FEWEST_SEEDS", "KINDS", "OUTCOMES", "Claim", "Finding", "Hypothesis"]

CLAIM_MIME = "application/vnd.bnutils.claim+json"
FEWEST_SEEDS = 10
OUTCOMES = ("shown", "contrary shown", "no difference", "undecided")
KINDS = {
    "identity": "exact, checked on random inputs",
    "version": "behavior of the installed version",
    "construction": "true by construction, no evidence",
    "measured": "measured",
}
STORED = ".8e"  # nine digits: all that records give is the same everywhere

Claimed = Literal["above", "below", "within"]
Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Finding:
    """One measured effect, and what it says about where it was claimed to be.

    The outcome is judged from the interval as it was measured, before any rounding:

    - *shown*: the whole interval is beyond the margin on the claimed side;
    - *contrary shown*: the whole interval is beyond the margin on the other side;
    - *no difference*: the whole interval is inside the margins;
    - *undecided*: all else, also an interval that ends on a bound.

    If the claim is that there is no difference (`claimed="within"`), an interval inside the margins
    is *shown*, and one outside on either side is *contrary shown*.

    Args:
        label: what was measured; for a comparison, in the order of the arithmetic, such as
            "test accuracy, BN - no BN".
        effect: the measured effect, one interval.
        claimed: the side of the margin it was claimed to be on, or "within" the margins.
        margin: the smallest effect that matters: a distance from `null`, by default 0; on the
            log scale a factor of 1 or more, by default 1.
        null: no effect: 0 by default, on the log scale 1. For a level, the bound, with no margin.
        reason: why the margin has this size.
        spec: format code of its numbers: `.3f`, `.1e`, `.3g` or `.1%`, with any number of digits,
            and a comma in front for thousands.
        unit: unit of the effect, such as "mm"; empty for none.

    Attributes:
        outcome: one of `OUTCOMES`.

    Raises:
        ValueError: a blank label, several intervals in one effect, an unknown side, a margin that
            is none, or another format code.

    Example:
        >>> from bnutils.evidence import interval
        >>> gain = Finding("accuracy, BN - no BN", interval([0.02, 0.03, 0.025]), margin=0.01)
        >>> gain.effect_text, gain.claim_text, gain.outcome
        ('0.025 [0.013, 0.037]', 'above 0.01', 'shown')
    """

    label: str
    effect: Interval
    claimed: Claimed = "above"
    margin: float | None = None
    null: float | None = None
    reason: str = ""
    spec: str = ".3f"
    unit: str = ""
    outcome: str = field(init=False)

    def __post_init__(self) -> None:
        """Check the fields, and judge."""
        if not isinstance(self.effect, Interval) or np.ndim(self.effect.mean):
            raise ValueError(f"expected one Interval as effect, got {self.effect!r}")
        _check_margin(self, self.effect.scale)
        object.__setattr__(self, "outcome", self._judged(self.effect.low, self.effect.high))

    def _judged(self, low: float, high: float) -> str:
        lower, upper = self.bounds
        if low > upper:
            side = "above"
        elif high < lower:
            side = "below"
        elif lower < low and high < upper:
            side = "within"
        else:
            return "undecided"
        if side == self.claimed:
            return "shown"
        return "no difference" if side == "within" else "contrary shown"

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends of the margins, lower and upper; equal if there is no margin."""
        if self.effect.scale == "log":
            return self.null / self.margin, self.null * self.margin
        return self.null - self.margin, self.null + self.margin

    @property
    def p_value(self) -> float:
        """One-sided p of the outcome, at most (1 - confidence) / 2 if it is decided.

        For an effect beyond the margin it is the p of a t-test against the nearer bound, on the
        scale of the interval; for one inside the margins the larger p of the two bounds (TOST,
        Schuirmann 1987). An undecided finding has the smallest p of all outcomes it could have had.
        The distance is measured in lengths of the interval on that side, so that p and outcome
        always agree. A quantity without randomness has p 0 or 1.
        """
        lower, upper = self.bounds
        above, below = self._p(upper, above=True), self._p(lower, above=False)
        within = max(self._p(lower, above=True), self._p(upper, above=False))
        return min(above, below, within)

    def _p(self, bound: float, *, above: bool) -> float:
        """One-sided p of an effect above (or below) a bound."""
        effect = self.effect
        mean, end = effect.mean, effect.low if above else effect.high
        if math.isinf(end):
            return 1.0
        if effect.scale == "log":
            if min(mean, end) <= 0:  # rounded to 0 when it was stored
                return 0.0 if (end > bound if above else end < bound) else 1.0
            mean, end, bound = math.log(mean), math.log(end), math.log(bound)
        length = abs(mean - end)
        distance = mean - bound if above else bound - mean
        if length == 0:
            return 0.0 if distance > 0 else 1.0
        level = (1 + effect.confidence) / 2
        if effect.degrees is None:
            return float(ndtr(-distance / length * ndtri(level)))
        return float(stdtr(effect.degrees, -distance / length * stdtrit(effect.degrees, level)))

    @property
    def effect_text(self) -> str:
        """The effect as the card shows it, with both ends of its interval and the unit."""
        effect, spec = self.effect, self.spec
        mean, low, high = (f"{_shown(end, spec):{spec}}" for end in effect._ends)
        if effect.is_exact:
            return f"{mean}{self._unit_text}"
        ends = f"[{low}, {high}]" if effect.n > 1 else "(one run: no interval)"
        return f"{mean} {ends}{self._unit_text}"

    @property
    def claim_text(self) -> str:
        """Where the effect was claimed to be, such as "above 0.01" or "within a factor of 1.2"."""
        lower, upper = self.bounds
        if self.claimed != "within":
            return f"{self.claimed} {self._number(upper if self.claimed == 'above' else lower)}"
        if self.effect.scale == "log":
            of = "" if self.null == 1 else f" of {self._number(self.null)}"
            return f"within a factor of {self.margin:g}{of}"
        of = "zero" if self.null == 0 else self._number(self.null)
        return f"within {self._number(self.margin)} of {of}"

    @property
    def margin_text(self) -> str:
        """The margin, such as "0.01" or "a factor of 1.2", or "none"."""
        if self.effect.scale == "log":
            return "none" if self.margin == 1 else f"a factor of {self.margin:g}"
        return "none" if self.margin == 0 else self._number(self.margin)

    def _number(self, value: float) -> str:
        percent = "%" if self.spec.endswith("%") else ""
        value = 100 * value if percent else value
        # Twelve digits: a sum such as 0.1 + 0.2 shows no trace of how it was made. A bound that
        # needs them all, such as 1 / 1.5, is a ratio.
        text = f"{value:.12g}"
        text = f"{value:.3g}" if len(text) > 10 else text
        return f"{text}{percent}{self._unit_text}"

    @property
    def _unit_text(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON data, the numbers of the effect with nine digits."""
        data = asdict(self)
        effect = data["effect"]
        for end in ("mean", "low", "high"):
            value = effect[end]
            effect[end] = _shown(value, STORED) if math.isfinite(value) else None
        if effect["standard_error"] is not None:
            effect["standard_error"] = _shown(effect["standard_error"], STORED)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Finding":
        """The finding that `to_json` wrote.

        Raises:
            ValueError: fields are missing, unknown or invalid, or the recorded outcome is not one
                that the numbers, before they were rounded, can have had.
        """
        values = _fields_of(cls, data)
        outcome = values.pop("outcome")
        effect = _fields_of(Interval, values.pop("effect"))
        effect["low"] = -math.inf if effect["low"] is None else effect["low"]
        effect["high"] = math.inf if effect["high"] is None else effect["high"]
        finding = cls(effect=Interval(**effect), **values)
        if outcome not in set(finding._outcomes_before_rounding()):
            raise ValueError(
                f"the outcome {outcome!r} of {finding.label!r} does not follow from its numbers: "
                "one of them was changed after it was measured"
            )
        object.__setattr__(finding, "outcome", outcome)
        return finding

    def _outcomes_before_rounding(self) -> Iterator[str]:
        lows, highs = (
            (end - half, end, end + half)
            for end in (self.effect.low, self.effect.high)
            for half in [_half_unit(end, STORED)]
        )
        for low in lows:
            for high in highs:
                yield self._judged(low, high)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What is said, and the margin, committed before the record that they judge.

    Args:
        name: a short name in lower case with hyphens, unique in the book.
        claim: what is claimed, in one sentence, as its source says it.
        kind: "identity" (exact, tested on random inputs), "version" (behavior of the installed
            version), "construction" (true by construction) or "measured".
        source: citation key of the work that claims it, such as "ioffe2015".
        said_by: the work as words, such as "Ioffe and Szegedy 2015".
        label: what the primary finding measures; see `Finding`.
        claimed: the side of the margin, or "within" the margins.
        margin: the smallest effect that matters; see `Finding`.
        null: no effect, or the bound of a level; see `Finding`.
        scale: "linear" for differences and levels, "log" for ratios.
        reason: why the margin has this size.
        spec: format code; see `Finding`.
        unit: unit of the effect; empty for none.
        setting: data, network and training of the runs, and how settings are chosen.

    Raises:
        ValueError: a field is blank or not of its form.

    Example:
        See the top of this module.
    """

    name: str
    claim: str
    kind: Literal["identity", "version", "construction", "measured"]
    source: str
    said_by: str
    label: str
    setting: str
    claimed: Claimed = "above"
    margin: float | None = None
    null: float | None = None
    scale: Scale = "linear"
    reason: str = ""
    spec: str = ".3f"
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the fields."""
        _check_said(self)
        if self.scale not in ("linear", "log"):
            raise ValueError(f"expected the scale 'linear' or 'log', got {self.scale!r}")
        _check_margin(self, self.scale)
        if self.kind == "measured" and not self.reason.strip():
            raise ValueError(f"{self.name}: expected a reason for the size of the margin, got none")

    @property
    def digest(self) -> str:
        """SHA-256 of the margin and of what it is for (name, label, side, null and scale)."""
        return _digest(self.name, self, self.scale)

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON data; `Hypothesis(**data)` is the same hypothesis."""
        return asdict(self)

    def judge(
        self,
        effect: Interval,
        secondary: Sequence[Finding] = (),
        chosen: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        draws: int | None = None,
        record: str | Sequence[str] = (),
        note: str = "",
        seeds: int | None = None,
    ) -> "Claim":
        """The claim, with its outcome.

        Args:
            effect: the measured effect, on the hypothesis's scale.
            secondary: further findings.
            chosen: the settings that were chosen; see `Claim`.
            draws: test examples, or draws of the data, behind the interval.
            record: name or names of the records that it was measured from.
            note: what else a reader must know.
            seeds: number of seeds; `effect.n` if None.

        Raises:
            ValueError: the effect has another scale, or as for `Claim`.
        """
        if not isinstance(effect, Interval) or effect.scale != self.scale:
            raise ValueError(
                f"{self.name}: expected an effect on the {self.scale} scale, as its margin is, "
                f"got {effect!r}"
            )
        measured = {name: getattr(self, name) for name in _MEASURED}
        said = {name: getattr(self, name) for name in _SAID}
        return Claim(
            **said,
            primary=Finding(effect=effect, **measured),
            secondary=secondary,
            chosen=chosen or {},
            draws=draws,
            record=record,
            note=note,
            seeds=seeds,
        )


_SAID = ("name", "claim", "kind", "source", "said_by", "setting")
_MEASURED = ("label", "claimed", "margin", "null", "reason", "spec", "unit")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody said, what was measured of it here, and the outcome.

    The outcome is that of the primary finding, which tests the sentence as its source said it. The
    secondary findings are shown and judged, but decide nothing. Shown in a notebook, a claim is a
    card; beside the card, the cell's output carries every field as JSON, for the ledger. What comes
    from a record is the same on every machine and is stored with nine digits; what is computed in
    the notebook is stored as shown, after it was judged.

    Args:
        name, claim, kind, source, said_by, setting: as for `Hypothesis`. The card's anchor is
            `claim-` and the name.
        primary: the finding that decides.
        secondary: further findings.
        chosen: by arm and by setting the value chosen most often ("value"), the share of the
            replicates that chose it ("share"), and whether it is at the edge of its grid ("edge").
        seeds: number of seeds behind the primary finding; taken from its interval if None.
        draws: number of test examples, or of draws of the data, behind its interval.
        record: name or names of the records that it was measured from.
        note: what else a reader must know.

    Raises:
        ValueError: a field is blank or not of its form; findings of different confidence; a
            measured claim without an interval, with fewer than ten seeds, or with no reason for
            its margin.

    Example:
        See the top of this module.
    """

    name: str
    claim: str
    kind: Literal["identity", "version", "construction", "measured"]
    source: str
    said_by: str
    setting: str
    primary: Finding
    secondary: Sequence[Finding] = ()
    chosen: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    seeds: int | None = None
    draws: int | None = None
    record: str | Sequence[str] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_said(self)
        _check_text(note=self.note, blank=True)
        if not isinstance(self.primary, Finding):
            raise ValueError(f"expected a Finding as primary, got {self.primary!r}")
        if not isinstance(self.secondary, Sequence) or not all(
            isinstance(finding, Finding) for finding in self.secondary
        ):
            raise ValueError(f"expected a list of findings as secondary, got {self.secondary!r}")
        object.__setattr__(self, "secondary", tuple(self.secondary))
        record = (self.record,) if isinstance(self.record, str) else tuple(self.record)
        for name in record:
            _check_text(record=name)
        object.__setattr__(self, "record", record)
        object.__setattr__(self, "chosen", _plain_choices(self.chosen))
        self._check_seeds()

    def _check_seeds(self) -> None:
        effects = [f.effect for f in self.findings if not f.effect.is_exact]
        if len({effect.confidence for effect in effects}) > 1:
            raise ValueError(f"{self.name}: expected findings of one confidence, got several")
        if self.seeds is None:
            effect = self.primary.effect
            object.__setattr__(self, "seeds", 0 if effect.is_exact else effect.n)
        for name, at_least in (("seeds", 0), ("draws", 1)):
            number = getattr(self, name)
            if number is not None and not is_count(number, at_least=at_least):
                raise ValueError(f"expected a whole number of {name}, got {number!r}")
        if self.kind != "measured":
            return
        if self.primary.effect.is_exact:
            raise ValueError(
                f"{self.name}: expected an interval in a measured claim's primary finding, got an "
                "exact value; its kind may be 'identity', 'version' or 'construction'"
            )
        if self.seeds < FEWEST_SEEDS:
            raise ValueError(
                f"{self.name}: expected at least {FEWEST_SEEDS} seeds, got {self.seeds}; run more"
            )
        if not self.primary.reason.strip():
            raise ValueError(f"{self.name}: expected a reason for the size of the margin, got none")

    @property
    def outcome(self) -> str:
        """The outcome of the primary finding, one of `OUTCOMES`."""
        return self.primary.outcome

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The primary finding and the secondary ones."""
        return self.primary, *self.secondary

    @property
    def anchor(self) -> str:
        """The id of the card in the page."""
        return f"claim-{self.name}"

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Arm and setting of every choice that is at the edge of its grid."""
        return [
            (arm, setting)
            for arm, settings in self.chosen.items()
            for setting, choice in settings.items()
            if choice["edge"]
        ]

    @property
    def digest(self) -> str:
        """The digest of the `Hypothesis` that this claim judges."""
        return _digest(self.name, self.primary, self.primary.effect.scale)

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON data, with the outcome."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {
            "primary": self.primary.to_json(),
            "secondary": [finding.to_json() for finding in self.secondary],
            "record": list(self.record),
            "outcome": self.outcome,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Claim":
        """The claim that `to_json` wrote.

        Raises:
            ValueError: fields are missing, unknown or invalid, or a recorded outcome does not
                follow from its numbers.
        """
        values = _fields_of(cls, data, extra={"outcome"})
        if not isinstance(values["secondary"], list):
            raise ValueError(f"expected a list of findings, got {values['secondary']!r}")
        values["primary"] = Finding.from_json(values["primary"])
        values["secondary"] = [Finding.from_json(one) for one in values["secondary"]]
        claim = cls(**values)
        if claim.to_json() != data:
            raise ValueError(
                f"claim {claim.name!r} does not follow from its findings: its outcome or a rounded "
                "number was changed after it was measured"
            )
        return claim

    def __str__(self) -> str:
        """The card as text."""
        from bnutils.evidence import cards

        return cards.as_text(self)

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, str | dict[str, Any]]:
        from bnutils.evidence import cards

        return {
            "text/plain": cards.as_text(self),
            "text/html": cards.as_html(self),
            CLAIM_MIME: self.to_json(),
        }


def _check_said(said: Hypothesis | Claim) -> None:
    _check_text(**{name: getattr(said, name) for name in _SAID})
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", said.name):
        raise ValueError(f"expected a name like 'fewer-steps', got {said.name!r}")
    if not re.fullmatch(r"[A-Za-z][\w:.-]*", said.source, re.ASCII):
        raise ValueError(f"expected a citation key like 'ioffe2015', got {said.source!r}")
    if said.kind not in KINDS:
        raise ValueError(f"expected a kind out of {list(KINDS)}, got {said.kind!r}")


def _check_margin(judged: Finding | Hypothesis, scale: Scale) -> None:
    """Check the parts that findings and hypotheses share, and fill in margin and null."""
    _check_text(label=judged.label)
    _check_text(reason=judged.reason, unit=judged.unit, blank=True)
    if judged.claimed not in ("above", "below", "within"):
        raise ValueError(f"expected claimed 'above', 'below' or 'within', got {judged.claimed!r}")
    if not isinstance(judged.spec, str) or not re.fullmatch(r",?\.\d+[efg%]", judged.spec):
        raise ValueError(f"expected a format code like '.3f', got {judged.spec!r}")
    nothing = 1.0 if scale == "log" else 0.0
    for name, value in (("margin", judged.margin), ("null", judged.null)):
        value = nothing if value is None else value
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(f"expected a number as {name}, got {value!r}")
        object.__setattr__(judged, name, float(value))
    if judged.margin < nothing:
        size = "a factor of 1 or more" if scale == "log" else "a distance of 0 or more"
        raise ValueError(f"expected {size} as margin, got {judged.margin!r}")
    if scale == "log" and judged.null <= 0:
        raise ValueError(f"expected a positive null for a ratio, got {judged.null!r}")
    if judged.claimed == "within" and judged.margin == nothing:
        raise ValueError("expected a margin for a claim of no difference, got none")


def _check_text(*, blank: bool = False, **texts: Any) -> None:
    for name, text in texts.items():
        if not isinstance(text, str) or not (blank or text.strip()):
            raise ValueError(f"expected {name} to be a text, got {text!r}")
        # Control and format characters, unpaired surrogates, line and paragraph separators.
        if any(unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" for c in text):
            raise ValueError(f"expected {name} without control characters, got {text!r}")


def _plain_choices(chosen: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """The chosen settings as plain data."""
    keys = {"value", "share", "edge"}
    result: dict[str, dict[str, dict[str, Any]]] = {}
    if not isinstance(chosen, Mapping):
        raise ValueError(f"expected chosen settings by arm, got {chosen!r}")
    for arm, settings in chosen.items():
        _check_text(arm=arm)
        if not isinstance(settings, Mapping):
            raise ValueError(f"expected the chosen settings of {arm!r}, got {settings!r}")
        result[arm] = {}
        for name, choice in settings.items():
            _check_text(setting=name)
            if not isinstance(choice, Mapping) or set(choice) != keys:
                raise ValueError(f"expected value, share and edge of {name!r}, got {choice!r}")
            plain = {key: np.asarray(choice[key]).item() for key in ("value", "share", "edge")}
            share = plain["share"]
            if not isinstance(share, Real) or not 0 <= share <= 1 or plain["edge"] not in (0, 1):
                raise ValueError(f"expected a share and an edge flag of {name!r}, got {choice!r}")
            if isinstance(plain["value"], str):
                _check_text(value=plain["value"])
            elif not isinstance(plain["value"], Real) or not math.isfinite(plain["value"]):
                raise ValueError(f"expected a value of {name!r}, got {plain['value']!r}")
            result[arm][name] = plain | {"edge": bool(plain["edge"])}
    return result


def _digest(name: str, judged: Finding | Hypothesis, scale: Scale) -> str:
    parts = [name, judged.label, judged.claimed, judged.margin, judged.null, scale]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _shown(number: float, spec: str) -> float:
    """The number that a reader of its formatted text sees."""
    if math.isinf(number):
        return number
    text = format(float(number), spec).replace(",", "")
    # Adding zero turns -0.0 into 0.0.
    return float(f"{text[:-1]}e-2" if text.endswith("%") else text) + 0.0


def _half_unit(number: float, spec: str) -> float:
    """How far a number may be from what it was before it was rounded as `spec` says."""
    digits, kind = int(re.search(r"\d+", spec)[0]), spec[-1]
    if kind in "eg":
        if number == 0 or math.isinf(number):
            return 0.0
        digits -= (kind == "g") * (digits > 0) + math.floor(math.log10(abs(number)))
    return 0.5 * 10.0 ** -(digits + 2 * (kind == "%")) * (1 + 1e-9)


def _fields_of(
    cls: type, data: Any, extra: frozenset[str] | set[str] = frozenset()
) -> dict[str, Any]:
    """The constructor's arguments out of a JSON object, which must have them all and no other."""
    names = {f.name for f in fields(cls)}
    if not isinstance(data, Mapping) or set(data) != names | extra:
        keys = sorted(data) if isinstance(data, Mapping) else data
        raise ValueError(
            f"expected the fields of {cls.__name__}, {sorted(names | extra)}, got {keys!r}"
        )
    return {name: data[name] for name in names}
