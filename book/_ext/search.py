"""The book's search: what it looks through, and the page that shows what it found.

Sphinx's own search drops words such as "why" and "it", ranks a page by how often a stem occurs in
it, and marks single letters on the page that it leads to. Here sections are looked through, with
glossary entries, claims and members of the package beside them; `book/_search/rank.js` ranks them.

Both files are classic scripts, since a page opened as a file can't fetch data. No page loads them
before its reader turns to a search field:

- `_static/search.js`: the modules of `book/_search`, joined;
- `_static/search-entries.js`: the sections and their text.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes

SOURCES = Path(__file__).resolve().parents[1] / "_search"
SCRIPT, ENTRIES = "_static/search.js", "_static/search-entries.js"
MARKER = "sphinx_highlight"
BEFORE, AFTER = "window.bnSearchEntries = ", ";\n"
CHAPTER = re.compile(r"notebooks/(\d\d)_")
GLOSSARY, CLAIMS, REFERENCE = "book/glossary", "book/claims", "book/api"
#: How much a page counts: what explains a thing stands before what lists it.
WEIGHTS = {
    "book/introduction": 1.3,
    "notebooks/": 1.2,
    "book/cheatsheet": 1.0,
    GLOSSARY: 1.0,
    CLAIMS: 0.8,
    REFERENCE: 0.6,
    "book/": 0.6,
}
SKIPPED = (nodes.raw, nodes.literal_block, nodes.math_block, nodes.image, nodes.comment)
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "epsilon": "ε", "lambda": "λ", "mu": "μ"}
GREEK |= {"delta": "δ", "eta": "η", "theta": "θ", "rho": "ρ", "sigma": "σ"}
#: Sections that every chapter has say again what others say, or ask.
ASIDES = re.compile(
    r"what-(you-ll-(learn|need)|we-saw)|evidence|exercise|further-reading|versions$|where-the-records"
)
# A field is turned to: fetch the search, once. Its own page asks for it by itself.
LOADER = """{
  const ask = (event) => {
    if (!event.target.closest?.(".bd-search")) return;
    removeEventListener("focusin", ask);
    if (document.querySelector(".bn-search-page")) return;
    for (const name of ["search-entries", "search"]) {
      const script = document.createElement("script");
      script.src = `${document.documentElement.dataset.content_root}_static/${name}.js`;
      script.async = false;
      document.head.append(script);
    }
  };
  addEventListener("focusin", ask);
}"""


class Entry(NamedTuple):
    """Something that can be found.

    Attributes:
        anchor: where on its page; empty for the page.
        title: its heading, term, claim or name.
        text: what it says.
        kind: "section", "aside", "term", "claim" or "name".
    """

    anchor: str
    title: str
    text: str
    kind: str = "section"


def plain_math(latex: str) -> str:
    """A formula in a sentence, as one reads it in a line of results."""
    greek = re.sub(r"\\(?:var)?([a-z]+)\b", lambda match: GREEK.get(match[1], match[0]), latex)
    hats = re.sub(r"\\hat\{?\s*(\w)\}?", "\\1\N{COMBINING CIRCUMFLEX ACCENT}", greek)
    words = re.sub(r"\\(?:text|mathrm|mathbf|operatorname)\{([^}]*)\}", r" \1 ", hats)
    return re.sub(r"\\[a-zA-Z]+|[\\{}$]", "", words)


def plain(node: nodes.Node) -> str:
    """What a piece of a page says, without its code, formulas of their own and drawings."""
    if isinstance(node, SKIPPED):
        return ""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, nodes.math):
        return plain_math(node.astext())
    between = "" if isinstance(node, nodes.TextElement) else " "
    return between.join(map(plain, node.children))


def tidy(text: str) -> str:
    """One space between words."""
    return " ".join(text.split())


def is_left_out(node: nodes.Node) -> bool:
    """Whether a part of a page is no text of its own: outputs, and what has its own entry."""
    if isinstance(node, nodes.section | addnodes.desc | addnodes.glossary | nodes.title):
        return True
    classes = node.get("classes", ()) if isinstance(node, nodes.Element) else ()
    return isinstance(node, nodes.citation | addnodes.index) or "cell_output" in classes


def own_text(node: nodes.Element) -> str:
    """The text of a section, without the sections inside it."""
    parts = []
    for child in node.children:
        if not is_left_out(child):
            inner = isinstance(child, nodes.container | nodes.compound)
            parts.append(own_text(child) if inner else plain(child))
    return tidy(" ".join(parts))


def sections(doctree: nodes.document) -> Iterator[Entry]:
    """Every section of a page; the first is the page."""
    for number, section in enumerate(doctree.findall(nodes.section)):
        title = tidy(plain(section[section.first_child_matching_class(nodes.title)]))
        anchor = section["ids"][0] if number else ""
        kind = "aside" if ASIDES.match(anchor) else "section"
        yield Entry(anchor, title, own_text(section), kind)


def terms(doctree: nodes.document) -> Iterator[Entry]:
    """Every entry of a glossary."""
    for glossary in doctree.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            found = list(item.findall(nodes.term))
            title = ", ".join(tidy(plain(term)) for term in found)
            meaning = tidy(plain(next(item.findall(nodes.definition))))
            yield Entry(found[0]["ids"][0], title, meaning, "term")


def works(doctree: nodes.document) -> Iterator[Entry]:
    """Every work of a bibliography."""
    for citation in doctree.findall(nodes.citation):
        text = tidy(" ".join(plain(child) for child in citation.children[1:]))
        yield Entry(citation["ids"][0], text.partition(". ")[0][:120], text)


def members(doctree: nodes.document) -> Iterator[Entry]:
    """Every function, class and method of a page of the reference, without its parameters."""
    for signature in doctree.findall(addnodes.desc_signature):
        if not signature["ids"] or "fullname" not in signature:
            continue
        content = signature.parent[-1]
        says = [child for child in content.children if isinstance(child, nodes.paragraph)]
        module = signature["module"].removeprefix("bnutils.")
        title = f"{module}.{signature['fullname']}"
        yield Entry(signature["ids"][0], title, tidy(" ".join(map(plain, says[:2]))), "name")


def claims_of(ledger: Any, chapter: str) -> Iterator[Entry]:
    """The claims whose cards stand in a chapter."""
    for name, (claim, home) in ledger.claims.items():
        if home == chapter.removeprefix("notebooks/"):
            outcome = ledger.outcomes[name].capitalize()
            text = f"{outcome}. {claim.primary.label}"
            yield Entry(claim.anchor, claim.claim, tidy(text), "claim")


def entries_of(app: Any, page: str, doctree: nodes.document) -> list[Entry]:
    """All that can be found on a page."""
    made = [*sections(doctree), *terms(doctree), *works(doctree), *members(doctree)]
    if CHAPTER.match(page):
        made += claims_of(app.env.bn_ledger, page)
    # A heading over headings, or over members that are found by name, says nothing itself.
    return [entry for entry in made if entry.title and (entry.text or not entry.anchor)]


def page_title(app: Any, page: str) -> str:
    """A page's title, with the number of a chapter."""
    title = tidy(plain(app.env.titles[page]))
    chapter = CHAPTER.match(page)
    return f"Chapter {int(chapter[1])}. {title}" if chapter else title


