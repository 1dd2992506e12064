"""The claims ledger: read out of the notebooks when the site is built, never written by hand.

Directives for MyST pages:

- `{claims-summary}`: how many claims there are of each kind, and what became of the measured ones;
- `{article-claims}`: the original article's claims and what became of each;
- `{claims-ledger}`: every claim, chapter by chapter;
- `{claims-chapters}`: links to its chapters.

Roles for their sentences, with a claim's name as text; each links to the claim's card:

- `{claim-effect}`: its effect with the interval; `{claim-points}`: the same in points, of 100;
- `{claim-outcome}`: its outcome after the correction.

All outcomes on these pages are corrected together (`bnutils.evidence.holm`). A card can't know the
other claims, so a sentence is added to it here where the correction changes its outcome. The site
also gets `claims.json`, the ledger as data.
"""

import json
import re
import subprocess
from collections import Counter
from functools import cached_property
from pathlib import Path

import interval_bars
import yaml
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from bnutils._markup import escaped
from bnutils.evidence import CLAIM_MIME, Claim, cards, holm

logger = logging.getLogger(__name__)

NOTEBOOKS = "notebooks"
RECORDS = "src/bnutils/records"
ARTICLE = "book/article.yml"
MINUS = "\N{MINUS SIGN}"
MORE = '<details class="bn-claim-more">'  # the folded part of a card
TEXT = re.compile(r"(?<=>)[^<]+")  # between the tags of HTML
HYPHEN = re.compile(r"(?<![^\s\[(])-(?=\.?\d)")
WORDS = {  # in a sentence after their number
    "shown": "shown",
    "contrary shown": "with the contrary shown",
    "no difference": "without a difference that matters",
    "undecided": "undecided",
}
OTHER_KINDS = {
    "identity": "exact identities",
    "version": "facts about the installed version",
    "construction": "what is true by construction",
}


