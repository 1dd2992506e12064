"""Make one PDF of the whole book from the built site, with the system's Chromium.

`python tools/make_pdf.py [--out _build/book.pdf] [--only book/introduction ...]`

The text of the pages stands in one document in the order of _toc.yml, without the reference: it is
a hundred sheets to look things up in, which a site does better. Code that only draws a figure is
left out; solutions and how a claim was measured are open. A figure to touch is its still picture.
Chromium lays the book out twice: only after the first time are the page numbers of the contents
known.
"""

import argparse
import base64
import io
import mimetypes
import posixpath
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from chromium import NoBrowserError, chromium
from playwright.sync_api import Browser
from playwright.sync_api import Page as BrowserPage
from pypdf import PdfReader

import bnutils

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
STYLE = Path(__file__).with_name("make_pdf.css")
LEAST = 131  # the first Chromium that prints text in the margins of a page
REFERENCE_PAGES = "book/api"  # with all below it
#: Attributes that name other elements, besides `href`.
NAMING = ("for", "aria-labelledby", "aria-describedby", "aria-controls", "headers")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
SHEET = re.compile(r'<link\b(?=[^>]*\brel="stylesheet")[^>]*\bhref="([^"?]+)')
DRAWING = "The code that draws figure"
#: What has no use on paper.
IDLE = (
    "a.headerlink, script, button, input, .toctree-wrapper, .bn-live, .bn-start, .bn-repository,"
    "section:has(> .bn-chapters)"  # the contents are better here
)
#: Pieces of code in the color of text, and what wraps the words of links.
PLAIN = ".highlight :is(.n, .p, .w, .nn), code .pre, span.std"
#: What is wider than the column it stands in, in words.
WIDE = """() => [...document.querySelectorAll("article :is(pre, table, math, svg)")]
  .filter((one) => one.getClientRects().length && (one.scrollWidth > one.clientWidth + 1
    || one.getBoundingClientRect().right > document.body.getBoundingClientRect().right + 1))
  .map((one) => `${one.closest("article").dataset.page}: ${one.tagName.toLowerCase()} `
    + one.textContent.trim().slice(0, 60))"""


class PdfError(Exception):
    """What stands in the way of the PDF, in a sentence for people."""


@dataclass
class Chapter:
    """A page of the site as a part of the PDF."""

    name: str
    part: str
    article: Tag = field(repr=False)

    @property
    def key(self) -> str:
        """What the ids of the page begin with."""
        return self.name.removeprefix("book/").removeprefix("notebooks/").replace("/", "-")

    @property
    def title(self) -> str:
        """The heading, with its number."""
        return plain(self.article.h1)

    @property
    def sections(self) -> list[Tag]:
        """The sections with a heading of the second rank."""
        return [heading.find_parent("section") for heading in self.article.find_all("h2")]


def plain(tag: Tag) -> str:
    """The text of an element in one line."""
    return " ".join(tag.get_text().split())


def contents(toc: dict) -> Iterator[tuple[str, str]]:
    """The pages of a table of contents in order, each with the caption of its part."""

    def walk(entries: list[dict], part: str) -> Iterator[tuple[str, str]]:
        for entry in entries:
            yield entry["file"], part
            yield from walk(entry.get("sections", []), part)

    pages = [(toc["root"], "")]
    for part in toc["parts"]:
        pages += walk(part["chapters"], part.get("caption", ""))
    yield from (page for page in pages if not page[0].startswith(REFERENCE_PAGES))


def read(name: str, part: str) -> Chapter:
    """The text of a built page, as paper can show it."""
    path = HTML / f"{name}.html"
    if not path.exists():
        raise PdfError(f"There is no {path.relative_to(ROOT)}: run `make book` first.")
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    article = page.select_one("article.bd-article").extract()
    if letters := page.select_one("svg.bn-letters"):
        article.insert(0, letters)  # of which the drawings of the page are written
    for tag in article.select(IDLE):
        tag.decompose()
    for row in article.select("details.bn-ledger-claim"):
        for tag in row.select("svg, .bn-claim-source, .bn-claim-edge, details"):
            tag.decompose()  # all of that is on the card in its chapter
    for details in article.select("details"):
        if plain(details.summary).startswith(DRAWING):
            details.decompose()
            continue
        details.summary["class"] = "bn-bar"
        details.summary.name = "p"
        details.name = "div"
    for code in article.select(":is(h1, h2, h3, h4) code"):
        code.string = plain(code)  # else the outline has it twice
    for token in article.select(PLAIN):
        token.unwrap()  # a mark for each would be half of the file
    for image in article.select("img[src]"):
        source = path.parent / unquote(urlsplit(image["src"]).path)
        kind = mimetypes.guess_type(source.name)[0]
        data = base64.b64encode(source.read_bytes()).decode()
        image["src"] = f"data:{kind};base64,{data}"
    return Chapter(name, part, article)