def weight_of(page: str) -> float:
    """How much a page counts, by the longest beginning that is known."""
    known = [start for start in WEIGHTS if page.startswith(start)]
    return WEIGHTS[max(known, key=len)] if known else 1.0


def read_page(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    """Remember what can be found on a page that is being written; no script marks words on it."""
    scripts = context.get("script_files", [])
    scripts[:] = [one for one in scripts if MARKER not in str(getattr(one, "filename", one))]
    if doctree is not None and page in app.env.found_docs:
        app.bn_search[page] = {
            "url": app.builder.get_target_uri(page),
            "title": page_title(app, page),
            "weight": weight_of(page),
            "entries": entries_of(app, page, doctree),
        }


def start(app: Any) -> None:
    """Take what an earlier build found on pages that are not written again."""
    app.builder.search = False  # Sphinx's own index and page
    app.bn_search = {}
    path = Path(app.outdir) / ENTRIES
    if path.exists():
        text = path.read_text(encoding="utf-8").removeprefix(BEFORE).removesuffix(AFTER)
        app.bn_search = json.loads(text)


def joined() -> str:
    """The modules as one classic script."""
    sources = [(SOURCES / name).read_text(encoding="utf-8") for name in ("rank.js", "dialog.js")]
    bodies = [re.sub(r"^import .*\n", "", source, flags=re.MULTILINE) for source in sources]
    script = re.sub(r"^export ", "", "\n".join(bodies), flags=re.MULTILINE)
    return f'(() => {{\n"use strict";\n{script}}})();\n'


def write(app: Any, exception: Exception | None) -> None:
    """Write both scripts."""
    if exception is not None or app.builder.format != "html":
        return
    pages = {
        page: app.bn_search[page] for page in sorted(app.bn_search) if page in app.env.found_docs
    }
    text = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
    (Path(app.outdir) / ENTRIES).write_text(f"{BEFORE}{text}{AFTER}", encoding="utf-8")
    (Path(app.outdir) / SCRIPT).write_text(joined(), encoding="utf-8")


def search_page(app: Any) -> Iterator[tuple[str, dict, str]]:
    """The page that shows what was found."""
    yield "search", {"title": "Search"}, "search.html"


def add_templates(app: Any, config: Any) -> None:
    """The page's template."""
    config.templates_path.append(str(SOURCES))


def setup(app: Any) -> dict[str, bool]:
    """Connect the hooks; Sphinx calls this."""
    app.add_css_file("search.css")
    app.add_js_file(None, body=LOADER)
    app.connect("config-inited", add_templates)
    app.connect("builder-inited", start)
    app.connect("html-page-context", read_page)
    app.connect("html-collect-pages", search_page)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
