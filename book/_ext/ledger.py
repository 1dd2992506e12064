"""The claims ledger: read out of the notebooks when the site is built, never written by hand.

Directives for MyST pages:

- `{claims-summary}`: one sentence with the number of claims and of each verdict;
- `{article-claims}`: the original article's claims and what became of each;
- `{claims-ledger}`: every claim, chapter by chapter.
"""

import html
import json
from collections import Counter
from functools import cached_property
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from bnutils.evidence import CLAIM_MIME, Claim

logger = logging.getLogger(__name__)

NOTEBOOKS = "notebooks"
ARTICLE = "book/article.yml"
VERDICTS = ("holds", "holds in part", "does not hold here")


class Ledger:
    """The claims of a book.

    Args:
        root: the folder that holds `notebooks/` and `book/`.

    Attributes:
        claims: by name, the claim and the stem of its chapter's file, in reading order.
        troubles: what is wrong with them, in sentences; empty if nothing is.
    """

    def __init__(self, root: Path) -> None:
        """Read the notebooks."""
        self.root = root
        self.claims: dict[str, tuple[Claim, str]] = {}
        self.troubles: list[str] = []
        for path in sorted((root / NOTEBOOKS).glob("*.ipynb")):
            for record in _records(path):
                try:
                    claim = Claim.from_json(record)
                except ValueError as error:
                    self.troubles.append(f"{path.name}: {error}")
                    continue
                if claim.name in self.claims:
                    first = self.claims[claim.name][1]
                    self.troubles.append(f"claim {claim.name!r} is in {first} and in {path.stem}")
                self.claims[claim.name] = claim, path.stem
        for row in self.article:
            unknown = [name for name in row["claims"] if name not in self.claims]
            if unknown or not row["claims"]:
                self.troubles.append(f"{ARTICLE}: {row['says']!r} names no claim, or {unknown}")

    @cached_property
    def article(self) -> list[dict]:
        """What the original article says, each with the names of the claims that test it."""
        return yaml.safe_load((self.root / ARTICLE).read_text(encoding="utf-8"))

    def verdicts(self, names=None) -> Counter:
        """How many claims have each verdict; of all claims, or of those named."""
        return Counter(self.claims[name][0].verdict for name in names or self.claims)


def _records(path: Path):
    """The claims in a notebook's outputs, as they were recorded."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if CLAIM_MIME in output.get("data", {}):
                yield output["data"][CLAIM_MIME]


def _table(heads, rows, kind) -> str:
    """A table as MyST text; the cells may hold markup."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in [heads, ["---"] * len(heads), *cells])
    return f"```{{div}} bn-ledger bn-{kind}\n\n{lines}\n```"


def _card(claim: Claim, chapter: str) -> str:
    """A link to the claim's card. The card is HTML, whose anchors MyST does not know."""
    address = f"../{NOTEBOOKS}/{chapter}.html#{claim.anchor}"
    return f'<a href="{address}">{html.escape(claim.claim)}</a>'


def _verdict(claim: Claim) -> str:
    return f'<strong data-verdict="{claim.verdict.replace(" ", "-")}">{claim.verdict}</strong>'


class _LedgerDirective(SphinxDirective):
    """Renders MyST text made from the ledger where the directive stands."""

    def run(self) -> list[nodes.Node]:
        """Render, and build this page again whenever a notebook changes."""
        for path in sorted((Path(self.env.srcdir) / NOTEBOOKS).glob("*.ipynb")):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(self.text(self.env.bn_ledger))


class Summary(_LedgerDirective):
    """`{claims-summary}`."""

    def text(self, ledger: Ledger) -> str:
        """One sentence."""
        count = ledger.verdicts()
        holds, part, fails = (count[verdict] for verdict in VERDICTS)
        return (
            f"Of the **{count.total()} claims** measured in this book, **{holds} hold**, "
            f"**{part} hold in part**, and **{fails} do not hold** here."
        )


class Article(_LedgerDirective):
    """`{article-claims}`."""

    def text(self, ledger: Ledger) -> str:
        """A table: what the article says, and the verdict of each claim that tests it."""
        rows = []
        for row in ledger.article:
            tests = [ledger.claims[name] for name in row["claims"] if name in ledger.claims]
            lines = [f"{_verdict(claim)}: {_card(claim, chapter)}" for claim, chapter in tests]
            rows.append([row["says"], "<br>".join(lines)])
        return _table(["The article says", "Measured here"], rows, "article")


class Full(_LedgerDirective):
    """`{claims-ledger}`."""

    def text(self, ledger: Ledger) -> str:
        """A table for each chapter."""
        heads = ["Claim, and who says so", "Measured here", "Verdict", "Would have refuted it"]
        parts = []
        for stem in dict.fromkeys(chapter for _, chapter in ledger.claims.values()):
            claims = [claim for claim, chapter in ledger.claims.values() if chapter == stem]
            rows = [[_says(c, stem), _measured(c), _verdict(c), c.refuted_by] for c in claims]
            title = (
                f"### Chapter {int(stem[:2])}\n\nIn [this chapter](../{NOTEBOOKS}/{stem}.ipynb):"
            )
            parts.append(f"{title}\n\n{_table(heads, rows, 'full')}")
        return "\n\n".join(parts)


def _says(claim: Claim, chapter: str) -> str:
    source = f'<cite data-key="{claim.source}">{html.escape(claim.said_by)}</cite>'
    return f"{_card(claim, chapter)}<br>{source}"


def _measured(claim: Claim) -> str:
    lines = [html.escape(f"{finding.label}: {finding.effect_text}") for finding in claim.findings]
    seeds = f"{claim.seeds} seeds" if claim.seeds else "exact, no seeds"
    return "<br>".join([*lines, f"<em>{seeds}</em>"])


def read_ledger(app) -> None:
    """Read the claims before the pages; what is wrong with them is a warning, and so an error."""
    app.env.bn_ledger = Ledger(Path(app.srcdir))
    for trouble in app.env.bn_ledger.troubles:
        logger.warning("ledger: %s", trouble)


def setup(app):
    """Connect the directives; Sphinx calls this."""
    app.add_directive("claims-summary", Summary)
    app.add_directive("article-claims", Article)
    app.add_directive("claims-ledger", Full)
    app.connect("builder-inited", read_ledger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
