"""What others show of a page: search engines, and programs in which somebody shares its address.

Each page says its title and its first paragraph. Where the site's address is known (BOOK_SITE_URL,
or BOOK_REPOSITORY_URL on GitHub, whose Pages have a fixed address) it also says its own address and
that of a picture. A wrong address would be worse than none.

The page for addresses that don't exist is made here too: it must find the rest of the site from
any depth.
"""

import os
import re
from html import escape, unescape
from pathlib import Path
from urllib.parse import urlsplit

CARD = "_static/card.png"
LONGEST = 200
ARTICLE = re.compile(r"<p(?: class=\"[^\"]*\")?>(?P<text>.*?)</p>", re.DOTALL)
FIGURE = re.compile(r"<figure\b.*?</figure>|<annotation\b.*?</annotation>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")


def site_address(environment=os.environ) -> str | None:
    """Where the site will be, with a slash at the end; nothing where that is not known."""
    if site := environment.get("BOOK_SITE_URL"):
        return site.rstrip("/") + "/"
    url = urlsplit(environment.get("BOOK_REPOSITORY_URL", ""))
    if url.netloc != "github.com":
        return None
    owner, _, name = url.path.strip("/").removesuffix(".git").partition("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def description(body: str) -> str:
    """The first paragraph of a page's HTML as plain text; a long one is cut behind a word."""
    match = ARTICLE.search(FIGURE.sub("", body))
    text = " ".join(unescape(TAG.sub("", match["text"])).split()) if match else ""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST - 1].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def tags(title: str, said: str, book: str, address: str | None, picture: str | None) -> str:
    """The elements for the head of a page."""
    named = {"description": said, "twitter:card": "summary_large_image" if picture else "summary"}
    properties = {
        "og:type": "article",
        "og:site_name": book,
        "og:title": title,
        "og:description": said,
        "og:url": address,
        "og:image": picture,
        "og:image:width": "1200" if picture else None,
        "og:image:height": "630" if picture else None,
        "og:image:alt": f"{book}: four numbers before and after" if picture else None,
    }
    lines = [
        f'<meta name="{name}" content="{escape(text)}" />' for name, text in named.items() if text
    ]
    lines += [
        f'<meta property="{name}" content="{escape(text)}" />'
        for name, text in properties.items()
        if text
    ]
    return "\n    ".join(lines)


def describe(app, page, template, context, doctree):
    """Put the elements into the head of a page that has a text."""
    if doctree is None:
        return
    site = app.config.html_baseurl
    title = unescape(TAG.sub("", context["title"]))
    address = f"{site}{page}.html" if site else None
    picture = f"{site}{CARD}" if site else None
    said = description(context["body"])
    context["metatags"] += "\n    " + tags(title, said, app.config.html_title, address, picture)


def draw_card(path: Path, title: str) -> None:
    """Draw the picture of 1200 by 630 pixels: the book's title, and its four numbers."""
    import numpy as np
    from matplotlib.figure import Figure

    from bnutils import norm, plots

    ink, faint, blue = (plots.COLORS[name][0] for name in ("ink", "faint", "with"))
    before = np.array([3.0, 9.0, 11.0, 17.0])
    after = norm.standardize(before, axis=0)[0]
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=plots.GROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1200), ylim=(0, 630))
    axes.axis("off")
    words = {"family": "DejaVu Sans", "color": ink}
    axes.text(80, 545, title, size=40, weight="bold", va="center", **words)
    axes.text(
        80, 475, "What the layer does, when it helps, and when not", size=24, va="center", **words
    )
    places = 340 + (before - before.min()) * 50
    for height, values, color, name in ((310, before, ink, "before"), (130, after, blue, "after")):
        axes.plot((300, 1080), (height, height), color=faint, linewidth=3, zorder=1)
        axes.text(80, height, name, size=26, va="center", **words)
        for place, value, marker in zip(places, values, "os^D", strict=True):
            axes.plot(place, height, marker, color=color, markersize=20, zorder=2)
            text = f"{value:.0f}" if name == "before" else f"{value:.1f}".replace("-", "−")
            above = 45 if name == "before" else -45
            axes.text(place, height + above, text, size=26, ha="center", va="center", **words)
    for place in places:
        axes.plot((place, place), (290, 150), color=faint, linewidth=2, zorder=0)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def add_card(app, exception):
    """Draw the picture where pages can name it."""
    if exception is None and app.config.html_baseurl:
        draw_card(Path(app.outdir) / CARD, app.config.html_title)


def missing_page(app):
    """The page for addresses that don't exist."""
    site = app.config.html_baseurl
    yield "404", {"root": urlsplit(site).path if site else ""}, "404.html"


def set_address(app, config):
    """Sphinx names the address of each page as the one to keep, where it knows that of the site."""
    config.html_baseurl = site_address() or ""


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.connect("config-inited", set_address)
    app.connect("html-page-context", describe, priority=950)  # the text is as it will be
    app.connect("html-collect-pages", missing_page)
    app.connect("build-finished", add_card)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