def connect(chapters: list[Chapter], site: str | None) -> None:
    """Make ids unique in the book and lead links to places inside it.

    A link to a page that isn't in the PDF leads to the site where its address is known; else its
    words stay and the link goes.
    """
    keys = {chapter.name: chapter.key for chapter in chapters}
    ids = {(c.name, tag["id"]) for c in chapters for tag in c.article.select("[id]")}

    def lead(link: Tag, name: str) -> None:
        url = urlsplit(link["href"])
        if url.scheme or url.netloc:
            return
        folder = posixpath.dirname(name)
        path = posixpath.normpath(posixpath.join(folder, unquote(url.path))) if url.path else ""
        target = path.removesuffix(".html") or name
        place = unquote(url.fragment)
        if target in keys:
            known = (target, place) in ids
            link["href"] = f"#{keys[target]}--{place}" if known else f"#{keys[target]}"
        elif site:
            link["href"] = urljoin(site, f"{path}#{place}" if place else path)
        else:
            link.name = "span"
            del link["href"]

    for chapter in chapters:
        key, name, article = chapter.key, chapter.name, chapter.article
        for tag in article.find_all(True):
            if "id" in tag.attrs:
                tag["data-id"] = tag["id"]
                tag["id"] = f"{key}--{tag['id']}"
            if tag.name == "a" and "href" in tag.attrs:
                lead(tag, name)
            elif tag.get("href", "").startswith("#"):  # a letter or a mark of a drawing
                tag["href"] = f"#{key}--{tag['href'][1:]}"
            for attribute in NAMING:
                if attribute in tag.attrs:
                    named = tag[attribute]
                    named = named.split() if isinstance(named, str) else named
                    tag[attribute] = " ".join(f"{key}--{one}" for one in named)
            for attribute, value in tag.attrs.items():
                if isinstance(value, str) and "url(#" in value:
                    tag[attribute] = REFERENCE.sub(rf"url(#{key}--\1)", value)
        article["id"], article["data-page"] = key, name
        article["style"] = f"page: {page_name(key)}"


def page_name(key: str) -> str:
    """The name of the pages that a chapter is printed on, in style sheets."""
    return f"bn-{re.sub(r'[^a-z0-9]', '-', key.lower())}"


def styles(chapters: list[Chapter]) -> str:
    """The style sheets of all the pages, then that of the PDF, then the heads of the pages."""
    paths: dict[Path, None] = {}
    for chapter in chapters:
        page = HTML / f"{chapter.name}.html"
        for address in SHEET.findall(page.read_text(encoding="utf-8")):
            paths[(page.parent / unquote(address)).resolve()] = None
    sheets = [path.read_text(encoding="utf-8") for path in paths]
    ids = {tag["data-id"] for chapter in chapters for tag in chapter.article.select("[data-id]")}

    def named(match: re.Match) -> str:
        # The weight of the selector stays that of an id.
        return f":is({match[0]},[data-id={match[1]}])" if match[1] in ids else match[0]

    text = "\n".join([*sheets, STYLE.read_text(encoding="utf-8")])
    text = re.sub(r"(?<![\w&(])#([a-z][a-z-]*)(?=[ ,.>:\[{])(?![^{}]*\})", named, text)
    heads = "".join(
        f"@page {page_name(chapter.key)} {{ @top-left {{ content: {quoted(chapter.title)}; }} }}\n"
        for chapter in chapters
    )
    return text + heads


def quoted(text: str) -> str:
    """Text as a string of a style sheet."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def table_of_contents(chapters: list[Chapter]) -> str:
    """A line for each page and each section; the page numbers come later."""

    def line(target: str, words: str) -> str:
        number = f'<b data-for="{escape(target)}">000</b>'
        return f'<a href="#{escape(target)}"><span>{escape(words)}</span><i></i>{number}</a>'

    lines, part = [], ""
    for chapter in chapters:
        if chapter.part != part:
            part = chapter.part
            lines.append(f'<p class="bn-part">{escape(part)}</p>')
        inner = "".join(
            f"<li>{line(section['id'], plain(section.h2))}</li>" for section in chapter.sections
        )
        below = f"<ul>{inner}</ul>" if inner else ""
        lines.append(f"<ul><li>{line(chapter.key, chapter.title)}{below}</li></ul>")
    return f'<nav class="bn-contents"><h1>Contents</h1>{"".join(lines)}</nav>'


def title_page(config: dict, version: str, site: str | None) -> str:
    """What stands on the first sheet."""
    drawing = (HTML / "_static" / "race.svg").read_bytes()
    data = base64.b64encode(drawing).decode()
    where = f'<p><a href="{escape(site)}">{escape(site)}</a></p>' if site else ""
    return f"""<div class="bn-title">
