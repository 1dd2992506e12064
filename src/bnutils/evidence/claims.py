"""Claims: what somebody said, what was measured, and the outcome."""

import html
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Literal

import numpy as np

from bnutils.evidence.intervals import Interval, is_count

__all__ = ["CLAIM_MIME", "Claim", "Finding"]

CLAIM_MIME = "application/vnd.bnutils.claim+json"
FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Finding:
    """One measured effect, and whether it is where it was claimed to be.

    What is judged is what is shown: the effect is rounded as `spec` says when the finding is made,
    so that the verdict, the card and the ledger can never disagree about the last digit.

    Args:
        label: what was measured; for a comparison, in the order of the arithmetic, such as
            "test accuracy, BN - no BN".
        effect: the measured effect, one interval.
        claimed: the side of the threshold it was claimed to be on.
        threshold: the value that separates the two sides: 0 for a difference, 1 for a ratio.
        spec: format code of its numbers: `.3f`, `.1e`, `.3g` or `.1%`, with any number of digits,
            and a comma in front for thousands.
        unit: unit of the effect, such as "mm"; empty for none.

    Raises:
        ValueError: a blank label, several intervals in one effect, an unknown side, another
            format code, or a threshold with more digits than the code shows.

    Example:
        >>> from bnutils.evidence import interval
        >>> finding = Finding("accuracy, BN - no BN", interval([0.02, 0.03, 0.025]))
        >>> finding.effect_text, finding.claim_text, finding.holds
        ('0.025 [0.013, 0.037]', 'above 0', True)
    """

    label: str
    effect: Interval
    claimed: Literal["above", "below"] = "above"
    threshold: float = 0.0
    spec: str = ".3f"
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the fields and round the effect."""
        _check_text(label=self.label)
        if not isinstance(self.effect, Interval) or np.ndim(self.effect.mean):
            raise ValueError(f"expected one Interval as effect, received {self.effect!r}")
        if self.claimed not in ("above", "below"):
            raise ValueError(f"expected claimed 'above' or 'below', received {self.claimed!r}")
        if not isinstance(self.spec, str) or not re.fullmatch(r",?\.\d+[efg%]", self.spec):
            raise ValueError(f"expected a format code like '.3f', received {self.spec!r}")
        if not isinstance(self.unit, str):
            raise ValueError(f"expected a text as unit, received {self.unit!r}")
        if (
            not isinstance(self.threshold, Real)
            or not math.isfinite(self.threshold)
            or self._shown(self.threshold) != self.threshold
        ):
            raise ValueError(
                f"expected a threshold that {self.spec!r} shows in full, "
                f"received {self.threshold!r}"
            )
        object.__setattr__(self, "threshold", float(self.threshold))
        mean, low, high = (self._shown(end) for end in self.effect._ends)
        object.__setattr__(self, "effect", replace(self.effect, mean=mean, low=low, high=high))

    def _shown(self, number: float) -> float:
        """The number that a reader of its formatted text sees."""
        text = format(float(number), self.spec).replace(",", "")
        # Adding zero turns -0.0 into 0.0.
        return float(f"{text[:-1]}e-2" if text.endswith("%") else text) + 0.0

    @property
    def holds(self) -> bool:
        """Whether the whole interval is on the claimed side of the threshold."""
        if self.claimed == "above":
            return self.effect.low > self.threshold
        return self.effect.high < self.threshold

    @property
    def effect_text(self) -> str:
        """The effect as the card shows it, with both ends of its interval and the unit."""
        effect, spec = self.effect, self.spec
        ends = "" if effect.is_exact else f" [{effect.low:{spec}}, {effect.high:{spec}}]"
        return f"{effect.mean:{spec}}{ends}{self._unit_text}"

    @property
    def claim_text(self) -> str:
        """The claimed side as shown, such as "above 0 mm"."""
        percent = self.spec.endswith("%")
        threshold = f"{100 * self.threshold:g}%" if percent else f"{self.threshold:g}"
        return f"{self.claimed} {threshold}{self._unit_text}"

    @property
    def _unit_text(self) -> str:
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody said, what was measured of it here, and the verdict.

    The verdict follows from the findings alone: *holds* if all of them hold, *holds in part* if
    some do, *does not hold here* if none does. Shown in a notebook, a claim is a card; beside the
    card, the cell's output carries every field as JSON, rounded as shown, for the ledger.

    Args:
        name: a short name in lower case with hyphens, unique in the book; the card's anchor is
            `claim-` and this name.
        claim: what is claimed, in one sentence.
        source: citation key of the work that claims it, such as "ioffe2015".
        said_by: the work as words, such as "Ioffe and Szegedy 2015".
        setting: data, network and training of the runs, and how settings were chosen.
        findings: one or more findings.
        refuted_by: what would have refuted the claim.
        seeds: number of seeds: the fewest runs behind any finding, at least 5; counted if None. If
            every finding is exact, any number, by default 0.

    Raises:
        ValueError: a field is blank or not of its form, there are no findings, findings of
            different confidence, too few seeds, or a number of seeds that is not that of the runs.

    Example:
        >>> effect = paired_ratio([410, 380, 400, 360, 380], [58, 61, 50, 55, 57])
        >>> print(Claim(
        ...     name="fewer-steps",
        ...     claim="A network with BN needs fewer steps.",
        ...     source="ioffe2015",
        ...     said_by="Ioffe and Szegedy 2015",
        ...     setting="a small network",
        ...     findings=[Finding("steps, no BN ÷ BN", effect, threshold=1, spec=".1f")],
        ...     refuted_by="an interval that contains 1",
        ... ))
        Claim: A network with BN needs fewer steps.
          said by     Ioffe and Szegedy 2015 [ioffe2015]
          setting     a small network
          seeds       5
          refuted by  an interval that contains 1
        <BLANKLINE>
          measured here      effect [95% interval]  holds if  holds
          steps, no BN ÷ BN  6.9 [6.1, 7.7]         above 1   yes
        <BLANKLINE>
          verdict: holds (1 of 1 findings)
    """

    name: str
    claim: str
    source: str
    said_by: str
    setting: str
    findings: Sequence[Finding]
    refuted_by: str
    seeds: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _check_text(
            name=self.name,
            claim=self.claim,
            source=self.source,
            said_by=self.said_by,
            setting=self.setting,
            refuted_by=self.refuted_by,
        )
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name):
            raise ValueError(f"expected a name like 'fewer-steps', received {self.name!r}")
        if not re.fullmatch(r"[A-Za-z][\w:.-]*", self.source, re.ASCII):
            raise ValueError(f"expected a citation key like 'ioffe2015', received {self.source!r}")
        if (
            not isinstance(self.findings, Sequence)
            or not self.findings
            or not all(isinstance(finding, Finding) for finding in self.findings)
        ):
            raise ValueError(f"expected a list of findings, received {self.findings!r}")
        object.__setattr__(self, "findings", tuple(self.findings))
        self._check_seeds()

    def _check_seeds(self) -> None:
        measured = [finding.effect for finding in self.findings if not finding.effect.is_exact]
        if self.seeds is None:
            seeds = min((effect.n for effect in measured), default=0)
            object.__setattr__(self, "seeds", seeds)
        if not is_count(self.seeds, at_least=0):
            raise ValueError(f"expected a whole number of seeds, received {self.seeds!r}")
        if not measured:
            return
        if len({effect.confidence for effect in measured}) > 1:
            raise ValueError("expected findings of one confidence level, received several")
        fewest = min(effect.n for effect in measured)
        if fewest < FEWEST_SEEDS:
            raise ValueError(f"expected at least {FEWEST_SEEDS} runs a finding, received {fewest}")
        if self.seeds != fewest:
            raise ValueError(
                f"expected seeds={fewest}, the fewest runs behind any finding, "
                f"received {self.seeds}"
            )

    @property
    def verdict(self) -> str:
        """`"holds"`, `"holds in part"` or `"does not hold here"`."""
        if all(finding.holds for finding in self.findings):
            return "holds"
        if any(finding.holds for finding in self.findings):
            return "holds in part"
        return "does not hold here"

    @property
    def anchor(self) -> str:
        """The id of the card in the page."""
        return f"claim-{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Every field as plain JSON data, numbers rounded as shown.

        Returns:
            The fields by name, with the verdict, and for each finding its `holds`.
        """
        findings = [{**asdict(finding), "holds": finding.holds} for finding in self.findings]
        return {**asdict(self), "findings": findings, "verdict": self.verdict}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Claim":
        """The claim that `to_json` wrote.

        Raises:
            ValueError: fields are missing, unknown or invalid, or a recorded verdict is not the one
                that follows from the findings.
        """
        values = _fields_of(cls, data, extra={"verdict"})
        records, findings = values.pop("findings"), []
        if not isinstance(records, list):
            raise ValueError(f"expected a list of findings, received {records!r}")
        for record in records:
            parts = _fields_of(Finding, record, extra={"holds"})
            effect = Interval(**_fields_of(Interval, parts.pop("effect")))
            findings.append(Finding(effect=effect, **parts))
        claim = cls(findings=findings, **values)
        if claim.to_json() != data:
            raise ValueError(
                f"claim {claim.name!r} does not follow from its findings: its verdict or a rounded "
                "number was changed after it was measured"
            )
        return claim

    def __str__(self) -> str:
        """The card as text."""
        details = [
            ("said by", f"{self.said_by} [{self.source}]"),
            ("setting", self.setting),
            ("seeds", self._seeds_text),
            ("refuted by", self.refuted_by),
        ]
        lines = [
            *textwrap.wrap(f"Claim: {self.claim}", width=96, subsequent_indent="       "),
            *(
                line
                for name, text in details
                for line in textwrap.wrap(
                    text, 96, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14
                )
            ),
            "",
        ]
        table = [self._heads, *self._rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = (f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(cells)}".rstrip())
        return "\n".join([*lines, "", f"  verdict: {self._verdict_text}"])

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, str | dict[str, Any]]:
        return {
            "text/plain": str(self),
            "text/html": self._html(),
            CLAIM_MIME: self.to_json(),
        }

    def _html(self) -> str:
        text = html.escape
        heads = "".join(f'<th scope="col">{text(head)}</th>' for head in self._heads)
        rows = "\n".join(
            f'<tr class="bn-claim-finding" data-holds="{found}"><th scope="row">{text(label)}</th>'
            f"<td>{text(effect)}</td><td>{text(claimed)}</td><td>{found}</td></tr>"
            for label, effect, claimed, found in self._rows
        )
        return "\n".join(
            [
                f'<section class="bn-claim" id="{self.anchor}" aria-labelledby="{self.anchor}-text"'
                f' data-verdict="{self.verdict.replace(" ", "-")}">',
                f'<p class="bn-claim-text" id="{self.anchor}-text">'
                f"<strong>Claim:</strong> {text(self.claim)}</p>",
                '<p class="bn-claim-source">Said by '
                f'<cite data-key="{text(self.source)}">{text(self.said_by)}</cite></p>',
                f'<table class="bn-claim-findings"><thead><tr>{heads}</tr></thead>',
                f"<tbody>\n{rows}\n</tbody></table>",
                '<dl class="bn-claim-details">',
                f"<dt>Setting</dt><dd>{text(self.setting)}</dd>",
                f"<dt>Seeds</dt><dd>{self._seeds_text}</dd>",
                f"<dt>Would have refuted it</dt><dd>{text(self.refuted_by)}</dd>",
                "</dl>",
                '<p class="bn-claim-verdict">Verdict: '
                f"<strong>{self.verdict}</strong>{self._verdict_text.removeprefix(self.verdict)}</p>",
                "</section>",
            ]
        )

    @property
    def _heads(self) -> tuple[str, ...]:
        levels = {f.effect.confidence for f in self.findings if not f.effect.is_exact}
        bracket = "".join(f" [{100 * level:g}% interval]" for level in levels)
        return "measured here", f"effect{bracket}", "holds if", "holds"

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (f.label, f.effect_text, f.claim_text, "yes" if f.holds else "no")
            for f in self.findings
        ]

    @property
    def _seeds_text(self) -> str:
        return str(self.seeds) if self.seeds else "none, since every value is exact"

    @property
    def _verdict_text(self) -> str:
        held = sum(finding.holds for finding in self.findings)
        return f"{self.verdict} ({held} of {len(self.findings)} findings)"


def _check_text(**texts: Any) -> None:
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"expected {name} to be a text, received {text!r}")


def _fields_of(
    cls: type, data: Any, extra: frozenset[str] | set[str] = frozenset()
) -> dict[str, Any]:
    """The constructor's arguments out of a JSON object, which must have them all and no other."""
    names = {f.name for f in fields(cls)}
    if not isinstance(data, Mapping) or set(data) != names | extra:
        keys = sorted(data) if isinstance(data, Mapping) else data
        raise ValueError(
            f"expected the fields of {cls.__name__}, {sorted(names | extra)}, received {keys!r}"
        )
    return {name: data[name] for name in names}