class Ledger:
    """The claims of a book.

    Args:
        root: the folder that holds `notebooks/` and `book/`.

    Attributes:
        claims: by name, the claim and the stem of its chapter's file, in reading order.
        outcomes: by name, the outcome after the common correction.
        troubles: what is wrong with them, in sentences; empty if nothing is.
    """

    def __init__(self, root: Path) -> None:
        """Read the notebooks, the article and the histories of the records."""
        self.root = root
        self.claims: dict[str, tuple[Claim, str]] = {}
        self.troubles: list[str] = []
        for path in sorted((root / NOTEBOOKS).glob("*.ipynb")):
            for data in _recorded(path):
                try:
                    claim = Claim.from_json(data)
                except ValueError as error:
                    self.troubles.append(f"{path.name}: {error}")
                    continue
                if claim.name in self.claims:
                    first = self.claims[claim.name][1]
                    self.troubles.append(f"claim {claim.name!r} is in {first} and in {path.stem}")
                self.claims[claim.name] = claim, path.stem
        self.outcomes = holm(claim for claim, _ in self.claims.values())
        self.commits = {name: self._commits(claim) for name, (claim, _) in self.claims.items()}
        self._check_article()

    @cached_property
    def article(self) -> list[dict]:
        """What the original article says, each with the names of the claims that test it."""
        return yaml.safe_load((self.root / ARTICLE).read_text(encoding="utf-8"))

    def _check_article(self) -> None:
        for row in self.article:
            where = f"{ARTICLE}: {row['says']!r}"
            if unknown := [name for name in row["claims"] if name not in self.claims]:
                self.troubles.append(f"{where} names {unknown}, which no chapter tests")
            if bool(row["claims"]) == bool(row.get("reason", "").strip()):
                self.troubles.append(f"{where} needs claims, or the reason for none")

    def _commits(self, claim: Claim) -> tuple[str | None, str | None]:
        """The commits at which the margin was stated and the record was made."""
        if not claim.record:
            return None, None
        try:
            histories = {name: self._history(name) for name in claim.record}
        except (OSError, ValueError, KeyError) as error:
            self.troubles.append(f"claim {claim.name!r}: {error}")
            return None, None
        # The record that holds the margin is the one that was made to judge it.
        stated = [name for name, past in histories.items() if claim.name in past["margins"]]
        if not stated:
            self.troubles.append(
                f"claim {claim.name!r}: no record of {list(claim.record)} holds its margin, so it "
                "was not stated before"
            )
            return None, None
        if histories[stated[0]]["margins"][claim.name] != claim.digest:
            self.troubles.append(
                f"claim {claim.name!r}: its margin is another than the one that the record "
                f"{stated[0]!r} was made with"
            )
        return histories[stated[0]]["commit"], self._added(stated[0])

    def _history(self, name: str) -> dict:
        from bnutils.evidence import record

        return record.provenance(record.read(self.root / RECORDS / f"{name}.nc", study=name))

    def _added(self, name: str) -> str | None:
        """The commit that brought a record as it is; None without git or its history."""

        def git(*arguments):
            command = ["git", "-C", str(self.root), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
            return done.stdout.strip()

        try:
            if git("rev-parse", "--is-shallow-repository") == "true":
                return None
            return git("log", "-1", "--format=%h", "--abbrev=12", "--", f"{RECORDS}/{name}.nc")
        except (OSError, subprocess.SubprocessError):
            return None

    def count(self, kind: str) -> Counter:
        """How many claims of a kind have each outcome, after the correction."""
        return Counter(
            self.outcomes[name] for name, (claim, _) in self.claims.items() if claim.kind == kind
        )

    def to_json(self) -> list[dict]:
        """The ledger as plain data, one entry a claim."""
        rows = []
        for name, (claim, chapter) in self.claims.items():
            primary, effect = claim.primary, claim.primary.effect
            ends = {
                end: value if abs(value := getattr(effect, end)) != float("inf") else None
                for end in ("mean", "low", "high")
            }
            margin_commit, record_commit = self.commits[name]
            rows.append(
                {
                    "name": name,
                    "claim": claim.claim,
                    "chapter": int(chapter[:2]),
                    "kind": claim.kind,
                    "outcome": self.outcomes[name],
                    "outcome_without_correction": claim.outcome,
                    "source": claim.source,
                    "primary": {
                        "label": primary.label,
                        **ends,
                        "margin": primary.margin,
                        "null": primary.null,
                        "claimed": primary.claimed,
                        "scale": effect.scale,
                        "seeds": claim.seeds,
                        "draws": claim.draws,
                    },
                    "chosen": claim.chosen,
                    "record": list(claim.record),
                    "margin_commit": margin_commit,
                    "record_commit": record_commit,
                }
            )
        return rows


def _recorded(path: Path):
    """The claims in a notebook's outputs, as they were recorded."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if CLAIM_MIME in output.get("data", {}):
                yield output["data"][CLAIM_MIME]


class _LedgerDirective(SphinxDirective):
    """Puts HTML made from the ledger where the directive stands.

    It is HTML and not MyST text, so that nothing in a claim can be taken for markup.
    """

    def run(self) -> list[nodes.Node]:
        """Render, and build this page again whenever a notebook or a record changes."""
        note_sources(self.env)
        return self.nodes(self.env.bn_ledger)


def note_sources(env) -> None:
    """Build the page that is being read again whenever a notebook or a record changes."""
    root = Path(env.srcdir)
    for path in (*(root / NOTEBOOKS).glob("*.ipynb"), *(root / RECORDS).glob("*.nc")):
        env.note_dependency(str(path))
    env.note_dependency(str(root / ARTICLE))


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


class Summary(_LedgerDirective):
    """`{claims-summary}`."""

    def nodes(self, ledger: Ledger) -> list[nodes.Node]:
        """The counts, drawn and in a paragraph."""
        text = f'{drawn(ledger)}<p class="bn-ledger-summary">{summary(ledger)}</p>'
        return [_raw(text)]


def drawn(ledger: Ledger) -> str:
    """A bar with a part for each outcome of the measured claims, as long as they are many."""
    measured = ledger.count("measured")
    parts = "".join(
        f'<b style="flex-grow:{measured[key]}" data-outcome="{_slug(key)}">{measured[key]}</b>'
        for key in WORDS
        if measured[key]
    )
    return f'<div class="bn-ledger-bar" aria-hidden="true">{parts}</div>'


def summary(ledger: Ledger) -> str:
    """How many claims there are of each kind, and what became of the measured ones."""
    measured = ledger.count("measured")
    told = [
        f'<strong data-outcome="{_slug(key)}">{measured[key]}</strong> {WORDS[key]}'
        for key in WORDS
    ]
    outcomes = _listed(told)
    text = f"This book measures <strong>{measured.total()} claims</strong>: {outcomes}."
    others = {kind: ledger.count(kind).total() for kind in OTHER_KINDS}
    if any(others.values()):
        listed = _listed([f"{OTHER_KINDS[kind]} ({n})" for kind, n in others.items() if n])
        text += f" Counted apart: {listed}."
    return text


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


class Article(_LedgerDirective):
    """`{article-claims}`."""

    def nodes(self, ledger: Ledger) -> list[nodes.Node]:
        """What the article says, and, folded, each claim that tests it with its outcome."""
        return [_raw(article(ledger))]


def article(ledger: Ledger) -> str:
    """What the article says, and what became of it."""
    rows = []
    for row in ledger.article:
        tests = [name for name in row["claims"] if name in ledger.claims]
        found = [f"{_outcome(ledger, name)}: {_link(*ledger.claims[name])}" for name in tests]
        if not found:
            found = [escaped(row.get("reason", ""))]
        counts = Counter(ledger.outcomes[name] for name in tests)
        told = _listed(
            [_counted(key, counts[key]) for key in WORDS if counts[key]] or ["Not tested"]
        )
        items = "".join(f"<li>{line}</li>" for line in found)
        note = f" {escaped(row['note'])}" if "note" in row else ""
        rows.append(
            f'<details class="bn-ledger-row"><summary>{escaped(row["says"])} '
            f"<span>{told}{note}</span></summary><ul>{items}</ul></details>"
        )
    return f'<div class="bn-ledger-article">{"".join(rows)}</div>'


def _counted(outcome: str, number: int) -> str:
    return f'<strong data-outcome="{_slug(outcome)}">{number} {outcome}</strong>'


def chapters(ledger: Ledger) -> list[str]:
    """The stems of the chapters that test claims, in reading order."""
    return list(dict.fromkeys(chapter for _, chapter in ledger.claims.values()))


class Jump(_LedgerDirective):
    """`{claims-chapters}`."""

    def nodes(self, ledger: Ledger) -> list[nodes.Node]:
        """A line of links to the chapters' claims on the same page."""
        numbers = [int(stem[:2]) for stem in chapters(ledger)]
        links = " ".join(f'<a href="#chapter-{n}">{n}</a>' for n in numbers)
        label = '<nav class="bn-ledger-jump" aria-label="Chapters">By chapter:'
        return [_raw(f"{label} <span>{links}</span></nav>")]


class Full(_LedgerDirective):
    """`{claims-ledger}`."""

    def nodes(self, ledger: Ledger) -> list[nodes.Node]:
        """A section for each chapter."""
        sections = []
        for stem in chapters(ledger):
            title = f"Chapter {int(stem[:2])}"
            section = nodes.section(ids=[title.lower().replace(" ", "-")], names=[title.lower()])
            section += nodes.title(title, title)
            names = [name for name, (_, chapter) in ledger.claims.items() if chapter == stem]
            section += _raw("\n".join(entry(ledger, name) for name in names))
            sections.append(section)
        return sections


def entry(ledger: Ledger, name: str) -> str:
    """One claim of the ledger: the outcome and the claim; all that was found is folded."""
    claim, chapter = ledger.claims[name]
    changed = correction(claim, ledger.outcomes[name])
    margin, record = ledger.commits[name]
    rows = []
    if claim.kind == "measured":
        rows.append(("without correction", claim.outcome))
    if margin:
        dirty = " and changes that were not committed" if margin.endswith("+") else ""
        rows.append(("margin stated", f"at commit {margin.rstrip('+')}{dirty}"))
    if record:
        rows.append(("record made", f"in commit {record}"))
    return with_minus(
        "\n".join(
            [
                f'<details class="bn-ledger-row bn-ledger-claim" data-kind="{claim.kind}"'
                f' data-outcome="{_slug(ledger.outcomes[name])}">',
                f"<summary>{_outcome(ledger, name)} {escaped(in_signs(claim.claim))}"
                f"{cards.kind_html(claim)}</summary>",
                interval_bars.bar(claim.primary),
                f'<p class="bn-claim-primary">{cards.finding_html(claim.primary)}.'
                f" {_link(claim, chapter, 'The card')}</p>",
                f'<p class="bn-claim-source">{cards.source_html(claim)}</p>{changed}'
                f"{cards.edges_html(claim)}",
                cards.details(claim, rows),
                "</details>",
            ]
        )
    )


def correction(claim: Claim, outcome: str) -> str:
    """A sentence, as HTML, where the common correction changes the outcome; else nothing."""
    if outcome == claim.outcome:
        return ""
    return (
        f'<p class="bn-claim-correction">Alone it is <em>{claim.outcome}</em>; corrected together '
        f"with the other measured claims of the book (Holm), <em>{outcome}</em>.</p>"
    )


def in_signs(text: str) -> str:
    """A claim with a formula in it, written in signs as on paper."""
    if "sqrt(" not in text:
        return text
    text = re.sub(r"\bpi\b", "π", text.replace("sqrt(", "√("))
    return text.replace(" - ", f" {MINUS} ")


def _link(claim: Claim, chapter: str, words: str = "") -> str:
    """A link to the claim's card. The card is HTML, whose anchors MyST does not know."""
    address = f"../{NOTEBOOKS}/{chapter}.html#{claim.anchor}"
    return f'<a href="{address}">{escaped(words or in_signs(claim.claim))}</a>'


def _outcome(ledger: Ledger, name: str) -> str:
    outcome = ledger.outcomes[name]
    return f'<strong data-outcome="{_slug(outcome)}">{outcome.capitalize()}</strong>'


def _slug(outcome: str) -> str:
    return outcome.replace(" ", "-")


class InSentence(SphinxRole):
    """A role that says something of a claim, as a link to its card.

    Args:
        words: makes the text, from the ledger and the claim's name.
    """

    def __init__(self, words) -> None:
        """Keep the maker of the text."""
        self.words = words

    def run(self):
        """The link; a name that no chapter has is a warning, and so an error."""
        ledger = self.env.bn_ledger
        if self.text not in ledger.claims:
            logger.warning("no chapter tests %r", self.text, location=self.get_location())
            return [], []
        note_sources(self.env)
        claim, chapter = ledger.claims[self.text]
        page = self.env.app.builder.get_relative_uri(self.env.docname, f"{NOTEBOOKS}/{chapter}")
        link = nodes.reference("", self.words(ledger, self.text), internal=True)
        link["refuri"] = f"{page}#{claim.anchor}"
        link["reftitle"] = claim.claim
        link["classes"].append("bn-said")
        return [link], []


def with_minus(markup: str) -> str:
    """HTML in which what stands before a negative number is a minus, not a hyphen."""
    return TEXT.sub(lambda match: HYPHEN.sub(MINUS, match[0]), markup)


def effect(ledger: Ledger, name: str) -> str:
    """The primary effect of a claim with its interval, as its card shows it."""
    return ledger.claims[name][0].primary.effect_text.replace("-", MINUS)


def points(ledger: Ledger, name: str) -> str:
    """A difference of shares, such as accuracies, in hundredths, with its interval."""
    primary = ledger.claims[name][0].primary
    digits = max(0, int(primary.spec.strip(".f")) - 2)
    mean, low, high = (
        f"{100 * getattr(primary.effect, end):.{digits}f}" for end in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]".replace("-", MINUS)


def mark_cards(app, page, template, context, doctree) -> None:
    """Put the outcome after the common correction on a card, and draw the interval.

    In a notebook a number has a hyphen, as printed ones do; here it gets its minus.
    What the correction changes is said last, before what is folded.
    """
    ledger = app.env.bn_ledger
    for name, (claim, chapter) in ledger.claims.items():
        if page != f"{NOTEBOOKS}/{chapter}":
            continue
        body = context["body"]
        start = body.index(f'id="{claim.anchor}"')
        end = body.index("</p>", start) + len("</p>")
        head, rest = body[start:end], body[end:]
        for told in (str.capitalize, _slug):
            old, new = told(claim.outcome), told(ledger.outcomes[name])
            head = head.replace(f">{old}<", f">{new}<").replace(f'"{old}"', f'"{new}"')
        effect = '<p class="bn-claim-primary">'
        rest = rest.replace(effect, interval_bars.bar(claim.primary) + effect, 1)
        card, end, rest = rest.partition("</section>")
        card = card.replace(escaped(claim.claim), escaped(in_signs(claim.claim)), 1)
        card = with_minus(card).replace(MORE, app.env.bn_marks[name] + MORE, 1)
        context["body"] = body[:start] + head + card + end + rest


def read_ledger(app) -> None:
    """Read the claims before the pages; what is wrong with them is a warning, and so an error."""
    app.env.bn_before = getattr(app.env, "bn_marks", {})
    app.env.bn_ledger = ledger = Ledger(Path(app.srcdir))
    app.env.bn_marks = {
        name: correction(claim, ledger.outcomes[name]) for name, (claim, _) in ledger.claims.items()
    }
    for trouble in app.env.bn_ledger.troubles:
        logger.warning("ledger: %s", trouble)


def pages_to_mark(app, env, added, changed, removed) -> list[str]:
    """Chapters that did not change, but whose cards say something else of the correction now."""
    return [
        f"{NOTEBOOKS}/{chapter}"
        for name, (_, chapter) in env.bn_ledger.claims.items()
        if env.bn_marks[name] != env.bn_before.get(name, "")
    ]


def write_claims(app, exception) -> None:
    """Write the ledger as data beside the pages."""
    if exception is None and app.builder.format == "html":
        text = json.dumps(app.env.bn_ledger.to_json(), ensure_ascii=False, indent=1)
        (Path(app.outdir) / "claims.json").write_text(f"{text}\n", encoding="utf-8")


def setup(app):
    """Connect the directives; Sphinx calls this."""
    app.add_directive("claims-summary", Summary)
    app.add_directive("article-claims", Article)
    app.add_directive("claims-ledger", Full)
    app.add_directive("claims-chapters", Jump)
    app.add_role("claim-effect", InSentence(effect))
    app.add_role("claim-points", InSentence(points))
    app.add_role("claim-outcome", InSentence(lambda ledger, name: ledger.outcomes[name]))
    app.connect("builder-inited", read_ledger)
    app.connect("env-get-outdated", pages_to_mark)
    app.connect("html-page-context", mark_cards)
    app.connect("build-finished", write_claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