<p class="bn-name">{escape(config["title"])}</p>
<p>{escape(config["author"])}, {escape(config["copyright"])}. Version {escape(version)}.</p>
<img alt="Test accuracy against training steps, with batch normalization and without."
 src="data:image/svg+xml;base64,{data}">
<p>A print of the book's site. Figures to touch are still pictures here, and code that only draws a
figure is left out: both are on the site and in the notebooks.</p>
<p>Text and figures under CC BY 4.0, code under MIT.</p>{where}
</div>"""


def document(chapters: list[Chapter], site: str | None) -> str:
    """The whole book as one HTML document that asks for no other file."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    connect(chapters, site)
    text = "\n".join(str(chapter.article) for chapter in chapters)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8">
<title>{escape(config["title"])}</title><style>{styles(chapters)}</style></head>
<body class="bn-pdf">{title_page(config, bnutils.__version__, site)}{table_of_contents(chapters)}
<div class="bd-main" id="main-content"><div class="bd-content"><div class="bd-article-container">
{text}
</div></div></div></body></html>"""


def numbers(pdf: bytes) -> dict[str, int]:
    """The page, from 1, of each place in a PDF that a link leads to."""
    reader = PdfReader(io.BytesIO(pdf))
    pages = {page.indirect_reference.idnum: n for n, page in enumerate(reader.pages, 1)}
    places = reader.named_destinations.items()
    return {name.lstrip("/"): pages[place.page.idnum] for name, place in places}


def fill(page: BrowserPage, places: dict[str, int]) -> None:
    """Write the page numbers into the contents."""
    page.evaluate(
        """(places) => document.querySelectorAll("[data-for]").forEach((one) => {
          one.textContent = places[one.dataset.for] ?? "";
        })""",
        places,
    )


def printed(source: Path, browser: Browser) -> tuple[bytes, list[str]]:
    """The PDF of an HTML file whose contents name their pages, and what is too wide for it."""
    page = browser.new_page(viewport={"width": 597, "height": 900})
    page.set_default_timeout(600_000)
    page.emulate_media(media="print", color_scheme="light")
    page.goto(source.as_uri(), wait_until="load")
    wide = page.evaluate(WIDE)
    places: dict[str, int] = {}
    for _ in range(3):  # the numbers could make the contents longer, once
        pdf = page.pdf(prefer_css_page_size=True, outline=True, tagged=True)
        found = numbers(pdf)
        if found == places:
            break
        places = found
        fill(page, places)
    page.close()
    return pdf, wide


def site_address() -> str | None:
    """Where the site will be, if its pages say so."""
    page = HTML / "book" / "index.html"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    said = re.search(r'<link rel="canonical" href="([^"]+)book/index\.html"', text)
    return said[1] if said else None


def make(out: Path, browser: Browser, only: list[str] | None = None) -> list[str]:
    """Write the PDF; what is too wide for its pages, in words."""
    if int(browser.version.split(".")[0]) < LEAST:
        raise PdfError(f"Chromium {LEAST} or newer makes the PDF; this is {browser.version}.")
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = [page for page in contents(toc) if not only or page[0] in only]
    chapters = [read(name, part) for name, part in pages]
    source = out.with_suffix(".html")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(document(chapters, site_address()), encoding="utf-8")
    pdf, wide = printed(source, browser)
    source.unlink()
    out.write_bytes(pdf)
    return wide


def main() -> int:
    """Make the PDF and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "book.pdf")
    parser.add_argument("--only", nargs="+", metavar="PAGE", help="as in _toc.yml")
    options = parser.parse_args()
    begun = time.monotonic()
    try:
        with chromium() as browser:
            wide = make(options.out.resolve(), browser, options.only)
    except (PdfError, NoBrowserError) as error:
        print(error, file=sys.stderr)
        return 1
    for one in wide:
        print(f"wider than the page: {one}", file=sys.stderr)
    count = len(PdfReader(options.out).pages)
    size = options.out.stat().st_size / 1e6
    print(f"PDF: {count} pages, {size:.1f} MB, {time.monotonic() - begun:.0f} s, in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
