"""A claim as a card: the outcome first, then the effect, then how it was measured."""

import textwrap
from collections.abc import Sequence
from typing import Any

from bnutils._markup import escaped
from bnutils.evidence.claims import KINDS, Claim, Finding

__all__ = [
    "as_html",
    "as_text",
    "choices",
    "details",
    "edges_html",
    "finding_html",
    "kind_html",
    "source_html",
]


def as_text(claim: Claim) -> str:
    """The card as text, at most 96 characters wide."""
    lines = textwrap.wrap(
        f"{claim.outcome.capitalize()}: {claim.claim}", 96, subsequent_indent="  "
    )
    lines += textwrap.wrap(
        _sentence(claim.primary), 96, initial_indent="  ", subsequent_indent="    "
    )
    name = "said by" if _source(claim)[0] == "Said by" else "source"
    rows = [(name, f"{claim.said_by} [{claim.source}]"), *_rows(claim)]
    for name, text in rows:
        lines += textwrap.wrap(text, 96, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16)
    if claim.secondary:
        lines.append("  also found")
        for finding in claim.secondary:
            lines += textwrap.wrap(
                f"{_sentence(finding)}: {finding.outcome}",
                96,
                initial_indent="    ",
                subsequent_indent="      ",
            )
    return "\n".join(lines)


def as_html(claim: Claim) -> str:
    """The card as HTML: one column, whatever the width; the details are folded."""
    text = escaped
    kind = kind_html(claim)
    return "\n".join(
        [
            f'<section class="bn-claim" id="{claim.anchor}" aria-labelledby="{claim.anchor}-text"'
            f' data-outcome="{_slug(claim.outcome)}" data-kind="{claim.kind}">',
            f'<p class="bn-claim-outcome"><strong>{claim.outcome.capitalize()}</strong>{kind}</p>',
            f'<p class="bn-claim-text" id="{claim.anchor}-text">{text(claim.claim)}</p>',
            f'<p class="bn-claim-primary">{finding_html(claim.primary)}</p>',
            f'<p class="bn-claim-source">{source_html(claim)}</p>{edges_html(claim)}',
            details(claim),
            "</section>",
        ]
    )


def details(claim: Claim, more_rows: Sequence[tuple[str, str]] = ()) -> str:
    """The folded part of a card, as HTML: setting, seeds, further findings.

    Args:
        claim: the claim.
        more_rows: names and texts that the ledger knows and the card does not.
    """
    text = escaped
    rows = "".join(
        f"<dt>{text(name.capitalize())}</dt><dd>{text(value)}</dd>"
        for name, value in [*_rows(claim), *more_rows]
    )
    more = ""
    if claim.secondary:
        items = "".join(
            f'<li data-outcome="{_slug(finding.outcome)}">{finding_html(finding)}: '
            f"<em>{finding.outcome}</em></li>"
            for finding in claim.secondary
        )
        more = f'<p>Also found:</p><ul class="bn-claim-findings">{items}</ul>'
    return (
        '<details class="bn-claim-more"><summary>How it was measured</summary>'
        f'<dl class="bn-claim-details">{rows}</dl>{more}</details>'
    )


def edges_html(claim: Claim) -> str:
    """A warning for each setting of which many choices are the first or last of several numbers."""
    arms: dict[str, list[str]] = {}
    for arm, setting in claim.edges:
        arms.setdefault(setting.replace("_", " "), []).append(arm)
    return "".join(
        f'<p class="bn-claim-edge">For {escaped(_listed(those))}, the choice of '
        f"{escaped(setting)} was often the smallest or the largest of those tried: a wider "
        "range might hold a better one.</p>"
        for setting, those in arms.items()
    )


def finding_html(finding: Finding) -> str:
    """What was measured, how large it was, and where it was claimed to be."""
    text = escaped
    return (
        f"{text(finding.label)}: <strong>{text(finding.effect_text)}</strong>, "
        f"claimed {text(finding.claim_text)}"
    )


def kind_html(claim: Claim) -> str:
    """What kind of claim it is; empty for one that was measured."""
    if claim.kind == "measured":
        return ""
    return f' <span class="bn-claim-kind">{KINDS[claim.kind]}</span>'


def source_html(claim: Claim) -> str:
    """Who said so, as "Said by ...". The site makes the work a link to the bibliography."""
    opening, said_by = _source(claim)
    return f'{opening} <cite data-key="{escaped(claim.source)}">{escaped(said_by)}</cite>'


def _source(claim: Claim) -> tuple[str, str]:
    """How the sentence about the source begins, and the source."""
    for opening in ("after", "derived in this chapter, from"):
        if claim.said_by.startswith(f"{opening} "):
            return opening.capitalize(), claim.said_by.removeprefix(f"{opening} ")
    return "Said by", claim.said_by


def choices(claim: Claim) -> list[str]:
    """The settings chosen for each arm, such as "BN: learning rate 1 (in 90% of replicates)"."""
    return [
        f"{arm}: " + ", ".join(_choice(name, choice) for name, choice in settings.items())
        for arm, settings in claim.chosen.items()
    ]


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _choice(name: str, choice: dict[str, Any]) -> str:
    value = choice["value"] if isinstance(choice["value"], str) else f"{choice['value']:g}"
    edge = "; often the smallest or largest tried" if choice["edge"] else ""
    return f"{name.replace('_', ' ')} {value} (in {choice['share']:.0%} of replicates{edge})"


def _rows(claim: Claim) -> list[tuple[str, str]]:
    """Names and texts of the details."""
    primary, effect = claim.primary, claim.primary.effect
    rows = [("kind", KINDS[claim.kind])]
    if primary.reason:
        name, size = "margin", primary.margin_text
        if size == "none":
            name, size = "bound", primary.claim_text
        rows.append((name, f"{size}: {primary.reason}"))
    rows.append(("setting", claim.setting))
    if claim.chosen:
        rows.append(("chosen", "; ".join(choices(claim))))
    if not effect.is_exact:
        rows.append(("seeds", f"{claim.seeds}{_drawn(claim)}"))
        rows.append(("interval", f"{100 * effect.confidence:g}%, {effect.method or 'of the mean'}"))
    if claim.record:
        rows.append(("record", ", ".join(claim.record)))
    if claim.note:
        rows.append(("note", claim.note))
    return rows


def _drawn(claim: Claim) -> str:
    """What was drawn beside the seeds."""
    if claim.draws == claim.seeds:
        return ", each with its own draw of the data"
    return f", {claim.draws:,} draws or test examples" if claim.draws else ""


def _sentence(finding: Finding) -> str:
    return f"{finding.label}: {finding.effect_text}, claimed {finding.claim_text}"


def _slug(outcome: str) -> str:
    return outcome.replace(" ", "-")
